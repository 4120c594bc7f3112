"""Predictions as lines and tables for a terminal, and as the object of --json.

What is predicted stands beside what was measured, the error beside both, and how far it is from the largest measured
count. What is said of the error, and every range, is of the points alike (bench.speed.pools). For the paper's networks
its own last step is held against the line through its smaller counts.
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
from reports.single import size
from reports.terminal import console_for

if TYPE_CHECKING:
    from bench.speed.pools import Pool, Source
    from bench.speed.predict import Spread
    from bench.speed.settings import Setting

#: Name and version of what --json prints.
SCHEMA = "slc-bench/predictions/1"

COLUMNS = ("classes", "ms/example", "range", "speedup", "measured ms", "error", "weight", "logits", "")

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


def print_predictions(pools: Sequence["Pool"], classes: Sequence[int], stream: TextIO | None = None) -> None:
    """A table for each source, what its numbers rest on, the error of those alike, and the paper's last step."""
    console = console_for(stream or sys.stdout)
    sources = _sources(pools)
    several_runs = len({source.run for source in sources}) > 1
    for pool in pools:
        for source in pool.sources:
            console.print(Text(heading(source, with_run=several_runs), style="bold"), soft_wrap=True)
            console.print(_table(source, classes, pool.spread))
            for line in (*basis(source), *reach(source, classes), break_even_line(source)):
                console.print(line, soft_wrap=True)
            console.print()
        of_these = f"of the {len(pool.sources)} above" if len(pool.sources) > 1 else "of the one above"
        console.print(error_text(pool, "" if len(pools) == 1 else f" {of_these}"), soft_wrap=True)
        if pool is not pools[-1]:
            console.print()
    if beside := paper_cells(sources):
        console.print("\nthe paper's own last step (Table 3, ms an example on a Maxwell Titan X):")
        console.print(_paper_table(beside))
        console.print(PAPER_TEXT, soft_wrap=True)


def _sources(pools: Sequence["Pool"]) -> list["Source"]:
    return [source for pool in pools for source in pool.sources]


def to_object(pools: Sequence["Pool"], classes: Sequence[int], runs: Sequence[str]) -> dict[str, object]:
    """{schema, run, rows}: what the predictions rest on, and one row a setting and class count."""
    from bench.speed.model_sources import rows_of

    return {
        "schema": SCHEMA,
        "run": {
            "paths": list(runs),
            "pools": [_pool_object(pool) for pool in pools],
            "models": [_model_object(source, number) for number, pool in enumerate(pools) for source in pool.sources],
            "paper": [dict(zip(_PAPER_KEYS, line, strict=True)) for line in paper_steps(_sources(pools))],
        },
        "rows": [
            row.model_dump()
            for pool in pools
            for source in pool.sources
            for row in rows_of(source, classes, pool.spread)
        ],
    }


def _pool_object(pool: "Pool") -> dict[str, Any]:
    judged, error = pool.judged, pool.spread
    return {
        "stated": pool.is_stated,
        "judged_points": len(judged),
        "judged_within_10_percent": predict.within_aim(judged),
        "judged_runs": pool.runs,
        "judged_networks": pool.networks,
        "added_ratio_low": None if error is None else error.low,
        "added_ratio_high": None if error is None else error.high,
        "added_ratio_points": 0 if error is None else error.points,
        "added_ratio_runs": None if error is None else error.runs,
        "added_ratio_networks": None if error is None else error.networks,
    }


def _model_object(source: "Source", pool: int) -> dict[str, Any]:
    from bench.speed.model_sources import identity

    rates, batch = source.model.rates, source.model.layer.batch_size
    return {
        **identity(source),
        "pool": pool,
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


def heading(source: "Source", *, with_run: bool = False) -> str:
    """Which network, how, on what, and where it was measured."""
    layer = source.model.layer
    bias = "with" if layer.bias else "without"
    how = [source.dtype, f"batch {layer.batch_size}", *([] if source.setting is None else _mode(source.setting))]
    run = f", {source.run}" if with_run and source.run is not None else ""
    return (
        f"{source.arch}: {', '.join(how)}, top layer of {wording.count(layer.features)} features {bias} bias, "
        f"on {source.device} ({source.machine}){run}"
    )


def _mode(setting: "Setting") -> list[str]:
    """A setting's traits beside dtype and batch; the usual order and seed go without saying."""
    traits = _traits(setting)
    usual = {"order": "interleaved", "seed": "seed 0"}
    said = ("input", "threads", "compile", "cuda graph", "channels last", "tf32", "cudnn", "order", "seed")
    return [traits[name] for name in said if traits[name] and traits[name] != usual.get(name)]


def _traits(setting: "Setting") -> dict[str, str]:
    traits = wording.traits(setting)
    return {**traits, "compile": traits["compile"] or "eager"}


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
            size(row.weight_bytes),
            size(row.logit_bytes),
            "" if _fits(source, row.weight_bytes + row.logit_bytes) else "does not fit",
        )
        for row in rows_of(source, classes, error)
    ]


