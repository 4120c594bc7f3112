import pytest

from bench.accuracy.settings import PAPER_LOSSES
from reports import published
from reports.accuracy import wording


def test_table_1_has_seven_losses_but_for_imagenet() -> None:
    sizes = {name: len(published.published_losses(name)) for name in published.DATASETS.values()}
    assert sizes == {"mnist": 7, "svhn": 7, "cifar10": 7, "cifar100": 7, "imagenet": 2}


def test_numbers_are_the_papers() -> None:
    ce = published.published_losses("cifar10")["CE"]
    assert ce.measures == {
        "one_minus_auprc": 0.109,
        "one_minus_precision_at_90": 0.326,
        "one_minus_precision_at_99": 0.703,
    }
    assert not ce.aligned
    batch = published.published_methods("imagenet")["batch CE"]
    assert batch.measures["one_minus_auprc"] == 0.245
    assert "Mean PoLS methods" not in published.published_methods("imagenet")


def test_all_data_sets_of_the_paper_have_a_written_name() -> None:
    assert set(published.DATASETS.values()) <= set(wording.DATASETS)


def test_measures_of_the_paper_are_those_of_the_tables() -> None:
    assert list(published.MEASURES) == list(wording.MEASURES)
    assert len(PAPER_LOSSES) == len(published.published_losses("mnist"))


@pytest.mark.parametrize("dataset", ["mnist", "svhn", "cifar10", "cifar100"])
@pytest.mark.parametrize("measure", list(published.MEASURES))
def test_published_improvement_follows_from_published_cells(dataset: str, measure: str) -> None:
    losses = published.published_losses(dataset).values()
    aligned = [each.measures[measure] for each in losses if each.aligned]
    others = [each.measures[measure] for each in losses if not each.aligned]
    # Every cell is printed to 0.001, so that each mean is known to 0.0005.
    aligned_mean, others_mean = sum(aligned) / len(aligned), sum(others) / len(others)
    low = 1 - (aligned_mean + 5e-4) / (others_mean - 5e-4)
    high = 1 - (aligned_mean - 5e-4) / (others_mean + 5e-4)
    assert low - 5e-4 <= published.table1_improvement()[dataset][measure] <= high + 5e-4


@pytest.mark.parametrize("dataset", ["mnist", "svhn", "cifar10", "cifar100", "imagenet"])
def test_batch_ce_of_table_2_is_that_of_table_1(dataset: str) -> None:
    again = published.published_methods(dataset)["batch CE"]
    assert again.measures == published.published_losses(dataset)["batch CE"].measures


def test_a_data_set_the_paper_does_not_know_has_no_lines() -> None:
    assert published.published_losses("omniglot") == {}
    assert published.published_methods("omniglot") == {}
