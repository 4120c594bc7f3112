"""Predictions as lines and tables for a terminal, and as the object of --json.

What is predicted stands beside what was measured, the error beside both, and how far it is from the largest measured
count; for the paper's networks its own last step is held against the line through its smaller counts.
"""

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TextIO

from rich import box
from rich.table import Table
from rich.text import Text

from bench.speed import predict
from bench.speed.rows import BREAK_EVEN_SPEEDUPS
from reports import wording
from reports.published import published
from reports.terminal import console_for

if TYPE_CHECKING:
    from bench.speed.model_sources import Source
    from bench.speed.predict import Check, Spread

#: Name and version of what --json prints.
SCHEMA = "slc-bench/predictions/1"

COLUMNS = ("classes", "ms/example", "range", "speedup", "measured ms", "error", "weight GB", "logits GB", "")

#: The paper's last step: from 2**18 to 2**18.5 rounded down.
STEP_FROM, STEP_TO = 262_144, 370_727

PAPER_COLUMNS = (
    "architecture",
    "at one class",
    "at 2^18",
    "at 2^18.5",
    "last step",
    "the line's step",
    "step predicted here",
)


def print_predictions(
    sources: Sequence["Source"], classes: Sequence[int], error: "Spread | None", stream: TextIO | None = None
) -> None:
    """A table for each source, what its numbers rest on, and the paper's last step where its networks are asked for."""
    console = console_for(stream or sys.stdout)
    for source in sources:
        console.print(Text(heading(source), style="bold"), soft_wrap=True)
        console.print(_table(source, classes, error))
        for line in (basis(source), *reach(source, classes), break_even_line(source)):
            console.print(line, soft_wrap=True)
        console.print()
    console.print(error_text(sources, error), soft_wrap=True)
    beside = paper_cells(sources)
    if beside:
        console.print("\nthe paper's own last step (Table 3, ms an example on a Maxwell Titan X):")
        console.print(_paper_table(beside))
        console.print(PAPER_TEXT, soft_wrap=True)


def to_object(
    sources: Sequence["Source"], classes: Sequence[int], error: "Spread | None", runs: Sequence[str]
) -> dict[str, object]:
    """{schema, run, rows}: what the predictions rest on, and one row a network and class count."""
    from bench.speed.model_sources import rows_of

    judged = predict.judged(_checks(sources))
    return {
        "schema": SCHEMA,
        "run": {
            "paths": list(runs),
            "judged_points": len(judged),
            "judged_within_10_percent": predict.within_aim(judged),
            "added_ratio_low": None if error is None else error.low,
            "added_ratio_high": None if error is None else error.high,
            "added_ratio_points": 0 if error is None else error.points,
            "models": [_model_object(source) for source in sources],
            "paper": [dict(zip(_PAPER_KEYS, line, strict=True)) for line in paper_steps(sources)],
        },
        "rows": [row.model_dump() for source in sources for row in rows_of(source, classes, error)],
    }


def _model_object(source: "Source") -> dict[str, Any]:
    rates, batch = source.model.rates, source.model.layer.batch_size
    return {
        "arch": source.arch,
        "rates": source.rates_are,
        "single": source.single_is,
        "single_s": source.model.single_s / batch,
        "operations_per_s": rates.operations_per_s,
        "bytes_per_s": rates.bytes_per_s,
        "fresh_bytes_per_s": rates.fresh_bytes_per_s,
        "slowdown": source.model.slowdown,
        "largest_measured": source.largest_measured,
        "break_even": {f"{target:g}": source.model.classes_at(target) for target in BREAK_EVEN_SPEEDUPS},
    }


def heading(source: "Source") -> str:
    """Which network, how, on what."""
    layer = source.model.layer
    bias = "with" if layer.bias else "without"
    return (
        f"{source.arch}: {source.dtype}, batch {layer.batch_size}, top layer of {wording.count(layer.features)} "
        f"features {bias} bias, on {source.device} ({source.machine})"
    )


def _table(source: "Source", classes: Sequence[int], error: "Spread | None") -> Table:
    table = Table(box=box.ASCII2, header_style="")
    for name in COLUMNS:
        table.add_column(name, justify="right", no_wrap=True)
    for line in cells(source, classes, error):
        table.add_row(*line)
    return table


def cells(source: "Source", classes: Sequence[int], error: "Spread | None") -> list[tuple[str, ...]]:
    """The table's cells, a line a class count."""
    from bench.speed.model_sources import rows_of

    return [
        (
            wording.count(row.classes),
            wording.milliseconds(row.predicted_s),
            "" if row.classes == 1 or row.low_s is None or row.high_s is None else _between(row.low_s, row.high_s),
            wording.speedup(row.speedup),
            wording.milliseconds(row.measured_s),
            "" if row.error is None else f"{row.error:+.1%}".replace("%", " %"),
            wording.significant(row.weight_bytes / 1e9),
            wording.significant(row.logit_bytes / 1e9),
            "" if _fits(source, row.weight_bytes + row.logit_bytes) else "does not fit",
        )
        for row in rows_of(source, classes, error)
    ]


def _between(low_s: float, high_s: float) -> str:
    return f"{wording.milliseconds(low_s)} .. {wording.milliseconds(high_s)}"


def _fits(source: "Source", needed: int) -> bool:
    return source.memory_bytes is None or needed <= source.memory_bytes


