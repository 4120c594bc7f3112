"""What the benchmarks share: an interleaved comparison, and a way to say what was found.

Figures of the design are asserted only as ratios, with room for a noisy machine; what was measured is printed and
kept in pytest-benchmark's `extra_info`.
"""

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from bench.speed.statistics import Ratio, ratios

#: Visits before the first that counts: lazy initialisation, kernels chosen, pages faulted in.
WARMUP_VISITS = 3


@dataclass(frozen=True)
class Compared:
    """Times of several cases measured in turn: case -> seconds, shape (rounds,)."""

    times: Mapping[str, NDArray[np.float64]]

    def ratio(self, case: str, base: str) -> Ratio:
        """Ratio of medians with its interval."""
        (found,) = ratios([self.times[case]], self.times[base])
        assert found is not None, "a comparison of a single round has no interval"
        return found


@pytest.fixture
def compare(benchmark: Any) -> Callable[..., Compared]:
    """Time cases in random order, round by round; a case takes the round's number and returns its own seconds."""

    def compared(cases: Mapping[str, Callable[[int], float]], rounds: int) -> Compared:
        order = random.Random(0)
        times: dict[str, list[float]] = {case: [] for case in cases}

        def measure() -> None:
            for round in range(-WARMUP_VISITS, rounds):
                for case in order.sample(sorted(cases), len(cases)):
                    seconds = cases[case](round)
                    if round >= 0:
                        times[case].append(seconds)

        benchmark.pedantic(measure, rounds=1, iterations=1)
        return Compared({case: np.array(seconds) for case, seconds in times.items()})

    return compared


@pytest.fixture
def say(benchmark: Any, capsys: pytest.CaptureFixture[str]) -> Callable[..., None]:
    """Print a line even where output is captured, and keep figures in `extra_info`."""

    def said(line: str, **figures: float | str | Sequence[float]) -> None:
        benchmark.extra_info.update(figures)
        with capsys.disabled():
            print(f"\n    {line}", end="")

    return said


@pytest.fixture
def say_ratio(say: Callable[..., None]) -> Callable[[str, Ratio], None]:
    """Say what a ratio of medians is, with its 95 % interval."""

    def said(what: str, ratio: Ratio) -> None:
        low, high = ratio.interval()
        say(f"{what}: {ratio.estimate:.4f} ({low:.4f} to {high:.4f})", **{what: [ratio.estimate, low, high]})

    return said
