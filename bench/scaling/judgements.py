"""Is one logit as good as all of them, and is it faster? Plain numbers in, a judgement and its reason out.

"As good" is parity of 1-AUPRC with all logits of cross-entropy (the paper's question), by bench.accuracy.parity:
seeds and queries both. A model that has not converged proves neither parity nor the contrary. "Faster" is a speedup
whose 95 % interval lies above 1.
"""

from dataclasses import dataclass
from typing import Literal, NamedTuple

from bench.accuracy.parity import Parity
from bench.scaling.convergence import Convergence

Judgement = Literal["yes", "no", "undecided"]


class Judged(NamedTuple):
    """A judgement, why it is so with its numbers, and in two or three words where it is not yes."""

    judgement: Judgement
    because: str
    brief: str = ""


@dataclass(frozen=True)
class Speed:
    """All logits against one, of one example: median time at this class count / median time of one logit."""

    speedup: float | None
    low: float | None
    high: float | None
    reason: str
    """why there is no speedup; empty where there is"""


def judge_error(parity: Parity | None, own: Convergence, reference: Convergence) -> Judged:
    """Is one logit as good as all logits of cross-entropy? And why, or why not.

    A verdict counts only where the model has converged (by one logit and by all), and cross-entropy has by all
    logits: what its own single logit does is not asked of the reference. But where more steps make the error of one
    logit larger still, that it is worse stands.
    """
    if parity is None:
        return Judged("undecided", "not compared: no seed has a model of both", "not compared")
    if parity.verdict == "undecided":
        return Judged("undecided", parity.reason, "open whether as good")
    doubts = []
    if own.converged is not True and not (parity.verdict == "worse" and own.single.rises):
        doubts.append(_doubt("the model", own.converged))
    if reference.all.converged is not True and own is not reference:
        doubts.append(_doubt("cross-entropy", reference.all.converged))
    if doubts:
        brief = "not converged" if any("has not" in each for each in doubts) else "convergence unknown"
        return Judged("undecided", f"{parity.reason}; not counted, as {' and '.join(doubts)}", brief)
    return Judged("yes", parity.reason) if parity.verdict == "parity" else Judged("no", parity.reason, "worse")


def _doubt(what: str, converged: bool | None) -> str:
    return f"{what} has not converged" if converged is False else f"it cannot be told whether {what} has converged"


def judge_speed(speed: Speed | None) -> Judged:
    """Is one logit faster than all of them? And why, or why not."""
    if speed is None:
        return Judged("undecided", "no speed was measured at this class count", "speed not measured")
    if speed.speedup is None:
        return Judged("undecided", f"no speedup ({speed.reason})", "no speedup")
    if speed.low is None or speed.high is None:
        return Judged("undecided", f"a speedup of {speed.speedup:.2f} without an interval", "speedup without interval")
    told = f"speedup {speed.speedup:.2f} (95 % interval {speed.low:.2f} to {speed.high:.2f})"
    if speed.low > 1:
        return Judged("yes", told)
    if speed.high <= 1:
        return Judged("no", f"not faster: {told}", "not faster")
    return Judged("undecided", f"not shown to be faster: {told}", "not shown to be faster")
