import csv
import importlib.resources
from collections.abc import Callable
from typing import Any

import pytest

from bench.accuracy.losses import find
from bench.accuracy.rows import (
    MEASURES,
    Spread,
    chosen_trainings,
    improvement,
    improvements,
    table1,
    table2,
)
from bench.accuracy.settings import PAPER_LOSSES

Make = Callable[..., Any]

PRINTED = {
    "one_minus_auprc": "1-auprc",
    "one_minus_precision_at_90": "1-precision@0.9",
    "one_minus_precision_at_99": "1-precision@0.99",
}


def published(name: str) -> list[dict[str, str]]:
    text = (importlib.resources.files("reports") / name).read_text(encoding="utf-8")
    return list(csv.DictReader(text.splitlines()))


def test_a_mean_and_its_spread() -> None:
    assert Spread.of([1.0, 2.0, 3.0]) == Spread(2.0, 1.0, (1.0, 2.0, 3.0))
    assert Spread.of(iter([0.5])) == Spread(0.5, None, (0.5,))
    with pytest.raises(ValueError, match="nothing"):
        Spread.of([])


def test_a_row_a_loss_unaligned_first(
    make_grid_manifest: Make, make_member: Make, make_training: Make, make_evaluation: Make, make_run: Make
) -> None:
    manifest = make_grid_manifest(["batch-ce", "ce"], [0.1], [3, 7])
    models = [make_member(loss, seed=seed) for loss in ("batch-ce", "ce") for seed in (7, 3)]
    evaluations = [
        make_evaluation(model, single=(0.01 * model.seed, 0.1, 0.2), holds=model.loss == "batch-ce" and model.seed == 7)
        for model in models
    ]
    ce, batch_ce = table1(make_run(manifest, map(make_training, models), evaluations))
    assert (ce.loss, ce.name, ce.aligned, ce.status, ce.reason) == ("ce", "CE", False, "ok", "")
    assert (batch_ce.loss, batch_ce.aligned, batch_ce.dataset) == ("batch-ce", True, "digits")
    assert batch_ce.seeds == (3, 7), "ascending, whichever ended first"
    assert batch_ce.learning_rate == (0.1, 0.1)
    assert list(batch_ce.measures) == list(MEASURES)
    assert batch_ce.measures["one_minus_auprc"].values == pytest.approx((0.03, 0.07))
    assert batch_ce.measures["one_minus_auprc"].mean == pytest.approx(0.05)
    assert batch_ce.all_measures["one_minus_precision_at_99"].mean == pytest.approx(0.1)
    assert batch_ce.accuracy == Spread(0.95, 0.0, (0.95, 0.95))
    assert (batch_ce.separation_train_holds, ce.separation_train_holds) == (1, 0)


def test_each_loss_is_compared_with_ce_and_with_itself_over_the_seeds_both_have(
    make_grid_manifest: Make, make_member: Make, make_evaluation: Make, make_run: Make
) -> None:
    evaluations = [
        make_evaluation(make_member("ce", seed=0), every=(0.01, 0, 0)),
        make_evaluation(make_member("batch-ce", seed=0), single=(0.02, 0, 0), every=(0.005, 0, 0)),
        make_evaluation(make_member("batch-ce", seed=1), single=(0.90, 0, 0), every=(0.45, 0, 0)),
    ]
    ce, batch_ce = table1(make_run(make_grid_manifest(seeds=[0, 1]), (), evaluations))
    assert batch_ce.parity_with_ce.ratio == pytest.approx(0.02 / 0.01), "seed 1 of CE is missing"
    assert batch_ce.parity_with_own.ratio == pytest.approx(0.92 / 0.455)
    assert ce.parity_with_ce == ce.parity_with_own
    (alone,) = table1(make_run(make_grid_manifest(["batch-ce"]), (), evaluations[1:2]))
    assert alone.parity_with_ce is None
    assert alone.parity_with_own is not None


