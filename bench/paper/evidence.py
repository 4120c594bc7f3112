"""From the parts' runs to the cases of each claim: what was estimated, with its interval and what it rests on."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from bench.accuracy.parity import CONFIDENCE, Measured, compare
from bench.accuracy.records import Evaluation
from bench.accuracy.rows import Table1Row, table1
from bench.accuracy.run import AccuracyRun
from bench.accuracy.settings import PAPER_LOSSES, PAPER_RATES
from bench.paper import claims
from bench.paper.claims import Claim, Detail, Holds, Interval
from bench.paper.parts import AccuracyPart, SpeedPart
from bench.paper.record import PartRecord, reused_words
from bench.run import Run
from bench.speed.notices import carry_over_ratio, control_ratio
from bench.speed.rows import Row, round_tables, rows
from bench.speed.statistics import Ratio

Floats = NDArray[np.float64]

#: The network of the paper's Fig. 1, on which its first claim is decided.
FIG_1 = "inception_v3"

#: Measures of Table 1 -> their headings.
MEASURES = {"auprc": "1-AUPRC", "precision_at_90": "1-Precision@0.9", "precision_at_99": "1-Precision@0.99"}

#: Why there is no number, in a word or two; the whole reason stands once, with the parts.
_WITHOUT_NUMBERS = {
    "waiting": "not begun",
    "begun": "cut off before there was a number",
    "left-out": "left out for want of time",
    "unavailable": "it cannot be done here",
    "failed": "it failed",
}

_VERDICTS: Mapping[str, Holds] = {"parity": "yes", "worse": "no", "undecided": "undecided"}


@dataclass(frozen=True)
class _Speed:
    """A network's part: its run, or why there is none."""

    record: PartRecord
    run: Run | None
    rows: Sequence[Row]

    @property
    def arch(self) -> str:
        assert isinstance(self.record.part, SpeedPart)
        return self.record.part.arch


@dataclass(frozen=True)
class _Accuracy:
    """A data set's part: its run, or why there is none."""

    record: PartRecord
    run: AccuracyRun | None
    rows: Sequence[Table1Row]

    @property
    def dataset(self) -> str:
        assert isinstance(self.record.part, AccuracyPart)
        return self.record.part.dataset


def claims_of(records: Iterable[PartRecord], runs: Mapping[str, Run | AccuracyRun]) -> list[Claim]:
    """The paper's five claims, from what there is; `runs` by the keys of their parts."""
    speed: list[_Speed] = []
    accuracy: list[_Accuracy] = []
    for record in records:
        run = runs.get(record.part.key)
        if isinstance(record.part, SpeedPart):
            own = run if isinstance(run, Run) else None
            speed.append(_Speed(record, own, rows(own) if own else ()))
        else:
            grid = run if isinstance(run, AccuracyRun) else None
            accuracy.append(_Accuracy(record, grid, table1(grid) if grid else ()))
    return [
        claims.tenfold([_tenfold(each) for each in sorted(speed, key=lambda each: each.arch != FIG_1)]),
        claims.independent([detail for each in speed for detail in _independent(each)]),
        claims.improvement([detail for each in accuracy for detail in _improvement(each)]),
        claims.no_degradation([detail for each in accuracy for detail in _no_degradation(each)]),
        claims.little_speedup([detail for each in speed for detail in _little_speedup(each)]),
    ]


# -- speed ------------------------------------------------------------------------------------------------------


def _tenfold(part: _Speed) -> Detail:
    low, high = claims.NEAR_400_000
    measured = [row for row in _measured(part) if low <= row.classes <= high]
    if not measured:
        return _not_measured(part.arch, "speedup near 400,000 classes", part.record)
    row = max(measured, key=lambda row: row.classes)
    found = _speedup(row)
    return Detail(
        subject=part.arch,
        quantity=f"speedup at {row.classes:,} classes",
        holds=claims.at_least(found, claims.TENFOLD),
        found=found,
        rests_on=_rounds(part, row),
        falls_short=_short_of_rounds(part, row),
    )


def _little_speedup(part: _Speed) -> list[Detail]:
    measured = [row for row in _measured(part) if 1 < row.classes <= claims.SMALL_UP_TO]
    if not measured:
        return [_not_measured(part.arch, "speedup up to 16,384 classes", part.record)]
    return [
        Detail(
            subject=part.arch,
            quantity=f"speedup at {row.classes:,} classes",
            holds=claims.at_most(_speedup(row), claims.SMALL_SPEEDUP),
            found=_speedup(row),
            rests_on=_rounds(part, row),
            falls_short=_short_of_rounds(part, row),
        )
        for row in measured
    ]


