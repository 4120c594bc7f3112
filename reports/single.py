"""A run of `python -m bench single` as a person at a terminal sees it."""

from collections.abc import Sequence
from typing import TextIO

from rich import box
from rich.table import Table
from rich.text import Text

from bench.deploy.records import Deployment, DeploymentManifest
from bench.deploy.rows import DeploymentRow, ended_complete, notices
from reports import wording
from reports.terminal import console_for, notice_text

COLUMNS = ("", "computed", "measured", "95 % interval", "")


def print_deployment(run: Deployment, rows: Sequence[DeploymentRow], stream: TextIO) -> None:
    """What was measured on what, the table, and the warnings."""
    console = console_for(stream)
    for line in measured_on(run.manifest):
        console.print(line, soft_wrap=True)
    table = Table(box=box.ASCII2, header_style="")
    for number, name in enumerate(COLUMNS):
        table.add_column(name, justify="right" if name else "left", no_wrap=number == 0)
    for row in rows:
        table.add_row(*cells(row))
    console.print(table)
    if not ended_complete(run):
        status = "incomplete" if run.manifest.status == "complete" else run.manifest.status
        console.print(
            Text(f"{status}: not everything was measured as it was asked for; the warnings say what", style="yellow")
        )
    for notice in notices(run):
        console.print(notice_text(notice), soft_wrap=True)
    if run.path is not None:
        console.print(f"written to {run.path}", soft_wrap=True)


def measured_on(manifest: DeploymentManifest) -> list[str]:
    """One line for the network, one for the settings, one for the machine."""
    setting = manifest.setting
    return [
        f"{setting.arch}: one row of a top layer of {wording.count(setting.classes)} x {manifest.features}, "
        "the others left on disk",
        f"{setting.dtype}, batch {setting.batch_size}, {wording.threads(setting.threads)}; "
        f"{setting.switches} switches of each kind, {setting.minibatches} minibatches",
        f"{setting.device} ({wording.hardware(manifest.machine, setting.device)}); "
        f"torch {manifest.versions.get('torch', 'of unknown version')}",
    ]


def cells(row: DeploymentRow) -> tuple[str, ...]:
    """A row as text: name, by arithmetic, measured, interval, remark."""
    show = size if row.unit == "bytes" else seconds
    between = "" if row.low is None or row.high is None else f"{show(row.low)} .. {show(row.high)}"
    return (
        row.quantity,
        "" if row.computed is None else show(row.computed),
        "not measured" if row.measured is None else show(row.measured),
        between,
        row.remark,
    )


def size(number: float) -> str:
    """Bytes in the unit that leaves one to three digits before the point: 16.4 kB, 6.08 GB."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if abs(number) >= factor:
            return f"{_signed(number / factor)} {unit}"
    return f"{number:.0f} B"


def seconds(number: float) -> str:
    """Seconds in s, ms or us, to three significant digits."""
    for unit, factor in (("s", 1.0), ("ms", 1e-3)):
        if number >= factor:
            return f"{wording.significant(number / factor)} {unit}"
    return f"{wording.significant(number / 1e-6)} us"


def _signed(number: float) -> str:
    """Memory can go down between two readings."""
    return f"-{wording.significant(-number)}" if number < 0 else wording.significant(number)
