"""When enough is enough: plain floats in, a reason out."""

from collections.abc import Iterable, Sequence
from typing import Literal

from bench.run import Sample
from bench.speed.rows import RoundTable
from bench.speed.statistics import LIVE_RESAMPLES, RESAMPLES, ratios

#: Below this many rounds an interval may be short by luck alone; the paper's protocol has 100.
MINIMUM_ROUNDS = 30

#: Rounds between two looks at the intervals. Each look is a chance to stop on an interval that is short by luck.
CHECK_EVERY = 5


def due(rounds: int, minimum: int = MINIMUM_ROUNDS) -> bool:
    """Whether the intervals are looked at after this many rounds: at `minimum` and every CHECK_EVERY from there."""
    return rounds >= minimum and (rounds - minimum) % CHECK_EVERY == 0


def within(estimate: float, low: float, high: float, percent: float) -> bool:
    """Whether an interval is within +-`percent` of its estimate: half its width is at most that share of it."""
    return (high - low) / 2 <= percent / 100 * estimate


def enough(
    intervals: Sequence[tuple[float, float, float] | None],
    rounds: int,
    until_percent: float | None,
    *,
    maximum: int,
    minimum: int = MINIMUM_ROUNDS,
) -> Literal["until", "minibatches"] | None:
    """Why to stop after this many rounds, or None to go on.

    intervals: (estimate, low, high) of every speedup, None for one that has no interval yet. "minibatches" once
    `maximum` rounds are done; "until" once every interval is within +-`until_percent`, when a look is `due`. With no
    speedup to judge, or None as `until_percent`, only the maximum ends it.

    Looking repeatedly and stopping at a short interval costs coverage. Of 1,000 simulated runs of at most 100 rounds
    (tests/bench/speed/test_coverage.py), the 95 % intervals of two speedups held the truth at the end in
    * 97 % with --until 2 on drifting noise (42 rounds on average), 95 % and 97 % with --until 1.5 (62 rounds);
    * 94 % and 93 % with --until 1 on independent noise (53 rounds);
    * 96 % and 93 % with --until 4, 95 % and 92 % with --until 2 on recorded noise of a busy machine. There --until 2
      is out of reach for most: the 17 % that stopped early had met few of the machine's moods, and held the truth
      in 94 % and 80 %. A percentage that a machine rarely reaches should not be asked of it.
    """
    if rounds >= maximum:
        return "minibatches"
    if until_percent is None or not intervals or not due(rounds, minimum):
        return None
    precise = all(one is not None and within(*one, until_percent) for one in intervals)
    return "until" if precise else None


class Stopping:
    """The rule of --until for one setting in one process; fed the samples of every timed round.

    What it looks at are the intervals that are reported in the end (same resamples, same seed), after a quick look
    with a tenth of the resamples that most often says no.
    """

    def __init__(
        self, until_percent: float | None, *, seed: int = 0, reference: int = 1, minimum: int = MINIMUM_ROUNDS
    ) -> None:
        """`until_percent` None never stops; `seed` is the setting's, as for the rows, `reference` its subset."""
        self._until = until_percent
        self._seed = seed
        self._reference = reference
        self._minimum = minimum
        self._samples: list[Sample] = []
        self._rounds = 0

    def enough_after(self, samples: Iterable[Sample]) -> bool:
        """Take in one more round; whether every speedup is known as precisely as was asked for.

        Counts that failed on the way are not waited for: those of the latest round are judged.
        """
        if self._until is None:
            return False
        latest = list(samples)
        self._samples += latest
        self._rounds += 1
        if not due(self._rounds, self._minimum):
            return False
        counts = sorted({sample.classes for sample in latest} - {self._reference})
        return all(self._precise(counts, resamples) for resamples in (LIVE_RESAMPLES, RESAMPLES))

    def _precise(self, counts: Sequence[int], resamples: int) -> bool:
        table = RoundTable(self._samples, self._reference)
        found = ratios([table.times(count) for count in counts], table.single(), resamples=resamples, seed=self._seed)
        intervals = [None if ratio is None else (ratio.estimate, *ratio.interval()) for ratio in found]
        maximum = self._rounds + 1  # the rounds asked for are counted by whoever runs them
        reason = enough(intervals, self._rounds, self._until, maximum=maximum, minimum=self._minimum)
        return reason == "until"