def _independent(part: _Speed) -> list[Detail]:
    singles = [row for row in part.rows if row.kind == "point" and row.classes == 1 and row.median_s is not None]
    if part.run is None or not singles:
        return [_not_measured(part.arch, "one logit after a larger count, over its time otherwise", part.record)]
    setting, table = part.run.manifest.settings[0], round_tables(part.run)[0]
    found = {
        "one logit after a larger count, over its time otherwise": carry_over_ratio(setting, table, 1),
        "one logit measured twice in the same rounds": control_ratio(setting, table),
    }
    return [_ratio_detail(part, singles[0], quantity, ratio) for quantity, ratio in found.items()]


def _ratio_detail(part: _Speed, row: Row, quantity: str, ratio: Ratio | None) -> Detail:
    rests_on, short = _rounds(part, row), _short_of_rounds(part, row)
    if ratio is None:
        too_few = "too few passes for an interval"
        return Detail(part.arch, quantity, "undecided", None, rests_on, "; ".join(filter(None, (too_few, short))))
    found = Interval(ratio.estimate, *ratio.interval())
    return Detail(
        subject=part.arch,
        quantity=quantity,
        holds=claims.equal_to_one(found, claims.INDEPENDENT_WITHIN),
        found=found,
        rests_on=rests_on,
        falls_short=short,
    )


def _measured(part: _Speed) -> list[Row]:
    """The counts of the part, of which the claims speak; a run that is reused can have others too."""
    assert isinstance(part.record.part, SpeedPart)
    wanted = part.record.part.classes
    measured = [row for row in part.rows if row.kind == "point" and row.status == "ok" and row.speedup is not None]
    return [row for row in measured if row.classes in wanted]


def _speedup(row: Row) -> Interval:
    assert row.speedup is not None
    return Interval(row.speedup, row.speedup_low, row.speedup_high)


def _rounds(part: _Speed, row: Row) -> str:
    size = f"{row.rounds_done:,} minibatches of {row.batch_size}, {row.dtype}, {row.device}"
    return "; ".join(filter(None, (size, reused_words(part.record))))


def _short_of_rounds(part: _Speed, row: Row) -> str:
    asked = part.record.part.full
    short = [f"{row.rounds_done:,} of the paper's {asked:,} minibatches"] if row.rounds_done < asked else []
    return "; ".join(short + _unfinished(part.run))


# -- accuracy ---------------------------------------------------------------------------------------------------


def _improvement(part: _Accuracy) -> list[Detail]:
    if part.run is None or not any(row.measures for row in part.rows):
        return [_not_measured(part.dataset, f"improvement of {name}", part.record) for name in MEASURES.values()]
    details = []
    for measure, name in MEASURES.items():
        found, reason = _improvement_of(part, measure)
        quantity = f"improvement of {name}"
        rests_on, short = _trainings(part), _short_of_steps(part)
        if found is None:
            short = "; ".join(filter(None, (reason, short)))
            details.append(Detail(part.dataset, quantity, "undecided", None, rests_on, short))
            continue
        holds = claims.at_least(found, claims.IMPROVEMENT)
        details.append(Detail(part.dataset, quantity, holds, found, rests_on, short))
    return details


def _improvement_of(part: _Accuracy, measure: str) -> tuple[Interval | None, str]:
    """Relative improvement of the mean over the paper's aligned losses against the mean over its others."""
    assert part.run is not None
    sides = {
        aligned: [row.loss for row in part.rows if row.aligned is aligned and row.loss in PAPER_LOSSES and row.measures]
        for aligned in (True, False)
    }
    if not (sides[True] and sides[False]):
        return None, "only one of the two kinds of losses has a tested model"
    models = {(each.member.loss, each.member.seed): each for each in part.run.evaluations}
    seeds = [
        seed
        for seed in part.run.manifest.seeds
        if all((loss, seed) in models for losses in sides.values() for loss in losses)
    ]
    if not seeds:
        return None, "no seed has a tested model of every loss"
    chosen = {aligned: [[models[loss, seed] for loss in sides[aligned]] for seed in seeds] for aligned in sides}
    if measure == "auprc":
        found = compare(*([_mean_auprc(part.run, one) for one in chosen[aligned]] for aligned in (True, False)))
        if found.ratio is None or found.low is None or found.high is None:
            return None, found.reason
        return Interval(1 - found.ratio, 1 - found.high, 1 - found.low), ""
    ratio = ratio_over_classes(*(_errors_by_class(chosen[aligned], measure) for aligned in (True, False)))
    if ratio is None:
        return None, "one of the two kinds of losses makes no error on these test data"
    estimate, low, high = ratio
    return Interval(1 - estimate, 1 - high, 1 - low), ""


def _mean_auprc(run: AccuracyRun, models: Sequence[Evaluation]) -> Measured:
    """The mean 1-AUPRC of one seed's models; the influence of a mean is the mean of the influences."""
    influences = np.array([run.influences[each.member.name].single for each in models])
    return Measured(float(np.mean([1 - each.single.auprc for each in models])), influences.mean(axis=0))


