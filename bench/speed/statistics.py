"""Estimates and their intervals: arrays in, numbers out; no clock, no device, no file.

The speedup at k classes is the ratio of two medians over all samples: of the passes at k, and of the single
logit's passes, both its slots A and A' pooled. Medians, because a busy neighbour lengthens some passes severalfold.

How sure that ratio is, within one process, is told by resampling rounds. A round's passes stay together, because
what the machine does in a round (drift, a busy neighbour) lengthens all of them and cancels in the ratio; and
rounds are drawn in blocks of neighbours, because it lasts longer than one round (Kuensch, The jackknife and the
bootstrap for general stationary observations, Annals of Statistics 17, 1989; circular blocks: Politis and Romano,
1992):

    measured    r0 r1 r2 r3 r4 r5 r6 r7 r8          9 rounds, blocks of 3
    resample    r4 r5 r6 | r8 r0 r1 | r5 r6 r7      any block may be drawn again

The interval is estimate * exp(+-t * error): `error` is the standard deviation of the resamples' log ratios, t is
Student's quantile with as many degrees of freedom as there are blocks, less one. Two choices came out of
simulation (tests/bench/speed/test_coverage.py), coverage of the 95 % interval being what was looked at:

* Quantiles of the resamples are not used as ends: percentile intervals covered 83 % to 100 %, basic ones 76 %
  to 91 %. A resampled median jumps between the few values near the middle, which distorts the tails of
  its distribution more than its spread.
* That jumping also widens the spread, by about a tenth where the rounds share their noise. In the resamples (never
  in the estimate) the median is therefore the mean of the middle 14 % of the log times, a smoothed bootstrap in the
  sense of Hall, DiCiccio and Romano (On smoothing and the bootstrap, Annals of Statistics 17, 1989).

Coverage in percent of the 95 % interval, for the speedup at 2**14 and at 2**16 classes and for the control, and
the interval's mean half-width at 2**16 (2,000 runs a line, standard error 0.5):

                                    rounds   2**14   2**16   control   half-width
    recorded                           100    96.6    94.3      96.5        3.3 %
                                        30    94.3    92.2      99.0        5.3 %
                                        12    96.8    95.0      99.9        7.9 %
    drift, memory 0.8, and bursts      100    96.6    97.1      96.1        1.1 %
                                        30    98.6    98.6      98.5        2.1 %
                                        12    99.3    98.9      99.6        3.6 %
    drift, memory 0.97, and bursts     100    97.4    96.4      96.9        1.0 %
                                        30    98.4    98.0      98.7        1.8 %
                                        12    98.4    98.2      99.2        3.0 %
    independent passes                 100    94.2    94.8      94.9        0.6 %
                                        30    95.2    95.6      95.3        1.3 %
                                        12    97.0    97.6      98.1        2.4 %

`recorded`: rounds of ResNet-18 on a busy two-core machine, redrawn in stretches of 25 on average; a tenth of it is
one episode in which the neighbour made the speedup at 2**16 1.31 instead of 1.52. A run of 30 rounds that lies in
such an episode says 1.31 with confidence: no interval made of one run's times can know better.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.speed.uncertainty import log_interval

Floats = NDArray[np.float64]
Integers = NDArray[np.integer[Any]]
Booleans = NDArray[np.bool_]
Indices = NDArray[np.intp]

#: Resamples for a number that is reported: the error is then known to 1/sqrt(2 * 2000) = 1.6 % of itself.
RESAMPLES = 2000

#: Resamples between rounds, to look at or to decide by: 5 %, at a tenth of the cost.
LIVE_RESAMPLES = 200

#: Half-width, in probability, of the middle that stands for the median in the resamples; chosen by simulation from
#: 0 to 0.25: below 0.05 intervals are too wide where rounds share their noise, above 0.1 too narrow.
SMOOTHING = 0.07

#: A process with fewer complete rounds is no replicate: processes weigh equally in the t interval, and one that was
#: cut short would add the large error of its own median to the spread between whole ones.
REPLICATE_ROUNDS = 10

#: A carry-over effect is estimated from groups of at least this many passes.
CARRY_OVER_SAMPLES = 10

#: Warm-up ends when neighbouring windows of this many rounds agree to STEADY_TOLERANCE. A first window that still
#: holds lazy initialisation or a rising clock is off by 10 % and more; 3 % was met within 10 rounds from 86 % of all
#: starting points in a recording on a busy machine, and 2 % from 76 %.
STEADY_WINDOW = 3
STEADY_TOLERANCE = 0.03

#: Memory for one step of resampling, in numbers: 32 MB.
_CHUNK = 4_000_000


@dataclass(frozen=True)
class Ratio:
    """A ratio of medians and what is known of its error.

    estimate: the ratio. error: standard error of its natural logarithm. degrees: degrees of freedom of `error`.
    """

    estimate: float
    error: float
    degrees: float

    def interval(self, confidence: float = 0.95) -> tuple[float, float]:
        """Lower and upper end of the interval that covers the true ratio with this probability."""
        return log_interval(self.estimate, self.error, self.degrees, confidence)

    def excludes_one(self, confidence: float) -> bool:
        """Whether the interval lies on one side of 1."""
        low, high = self.interval(confidence)
        return low > 1 or high < 1


@dataclass(frozen=True)
class Summary:
    """Mean, median and percentiles of times, in their unit."""

    mean: float
    median: float
    p5: float
    p95: float
    p99: float


def summary(times: Floats) -> Summary:
    """Describe times of any shape; NaN is a missing one.

    The mean is the paper's estimator (Sect. 6.3). Percentiles are interpolated linearly between order statistics.
    Raises ValueError if there is no time at all.
    """
    present = _present(times)
    p5, p95, p99 = np.percentile(present, [5, 95, 99])
    return Summary(float(np.mean(present)), float(np.median(present)), float(p5), float(p95), float(p99))


def speedup(times_k: Floats, times_1: Floats) -> float:
    """Median of `times_k` / median of `times_1`; any shapes, one unit, NaN where missing.

    Raises ValueError if either holds no time at all.
    """
    return float(np.median(_present(times_k)) / np.median(_present(times_1)))


def speedup_of_means(times_k: Floats, times_1: Floats) -> float:
    """Mean of `times_k` / mean of `times_1`: the paper's own (Table 3).

    Raises ValueError if either holds no time at all.
    """
    return float(np.mean(_present(times_k)) / np.mean(_present(times_1)))


def ratios(
    times: Sequence[Floats],
    base: Floats,
    processes: Integers | None = None,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> list[Ratio | None]:
    """Ratio of the median of each of `times` to that of `base`, with its error.

    From a t interval over processes where at least two have REPLICATE_ROUNDS rounds with both; otherwise from the
    bootstrap over all rounds. None where neither can say anything (see `bootstrap_ratios`).

    times: arrays of shape (rounds,) or (rounds, passes a round), in the order the rounds were run; NaN is missing.
    base: the same for the denominator. processes: shape (rounds,), which process ran a round; None for one process.
    """
    columns = [_columns(one) for one in times]
    denominator = _columns(base)
    groups = _groups(processes, len(denominator))
    found = [_replicated(one, denominator, groups) for one in columns]
    open_ones = [number for number, ratio in enumerate(found) if ratio is None]
    still_open = [columns[number] for number in open_ones]
    resampled = bootstrap_ratios(still_open, denominator, processes, resamples=resamples, seed=seed)
    for number, ratio in zip(open_ones, resampled, strict=True):
        found[number] = ratio
    return found


def bootstrap_ratios(
    times: Sequence[Floats],
    base: Floats,
    processes: Integers | None = None,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> list[Ratio | None]:
    """Ratios of medians with errors from a moving-block bootstrap over rounds; arguments as for `ratios`.

    Blocks never cross from one process to another. None where fewer than two blocks hold both terms of the ratio
    (a single round is no evidence of spread), or with `resamples` below 2.
    """
    denominator = _columns(base)
    groups = _groups(processes, len(denominator))
    columns = [_columns(one) for one in times]
    degrees = [_degrees(_visited(one), _visited(denominator), groups) for one in columns]
    wanted = [number for number, free in enumerate(degrees) if free >= 1]
    found: list[Ratio | None] = [None] * len(columns)
    if not wanted or resamples < 2:
        return found
    logs = _resampled_log_ratios([columns[number] for number in wanted], denominator, groups, resamples, seed)
    for number, values in zip(wanted, logs, strict=True):
        estimate = speedup(columns[number], denominator)
        error = float(np.std(values[np.isfinite(values)], ddof=1))
        found[number] = Ratio(estimate, error, degrees[number])
    return found


def carry_over(
    times: Floats,
    predecessors: Floats,
    classes: int,
    processes: Integers | None = None,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Ratio | None:
    """What a larger top layer just before does to a pass: median after one / median after any other predecessor.

    times, predecessors: shape (rounds, passes a round), the passes at `classes` and the class count of the pass
    before each; NaN where there is none. None if either group has fewer than CARRY_OVER_SAMPLES passes.
    """
    times, predecessors = _columns(times), _columns(predecessors)
    after_larger = np.where(predecessors > classes, times, np.nan)
    after_other = np.where(predecessors <= classes, times, np.nan)
    if min(np.isfinite(after_larger).sum(), np.isfinite(after_other).sum()) < CARRY_OVER_SAMPLES:
        return None
    return bootstrap_ratios([after_larger], after_other, processes, resamples=resamples, seed=seed)[0]


def replicates(times: Floats, base: Floats, processes: Integers) -> int:
    """How many processes have enough rounds with both `times` and `base` to count as replicates."""
    both = _visited(_columns(times)) & _visited(_columns(base))
    return sum(int(both[group].sum()) >= REPLICATE_ROUNDS for group in _groups(processes, len(both)))


def block_length(rounds: int) -> int:
    """Rounds in a block of the bootstrap: the square root, so that there are as many blocks as rounds in one.

    Slow noise asks for long blocks (busy neighbours stay for tens of rounds), the t quantile for many. The usual
    order n**(1/3), which assumes short memory, covered 91 % where this covers 94 % (100 recorded rounds).
    """
    return max(1, math.isqrt(rounds))


def steady(round_times: Sequence[float]) -> bool | None:
    """Whether the last two windows of STEADY_WINDOW rounds have equal medians, to STEADY_TOLERANCE.

    None if there are too few rounds to tell.
    """
    if len(round_times) < 2 * STEADY_WINDOW:
        return None
    last = float(np.median(round_times[-STEADY_WINDOW:]))
    before = float(np.median(round_times[-2 * STEADY_WINDOW : -STEADY_WINDOW]))
    return abs(last / before - 1) <= STEADY_TOLERANCE


def warmup_limit(rounds: int) -> int:
    """Most warm-up rounds before this many timed ones: a tenth of the expected time, and at least one."""
    return max(1, rounds // 10)


def _present(times: Floats) -> Floats:
    present: Floats = times[~np.isnan(times)]
    if not len(present):
        raise ValueError("no times to take statistics of")
    return present


def _columns(times: Floats) -> Floats:
    return times[:, None] if times.ndim == 1 else times


def _visited(times: Floats) -> Booleans:
    return np.asarray(np.isfinite(times).any(axis=1))


def _groups(processes: Integers | None, rounds: int) -> list[Indices]:
    """Indices of each process's rounds, in their order."""
    if processes is None:
        return [np.arange(rounds)]
    return [np.flatnonzero(processes == process) for process in np.unique(processes)]


