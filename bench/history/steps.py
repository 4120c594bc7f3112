"""Steps and slow drifts in a series of runs: plain numbers in, indices and ratios out.

    entry      0    1    2    3    4    5    6    7    8    9
    value     4.02 3.98 4.01 4.00 3.99 | 3.80 3.79 3.82 3.80 3.81      a step between entries 4 and 5
    value     4.02 4.00 3.97 3.96 3.94   3.91 3.89 3.87 3.86 3.84      a drift from 0 to 9, no neighbours apart

Comparing one run with the one before finds neither the small step nor the drift: each change is smaller than what two
runs can tell apart. All runs together can. What is asked is which of these describes the series best, x being the
natural logarithms of its values and RSS what is left of their squares:

    nothing changed          n ln RSS_0
    K steps                  n ln RSS_K    + K * penalty     (the best places of K steps, by dynamic programming)
    one line through all     n ln RSS_line + penalty

This is the segmentation of Auger and Lawrence (Algorithms for the optimal identification of segment neighborhoods,
Bulletin of Mathematical Biology 51, 1989) with the likelihood of a normal law whose variance is unknown: no scale of
the noise has to be guessed, and the best places are found together, so that a regression and its repair do not hide
each other as they do where a series is split in two again and again. The penalty (PENALTIES) was found by simulation,
such that of a hundred series of pure noise one at most is said to hold any change at all.

* A run that lay in a burst is an outlier and no step: before all else values are drawn in to 3 scales around the
  running median of 9 (Hampel's identifier), and a level is held by at least 3 runs.
* A run that knows its own error to be large counts for less: weights are 1 / (own error^2 + variance between runs),
  the latter from the differences of neighbours, which steps and drifts leave almost alone.
* Steps in one direction that a ramp describes better (by the Bayesian information criterion) are one drift.
* Changes under SMALLEST are left out: a machine wanders that much over weeks for no reason in anybody's code.

Noise is taken as independent from run to run. Where it is not (a neighbour who stays for days), what is found is real
for the machine and not for the code: the next comparison on a quiet machine tells. See docs/history.md.
"""

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from bench.speed.uncertainty import log_interval

if TYPE_CHECKING:
    from bench.history.snapshot import Estimate, OtherMachine, Work
    from bench.history.store import Entry
    from bench.machine.fingerprint import Machine

Floats = NDArray[np.float64]
Quantity = Literal["single", "all", "speedup"]

QUANTITIES: tuple[Quantity, ...] = ("single", "all", "speedup")

#: Runs that a level needs: of two that agree by chance there are too many.
SHORTEST_LEVEL = 3

#: Fewer runs than two levels hold no step.
FEWEST = 2 * SHORTEST_LEVEL

#: Of a longer series the newest are looked at: the table of all segments' costs takes 8 n^2 bytes, here 32 MB.
LONGEST = 2000

#: Most steps that are looked for in one series.
MOST_STEPS = 20

#: Changes smaller than this are not told.
SMALLEST = 0.01

#: Differences below this do not exist: it keeps the logarithm of a perfect fit finite, and equal runs without a step.
RESOLUTION = 0.001

#: Of Hampel's identifier: runs on either side for the median and for the scale, and scales from the median. With a
#: scale from as few runs as the median's, two bursts close together would pass for noise.
HALF_WINDOW = 4
HALF_NEIGHBOURHOOD = 15
REACH = 3.0

#: Difference of the Bayesian information criterion that counts as evidence for the less simple description (Kass and
#: Raftery, Bayes factors, Journal of the American Statistical Association 90, 1995: from 2 on it is positive).
PLAINLY = 2.0

#: Places of a ramp's ends that are tried, each.
RAMP_ENDS = 25

#: Entries -> penalty for a step at which 1 % of series of pure noise are said to hold a change; between them it is
#: interpolated in the logarithm of the number. From `penalty_of_noise` of 2,000 series each (at 300 entries 250), the
#: largest of three kinds (tests/bench/history/test_history_steps.py): normal noise and Student's t with 5 degrees of
#: freedom, whose own would be 12 to 16, and speedups of runs of 30 recorded rounds on a busy machine, a sixth of which
#: touch a burst that changed the speedup by 14 %: over a long history some of those lie side by side. The last one is
#: extrapolated.
PENALTIES = {6: 14.0, 10: 14.5, 30: 16.5, 100: 22.5, 300: 35.0, 1000: 48.0}


@dataclass(frozen=True)
class Step:
    """One change of level: between two neighbours, or little by little over several runs.

    before: index of the last entry at the old level. after: index of the first at the new one.
    ratio: new level / old level. low, high: its 95 % interval, as if the place had been known beforehand.
    """

    kind: Literal["step", "drift"]
    before: int
    after: int
    ratio: float
    low: float
    high: float