def _errors_by_class(by_seed: Sequence[Sequence[Evaluation]], measure: str) -> Floats:
    """One minus a measure by seed and class, mean over losses; shape (seeds, classes that occur)."""
    values = np.array(
        [
            [
                [np.nan if value is None else value for value in getattr(each.single.by_class, measure)]
                for each in models
            ]
            for models in by_seed
        ],
        dtype=float,
    )
    errors: Floats = 1 - values[:, :, np.isfinite(values).all(axis=(0, 1))].mean(axis=1)
    return errors


def ratio_over_classes(ours: Floats, theirs: Floats) -> tuple[float, float, float] | None:
    """Ratio of two means over the same seeds and classes, with its 95 % interval; both of shape (seeds, classes).

    The classes are taken as a sample (the test records keep no influence of single examples on a precision), and the
    seeds are one: the delta method on the paired logarithms, a margin with a t quantile for each of the two, whose
    squares add up as in the parity verdict. One seed has no margin. None for fewer than two classes or a mean of 0.
    """
    if ours.shape[1] < 2 or ours.mean() <= 0 or theirs.mean() <= 0:
        return None
    ratio = float(ours.mean() / theirs.mean())
    pull = ours / ours.mean() - theirs / theirs.mean()
    reach = math.hypot(_margin_of_mean(pull.mean(axis=0)), _margin_of_mean(pull.mean(axis=1)))
    return ratio, ratio * math.exp(-reach), ratio * math.exp(reach)


def _margin_of_mean(values: Floats) -> float:
    """Half the 95 % interval of the mean of a sample; 0 for a single value, which says nothing of its error."""
    if len(values) < 2:
        return 0.0
    error = float(np.std(values, ddof=1)) / math.sqrt(len(values))
    return float(stats.t.ppf((1 + CONFIDENCE) / 2, len(values) - 1)) * error


def _no_degradation(part: _Accuracy) -> list[Detail]:
    aligned = [row for row in part.rows if row.aligned and row.loss in PAPER_LOSSES and row.measures]
    if part.run is None or not aligned:
        return [_not_measured(part.dataset, "1-AUPRC of one logit, over that of all logits of CE", part.record)]
    return [_parity_detail(part, row) for row in aligned]


def _parity_detail(part: _Accuracy, row: Table1Row) -> Detail:
    subject = f"{part.dataset}, {row.name}"
    quantity = "1-AUPRC of one logit, over that of all logits of CE"
    rests_on, short = _trainings(part), _short_of_steps(part)
    verdict = row.parity_with_ce
    if verdict is None:
        no_ce = "CE has no tested model to compare with"
        return Detail(subject, quantity, "not measured", None, rests_on, "; ".join(filter(None, (no_ce, short))))
    if verdict.ratio is None:
        short = "; ".join(filter(None, (verdict.reason, short)))
        return Detail(subject, quantity, "undecided", None, rests_on, short)
    found = Interval(verdict.ratio, verdict.low, verdict.high)
    return Detail(subject, quantity, _VERDICTS[verdict.verdict], found, rests_on, short)


def _trainings(part: _Accuracy) -> str:
    assert part.run is not None
    manifest = part.run.manifest
    rates = ", ".join(f"{rate:g}" for rate in manifest.learning_rates)
    seeds = f"{len(manifest.seeds)} seed{'s' * (len(manifest.seeds) != 1)}"
    size = (
        f"{manifest.recipe.steps:,} steps at rates {rates}, {seeds}, {manifest.dataset.test:,} test examples, "
        f"{manifest.recipe.device}"
    )
    return "; ".join(filter(None, (size, reused_words(part.record))))


def _short_of_steps(part: _Accuracy) -> str:
    assert part.run is not None
    manifest, asked = part.run.manifest, part.record.part
    assert isinstance(asked, AccuracyPart)
    short = []
    if manifest.recipe.steps < asked.full:
        short.append(f"{manifest.recipe.steps:,} of the paper's {asked.full:,} steps")
    rates = asked.learning_rates if asked.preset else PAPER_RATES
    tried = sum(rate in manifest.learning_rates for rate in rates)
    if tried < len(rates):
        short.append(f"{tried} of its {len(rates)} learning rates")
    counted = [row for row in part.rows if row.loss in PAPER_LOSSES]
    untested = [row.name for row in counted if not row.measures]
    if untested:
        short.append(f"without {', '.join(untested)}")
    asked_seeds = len(manifest.seeds)
    short += [
        f"{row.name} on {len(row.seeds)} of {asked_seeds} seeds" for row in counted if 0 < len(row.seeds) < asked_seeds
    ]
    return "; ".join(short + _unfinished(part.run))


def _unfinished(run: Run | AccuracyRun | None) -> list[str]:
    if run is None or run.manifest.status == "complete":
        return []
    return [f"the run is {'cut off' if run.manifest.status == 'running' else run.manifest.status}"]


def _not_measured(subject: str, quantity: str, record: PartRecord) -> Detail:
    reason = _WITHOUT_NUMBERS.get(record.state, "no numbers")
    return Detail(subject, quantity, "not measured", falls_short=reason)
