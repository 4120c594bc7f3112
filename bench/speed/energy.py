"""Windows of work between windows of rest, and what a GPU's energy counter says of each.

    rest    1     k    rest    k     1    rest    1     k    rest   ...   rest
    |-----|-----|-----|-----|-----|-----|-----|-----|-----|-----|
     cycle 0           cycle 1           cycle 2

    one window:   lead-in (the same work, not counted)  | read | 5 s and more | read |

A cycle holds one window of each kind. Class counts come in turn up and down, so that what drifts steadily (heat,
leakage) falls on each alike over an even number of cycles; a last rest closes the run. The lead-in lets the clocks and
the average behind the counter arrive at the new power; its last part is of random length, so that windows do not begin
in step with the counter.

What a window's joules are worth, and what they say of one logit, is in bench.speed.energy_rows.
"""

import itertools
import math
import random
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

from pydantic import Field

from bench.errors import UsageError
from bench.folder import Notice, Record, now, read_lines
from bench.machine.energy import EnergyRefused

if TYPE_CHECKING:
    from torch import Tensor

    from bench.speed.clocks import Forward

#: Shorter windows hold too few looks of a sensor that looks a quarter of the time.
SHORTEST_WINDOW_S = 5.0

#: With fewer, the t quantile makes intervals that say nothing.
FEWEST_CYCLES = 5

#: NVML averages power over a second on Ampere and later, and a GPU takes about as long to change its clocks.
LEAD_IN_S = 2.0

#: Passes are queued for about this long before the device is waited for: the wait is then lost in it.
CHUNK_S = 0.2

#: Looks at the counter while its period is sought, this far apart, until it has moved so often or this long.
POLL_S = 0.001
POLL_MOVES = 20
POLL_LIMIT_S = 5.0

#: The file of a run that holds its windows.
FILE = "energy.jsonl"

WindowKind = Literal["idle", "work"]
WindowMark = Literal["other-process", "busy-at-rest", "counter-went-back", "counter-stood-still"]

#: A pass of the network as often as asked, and back once the device is done.
Work = Callable[[int], None]

#: Marks of windows in whose energy somebody else may have a part.
DISTURBED = frozenset[WindowMark](("other-process", "busy-at-rest"))


class Window(Record):
    """A line of energy.jsonl: one window of work or of rest."""

    setting: int = Field(ge=0, description="index into the manifest's settings")
    process: int = Field(ge=0, description="which process of the run, counted from 0")
    cycle: int = Field(ge=0, description="a cycle holds one window of each kind; the last rest is one of its own")
    kind: WindowKind
    classes: int | None = Field(None, ge=1, description="class count; none at rest")
    started: str = Field(description="UTC, ISO 8601")
    offset_s: float = Field(description="seconds from the first reading of the first window to this one's first")
    seconds: float = Field(gt=0, description="between the two readings of the counter")
    joules: float | None = Field(description="of the whole board; none if the counter cannot have told it (see marks)")
    images: int = Field(ge=0, description="examples that went through the network; 0 at rest")
    period_s: float = Field(gt=0, description="the longest time that the counter was seen to stand still")
    resolution_j: float = Field(gt=0, description="what all steps of the counter are multiples of")
    others: int | None = Field(None, description="other processes seen; none if it shows nobody, not even us")
    utilisation: int | None = Field(None, description="percent of the rest's end in which a kernel ran; none in work")
    marks: tuple[WindowMark, ...] = Field((), description="why to doubt this window; a marked window is never dropped")


class Meter(Protocol):
    """What bench.machine.energy.EnergyMeter tells; all of it may raise EnergyRefused."""

    def read(self) -> int:
        """Millijoules since some moment in the past."""

    def others(self) -> int | None:
        """How many other processes use the GPU; None if it cannot be seen."""

    def utilisation(self) -> int | None:
        """Percent of the last second in which kernels ran; None if it cannot be seen."""

    def refuse_if_false(self) -> None:
        """Raise EnergyRefused where the counter would not count this process alone."""


