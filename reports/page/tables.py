"""Tables of the page: text for people, and beside it the number by which a column is sorted."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from bench.speed.rows import BREAK_EVEN_SPEEDUPS, Row
from reports import results as speed
from reports import wording
from reports.accuracy import results as accuracy
from reports.accuracy import wording as accuracy_wording
from reports.accuracy.tables import best_of, is_first_aligned
from reports.published import published_losses, published_methods, table1_improvement
from reports.series import Series, names
from reports.tables import beside_published, beside_published_cells

if TYPE_CHECKING:
    from bench.accuracy.rows import Spread, Table1Row, Table2Row
    from bench.speed.rows import BreakEven


@dataclass(frozen=True)
class Column:
    """A column and what stands above it."""

    heading: str
    is_number: bool = True


@dataclass(frozen=True)
class Cell:
    """What is read, and by what it is sorted: an empty cell stays below, whichever way."""

    text: str
    key: float | str | None = None
    strong: bool = False
    """the best of its column"""


@dataclass(frozen=True)
class Line:
    """A line; the first of its cells names it."""

    cells: tuple[Cell, ...]
    network: str = ""
    """what the page's filters look at, empty where they do not apply"""
    device: str = ""
    kind: str = ""
    """failed, control, or below-dashes: how the line is set off"""


@dataclass(frozen=True)
class Table:
    """A table with its caption; `footer` holds lines that stay below when the others are sorted."""

    id: str
    caption: str
    columns: tuple[Column, ...]
    lines: tuple[Line, ...]
    footer: tuple[Line, ...] = ()
    notes: tuple[str, ...] = field(default=())


def number(text: str, key: float | None) -> Cell:
    """A cell of a number, as it is printed and as it is."""
    return Cell(text, key)


def words(text: str) -> Cell:
    """A cell of text, sorted by it without regard to case."""
    return Cell(text, text.casefold() or None)


def _memory(row: Row) -> str:
    return "" if row.peak_memory_bytes is None else wording.significant(row.peak_memory_bytes / 1e9)


def _spread_of_passes(row: Row) -> str:
    if row.p5_s is None or row.p95_s is None:
        return ""
    return f"{wording.milliseconds(row.p5_s)} to {wording.milliseconds(row.p95_s)}"


#: Columns of Table 3 after the network's name.
_TABLE3: tuple[tuple[Column, Callable[[Row], Cell]], ...] = (
    (Column("classes"), lambda row: number(wording.classes_of(row), row.classes)),
    (Column("speedup"), lambda row: number(wording.speedup(row.speedup), row.speedup)),
    (Column("95 % interval"), lambda row: number(wording.interval(row, " to "), row.speedup_low)),
    (Column("median, ms"), lambda row: number(wording.milliseconds(row.median_s), row.median_s)),
    (Column("5-95 % of passes, ms"), lambda row: number(_spread_of_passes(row), row.p5_s)),
    (Column("mean, ms"), lambda row: number(wording.milliseconds(row.mean_s), row.mean_s)),
    (Column("speedup of means"), lambda row: number(wording.speedup(row.speedup_of_means), row.speedup_of_means)),
    (Column("predicted, ms"), lambda row: number(wording.milliseconds(row.predicted_s), row.predicted_s)),
    (Column("peak memory, GB"), lambda row: number(_memory(row), row.peak_memory_bytes)),
    (Column("device", is_number=False), lambda row: words(row.device)),
    (Column("status", is_number=False), lambda row: words(wording.status(row))),
)


def table3(series: Sequence[Series]) -> Table:
    """Table 3: a line a point, and one for each control."""
    several = len({row.device for each in series for row in each.rows}) > 1
    shown = [(column, cell) for column, cell in _TABLE3 if several or column.heading != "device"]
    lines = [
        Line(
            (words(name), *(cell(row) for _, cell in shown)),
            network=each.arch,
            device=row.device,
            kind="failed" if row.status != "ok" else "control" if row.kind == "control" else "",
        )
        for each, name in zip(series, names(series), strict=True)
        for row in each.rows
    ]
    note = (
        "Times are for one example. Speedup: median time over the single logit's median, with its 95 % interval. "
        "Speedup of means: the paper's estimator. Control: the single logit measured a second time, must be 1. Status: "
        "rounds measured; samples marked for contention or throttling are counted, not dropped."
    )
    columns = (Column("network", is_number=False), *(column for column, _ in shown))
    return Table("table3", "Table 3: inference time and speedup", columns, tuple(lines), notes=(note,))


