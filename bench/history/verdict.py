"""Did it change? Two estimates in, a ratio, its interval and a verdict out; no run, no file, no clock.

docs/comparing.md gives the rule, its reasons and what simulation says of it.

    1/(1+margin)   1   1+margin
         |         |      |
         |      [--+-]    |                SAME: the interval lies within the margin
         |         |      |   [--*--]      SLOWER (a time), HIGHER (a speedup): 1 excluded, estimate beyond the margin
         |         |  [---|--*----]        SLOWER: the same
         |         | [--*-|---]            AMBIGUOUS: some change, whether it exceeds the margin is open
         |   [-----+------|*--------]      AMBIGUOUS: nothing is excluded
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from bench.history.snapshot import Estimate
from bench.speed.statistics import REPLICATE_ROUNDS
from bench.speed.uncertainty import combined, log_interval, student_quantile

TimeVerdict = Literal["SAME", "FASTER", "SLOWER", "AMBIGUOUS"]
SpeedupVerdict = Literal["SAME", "HIGHER", "LOWER", "AMBIGUOUS"]
Gate = Literal["speedup", "single", "both"]
Quantity = Literal["single", "all", "speedup"]
Standing = Literal["worse", "undecided", "not worse"]

#: What each gate looks at.
GATED: dict[Gate, tuple[Quantity, ...]] = {
    "single": ("single",),
    "speedup": ("speedup",),
    "both": ("single", "speedup"),
}

#: Relative change that does not matter to the user; half of what the rule is built to find (5 %), and a bit.
MARGIN = 0.03

#: Chance that a comparison of equal things calls any of its gated points worse; shared out among its tests.
FALSE_ALARMS = 0.01

#: Chance that two things further apart than the margin are called SAME. Not shared out: see `Change.verdict`.
FALSE_SAME = 0.01

#: Standard deviation of fresh processes' log medians, beyond what rounds within one process show (memory layout, choice
#: of kernels). Taken to be so, and no measurement: a shared machine's noise hides it (docs/comparing.md). For a machine
#: of one's own `python -m bench.history.simulation --spread RECORDING` derives it.
PROCESS_SPREAD = 0.009

#: How well that is taken to be known: as the spread of about twenty processes is.
PROCESS_DEGREES = 20.0

#: Chance with which `Change.smallest` would have been found.
POWER = 0.8


@dataclass(frozen=True)
class Change:
    """New / base and what is known of its error.

    ratio: new / base. error: standard error of its natural logarithm, None if unknown. degrees: degrees of freedom
    of `error`.
    """

    ratio: float
    error: float | None
    degrees: float | None

    def interval(self, confidence: float) -> tuple[float, float] | None:
        """The ends of the interval that holds the true ratio with this probability; None if the error is unknown."""
        if self.error is None or self.degrees is None:
            return None
        return log_interval(self.ratio, self.error, self.degrees, confidence)

    def verdict(self, margin: float, tests: int) -> Literal[-1, 0, 1] | None:
        """Down, the same, up; None if that cannot be told.

        tests: how many share FALSE_ALARMS (Bonferroni), each with its part on each side of 1. SAME is not shared
        out: "nothing is worse" is wrong only if one of its SAMEs is, and each of those is wrong with FALSE_SAME at
        most (an intersection-union test: Berger, Technometrics 24, 1982).
        """
        ends = self.interval(simultaneous(tests))
        narrow = self.interval(1 - 2 * FALSE_SAME)
        if ends is None or narrow is None:
            return None
        bound = 1 + margin
        if 1 / bound <= narrow[0] and narrow[1] <= bound:
            return 0
        if ends[0] > 1 and self.ratio > bound:
            return 1
        if ends[1] < 1 and self.ratio < 1 / bound:
            return -1
        return None

    def smallest(self, margin: float, tests: int) -> float | None:
        """The smallest relative change that would have been found with probability POWER; None if none would.

        0.05: a time 1.05 times as long, or a speedup 1.05 times smaller.
        """
        if self.error is None or self.degrees is None:
            return None
        reach = student_quantile(1 - FALSE_ALARMS / tests, self.degrees) * self.error
        threshold = max(math.log1p(margin), reach)
        beyond = threshold + student_quantile(POWER, self.degrees) * self.error
        return math.expm1(beyond) if beyond < math.log(1e3) else None


def simultaneous(tests: int) -> float:
    """Confidence of each interval such that all lower ends, and all upper ends, hold with 1 - FALSE_ALARMS.

    One side, because only a change for the worse can be a false alarm.
    """
    return 1 - 2 * FALSE_ALARMS / tests


def change(base: Estimate, new: Estimate) -> Change:
    """New / base; variances add, degrees of freedom are Welch and Satterthwaite's.

    Both sides are taken as they are: `across_processes` first where one process must speak for all.
    """
    ratio = new.value / base.value
    if base.error is None or new.error is None or base.degrees is None or new.degrees is None:
        return Change(ratio, None, None)
    return Change(ratio, *combined([(base.error, base.degrees), (new.error, new.degrees)]))


def across_processes(estimate: Estimate, rounds: Sequence[int]) -> Estimate:
    """The estimate with the error that a run in fresh processes would show.

    rounds: complete rounds of each process the estimate rests on; empty for one process of another tool.

    Two or more whole processes show their own spread, which is taken unless fresh processes usually differ by more:
    a few can lie close together by luck, and two alone would tell next to nothing (one degree of freedom). What one
    process, or several torn ones, cannot show is added to the error from their rounds.
    """
    if estimate.error is None or estimate.degrees is None:
        return estimate
    whole = sum(one >= REPLICATE_ROUNDS for one in rounds)
    if whole >= 2:
        usual = PROCESS_SPREAD / math.sqrt(whole)
        if estimate.error >= usual:
            return estimate
        return estimate.model_copy(update={"error": usual, "degrees": PROCESS_DEGREES})
    unseen = PROCESS_SPREAD / math.sqrt(_equal_processes(rounds))
    error, degrees = combined([(estimate.error, estimate.degrees), (unseen, PROCESS_DEGREES)])
    return estimate.model_copy(update={"error": error, "degrees": degrees})


def _equal_processes(rounds: Sequence[int]) -> float:
    """How many processes of equal length average as much as these do; Kish's effective sample size."""
    return sum(rounds) ** 2 / sum(one**2 for one in rounds) if rounds else 1.0


