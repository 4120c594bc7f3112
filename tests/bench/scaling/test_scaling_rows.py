import math
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from bench.accuracy.records import Training
from bench.accuracy.settings import LossSetting, Member, Recipe
from bench.errors import UsageError
from bench.machine.fingerprint import Machine
from bench.run import Manifest, Point, Process, Run, Sample
from bench.scaling.answers import answers
from bench.scaling.convergence import of_queries
from bench.scaling.records import (
    CountSetting,
    Optimum,
    QueryMeasure,
    QuerySetting,
    StepCost,
    StudyManifest,
    StudyPoint,
    StudyTraining,
)
from bench.scaling.row_notices import by_count, notices
from bench.scaling.rows import Estimate, ScalingRow, optima_reached, rows, speed_reached
from bench.scaling.run import QueryErrors, StudyRun, optimum_name
from bench.speed.settings import Protocol, Setting

LOSSES = {"ce": ("CE", False), "self-norm": ("self-norm", True), "binary-ce": ("binary CE", True)}
MACHINE = Machine(os="Linux", cpu="CPU", cores_physical=2, cores_logical=2, cores_usable=2, memory_bytes=16 << 30)
#: 97.5 % quantile of Student's t with one degree of freedom, from printed tables.
T_1 = 12.706

#: A query's error is its model's, times one of these: the same of all models, so that chance cancels in a ratio.
HARDNESS = np.array([0.5, 0.8, 1.2, 1.5])


def study(errors, *, seeds=(0,), left_out=(), optimum=0.01, half=1.0, **fields) -> StudyRun:
    """`errors`: (classes, loss) -> by one logit, by all; `half`: times these at half of the steps."""
    losses = tuple(dict.fromkeys(loss for _, loss in errors))
    counts = sorted({classes for classes, _ in errors})
    points, queries = [], {}
    for (classes, loss), pair in errors.items():
        for stage, seed in (("search", seeds[0]), *(("full", seed) for seed in seeds)):
            point = model(classes, loss, stage, seed)
            points.append(point)
            times = half if isinstance(half, float) else half.get((classes, loss), 1.0)
            scale = times if stage == "search" else 1.0
            queries[point.name] = QueryErrors(np.arange(4), *(scale * error * HARDNESS for error in pair))
    if optimum is not None:
        queries |= {optimum_name(k): QueryErrors(np.arange(4), *[optimum * HARDNESS] * 2) for k in counts}
    manifest = StudyManifest(
        name="scaling",
        created="2026-11-23T09:15:02+00:00",
        status="complete",
        family="zipf=0",
        counts=(
            *(count(classes, losses) for classes in counts),
            *(CountSetting(classes=classes, left_out="needs a GPU") for classes in left_out),
        ),
        queries=QuerySetting(classes=4),
        losses=losses,
        learning_rates=(0.1,),
        seeds=tuple(seeds),
        machine=MACHINE,
        versions={},
    )
    measure = QueryMeasure(error=0.01, standard_error=0.001)
    optima = tuple(Optimum(classes=k, queries=4, measure=measure, seconds=1) for k in counts if optimum is not None)
    return StudyRun(**{"manifest": manifest, "points": tuple(points), "optima": optima, "queries": queries, **fields})


def count(classes: int, losses) -> CountSetting:
    settings = tuple(LossSetting(key=key, name=LOSSES[key][0], aligned=LOSSES[key][1]) for key in losses)
    return CountSetting(
        classes=classes, dataset=f"synthetic:{classes}", recipe=Recipe(network="mlp", steps=200), losses=settings
    )


def model(classes: int, loss: str, stage="full", seed=0, **fields) -> StudyPoint:
    measure = QueryMeasure(error=0.01, standard_error=0.001)
    given = {
        "classes": classes,
        "stage": stage,
        "loss": loss,
        "learning_rate": 0.1,
        "seed": seed,
        "steps": 100 if stage == "search" else 200,
        "queries": 4,
        "single": measure,
        "all": measure,
        "validation_accuracy": 0.5,
        "seconds": 1.0,
    }
    return StudyPoint(**{**given, **fields})


