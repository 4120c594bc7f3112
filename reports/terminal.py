"""What a person at a terminal sees: a sweep while it runs, its table at the end, and the answers of other commands.

Nothing here has a thread: rich's own refresh thread made 2 ms passes 15 % slower. A view draws only when it is called,
between passes, and only so often that drawing takes little of the sweep's time.
"""

import math
import os
import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TextIO

from rich import box
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from bench.run import Notice, Run
from bench.speed.rows import Row
from reports import wording
from reports.series import Series, labels, series_of

if TYPE_CHECKING:
    from bench.doctor import Finding
    from bench.speed.outlook import Outlook
    from bench.speed.rows import BreakEven

#: Nobody reads faster.
REDRAW_S = 0.25

#: After a redraw that took t, the next one waits for t / this: drawing takes no more of the time than this.
MAX_DRAWING_SHARE = 0.02

#: A log says how far a sweep is at every tenth of it.
PLAIN_STEPS = 10

#: Lines of a terminal kept for the progress bar, and for the prompt's own line.
LINES_BELOW_TABLE = 4

#: A file has no width; what is written to it is not to be wrapped.
PLAIN_WIDTH = 10_000

COLUMNS = ("classes", "ms/example", "speedup", "95 % interval", "predicted ms", "status")


class View(Protocol):
    """What a sweep is shown through; `stop` ends what `start` began and may be called at any time, also twice."""

    def start(self, run: Run) -> None:
        """Say what is measured on what."""

    def update(
        self, run: Run, rows: Sequence[Row], *, done: int, total: int, seconds_left: float | None, doing: str
    ) -> None:
        """Show the rows so far; `done` of `total` are passes, `doing` says in a few words what comes next."""

    def notice(self, notice: Notice) -> None:
        """Show a warning, once."""

    def stop(self) -> None:
        """Give the terminal back."""

    def finish(
        self,
        run: Run,
        rows: Sequence[Row],
        notices: Sequence[Notice],
        break_evens: Sequence["BreakEven"],
        paths: Sequence[Path],
    ) -> None:
        """Show the final table, what follows from it, and where the files are."""


def choose_view(*, quiet: bool = False, json: bool = False, stream: TextIO | None = None) -> View:
    """The view for a stream: a terminal is redrawn, anything else gets plain lines, quiet only warnings and the table.

    Standard output, or with `json`, which has that to itself, standard error.
    """
    if stream is None:
        stream = sys.stderr if json else sys.stdout
    if quiet:
        return QuietView(stream)
    return LiveView(stream) if is_terminal(stream) else PlainView(stream)


def is_terminal(stream: TextIO) -> bool:
    """Whether a stream is a terminal that can be redrawn."""
    return stream.isatty() and os.environ.get("TERM", "dumb") not in ("dumb", "unknown")


def console_for(stream: TextIO) -> Console:
    """A console that writes control codes to terminals alone and takes text as it is, never as markup."""
    if is_terminal(stream):
        return Console(file=stream, force_terminal=True, markup=False, highlight=False, emoji=False)
    return Console(
        file=stream,
        force_terminal=False,
        color_system=None,
        no_color=True,
        width=PLAIN_WIDTH,
        markup=False,
        highlight=False,
        emoji=False,
    )


class QuietView:
    """Warnings, and the table at the end."""

    def __init__(self, stream: TextIO) -> None:
        """`stream` takes everything that is shown."""
        self._console = console_for(stream)
        self._noticed: set[Notice] = set()
        self._is_headed = False

    def start(self, run: Run) -> None:
        """Say nothing yet."""

    def update(
        self, run: Run, rows: Sequence[Row], *, done: int, total: int, seconds_left: float | None, doing: str
    ) -> None:
        """Show what has been noticed since."""
        for each in run.manifest.notices:
            self.notice(each)

    def notice(self, notice: Notice) -> None:
        """Show a warning, once."""
        if notice in self._noticed:
            return
        self._noticed.add(notice)
        self._console.print(notice_text(notice))

    def stop(self) -> None:
        """Leave the stream as it is."""

    def _print_heading(self, run: Run) -> None:
        """What is measured on what, said once."""
        if self._is_headed:
            return
        self._is_headed = True
        first, *others = wording.measured_on(run.manifest)
        self._console.print(Text(first, style="bold"), soft_wrap=True)
        for line in others:
            self._console.print(line, soft_wrap=True)

    def finish(
        self,
        run: Run,
        rows: Sequence[Row],
        notices: Sequence[Notice],
        break_evens: Sequence["BreakEven"],
        paths: Sequence[Path],
    ) -> None:
        """Show the final table, what follows from it, and where the files are."""
        self.stop()
        self._print_heading(run)
        print_table(self._console, run, rows, break_evens)
        for each in (*run.manifest.notices, *run.notices, *notices):
            self.notice(each)
        if paths:
            names = ", ".join(path.name for path in paths)
            self._console.print(f"\nwritten to {paths[0].parent}: {names}", soft_wrap=True)


