"""The queries' measure: against scikit-learn, by hand, and against the plain way over all logits."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score
from torch import nn

from bench.accuracy import networks
from bench.accuracy.data import synthetic
from bench.accuracy.metrics import log_odds
from bench.scaling import queries
from bench.scaling.queries import average_precision, measure_of, of_model, of_optimum

CPU = torch.device("cpu")
POSITIVES, NEGATIVES = 4, 60
COUNTS = (5, 40, 300)

#: Few different values, so that many tie.
SCORES = st.integers(-3, 3).map(float)


@given(st.lists(SCORES, min_size=1, max_size=12), st.lists(SCORES, min_size=1, max_size=40))
@settings(max_examples=200, deadline=None)
def test_average_precision_is_scikit_learns_ties_included(own: list[float], others: list[float]) -> None:
    expected = average_precision_score([1] * len(own) + [0] * len(others), own + others)
    assert average_precision(np.array(own), np.array(others)) == pytest.approx(expected, abs=1e-12)


def test_average_precision_by_hand() -> None:
    assert average_precision(np.array([3.0, 1.0]), np.array([2.0, 0.0])) == pytest.approx((1 + 2 / 3) / 2)
    assert average_precision(np.array([1.0]), np.array([1.0, 1.0, 0.0])) == pytest.approx(1 / 3)
    assert average_precision(np.array([2.0, 1.0]), np.array([0.0])) == 1


def test_scores_that_are_no_numbers_are_refused() -> None:
    for own, others in (([np.nan], [0.0]), ([0.0], [np.nan]), ([], [0.0])):
        with pytest.raises(ValueError, match="scores that are numbers"):
            average_precision(np.array(own), np.array(others))


def dataset_of(classes: int, zipf: float = 0.0) -> synthetic.SyntheticDataset:
    return synthetic.load(f"synthetic:{classes},zipf={zipf:g},d=8,examples=64")


def network_of(classes: int) -> tuple[nn.Module, str]:
    network = networks.build("mlp", (8,), classes, seed=1)
    network(torch.randn(64, 8))  # running statistics that are not the first
    return network.eval(), networks.outline("mlp", (8,)).path


@pytest.mark.parametrize("zipf", [0.0, 1.0])
@pytest.mark.parametrize("classes", COUNTS)
def test_every_query_has_as_many_examples_at_every_class_count(classes: int, zipf: float) -> None:
    asked = dataset_of(classes, zipf).queries(30, POSITIVES, NEGATIVES)
    assert len(asked.classes) == min(classes, 30)
    for query, own in enumerate(asked.classes.tolist()):
        labels = asked.split.labels
        assert labels[asked.positives_of(query)].tolist() == [own] * POSITIVES
        negatives = labels[asked.negatives_of(query)]
        assert len(negatives) == NEGATIVES
        assert own not in negatives.tolist()


@pytest.mark.parametrize("at_once", [1, 2**21])
def test_a_model_is_measured_as_all_its_logits_would_be(monkeypatch: pytest.MonkeyPatch, at_once: int) -> None:
    monkeypatch.setattr(queries, "AT_ONCE", at_once)
    asked = dataset_of(40).queries(30, POSITIVES, NEGATIVES)
    network, top = network_of(40)
    found = of_model(network, top, asked, CPU)
    with torch.no_grad():
        logits = network(asked.split.images(torch.arange(len(asked.split)))).double().numpy()
    odds = log_odds(logits)
    assert found.classes.tolist() == asked.classes.tolist()
    for query, own in enumerate(asked.classes.tolist()):
        rows = torch.cat((asked.positives_of(query), asked.negatives_of(query))).numpy()
        labels = np.repeat([1, 0], [POSITIVES, NEGATIVES])
        for scores, errors in ((logits, found.single), (odds, found.all)):
            expected = 1 - average_precision_score(labels, scores[rows, own])
            assert errors[query] == pytest.approx(expected, abs=1e-9)


def test_the_optimum_is_the_posterior_by_all_classes() -> None:
    dataset = dataset_of(40, zipf=1.0)
    asked = dataset.queries(30, POSITIVES, NEGATIVES)
    found = of_optimum(dataset, asked, CPU)
    assert found.single is found.all
    features = asked.split.images(torch.arange(len(asked.split)))
    joint = dataset.mixture.log_joint(features, torch.arange(40)).numpy()
    odds = log_odds(joint)
    for query, own in enumerate(asked.classes.tolist()):
        positives, negatives = (
            odds[rows.numpy(), own] for rows in (asked.positives_of(query), asked.negatives_of(query))
        )
        assert found.single[query] == pytest.approx(1 - average_precision(positives, negatives), abs=1e-12)


def test_no_model_is_better_than_the_optimum() -> None:
    dataset = dataset_of(40)
    asked = dataset.queries(40, 20, 500)
    network, top = network_of(40)
    model, optimum = of_model(network, top, asked, CPU), of_optimum(dataset, asked, CPU)
    assert optimum.single.mean() < min(model.single.mean(), model.all.mean())


def test_a_logit_that_is_not_finite_is_refused() -> None:
    network, top = network_of(5)
    with torch.no_grad():
        network.get_submodule(top).bias[2] = torch.inf  # type: ignore[index]
    with pytest.raises(ValueError, match="not finite"):
        of_model(network, top, dataset_of(5).queries(5, POSITIVES, NEGATIVES), CPU)


def test_mean_and_standard_error() -> None:
    found = measure_of(np.array([0.0, 0.5, 1.0]))
    assert (found.error, found.standard_error) == (0.5, pytest.approx(0.5 / np.sqrt(3)))
    assert measure_of(np.array([0.25])).standard_error is None


@pytest.mark.gpu
def test_a_gpu_measures_the_same() -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    dataset = dataset_of(300)
    asked = dataset.queries(50, POSITIVES, NEGATIVES)
    network, top = network_of(300)
    here = of_model(network, top, asked, CPU), of_optimum(dataset, asked, CPU)
    device = torch.device("cuda")
    there = of_model(network.to(device), top, asked, device), of_optimum(dataset, asked, device)
    for ours, theirs in zip(here, there, strict=True):
        assert theirs.single.mean() == pytest.approx(ours.single.mean(), abs=1e-3)
        assert theirs.all.mean() == pytest.approx(ours.all.mean(), abs=1e-3)
