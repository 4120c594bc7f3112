"""From a study to its rows, one a class count and loss, with errors, intervals, verdicts, costs and speedups.

points, queries -> ScalingRow (bench.scaling.judgements decides) -> Answer, one a loss (bench.scaling.answers)
"""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from bench.accuracy.parity import Measured, Parity
from bench.accuracy.settings import LossSetting, TopLayerStep
from bench.errors import UsageError
from bench.scaling.convergence import Convergence, compare_queries, convergence, of_queries, unknown
from bench.scaling.judgements import Judged, Judgement, Speed, judge_error, judge_speed
from bench.scaling.records import REFERENCE, CountSetting, Optimum, Stage, StepCost, StudyPoint
from bench.scaling.run import StudyRun, optimum_name
from bench.speed.rows import Row
from bench.speed.rows import rows as speed_rows

if TYPE_CHECKING:
    from bench.run import Run

Status = Literal["ok", "diverged", "failed", "missing", "left-out"]
Score = Literal["single", "all"]

#: The middle half of the timed steps of a process that has the machine to itself lies closer together than so.
STEADY_STEPS = 1.25


@dataclass(frozen=True)
class Estimate:
    """1-AUPRC, mean over queries and seeds, with its 95 % interval; without one where there is nothing to take it from.

    The interval is that of its logarithm, and no end of it is above 1.
    """

    error: float
    low: float | None
    high: float | None

    @classmethod
    def of(cls, models: Sequence[Measured]) -> "Estimate":
        """One entry a seed. Raises ValueError for none, or for models that met different numbers of queries.

        It is the interval of a ratio to a reference that is known to be 1.
        """
        known = Measured(1.0, np.zeros_like(models[0].influence)) if models else Measured(1.0, np.zeros(1))
        found = compare_queries(list(models), [known] * len(models))
        error = statistics.fmean(each.error for each in models)
        low, high = (None if end is None else min(1.0, end) for end in (found.low, found.high))
        return cls(error, low, high)


@dataclass(frozen=True)
class Cost:
    """Time and memory of a training step."""

    seconds: float | None
    """median over the timed steps; None where it was not measured"""
    quartiles: tuple[float, float] | None
    """of the timed steps, in seconds: the lower, the upper"""
    peak_bytes: int | None
    step: TopLayerStep
    batch_size: int
    reason: str
    """why it was not measured; empty where it was"""

    @property
    def is_steady(self) -> bool:
        """Whether the timed steps took about as long as one another, as they do alone on a machine."""
        return self.quartiles is None or self.quartiles[1] <= STEADY_STEPS * self.quartiles[0]


@dataclass(frozen=True)
class ScalingRow:
    """One loss at one class count."""

    classes: int
    loss: str
    name: str
    aligned: bool
    status: Status
    reason: str
    """why there is no model, or what is missing of the seeds"""
    learning_rates: tuple[float, ...]
    """one a seed"""
    seeds: tuple[int, ...]
    """of which the errors are; fewer than asked for where one is missing"""
    steps: int | None
    queries: int | None
    single: Estimate | None
    """1-AUPRC by one logit"""
    all: Estimate | None
    """1-AUPRC by all logits of the same models"""
    optimum: Estimate | None
    """1-AUPRC by the posterior log-odds, on the same queries"""
    above_optimum: float | None
    """that of one logit minus the optimum's; below 0 by chance alone"""
    with_ce: Parity | None
    """one logit against all logits of cross-entropy, over the seeds that both have: the paper's question"""
    with_own: Parity | None
    """one logit against all logits of the same models"""
    with_optimum: Parity | None
    """one logit against the posterior log-odds"""
    convergence: Convergence
    cost: Cost | None
    speed: Speed | None
    """of the class count, the same in the rows of all losses; None where no speed was measured"""
    as_good: Judgement
    as_good_because: str
    as_good_brief: str
    """in two or three words, where it is not yes"""
    faster: Judgement
    faster_because: str
    faster_brief: str

    @property
    def both(self) -> Judgement:
        """Whether one logit is faster and as good."""
        found = (self.as_good, self.faster)
        return "no" if "no" in found else "undecided" if "undecided" in found else "yes"

    @property
    def because(self) -> str:
        """Why `both` is not yes; empty where it is."""
        return "; ".join(because for because, _ in self._open)

    @property
    def brief(self) -> str:
        """The same in a few words, without numbers."""
        return ", ".join(brief for _, brief in self._open)

    @property
    def _open(self) -> list[tuple[str, str]]:
        told = (
            (self.as_good, self.as_good_because, self.as_good_brief),
            (self.faster, self.faster_because, self.faster_brief),
        )
        return [(because, brief) for judgement, because, brief in told if judgement == self.both != "yes"]