def speed_run(milliseconds, *, failed=()) -> Run:
    """Class count -> time of a minibatch in each of 20 rounds, alike but for what the test adds."""
    setting = Setting(arch="mlp", input_shape=(128,), device="cpu", threads=1)
    common = {"setting": 0, "process": 0, "operations": 64, "bytes": 64}
    points = [Point(classes=classes, **common) for classes in (1, *milliseconds)]
    points += [Point(classes=classes, status="out-of-memory", reason="3 GB", **common) for classes in failed]
    slots = [(1, False, 1.0), (1, True, 1.0), *((classes, False, ms) for classes, ms in milliseconds.items())]
    samples = [
        Sample(
            setting=0,
            process=0,
            phase="timed",
            round=turn,
            round_size=len(slots),
            position=position,
            classes=classes,
            control=control,
            wall_s=1e-3 * ms * (1 + 0.01 * ((turn * 7 + 3 * position) % 5 - 2)),
        )
        for turn in range(20)
        for position, (classes, control, ms) in enumerate(slots)
    ]
    created = "2026-11-23T09:30:00+00:00"
    manifest = Manifest(
        name="mlp",
        created=created,
        status="complete",
        settings=(setting,),
        protocol=Protocol(classes=(1, *milliseconds, *failed)),
        machine=MACHINE,
        versions={},
        points=tuple(points),
        processes=(Process(setting=0, process=0, pid=1, started=created, pool=8, stop_reason="minibatches"),),
    )
    return Run(manifest, samples)


def row_of(run: StudyRun, classes: int, loss: str):
    (found,) = [row for row in rows(run) if (row.classes, row.loss) == (classes, loss)]
    return found


# ---- estimates ----


def test_an_interval_of_queries_worked_by_hand() -> None:
    """Four queries of 0.5, 0.8, 1.2 and 1.5 times 0.02, one seed."""
    found = Estimate.of([of_queries(0.02 * HARDNESS)])
    relative = math.sqrt(np.var(HARDNESS, ddof=1) / 4)
    half_width = stats.t.ppf(0.975, 3) * relative
    assert found.error == pytest.approx(0.02)
    assert found.low == pytest.approx(0.02 * math.exp(-half_width))
    assert found.high == pytest.approx(0.02 * math.exp(half_width))


def test_an_interval_of_seeds_worked_by_hand() -> None:
    """Errors of 0.02 and 0.03 without spread over queries: relative deviations of +-0.2, one degree of freedom."""
    found = Estimate.of([of_queries(np.full(4, error)) for error in (0.02, 0.03)])
    assert found.error == pytest.approx(0.025)
    assert found.high == pytest.approx(0.025 * math.exp(T_1 * math.sqrt(2 * 0.04 / 2)), rel=1e-3)


def test_no_end_of_an_interval_is_above_one() -> None:
    assert Estimate.of([of_queries(np.array([0.9, 0.1, 0.99, 0.2]))]).high == 1.0


@pytest.mark.parametrize("errors", [[0.0, 0.0, 0.0], [0.3]])
def test_without_spread_to_take_it_from_there_is_no_interval(errors) -> None:
    found = Estimate.of([of_queries(np.array(errors))])
    assert (found.error, found.low, found.high) == (pytest.approx(np.mean(errors)), None, None)


def test_an_estimate_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="one a seed of each is needed"):
        Estimate.of([])


# ---- rows ----


def test_a_row_worked_by_hand() -> None:
    costs = (
        StepCost(
            classes=100,
            loss="self-norm",
            step="chunked",
            batch_size=64,
            threads=1,
            seconds=(0.3, 0.1, 0.2),
            peak_bytes=5,
        ),
    )
    run = study({(100, "ce"): (0.06, 0.02), (100, "self-norm"): (0.021, 0.03)}, seeds=(0, 1), costs=costs)
    found = row_of(run, 100, "self-norm")
    assert (found.single.error, found.all.error, found.optimum.error) == pytest.approx((0.021, 0.03, 0.01))
    assert found.above_optimum == pytest.approx(0.011)
    assert found.with_ce.ratio == pytest.approx(0.021 / 0.02)
    assert found.with_ce.verdict == "parity", "what makes queries hard cancels"
    assert found.with_own.ratio == pytest.approx(0.021 / 0.03)
    assert found.with_optimum.ratio == pytest.approx(2.1)
    assert found.with_ce.seeds == 2
    assert (found.seeds, found.steps, found.queries, found.learning_rates) == ((0, 1), 200, 4, (0.1, 0.1))
    assert (found.cost.seconds, found.cost.peak_bytes, found.cost.step) == (0.2, 5, "chunked")
    assert found.convergence.converged is True
    assert (found.status, found.as_good, found.faster, found.both) == ("ok", "yes", "undecided", "undecided")
    control = row_of(run, 100, "ce")
    assert control.with_ce.ratio == pytest.approx(3)
    assert control.as_good == "no"
    assert control.cost is None