@dataclass(frozen=True)
class Measured:
    """One value of a series, and the run it is from."""

    entry: "Entry"
    estimate: "Estimate"

    @property
    def commit(self) -> str | None:
        """Of the git working tree the run was started in, with "+dirty" if it had uncommitted changes.

        slc-bench's own where that is unknown, None where both are.
        """
        return self.entry.snapshot.commit


@dataclass(frozen=True)
class Series:
    """One quantity of one work on one kind of machine, oldest first."""

    machine: "Machine | OtherMachine"
    threads: int | None
    work: "Work"
    quantity: Quantity
    measured: tuple[Measured, ...]
    steps: tuple[Step, ...] = ()


@dataclass
class _Growing:
    machine: "Machine | OtherMachine"
    measured: dict[tuple["Work", int | None, Quantity], list[Measured]] = field(default_factory=dict)


def series(entries: Iterable["Entry"]) -> tuple[Series, ...]:
    """All series of a history, with their steps: entries of equal hardware, threads and work, by the time they ran."""
    groups: list[_Growing] = []
    for entry in sorted(entries, key=lambda entry: (entry.snapshot.created, entry.path.name)):
        group = next((each for each in groups if _equal(each.machine, entry.snapshot.machine)), None)
        if group is None:
            group = _Growing(entry.snapshot.machine)
            groups.append(group)
        for point in entry.snapshot.points:
            for quantity in QUANTITIES:
                estimate: Estimate | None = getattr(point, quantity)
                if point.status == "ok" and estimate is not None:
                    key = (point.work, point.threads, quantity)
                    group.measured.setdefault(key, []).append(Measured(entry, estimate))
    return tuple(
        Series(group.machine, threads, work, quantity, tuple(measured), _steps_of(measured))
        for group in groups
        for (work, threads, quantity), measured in group.measured.items()
    )


def _steps_of(measured: Sequence[Measured]) -> tuple[Step, ...]:
    return steps([each.estimate.value for each in measured], [each.estimate.error for each in measured])


def _equal(a: "Machine | OtherMachine", b: "Machine | OtherMachine") -> bool:
    from bench.machine.fingerprint import Machine, same_hardware

    if isinstance(a, Machine) and isinstance(b, Machine):
        return not same_hardware(a, b)
    return not isinstance(a, Machine) and not isinstance(b, Machine) and (a.cpu, a.cores) == (b.cpu, b.cores)


def steps(values: Sequence[float], errors: Sequence[float | None] | None = None) -> tuple[Step, ...]:
    """The changes of level in a series of positive values, oldest first; at most 1 % of pure noise holds any.

    errors: standard errors of the values' natural logarithms, None where unknown. Of more than LONGEST values the
    newest are looked at; fewer than FEWEST hold no step. Raises ValueError for values that are not positive numbers.
    """
    if not all(math.isfinite(value) and value > 0 for value in values):
        raise ValueError("a series holds positive numbers only")
    left_out = max(0, len(values) - LONGEST)
    if len(values) < FEWEST:
        return ()
    logs = np.log(np.asarray(values[left_out:], dtype=float))
    weights = _weights(logs, (errors or [None] * len(values))[left_out:])
    drawn_in = without_outliers(logs)
    found = _describe(drawn_in, weights, _best_description(drawn_in, weights, penalty(len(logs))))
    return tuple(
        Step(each.kind, each.before + left_out, each.after + left_out, each.ratio, each.low, each.high)
        for each in found
        if abs(each.ratio - 1) >= SMALLEST
    )


def penalty(entries: int) -> float:
    """What a step must explain of a series of so many entries, in units of n ln RSS."""
    known = sorted(PENALTIES)
    return float(np.interp(math.log(entries), np.log(known), [PENALTIES[each] for each in known]))


def penalty_of_noise(logs: Floats) -> float:
    """The smallest penalty at which this series, shape (entries,), is said to hold no change."""
    logs = without_outliers(logs)
    weights = np.ones(len(logs))
    left, line = _left_over(logs, weights)
    gain = _score(left[0], len(logs)) - np.array([_score(each, len(logs)) for each in left[1:]])
    per_step = gain / np.arange(1, len(left))
    return float(max(per_step.max(), _score(left[0], len(logs)) - _score(line, len(logs))))


def without_outliers(logs: Floats) -> Floats:
    """Values drawn in to REACH scales around the running median of their neighbours, shape (entries,).

    The scale is that of the wider neighbourhood, or of the series if that is larger: a noisy month is no outlier.
    """
    away = np.abs(logs - (middle := _running_median(logs, HALF_WINDOW)))
    usual = max(float(np.median(away)), RESOLUTION)
    scale = 1.4826 * np.maximum(_running_median(away, HALF_NEIGHBOURHOOD), usual)  # a normal law's sd / its MAD
    return np.clip(logs, middle - REACH * scale, middle + REACH * scale)


