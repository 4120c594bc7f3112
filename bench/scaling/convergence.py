"""Has a model converged? Whether half of the steps did about as well, judged on the same queries.

The model at half of the steps had its own full schedule, the same learning rate and the same seed; it is a shorter
training, not the same one stopped in the middle. What half of the steps did about as well, twice the steps can be
expected to change little; where they did not, an error says how long was trained and not what the loss can reach. That
goes for an error that rises with the steps too: parity after so many of them need not be parity after twice as many.

    ratio = 1-AUPRC at half of the steps / 1-AUPRC at all of them

      0.83      0.91        1          1.10        1.21      converged: ratio from 1/1.10 to 1.10
    ----|---------|---------|-----------|-----------|----->  not converged: ratio beyond, either way
        :         :   |-----x-----|     :           :        converged
        :         :         :     |-----:-x----|    :        not converged: the error still falls
    |---:--x---|  :         :           :           :        not converged: the error rises
        :         :     |---:-----------:-x-------| :        undecided: it may be that nothing changed at all
        :     |---:---------:---x-------:-----------:---|    undecided: it may be twice the margin (in logarithms)

Few queries of a score that all but never errs (10 classes, say) have such ratios of two tiny numbers.
"""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bench.accuracy.parity import MARGIN, Measured, Parity, compare
from bench.scaling.run import QueryErrors


@dataclass(frozen=True)
class Settled:
    """Whether one score of a model has converged; None where that cannot be told."""

    converged: bool | None
    ratio: float | None
    """1-AUPRC at half of the steps / at all of them; None where there is no such ratio"""
    reason: str

    @property
    def rises(self) -> bool:
        """Whether it has not converged since more steps make the error larger."""
        return self.converged is False and self.ratio is not None and self.ratio < 1


@dataclass(frozen=True)
class Convergence:
    """Whether a model has converged, by one logit and by all of them."""

    single: Settled
    all: Settled

    @property
    def converged(self) -> bool | None:
        """By both; None where that cannot be told."""
        found = (self.single.converged, self.all.converged)
        return False if False in found else None if None in found else True

    @property
    def reason(self) -> str:
        """Of both, once where it is the same one."""
        if self.single.reason == self.all.reason:
            return self.single.reason
        return f"one logit: {self.single.reason}; all logits: {self.all.reason}"


def unknown(reason: str) -> Convergence:
    """Where one of the two models is missing."""
    return Convergence(Settled(None, None, reason), Settled(None, None, reason))


def convergence(half: QueryErrors, full: QueryErrors) -> Convergence:
    """Compare a model at half of the steps with the one at all of them; queries of both in the same order.

    Raises ValueError if they did not meet the same queries.
    """
    return Convergence(
        settled(of_queries(half.single), of_queries(full.single)), settled(of_queries(half.all), of_queries(full.all))
    )


def of_queries(errors: npt.NDArray[np.float64]) -> Measured:
    """A mean over queries (q,), and each query's influence on it: (e_i - mean) / q."""
    mean = float(errors.mean())
    return Measured(mean, (errors - mean) / len(errors))


def compare_queries(single: list[Measured], reference: list[Measured]) -> Parity:
    """bench.accuracy.parity.compare, which takes the spread of one query for none: of one there is no interval.

    Raises ValueError as it does, and if the two did not meet as many queries.
    """
    counts = {np.size(each.influence) for each in (*single, *reference)}
    if len(counts) > 1:
        raise ValueError(f"models met {sorted(counts)} queries: only those of the same queries can be compared")
    found = compare(single, reference)
    if counts == {1} and found.ratio is not None:
        return Parity("undecided", found.ratio, None, None, "one query says nothing of others", found.seeds)
    return found


def settled(half: Measured, full: Measured) -> Settled:
    """One score at half of the steps and at all of them, by the rule above. Raises ValueError as compare_queries."""
    found = compare_queries([half], [full])
    if found.ratio is None or found.low is None or found.high is None:
        return Settled(None, found.ratio, _without_interval(half.error, full.error, found))
    told = f"half of the steps have {_error(found)}"
    change, half_width = abs(math.log(found.ratio)), math.log(found.high / found.ratio)
    margin = math.log(MARGIN)
    if change <= margin:
        if change + half_width <= 2 * margin:
            return Settled(True, found.ratio, told)
    elif change > half_width:
        return Settled(False, found.ratio, told + (": more steps made it worse" if found.ratio < 1 else ""))
    return Settled(None, found.ratio, f"{told}, too few queries to tell")


def _error(found: Parity) -> str:
    return f"{found.ratio:.2f} times the error (95 % interval {found.low:.2f} to {found.high:.2f})"


def _without_interval(half: float, full: float, found: Parity) -> str:
    if found.ratio is not None:
        return found.reason
    return f"errors of {half:.2g} at half of the steps and {full:.2g} at all of them have no ratio"