def _replicated(times: Floats, base: Floats, groups: Sequence[Indices]) -> Ratio | None:
    both = _visited(times) & _visited(base)
    logs = [math.log(speedup(times[group], base[group])) for group in groups if both[group].sum() >= REPLICATE_ROUNDS]
    if len(logs) < 2:
        return None
    error = float(np.std(logs, ddof=1)) / math.sqrt(len(logs))
    return Ratio(speedup(times, base), error, len(logs) - 1)


def _degrees(times: Booleans, base: Booleans, groups: Sequence[Indices]) -> float:
    """Blocks with both terms of the ratio, less one, summed over processes; a short last block counts in part."""
    degrees = 0.0
    for group in groups:
        length = block_length(len(group))
        block = np.arange(len(group)) // length
        holds_both = (np.bincount(block, times[group]) > 0) & (np.bincount(block, base[group]) > 0)
        degrees += max(0.0, float(np.bincount(block)[holds_both].sum()) / length - 1)
    return degrees


def _resampled_log_ratios(
    times: Sequence[Floats], base: Floats, groups: Sequence[Indices], resamples: int, seed: int
) -> list[Floats]:
    """Log ratio of each of `times` to `base` in every resample, shape (resamples,); NaN where a term is missing."""
    log_times, log_base = [np.log(one) for one in times], np.log(base)
    parts = []
    for rounds in _draws(groups, resamples, seed, at_once=max(1, _CHUNK // log_base.size)):
        middle_of_base = _middle(log_base[rounds])
        parts.append([_middle(one[rounds]) - middle_of_base for one in log_times])
    return [np.concatenate(of_one) for of_one in zip(*parts, strict=True)]


def _draws(groups: Sequence[Indices], resamples: int, seed: int, at_once: int) -> Iterator[Indices]:
    """Indices of resampled rounds, shape (at most `at_once`, rounds); every process keeps its number of rounds."""
    generator = np.random.default_rng(seed)
    for begun in range(0, resamples, at_once):
        number = min(at_once, resamples - begun)
        yield np.concatenate([group[_blocks(len(group), number, generator)] for group in groups], axis=1)


def _blocks(rounds: int, number: int, generator: np.random.Generator) -> Indices:
    length = block_length(rounds)
    starts = generator.integers(0, rounds, (number, -(-rounds // length), 1))
    return ((starts + np.arange(length)) % rounds).reshape(number, -1)[:, :rounds]


def _middle(logs: Floats) -> Floats:
    """Smoothed median over all but the first axis: the mean of the middle 2 * SMOOTHING; NaN where all is missing."""
    ordered = np.sort(logs.reshape(len(logs), -1), axis=1)  # NaN goes last
    size = ordered.shape[1] - np.isnan(ordered).sum(axis=1)
    below = np.minimum(np.round(size * (0.5 - SMOOTHING)).astype(int), np.maximum(size - 1, 0) // 2)
    place = np.arange(ordered.shape[1])
    inside = (place >= below[:, None]) & (place < (size - below)[:, None])
    width = size - 2 * below
    sums: Floats = np.where(inside, ordered, 0.0).sum(axis=1)
    return sums / np.where(width > 0, width, np.nan)
