"""From a few points and a device's rates to any class count, with the error those points show.

    time at k = time at 1 + slowdown x (seconds of the layer at k - seconds of the layer at 1)

Rates are calibrated as the least time of their probes, times are medians of passes. Where neighbours are busy the
two differ by the same share for the backbone and for the top layer: on two shared cores the single logit's median was
1.14 to 1.22 times its least time in five runs, and that of 2**18 and 2**18.5 classes 1.14 to 1.26 times theirs. So the
slowdown is read off the single logit (bench.speed.slowdown). Rates that are given for another machine have none, and a
fit to medians finds its own.

The error is stated of what the top layer adds, not of the whole: far out it is all there is.
"""

import dataclasses
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from bench.counts import MAX_CLASSES
from bench.speed.prediction import FRESH_BYTES, Rates, Work, top_layer_work

#: From here on a top layer takes a time worth predicting, and the prediction is held against what was measured.
JUDGED_CLASSES = 2**16

#: The aim: this share of the judged points within this much of the measured median.
AIM_ERROR, AIM_SHARE = 0.10, 0.90

#: What the top layer is measured to add is the difference of two medians; below this share of the whole, their own
#: scatter would be taken for an error of the prediction.
LEAST_ADDED_SHARE = 0.10


@dataclass(frozen=True)
class Layer:
    """A full linear top layer but for its class count."""

    batch_size: int
    features: int
    bias: bool
    itemsize: int

    @classmethod
    def of_single(cls, operations: int, *, batch_size: int, itemsize: int) -> "Layer":
        """From the operations of one class for one minibatch: 2 x batch x features, and batch more with a bias.

        Raises ValueError if they are no such number.
        """
        an_example, rest = divmod(operations, batch_size)
        if rest or an_example < 2:
            raise ValueError(f"{operations} operations are not those of one class of a linear layer")
        return cls(batch_size, an_example // 2, bool(an_example % 2), itemsize)

    def work(self, classes: int) -> Work:
        """Of one minibatch."""
        return top_layer_work(
            batch_size=self.batch_size,
            features=self.features,
            classes=classes,
            bias=self.bias,
            itemsize=self.itemsize,
        )

    def weight_bytes(self, classes: int) -> int:
        """Weight and bias."""
        return (self.features + self.bias) * classes * self.itemsize

    def logit_bytes(self, classes: int) -> int:
        """All logits of one minibatch."""
        return self.batch_size * classes * self.itemsize


@dataclass(frozen=True)
class Model:
    """Time as a function of the class count; seconds are those of a minibatch."""

    layer: Layer
    single_s: float
    rates: Rates
    slowdown: float = 1.0

    def added_s(self, classes: int) -> float:
        """What the top layer adds to the time of a single logit."""
        return self.slowdown * self.rates.added_seconds(self.layer.work(classes), self.layer.work(1))

    def seconds(self, classes: int) -> float:
        """Expected median time."""
        return self.single_s + self.added_s(classes)

    def speedup(self, classes: int) -> float:
        """Expected time at this count / time of the single logit."""
        return self.seconds(classes) / self.single_s

    def classes_at(self, speedup: float) -> int | None:
        """The least class count with this speedup; None if not even MAX_CLASSES has it.

        Time never falls as classes grow, so it is found by halving.
        """
        if self.speedup(MAX_CLASSES) < speedup:
            return None
        low, high = 0, MAX_CLASSES
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if self.speedup(middle) >= speedup else (middle, high)
        return high

    def slower(self, factor: float) -> "Model":
        """The same, with a top layer that adds `factor` times as much."""
        return dataclasses.replace(self, slowdown=self.slowdown * factor)


@dataclass(frozen=True)
class Measured:
    """The median seconds of a minibatch at one class count above 1."""

    classes: int
    seconds: float


@dataclass(frozen=True)
class Check:
    """A prediction beside what was measured; seconds of a minibatch."""

    classes: int
    measured_s: float
    predicted_s: float
    single_s: float

    @property
    def error(self) -> float:
        """Predicted / measured - 1, of the whole time."""
        return self.predicted_s / self.measured_s - 1

    @property
    def added_ratio(self) -> float:
        """Measured / predicted, of what the top layer adds."""
        return (self.measured_s - self.single_s) / (self.predicted_s - self.single_s)

    @property
    def tells(self) -> bool:
        """Whether the top layer's part is large enough for its error to be seen."""
        return self.predicted_s - self.single_s >= LEAST_ADDED_SHARE * self.predicted_s


@dataclass(frozen=True)
class Spread:
    """How much more or less a top layer took than predicted, at the points where that can be seen.

    `low` and `high` are the least and the greatest ratio measured / predicted: order statistics, so that of n + 1
    exchangeable points the last lies between those of the others with probability (n - 1) / (n + 1). `runs` and
    `networks` are those the points are from; None where that is not known.
    """

    low: float
    high: float
    points: int
    runs: int | None = None
    networks: int | None = None

    @property
    def coverage(self) -> float:
        """Probability that one more point like these lies between."""
        return (self.points - 1) / (self.points + 1)


@dataclass(frozen=True)
class Prediction:
    """One class count; seconds of a minibatch. `low_s` and `high_s` are None where no point tells the error."""

    classes: int
    seconds: float
    low_s: float | None
    high_s: float | None
    speedup: float
    weight_bytes: int
    logit_bytes: int


def checks(model: Model, measured: Sequence[Measured]) -> list[Check]:
    """What the model says at the counts that were measured."""
    return [Check(each.classes, each.seconds, model.seconds(each.classes), model.single_s) for each in measured]


def fit(model: Model, measured: Sequence[Measured]) -> Model | None:
    """The model with its top layer scaled to these points; None if no point tells.

    One factor, not two rates: at one batch size operations and bytes grow together, and points cannot tell them
    apart. The factor is the median of the points' ratios, which one disturbed point does not move.
    """
    ratios = [check.added_ratio for check in checks(model, measured) if check.tells]
    factor = statistics.median(ratios) if ratios else 0.0
    return model.slower(factor) if factor > 0 else None


def left_out(model: Model, measured: Sequence[Measured]) -> list[Check]:
    """Every point beside the prediction fitted to the others: the error of a fit at a point it has not seen.

    A point without others that tell is left out.
    """
    found = []
    for each in measured:
        fitted = fit(model, [other for other in measured if other != each])
        if fitted is not None:
            found += checks(fitted, [each])
    return found


def spread(found: Sequence[Check]) -> Spread | None:
    """How far the top layer's part was off; None if fewer than two points tell: one has no spread.

    A point measured below the single logit, by its scatter, counts as one whose top layer took no time.
    """
    ratios = [max(0.0, check.added_ratio) for check in found if check.tells]
    return Spread(min(ratios), max(ratios), len(ratios)) if len(ratios) > 1 else None


def judged(found: Sequence[Check]) -> list[Check]:
    """The points the aim is about."""
    return [check for check in found if check.classes >= JUDGED_CLASSES]


def within_aim(found: Sequence[Check]) -> int:
    """How many of some points are within AIM_ERROR of the measured median."""
    return sum(abs(check.error) <= AIM_ERROR for check in found)


def predict(model: Model, classes: Sequence[int], error: Spread | None) -> list[Prediction]:
    """The expected times, ascending by class count."""
    return [
        Prediction(
            classes=count,
            seconds=model.seconds(count),
            low_s=None if error is None else model.slower(error.low).seconds(count),
            high_s=None if error is None else model.slower(error.high).seconds(count),
            speedup=model.speedup(count),
            weight_bytes=model.layer.weight_bytes(count),
            logit_bytes=model.layer.logit_bytes(count),
        )
        for count in sorted(set(classes))
    ]


def from_line(single: float, measured: Sequence[tuple[int, float]], classes: int) -> float:
    """Time at a count on the straight line from one class through the largest count measured; any unit.

    Raises ValueError without a count above 1.
    """
    largest = max((pair for pair in measured if pair[0] > 1), default=None)
    if largest is None:
        raise ValueError("a line needs a class count above 1")
    return single + (largest[1] - single) * (classes - 1) / (largest[0] - 1)


def unlike_measured(layer: Layer, largest: int, classes: int) -> bool:
    """Whether logits are in fresh memory at one count and were not at the largest that was measured (CPU)."""
    return layer.logit_bytes(largest) < FRESH_BYTES <= layer.logit_bytes(classes)
