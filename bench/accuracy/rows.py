"""From an accuracy run to the rows of Tables 1 and 2: means and spread over seeds, improvement, verdicts."""

import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from archs.top_layer_kinds import RIVALS
from bench.accuracy.parity import Measured, Parity, compare
from bench.accuracy.records import Evaluation, ScoreMeasures, Training
from bench.accuracy.run import AccuracyRun
from bench.accuracy.settings import BEYOND_THE_PAPER, PAPER_LOSSES

#: What the tables show, each as one minus the measure, as the paper does.
MEASURES: dict[str, Callable[[ScoreMeasures], float]] = {
    "one_minus_auprc": lambda score: 1 - score.auprc,
    "one_minus_precision_at_90": lambda score: 1 - score.precision_at_90,
    "one_minus_precision_at_99": lambda score: 1 - score.precision_at_99,
    "one_minus_auprc_trapezoid": lambda score: 1 - score.auprc_trapezoid,
}

RowStatus = Literal["ok", "diverged", "failed", "missing"]


@dataclass(frozen=True)
class Spread:
    """A mean over seeds, and how far they lie apart."""

    mean: float
    std: float | None
    """sample standard deviation; None for one seed"""
    values: tuple[float, ...]

    @classmethod
    def of(cls, values: Iterable[float]) -> "Spread":
        """Raises ValueError for no values."""
        found = tuple(values)
        if not found:
            raise ValueError("a mean of nothing")
        return cls(statistics.fmean(found), statistics.stdev(found) if len(found) > 1 else None, found)


@dataclass(frozen=True)
class Table1Row:
    """One loss on one data set: the single logit, and all logits of the same models."""

    dataset: str
    loss: str
    name: str
    aligned: bool
    status: RowStatus
    reason: str
    learning_rate: tuple[float, ...]
    """the one chosen, of each seed"""
    seeds: tuple[int, ...]
    """of which the measures are; fewer than asked for where a seed is missing"""
    measures: dict[str, Spread]
    """of the single logit, by the names of MEASURES; empty unless the status is ok"""
    all_measures: dict[str, Spread]
    """of the log-odds from all logits"""
    accuracy: Spread | None
    parity_with_ce: Parity | None
    """this loss's single logit against CE with all logits (the paper's question); None where one is missing"""
    parity_with_own: Parity | None
    """this loss's single logit against all logits of the same models"""
    separation_train_holds: int
    """seeds whose model follows Definition 1 on the training split"""
    separation_test_holds: int


@dataclass(frozen=True)
class Table2Row:
    """One line of Table 2: a way to answer, and its measures."""

    dataset: str
    name: str
    measures: dict[str, Spread]
    single: bool
    """one logit (above the dashed line) or all"""


def table1(run: AccuracyRun) -> list[Table1Row]:
    """One row a loss: unaligned before aligned, each in the order of the run; a loss without a result is a row too."""
    losses = run.manifest.losses
    ordered = [loss for aligned in (False, True) for loss in losses if loss.aligned is aligned]
    reference = _evaluated(run, "ce")
    return [_row(run, loss.key, name=loss.name, aligned=loss.aligned, reference=reference) for loss in ordered]


def _evaluated(run: AccuracyRun, loss: str) -> dict[int, Evaluation]:
    """The tested models of a loss by seed."""
    return {each.member.seed: each for each in run.evaluations if each.member.loss == loss}


def _row(run: AccuracyRun, loss: str, *, name: str, aligned: bool, reference: dict[int, Evaluation]) -> Table1Row:
    found = dict(sorted(_evaluated(run, loss).items()))
    status, reason = _status(run, loss, found)
    models = list(found.values())
    return Table1Row(
        dataset=run.manifest.dataset.name,
        loss=loss,
        name=name,
        aligned=aligned,
        status=status,
        reason=reason,
        learning_rate=tuple(each.member.learning_rate for each in models),
        seeds=tuple(found),
        measures=_measures([each.single for each in models]),
        all_measures=_measures([each.all for each in models]),
        accuracy=Spread.of(each.accuracy for each in models) if models else None,
        parity_with_ce=_parity(run, found, reference),
        # Of a rival both are one score: log P and the log-odds of P have the same order.
        parity_with_own=None if loss in RIVALS else _parity(run, found, found),
        separation_train_holds=sum(each.separation_train.holds for each in models),
        separation_test_holds=sum(each.separation_test.holds for each in models),
    )


def _measures(scores: Sequence[ScoreMeasures]) -> dict[str, Spread]:
    return {name: Spread.of(map(measure, scores)) for name, measure in MEASURES.items()} if scores else {}


