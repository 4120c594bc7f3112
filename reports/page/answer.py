"""The answer in sentences: how much faster, from how many classes on, at what accuracy."""

from collections.abc import Sequence

from bench.accuracy.rows import Table1Row
from bench.speed.rows import BreakEven
from reports import results as speed
from reports import wording
from reports.accuracy import results as accuracy
from reports.accuracy import wording as accuracy_wording
from reports.page.tables import about, largest
from reports.series import Series, names

#: Of the break-even counts the one that is told first: below it one logit is hardly worth the trouble.
WORTHWHILE = 1.1


def sentences(found: Sequence[speed.Result], accuracies: Sequence[accuracy.Result]) -> list[str]:
    """The answer: a sentence or two on speed, one on each data set's accuracy; what was not measured is said too."""
    series = [each for result in found for each in result.series]
    told = speed_sentences(series, [each for result in found for each in result.break_evens]) if found else []
    if not told:
        told = ["How much faster one logit is was not measured: `python -m bench --arch NAME` does."]
    if not accuracies:
        return [*told, "What it costs in accuracy was not measured: `python -m bench accuracy` does."]
    labels = accuracy_wording.dataset_labels([result.run for result in accuracies])
    return told + [accuracy_sentence(label, result.rows) for label, result in zip(labels, accuracies, strict=True)]


def speed_sentences(series: Sequence[Series], break_evens: Sequence[BreakEven]) -> list[str]:
    """How much faster at the largest class count, and from how many classes on; empty if nothing was compared."""
    named = zip(series, names(series), strict=True)
    compared = [(each, name) for each, name in named if each.is_compared and each.is_against_all]
    if not compared:
        return []
    told = [_one(*compared[0]) if len(compared) == 1 else _several(compared)]
    return [*told, *_from_how_many(break_evens)]


def _one(series: Series, name: str) -> str:
    row = largest(series)
    classes = wording.count(row.classes)
    interval = wording.interval(row, " to ")
    between = f" (95 % interval {interval})" if interval else ""
    if row.speedup_low is not None and row.speedup_low <= 1:
        unsure = f"With {name}, one logit is not shown to be faster than all {classes}"
        return f"{unsure}: ×{wording.speedup(row.speedup)}{between}."
    return f"With {name}, one logit is ×{wording.speedup(row.speedup)} as fast as all {classes}{between}."


def _several(compared: Sequence[tuple[Series, str]]) -> str:
    rows = sorted(((largest(each), name) for each, name in compared), key=lambda pair: pair[0].speedup or 0.0)
    (low, low_name), (high, high_name) = rows[0], rows[-1]
    counts = {row.classes for row, _ in rows}
    whole = f"all {wording.count(low.classes)}" if len(counts) == 1 else "all, at the largest class count of each"
    text = (
        f"One logit is ×{wording.speedup(low.speedup)} ({low_name}) to ×{wording.speedup(high.speedup)} "
        f"({high_name}) as fast as {whole}."
    )
    unsure = [name for row, name in rows if row.speedup_low is not None and row.speedup_low <= 1]
    return text + (f" Not shown to be faster at all: {', '.join(unsure)}." if unsure else "")


def _from_how_many(break_evens: Sequence[BreakEven]) -> list[str]:
    wanted = [each for each in break_evens if each.speedup == WORTHWHILE]
    known = sorted(
        (each for each in wanted if each.classes is not None), key=lambda each: (each.classes or 0.0, each.arch)
    )
    if not known:
        return ["From how many classes on it pays, the measured counts cannot say."] if wanted else []
    low, high = known[0], known[-1]
    text = f"It is {WORTHWHILE:g} times as fast from {_about(low)}"
    if len(known) > 1:
        text += f" ({low.arch}) to {_about(high)} ({high.arch})"
    text += " classes on"
    missing = len(wanted) - len(known)
    return [text + (f"; of {missing} settings the measured counts cannot say." if missing else ".")]


def _about(found: BreakEven) -> str:
    assert found.classes is not None
    return about(found.classes) + (" (extrapolated)" if found.extrapolated else "")


def accuracy_sentence(label: str, rows: Sequence[Table1Row]) -> str:
    """The best single logit of a data set beside all logits of CE, and how many losses reach parity with those."""
    tested = [row for row in rows if row.measures]
    if not tested:
        return f"Accuracy on {label}: no model was tested yet."
    measure, heading = next(iter(accuracy_wording.MEASURES.items()))
    best = min(tested, key=lambda row: row.measures[measure].mean)
    text = f"Accuracy on {label}: the best single logit is that of {best.name}, {heading} "
    text += accuracy_wording.spread(best.measures[measure], " ± ")
    ce = next((row for row in tested if row.loss == "ce" and measure in row.all_measures), None)
    if ce is None:
        return f"{text}; all logits of CE were not measured beside it."
    text += f", where all logits of CE have {accuracy_wording.spread(ce.all_measures[measure], ' ± ')}"
    verdicts = [row.parity_with_ce.verdict for row in tested if row.parity_with_ce is not None]
    told = [
        f"{verdicts.count(verdict)} {words}"
        for verdict, words in (("parity", "shown to be as good"), ("undecided", "undecided"), ("worse", "worse"))
        if verdict in verdicts
    ]
    return (
        f"{text}. Against those, of {len(verdicts)} losses' single logits: {', '.join(told)}." if told else f"{text}."
    )
