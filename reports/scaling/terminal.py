"""What a person at a terminal sees of a study once it has ended: what it is of, its table, the answer, the warnings."""

from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

from rich import box
from rich.table import Table
from rich.text import Text

from bench.scaling.rows import ScalingRow
from bench.scaling.run import StudyRun
from reports.accuracy.wording import decimal
from reports.accuracy.wording import parity as parity_words
from reports.scaling import wording
from reports.scaling.results import FILES, Result
from reports.terminal import console_for, notice_text
from reports.wording import count, milliseconds, speedup

COLUMNS = (
    "classes",
    "loss",
    "one\nlogit",
    "all\nlogits",
    "opti-\nmum",
    "one logit against\nCE's all logits",
    "con-\nverged",
    "ms/\nstep",
    "speed-\nup",
    "faster and\nas good",
)
_WORDS = ("loss", "con-\nverged", "faster and\nas good")


def print_study(run: StudyRun, stream: TextIO) -> None:
    """What was trained on what, the table, the answer, the warnings, and where the files are."""
    written = [] if run.path is None else [run.path / name for name in FILES if (run.path / name).exists()]
    print_result(Result.of(run), stream, written)


def print_result(result: Result, stream: TextIO, paths: Sequence[Path]) -> None:
    """The same of a result at hand; `paths`: the files that were written."""
    console = console_for(stream)
    run = result.run
    first, *others = wording.measured_on(run.manifest)
    console.print(Text(first, style="bold"), soft_wrap=True)
    for each in others:
        console.print(each, soft_wrap=True)
    console.print("\n1-AUPRC, mean over queries and seeds:")
    console.print(table(result.rows))
    if state := wording.state(run):
        console.print(Text(f"{state}: this is the table so far", style="yellow"), soft_wrap=True)
    for each in wording.left_out(run.manifest):
        console.print(each, soft_wrap=True)
    for each in wording.missing(result.rows):
        console.print(Text(each, style="red"), soft_wrap=True)
    if result.answers:
        console.print(Text(f"\n{wording.question(result.rows)}", style="bold"), soft_wrap=True)
    for each in result.answer_lines:
        console.print(f"  {each}", soft_wrap=True)
    console.print(wording.limits(run.manifest), soft_wrap=True)
    for notice in result.notices:
        console.print(notice_text(notice), soft_wrap=True)
    if paths:
        names = ", ".join(path.name for path in paths)
        console.print(f"\nwritten to {paths[0].parent}: {names}", soft_wrap=True)


def table(rows: Sequence[ScalingRow]) -> Table:
    """A line a class count and loss that was trained or timed; of a count that was neither, one with its speedup."""
    found = Table(box=box.ASCII2, header_style="")
    for column in COLUMNS:
        found.add_column(column, justify="left" if column in _WORDS else "right", no_wrap=column == "classes")
    told: set[int] = set()
    for row in rows:
        if row.status != "left-out" or row.cost is not None or row.classes not in told:
            found.add_row(*_cells(row), style="" if row.status in ("ok", "left-out") else "red")
        told.add(row.classes)
    return found


def _cells(row: ScalingRow) -> list[str]:
    is_left_out = row.status == "left-out"
    return [
        count(row.classes),
        "" if is_left_out and row.cost is None else row.name,
        decimal(None if row.single is None else row.single.error) or row.status,
        decimal(None if row.all is None else row.all.error),
        decimal(None if row.optimum is None else row.optimum.error),
        parity_words(row.with_ce),
        wording.CONVERGED[row.convergence.converged] if row.seeds else "",
        "" if row.cost is None else milliseconds(row.cost.seconds) or "not timed",
        "" if row.speed is None else speedup(row.speed.speedup) or row.speed.reason.partition(":")[0],
        "" if is_left_out else row.both,
    ]
