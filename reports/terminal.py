"""What a person at a terminal sees: a sweep while it runs, its table at the end, and the answers of other commands.

Nothing here has a thread: rich's own refresh thread made 2 ms passes 15 % slower. A view draws only when it is called,
between passes, and only so often that drawing takes little of the sweep's time.
"""

import errno
import math
import os
import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, Protocol, TextIO

from rich import box
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from bench.folder import Notice
from bench.run import Manifest, Run
from bench.speed.rows import Row
from reports import wording
from reports.series import Series, control_lines, failures, labels, series_of

if TYPE_CHECKING:
    from bench.doctor import Finding
    from bench.speed.outlook import Outlook
    from bench.speed.rows import BreakEven

#: Nobody reads faster, and each redraw takes from the time of the sweep.
REDRAW_S = 0.25

#: After a redraw that took t, what it shows worked out, the next one waits for t / this: no larger share is drawing.
MAX_DRAWING_SHARE = 0.02

#: A log says how far a sweep is at every tenth of it.
PLAIN_STEPS = 10

#: Lines of a terminal kept for the progress bar, and for the prompt's own line.
LINES_BELOW_TABLE = 4

#: A file has no width; what is written to it is not to be wrapped.
PLAIN_WIDTH = 10_000

COLUMNS = ("classes", "ms/example", "speedup", "95 % interval", "predicted ms", "status")

#: The kind of the warning about points that failed, which the lines about each of them take the place of.
FAILED_POINTS = "failed-points"


@dataclass(frozen=True)
class Progress:
    """How far a sweep is; what takes time to work out is worked out only where a view shows it."""

    done: int
    """passes that are done or will never come"""
    total: int
    """passes asked for"""
    doing: str
    """what comes next, in a few words"""
    rows: Callable[[], Sequence[Row]]
    """the rows so far"""
    seconds_left: Callable[[], float | None]
    """None as long as nobody can tell"""


class View(Protocol):
    """What a sweep is shown through; `stop` ends what `start` began and may be called at any time, also twice."""

    def start(self, run: Run) -> None:
        """Say what is measured on what."""

    def update(self, run: Run, progress: Progress) -> None:
        """Show how far it is, if that is worth a reader's time and the sweep's; called between passes."""

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


def choose_view(stream: TextIO, *, quiet: bool = False) -> View:
    """The view for a stream: a terminal is redrawn, anything else gets plain lines; quiet is but warnings and table."""
    if quiet:
        return QuietView(stream)
    return LiveView(stream) if is_terminal(stream) else PlainView(stream)


def is_terminal(stream: TextIO) -> bool:
    """Whether a stream is a terminal that can be redrawn."""
    return stream.isatty() and os.environ.get("TERM", "dumb") not in ("dumb", "unknown")


class _Console(Console):
    """Raises where nobody reads any longer; rich would end the process, in the middle of a sweep and with code 1."""

    def on_broken_pipe(self) -> NoReturn:
        """Raise BrokenPipeError."""
        raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))


