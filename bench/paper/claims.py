"""The paper's claims, and what it takes for each to hold: intervals in, verdicts out.

A verdict looks at the ends of a 95 % interval: yes when all of it lies where the claim says, no when none of it does,
undecided when it lies across the threshold or when there is no interval. Where the paper prints a number, that is the
threshold; where it has only words, the threshold is the number in its own tables that those words are about.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Holds = Literal["yes", "no", "undecided", "not measured"]

#: "10x speedup when the number of classes is approximately 400,000" (Sect. 1 and 6, Fig. 1).
TENFOLD = 10.0

#: "the computation cost is independent of the total number of classes": the smallest difference that Table 3 prints as
#: a speedup is 1.02 (VGG-16 at 2**10), so what is smaller is none.
INDEPENDENT_WITHIN = 0.02

#: "at least 20 % relative accuracy improvement" (abstract, Table 1).
IMPROVEMENT = 0.20

#: "in almost all cases": of the paper's own 15 cells of Table 1 (five data sets, three measures) 10 are at 20 % or
#: more.
ALMOST_ALL = 2 / 3

#: "relatively small" speedup up to 2**14 classes (Sect. 6.3): the largest there in Table 3 is 1.14 (AlexNet).
SMALL_SPEEDUP = 1.14
SMALL_UP_TO = 2**14

#: Counts from here to the grid's end are near 400,000 for the first claim.
NEAR_400_000 = (350_000, 450_000)

#: Shares are told apart from whole thirds only beyond the rounding of floating-point numbers.
_ROUNDING = 1e-12


@dataclass(frozen=True)
class Interval:
    """An estimate with its 95 % interval; without ends where nothing is known of its error."""

    estimate: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Detail:
    """One case of a claim: a network, a data set and measure, a loss."""

    subject: str
    quantity: str
    """what is estimated, in words"""
    holds: Holds
    found: Interval | None = None
    """None if it was not measured"""
    rests_on: str = ""
    falls_short: str = ""
    """of the paper's own size, or why it was not measured"""


@dataclass(frozen=True)
class Claim:
    """A claim of the paper, its cases and the verdict over them."""

    key: str
    statement: str
    source: str
    rule: str
    """what decides, threshold and reason"""
    holds: Holds
    details: tuple[Detail, ...]


def at_least(found: Interval, threshold: float) -> Holds:
    """Whether it is at or above the threshold."""
    if found.low is not None and found.low >= threshold:
        return "yes"
    return "no" if found.high is not None and found.high < threshold else "undecided"


def at_most(found: Interval, threshold: float) -> Holds:
    """Whether it is at or below the threshold."""
    if found.high is not None and found.high <= threshold:
        return "yes"
    return "no" if found.low is not None and found.low > threshold else "undecided"


def equal_to_one(found: Interval, margin: float) -> Holds:
    """Whether a ratio is 1 but for a factor of 1 + margin, either way."""
    return all_of([at_least(found, 1 / (1 + margin)), at_most(found, 1 + margin)])


def all_of(verdicts: Sequence[Holds]) -> Holds:
    """A claim about every case: one that fails is enough for no; a case that was not measured leaves it undecided."""
    if set(verdicts) <= {"not measured"}:
        return "not measured"
    if "no" in verdicts:
        return "no"
    return "yes" if set(verdicts) == {"yes"} else "undecided"


def share_of(verdicts: Sequence[Holds], share: float) -> Holds:
    """A claim about at least this share of the cases; undecided while the undecided and unmeasured could turn it."""
    if set(verdicts) <= {"not measured"}:
        return "not measured"
    needed = math.ceil(share * len(verdicts) - _ROUNDING)
    if verdicts.count("yes") >= needed:
        return "yes"
    return "no" if len(verdicts) - verdicts.count("no") < needed else "undecided"


def tenfold(details: Sequence[Detail]) -> Claim:
    """Decided on the first detail, Inception-v3, as the paper's Fig. 1; the other networks stand beside it."""
    return Claim(
        key="tenfold",
        statement="One logit is 10 times as fast as all of them near 400,000 classes",
        source="Sect. 1, Fig. 1, Table 3",
        rule="the 95 % interval of Inception-v3's speedup at 2**18.5 classes lies at or above 10 (the paper: 12.75); "
        "the other networks are shown beside it",
        holds=details[0].holds if details else "not measured",
        details=tuple(details),
    )


def independent(details: Sequence[Detail]) -> Claim:
    """Two details a network: the single logit measured twice, and after larger counts against after others."""
    return Claim(
        key="independent",
        statement="The cost of one logit is independent of the number of classes",
        source="Sect. 1, Fig. 1",
        rule="the single logit's time after a larger class count, over its time otherwise, and the same logit measured "
        "twice are both 1 within 2 %, the smallest difference that Table 3 prints as a speedup (1.02)",
        holds=all_of([detail.holds for detail in details]),
        details=tuple(details),
    )


def improvement(details: Sequence[Detail]) -> Claim:
    """One detail a data set and measure."""
    return Claim(
        key="improvement",
        statement="Aligned losses are at least 20 % better than the others, in almost all cases",
        source="Abstract, Table 1",
        rule="in two thirds of the cells (10 of the paper's own 15) the 95 % interval of the relative improvement of "
        "the mean lies at or above 20 %",
        holds=share_of([detail.holds for detail in details], ALMOST_ALL),
        details=tuple(details),
    )


def no_degradation(details: Sequence[Detail]) -> Claim:
    """One detail a data set and aligned loss."""
    return Claim(
        key="no-degradation",
        statement="One logit of an aligned loss is as accurate as all logits of cross-entropy",
        source="Abstract, Table 2",
        rule="for every aligned loss the 95 % interval of the ratio of the two 1-AUPRC ends at or below 1.10; one "
        "whose interval begins above 1 and ends above 1.10 is enough for no",
        holds=all_of([detail.holds for detail in details]),
        details=tuple(details),
    )


def little_speedup(details: Sequence[Detail]) -> Claim:
    """One detail a network and class count."""
    return Claim(
        key="little-speedup",
        statement="Up to 2**14 classes the speedup is small",
        source="Sect. 6.3, Table 3",
        rule="for every network the 95 % intervals of the speedups at 2**10 and 2**14 classes end at or below 1.14, "
        "the largest that the paper prints there",
        holds=all_of([detail.holds for detail in details]),
        details=tuple(details),
    )
