"""From windows to joules per image: one row a class count, its interval, and a verdict on one logit.

The counter moves once in a period T of about 20 to 100 ms and stands still between. A window that uses the power P is
therefore wrong by at most P T, and, as it begins at a random moment, by at most P T / 2 as a standard deviation: with
the age of its first reading uniform in [0, T) and a length of n T + c, the error is -c P or (T - c) P with mean 0 and
variance c (T - c) P**2 <= (T P / 2)**2.

Gross is what the board used. Net is that less the power at rest, interpolated between the rests before and after. The
mean over n windows has the error of their spread, s / sqrt(n), to which the reading's P T / 2 / sqrt(n) is added (it is
in the spread already, but few windows may hide it) and, for net, that of the rests. Errors add as squares, degrees of
freedom by Welch and Satterthwaite (JCGM 100:2008, Guide to the expression of uncertainty in measurement, 5.1.2 and
G.4.1). The ratio of k classes to one logit is taken cycle by cycle, on logarithms.

What no interval here holds is the sensor's own gain, off by some percent, which cancels in ratios and not in joules;
and that on A100 and H100 it looks at a quarter of the time only (Yang, Adamek and Armour, Part-time power measurements,
arXiv:2312.02741), which is why a window holds many passes and lasts seconds.
"""

import itertools
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from bench.folder import Notice
from bench.speed.energy import DISTURBED, FEWEST_CYCLES, Window
from bench.speed.uncertainty import combined

Verdict = Literal["less", "more", "no difference shown", "disturbed", "too few windows"]


class Interval(BaseModel):
    """A number and its 95 % interval, whose ends are None where nothing is known of its error."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    value: float
    low: float | None = None
    high: float | None = None


class EnergyRow(BaseModel):
    """One line of energy.csv: one class count of one setting. None where too few windows tell.

    Where several classes are asked for at a time, "one logit" is their logits, computed alone.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    setting: int
    classes: int
    windows: int = Field(description="windows of work whose energy is known; those that are marked included")
    lost_windows: int = Field(description="windows of work for which the counter went back or stood still")
    marked_windows: int = Field(
        description="windows in which others used the GPU, of this count, of one logit, and of rest"
    )
    seconds: float | None = Field(None, description="per image")
    power_w: float | None = Field(None, description="mean power of the board in the windows of work")
    idle_w: float | None = Field(None, description="mean power of the board at rest, with the network in its memory")
    gross_j: Interval | None = Field(None, description="joules per image: all that the board used")
    net_j: Interval | None = Field(None, description="joules per image, less what the board uses at rest")
    ratio: Interval | None = Field(None, description="gross here / gross of one logit, geometric mean over cycles")
    net_ratio: Interval | None = Field(None, description="the same of net; none where a net is not above 0")
    verdict: Verdict | None = Field(
        None, description="what one logit needs, gross, compared with this count; none for one logit itself"
    )


@dataclass(frozen=True)
class Error:
    """A standard error and its degrees of freedom."""

    size: float
    degrees: float = math.inf


@dataclass(frozen=True)
class _Work:
    """A window of work, for one image: joules, their reading's error, and seconds."""

    key: tuple[int, int]  # process, cycle
    gross: float
    net: float | None
    error: float
    seconds: float


@dataclass(frozen=True)
class _Rests:
    """The rests of one setting: the power between them, and how sure it is; watts and seconds."""

    by_process: Mapping[int, tuple[list[float], list[float]]]  # process -> moments, powers
    error: Error

    @property
    def mean_w(self) -> float | None:
        """Mean over all rests."""
        every = [power for _, powers in self.by_process.values() for power in powers]
        return statistics.fmean(every) if every else None

    def power(self, process: int, moment: float) -> float | None:
        """Power at a moment, linear between rests and that of the nearest beyond them; None without any."""
        if process not in self.by_process:
            return None
        import numpy as np  # slow to import, as scipy below, and whoever draws no energy needs neither

        return float(np.interp(moment, *self.by_process[process]))


def combine(errors: Sequence[Error]) -> Error:
    """Independent errors together."""
    return Error(*combined([(error.size, error.degrees) for error in errors]))


def reach(errors: Sequence[Error], confidence: float = 0.95) -> float:
    """Half the width of the interval that covers the truth with this probability."""
    from scipy import stats

    total = combine(errors)
    quantile = 0.5 + confidence / 2
    at = stats.norm.ppf(quantile) if math.isinf(total.degrees) else stats.t.ppf(quantile, total.degrees)
    return float(at) * total.size


