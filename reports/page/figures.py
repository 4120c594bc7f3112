"""Figures of the page, as plain objects for plotly.js: which points, what each says when it is pointed at.

A figure has one view or several, of which one is shown; the page's script knows nothing but views, traces, filters.
Colours are numbers of the style sheet's palette, so that light, dark and print each have theirs; a network also has a
symbol, so that no colour has to be told from another. Text goes through `plain`: plotly.js reads a little HTML.
"""

import html
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from bench.run import Sample
from bench.speed.rows import Row, round_tables
from reports import results as speed
from reports import wording
from reports.figures import spread_out
from reports.published import published
from reports.series import Series, names

#: Symbol of plotly.js -> what looks like it in text; as many as the style sheet has colours.
SYMBOLS = {
    "circle": "●",
    "square": "■",
    "triangle-up": "▲",
    "diamond": "◆",
    "triangle-down": "▼",
    "cross": "✚",
    "x": "✖",
}

#: Settings of one network differ by their line.
DASHES = ("solid", "dash", "dashdot", "longdash")

#: Passes drawn of one setting, and of all: an SVG of more is slow to open, and no screen shows more.
SAMPLES_OF_A_SETTING = 2000
SAMPLES_OF_A_PAGE = 24_000
FEWEST_SAMPLES = 150

#: Ticks nearer than this share of the axis are written in two lines; speedups stand at least this share apart.
CLOSE_TICKS = 0.09
CLOSE_TEXTS = 0.05

#: Above this many lines the speedups written at their ends would cover one another.
MOST_LABELLED = 8

Trace = dict[str, Any]

_SUPERSCRIPTS = str.maketrans("0123456789.", "⁰¹²³⁴⁵⁶⁷⁸⁹·")


@dataclass(frozen=True)
class View:
    """One way to look at a figure."""

    name: str
    traces: list[Trace]
    layout: dict[str, Any]
    note: str = ""


@dataclass(frozen=True)
class Figure:
    """A figure: its place on the page, its views, the question their choice answers."""

    id: str
    caption: str
    views: list[View]
    choice: str = "Show"
    filters: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    """name of a filter -> its choices: value, text, and for networks colour and symbol"""


def plain(text: str) -> str:
    """Text that plotly.js shows as it is: it would read tags and entities."""
    return html.escape(" ".join(text.split()), quote=False)


def says(*lines: str) -> str:
    """What a point says when it is pointed at, a line each."""
    return "<br>".join(plain(line) for line in lines if line)


def power(classes: int) -> str:
    """A class count for an axis: a power of two where it is one, 2¹⁸."""
    exponent = wording.exponent(classes)
    return wording.count(classes) if exponent is None else f"2{exponent.translate(_SUPERSCRIPTS)}"


def fig1(series: Sequence[Series]) -> Figure | None:
    """Fig. 1: time of one example, and in a second view the speedup, against the number of classes."""
    shown = [each for each in series if any(row.median_s is not None for row in each.points)]
    if not shown:
        return None
    networks = list(dict.fromkeys(each.arch for each in shown))
    counts = sorted({row.classes for each in shown for row in each.points})
    place = ClassAxis(counts)
    views = [
        View("time of one example", _fig1_traces(shown, networks, place, "time"), _fig1_layout(place, "time")),
        View("speedup of one logit", _fig1_traces(shown, networks, place, "speedup"), _fig1_layout(place, "speedup")),
    ]
    kinds = {trace["meta"]["kind"] for view in views for trace in view.traces}
    filters: dict[str, list[dict[str, Any]]] = {
        "network": [
            {"value": arch, "text": arch, "colour": colour_of(index), "symbol": symbol_of(index)[1]}
            for index, arch in enumerate(networks)
        ],
        "device": [
            {"value": device, "text": device}
            for device in dict.fromkeys(row.device for each in shown for row in each.rows)
        ],
        "kind": [
            {"value": kind, "text": text, "off": kind == "predicted"} for kind, text in _KINDS.items() if kind in kinds
        ],
    }
    caption = "Fig. 1: one logit against all logits, as the number of classes grows"
    return Figure("fig1", caption, views, filters=filters)