def _status(make_run: Make, manifest: Any, trainings: Any, evaluations: Any = ()) -> tuple[str, str]:
    (row,) = table1(make_run(manifest, trainings, evaluations))
    if row.status != "ok":
        assert (row.measures, row.all_measures, row.accuracy) == ({}, {}, None)
        assert (row.parity_with_ce, row.parity_with_own, row.seeds) == (None, None, ())
    return row.status, row.reason


def test_a_loss_without_a_result_is_a_row_with_the_reason(
    make_grid_manifest: Make, make_member: Make, make_training: Make, make_run: Make
) -> None:
    manifest = make_grid_manifest(["ce"])
    high, low = make_member(learning_rate=0.1), make_member(learning_rate=0.01)
    diverged = make_training(high, status="diverged")
    assert _status(make_run, manifest, []) == ("missing", "0 of 2 trainings ended, no model was tested")
    assert _status(make_run, manifest, [make_training(high), make_training(low)]) == (
        "missing", "2 of 2 trainings ended, no model was tested",
    )  # fmt: skip
    status, reason = _status(make_run, manifest, [diverged])
    assert (status, reason) == (
        "missing", "1 of 2 trainings ended, no model was tested (ce-lr0.1-seed0: it diverged)",
    )  # fmt: skip
    both = [diverged, make_training(low, status="diverged")]
    assert _status(make_run, manifest, both) == (
        "diverged", "ce-lr0.1-seed0: it diverged; ce-lr0.01-seed0: it diverged",
    )  # fmt: skip
    mixed = [diverged, make_training(low, status="failed")]
    assert _status(make_run, manifest, mixed)[0] == "failed"


def test_a_loss_that_lacks_a_seed_says_which_training_was_lost(
    make_grid_manifest: Make, make_member: Make, make_training: Make, make_evaluation: Make, make_run: Make
) -> None:
    manifest = make_grid_manifest(["ce"], [0.1], [0, 1])
    trainings = [make_training(make_member()), make_training(make_member(seed=1), status="failed")]
    found = _status(make_run, manifest, trainings, [make_evaluation(make_member())])
    assert found == ("ok", "1 of 2 seeds (ce-lr0.1-seed1: it failed)")


def test_one_rate_that_diverged_takes_nothing_from_its_loss(
    make_grid_manifest: Make, make_member: Make, make_training: Make, make_evaluation: Make, make_run: Make
) -> None:
    trainings = [make_training(make_member(), status="diverged"), make_training(make_member(learning_rate=0.01))]
    run = make_run(make_grid_manifest(["ce"]), trainings, [make_evaluation(make_member(learning_rate=0.01))])
    (row,) = table1(run)
    assert (row.status, row.reason, row.learning_rate) == ("ok", "", (0.01,))
    assert chosen_trainings(run) == {"ce-lr0.01-seed0": trainings[1]}


def _paper_run(dataset: str, make_grid_manifest: Make, make_member: Make, make_evaluation: Make, make_run: Make) -> Any:
    """A run that measured what the paper prints."""
    evaluations = [
        make_evaluation(make_member(find(line["loss"]).key), single=[float(line[cell]) for cell in PRINTED.values()])
        for line in published("published_table1.csv")
        if line["dataset"] == dataset
    ]
    return make_run(make_grid_manifest(PAPER_LOSSES), (), evaluations)


@pytest.mark.parametrize("printed", published("published_table1_improvement.csv"), ids=lambda line: line["dataset"])
def test_the_papers_cells_give_the_papers_improvement(
    printed: dict[str, str], make_grid_manifest: Make, make_member: Make, make_evaluation: Make, make_run: Make
) -> None:
    """Within what rounding the cells to three decimals, and the improvement to a tenth of a percent, can hide."""
    run = _paper_run(printed["dataset"], make_grid_manifest, make_member, make_evaluation, make_run)
    rows = table1(run)
    found = improvement(rows, PAPER_LOSSES)
    for measure, cell in PRINTED.items():
        means = [
            sum(row.measures[measure].mean for row in rows if row.aligned is aligned) / (5 if aligned else 2)
            for aligned in (False, True)
        ]
        least, most = (1 - (means[1] + off) / (means[0] - off) for off in (0.0005, -0.0005))
        share = found[measure]
        assert share == pytest.approx(1 - means[1] / means[0])
        assert least - 0.0005 <= float(printed[f"{cell} %"]) / 100 <= most + 0.0005
        assert least < share < most