def rows(run: StudyRun) -> list[ScalingRow]:
    """A row for each class count and loss asked for, also where nothing was trained; unaligned losses come first.

    Raises UsageError if two models of a class count met different queries.
    """
    settings = _settings(run)
    ordered = [key for aligned in (False, True) for key in run.manifest.losses if settings[key].aligned is aligned]
    speeds = {} if run.speed is None else _speeds(run.speed)
    return [
        _row(run, count, settings[loss], speeds.get(count.classes)) for count in run.manifest.counts for loss in ordered
    ]


def _settings(run: StudyRun) -> dict[str, LossSetting]:
    """Names of the losses; of one that no class count was trained by, its key stands for its name."""
    found = {each.key: each for count in run.manifest.counts for each in count.losses}
    return {key: found.get(key, LossSetting(key=key, name=key, aligned=False)) for key in run.manifest.losses}


def _speeds(run: "Run") -> dict[int, Speed]:
    """Class count -> its speedup, of the first setting that measures it with a full top layer."""
    found: dict[int, Speed] = {}
    for row in speed_rows(run):
        if row.kind == "point" and row.top_layer == "full" and row.subset == 1 and not row.is_reference:
            found.setdefault(row.classes, _speed(row))
    return found


def _speed(row: Row) -> Speed:
    reason = "" if row.speedup is not None else (f"{row.status}: {row.reason}" if row.status != "ok" else "no times")
    return Speed(row.speedup, row.speedup_low, row.speedup_high, reason)


def _row(run: StudyRun, count: CountSetting, setting: LossSetting, speed: Speed | None) -> ScalingRow:
    classes, loss = count.classes, setting.key
    models = _points(run, classes, loss, "full")
    status, reason = _status(run, count, loss, models)
    single, every = _measured(run, models, "single"), _measured(run, models, "all")
    optimum = _optimum(run, classes, models)
    with_ce = _against(run, models, _points(run, classes, REFERENCE, "full"))
    settled = _convergence(run, classes, loss)
    reference = settled if loss == REFERENCE else _convergence(run, classes, REFERENCE)
    as_good = judge_error(with_ce, settled, reference)
    if not models:
        as_good = Judged("undecided", f"no model ({status})", "no model")
    faster = judge_speed(speed)
    found = Estimate.of(single) if single else None
    return ScalingRow(
        classes=classes,
        loss=loss,
        name=setting.name,
        aligned=setting.aligned,
        status=status,
        reason=reason,
        learning_rates=tuple(each.learning_rate for each in models.values()),
        seeds=tuple(models),
        steps=max((each.steps for each in models.values()), default=None),
        queries=next((each.queries for each in models.values()), None),
        single=found,
        all=Estimate.of(every) if every else None,
        optimum=None if optimum is None else Estimate.of([optimum]),
        above_optimum=None if optimum is None or found is None else found.error - optimum.error,
        with_ce=with_ce,
        with_own=compare_queries(single, every) if models else None,
        with_optimum=compare_queries(single, [optimum] * len(single)) if optimum is not None and models else None,
        convergence=settled,
        cost=_cost(run, classes, loss),
        speed=speed,
        as_good=as_good.judgement,
        as_good_because=as_good.because,
        as_good_brief=as_good.brief,
        faster=faster.judgement,
        faster_because=faster.because,
        faster_brief=faster.brief,
    )


def _points(run: StudyRun, classes: int, loss: str, stage: Stage) -> dict[int, StudyPoint]:
    """The tested models of a loss at a class count, by seed, ascending."""
    found = {each.seed: each for each in run.points if (each.classes, each.loss, each.stage) == (classes, loss, stage)}
    return dict(sorted(found.items()))


def _measured(run: StudyRun, models: dict[int, StudyPoint], score: Score) -> list[Measured]:
    """One entry a model; all of them met the same queries."""
    _refuse_other_queries(run, [each.name for each in models.values()])
    return [of_queries(getattr(run.queries[each.name], score)) for each in models.values()]


