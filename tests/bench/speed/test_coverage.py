"""How often the 95 % interval holds the truth, by simulation; the tables in the docstrings were made here.

`python tests/bench/speed/test_coverage.py` prints them again, from 2,000 runs a line (about two minutes).
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from bench.speed import stopping
from bench.speed.statistics import LIVE_RESAMPLES, bootstrap_ratios, speedup

RECORDING = Path(__file__).parents[2] / "replays" / "resnet18_cpu.npz"

#: Columns of every series of rounds: A, A', 2**14 classes, 2**16 classes.
TRUE_RATIOS = (1.12, 1.5, 1.0)

#: Mean length, in rounds, of the stretches in which the recording is played back.
STRETCH = 25

Series = Callable[[int, int, np.random.Generator], tuple[np.ndarray, tuple[float, ...]]]


def recorded(runs: int, rounds: int, generator: np.random.Generator) -> tuple[np.ndarray, tuple[float, ...]]:
    """Stationary bootstrap (Politis and Romano, 1994) of recorded rounds; truth: the whole recording's ratios."""
    times = np.load(RECORDING)["times"]
    fresh = generator.random((runs, rounds)) < 1 / STRETCH
    fresh[:, 0] = True
    places = generator.integers(0, len(times), (runs, rounds))
    for step in range(1, rounds):
        following = (places[:, step - 1] + 1) % len(times)
        places[:, step] = np.where(fresh[:, step], places[:, step], following)
    return times[places], tuple(ratio_of_medians(times))


def drifting(
    runs: int,
    rounds: int,
    generator: np.random.Generator,
    *,
    memory: float = 0.8,
    drift: float = 0.05,
    noise: float = 0.02,
    bursts: float = 0.02,
) -> tuple[np.ndarray, tuple[float, ...]]:
    """Lognormal AR(1) drift shared by a round, noise of every pass, and bursts of six rounds at half the speed."""
    start = 100  # rounds until drift and bursts have forgotten that they began at rest
    level = np.zeros((runs, start + rounds))
    slow = np.zeros((runs, start + rounds), dtype=bool)
    for step in range(1, start + rounds):
        push = generator.standard_normal(runs)
        level[:, step] = memory * level[:, step - 1] + np.sqrt(1 - memory**2) * push
        chance = np.where(slow[:, step - 1], 1 - 1 / 6, bursts)
        slow[:, step] = generator.random(runs) < chance
    shared = np.exp(drift * level) * np.where(slow, 2.0, 1.0)
    own = np.exp(noise * generator.standard_normal((runs, rounds, 4)))
    truth = np.array([1, 1, *TRUE_RATIOS[:2]])
    return shared[:, start:, None] * own * truth, TRUE_RATIOS


def independent(runs: int, rounds: int, generator: np.random.Generator) -> tuple[np.ndarray, tuple[float, ...]]:
    """A quiet machine: nothing but each pass's own noise."""
    return drifting(runs, rounds, generator, drift=0.0, bursts=0.0)


def slow_drift(runs: int, rounds: int, generator: np.random.Generator) -> tuple[np.ndarray, tuple[float, ...]]:
    return drifting(runs, rounds, generator, memory=0.97)


def ratio_of_medians(times: np.ndarray) -> list[float]:
    single = times[:, :2]
    return [speedup(times[:, 2], single), speedup(times[:, 3], single), speedup(times[:, 1], times[:, 0])]


def intervals(times: np.ndarray, resamples: int = LIVE_RESAMPLES) -> np.ndarray:
    """Ends of the 95 % intervals of one run, shape (3, 2): both speedups, and the control."""
    speedups = bootstrap_ratios([times[:, 2], times[:, 3]], times[:, :2], resamples=resamples)
    control = bootstrap_ratios([times[:, 1]], times[:, 0], resamples=resamples)
    return np.array([ratio.interval() for ratio in (*speedups, *control) if ratio is not None])


def coverage(series: Series, runs: int, rounds: int, seed: int = 0) -> tuple[np.ndarray, float]:
    """Share of runs whose intervals hold the truth, shape (3,); and the mean half-width at 2**16, relative."""
    times, truth = series(runs, rounds, np.random.default_rng(seed))
    ends = np.stack([intervals(run) for run in times])
    held = (ends[..., 0] <= truth) & (truth <= ends[..., 1])
    half = np.diff(np.log(ends[:, 1]), axis=1).mean() / 2
    return held.mean(axis=0), float(half)