def test_unaligned_losses_come_first_and_every_count_has_its_rows() -> None:
    run = study({(k, loss): (0.02, 0.02) for k in (10, 100) for loss in ("self-norm", "ce")}, left_out=(1000,))
    assert [(row.classes, row.loss) for row in rows(run)] == [
        (classes, loss) for classes in (10, 100, 1000) for loss in ("ce", "self-norm")
    ]
    left = row_of(run, 1000, "self-norm")
    assert (left.status, left.reason, left.name) == ("left-out", "needs a GPU", "self-norm")
    assert left.single is left.with_ce is left.optimum is left.cost is None
    assert left.both == "undecided"


def test_seeds_are_compared_where_both_have_them() -> None:
    run = study({(10, "ce"): (0.06, 0.02), (10, "self-norm"): (0.02, 0.02)}, seeds=(0, 1, 2))
    fewer = replace(run, points=tuple(each for each in run.points if each.name not in ("10-ce-seed2",)))
    assert row_of(fewer, 10, "self-norm").with_ce.seeds == 2
    assert row_of(fewer, 10, "self-norm").with_own.seeds == 3
    lost = row_of(fewer, 10, "ce")
    assert (lost.status, lost.reason) == ("ok", "2 of 3 seeds")


def test_without_cross_entropy_nothing_is_compared() -> None:
    found = row_of(study({(10, "self-norm"): (0.02, 0.02)}), 10, "self-norm")
    assert found.with_ce is None
    assert (found.as_good, found.as_good_because) == ("undecided", "not compared: no seed has a model of both")


def test_a_study_that_has_only_begun_has_rows_without_numbers() -> None:
    run = study({(10, "ce"): (0.06, 0.02)}, points=(), optima=(), queries={})
    found = row_of(run, 10, "ce")
    assert (found.status, found.single, found.optimum, found.convergence.converged) == ("missing", None, None, None)
    assert found.as_good == "undecided"
    assert "no model (missing)" in found.because
    assert notices(run, rows(run)) == []


@pytest.mark.parametrize(("ended", "status"), [("diverged", "diverged"), ("failed", "failed")])
def test_a_loss_whose_trainings_were_lost_says_why(ended, status) -> None:
    run = study({(10, "ce"): (0.06, 0.02), (10, "self-norm"): (0.02, 0.02)})
    training = Training(
        member=Member(loss="self-norm", learning_rate=0.1, seed=0), status=ended, reason="at step 3", steps=3, seconds=1
    )
    lost = replace(
        run,
        points=tuple(each for each in run.points if each.loss == "ce"),
        trainings=(StudyTraining(classes=10, stage="search", training=training),),
    )
    found = row_of(lost, 10, "self-norm")
    assert (found.status, found.reason) == (status, "self-norm-lr0.1-seed0 (search): at step 3")
    assert found.because.startswith(f"no model ({status})")


def test_models_that_met_other_queries_are_refused() -> None:
    run = study({(10, "ce"): (0.06, 0.02), (10, "self-norm"): (0.02, 0.02)})
    other = run.queries["10-ce-seed0"]._replace(classes=np.arange(1, 5))
    with pytest.raises(UsageError, match=r"queries/10-\S+\.npz and queries/10-\S+\.npz ask for different classes"):
        rows(replace(run, queries={**run.queries, "10-ce-seed0": other}))


# ---- convergence of a row ----