def test_improvement_needs_both_sides_and_errors_to_improve_on(
    make_grid_manifest: Make, make_member: Make, make_evaluation: Make, make_run: Make
) -> None:
    manifest = make_grid_manifest(["ce", "batch-ce", "sigmoid-tanimoto"])
    ce = make_evaluation(make_member("ce"), single=(0.04, 0.0, 0.5))
    batch_ce = make_evaluation(make_member("batch-ce"), single=(0.01, 0.0, 0.6))
    tanimoto = make_evaluation(make_member("sigmoid-tanimoto"), single=(0.02, 0.0, 0.2))
    rows = table1(make_run(manifest, (), [ce, batch_ce, tanimoto]))
    found = improvements(rows)
    assert found["paper"]["one_minus_auprc"] == pytest.approx(0.75)
    assert found["all"]["one_minus_auprc"] == pytest.approx(1 - 0.015 / 0.04)
    assert found["paper"]["one_minus_precision_at_90"] is None, "CE makes no error there"
    assert found["paper"]["one_minus_precision_at_99"] == pytest.approx(-0.2)
    unaligned_alone = improvements(table1(make_run(make_grid_manifest(), (), [ce])))
    assert unaligned_alone == {"paper": dict.fromkeys(MEASURES)}


def test_table_2_has_single_logits_above_all_logits(
    make_grid_manifest: Make, make_member: Make, make_evaluation: Make, make_run: Make
) -> None:
    manifest = make_grid_manifest(["sigmoid-tanimoto", "self-norm", "batch-ce", "max-margin", "ce"], [0.1], [0, 1])
    errors = {"self-norm": 0.02, "batch-ce": 0.04, "sigmoid-tanimoto": 0.09, "ce": 0.1, "max-margin": 0.2}
    evaluations = [
        make_evaluation(
            make_member(loss, seed=seed), single=(error * (1 + seed), 0.1, 0.1), every=(error / 10, 0.0, 0.0)
        )
        for loss, error in errors.items()
        for seed in (0, 1)
    ]
    rows = table2(make_run(manifest, (), evaluations))
    assert [(row.name, row.single) for row in rows] == [
        ("Mean PoLS methods", True),
        ("Mean PoLS methods, all 3", True),
        ("batch CE", True),
        ("CE with all logits", False),
        ("max-margin with all logits", False),
        ("Sigmoid Tanimoto loss with all logits", False),
        ("self-norm with all logits", False),
        ("batch CE with all logits", False),
    ]
    assert rows[0].measures["one_minus_auprc"].values == pytest.approx((0.03, 0.06)), "seed by seed"
    assert rows[1].measures["one_minus_auprc"].values == pytest.approx((0.05, 0.1))
    assert rows[3].measures["one_minus_auprc"].mean == pytest.approx(0.01)


def test_a_mean_over_losses_of_different_seeds_has_no_spread(
    make_grid_manifest: Make, make_member: Make, make_evaluation: Make, make_run: Make
) -> None:
    evaluations = [
        make_evaluation(make_member("self-norm", seed=0), single=(0.02, 0, 0)),
        make_evaluation(make_member("self-norm", seed=1), single=(0.04, 0, 0)),
        make_evaluation(make_member("batch-ce", seed=0), single=(0.05, 0, 0)),
    ]
    run = make_run(make_grid_manifest(["self-norm", "batch-ce"], [0.1], [0, 1]), (), evaluations)
    mean = table2(run)[0].measures["one_minus_auprc"]
    assert (mean.mean, mean.std) == (pytest.approx(0.04), None)
    assert table2(make_run(make_grid_manifest())) == []