def reading_error(window: Window) -> float:
    """Standard error in joules of a window's two readings: the counter's period, and twice its resolution."""
    assert window.joules is not None, "only windows whose energy is known are asked"
    power = window.joules / window.seconds
    return math.hypot(power * window.period_s / 2, window.resolution_j / math.sqrt(6))


def rows(windows: Sequence[Window], references: Sequence[int] = ()) -> list[EnergyRow]:
    """One row for each setting and class count, in this order; windows of any number of processes.

    `references`: of every setting the class count that ratios are relative to; 1 where none is given.
    """
    return [
        row
        for setting in sorted({window.setting for window in windows})
        for row in _of_setting(
            setting,
            [window for window in windows if window.setting == setting],
            references[setting] if references else 1,
        )
    ]


def _of_setting(setting: int, windows: Sequence[Window], reference: int) -> list[EnergyRow]:
    rests = _rests(windows)
    counts = sorted({window.classes for window in windows if window.classes is not None})
    work = {classes: _work(windows, classes, rests) for classes in counts}
    found = []
    for classes in counts:
        concerned = [window for window in windows if window.classes in (None, reference, classes)]
        row = EnergyRow(
            setting=setting,
            classes=classes,
            windows=len(work[classes]),
            lost_windows=sum(window.classes == classes and window.joules is None for window in windows),
            marked_windows=sum(bool(DISTURBED.intersection(window.marks)) for window in concerned),
        )
        row = _with_joules(row, work[classes], rests)
        beside = classes != reference
        found.append(_beside_one_logit(row, work[classes], work.get(reference, []), rests) if beside else row)
    return found


def _rests(windows: Sequence[Window]) -> _Rests:
    """Rests and the error of their mean, from differences of neighbours, which a steady drift leaves small.

    (von Neumann and others, The mean square successive difference, Annals of Mathematical Statistics 12, 1941.)
    """
    idle = [window for window in windows if window.kind == "idle" and window.joules is not None]
    by_process: dict[int, tuple[list[float], list[float]]] = {}
    for window in sorted(idle, key=lambda window: window.offset_s):
        moments, powers = by_process.setdefault(window.process, ([], []))
        moments.append(window.offset_s + window.seconds / 2)
        powers.append((window.joules or 0.0) / window.seconds)
    if not idle:
        return _Rests({}, Error(0.0))
    steps = [after - before for _, powers in by_process.values() for before, after in itertools.pairwise(powers)]
    scatter = math.sqrt(statistics.fmean(step**2 for step in steps) / 2) if steps else 0.0
    reading = math.sqrt(statistics.fmean((reading_error(window) / window.seconds) ** 2 for window in idle))
    return _Rests(by_process, Error(math.hypot(scatter, reading) / math.sqrt(len(idle)), max(1, len(steps))))


def _work(windows: Sequence[Window], classes: int, rests: _Rests) -> list[_Work]:
    found = []
    for window in windows:
        if window.classes != classes or window.joules is None:
            continue
        idle_w = rests.power(window.process, window.offset_s + window.seconds / 2)
        found.append(
            _Work(
                key=(window.process, window.cycle),
                gross=window.joules / window.images,
                net=None if idle_w is None else (window.joules - idle_w * window.seconds) / window.images,
                error=reading_error(window) / window.images,
                seconds=window.seconds / window.images,
            )
        )
    return found


def _with_joules(row: EnergyRow, work: Sequence[_Work], rests: _Rests) -> EnergyRow:
    if not work:
        return row
    seconds = statistics.fmean(one.seconds for one in work)
    reading = [one.error for one in work]
    at_rest = Error(rests.error.size * seconds, rests.error.degrees)
    nets = [one.net for one in work if one.net is not None]
    return row.model_copy(
        update={
            "seconds": seconds,
            "power_w": statistics.fmean(one.gross / one.seconds for one in work),
            "idle_w": rests.mean_w,
            "gross_j": mean([one.gross for one in work], reading),
            "net_j": mean(nets, reading, at_rest) if len(nets) == len(work) else None,
        }
    )


def _beside_one_logit(row: EnergyRow, work: Sequence[_Work], single: Sequence[_Work], rests: _Rests) -> EnergyRow:
    ones = {one.key: one for one in single}
    pairs = [(one, ones[one.key]) for one in work if one.key in ones]
    ratio = _gross_ratio(pairs)
    found = verdict(ratio, len(pairs), row.marked_windows)
    return row.model_copy(update={"ratio": ratio, "net_ratio": _net_ratio(pairs, rests), "verdict": found})