def _between(low_s: float, high_s: float) -> str:
    return f"{wording.milliseconds(low_s)} .. {wording.milliseconds(high_s)}"


def _fits(source: "Source", needed: int) -> bool:
    return source.memory_bytes is None or needed <= source.memory_bytes


def basis(source: "Source") -> list[str]:
    """What the time at one class and the rates are; one line each."""
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
    lines = [f"{single}; {rates} ({amounts})"]
    if source.setting is None:
        lines.append(
            "the file does not say at which input size, threads and mode (compiled, CUDA graph, memory format) its "
            "numbers were measured; settings_at_one_class says it"
        )
    return lines


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
    room = "" if source.memory_bytes is None else f", of {size(source.memory_bytes)} there are"
    lines.append(
        f"{wording.count(largest)} classes need {size(needed)} for weight and logits{room}; "
        f"one logit needs {size(layer.weight_bytes(1))}"
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


def error_text(pool: "Pool", of_these: str = "") -> str:
    """What the measured points of a pool say of the error, in a few sentences; `of_these` says of which tables."""
    error, judged = pool.spread, pool.judged
    if pool.is_stated and error is not None:
        return f"error{of_these}: as the file of rates states it, from points measured with them. {_range_text(error)}"
    if not judged:
        why = {
            "operations": "as the time at one class was not measured",
            "given": "as the file of rates states none",
        }.get(pool.sources[0].single_is, _NOT_JUDGED)
        return f"error{of_these}: unknown, {why}, so no range is given"
    within, worst = predict.within_aim(judged), max(abs(check.error) for check in judged)
    text = (
        f"error{of_these}: {within} of {len(judged)} measured points from {wording.count(predict.JUDGED_CLASSES)} "
        f"classes on ({_behind(pool.runs, pool.networks)}) are within 10 % of the median, the worst is "
        f"{100 * worst:.1f} % off"
    )
    if any(source.rates_are == "fitted" for source in pool.sources):
        text += " (each held against a fit to the other points)"
    if error is None:
        return f"{text}; too few of them tell how far the top layer's own part is off, so no range is given"
    return f"{text}. {_range_text(error)}"


_NOT_JUDGED = (
    f"as no point from {wording.count(predict.JUDGED_CLASSES)} classes on was measured; --run FOLDER of a run that has "
    "two or more states it"
)


def _range_text(error: "Spread") -> str:
    behind = "" if error.runs is None or error.networks is None else f" ({_behind(error.runs, error.networks)})"
    return (
        f"Of what the top layer adds, {error.points} points{behind} tell: it took {error.low:.2f} to {error.high:.2f} "
        f"times what is predicted. The range is drawn with these two; one more point like them lies within it with "
        f"probability {100 * error.coverage:.0f} %, and nothing is known of points unlike them"
    )


def _behind(runs: int, networks: int) -> str:
    return f"{runs} run{'s' * (runs > 1)}, {networks} network{'s' * (networks > 1)}"


_PAPER_KEYS = ("model", "arch", "single_s", "from_s", "to_s", "step_s", "line_step_s", "step_here_s")

PAPER_TEXT = (
    "The line goes through the paper's times at one class and at 2^18. Its last step is the same 54 to 59 ms for every "
    "network, though the weight of AlexNet and VGG-16 is twice as large: it grows with neither operations nor bytes of "
    "the weight, so no model of these, ours included, predicts it."
)


def paper_steps(sources: Sequence["Source"]) -> list[tuple[int, str, float, float, float, float, float, float]]:
    """For each of the paper's networks among the sources: its index there, its times, its last step, the line's, ours.

    Seconds; columns as in PAPER_COLUMNS after the index. A network that the paper did not measure has no line.
    """
    found = []
    for index, source in enumerate(sources):
        points = {point.classes: point.seconds for point in published(source.arch)}
        if not {1, STEP_FROM, STEP_TO} <= points.keys():
            continue
        smaller = [(classes, seconds) for classes, seconds in points.items() if classes <= STEP_FROM]
        line = predict.from_line(points[1], smaller, STEP_TO) - points[STEP_FROM]
        here = source.model.seconds(STEP_TO) - source.model.seconds(STEP_FROM)
        found.append(
            (
                index,
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
    """The same as text, each network with what tells its setting from others of it."""
    labels = wording.distinguish([source.arch for source in sources], [_told_apart(source) for source in sources])
    return [
        (wording.named(arch, labels[index]), *(f"{1e3 * seconds:.1f}" for seconds in times))
        for index, arch, *times in paper_steps(sources)
    ]


def _told_apart(source: "Source") -> dict[str, str]:
    traits = {} if source.setting is None else _traits(source.setting)
    return {**traits, "machine": source.machine, "run": source.run or ""}


def _paper_table(lines: Sequence[tuple[str, ...]]) -> Table:
    table = Table(box=box.ASCII2, header_style="")
    for name in PAPER_COLUMNS:
        table.add_column(name, justify="left" if name in wording.WORDS else "right")
    for line in lines:
        table.add_row(*line)
    return table