@dataclass(frozen=True)
class EnergyProtocol:
    """How long and how often. Raises UsageError for less than the error of a counter allows."""

    window_s: float = SHORTEST_WINDOW_S
    cycles: int = 6

    def __post_init__(self) -> None:
        if self.window_s < SHORTEST_WINDOW_S:
            raise UsageError(f"a window of energy lasts {SHORTEST_WINDOW_S:g} s or more, not {self.window_s:g} s")
        if self.cycles < FEWEST_CYCLES:
            raise UsageError(f"energy needs {FEWEST_CYCLES} windows of each kind or more, not {self.cycles}")

    def seconds(self, counts: int) -> float:
        """About how long a measurement of so many class counts takes."""
        return (self.cycles * (counts + 1) + 1) * (self.window_s + LEAD_IN_S) + LEAD_IN_S


@dataclass(frozen=True)
class CounterFacts:
    """How finely the counter tells time and energy."""

    period_s: float
    resolution_j: float


def order(classes: Sequence[int], cycles: int) -> list[tuple[int, int | None]]:
    """Cycle and class count of every window, None for a rest; counts rise in even cycles and fall in odd ones."""
    counts = sorted(classes)
    planned: list[tuple[int, int | None]] = []
    for cycle in range(cycles):
        turn = counts if cycle % 2 == 0 else counts[::-1]
        planned += [(cycle, None), *((cycle, count) for count in turn)]
    return [*planned, (cycles, None)]


def is_complete(windows: Iterable[Window], setting: int, protocol: EnergyProtocol | None = None) -> bool:
    """Whether a setting has been measured to its last rest, by any process: a run that is resumed asks."""
    last = (protocol or EnergyProtocol()).cycles
    return any(window.setting == setting and window.kind == "idle" and window.cycle == last for window in windows)


def counter_facts(
    read: Callable[[], int], clock: Callable[[], float] = time.perf_counter, sleep: Callable[[float], None] = time.sleep
) -> CounterFacts:
    """Poll a counter of millijoules until its period and its steps are known.

    The first move only begins the first period. Raises EnergyRefused for a counter that stands still or goes back.
    """
    began = clock()
    last = read()
    moved_at: list[float] = []
    steps: list[int] = []
    while len(moved_at) < POLL_MOVES and clock() - began < POLL_LIMIT_S:
        sleep(POLL_S)
        value = read()
        if value < last:
            raise EnergyRefused("the GPU's energy counter went back while it was looked at: leave out --energy")
        if value > last:
            moved_at.append(clock())
            steps.append(value - last)
            last = value
    if len(moved_at) < 2:
        raise EnergyRefused(
            f"the GPU's energy counter moved {len(moved_at)} times in {POLL_LIMIT_S:g} s, so it tells nothing of "
            "windows of seconds: leave out --energy"
        )
    longest = max(after - before for before, after in itertools.pairwise(moved_at))
    return CounterFacts(period_s=longest, resolution_j=math.gcd(*steps) / 1000)


def work_of(forward: "Forward", pool: Sequence["Tensor"], synchronise: Callable[[], None]) -> Work:
    """Passes of a forward over minibatches of shape (batch, *input_shape), in turn.

    `synchronise` waits until the device is done.
    """

    def run(passes: int) -> None:
        for number in range(passes):
            forward.load(pool[number % len(pool)])
            forward()
        synchronise()

    return run


def marks_of(
    kind: WindowKind, millijoules: int, others: Iterable[int | None], utilisation: int | None
) -> tuple[WindowMark, ...]:
    """What makes a window doubtful.

    millijoules: by how much the counter moved. others: processes seen before and after. utilisation: at rest, percent.
    """
    marks: list[WindowMark] = []
    if any(others):
        marks.append("other-process")
    if kind == "idle" and utilisation:
        marks.append("busy-at-rest")
    if millijoules < 0:
        marks.append("counter-went-back")
    if millijoules == 0:
        marks.append("counter-stood-still")
    return tuple(marks)