def _refuse_other_queries(run: StudyRun, names: Sequence[str]) -> None:
    for name in names[1:]:
        if not np.array_equal(run.queries[names[0]].classes, run.queries[name].classes):
            raise UsageError(
                f"queries/{names[0]}.npz and queries/{name}.npz ask for different classes, so their errors cannot be "
                "compared; a file was altered: restore it, or start a new run"
            )


def _optimum(run: StudyRun, classes: int, models: dict[int, StudyPoint]) -> Measured | None:
    if not any(each.classes == classes for each in run.optima):
        return None
    name = optimum_name(classes)
    _refuse_other_queries(run, [name, *(each.name for each in models.values())])
    return of_queries(run.queries[name].single)


def _against(run: StudyRun, ours: dict[int, StudyPoint], theirs: dict[int, StudyPoint]) -> Parity | None:
    """Single logits of `ours` against all logits of `theirs`, over the seeds both have; None where there is none."""
    seeds = sorted(ours.keys() & theirs.keys())
    if not seeds:
        return None
    _refuse_other_queries(run, [side[seed].name for side in (ours, theirs) for seed in seeds])
    return compare_queries(
        _measured(run, {seed: ours[seed] for seed in seeds}, "single"),
        _measured(run, {seed: theirs[seed] for seed in seeds}, "all"),
    )


def _convergence(run: StudyRun, classes: int, loss: str) -> Convergence:
    """Of the first seed, whose model at half of the steps met the queries too."""
    seed = run.manifest.seeds[0]
    full, half = (_points(run, classes, loss, stage).get(seed) for stage in ("full", "search"))
    if full is None or half is None:
        missing = "all" if full is None else "half"
        return unknown(f"no model of seed {seed} at {missing} of the steps met the queries")
    if half.learning_rate != full.learning_rate:
        return unknown(f"rate {half.learning_rate:g} at half of the steps, {full.learning_rate:g} at all of them")
    if 2 * half.steps > full.steps + 1:
        return unknown(f"{half.steps:,} of {full.steps:,} steps are more than half")
    _refuse_other_queries(run, [half.name, full.name])
    return convergence(run.queries[half.name], run.queries[full.name])


def _status(run: StudyRun, count: CountSetting, loss: str, models: dict[int, StudyPoint]) -> tuple[Status, str]:
    """How a loss ended at a class count, and what is missing of it."""
    if count.left_out:
        return "left-out", count.left_out
    missing = [seed for seed in run.manifest.seeds if seed not in models]
    if not missing:
        return "ok", ""
    trainings = [each for each in run.trainings if each.classes == count.classes and each.training.member.loss == loss]
    lost = [each for each in trainings if each.training.status != "ok"]
    why = "; ".join(
        dict.fromkeys(
            f"{each.training.member.name} ({each.stage}): {each.training.reason or each.training.status}"
            for each in lost
        )
    )
    if models:
        return "ok", f"{len(models)} of {len(run.manifest.seeds)} seeds" + (f" ({why})" if why else "")
    if not lost or any(each.training.status == "ok" and each.stage == "full" for each in trainings):
        return "missing", "no model of all steps has met the queries yet" + (f" ({why})" if why else "")
    return ("diverged" if all(each.training.status == "diverged" for each in lost) else "failed"), why


def _cost(run: StudyRun, classes: int, loss: str) -> Cost | None:
    found: StepCost | None = next((each for each in run.costs if (each.classes, each.loss) == (classes, loss)), None)
    if found is None:
        return None
    if not found.seconds or found.reason:
        return Cost(None, None, found.peak_bytes, found.step, found.batch_size, found.reason)
    lower, median, upper = (float(each) for each in np.quantile(found.seconds, (0.25, 0.5, 0.75)))
    return Cost(median, (lower, upper), found.peak_bytes, found.step, found.batch_size, "")


def speed_reached(found: Sequence[ScalingRow]) -> list[tuple[int, Speed]]:
    """Class counts with a speed, ascending, each once."""
    return sorted({row.classes: row.speed for row in found if row.speed is not None}.items())


def optima_reached(run: StudyRun) -> list[tuple[int, Estimate]]:
    """Class counts with an optimum, ascending, those where nothing was trained too."""
    measured: list[Optimum] = sorted(run.optima, key=lambda each: each.classes)
    return [
        (each.classes, Estimate.of([of_queries(run.queries[optimum_name(each.classes)].single)])) for each in measured
    ]