def test_half_of_the_steps_are_those_of_the_first_seed() -> None:
    run = study({(10, "ce"): (0.06, 0.02)}, seeds=(3, 1), half=1.3)
    assert row_of(run, 10, "ce").convergence.converged is False
    seed = row_of(replace(run, points=tuple(each for each in run.points if each.name != "10-ce-seed3")), 10, "ce")
    assert (seed.convergence.converged, seed.seeds) == (None, (1,))
    assert seed.convergence.reason == "no model of seed 3 at all of the steps met the queries"


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"learning_rate": 0.3}, "rate 0.3 at half of the steps, 0.1 at all of them"),
        ({"steps": 150}, "150 of 200 steps are more than half"),
    ],
)
def test_a_search_that_is_not_half_of_the_same_tells_nothing(fields, reason) -> None:
    run = study({(10, "ce"): (0.06, 0.02)})
    points = (model(10, "ce", "search", **fields), model(10, "ce"))
    found = row_of(replace(run, points=points), 10, "ce").convergence
    assert (found.converged, found.reason) == (None, reason)


# ---- speeds ----


def test_speeds_come_from_the_samples_of_the_speed_run() -> None:
    run = study({(10, "ce"): (0.06, 0.02), (100, "ce"): (0.06, 0.02)}, left_out=(1000, 10_000))
    found = rows(replace(run, speed=speed_run({10: 1.0, 100: 1.5, 1000: 8.0}, failed=[10_000])))
    assert [row.faster for row in found] == ["undecided", "yes", "yes", "undecided"]
    (_, ten), (_, hundred), (thousand, most), (_, lost) = speed_reached(found)
    assert ten.low < 1 < ten.high
    assert hundred.speedup == pytest.approx(1.5, rel=0.03)
    assert hundred.low < 1.5 < hundred.high
    assert (thousand, most.speedup) == (1000, pytest.approx(8, rel=0.03))
    assert (lost.speedup, lost.reason) == (None, "out-of-memory: 3 GB")


# ---- answers ----


def answered(errors, speeds, **fields):
    """`errors`: class count -> of one logit of self-norm, where all logits of CE have 0.02."""
    given = {(classes, "ce"): (0.08, 0.02) for classes in errors}
    given |= {(classes, "self-norm"): (error, 0.02) for classes, error in errors.items()}
    run = study(given, speed=speed_run(speeds), **fields)
    return {each.loss: each for each in answers(rows(run))}


def test_from_a_count_on() -> None:
    found = answered({10: 0.02, 100: 0.02, 1000: 0.02}, {10: 1.0, 100: 2.0, 1000: 9.0}, left_out=(10_000,))
    assert (found["self-norm"].kind, found["self-norm"].since) == ("from", 100)
    assert found["self-norm"].yes == (100, 1000), "a count that was left out is no part of the answer"
    assert [classes for classes, _ in found["self-norm"].undecided] == [10]
    assert (found["ce"].kind, found["ce"].since) == ("nowhere", None)
    assert [classes for classes, _ in found["ce"].no] == [10, 100, 1000]


def test_not_at_the_largest_is_not_from_a_count_on() -> None:
    found = answered({10: 0.02, 100: 0.02, 1000: 0.05}, {10: 1.5, 100: 2.0, 1000: 9.0})["self-norm"]
    assert (found.kind, found.since, found.yes) == ("some", None, (10, 100))
    assert found.no == ((1000, "worse"),)


def test_a_gap_begins_the_count_again() -> None:
    found = answered({10: 0.02, 100: 0.05, 1000: 0.02}, {10: 1.5, 100: 2.0, 1000: 9.0})["self-norm"]
    assert (found.kind, found.since, found.yes) == ("from", 1000, (10, 1000))


def test_undecided_because_it_has_not_converged() -> None:
    found = answered({10: 0.05, 100: 0.02}, {10: 1.5, 100: 2.0}, half={(100, "self-norm"): 1.5})["self-norm"]
    assert (found.kind, found.yes) == ("undecided", ())
    assert found.undecided == ((100, "not converged"),)


