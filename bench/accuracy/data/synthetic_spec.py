"""What `synthetic:K` stands for: its options, read and checked. Torch is not needed to know them.

synthetic:1000                          1,000 classes, all else as it is by default
synthetic:2**18.5,zipf=0.5,near=4       370,727 classes, with options
"""

import math
import re
from dataclasses import dataclass, fields
from typing import Any, Literal, get_args

from bench.counts import parse_count
from bench.errors import UsageError

#: How a name of such a data set begins.
SYNTHETIC = "synthetic:"

#: A class has 24 bits in the place of its numbers; 2**24 prototypes of 128 numbers are 8 GB, and never held.
MOST_CLASSES = 2**24

#: Sums of so many terms on the generator's grid are exact in float64 (see bench.accuracy.data.mixture).
MOST_DIMENSIONS = 4096

#: Beyond it the second class has less than a billionth of the examples.
MOST_ZIPF = 30.0

#: Of the numbers of a prototype: with a larger one, float32 would not hold examples as they are.
LARGEST_DEVIATION = 4.0

#: Labels are held, 8 bytes each.
MOST_EXAMPLES = 2**31 - 1

TestClasses = Literal["trained", "uniform"]


@dataclass(frozen=True, kw_only=True)
class Spec:
    """A data set of this family; the same seed and a larger K add classes and leave the first as they are."""

    classes: int
    d: int = 128
    """dimensions of an example"""
    zipf: float = 1.0
    """class j is drawn with a probability in proportion to (j + 1) ** -zipf; 0: all alike"""
    groups: int = 5
    """of confusable classes: class j is in group j mod groups"""
    near: float = 5.0
    """typical distance between two prototypes of a group, in standard deviations of an example about its prototype"""
    far: float = 8.0
    """the same of two groups"""
    examples: int | None = None
    """to train on; None: 100 a class, at least 100,000 and at most 10 million"""
    test: TestClasses = "trained"
    """class frequencies of the test split: those trained on, or uniform"""
    seed: int = 0
    """of prototypes, of the map from latent to observed features, and of all examples"""

    def __post_init__(self) -> None:
        """Raise UsageError, naming the option, for what is out of range."""
        _check("the class count", self.classes, 2, MOST_CLASSES)
        _check("d", self.d, 2, MOST_DIMENSIONS)
        _check("zipf", self.zipf, 0, MOST_ZIPF)
        _check("groups", self.groups, 1, MOST_CLASSES)
        farthest = LARGEST_DEVIATION * math.sqrt(2 * self.d)  # 64 at d = 128: far beyond any confusion
        _check("near", self.near, 0, farthest)
        _check("far", self.far, 0, farthest)
        if self.far < self.near:
            raise UsageError(
                f"{SYNTHETIC}K: near is {_shown(self.near)} and far {_shown(self.far)}: classes of one group are no "
                "farther apart than those of two; give a larger far= or a smaller near="
            )
        _check("examples", self.train, 2, MOST_EXAMPLES)
        _check("seed", self.seed, 0, 2**63 - 1)
        if self.test not in get_args(TestClasses):
            raise UsageError(f"{SYNTHETIC}K: test={self.test!r}: give {' or '.join(get_args(TestClasses))}")

    @property
    def train(self) -> int:
        """Examples of the training split."""
        return min(max(100 * self.classes, 100_000), 10_000_000) if self.examples is None else self.examples

    @property
    def name(self) -> str:
        """The name that `parse` reads this from: K as a number, and the options that differ from the defaults."""
        given = [
            f",{option.name}={_shown(getattr(self, option.name))}"
            for option in fields(self)
            if option.name != "classes" and getattr(self, option.name) != option.default
        ]
        return f"{SYNTHETIC}{self.classes}{''.join(given)}"


def parse(name: str) -> Spec:
    """Read a name such as synthetic:1000,zipf=0; raises UsageError, in one line, for one that is none."""
    count, *options = re.split(r",(?=\s*[A-Za-z])", name.removeprefix(SYNTHETIC))
    if not count.strip():
        raise UsageError(f"{SYNTHETIC}K names no class count: {SYNTHETIC}1000, or {SYNTHETIC}2**18.5,zipf=0")
    given: dict[str, Any] = {"classes": parse_count(count)}
    for option in options:
        key, _, value = (part.strip() for part in option.partition("="))
        if key not in _READ:
            raise UsageError(f"{name}: {SYNTHETIC}K has no option {key!r}; it has {', '.join(_READ)}")
        if key in given:
            raise UsageError(f"{name}: {key} is given twice")
        given[key] = _read(name, key, value)
    return Spec(**given)


_READ: dict[str, Any] = {
    "d": parse_count,
    "zipf": float,
    "groups": parse_count,
    "near": float,
    "far": float,
    "examples": parse_count,
    "test": str,
    "seed": int,
}


def _read(name: str, key: str, value: str) -> Any:
    try:
        return _READ[key](value)
    except UsageError:
        raise UsageError(
            f"{name}: {key}={value} is no number from 1 to 2**40, written as class counts are (5000, 5k or 2**12)"
        ) from None
    except ValueError:
        raise UsageError(f"{name}: {key}={value} is no {'whole ' if _READ[key] is int else ''}number") from None


def _check(option: str, value: float, least: float, most: float) -> None:
    if not least <= value <= most:  # a NaN neither
        raise UsageError(
            f"{SYNTHETIC}K: {option} is {_shown(value)}; it must be from {_shown(least)} to {_shown(most)}"
        )


def _shown(value: Any) -> str:
    """Short where that is the number, as it stands in a name."""
    return f"{value:g}" if isinstance(value, float) and float(f"{value:g}") == value else str(value)