def by_setting(found: Sequence[speed.Result]) -> Table | None:
    """The answer, a line a setting: the speedup at the largest class count, and from how many classes on it pays."""
    series = [each for result in found for each in result.series]
    evens = [_break_evens(result, each) for result in found for each in result.series]
    lines = [
        _answer_line(each, name, own)
        for each, name, own in zip(series, names(series), evens, strict=True)
        if each.is_compared
    ]
    if not lines:
        return None
    columns = (
        Column("network", is_number=False),
        Column("largest class count"),
        Column("speedup there"),
        Column("95 % interval"),
        *(Column(f"{target:g} times as fast from") for target in BREAK_EVEN_SPEEDUPS),
    )
    note = (
        "How many classes it takes until one logit is so many times as fast as all of them, to two digits. In italics: "
        "beyond what was measured, along a straight line. A dash: the measured counts cannot say."
    )
    return Table("answer", "One logit against all logits, by network", columns, tuple(lines), notes=(note,))


def _break_evens(result: speed.Result, series: Series) -> "dict[float, BreakEven]":
    settings = result.run.manifest.settings
    return {each.speedup: each for each in result.break_evens if settings[each.setting] == series.setting}


def largest(series: Series) -> Row:
    """The point of the largest class count that has a speedup. Raises ValueError if there is none."""
    return max(
        (row for row in series.points if row.classes > 1 and row.speedup is not None), key=lambda row: row.classes
    )


def _answer_line(series: Series, name: str, evens: "Mapping[float, BreakEven]") -> Line:
    row = largest(series)
    cells = [words(name), number(wording.count(row.classes), row.classes)]
    cells += [Cell(f"×{wording.speedup(row.speedup)}", row.speedup, strong=True)]
    cells += [number(wording.interval(row, " to "), row.speedup_low)]
    cells += [_from(evens.get(target)) for target in BREAK_EVEN_SPEEDUPS]
    return Line(tuple(cells), network=series.arch, device=row.device)


def _from(found: "BreakEven | None") -> Cell:
    if found is None or found.classes is None:
        return Cell("-")
    return Cell(about(found.classes) + (" (extrapolated)" if found.extrapolated else ""), found.classes)


def about(classes: float) -> str:
    """A number of classes nobody counted, to two digits: 130,000."""
    return wording.count(round(float(f"{classes:.1e}")))


def beside_paper(series: Sequence[Series]) -> Table | None:
    """Measured beside published, at the counts and networks that both have."""
    header, texts = beside_published_cells(series)
    if not texts:
        return None
    frame = beside_published(series)
    shown = [name for name in frame.columns if name != "status" and (name != "setting" or "setting" in header)]
    devices = [
        (each.arch, row.device) for each in series for row in each.points for _ in _published_at(each.arch, row.classes)
    ]
    lines = [
        Line(
            tuple(
                words(text) if name in ("arch", "setting") else number(text, None if value != value else float(value))
                for name, text, value in zip(shown, line, (record[name] for name in shown), strict=True)
            ),
            network=network,
            device=device,
        )
        for line, record, (network, device) in zip(texts, _records(frame), devices, strict=True)
    ]
    columns = tuple(Column(heading, heading not in wording.WORDS) for heading in header)
    sizes = ", ".join(str(size) for size in sorted({row.batch_size for each in series for row in each.rows}))
    note = (
        "The paper: Keren et al. 2019, Table 3, TensorFlow on a Maxwell Titan X, minibatches of 32. Both by its "
        f"estimator, mean time for one example; measured here with minibatches of {sizes}."
    )
    return Table("published", "Measured beside published", columns, tuple(lines), notes=(note,))


def _published_at(arch: str, classes: int) -> list[Any]:
    from reports.published import published

    return [point for point in published(arch) if point.classes == classes]


def _records(frame: Any) -> list[dict[str, Any]]:
    return list(frame.to_dict("records"))


def table1(label: str, result: accuracy.Result, index: int) -> Table:
    """Table 1 of one run: a line a loss, and below them by how much the aligned losses are better."""
    measures = accuracy_wording.MEASURES
    dataset = result.run.manifest.dataset.name
    paper = published_losses(dataset)
    best = {measure: best_of([row.measures.get(measure) for row in result.rows]) for measure in measures}
    columns = [Column("loss", is_number=False), Column("aligned", is_number=False), Column("rate")]
    columns += [Column(heading) for heading in (*measures.values(), "1-AUPRC, trapezoid", "accuracy")]
    columns += [Column("against all logits of CE", is_number=False)]
    columns += [Column(f"paper: {heading}") for heading in measures.values()] if paper else []
    lines = []
    for place, row in enumerate(result.rows):
        cells = _loss_cells(row, best)
        if paper:
            known = paper.get(row.name)
            cells += [_decimal3(None if known is None else known.measures[measure]) for measure in measures]
        kind = "failed" if row.status != "ok" else "below-dashes" if is_first_aligned(result.rows, place) else ""
        lines.append(Line(tuple(cells), kind=kind))
    footer = [
        _improvement_line(losses, found, dataset, with_paper=bool(paper))
        for losses, found in result.told_improvements.items()
    ]
    note = (
        "Single logit on the test data, means over the classes; lower is better, the best is bold. Aligned losses, "
        "below the dashed line, follow the Principle of Logit Separation. Against all logits of CE: parity is shown "
        "where the error is within 10 % with 95 % confidence; the interval of the ratio is in brackets."
    )
    notes = (note, accuracy_wording.hyperparameters(result.run.manifest.losses))
    caption = f"Table 1: single logit classification by loss, {label}"
    return Table(f"table1-{index}", caption, tuple(columns), tuple(lines), tuple(footer), tuple(filter(None, notes)))


