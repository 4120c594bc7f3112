import dataclasses
import math
from collections.abc import Callable

import numpy as np
import pytest

from bench.accuracy.run import AccuracyRun
from bench.paper.claims import Claim
from bench.paper.evidence import claims_of, ratio_over_classes
from bench.paper.parts import AccuracyPart, SpeedPart
from bench.paper.record import PartRecord
from bench.run import Run

INCEPTION = PartRecord(part=SpeedPart(arch="inception_v3"), state="done")
ALEXNET = PartRecord(part=SpeedPart(arch="alexnet"), state="left-out", reason="10 minibatches would take 3.0 h")
MNIST = PartRecord(part=AccuracyPart(dataset="mnist"), state="done")
SVHN = PartRecord(part=AccuracyPart(dataset="svhn"), state="unavailable", reason="svhn is not here")

SpeedRun = Callable[..., Run]
AccuracyRuns = Callable[..., AccuracyRun]


def _claims(records: list[PartRecord], **runs: Run | AccuracyRun) -> dict[str, Claim]:
    by_key = {key.replace("__", "-"): run for key, run in runs.items()}
    return {claim.key: claim for claim in claims_of(records, by_key)}


def test_without_a_run_every_claim_is_not_measured_and_says_why() -> None:
    found = _claims([ALEXNET, INCEPTION, MNIST, SVHN])
    assert {claim.holds for claim in found.values()} == {"not measured"}
    assert [detail.subject for detail in found["tenfold"].details] == ["inception_v3", "alexnet"]
    assert found["tenfold"].details[1].falls_short == "left out for want of time"
    short = {detail.falls_short for detail in found["no-degradation"].details}
    assert short == {"no numbers", "it cannot be done here"}


def test_a_sweep_with_the_papers_speedups_has_its_claims_of_speed(make_speed_run: SpeedRun) -> None:
    run = make_speed_run({2**10: 1.03, 2**14: 1.09, 370_727: 12.75}, rounds=100)
    found = _claims([INCEPTION], speed__inception_v3=run)
    assert [found[key].holds for key in ("tenfold", "independent", "little-speedup")] == ["yes", "yes", "yes"]
    (tenfold,) = found["tenfold"].details
    assert tenfold.found is not None
    assert tenfold.found.estimate == pytest.approx(12.75, rel=0.01)
    assert tenfold.rests_on == "100 minibatches of 32, float32, cpu"
    assert tenfold.falls_short == ""
    assert len(found["little-speedup"].details) == 2


def test_a_sweep_with_other_speedups_has_them_not(make_speed_run: SpeedRun) -> None:
    run = make_speed_run({2**14: 2.0, 370_727: 3.0}, rounds=60, after_larger=1.2, status="interrupted")
    found = _claims([INCEPTION], speed__inception_v3=run)
    assert [found[key].holds for key in ("tenfold", "independent", "little-speedup")] == ["no", "no", "no"]
    assert found["tenfold"].details[0].falls_short == "60 of the paper's 100 minibatches; the run is interrupted"


def test_a_control_that_is_off_forbids_to_call_the_cost_independent(make_speed_run: SpeedRun) -> None:
    run = make_speed_run({2**14: 1.0}, rounds=100, second_slot=1.2)
    assert _claims([INCEPTION], speed__inception_v3=run)["independent"].holds == "no"


def test_too_few_passes_decide_nothing(make_speed_run: SpeedRun) -> None:
    run = make_speed_run({2**14: 1.05, 370_727: 12.0}, rounds=1)
    found = _claims([INCEPTION], speed__inception_v3=run)
    assert {claim.holds for claim in found.values() if claim.key in ("tenfold", "independent")} == {"undecided"}
    assert found["independent"].details[0].falls_short.startswith("too few passes")


def test_a_grid_that_ends_below_400_000_classes_says_nothing_of_the_tenfold(make_speed_run: SpeedRun) -> None:
    found = _claims([INCEPTION], speed__inception_v3=make_speed_run({2**18: 30.0}))
    assert found["tenfold"].holds == "not measured"