def _status(run: AccuracyRun, loss: str, found: dict[int, Evaluation]) -> tuple[RowStatus, str]:
    """How a loss ended, and what is missing of it."""
    seeds = run.manifest.seeds
    missing = [seed for seed in seeds if seed not in found]
    if not missing:
        return "ok", ""
    trainings = [each for each in run.trainings if each.member.loss == loss]
    lost = [each for each in trainings if each.status != "ok" and each.member.seed in missing]
    why = "; ".join(dict.fromkeys(f"{each.member.name}: {each.reason}" for each in lost))
    if found:
        return "ok", f"{len(found)} of {len(seeds)} seeds" + (f" ({why})" if why else "")
    asked = len(run.manifest.learning_rates) * len(seeds)
    if len(lost) < asked:
        reason = f"{len(trainings)} of {asked} trainings ended, no model was tested"
        return "missing", reason + (f" ({why})" if why else "")
    return ("diverged" if all(each.status == "diverged" for each in lost) else "failed"), why


def _parity(run: AccuracyRun, ours: dict[int, Evaluation], theirs: dict[int, Evaluation]) -> Parity | None:
    """Single logits of `ours` against all logits of `theirs`, over the seeds both have."""
    seeds = sorted(ours.keys() & theirs.keys())
    if not seeds:
        return None
    return compare(
        [_measured(run, ours[seed], "single") for seed in seeds],
        [_measured(run, theirs[seed], "all") for seed in seeds],
    )


def _measured(run: AccuracyRun, evaluation: Evaluation, score: Literal["single", "all"]) -> Measured:
    influence = run.influences[evaluation.member.name]
    if score == "single":
        return Measured(1 - evaluation.single.auprc, influence.single)
    return Measured(1 - evaluation.all.auprc, influence.all)


def improvement(rows: Sequence[Table1Row], losses: Iterable[str]) -> dict[str, float | None]:
    """Relative improvement of the mean over aligned losses against the mean over the others (Table 1, last rows).

    Over those of `losses` that have a result; None where one side has none, or the others make no error.
    """
    wanted = set(losses)
    sides = {
        aligned: [row for row in rows if row.aligned is aligned and row.loss in wanted and row.measures]
        for aligned in (False, True)
    }
    return {name: _improvement(*(_mean(sides[aligned], name) for aligned in (False, True))) for name in MEASURES}


def _mean(rows: Sequence[Table1Row], measure: str) -> float | None:
    return statistics.fmean(row.measures[measure].mean for row in rows) if rows else None


def _improvement(others: float | None, aligned: float | None) -> float | None:
    return None if others is None or aligned is None or others == 0 else (others - aligned) / others


def improvements(rows: Sequence[Table1Row]) -> dict[str, dict[str, float | None]]:
    """`improvement` over Table 1's seven losses ("paper"), and over all of the eleven where others were ("all").

    Losses that are not the paper's, and rivals of the full top layer, count in neither.
    """
    found = {"paper": improvement(rows, PAPER_LOSSES)}
    eleven = [row.loss for row in rows if row.loss not in BEYOND_THE_PAPER]
    if any(loss not in PAPER_LOSSES for loss in eleven):
        found["all"] = improvement(rows, eleven)
    return found


def table2(run: AccuracyRun) -> list[Table2Row]:
    """Single logit above, all logits below: the mean of the aligned losses, batch CE; CE with all logits, then others.

    With losses beyond Table 1's seven the mean is given for these and for all of the paper's. A rival of the full top
    layer is a line below: it has no logits of single classes.
    """
    rows = [row for row in table1(run) if row.measures]
    dataset = run.manifest.dataset.name
    found = [
        Table2Row(dataset, name, _mean_measures(among), single=True) for name, among in _aligned_groups(rows) if among
    ]
    found += [Table2Row(dataset, row.name, row.measures, single=True) for row in rows if row.loss == "batch-ce"]
    first_ce = sorted(rows, key=lambda row: row.loss != "ce")
    return found + [
        Table2Row(
            dataset,
            row.name if row.loss in RIVALS else f"{row.name} with all logits",
            row.all_measures,
            single=False,
        )
        for row in first_ce
    ]


def _aligned_groups(rows: Sequence[Table1Row]) -> list[tuple[str, list[Table1Row]]]:
    aligned = [row for row in rows if row.aligned and row.loss not in BEYOND_THE_PAPER]
    paper = [row for row in aligned if row.loss in PAPER_LOSSES]
    groups = [("Mean PoLS methods", paper)]
    if len(aligned) > len(paper):
        groups.append((f"Mean PoLS methods, all {len(aligned)}", aligned))
    return groups


def _mean_measures(rows: Sequence[Table1Row]) -> dict[str, Spread]:
    """Means over losses, seed by seed where all have the same seeds; otherwise the mean of their means."""
    seeds = {row.seeds for row in rows}
    if len(seeds) > 1:
        return {name: Spread.of([statistics.fmean(row.measures[name].mean for row in rows)]) for name in MEASURES}
    return {
        name: Spread.of(
            statistics.fmean(values) for values in zip(*(row.measures[name].values for row in rows), strict=True)
        )
        for name in MEASURES
    }


def chosen_trainings(run: AccuracyRun) -> dict[str, Training]:
    """The training behind each tested model, by the name of its member."""
    tested = {each.member for each in run.evaluations}
    return {each.member.name: each for each in run.trainings if each.member in tested}