def _gross_ratio(pairs: Sequence[tuple[_Work, _Work]]) -> Interval | None:
    if not pairs:
        return None
    logs = [math.log(here.gross / one.gross) for here, one in pairs]
    reading = [math.hypot(here.error / here.gross, one.error / one.gross) for here, one in pairs]
    return _exponential(mean(logs, reading))


def _net_ratio(pairs: Sequence[tuple[_Work, _Work]], rests: _Rests) -> Interval | None:
    """None where a net is not above 0: there is then nothing to take a ratio of."""
    known = [(here, one, here.net, one.net) for here, one in pairs if here.net is not None and one.net is not None]
    if not known or len(known) < len(pairs) or any(min(mine, base) <= 0 for _, _, mine, base in known):
        return None
    logs = [math.log(mine / base) for _, _, mine, base in known]
    reading = [math.hypot(here.error / mine, one.error / base) for here, one, mine, base in known]
    # The logarithm's derivative by the power at rest, which is wrong for both in the same way.
    slope = statistics.fmean(one.seconds / base - here.seconds / mine for here, one, mine, base in known)
    return _exponential(mean(logs, reading, Error(abs(slope) * rests.error.size, rests.error.degrees)))


def mean(values: Sequence[float], reading: Sequence[float], *others: Error) -> Interval:
    """Mean of one or more windows; `reading` is each window's own error, `others` are what all windows share."""
    middle = statistics.fmean(values)
    if len(values) < 2:
        return Interval(value=middle)
    spread = Error(statistics.stdev(values) / math.sqrt(len(values)), len(values) - 1)
    averaged = Error(math.sqrt(sum(error**2 for error in reading)) / len(reading))
    half = reach([spread, averaged, *others])
    return Interval(value=middle, low=middle - half, high=middle + half)


def _exponential(logarithm: Interval) -> Interval:
    ends = {"low": logarithm.low, "high": logarithm.high}
    return Interval(
        value=math.exp(logarithm.value), **{end: None if at is None else math.exp(at) for end, at in ends.items()}
    )


def verdict(ratio: Interval | None, cycles: int, disturbed: int) -> Verdict:
    """What one logit needs compared with a larger count, from the interval of the ratio of their gross energies.

    cycles: how many hold a window of both. disturbed: windows in which others used the GPU; after one there is no
    verdict, because nobody knows what their part is.
    """
    if disturbed:
        return "disturbed"
    if ratio is None or ratio.low is None or ratio.high is None or cycles < FEWEST_CYCLES:
        return "too few windows"
    if ratio.low > 1:
        return "less"
    return "more" if ratio.high < 1 else "no difference shown"


def notices(windows: Sequence[Window]) -> list[Notice]:
    """What to know about windows: others on the GPU, a counter that failed, a container that hides processes."""
    marked = [window for window in windows if DISTURBED.intersection(window.marks)]
    lost = [window for window in windows if window.joules is None]
    hidden = [window for window in windows if window.others is None]
    found = []
    if marked:
        found.append(
            Notice(
                kind="energy-disturbed",
                happened=f"something else used the GPU in {len(marked)} of {len(windows)} windows of energy",
                matters="the counter is the whole board's, so its energy is in the figures; they get no verdict",
                remedy="end it (nvidia-smi lists who), and measure again",
            )
        )
    if lost:
        found.append(
            Notice(
                kind="energy-counter",
                happened=f"the energy counter went back or stood still in {len(lost)} of {len(windows)} windows",
                matters="their energy is unknown, and they are in no figure",
                remedy="measure again; a driver that was reloaded or a GPU that was reset begins at 0",
            )
        )
    if hidden:
        found.append(
            Notice(
                kind="energy-unseen",
                happened=f"NVML listed no process, not even this one, in {len(hidden)} of {len(windows)} windows",
                matters="another process would show only by what it computes while this one rests",
                remedy="run outside the container, or with its host's process ids (docker: --pid host)",
            )
        )
    return found


def no_energy(reason: str) -> Notice:
    """Energy was asked for and is not, or only in part, measured."""
    return Notice(
        kind="no-energy",
        happened=f"no energy: {reason}",
        matters="times and speedups are measured all the same; energy.csv lacks this setting, or part of it",
        remedy="see the reason; docs/energy.md says what the counter needs",
    )