def basis(source: "Source") -> str:
    """What the time at one class and the rates are."""
    single = {
        "measured": "time at one class: measured",
        "given": "time at one class: from the file",
        "operations": "time at one class: NOT measured, its operations at the file's rate, so a lower bound and the "
        "speedup an upper one; give seconds_at_one_class in the file",
    }[source.single_is]
    rates = {
        "calibrated": f"rates: calibrated; what neighbours cost the single logit: x{source.model.slowdown:.2f}",
        "fitted": f"rates: calibrated, then fitted to the measured points (x{source.model.slowdown:.2f})",
        "given": "rates: from the file",
    }[source.rates_are]
    speeds = source.model.rates
    amounts = f"{speeds.operations_per_s / 1e9:,.3g} GFLOP/s, {speeds.bytes_per_s / 1e9:,.3g} GB/s"
    return f"{single}; {rates} ({amounts})"


def reach(source: "Source", classes: Sequence[int]) -> list[str]:
    """How far the largest count is from what was measured, and what memory it takes; one line each."""
    largest, layer = max(classes), source.model.layer
    lines = []
    measured = source.largest_measured
    if measured is not None and largest > measured:
        lines.append(
            f"{wording.count(largest)} classes are {wording.significant(largest / measured, 2)} times the largest "
            f"count measured ({wording.count(measured)}): time is taken to go on growing linearly with classes"
        )
        if source.device == "cpu" and predict.unlike_measured(layer, measured, largest):
            lines.append(
                "its logits are large enough to be in fresh memory at every pass, which no measured count's were"
            )
    if measured is None:
        lines.append("no count of this network beyond one class was measured there")
    needed = layer.weight_bytes(largest) + layer.logit_bytes(largest)
    room = "" if source.memory_bytes is None else f", of {wording.significant(source.memory_bytes / 1e9)} GB there are"
    lines.append(
        f"{wording.count(largest)} classes need {wording.significant(needed / 1e9)} GB for weight and logits{room}; "
        f"one logit needs {wording.significant(layer.weight_bytes(1) / 1e3)} KB"
    )
    return lines


def break_even_line(source: "Source") -> str:
    """From how many classes on one logit is so much faster."""
    found = {target: source.model.classes_at(target) for target in BREAK_EVEN_SPEEDUPS}
    return "one logit is " + ", ".join(
        f"{target:g}x as fast from {wording.count(_two_digits(classes))} classes"
        if classes is not None
        else f"{target:g}x as fast from more than 2^40 classes"
        for target, classes in found.items()
    )


def _two_digits(classes: int) -> int:
    return int(float(f"{classes:.1e}"))


def error_text(sources: Sequence["Source"], error: "Spread | None") -> str:
    """What the measured points say of the error, in a few sentences."""
    if error is not None and all(source.rates_are == "given" for source in sources):
        return f"error: as the file of rates states it, from points measured with them. {_range_text(error)}"
    judged = predict.judged(_checks(sources))
    if not judged:
        return "error: unknown, as no point from 65,536 classes on was measured; --run FOLDER states it from a run"
    within = predict.within_aim(judged)
    worst = max(abs(check.error) for check in judged)
    text = (
        f"error: {within} of {len(judged)} measured points from {wording.count(predict.JUDGED_CLASSES)} classes on are "
        f"within 10 % of the median, the worst is {100 * worst:.1f} % off"
    )
    if any(source.rates_are == "fitted" for source in sources):
        text += " (each held against a fit to the other points)"
    if error is None:
        return f"{text}; too few points tell how far the top layer's own part is off, so no range is given"
    return f"{text}. {_range_text(error)}"


def _range_text(error: "Spread") -> str:
    return (
        f"Of what the top layer adds, {error.points} points tell: it took {error.low:.2f} to {error.high:.2f} times "
        f"what is predicted. The range is drawn with these two; one more point like them lies within it with "
        f"probability {100 * error.coverage:.0f} %, and nothing is known of points unlike them"
    )


def _checks(sources: Sequence["Source"]) -> list["Check"]:
    return [check for source in sources for check in source.checked]


_PAPER_KEYS = ("arch", "single_s", "from_s", "to_s", "step_s", "line_step_s", "step_here_s")

PAPER_TEXT = (
    "The line goes through the paper's times at one class and at 2^18. Its last step is the same 54 to 59 ms for every "
    "network, though the weight of AlexNet and VGG-16 is twice as large: it grows with neither operations nor bytes of "
    "the weight, so no model of these, ours included, predicts it."
)


def paper_steps(sources: Sequence["Source"]) -> list[tuple[str, float, float, float, float, float, float]]:
    """For each of the paper's networks among the sources: its times, its last step, the line's and ours; seconds.

    Columns as in PAPER_COLUMNS; a network that the paper did not measure has no line.
    """
    found = []
    for source in sources:
        points = {point.classes: point.seconds for point in published(source.arch)}
        if not {1, STEP_FROM, STEP_TO} <= points.keys():
            continue
        smaller = [(classes, seconds) for classes, seconds in points.items() if classes <= STEP_FROM]
        line = predict.from_line(points[1], smaller, STEP_TO) - points[STEP_FROM]
        here = source.model.seconds(STEP_TO) - source.model.seconds(STEP_FROM)
        found.append(
            (
                source.arch,
                points[1],
                points[STEP_FROM],
                points[STEP_TO],
                points[STEP_TO] - points[STEP_FROM],
                line,
                here / source.model.layer.batch_size,
            )
        )
    return found


def paper_cells(sources: Sequence["Source"]) -> list[tuple[str, ...]]:
    """The same as text."""
    return [(arch, *(f"{1e3 * seconds:.1f}" for seconds in times)) for arch, *times in paper_steps(sources)]


def _paper_table(lines: Sequence[tuple[str, ...]]) -> Table:
    table = Table(box=box.ASCII2, header_style="")
    for name in PAPER_COLUMNS:
        table.add_column(name, justify="left" if name in wording.WORDS else "right")
    for line in lines:
        table.add_row(*line)
    return table