class PlainView(QuietView):
    """Lines for a log: what is measured, every tenth of the way, every failure."""

    def __init__(self, stream: TextIO) -> None:
        """`stream` takes everything that is shown."""
        super().__init__(stream)
        self._steps = 0
        self._failed: set[str] = set()

    def start(self, run: Run) -> None:
        """Say what is measured on what."""
        self._print_heading(run)

    def update(
        self, run: Run, rows: Sequence[Row], *, done: int, total: int, seconds_left: float | None, doing: str
    ) -> None:
        """A line for every failure, and one for every tenth of the passes."""
        super().update(run, rows, done=done, total=total, seconds_left=seconds_left, doing=doing)
        _print_new_failures(self._console, rows, self._failed)
        steps = PLAIN_STEPS * done // total if total else 0
        if steps > self._steps:
            self._steps = steps
            self._console.print(progress_words(done, total, seconds_left, doing), soft_wrap=True)


class LiveView(QuietView):
    """A table that fills in, redrawn in place, with a progress bar below."""

    def __init__(
        self, stream: TextIO, *, console: Console | None = None, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        """`stream` is a terminal; tests put `console` and `clock` in place of its own and of time."""
        super().__init__(stream)
        self._console = console or self._console
        self._clock = clock
        self._live: Live | None = None
        self._is_stdout = stream is sys.stdout
        self._next = -math.inf
        self._failed: set[str] = set()
        self._active = 0
        self._rounds: list[int] = []

    def start(self, run: Run) -> None:
        """Say what is measured on what; the table stands below from the first update on."""
        self._print_heading(run)
        # Whoever else writes to this terminal meanwhile (torch's warnings) gets a line above the table.
        self._live = Live(
            console=self._console,
            auto_refresh=False,
            transient=True,
            redirect_stdout=self._is_stdout,
            redirect_stderr=sys.stderr.isatty(),
        )
        self._live.start()

    def update(
        self, run: Run, rows: Sequence[Row], *, done: int, total: int, seconds_left: float | None, doing: str
    ) -> None:
        """Redraw, unless that was done a moment ago."""
        began = self._clock()
        if self._live is None or began < self._next:
            return
        super().update(run, rows, done=done, total=total, seconds_left=seconds_left, doing=doing)
        _print_new_failures(self._console, rows, self._failed)
        series = series_of(run, rows)
        self._follow(series)
        shown = visible([len(each.rows) for each in series], self._active, self._console.height - LINES_BELOW_TABLE)
        below = _progress_line(done, total, progress_words(done, total, seconds_left, doing))
        self._live.update(Group(*tables_of(series, shown, live=True), below), refresh=True)
        ended = self._clock()
        self._next = max(began + REDRAW_S, ended + (ended - began) / MAX_DRAWING_SHARE)

    def _follow(self, series: Sequence[Series]) -> None:
        """The active series is the one whose rounds have grown since the last redraw."""
        rounds = [sum(row.rounds_done for row in each.rows) for each in series]
        before = self._rounds + [0] * (len(rounds) - len(self._rounds))
        grown = [index for index, (now, then) in enumerate(zip(rounds, before, strict=False)) if now > then]
        self._active = grown[-1] if grown else min(self._active, max(0, len(series) - 1))
        self._rounds = rounds

    def stop(self) -> None:
        """Take the table away and give the cursor back."""
        if self._live is not None:
            self._live.stop()
            self._live = None


def visible(lines: Sequence[int], active: int, height: int) -> range:
    """Which series, of so many rows each, fit on `height` lines: the active one, as many before it, then after it."""
    if not lines:
        return range(0)
    first = last = active
    # Every table has a line of title, two of header and an empty one besides its rows.
    left = height - lines[active] - 4
    while first > 0 and lines[first - 1] + 4 <= left:
        first -= 1
        left -= lines[first] + 4
    while last + 1 < len(lines) and lines[last + 1] + 4 <= left:
        last += 1
        left -= lines[last] + 4
    return range(first, last + 1)


def tables_of(series: Sequence[Series], shown: Sequence[int] | range, *, live: bool = False) -> list[RenderableType]:
    """A title and a table for each of the series shown."""
    names = labels(series)
    parts: list[RenderableType] = []
    for index in shown:
        each, label = series[index], names[index]
        parts.append(Text(f"\n{each.arch}" + (f", {label}" if label else ""), style="bold"))
        parts.append(_table(each, live=live))
    return parts


def _table(series: Series, *, live: bool) -> Table:
    table = Table(box=box.SIMPLE_HEAD if live else box.ASCII2, header_style="")
    for column in COLUMNS:
        table.add_column(column, justify="left" if column == "status" else "right", no_wrap=True)
    for row in series.rows:
        table.add_row(
            wording.classes_of(row),
            wording.milliseconds(row.median_s),
            wording.speedup(row.speedup),
            wording.interval(row),
            wording.milliseconds(row.predicted_s),
            wording.status(row),
            style=_style(row),
        )
    return table


def _style(row: Row) -> str:
    if row.status != "ok":
        return "red"
    if not row.rounds_done:
        return "dim"
    return "yellow" if row.marked_samples else ""


def progress_words(done: int, total: int, seconds_left: float | None, doing: str) -> str:
    """How far, how long still, and what is being done."""
    share = f"{100 * done // total} %" if total else "0 %"
    left = "" if seconds_left is None else f"{wording.duration(seconds_left)} left"
    return ", ".join(part for part in (share, left, doing) if part)


def _progress_line(done: int, total: int, words: str) -> Table:
    line = Table.grid(padding=(0, 1))
    line.add_row(ProgressBar(total=max(1, total), completed=done, width=30), Text(words, no_wrap=True))
    return line


def _print_new_failures(console: Console, rows: Sequence[Row], known: set[str]) -> None:
    for failure in wording.failures(rows):
        if failure not in known:
            known.add(failure)
            console.print(Text(failure, style="red"), soft_wrap=True)


def print_table(console: Console, run: Run, rows: Sequence[Row], break_evens: Sequence["BreakEven"]) -> None:
    """The table of a run with its failures, its control and its break-even counts."""
    series = series_of(run, rows)
    for part in tables_of(series, range(len(series))):
        console.print(part)
    if run.manifest.status != "complete":
        console.print(Text(f"{run.manifest.status}: this is the table so far", style="yellow"))
    for failure in wording.failures(rows):
        console.print(Text(failure, style="red"), soft_wrap=True)
    for row in rows:
        if row.kind == "control":
            console.print(wording.control_line(row), soft_wrap=True)
    for line in wording.break_even_lines(break_evens, wording.setting_labels(run.manifest.settings)):
        console.print(line, soft_wrap=True)


def notice_text(notice: Notice) -> Text:
    """A warning: what happened, why it matters, what to do."""
    return Text.assemble(
        ("warning: ", "yellow"), notice.happened, f"\n  why it matters: {notice.matters}\n  what to do: {notice.remedy}"
    )


def print_beside(header: Sequence[str], lines: Sequence[Sequence[str]], stream: TextIO | None = None) -> None:
    """Measured beside published, as cells of text."""
    console = console_for(stream or sys.stdout)
    console.print("\nbeside the paper's Table 3 (both by its estimator, mean time for one example):")
    table = Table(box=box.ASCII2, header_style="")
    for index, name in enumerate(header):
        table.add_column(name, justify="right" if index else "left", no_wrap=not index)
    for line in lines:
        table.add_row(*line)
    console.print(table)


def print_outlook(outlook: "Outlook", stream: TextIO | None = None) -> None:
    """What a run would measure, need and take."""
    console = console_for(stream or sys.stdout)
    points = outlook.points
    settings = list(dict.fromkeys(point.setting for point in points))
    names = wording.setting_labels(settings)
    for index, setting in enumerate(settings):
        console.print(Text(f"\n{names[index]} on {setting.device}", style="bold"), soft_wrap=True)
        table = Table(box=box.ASCII2, header_style="")
        for column in ("classes", "ms/example", "memory, GB", ""):
            table.add_column(column, justify="right", no_wrap=True)
        for point in points:
            if point.setting == setting:
                table.add_row(
                    wording.count(point.classes),
                    wording.milliseconds(point.pass_s / setting.batch_size),
                    wording.significant(point.memory_bytes / 1e9),
                    "" if point.fits else "does not fit",
                    style="" if point.fits else "red",
                )
        console.print(table)
    console.print(
        f"{len(points)} points, about {wording.duration(outlook.seconds)} of rounds as predicted from this device's "
        f"rates; {wording.significant(outlook.free_bytes / 1e9)} GB of memory are free. Nothing was measured.",
        soft_wrap=True,
    )


def print_findings(findings: Sequence["Finding"], stream: TextIO | None = None) -> None:
    """What spoils timings here: each finding, and for all but the good ones why it matters and what to do."""
    console = console_for(stream or sys.stdout)
    styles = {"ok": "green", "advice": "cyan", "warning": "yellow"}
    for each in findings:
        console.print(Text.assemble((f"{each.severity}: ", styles[each.severity]), each.happened), soft_wrap=True)
        if each.severity != "ok":
            console.print(f"  why it matters: {each.matters}", soft_wrap=True)
            if each.remedy:
                console.print(f"  what to do: {each.remedy}", soft_wrap=True)


def print_listing(listing: Mapping[str, Sequence[str]], stream: TextIO | None = None) -> None:
    """Names of networks under their groups: in columns on a terminal, elsewhere one a line for the next program."""
    stream = stream or sys.stdout
    width = shutil.get_terminal_size().columns if is_terminal(stream) else 0
    for group, names in listing.items():
        if names:
            print(
                f"{group} ({len(names)}):", *columns_of([f"  {name}" for name in names], width), sep="\n", file=stream
            )


def columns_of(names: Sequence[str], width: int) -> list[str]:
    """Lines of as many equally wide columns as fit `width`, one at least, read down and then across."""
    cell = max(map(len, names), default=0) + 1
    columns = max(1, width // max(1, cell))
    lines = math.ceil(len(names) / columns)
    return ["".join(name.ljust(cell) for name in names[line::lines]).rstrip() for line in range(lines)]
