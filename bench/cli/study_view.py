"""What a person sees of a study while it runs: what is done, the trainings under way, those that ended.

Nothing here has a thread; a view draws only when it is called, and decides how often that is worth it.
"""

import math
import sys
import time
from collections.abc import Callable
from typing import TextIO

from rich.console import Console, Group
from rich.text import Text

from bench.folder import Notice
from bench.scaling.recorder import Progress
from bench.scaling.records import StudyTraining
from bench.scaling.run import StudyRun
from reports.accuracy.terminal import LINES_AROUND_TABLE, PLAIN_S, Running, plain_words, progress_words, running_table
from reports.accuracy.terminal import Progress as Shown
from reports.accuracy.wording import ended
from reports.scaling.wording import measured_on
from reports.terminal import Region, console_for, is_terminal, notice_text


def choose_view(stream: TextIO, *, quiet: bool) -> "QuietView":
    """The view for a stream: a terminal is redrawn, anything else gets plain lines; quiet shows warnings alone."""
    if quiet:
        return QuietView(stream)
    return LiveView(stream) if is_terminal(stream) else PlainView(stream)


def shown(progress: Progress) -> Shown:
    """A study's progress in the words of a grid's."""
    running = tuple(
        Running(
            event.members[0].name,
            event.step,
            event.steps,
            event.steps_per_s,
            event.training_losses[0],
            event.validation_accuracies[0],
        )
        for event in progress.running
    )
    return Shown(progress.done, progress.total, running, None, None)


class QuietView:
    """Nothing but notices."""

    def __init__(self, stream: TextIO, *, console: Console | None = None) -> None:
        """`stream` takes everything that is shown; tests put `console` in the place of its own."""
        self._console = console or console_for(stream)

    def start(self, run: StudyRun) -> None:
        """Say nothing."""

    def update(self, run: StudyRun, progress: Progress) -> None:
        """Say nothing."""

    def notice(self, notice: Notice) -> None:
        """Show a warning."""
        self._console.print(notice_text(notice), soft_wrap=True)

    def stop(self) -> None:
        """Leave the stream as it is."""


class PlainView(QuietView):
    """Lines for a log: what is done next, every training that ended, and now and then how far it is."""

    def __init__(
        self, stream: TextIO, *, console: Console | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Tests put `clock` in the place of time."""
        super().__init__(stream, console=console)
        self._clock = clock
        self._told = 0
        self._doing = ""
        self._next = math.inf

    def start(self, run: StudyRun) -> None:
        """Say what is studied; trainings that have ended already are not told again."""
        first, *others = measured_on(run.manifest)
        self._console.print(Text(first, style="bold"), soft_wrap=True)
        for line in others:
            self._console.print(line, soft_wrap=True)
        self._told = len(run.trainings)
        self._next = self._clock() + PLAIN_S

    def update(self, run: StudyRun, progress: Progress) -> None:
        """What is done next and each training that ended; every PLAIN_S seconds how far those under way are."""
        self._tell_ended(run)
        if progress.doing != self._doing:
            self._doing = progress.doing
            self._console.print(progress.doing, soft_wrap=True)
        if progress.running and self._clock() >= self._next:
            self._next = self._clock() + PLAIN_S
            self._console.print(plain_words(shown(progress)), soft_wrap=True)

    def _tell_ended(self, run: StudyRun) -> None:
        for each in run.trainings[self._told :]:
            style = "" if each.training.status == "ok" else "red"
            self._console.print(Text(ended_line(each), style=style), soft_wrap=True)
        self._told = max(self._told, len(run.trainings))


class LiveView(PlainView):
    """The trainings under way, redrawn in place; those that ended stand above as lines."""

    def __init__(
        self, stream: TextIO, *, console: Console | None = None, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        """`stream` is a terminal; tests put `console` and `clock` in place of its own and of time."""
        super().__init__(stream, console=console, clock=clock)
        self._region = Region(self._console, clock, is_stdout=stream is sys.stdout)

    def start(self, run: StudyRun) -> None:
        """Say what is studied, and make room."""
        super().start(run)
        self._region.start()

    def update(self, run: StudyRun, progress: Progress) -> None:
        """Redraw, unless that was done a moment ago; a training that ended is told at once."""
        began = self._clock()
        if not self._region.stands:
            return
        self._tell_ended(run)
        if not self._region.is_due(began):
            return
        table = running_table(shown(progress), height=self._console.height - LINES_AROUND_TABLE)
        words = Text(f"{progress.doing}; {progress_words(shown(progress))}", no_wrap=True)
        self._region.draw(Group(table, words), began)

    def stop(self) -> None:
        """Take the region away and give the cursor back."""
        self._region.stop()


def ended_line(record: StudyTraining) -> str:
    """How a training ended, in one line."""
    return f"{record.classes:,} classes, {record.stage}: {ended(record.training)}"