def _running_median(values: Floats, half: int) -> Floats:
    """Median of each value and its neighbours, `half` on either side or as many as there are; shape (entries,)."""
    padded = np.pad(values, half, constant_values=np.nan)
    return np.asarray(np.nanmedian(np.lib.stride_tricks.sliding_window_view(padded, 2 * half + 1), axis=1))


def _weights(logs: Floats, errors: Sequence[float | None]) -> Floats:
    """1 / (own variance + variance between runs), scaled to a mean of 1; an unknown error is taken as the median."""
    known = [error for error in errors if error is not None]
    if not known:
        return np.ones(len(logs))
    usual = float(np.median(known))
    own = np.array([usual if error is None else error for error in errors]) ** 2
    differences = np.diff(logs)
    spread = 1.4826 * float(np.median(np.abs(differences - np.median(differences)))) / math.sqrt(2)
    between = max(spread**2 - float(np.median(own)), RESOLUTION**2)
    weights = 1 / (own + between)
    return np.asarray(weights / weights.mean())


def _segment_costs(logs: Floats, weights: Floats) -> Floats:
    """Weighted squares left of a segment from i to before j, shape (n + 1, n + 1); infinite where it is too short."""
    total, first, second = (np.concatenate([[0.0], np.cumsum(weights * logs**power)]) for power in (0, 1, 2))
    with np.errstate(divide="ignore", invalid="ignore"):
        costs = (second[None, :] - second[:, None]) - (first[None, :] - first[:, None]) ** 2 / (
            total[None, :] - total[:, None]
        )
    place = np.arange(len(total))
    long_enough = place[None, :] - place[:, None] >= SHORTEST_LEVEL
    return np.where(long_enough, np.maximum(costs, 0.0), np.inf)