#: What the lines of Fig. 1 are.
_KINDS = {
    "measured": "all logits, measured",
    "single": "one logit, measured",
    "published": "published (hollow, dotted)",
    "predicted": "predicted (thin, dashed)",
    "failed": "failed (crosses below)",
}


class ClassAxis:
    """Places of class counts: logarithmic but for the gap between one class and the next, as in reports.figures."""

    def __init__(self, counts: Sequence[int]) -> None:
        """`counts`: those with a tick, ascending."""
        self.counts = counts
        self._unit = (counts[1] - 1) / 3 if len(counts) > 1 else 1.0

    def __call__(self, classes: float) -> float:
        """The place of a class count, 0 for one class."""
        return round(math.log2(1 + (classes - 1) / self._unit), 5)

    @property
    def last(self) -> float:
        """The place of the largest count."""
        return self(self.counts[-1])


def colour_of(index: int) -> int:
    """Number of a colour of the palette."""
    return index % len(SYMBOLS)


def symbol_of(index: int) -> tuple[str, str]:
    """A symbol, for plotly.js and as text; goes on to other pairs with colours when they have all been used."""
    return list(SYMBOLS.items())[(index + index // len(SYMBOLS)) % len(SYMBOLS)]


def _fig1_traces(series: Sequence[Series], networks: Sequence[str], place: ClassAxis, view: str) -> list[Trace]:
    traces = []
    seen: dict[str, int] = {}
    ends: list[tuple[Trace, str]] = []
    for each, name in zip(series, names(series), strict=True):
        look = _Look(networks.index(each.arch), DASHES[seen.get(each.arch, 0) % len(DASHES)])
        first = each.arch not in seen
        seen[each.arch] = seen.get(each.arch, 0) + 1
        single = each.single
        base = 1.0 if view == "speedup" else None if single is None else single.median_s
        traces.append(_measured(each, name, place, look, view))
        ends.append((traces[-1], f"×{wording.speedup(largest.speedup)}" if (largest := _last(each)) else ""))
        if base is not None and single is not None and single.median_s is not None:
            traces += [_flat(each, name, place, look, base if view == "speedup" else _ms(base))]
            traces += _predicted(each, name, place, look, view, single.median_s)
        if first:
            traces += _published(each, place, look, view)
    heights = [height for trace in traces for height in trace["y"]]
    if heights:
        looks = [_Look(networks.index(each.arch), "solid") for each in series]
        for each, name, look in zip(series, names(series), looks, strict=True):
            traces += _failed(each, name, place, look, min(heights))
    if len(series) <= MOST_LABELLED:
        ends = [(trace, text) for trace, text in ends if text]
        everything = [height for trace in traces for height in trace["y"]]
        traces += _labels([trace for trace, _ in ends], [text for _, text in ends], everything) if ends else []
    for number, trace in enumerate(traces):
        trace["uid"] += f"-{number}"
    return traces


@dataclass(frozen=True)
class _Look:
    index: int
    dash: str

    @property
    def uid(self) -> str:
        return f"c{colour_of(self.index)}"

    @property
    def symbol(self) -> str:
        return symbol_of(self.index)[0]


def _ms(seconds: float) -> float:
    return rounded(1e3 * seconds)


def rounded(value: float) -> float:
    """Five digits: more than a screen can show."""
    return float(f"{value:.5g}")


def _trace(series: Series, kind: str, look: _Look, **more: Any) -> Trace:
    meta = {"network": series.arch, "device": series.rows[0].device, "kind": kind}
    return {"type": "scatter", "uid": look.uid, "meta": meta, "hoverinfo": "text", **more}


def _measured(series: Series, name: str, place: ClassAxis, look: _Look, view: str) -> Trace:
    rows = _drawn(series)
    heights = [(row.speedup or 0.0) if view == "speedup" else 1e3 * (row.median_s or 0.0) for row in rows]
    above, below = _error_bars(rows, heights)
    return _trace(
        series,
        "measured",
        look,
        mode="lines+markers",
        x=[place(row.classes) for row in rows],
        y=[rounded(height) for height in heights],
        hovertext=[point_says(name, row) for row in rows],
        line={"dash": look.dash, "width": 2},
        marker={"symbol": look.symbol, "size": 8},
        error_y={"type": "data", "array": above, "arrayminus": below, "thickness": 1, "width": 3},
    )


def _drawn(series: Series) -> list[Row]:
    return [row for row in series.points if row.median_s is not None and row.speedup is not None]


def _last(series: Series) -> Row | None:
    """The measured point at the end of a line, if the line is one."""
    return next((row for row in reversed(_drawn(series)) if row.classes > 1), None)


def _error_bars(rows: Sequence[Row], heights: Sequence[float]) -> tuple[list[float], list[float]]:
    """Reaches of the speedup's 95 % interval, scaled to these heights; 0 where there is none."""
    above, below = [], []
    for row, height in zip(rows, heights, strict=True):
        if row.speedup and row.speedup_low is not None and row.speedup_high is not None:
            above.append(rounded(height * (row.speedup_high / row.speedup - 1)))
            below.append(rounded(height * (1 - row.speedup_low / row.speedup)))
        else:
            above.append(0.0)
            below.append(0.0)
    return above, below


def point_says(name: str, row: Row) -> str:
    """What a measured point says: the numbers as they stand in Table 3."""
    interval = wording.interval(row, " to ")
    speedup = "" if row.classes == 1 else f"speedup {wording.speedup(row.speedup)}"
    return says(
        name,
        f"{wording.count(row.classes)} {'class: one logit' if row.classes == 1 else 'classes'}",
        f"{wording.milliseconds(row.median_s)} ms",
        speedup + (f" (95 % interval {interval})" if interval else ""),
    )


def _flat(series: Series, name: str, place: ClassAxis, look: _Look, height: float) -> Trace:
    text = says(name, "one logit, whatever the number of classes")
    return _trace(
        series,
        "single",
        look,
        mode="lines",
        x=[0, place.last],
        y=[rounded(height)] * 2,
        hovertext=[text] * 2,
        opacity=0.6,
        line={"width": 1.2},
    )


def _predicted(series: Series, name: str, place: ClassAxis, look: _Look, view: str, single_s: float) -> list[Trace]:
    rows = [row for row in series.points if row.predicted_s is not None]
    if not rows:
        return []
    found = [(1, single_s), *((row.classes, row.predicted_s or 0.0) for row in rows if row.classes > 1)]
    return [
        _trace(
            series,
            "predicted",
            look,
            mode="lines",
            x=[place(classes) for classes, _ in found],
            y=[rounded(seconds / single_s) if view == "speedup" else _ms(seconds) for _, seconds in found],
            hovertext=[
                says(name, f"{wording.count(classes)} classes, predicted", f"{wording.milliseconds(seconds)} ms")
                for classes, seconds in found
            ],
            line={"dash": "dash", "width": 1},
        )
    ]


def _published(series: Series, place: ClassAxis, look: _Look, view: str) -> list[Trace]:
    largest = place.counts[-1]
    points = [point for point in published(series.arch) if point.classes <= largest]
    if not points:
        return []
    return [
        _trace(
            series,
            "published",
            _Look(look.index, look.dash),
            mode="lines+markers",
            x=[place(point.classes) for point in points],
            y=[rounded(point.speedup) if view == "speedup" else _ms(point.seconds) for point in points],
            hovertext=[
                says(
                    f"{series.arch}, published (Maxwell Titan X)",
                    f"{wording.count(point.classes)} {'class' if point.classes == 1 else 'classes'}",
                    f"{1e3 * point.seconds:.1f} ms",
                    f"speedup {wording.speedup(point.speedup)}" if point.classes > 1 else "",
                )
                for point in points
            ],
            line={"dash": "dot", "width": 1},
            marker={"symbol": f"{look.symbol}-open", "size": 8},
        )
        | {"uid": f"o{colour_of(look.index)}"}
    ]


def _failed(series: Series, name: str, place: ClassAxis, look: _Look, height: float) -> list[Trace]:
    """Class counts without a time, as crosses at the foot of the figure."""
    rows = [row for row in series.points if row.status != "ok"]
    if not rows:
        return []
    texts = [says(name, f"{wording.count(row.classes)} classes: {row.status}", row.reason) for row in rows]
    return [
        _trace(
            series,
            "failed",
            look,
            mode="markers",
            x=[place(row.classes) for row in rows],
            y=[height] * len(rows),
            hovertext=texts,
            marker={"symbol": "x", "size": 9},
        )
    ]


def tick_texts(place: ClassAxis) -> list[str]:
    """Class counts for the axis, those too close to the one before a line lower."""
    texts: list[str] = []
    upper = -math.inf
    for classes in place.counts:
        is_close = place(classes) - upper < CLOSE_TICKS * place.last
        texts.append(("<br>" if is_close else "") + power(classes))
        upper = upper if is_close else place(classes)
    return texts


def _labels(measured: Sequence[Trace], texts: Sequence[str], everything: Sequence[float]) -> list[Trace]:
    """The speedups written at the ends of lines, moved apart where one would cover another; gone with their line."""
    low = min(everything)
    span = math.log(max(max(everything) / low, 1.6))
    heights = spread_out([math.log(trace["y"][-1] / low) / span for trace in measured], CLOSE_TEXTS)
    return [
        {
            "type": "scatter",
            "uid": trace["uid"],
            "meta": trace["meta"],
            "hoverinfo": "skip",
            "mode": "text",
            "x": trace["x"][-1:],
            "y": [rounded(low * math.exp(height * span))],
            "text": [f"  {text}"],
            "textposition": "middle right",
            "cliponaxis": False,
        }
        for trace, text, height in zip(measured, texts, heights, strict=True)
    ]


def _fig1_layout(place: ClassAxis, view: str) -> dict[str, Any]:
    title = "time of one example, ms" if view == "time" else "time of all logits / time of one"
    span = max(place.last, 1.0)
    return {
        "xaxis": {
            "title": {"text": "classes"},
            "tickmode": "array",
            "tickvals": [place(classes) for classes in place.counts],
            "ticktext": tick_texts(place),
            "tickangle": 0,
            "range": [-0.04 * span, 1.04 * span],
        },
        "yaxis": {"title": {"text": title}, "type": "log"},
        "margin": {"r": 52},
    }


def samples(found: Sequence[speed.Result]) -> Figure | None:
    """Every pass in the order it was taken, a view a setting; thinned for drawing where there are very many."""
    series = [each for result in found for each in result.series]
    named = iter(names(series))
    limit = max(FEWEST_SAMPLES, min(SAMPLES_OF_A_SETTING, SAMPLES_OF_A_PAGE // max(1, len(series))))
    views = []
    for result in found:
        settings, tables = result.run.manifest.settings, round_tables(result.run)
        for each in result.series:
            name = next(named)
            if each.setting is None:
                continue
            index = settings.index(each.setting)
            slots = [*((count, False) for count in tables[index].counts()), (1, True)]
            taken = {slot: tables[index].samples(*slot) for slot in slots}
            if any(taken.values()):
                views.append(_samples_view(name, taken, settings[index].batch_size, limit))
    if not views:
        return None
    return Figure("samples", "Samples: every pass in the order it was taken", views, choice="Network")


Slots = dict[tuple[int, bool], list[Sample]]


def _samples_view(name: str, taken: Slots, batch_size: int, limit: int) -> View:
    rounds = sorted({(sample.process, sample.round) for own in taken.values() for sample in own})
    numbers = {key: number for number, key in enumerate(rounds, start=1)}
    total = sum(map(len, taken.values()))
    stride = math.ceil(total / limit)
    marked = [sample for own in taken.values() for sample in own if sample.marks]
    marked_stride = max(1, math.ceil(len(marked) / limit))
    traces = [
        _samples_trace(
            slot, [each for each in own if numbers[_round(each)] % stride == 1 % stride], index, numbers, batch_size
        )
        for index, (slot, own) in enumerate(taken.items())
        if own
    ]
    if marked:
        traces.append(_marked_trace(marked[::marked_stride], numbers, batch_size))
    told = (
        f"{wording.count(total)} passes, {len(marked)} of them marked"
        if marked
        else f"{wording.count(total)} passes, none marked"
    )
    if stride > 1:
        told += f"; drawn are those of every {_ordinal(stride)} round"
        told += (
            (" and every marked one" if marked_stride == 1 else f" and every {_ordinal(marked_stride)} marked one")
            if marked
            else ""
        )
        told += " (the estimates use all)"
    layout = {
        "xaxis": {"title": {"text": "round"}},
        "yaxis": {"title": {"text": "time of one example, ms"}, "type": "log"},
    }
    return View(name, traces, layout, note=f"{told}. Warm-up rounds are not drawn.")


def _round(sample: Sample) -> tuple[int, int]:
    return sample.process, sample.round


def _ordinal(number: int) -> str:
    return {2: "2nd", 3: "3rd"}.get(number, f"{number}th")


def _samples_trace(
    slot: tuple[int, bool],
    own: Iterable[Sample],
    index: int,
    numbers: dict[tuple[int, int], int],
    batch_size: int,
) -> Trace:
    own = list(own)
    classes, control = slot
    name = (
        "one logit again (control)" if control else "one logit" if classes == 1 else f"{wording.count(classes)} classes"
    )
    symbol, glyph = symbol_of(index)
    return {
        "type": "scatter",
        "uid": f"c{colour_of(index)}-{index}",
        "meta": {"legend": name, "colour": colour_of(index), "symbol": glyph},
        "hoverinfo": "text",
        "mode": "markers",
        "x": [numbers[_round(sample)] for sample in own],
        "y": [_ms(sample.wall_s / batch_size) for sample in own],
        "hovertext": [_sample_says(name, sample, numbers, batch_size) for sample in own],
        "marker": {"symbol": symbol, "size": 5, "opacity": 0.75},
    }


def _marked_trace(marked: Sequence[Sample], numbers: dict[tuple[int, int], int], batch_size: int) -> Trace:
    return {
        "type": "scatter",
        "uid": "w-marked",
        "meta": {"legend": "marked: contention or throttling", "colour": "warn", "symbol": "◯"},
        "hoverinfo": "text",
        "mode": "markers",
        "x": [numbers[_round(sample)] for sample in marked],
        "y": [_ms(sample.wall_s / batch_size) for sample in marked],
        "hovertext": [
            _sample_says(f"marked: {', '.join(sample.marks)}", sample, numbers, batch_size) for sample in marked
        ],
        "marker": {"symbol": "circle-open", "size": 13, "line": {"width": 2}},
    }


def _sample_says(name: str, sample: Sample, numbers: dict[tuple[int, int], int], batch_size: int) -> str:
    where = f"round {numbers[_round(sample)]}" + (f" (process {sample.process})" if sample.process else "")
    return says(
        name,
        f"{wording.count(sample.classes)} {'class' if sample.classes == 1 else 'classes'}, {where}",
        f"{wording.milliseconds(sample.wall_s / batch_size)} ms",
    )