def measure_energy(
    meter: Meter,
    work: Mapping[int, Work],
    *,
    batch_size: int,
    setting: int,
    process: int,
    emit: Callable[[Window], None],
    protocol: EnergyProtocol | None = None,
    seed: int = 0,
    clock: Callable[[], float] = time.perf_counter,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Measure the windows of one setting in one process and emit each when it is done.

    work: what to run, by class count. Raises EnergyRefused before the first window where the counter would be false,
    and in between if it is lost; windows emitted by then stay good. What `work` and `emit` raise is passed on.
    """
    sleep(LEAD_IN_S)  # what this process did before is then out of what NVML says about the last second
    facts = counter_facts(meter.read, clock, sleep)
    meter.refuse_if_false()
    if meter.utilisation():
        raise EnergyRefused(
            "kernels run on this GPU while this process rests, and their energy would be counted: end what runs them, "
            "or leave out --energy"
        )
    protocol = protocol or EnergyProtocol()
    take = _Taker(meter, facts, protocol.window_s, random.Random(f"{seed} {process}"), clock, sleep)
    for cycle, classes in order(list(work), protocol.cycles):
        taken = take.idle() if classes is None else take.working(work[classes])
        emit(taken.window(setting, process, cycle, classes, batch_size, facts))


@dataclass(frozen=True)
class _Taken:
    """One window as it was taken; the counter's move is in millijoules."""

    started: str
    offset_s: float
    seconds: float
    millijoules: int
    others: tuple[int | None, int | None]
    passes: int = 0
    utilisation: int | None = None

    def window(
        self, setting: int, process: int, cycle: int, classes: int | None, batch_size: int, counter: CounterFacts
    ) -> Window:
        """The record of it."""
        kind: WindowKind = "idle" if classes is None else "work"
        return Window(
            setting=setting,
            process=process,
            cycle=cycle,
            kind=kind,
            classes=classes,
            started=self.started,
            offset_s=self.offset_s,
            seconds=self.seconds,
            joules=self.millijoules / 1000 if self.millijoules > 0 else None,
            images=self.passes * batch_size,
            period_s=counter.period_s,
            resolution_j=counter.resolution_j,
            others=max((number for number in self.others if number is not None), default=None),
            utilisation=self.utilisation,
            marks=marks_of(kind, self.millijoules, self.others, self.utilisation),
        )


class _Taker:
    """Takes windows of rest and of work, one after the other."""

    def __init__(
        self,
        meter: Meter,
        counter: CounterFacts,
        window_s: float,
        draws: random.Random,
        clock: Callable[[], float],
        sleep: Callable[[float], None],
    ) -> None:
        self._meter = meter
        self._counter = counter
        self._window_s = window_s
        self._draws = draws
        self._clock = clock
        self._sleep = sleep
        self._origin: float | None = None

    def idle(self) -> _Taken:
        """A window in which this process asks nothing of the GPU."""
        before = self._meter.others()
        self._sleep(LEAD_IN_S + self._draws.uniform(0, self._counter.period_s))
        started, first, began = self._begin()
        self._sleep(self._window_s)
        last, ended = self._meter.read(), self._clock()
        utilisation = self._meter.utilisation()
        others = before, self._meter.others()
        return _Taken(started, self._offset(began), ended - began, last - first, others, 0, utilisation)

    def working(self, work: Work) -> _Taken:
        """A window of passes, in chunks that end with the device idle."""
        before = self._meter.others()
        chunk = self._lead_in(work)
        started, first, began = self._begin()
        passes = 0
        while self._clock() - began < self._window_s:
            work(chunk)
            passes += chunk
        last, ended = self._meter.read(), self._clock()
        others = before, self._meter.others()
        return _Taken(started, self._offset(began), ended - began, last - first, others, passes)

    def _lead_in(self, work: Work) -> int:
        """Work for LEAD_IN_S and a random number of passes more; returns how many passes make a chunk."""
        began = self._clock()
        chunk = 1
        while (start := self._clock()) - began < LEAD_IN_S:
            work(chunk)
            if self._clock() - start < CHUNK_S:
                chunk *= 2
        work(self._draws.randint(1, chunk))
        return chunk

    def _begin(self) -> tuple[str, int, float]:
        return now(), self._meter.read(), self._clock()

    def _offset(self, began: float) -> float:
        if self._origin is None:
            self._origin = began
        return began - self._origin


def load_windows(folder: Path) -> tuple[list[Window], list[Notice]]:
    """The windows of a run, and a notice if the last line was torn; no window of a run without energy.jsonl.

    Raises UsageError, naming the line, for a file that was altered.
    """
    path = folder / FILE
    return read_lines(path, Window, "window of energy") if path.exists() else ([], [])