def time_verdict(change: Change, margin: float, tests: int) -> TimeVerdict:
    """What became of a time."""
    words: dict[int | None, TimeVerdict] = {-1: "FASTER", 0: "SAME", 1: "SLOWER", None: "AMBIGUOUS"}
    return words[change.verdict(margin, tests)]


def speedup_verdict(change: Change, margin: float, tests: int) -> SpeedupVerdict:
    """What became of a speedup."""
    words: dict[int | None, SpeedupVerdict] = {-1: "LOWER", 0: "SAME", 1: "HIGHER", None: "AMBIGUOUS"}
    return words[change.verdict(margin, tests)]


def only_improved(single: str | None, every: str | None) -> bool | None:
    """Whether a LOWER speedup is explained by what became faster, and so is nothing that got worse.

    True: the single logit is FASTER itself (then all logits are, even more), or it is SAME while all logits are
    FASTER or may have changed, for then it was they. None, which is not known: all logits are FASTER, and the single
    logit may have changed.
    """
    if single == "AMBIGUOUS" and every == "FASTER":
        return None
    return single == "FASTER" or (single == "SAME" and every in ("FASTER", "AMBIGUOUS"))


def standings(single: str | None, every: str | None, speedup: str | None, gate: Gate) -> tuple[Standing, ...]:
    """What these verdicts on one point come to, for each quantity that the gate looks at and that has a verdict.

    A benchmark of another tool has one time, of "all", and that is what counts there.
    """
    if single is None and speedup is None:
        return () if every is None else (_of_time(every),)
    found: dict[str, Standing] = {}
    if single is not None:
        found["single"] = _of_time(single)
    if speedup is not None:
        found["speedup"] = _of_speedup(speedup, only_improved(single, every))
    return tuple(found[name] for name in GATED[gate] if name in found)


def _of_time(verdict: str) -> Standing:
    found: dict[str, Standing] = {"SLOWER": "worse", "AMBIGUOUS": "undecided"}
    return found.get(verdict, "not worse")


def _of_speedup(verdict: str, explained: bool | None) -> Standing:
    if verdict == "AMBIGUOUS" or (verdict == "LOWER" and explained is None):
        return "undecided"
    return "worse" if verdict == "LOWER" and not explained else "not worse"


def cause(single: Change | None, every: Change | None, verdicts: tuple[str | None, str | None, str | None]) -> str:
    """What happened, in words, from the changes of both times and the verdicts on single, all and speedup."""
    of_single, of_all, of_speedup = verdicts
    if of_single is None or of_speedup is None or single is None or every is None:
        only = _became(of_all, every, "it", "is")
        return only and only.removeprefix("it ")
    both = f"both are {of_single.lower()} ({percent(single.ratio)}) by the same factor: the machine or the backbone"
    if of_speedup == "SAME" and of_single == of_all and of_single in ("SLOWER", "FASTER"):
        return both
    if verdicts == ("SAME", "SAME", "SAME"):
        return "no change"
    if verdicts == ("SLOWER", "SAME", "LOWER"):
        return f"one logit is slower ({percent(single.ratio)}), all logits are not: less worth it"
    if verdicts == ("SAME", "FASTER", "LOWER"):
        return f"all logits became faster ({percent(every.ratio)}): the speedup fell, nothing got slower"
    times = f"{_became(of_single, single, 'one logit', 'is')}, {_became(of_all, every, 'all logits', 'are')}"
    return f"{times}: {_consequence(of_single, of_all, of_speedup)}"


def percent(ratio: float) -> str:
    """A ratio as a change: 1.3 is "+30 %", 0.985 is "-1.5 %"."""
    value = 100 * (ratio - 1)
    digits = 0 if abs(value) >= 9.95 else 1
    text = f"{value:+.{digits}f} %"
    return text if float(text[:-2]) else f"{0:.{digits}f} %"


def _became(verdict: str | None, change: Change | None, subject: str, verb: str) -> str:
    if verdict is None or change is None:
        return ""
    if verdict == "SAME":
        return f"{subject} {verb} the same"
    if verdict == "AMBIGUOUS":
        return f"{subject} may have changed ({percent(change.ratio)})"
    return f"{subject} {verb} {verdict.lower()} ({percent(change.ratio)})"


def _consequence(single: str, every: str | None, speedup: str) -> str:
    if speedup == "SAME":
        return "the speedup is the same"
    if speedup == "HIGHER":
        return "the speedup rose" if single == "SLOWER" else "more worth it"
    if speedup == "AMBIGUOUS":
        return "whether the speedup changed cannot be told"
    improved = only_improved(single, every)
    if improved is None:
        return "the speedup fell, whether one logit got slower cannot be told"
    if not improved:
        return "less worth it"
    return "the speedup fell, nothing got slower" if every == "FASTER" else "the speedup fell, one logit is no slower"