def until(
    series: Series, runs: int, percent: float, maximum: int = 100, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Rounds at which each run stops under --until, and whether its two speedups' intervals then hold the truth."""
    times, truth = series(runs, maximum, np.random.default_rng(seed))
    lengths, held = np.empty(runs, dtype=int), np.empty((runs, 2), dtype=bool)
    for number, run in enumerate(times):
        for rounds in range(stopping.MINIMUM_ROUNDS, maximum + 1, stopping.CHECK_EVERY):
            ends = intervals(run[:rounds])[:2]
            estimates = ratio_of_medians(run[:rounds])[:2]
            looks = [(estimate, *end) for estimate, end in zip(estimates, ends.tolist(), strict=True)]
            if stopping.enough(looks, rounds, percent, maximum=maximum):
                break
        lengths[number] = rounds
        held[number] = (ends[:, 0] <= truth[:2]) & (truth[:2] <= ends[:, 1])
    return lengths, held


#: Nominal 95 %; in a simulation of 1,000 runs chance moves a coverage by 0.7 points (standard error).
WANTED = (0.93, 0.97)
CHANCE = 2 * 0.007


def check(series: Series, runs: int, chance: float) -> None:
    held, _ = coverage(series, runs, rounds=100)
    low, high = WANTED
    assert np.all((held >= low - chance) & (held <= high + chance)), held
    assert low <= held.mean() <= high, held


def test_a_recording_is_replayed_in_stretches_of_neighbours():
    times, truth = recorded(50, 40, np.random.default_rng(0))
    recording = np.load(RECORDING)["times"]
    where = {row.tobytes(): number for number, row in enumerate(recording)}
    places = np.array([[where[row.tobytes()] for row in run] for run in times])
    following = (np.diff(places, axis=1) % len(recording)) == 1
    assert 1 - 1.5 / STRETCH < following.mean() < 1 - 0.5 / STRETCH
    assert truth == tuple(ratio_of_medians(recording))


@pytest.mark.parametrize("series", [recorded, drifting, independent])
def test_interval_holds_the_truth_in_95_of_100_runs_of_100_rounds(series: Series):
    check(series, runs=1000, chance=CHANCE)


@pytest.mark.parametrize("rounds", [12, 30])
def test_fewer_rounds_make_the_interval_wider_not_less_true(rounds: int):
    _, at_100 = coverage(recorded, runs=200, rounds=100)
    held, half = coverage(recorded, runs=400, rounds=rounds)
    assert half > 1.3 * at_100
    assert np.all(held > 0.90), held


def test_looking_every_few_rounds_costs_little_coverage():
    lengths, held = until(drifting, runs=150, percent=1.5)
    assert 30 < lengths.mean() < 100
    assert held.mean() > 0.92


def test_blocks_are_needed_where_noise_lasts(monkeypatch: pytest.MonkeyPatch):
    """The simulation can tell a wrong method from a right one: single rounds instead of blocks cover too little."""
    monkeypatch.setattr("bench.speed.statistics.block_length", lambda rounds: 1)
    held, _ = coverage(recorded, runs=600, rounds=100)
    assert held[1] < WANTED[0] - CHANCE


@pytest.mark.slow
@pytest.mark.parametrize("series", [recorded, drifting, slow_drift, independent])
def test_interval_holds_the_truth_in_4000_runs(series: Series):
    check(series, runs=4000, chance=CHANCE / 2)


def print_tables(runs: int = 2000) -> None:
    for series in (recorded, drifting, slow_drift, independent):
        for rounds in (100, 30, 12):
            held, half = coverage(series, runs, rounds, seed=1)
            print(
                f"{series.__name__:12} {rounds:4}",
                *(f"{100 * one:6.1f}" for one in held),
                f"{100 * half:6.2f}",
                flush=True,
            )
    for series, percent in ((recorded, 2.0), (recorded, 4.0), (drifting, 2.0), (drifting, 1.5), (independent, 1.0)):
        lengths, held = until(series, runs // 2, percent, seed=1)
        early = lengths < 100
        print(f"{series.__name__:12} until {percent}: {lengths.mean():.0f} rounds, {early.mean():.0%} early,", end=" ")
        print(
            *(f"{100 * one:.1f}" for one in held.mean(axis=0)),
            "early:",
            *(f"{100 * one:.1f}" for one in held[early].mean(axis=0)),
        )


if __name__ == "__main__":
    print_tables()
