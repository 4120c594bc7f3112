"""What a person at a terminal sees of an accuracy run: the grid while it trains, Table 1 at the end.

Nothing here has a thread; a view draws only when it is called, and the view decides how often that is worth it.
"""

import math
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TextIO

from rich import box
from rich.console import Console, Group
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from bench.accuracy import rows as estimates
from bench.folder import Notice
from reports.accuracy import wording
from reports.accuracy.tables import best_of, is_first_aligned
from reports.published import MEASURES as PUBLISHED_MEASURES
from reports.published import published_losses
from reports.terminal import Region, console_for, is_terminal, notice_text
from reports.wording import count, duration

if TYPE_CHECKING:
    from bench.accuracy import grid
    from bench.accuracy.records import Training
    from bench.accuracy.rows import Table1Row
    from bench.accuracy.run import AccuracyRun

#: A log says how far a grid is no more often than this.
PLAIN_S = 10.0

COLUMNS = ("loss", "rate", "1-AUPRC", "1-P@.9", "1-P@.99", "all logits:\n1-AUPRC", "against CE's\nall logits")
WORDS = ("loss", "rate", "against CE's\nall logits", "training")
RUNNING_COLUMNS = ("training", "step", "steps/s", "training loss", "validation accuracy")


@dataclass(frozen=True)
class Running:
    """Where a training that is under way stands."""

    name: str
    """of its member: batch-ce-lr0.1-seed0"""
    step: int
    steps: int
    """steps asked for"""
    steps_per_s: float | None
    training_loss: float | None
    """the latest known; None before the first, and where it is not finite"""
    validation_accuracy: float | None
    """at the latest validation; None before the first"""


@dataclass(frozen=True)
class Progress:
    """How far a grid is."""

    trainings_done: int
    trainings_total: int
    running: tuple[Running, ...]
    examples_per_s: float | None
    """of all trainings together"""
    seconds_left: float | None
    """None as long as nobody can tell"""
    ended: "Sequence[Training]" = ()
    """every training that has ended, in that order, those from before a resume included"""


def progress_of(run: "AccuracyRun", progress: "grid.Progress") -> Progress:
    """What a grid says of itself, in the words of a view: a line a training."""
    running = tuple(
        Running(member.name, unit.step, unit.steps, unit.steps_per_s, loss, accuracy)
        for unit in progress.running
        for member, loss, accuracy in zip(unit.members, unit.training_losses, unit.validation_accuracies, strict=True)
    )
    return Progress(
        progress.done, progress.total, running, progress.examples_per_s, progress.seconds_left, run.trainings
    )


class View(Protocol):
    """What a grid is shown through; `stop` ends what `start` began and may be called at any time, also twice."""

    def start(self, run: "AccuracyRun") -> None:
        """Say what is trained on what; trainings that have ended already are not told again."""

    def update(self, progress: Progress) -> None:
        """Show how far it is, if that is worth a reader's time; may be called at every event."""

    def notice(self, notice: Notice) -> None:
        """Show a warning, once."""

    def stop(self) -> None:
        """Give the terminal back."""

    def finish(
        self, run: "AccuracyRun", rows: "Sequence[Table1Row]", notices: Sequence[Notice], paths: Sequence[Path]
    ) -> None:
        """Show Table 1, what follows from it, and where the files are."""


def choose_view(stream: TextIO, *, quiet: bool = False) -> View:
    """The view for a stream: a terminal is redrawn, anything else gets plain lines; quiet is but warnings and table."""
    if quiet:
        return QuietView(stream)
    return LiveView(stream) if is_terminal(stream) else PlainView(stream)


class QuietView:
    """Warnings, and the table at the end."""

    def __init__(self, stream: TextIO) -> None:
        """`stream` takes everything that is shown."""
        self._console = console_for(stream)
        self._noticed: set[Notice] = set()
        self._is_headed = False

    def start(self, run: "AccuracyRun") -> None:
        """Say nothing yet."""

    def update(self, progress: Progress) -> None:
        """Say nothing."""

    def notice(self, notice: Notice) -> None:
        """Show a warning, once."""
        if notice in self._noticed:
            return
        self._noticed.add(notice)
        self._console.print(notice_text(notice))

    def stop(self) -> None:
        """Leave the stream as it is."""

    def _print_heading(self, run: "AccuracyRun") -> None:
        """What is trained on what, said once."""
        if self._is_headed:
            return
        self._is_headed = True
        first, *others = wording.measured_on(run.manifest)
        self._console.print(Text(first, style="bold"), soft_wrap=True)
        for line in others:
            self._console.print(line, soft_wrap=True)

    def finish(
        self, run: "AccuracyRun", rows: "Sequence[Table1Row]", notices: Sequence[Notice], paths: Sequence[Path]
    ) -> None:
        """Show Table 1, what follows from it, and where the files are."""
        self.stop()
        self._print_heading(run)
        self._console.print()
        self._console.print(table1(rows))
        if state := wording.state(run):
            self._console.print(Text(f"{state}: this is the table so far", style="yellow"), soft_wrap=True)
        for line in wording.training_failures(run.trainings):
            self._console.print(Text(line, style="red"), soft_wrap=True)
        for line in (*wording.incomplete(rows), *wording.verdict_lines(rows), wording.one_seed_note(rows)):
            if line:
                self._console.print(line, soft_wrap=True)
        for notice in (*run.manifest.notices, *run.notices, *notices):
            self.notice(notice)
        if paths:
            names = ", ".join(path.name for path in paths)
            self._console.print(f"\nwritten to {paths[0].parent}: {names}", soft_wrap=True)