def test_undecided_without_speeds() -> None:
    run = study({(10, "ce"): (0.08, 0.02), (10, "self-norm"): (0.02, 0.02)})
    found = {each.loss: each for each in answers(rows(run))}
    assert found["self-norm"].undecided == ((10, "speed not measured"),)
    assert found["ce"].kind == "nowhere", "what is not as good need not be timed"


def test_where_nothing_was_trained_there_is_no_answer() -> None:
    run = study({(10, "ce"): (0.06, 0.02)})
    counts = (CountSetting(classes=10, left_out="needs a GPU"),)
    manifest = run.manifest.model_copy(update={"counts": counts})
    assert answers(rows(replace(run, manifest=manifest, points=(), optima=()))) == []


# ---- notices, optima ----


def test_points_that_have_not_converged_are_named_once() -> None:
    run = study({(10, "ce"): (0.06, 0.02), (100, "ce"): (0.06, 0.02)}, seeds=(0, 1), half={(100, "ce"): 1.4})
    (notice,) = notices(run, rows(run))
    assert notice.kind == "not-converged"
    assert notice.happened == "1 of 2 points have not been shown to have converged: not converged: CE at 100 classes"


def test_losses_of_the_same_counts_are_named_together() -> None:
    run = study({(k, loss): (0.02, 0.02) for k in (10, 100, 1000) for loss in ("ce", "self-norm", "binary-ce")})
    found: list[ScalingRow] = rows(run)
    assert by_count(found) == "CE, self-norm and binary CE at 10, 100 and 1,000 classes"
    some = [row for row in found if row.loss == "ce" or row.classes == 1000]
    assert by_count(some) == "CE at 10 and 100 classes; CE, self-norm and binary CE at 1,000 classes"


def test_steps_of_uneven_length_are_a_warning() -> None:
    steady, other = (step_cost(loss, seconds) for loss, seconds in (("ce", (1.0, 1.1, 1.2)), ("self-norm", (1, 2, 3))))
    run = study({(10, loss): (0.06, 0.02) for loss in ("ce", "self-norm")}, seeds=(0, 1), costs=(steady, other))
    (notice,) = [each for each in notices(run, rows(run)) if each.kind == "unsteady-steps"]
    assert notice.happened.startswith("1 of 2 times of a training step are unsteady: of self-norm at 10 classes the ")
    assert row_of(run, 10, "self-norm").cost.quartiles == pytest.approx((1.5, 2.5))
    refused = step_cost("ce", ()).model_copy(update={"reason": "no memory"})
    assert row_of(replace(run, costs=(refused,)), 10, "ce").cost.is_steady, "what was not timed is not unsteady"


def step_cost(loss: str, seconds) -> StepCost:
    return StepCost(classes=10, loss=loss, step="dense", batch_size=8, threads=1, seconds=seconds)


def test_a_control_that_passes_is_a_warning() -> None:
    run = study({(10, "ce"): (0.02, 0.02)}, seeds=(0, 1))
    assert [each.kind for each in notices(run, rows(run))] == ["control-passed"]


def test_one_seed_is_said() -> None:
    run = study({(10, "ce"): (0.06, 0.02)})
    (notice,) = notices(run, rows(run))
    assert (notice.kind, notice.happened) == ("one-seed", "one seed was trained of all points")


def test_several_speed_settings_are_said() -> None:
    speed = speed_run({10: 2.0})
    doubled = speed.manifest.model_copy(update={"settings": speed.manifest.settings * 2})
    run = study({(10, "ce"): (0.06, 0.02)}, seeds=(0, 1), speed=replace(speed, manifest=doubled))
    assert [each.kind for each in notices(run, rows(run))] == ["several-speed-settings"]


def test_optima_stand_where_nothing_was_trained_too() -> None:
    run = study({(10, "ce"): (0.06, 0.02)}, left_out=(100,))
    far = Optimum(classes=100, queries=4, measure=QueryMeasure(error=0.03, standard_error=None), seconds=1)
    queries = {**run.queries, optimum_name(100): QueryErrors(np.arange(4), *[0.03 * HARDNESS] * 2)}
    found = optima_reached(replace(run, optima=(far, *run.optima), queries=queries))
    assert [(classes, each.error) for classes, each in found] == [(10, pytest.approx(0.01)), (100, pytest.approx(0.03))]