BETTER = {"ce": (0.02, 0.03, 0.025), "batch-ce": (0.004, 0.006, 0.005), "self-norm": (0.004, 0.006, 0.005)}
ALL = {"ce": (0.005, 0.0055, 0.0052), "batch-ce": (0.004, 0.006, 0.005), "self-norm": (0.004, 0.006, 0.005)}


def test_improvements_and_parity_from_errors_by_hand(make_accuracy_run: AccuracyRuns) -> None:
    run = make_accuracy_run(BETTER, ALL)
    found = _claims([MNIST], accuracy__mnist=run)
    improvement = found["improvement"]
    assert improvement.holds == "yes"
    assert [detail.quantity for detail in improvement.details] == [
        "improvement of 1-AUPRC",
        "improvement of 1-Precision@0.9",
        "improvement of 1-Precision@0.99",
    ]
    for detail in improvement.details:
        assert detail.found is not None
        assert detail.found.estimate == pytest.approx(1 - 0.005 / 0.025)
        assert detail.falls_short == ""
    assert found["no-degradation"].holds == "yes"
    assert [detail.subject for detail in found["no-degradation"].details] == ["mnist, batch-ce", "mnist, self-norm"]


def test_losses_that_are_no_better_and_worse_than_all_logits(make_accuracy_run: AccuracyRuns) -> None:
    equal = dict.fromkeys(("ce", "batch-ce", "self-norm"), (0.02, 0.021, 0.019))
    run = make_accuracy_run(equal, ALL, steps=4_000, rates=(0.1, 0.01))
    found = _claims([MNIST], accuracy__mnist=run)
    assert found["improvement"].holds == "no"
    assert found["no-degradation"].holds == "no"
    short = found["improvement"].details[0].falls_short
    assert short == "4,000 of the paper's 100,000 steps; 2 of its 4 learning rates"


def test_an_uncertain_difference_is_undecided(make_accuracy_run: AccuracyRuns) -> None:
    run = make_accuracy_run(BETTER, ALL, pull=0.01)
    found = _claims([MNIST], accuracy__mnist=run)
    assert found["improvement"].details[0].holds == "undecided"
    assert found["no-degradation"].holds == "undecided"


def test_without_ce_there_is_nothing_to_compare_with(make_accuracy_run: AccuracyRuns) -> None:
    run = make_accuracy_run(BETTER, ALL, untested=("ce",))
    found = _claims([MNIST], accuracy__mnist=run)
    assert found["no-degradation"].holds == "not measured"
    assert "CE has no tested model" in found["no-degradation"].details[0].falls_short
    assert "only one of the two kinds" in found["improvement"].details[0].falls_short
    assert "without ce" in found["improvement"].details[0].falls_short


def test_losses_without_errors_have_no_interval_and_decide_nothing(make_accuracy_run: AccuracyRuns) -> None:
    perfect = {**BETTER, "batch-ce": (0.0, 0.0, 0.0), "self-norm": (0.0, 0.0, 0.0)}
    found = _claims([MNIST], accuracy__mnist=make_accuracy_run(perfect, ALL))
    assert {detail.holds for detail in found["improvement"].details} == {"undecided"}
    assert all(detail.found is None and detail.falls_short for detail in found["improvement"].details)


def test_seeds_are_averaged(make_accuracy_run: AccuracyRuns) -> None:
    found = _claims([MNIST], accuracy__mnist=make_accuracy_run(BETTER, ALL, seeds=(0, 1, 2)))
    detail = found["improvement"].details[1]
    assert detail.found is not None
    assert detail.found.estimate == pytest.approx(0.8)
    assert "3 seeds" in detail.rests_on


def test_losses_beyond_the_papers_seven_change_no_claim(make_accuracy_run: AccuracyRuns) -> None:
    """Eleven losses: the other aligned one is far worse than all logits, the other unaligned ones have no model."""
    others = {"sigmoid-tanimoto": (0.9, 0.9, 0.9), "softmax-tanimoto": (0.9, 0.9, 0.9)}
    aligned = ("batch-ce", "self-norm", "sigmoid-tanimoto")
    seven = _claims([MNIST], accuracy__mnist=make_accuracy_run(BETTER, ALL))
    eleven = _claims(
        [MNIST],
        accuracy__mnist=make_accuracy_run(
            {**BETTER, **others}, {**ALL, **others}, aligned=aligned, untested=("softmax-tanimoto",)
        ),
    )
    for key in ("improvement", "no-degradation"):
        assert eleven[key] == seven[key]