def console_for(stream: TextIO) -> Console:
    """A console that writes control codes to terminals alone and takes text as it is, never as markup.

    Printing raises BrokenPipeError once the stream's reader is gone.
    """
    if is_terminal(stream):
        return _Console(file=stream, force_terminal=True, markup=False, highlight=False, emoji=False)
    return _Console(
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
        self._manifest: Manifest | None = None

    def start(self, run: Run) -> None:
        """Say nothing yet."""

    def update(self, run: Run, progress: Progress) -> None:
        """Show what has been noticed since."""
        if run.manifest is not self._manifest:  # something was found: a manifest is replaced then, and never changed
            self._manifest = run.manifest
            self._show_news(run.manifest)

    def _show_news(self, manifest: Manifest) -> None:
        for each in manifest.notices:
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
        noticed = (*run.manifest.notices, *run.notices, *notices)
        series = series_of(run, rows)
        _print_tables(self._console, run, series)
        _print_failures(self._console, series, [each for each in noticed if each.kind == FAILED_POINTS])
        _print_conclusions(self._console, run, series, break_evens)
        for each in noticed:
            if each.kind != FAILED_POINTS:
                self.notice(each)
        if paths:
            names = ", ".join(path.name for path in paths)
            self._console.print(f"\nwritten to {paths[0].parent}: {names}", soft_wrap=True)


class _ProgressView(QuietView):
    """What the views of a sweep's progress share: each failure is shown as it happens."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__(stream)
        self._failed: set[str] = set()

    def _show_news(self, manifest: Manifest) -> None:
        super()._show_news(manifest)
        for failure in wording.failed_points(manifest):
            if failure not in self._failed:
                self._failed.add(failure)
                self._console.print(Text(failure, style="red"), soft_wrap=True)


class PlainView(_ProgressView):
    """Lines for a log: what is measured, every tenth of the way, every failure."""

    def __init__(self, stream: TextIO) -> None:
        """`stream` takes everything that is shown."""
        super().__init__(stream)
        self._steps = 0

    def start(self, run: Run) -> None:
        """Say what is measured on what."""
        self._print_heading(run)

    def update(self, run: Run, progress: Progress) -> None:
        """A line for every failure, and one for every tenth of the passes."""
        super().update(run, progress)
        steps = PLAIN_STEPS * progress.done // progress.total if progress.total else 0
        if steps > self._steps:
            self._steps = steps
            self._console.print(progress_words(progress), soft_wrap=True)


class Region:
    """The part of a terminal that is redrawn in place: how often, and who else may write meanwhile."""

    def __init__(self, console: Console, clock: Callable[[], float], *, is_stdout: bool) -> None:
        """`clock` is in seconds; `is_stdout`: whether the console stands on standard output."""
        self._console = console
        self._clock = clock
        self._is_stdout = is_stdout
        self._live: Live | None = None
        self._next = -math.inf

    @property
    def stands(self) -> bool:
        """Whether it has been started and not yet stopped."""
        return self._live is not None

    def start(self) -> None:
        """Make room; it stays empty until it is drawn."""
        # Whoever else writes to this terminal meanwhile (torch's warnings) gets a line above the region.
        self._live = Live(
            console=self._console,
            auto_refresh=False,
            transient=True,
            redirect_stdout=self._is_stdout,
            redirect_stderr=sys.stderr.isatty(),
        )
        self._live.start()

    def is_due(self, now: float) -> bool:
        """Whether the last drawing was long enough ago."""
        return now >= self._next

    def draw(self, shown: RenderableType, began: float) -> None:
        """Redraw; what is shown was worked out from the time `began` on, which counts as drawing."""
        assert self._live is not None, "a region is started before it is drawn"
        self._live.update(shown, refresh=True)
        ended = self._clock()
        self._next = max(began + REDRAW_S, ended + (ended - began) / MAX_DRAWING_SHARE)

    def stop(self) -> None:
        """Take it away and give the cursor back; a second time does nothing."""
        if self._live is not None:
            self._live.stop()
            self._live = None


class LiveView(_ProgressView):
    """A table that fills in, redrawn in place, with a progress bar below."""

    def __init__(
        self, stream: TextIO, *, console: Console | None = None, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        """`stream` is a terminal; tests put `console` and `clock` in place of its own and of time."""
        super().__init__(stream)
        self._console = console or self._console
        self._clock = clock
        self._region = Region(self._console, clock, is_stdout=stream is sys.stdout)
        self._doing = ""
        self._active = 0
        self._rounds: list[int] = []

    def start(self, run: Run) -> None:
        """Say what is measured on what; the table stands below from the first update on."""
        self._print_heading(run)
        self._region.start()

    def update(self, run: Run, progress: Progress) -> None:
        """Redraw, unless that was done a moment ago and the same is still being done."""
        began = self._clock()
        if not self._region.stands or (not self._region.is_due(began) and progress.doing == self._doing):
            return
        self._doing = progress.doing
        super().update(run, progress)
        series = series_of(run, progress.rows())
        self._follow(series)
        shown = visible([len(each.rows) for each in series], self._active, self._console.height - LINES_BELOW_TABLE)
        below = _progress_line(progress)
        self._region.draw(Group(*tables_of(series, shown, live=True), below), began)

    def _follow(self, series: Sequence[Series]) -> None:
        """The active series is the one whose rounds have grown since the last redraw."""
        rounds = [sum(row.rounds_done for row in each.rows) for each in series]
        before = self._rounds + [0] * (len(rounds) - len(self._rounds))
        grown = [index for index, (now, then) in enumerate(zip(rounds, before, strict=False)) if now > then]
        self._active = grown[-1] if grown else min(self._active, max(0, len(series) - 1))
        self._rounds = rounds

    def stop(self) -> None:
        """Take the table away and give the cursor back."""
        self._region.stop()


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


def progress_words(progress: Progress) -> str:
    """How far, how long still, and what is being done."""
    share = f"{100 * progress.done // progress.total} %" if progress.total else "0 %"
    seconds = progress.seconds_left()
    left = "" if seconds is None else f"{wording.duration(seconds)} left"
    return ", ".join(part for part in (share, left, progress.doing) if part)


def _progress_line(progress: Progress) -> Table:
    line = Table.grid(padding=(0, 1))
    bar = ProgressBar(total=max(1, progress.total), completed=progress.done, width=30)
    line.add_row(bar, Text(progress_words(progress), no_wrap=True))
    return line


def _print_tables(console: Console, run: Run, series: Sequence[Series]) -> None:
    for part in tables_of(series, range(len(series))):
        console.print(part)
    if run.manifest.status != "complete":
        console.print(Text(f"{run.manifest.status}: this is the table so far", style="yellow"))


def _print_failures(console: Console, series: Sequence[Series], warnings: Sequence[Notice]) -> None:
    """Each point that failed and why; then why that matters and what to do, from the warnings about them."""
    for failure in failures(series):
        console.print(Text(failure, style="red"), soft_wrap=True)
    for text in dict.fromkeys(_consequences(each) for each in warnings):
        console.print(text, soft_wrap=True)


def _print_conclusions(
    console: Console, run: Run, series: Sequence[Series], break_evens: Sequence["BreakEven"]
) -> None:
    """What the controls found, and the break-even counts."""
    for line in control_lines(series):
        console.print(line, soft_wrap=True)
    for line in wording.break_even_lines(break_evens, wording.setting_labels(run.manifest.settings)):
        console.print(line, soft_wrap=True)


def notice_text(notice: Notice) -> Text:
    """A warning: what happened, why it matters, what to do."""
    return Text.assemble(("warning: ", "yellow"), f"{notice.happened}\n{_consequences(notice)}")


def _consequences(notice: Notice) -> str:
    return f"  why it matters: {notice.matters}\n  what to do: {notice.remedy}"


def print_beside(header: Sequence[str], lines: Sequence[Sequence[str]], stream: TextIO | None = None) -> None:
    """Measured beside published, as cells of text."""
    console = console_for(stream or sys.stdout)
    console.print("\nbeside the paper's Table 3 (both by its estimator, mean time for one example):")
    table = Table(box=box.ASCII2, header_style="")
    for name in header:
        is_text = name in wording.WORDS
        table.add_column(name, justify="left" if is_text else "right", no_wrap=is_text)
    for line in lines:
        table.add_row(*line)
    console.print(table)


def print_lines(lines: Sequence[str], stream: TextIO | None = None) -> None:
    """Show sentences, each on a line of its own, after an empty one; nothing if there is none."""
    console = console_for(stream or sys.stdout)
    for number, line in enumerate(lines):
        console.print(f"\n{line}" if number == 0 else line, soft_wrap=True)


def print_outlook(outlook: "Outlook", stream: TextIO | None = None) -> None:
    """What a run would measure, need and take."""
    console = console_for(stream or sys.stdout)
    points = outlook.points
    settings = list(dict.fromkeys(point.setting for point in points))
    names = wording.setting_labels(settings)
    for index, setting in enumerate(settings):
        console.print(Text(f"\n{names[index]} on {setting.device}", style="bold"), soft_wrap=True)
        table = Table(box=box.ASCII2, header_style="")
        for column in ("classes", "ms/example", "GB without activations", ""):
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
    free = wording.significant(outlook.free_bytes / 1e9)
    console.print(
        f"{len(points)} points, about {wording.duration(outlook.seconds)} of warm-up and timed rounds, as predicted "
        "from this device's rates; building, compiling and first calls come on top. "
        f"{free} GB of memory are free, for weights, inputs and logits as above and "
        "for activations, which only a pass shows. Nothing was measured.",
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
