"""A budget of time, spread over the parts of the paper: plain numbers in, sizes out.

Half is for speed and half for accuracy; what one half cannot use goes to the other. Within a half every part gets the
same time, except that none gets more than the paper's own size takes, nor less than the least that is worth doing:

    seconds
       |                 ........ vgg16's least
       |  ---------------########-----------  the level: found so that the sum fits
       |      ########   ########  ########
       |####  ########   ########  ########
        alexnet (in full) ...

If even the least of all parts does not fit, those with the smallest least are taken and the others left out.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pydantic import NonNegativeFloat, PositiveFloat

from bench.errors import UsageError
from bench.folder import Record
from bench.paper.parts import AccuracyPart, Size, SpeedPart, full_size, least_size

_UNITS_S = {"d": 86_400.0, "h": 3_600.0, "m": 60.0, "s": 1.0}
_BUDGET = re.compile(r"(?:(?P<d>[0-9.]+)d)?(?:(?P<h>[0-9.]+)h)?(?:(?P<m>[0-9.]+)m)?(?:(?P<s>[0-9.]+)s)?")

#: An amount that misses a whole number by less than this share of it is that number: sums of seconds are rounded.
_ROUNDING = 1e-9

#: Halvings of the interval in which the level is looked for: from any budget down to well under a second.
_HALVINGS = 60


def parse_budget(text: str) -> float | None:
    """Read 90m, 2h, 1h30m, 3600s or 2d as seconds; `none` is no limit: None.

    Raises UsageError, in one line, for anything else and for no time at all.
    """
    wanted = text.strip().lower()
    if wanted == "none":
        return None
    match = _BUDGET.fullmatch(wanted)
    try:
        found = (
            [float(number) * _UNITS_S[unit] for unit, number in match.groupdict().items() if number] if match else []
        )
    except ValueError:  # 1.2.3
        found = []
    if not found or sum(found) <= 0:
        raise UsageError(f"--budget {text!r}: give a time such as 90m, 2h, 1h30m, 3600s or 2d, or none for no limit")
    return sum(found)


class Demand(Record):
    """What a part is expected to take, by its size; seconds."""

    fixed_s: NonNegativeFloat
    """whatever its size: loading, building, tests of the chosen models"""
    rate_s: NonNegativeFloat = 0.0
    """for each learning rate, whatever the steps: validations"""
    unit_s: PositiveFloat
    """a minibatch at all class counts; or a step of every loss at one learning rate"""

    def times(self, factor: float) -> "Demand":
        """The same where everything takes `factor` times as long."""
        return Demand(fixed_s=self.fixed_s * factor, rate_s=self.rate_s * factor, unit_s=self.unit_s * factor)


@dataclass(frozen=True)
class Candidate:
    """A part that is still to be done, and what it is expected to take."""

    part: SpeedPart | AccuracyPart
    demand: Demand

    @property
    def least_s(self) -> float:
        """Seconds of the least that is worth doing."""
        return seconds_of(self.demand, least_size(self.part))

    @property
    def most_s(self) -> float:
        """Seconds of the paper's own size; never below `least_s`."""
        return max(self.least_s, seconds_of(self.demand, full_size(self.part)))


def seconds_of(demand: Demand, size: Size) -> float:
    """Expected seconds of a part of that size."""
    return demand.fixed_s + max(1, len(size.learning_rates)) * (demand.rate_s + demand.unit_s * size.amount)


def largest_size(candidate: Candidate, seconds: float) -> Size | None:
    """The largest size that fits: the paper's learning rates if their least fits, else the fewer; None if nothing does.

    Rates are kept before steps: a rate that was not tried can hide a loss's best result, fewer steps shift all losses.
    """
    part, demand = candidate.part, candidate.demand
    for rates in part.grids:
        each_s = (seconds - demand.fixed_s) / max(1, len(rates)) - demand.rate_s
        amount = math.floor(min(float(part.full), each_s / demand.unit_s) * (1 + _ROUNDING))
        if amount >= min(part.least, part.full):
            return Size(amount=min(amount, part.full), learning_rates=rates)
    return None


def spread(candidates: Sequence[Candidate], *, speed_s: float, accuracy_s: float) -> dict[str, Size]:
    """Sizes by key for the seconds left in each half; a part that is left out has none.

    A half that was overdrawn is paid by the other. The sizes' expected seconds never add up to more than both halves.
    """
    speed_s, accuracy_s = max(0.0, speed_s + min(0.0, accuracy_s)), max(0.0, accuracy_s + min(0.0, speed_s))
    speed = [each for each in candidates if each.part.kind == "speed"]
    accuracy = [each for each in candidates if each.part.kind == "accuracy"]
    unused_s = speed_s - _used_s(speed, fill(speed, speed_s))
    of_accuracy = fill(accuracy, accuracy_s + unused_s)
    of_speed = fill(speed, speed_s + accuracy_s - _used_s(accuracy, of_accuracy))
    return {**of_speed, **of_accuracy}


def fill(candidates: Sequence[Candidate], seconds: float) -> dict[str, Size]:
    """Sizes by key of the parts that fit in so many seconds together; see the module's figure."""
    admitted: list[Candidate] = []
    for each in sorted(candidates, key=lambda candidate: candidate.least_s):
        if sum(one.least_s for one in admitted) + each.least_s <= seconds:
            admitted.append(each)
    level = _level([(each.least_s, each.most_s) for each in admitted], seconds)
    sizes = {each.part.key: largest_size(each, _clamp(level, each.least_s, each.most_s)) for each in admitted}
    return {key: size for key, size in sizes.items() if size is not None}


def _level(bounds: Sequence[tuple[float, float]], seconds: float) -> float:
    """The most that each can get, within its bounds, without all of them exceeding the seconds."""
    highest = max((most for _, most in bounds), default=0.0)
    if sum(most for _, most in bounds) <= seconds:
        return highest
    low, high = 0.0, highest
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        if sum(_clamp(middle, least, most) for least, most in bounds) <= seconds:
            low = middle
        else:
            high = middle
    return low


def _clamp(value: float, least: float, most: float) -> float:
    return min(max(value, least), most)


def _used_s(candidates: Sequence[Candidate], sizes: Mapping[str, Size]) -> float:
    return sum(seconds_of(each.demand, sizes[each.part.key]) for each in candidates if each.part.key in sizes)