class _ProgressView(QuietView):
    """What the views of a grid's progress share: each training that ends is told once, in `_tell_ended`."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__(stream)
        self._told = 0
        self._done = 0

    def start(self, run: "AccuracyRun") -> None:
        """Say what is trained on what."""
        self._print_heading(run)
        self._told = self._done = len(run.trainings)
        if self._told:
            self._console.print(f"{count(self._told)} of {count(len(run.manifest.members))} trainings ended before")

    def _tell_news(self, progress: Progress) -> None:
        for training in progress.ended[self._told :]:
            self._tell_ended(training, progress)
        self._told = max(self._told, len(progress.ended))

    def _tell_ended(self, training: "Training", progress: Progress) -> None:
        style = "" if training.status == "ok" else "red"
        self._console.print(Text(wording.ended(training), style=style), soft_wrap=True)


class PlainView(_ProgressView):
    """Lines for a log: what is trained, every training that ends, and now and then how far it is."""

    def __init__(self, stream: TextIO, *, clock: Callable[[], float] = time.monotonic) -> None:
        """`stream` takes everything that is shown; tests put `clock` in the place of time."""
        super().__init__(stream)
        self._clock = clock
        self._next = -math.inf

    def start(self, run: "AccuracyRun") -> None:
        """Say what is trained on what; the first line of progress comes a while later."""
        super().start(run)
        self._next = self._clock() + PLAIN_S

    def update(self, progress: Progress) -> None:
        """A line for every training that ended, and one of progress every PLAIN_S seconds at most."""
        self._tell_news(progress)
        if progress.trainings_done > self._done and not progress.ended:
            self._console.print(f"{_how_many(progress)} ended", soft_wrap=True)
        self._done = progress.trainings_done
        if self._clock() >= self._next:
            self._next = self._clock() + PLAIN_S
            self._console.print(plain_words(progress), soft_wrap=True)


class LiveView(_ProgressView):
    """The trainings under way, redrawn in place, with a progress bar below; those that ended stand above as lines."""

    def __init__(
        self, stream: TextIO, *, console: Console | None = None, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        """`stream` is a terminal; tests put `console` and `clock` in place of its own and of time."""
        super().__init__(stream)
        self._console = console or self._console
        self._clock = clock
        self._region = Region(self._console, clock, is_stdout=stream is sys.stdout)

    def start(self, run: "AccuracyRun") -> None:
        """Say what is trained on what; the table stands below from the first update on."""
        super().start(run)
        self._region.start()

    def update(self, progress: Progress) -> None:
        """Redraw, unless that was done a moment ago; a training that ended is told at once."""
        began = self._clock()
        if not self._region.stands:
            return
        self._tell_news(progress)
        if not self._region.is_due(began):
            return
        shown = running_table(progress, height=self._console.height - LINES_AROUND_TABLE)
        self._region.draw(Group(shown, _progress_line(progress)), began)

    def stop(self) -> None:
        """Take the table away and give the cursor back."""
        self._region.stop()


#: Lines of a terminal that the table of running trainings leaves for its header, the bar, and the prompt.
LINES_AROUND_TABLE = 7


def running_table(progress: Progress, *, height: int) -> Table:
    """One line a training under way, as many as fit on `height` lines, and how many more there are."""
    table = Table(box=box.SIMPLE_HEAD, header_style="")
    for column in RUNNING_COLUMNS:
        table.add_column(column, justify="left" if column in WORDS else "right", no_wrap=True)
    shown = progress.running[: max(1, height)]
    for each in shown:
        table.add_row(
            each.name,
            f"{count(each.step)} of {count(each.steps)}",
            "" if each.steps_per_s is None else f"{each.steps_per_s:,.1f}",
            "" if each.training_loss is None else f"{each.training_loss:.4f}",
            wording.percent(each.validation_accuracy, 2),
        )
    if len(progress.running) > len(shown):
        table.add_row(f"and {len(progress.running) - len(shown)} more", style="dim")
    return table


def progress_words(progress: Progress) -> str:
    """How far, how fast, how long still."""
    parts = [
        _how_many(progress),
        "" if progress.examples_per_s is None else f"{progress.examples_per_s:,.0f} examples/s",
        "" if progress.seconds_left is None else f"{duration(progress.seconds_left)} left",
    ]
    return ", ".join(part for part in parts if part)


def plain_words(progress: Progress) -> str:
    """The same in one line with the slowest training under way, and how many are beside it."""
    if not progress.running:
        return progress_words(progress)
    slowest = min(progress.running, key=lambda each: each.step / each.steps)
    parts = [
        f"{slowest.name} at step {count(slowest.step)} of {count(slowest.steps)}",
        "" if slowest.training_loss is None else f"loss {slowest.training_loss:.4f}",
        "" if slowest.validation_accuracy is None else f"validation {wording.percent(slowest.validation_accuracy, 2)}",
        "" if slowest.steps_per_s is None else f"{slowest.steps_per_s:,.1f} steps/s",
        f"{len(progress.running) - 1} beside it" if len(progress.running) > 1 else "",
    ]
    return f"{progress_words(progress)}; " + ", ".join(part for part in parts if part)


def _how_many(progress: Progress) -> str:
    return f"{count(progress.trainings_done)} of {count(progress.trainings_total)} trainings"


def done_share(progress: Progress) -> float:
    """Share of all steps that are done, 0 to 1: trainings that ended, and what is done of those under way."""
    if not progress.trainings_total:
        return 0.0
    under_way = math.fsum(each.step / each.steps for each in progress.running)
    return min(1.0, (progress.trainings_done + under_way) / progress.trainings_total)


def _progress_line(progress: Progress) -> Table:
    line = Table.grid(padding=(0, 1))
    line.add_row(
        ProgressBar(total=1.0, completed=done_share(progress), width=30), Text(progress_words(progress), no_wrap=True)
    )
    return line


def table1(rows: "Sequence[Table1Row]") -> Table:
    """Table 1: the best of each column bold, a line between unaligned and aligned, the improvement below."""
    table = Table(box=box.ASCII2, header_style="")
    for column in COLUMNS:
        table.add_column(column, justify="left" if column in WORDS else "right", no_wrap=True)
    best = {measure: best_of([row.measures.get(measure) for row in rows]) for measure in wording.MEASURES}
    for index, row in enumerate(rows):
        if is_first_aligned(rows, index):
            table.add_section()
        if row.status != "ok":
            table.add_row(row.name, row.status, style="red")
            continue
        cells = [_cell(wording.spread(row.measures.get(measure)), best[measure]) for measure in wording.MEASURES]
        own = wording.spread(row.all_measures.get("one_minus_auprc"))
        table.add_row(row.name, wording.rates(row), *cells, own, wording.parity(row.parity_with_ce))
    table.add_section()
    for losses, found in estimates.improvements(rows).items():
        shares = [wording.percent(found.get(measure)) for measure in wording.MEASURES]
        if any(shares):
            table.add_row("improvement" if losses == "paper" else f"improvement, {losses}", "", *shares)
    return table


def _cell(text: str, best: str) -> Text:
    return Text(text, style="bold" if best and text.split(" ")[0] == best else "")


def print_beside(rows: "Sequence[Table1Row]", stream: TextIO | None = None) -> None:
    """Measured beside published (Table 1), loss by loss; nothing where the paper has none of them."""
    shown = [(row, paper) for row in rows if (paper := published_losses(row.dataset).get(row.name)) and row.measures]
    if not shown:
        return
    console = console_for(stream or sys.stdout)
    console.print("\nbeside the paper's Table 1 (measured | published, the single logit):")
    table = Table(box=box.ASCII2, header_style="")
    for column in ("data set", "loss", "1-AUPRC", "paper", "1-P@.9", "paper", "1-P@.99", "paper"):
        table.add_column(column, justify="left" if column in ("data set", "loss") else "right", no_wrap=True)
    for row, paper in shown:
        pairs = [
            text
            for measure in PUBLISHED_MEASURES
            for text in (wording.spread(row.measures.get(measure)), f"{paper.measures[measure]:.3f}")
        ]
        table.add_row(wording.dataset(row.dataset), row.name, *pairs)
    console.print(table)