def test_class_counts_beyond_the_parts_change_no_claim(make_speed_run: SpeedRun) -> None:
    run = make_speed_run({2**10: 1.0, 2**12: 1.5, 2**14: 1.05, 370_727: 12.0, 400_000: 30.0}, rounds=60)
    found = _claims([INCEPTION], speed__inception_v3=run)
    assert [detail.quantity for detail in found["tenfold"].details] == ["speedup at 370,727 classes"]
    assert [detail.quantity for detail in found["little-speedup"].details] == [
        "speedup at 1,024 classes",
        "speedup at 16,384 classes",
    ]
    assert found["little-speedup"].holds == "yes"


def test_rates_that_the_paper_did_not_try_stand_for_none_of_its_own(make_accuracy_run: AccuracyRuns) -> None:
    run = make_accuracy_run(BETTER, ALL, rates=(0.1, 0.01, 0.03, 0.003))
    details = _claims([MNIST], accuracy__mnist=run)["improvement"].details
    assert details[0].falls_short == "2 of its 4 learning rates"


def test_a_loss_with_fewer_seeds_says_so(make_accuracy_run: AccuracyRuns) -> None:
    run = make_accuracy_run(BETTER, ALL, seeds=(0, 1, 2))
    left = tuple(each for each in run.evaluations if (each.member.loss, each.member.seed) != ("batch-ce", 2))
    found = _claims([MNIST], accuracy__mnist=dataclasses.replace(run, evaluations=left))
    assert {detail.falls_short for detail in found["improvement"].details} == {"batch-ce on 2 of 3 seeds"}


def test_equal_shares_in_every_class_have_a_ratio_without_spread() -> None:
    errors = np.array([[0.1, 0.2, 0.3]])
    ratio = ratio_over_classes(errors / 2, errors)
    assert ratio == pytest.approx((0.5, 0.5, 0.5))


def test_the_ratio_over_classes_by_hand() -> None:
    # pulls: (0.5, 1.5)/1 - (1, 1)/1 = (-0.5, 0.5); error sqrt(0.5)/sqrt(2) = 0.5; t(0.975, 1) = 12.706
    found = ratio_over_classes(np.array([[0.5, 1.5]]), np.array([[1.0, 1.0]]))
    assert found is not None
    assert found[0] == pytest.approx(1.0)
    assert math.log(found[2]) == pytest.approx(12.7062 * 0.5, rel=1e-4)
    assert found[1] * found[2] == pytest.approx(1.0)


def test_seeds_that_lie_apart_widen_the_interval_over_classes_by_hand() -> None:
    # alike in every class, so only seeds tell: pulls of the two seeds are -0.5 and 0.5, as above
    found = ratio_over_classes(np.array([[0.5, 0.5], [1.5, 1.5]]), np.ones((2, 2)))
    assert found is not None
    assert found[0] == pytest.approx(1.0)
    assert math.log(found[2]) == pytest.approx(12.7062 * 0.5, rel=1e-4)
    # both at once: squares add up
    found = ratio_over_classes(np.array([[0.0, 1.0], [1.0, 2.0]]), np.ones((2, 2)))
    assert found is not None
    assert math.log(found[2]) == pytest.approx(12.7062 * 0.5 * math.sqrt(2), rel=1e-4)


def test_the_interval_over_classes_covers() -> None:
    draws = np.random.default_rng(0)
    hits = 0
    for _ in range(1000):
        theirs = draws.lognormal(0, 0.3, 30)
        ours = 0.5 * theirs * draws.lognormal(0, 0.2, 30)
        found = ratio_over_classes(ours[None], theirs[None])
        assert found is not None
        hits += found[1] <= 0.5 * math.exp(0.02) <= found[2]
    assert 0.92 <= hits / 1000 <= 0.98


@pytest.mark.parametrize("ours", [np.zeros((1, 3)), np.array([[0.1]])])
def test_no_ratio_of_nothing(ours: np.ndarray) -> None:
    assert ratio_over_classes(ours, np.ones_like(ours)) is None