def _loss_cells(row: "Table1Row", best: Mapping[str, str]) -> list[Cell]:
    cells = [words(row.name), words("yes" if row.aligned else "no")]
    if row.status != "ok":
        empty = len(accuracy_wording.MEASURES) + 2
        return [*cells, Cell(""), *[Cell("")] * empty, words(accuracy_wording.status(row))]
    cells.append(number(accuracy_wording.rates(row), row.learning_rate[0]))
    cells += [_spread(row.measures.get(measure), best[measure]) for measure in accuracy_wording.MEASURES]
    cells += [_spread(row.measures.get(accuracy_wording.TRAPEZOID)), _spread(row.accuracy)]
    return [*cells, words(accuracy_wording.parity(row.parity_with_ce))]


def _spread(found: "Spread | None", best: str = "") -> Cell:
    text = accuracy_wording.spread(found, " ± ")
    return Cell(text, None if found is None else found.mean, strong=bool(best) and text.split(" ")[0] == best)


def _decimal3(value: float | None) -> Cell:
    return number("" if value is None else f"{value:.3f}", value)


def _improvement_line(losses: str, found: Mapping[str, float | None], dataset: str, *, with_paper: bool) -> Line:
    measures = accuracy_wording.MEASURES
    cells = [words(accuracy_wording.improvement_name(losses)), Cell(""), Cell("")]
    cells += [number(accuracy_wording.percent(found.get(measure)), found.get(measure)) for measure in measures]
    cells += [Cell("")] * 3
    if with_paper:
        known = table1_improvement().get(dataset, {}) if losses == "paper" else {}
        cells += [number(accuracy_wording.percent(known.get(measure)), known.get(measure)) for measure in measures]
    return Line(tuple(cells))


def table2(label: str, result: accuracy.Result, index: int) -> Table:
    """Table 2 of one run: one logit beside all logits."""
    measures = accuracy_wording.MEASURES
    paper = published_methods(result.run.manifest.dataset.name)
    columns = [Column("method", is_number=False), Column("logits", is_number=False)]
    columns += [Column(heading) for heading in (*measures.values(), "1-AUPRC, trapezoid")]
    columns += [Column(f"paper: {heading}") for heading in measures.values()] if paper else []
    lines = []
    for place, row in enumerate(result.methods):
        below = place > 0 and result.methods[place - 1].single and not row.single
        lines.append(Line(tuple(_method_cells(row, paper)), kind="below-dashes" if below else ""))
    note = "All logits: the log-odds of the class from all logits of the same models; lower is better."
    caption = f"Table 2: single logit beside all logits, {label}"
    return Table(f"table2-{index}", caption, tuple(columns), tuple(lines), notes=(note,))


def _method_cells(row: "Table2Row", paper: Mapping[str, Any]) -> list[Cell]:
    measures = accuracy_wording.MEASURES
    cells = [words(row.name), words("one" if row.single else "all")]
    cells += [_spread(row.measures.get(measure)) for measure in (*measures, accuracy_wording.TRAPEZOID)]
    if paper:
        known = paper.get(row.name)
        cells += [_decimal3(None if known is None else known.measures[measure]) for measure in measures]
    return cells


def controls(series: Sequence[Series]) -> Table | None:
    """The controls: the single logit against itself."""
    lines = [
        Line(
            (
                words(name),
                number(f"{row.speedup:.3f}", row.speedup),
                number(wording.interval(row, " to "), row.speedup_low),
                words(_control_verdict(row)),
            ),
            network=each.arch,
            device=row.device,
        )
        for each, name in zip(series, names(series), strict=True)
        if (row := each.control) is not None and row.speedup is not None
    ]
    if not lines:
        return None
    headings = ("network", "one logit against itself", "95 % interval", "holds 1")
    columns = tuple(Column(heading, heading not in ("network", "holds 1")) for heading in headings)
    note = "The single logit is measured twice in every round; the two must agree, and the interval must hold 1."
    return Table("controls", "Controls", columns, tuple(lines), notes=(note,))


def _control_verdict(row: Row) -> str:
    if row.speedup_low is None or row.speedup_high is None:
        return "no interval yet"
    return "yes" if row.speedup_low <= 1 <= row.speedup_high else "no"