def _segmentations(costs: Floats) -> tuple[list[float], list[NDArray[np.intp]]]:
    """Squares left by the best 0, 1, 2 ... steps, and for each number where the last segment up to j begins."""
    entries = len(costs) - 1
    most = min(MOST_STEPS, entries // SHORTEST_LEVEL - 1)
    best = costs[0]
    left, begins = [float(best[-1])], [np.zeros(len(costs), dtype=np.intp)]
    for _ in range(most):
        summed = best[:, None] + costs
        begin = np.argmin(summed, axis=0)
        best = summed[begin, np.arange(len(costs))]
        left.append(float(best[-1]))
        begins.append(begin)
    return left, begins


def _places(begins: Sequence[NDArray[np.intp]], steps: int) -> list[int]:
    """The first entries of the levels after each of so many steps, ascending."""
    places = []
    end = len(begins[0]) - 1
    for number in range(steps, 0, -1):
        end = int(begins[number][end])
        places.append(end)
    return places[::-1]


def _left_over(logs: Floats, weights: Floats) -> tuple[list[float], float]:
    left, _ = _segmentations(_segment_costs(logs - logs.mean(), weights))
    return left, float(_line_through_all(logs, weights).squares[0])


def _score(squares: float, entries: int) -> float:
    return entries * math.log(squares + entries * RESOLUTION**2)


def _best_description(logs: Floats, weights: Floats, each: float) -> list[int] | None:
    """Where the levels after each step begin; none for one line through all."""
    entries = len(logs)
    left, begins = _segmentations(_segment_costs(logs - logs.mean(), weights))
    scores = [_score(squares, entries) + number * each for number, squares in enumerate(left)]
    line = _score(float(_line_through_all(logs, weights).squares[0]), entries) + each
    if line < min(scores):
        return None
    return _places(begins, int(np.argmin(scores)))


@dataclass(frozen=True)
class _Line:
    """Weighted least-squares lines: rise over one unit of x, its variance factor, squares left; shape (lines,)."""

    rise: Floats
    factor: Floats
    squares: Floats


def _fit(x: Floats, y: Floats, weights: Floats) -> _Line:
    """Lines of y, shape (entries,), over each row of x, shape (lines, entries)."""
    x = x - np.average(x, weights=weights, axis=1)[:, None]
    y = y - np.average(y, weights=weights)
    spread = (x * x) @ weights
    rise = x @ (weights * y) / spread
    # The squares themselves and not their difference from y's: of a perfect line nothing must be left.
    return _Line(rise, 1 / spread, (y - rise[:, None] * x) ** 2 @ weights)


def _line_through_all(logs: Floats, weights: Floats) -> _Line:
    return _fit(np.linspace(0, 1, len(logs))[None, :], logs, weights)


def _describe(logs: Floats, weights: Floats, places: list[int] | None) -> list[Step]:
    """Steps at these places, those in one direction as one drift where a ramp fits better; None: one drift."""
    entries = len(logs)
    if places is None:
        return [_drift_of_all(logs, weights)]
    bounds = [0, *places, entries]
    levels = [
        float(np.average(logs[begin:end], weights=weights[begin:end])) for begin, end in itertools.pairwise(bounds)
    ]
    found = []
    number = 0
    while number < len(places):
        last = number
        while last + 1 < len(places) and (levels[last + 2] > levels[last + 1]) == (levels[number + 1] > levels[number]):
            last += 1
        begin, end = bounds[number], bounds[last + 2]
        found += _steps_or_drift(logs, weights, begin, end, places[number : last + 1])
        number = last + 1
    return found


def _drift_of_all(logs: Floats, weights: Floats) -> Step:
    """The line through all, or a ramp with level ends, which has two parameters more, if that is plainly better."""
    entries = len(logs)
    line = _line_through_all(logs, weights)
    squares, ramp = _ramp(logs, weights, 0, entries, [])
    gain = _score(float(line.squares[0]), entries) - _score(squares, entries)
    if gain > 2 * math.log(entries) + PLAINLY:
        return ramp
    return _told("drift", 0, entries - 1, line, entries)


def _steps_or_drift(logs: Floats, weights: Floats, begin: int, end: int, places: list[int]) -> list[Step]:
    """Steps in one direction between two entries, or the ramp that describes them better."""
    entries = end - begin
    bounds = [begin, *places, end]
    squares = sum(_squares(logs, weights, a, b) for a, b in itertools.pairwise(bounds))
    # A step has a place and a level more than none has; a ramp has two ends and two levels.
    as_steps = _score(squares, entries) + (2 * len(places) + 1) * math.log(entries)
    ramp_squares, drift = _ramp(logs, weights, begin, end, places)
    as_ramp = _score(ramp_squares, entries) + 4 * math.log(entries)
    if as_ramp + PLAINLY < as_steps:
        return [drift]
    return [
        _step(logs, weights, before, place, after)
        for before, place, after in zip(bounds, places, bounds[2:], strict=False)
    ]


def _squares(logs: Floats, weights: Floats, begin: int, end: int) -> float:
    y, w = logs[begin:end], weights[begin:end]
    return float(np.sum(w * (y - np.average(y, weights=w)) ** 2))


def _step(logs: Floats, weights: Floats, begin: int, place: int, end: int) -> Step:
    """The step at `place`, from the levels on both sides."""
    x = (np.arange(begin, end) >= place).astype(float)
    line = _fit(x[None, :], logs[begin:end], weights[begin:end])
    return _told("step", place - 1, place, line, end - begin)


def _ramp(logs: Floats, weights: Floats, begin: int, end: int, places: list[int]) -> tuple[float, Step]:
    """The best ramp between two levels from `begin` to before `end`, and the squares it leaves."""
    first, last = (places[0], places[-1]) if places else (end, begin)
    ends = np.array(
        [
            (rising, risen)
            for rising in _spread_out(begin, min(first, end - 3))  # a ramp of one step's length is a step
            for risen in _spread_out(max(last, rising + 2), end - 1)
        ]
    )
    rising, risen = ends[:, :1], ends[:, 1:]
    x = np.clip((np.arange(begin, end) - rising) / (risen - rising), 0, 1)
    best = _fit(x, logs[begin:end], weights[begin:end])
    number = int(np.argmin(best.squares))
    line = _Line(*(column[number : number + 1] for column in (best.rise, best.factor, best.squares)))
    return float(line.squares[0]), _told("drift", int(ends[number, 0]), int(ends[number, 1]), line, end - begin)


def _spread_out(first: int, last: int) -> list[int]:
    return sorted({round(place) for place in np.linspace(first, last, RAMP_ENDS)})


def _told(kind: Literal["step", "drift"], before: int, after: int, line: _Line, entries: int) -> Step:
    degrees = entries - 2
    rise, factor, squares = (float(column[0]) for column in (line.rise, line.factor, line.squares))
    error = math.sqrt((squares / degrees + RESOLUTION**2) * factor)
    ratio = math.exp(rise)
    return Step(kind, before, after, ratio, *log_interval(ratio, error, degrees))


def direction(quantity: Quantity, ratio: float) -> Literal["FASTER", "SLOWER", "HIGHER", "LOWER"]:
    """FASTER or SLOWER for a time, HIGHER or LOWER for a speedup, that changed by this ratio."""
    if quantity == "speedup":
        return "HIGHER" if ratio > 1 else "LOWER"
    return "SLOWER" if ratio > 1 else "FASTER"
