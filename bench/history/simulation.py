"""How often the rule of a comparison is wrong, by simulation: `python -m bench.history.simulation --help`.

    recording or model --> rounds of one process (stationary bootstrap, scaled if asked for)
        * what its process does to its times --> processes a side --> snapshot.measured --> compare --> outcome

Replays go through the very code that a comparison of two runs goes through. Base and new are drawn from the same
noise; a slowdown multiplies the single logit's times of the new side. docs/comparing.md shows the tables.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal
from zipfile import BadZipFile

import numpy as np

from bench.errors import UsageError
from bench.history.compare import compare
from bench.history.snapshot import Estimate, OtherMachine, Point, Snapshot, Work, measured
from bench.speed.statistics import LIVE_RESAMPLES, Floats, Ratio, bootstrap_ratios

#: Log times of passes, shape (processes, rounds, slots); the first two slots are the single logit's A and A'.
Noise = Callable[[int, int, np.random.Generator], Floats]

#: Seconds a pass in the models: the single logit twice, 2**14 and 2**16 classes, as ResNet-18 was recorded.
MODEL_TIMES_S = (0.031, 0.031, 0.035, 0.047)

#: Mean length, in rounds, of the stretches in which a recording is played back.
STRETCH = 25

#: Rounds until the models have forgotten that they began at rest.
RUN_IN = 100

SPREADS = (0.003, 0.006, 0.009, 0.016, 0.03)
PROCESSES = (1, 3, 5, 10)
SLOWDOWNS = (0.02, 0.03, 0.05, 0.10)

DEFAULT_RECORDING = Path("tests/replays/resnet18_cpu.npz")


@dataclass(frozen=True)
class Scene:
    """What is simulated: noise within a process, how far processes lie apart, and how much is measured.

    spread: standard deviation of fresh processes' log times and log speedups. With `whole` it is that of the
    processes' own medians, half its variance coming from the rounds, whose noise is scaled to it; otherwise it is
    added to the noise as it is.
    """

    name: str
    noise: Noise
    spread: float
    processes: int
    rounds: int = 30
    whole: bool = False


@dataclass(frozen=True)
class Outcomes:
    """Shares of comparisons, by the slowdown of the single logit; 0 is none at all.

    worse: red. decided: neither red nor anything ambiguous. seen: standard deviation of the processes' own log medians
    (single logit, speedup at the largest count).
    """

    scene: Scene
    comparisons: int
    worse: dict[float, float]
    decided: dict[float, float]
    seen: tuple[float, float]

    @property
    def false_alarms(self) -> float:
        """Share of comparisons of equal things that turned red."""
        return self.worse[0.0]


def recorded(times: Floats) -> Noise:
    """A recording played back in stretches (stationary bootstrap: Politis and Romano, 1994).

    times: seconds, shape (rounds, slots), or (processes, rounds, slots) of as many fresh processes; each process that
    is simulated replays one of them.
    """
    logs = np.log(times if times.ndim == 3 else times[None])

    def draw(processes: int, rounds: int, generator: np.random.Generator) -> Floats:
        length = logs.shape[1]
        fresh = generator.random((processes, rounds)) < 1 / STRETCH
        fresh[:, 0] = True
        places = generator.integers(0, length, (processes, rounds))
        for step in range(1, rounds):
            places[:, step] = np.where(fresh[:, step], places[:, step], (places[:, step - 1] + 1) % length)
        source = generator.integers(0, len(logs), (processes, 1))
        return np.asarray(logs[source, places])

    return draw


def modelled(
    processes: int,
    rounds: int,
    generator: np.random.Generator,
    *,
    own: float = 0.01,
    drift: float = 0.0,
    bursts: float = 0.0,
    throttling: float = 0.0,
) -> Floats:
    """Noise of every pass, and what a round's passes share: drift, bursts of contention, steps of a throttled clock.

    own, drift: standard deviations of log times; drift has memory 0.97 a round. bursts, throttling: chance that one
    begins in a round. A burst lasts 6 rounds on average and halves the speed of the single logit's passes, and that
    of all others a little less (a busy core slows arithmetic down, not the memory). A throttled clock is a tenth to
    a third slower for 20 rounds on average, the same for all: a model, no recording.
    """
    total = RUN_IN + rounds
    level, slow, clock = np.zeros((processes, total)), np.zeros((processes, total)), np.zeros((processes, total))
    for step in range(1, total):
        level[:, step] = 0.97 * level[:, step - 1] + np.sqrt(1 - 0.97**2) * generator.standard_normal(processes)
        chance = np.where(slow[:, step - 1] > 0, 1 - 1 / 6, bursts)
        slow[:, step] = generator.random(processes) < chance
        going_on = (clock[:, step - 1] > 0) & (generator.random(processes) > 1 / 20)
        begins = generator.random(processes) < throttling
        steps = np.log(generator.uniform(1.1, 1.35, processes))
        clock[:, step] = np.where(going_on, clock[:, step - 1], np.where(begins, steps, 0.0))
    shared = (drift * level + clock)[:, RUN_IN:, None]
    burst = slow[:, RUN_IN:, None] * np.log([2.0, 2.0, 1.9, 1.8])
    passes = own * generator.standard_normal((processes, rounds, len(MODEL_TIMES_S)))
    return np.asarray(np.log(MODEL_TIMES_S) + shared + burst + passes)


def noises(recording: Floats) -> dict[str, Noise]:
    """Every kind of noise, by name."""
    return {
        "recorded": recorded(recording),
        "drift": partial(modelled, drift=0.05),
        "bursts": partial(modelled, bursts=0.02),
        "throttling": partial(modelled, throttling=0.02),
        "quiet": modelled,
    }


def simulate(
    scene: Scene, comparisons: int, slowdowns: Sequence[float] = (), *, seed: int = 0, margin: float = 0.03
) -> Outcomes:
    """Compare many times what is equal but for the noise, and with each slowdown of the single logit."""
    scene = _scaled(scene, seed)
    generator = np.random.default_rng([seed, scene.processes, round(1e6 * scene.spread)])
    factors = (0.0, *slowdowns)
    worse, decided = dict.fromkeys(factors, 0), dict.fromkeys(factors, 0)
    replicates = []
    for _ in range(comparisons):
        base, new = (_side(scene, generator) for _ in range(2))
        replicates += [point.replicates[0] for side in (base, new) for point in side[-1:]]
        for factor in factors:
            found = compare(_snapshot(base), _snapshot([slowed(point, 1 + factor) for point in new]), margin=margin)
            worse[factor] += found.outcome == "worse"
            decided[factor] += not found.worse and not found.undecided
    singles = np.log([each.single_s for each in replicates])
    speedups = np.log([each.all_s / each.single_s for each in replicates])
    return Outcomes(
        scene,
        comparisons,
        {factor: count / comparisons for factor, count in worse.items()},
        {factor: count / comparisons for factor, count in decided.items()},
        (float(singles.std(ddof=1)), float(speedups.std(ddof=1))),
    )


@dataclass(frozen=True)
class Spread:
    """How far fresh processes lie apart, as standard deviations of a logarithm.

    total: of the processes' own medians. within: what their rounds explain. between: what is left, 0 if nothing is:
    bench.history.verdict's PROCESS_SPREAD.
    """

    total: float
    within: float
    between: float


def process_spread(times: Floats) -> dict[Literal["single", "speedup"], Spread]:
    """How far fresh processes lie apart in the single logit's time, and in the speedup at the largest count.

    times: seconds, shape (processes, rounds, slots). Raises UsageError for fewer than two processes, or too few
    rounds in one.
    """
    if times.ndim != 3 or len(times) < 2:
        raise UsageError("a recording of at least two fresh processes is needed; see tests/replays/record.py")
    return {
        "single": _spread([bootstrap_ratios([one[:, :2]], np.ones((len(one), 1)))[0] for one in times]),
        "speedup": _spread([bootstrap_ratios([one[:, -1]], one[:, :2])[0] for one in times]),
    }


def _spread(medians: Sequence[Ratio | None]) -> Spread:
    known = [ratio for ratio in medians if ratio is not None]
    if len(known) < len(medians):
        raise UsageError("a recorded process has too few rounds to tell its error")
    total = float(np.var(np.log([ratio.estimate for ratio in known]), ddof=1))
    within = float(np.mean([ratio.error**2 for ratio in known]))
    return Spread(total**0.5, within**0.5, max(0.0, total - within) ** 0.5)


def slowed(point: Point, factor: float) -> Point:
    """The point with a single logit that takes `factor` times as long: exact, for medians scale with their samples."""
    assert point.single is not None
    assert point.speedup is not None
    return point.model_copy(
        update={
            "single": _times(point.single, factor),
            "speedup": _times(point.speedup, 1 / factor),
            "replicates": tuple(
                each.model_copy(update={"single_s": each.single_s * factor}) for each in point.replicates
            ),
        }
    )


def _times(estimate: Estimate, factor: float) -> Estimate:
    return estimate.model_copy(update={"value": estimate.value * factor})


def _scaled(scene: Scene, seed: int, processes: int = 400) -> Scene:
    """The scene with its rounds' noise scaled so that the speedups of processes spread by `spread` in all."""
    if not scene.whole:
        return scene
    logs = scene.noise(processes, scene.rounds, np.random.default_rng([seed, 1]))
    medians = np.median(logs[..., -1], axis=1) - np.median(logs[..., :2].reshape(processes, -1), axis=1)
    part = scene.spread / 2**0.5
    middle = np.median(logs.reshape(-1, logs.shape[-1]), axis=0)
    factor = part / float(np.std(medians, ddof=1))

    def noise(processes: int, rounds: int, generator: np.random.Generator) -> Floats:
        return np.asarray(middle + factor * (scene.noise(processes, rounds, generator) - middle))

    return replace(scene, noise=noise, spread=part)


def _side(scene: Scene, generator: np.random.Generator) -> list[Point]:
    """One side of a comparison: a point each for the third slot and those after it."""
    logs = scene.noise(scene.processes, scene.rounds, generator) + _process_effects(scene, generator)
    times = np.exp(logs).reshape(-1, logs.shape[-1])
    owners = np.repeat(np.arange(scene.processes), scene.rounds)
    return [
        measured(Work(arch="simulated", classes=slot), times[:, :2], times[:, [slot]], owners, resamples=LIVE_RESAMPLES)
        for slot in range(2, times.shape[1])
    ]


def _process_effects(scene: Scene, generator: np.random.Generator) -> Floats:
    """Shape (processes, 1, slots): one part for all passes, one for each class count, such that every time and
    every speedup spreads by `spread`."""
    slots = scene.noise(1, 1, np.random.default_rng(0)).shape[-1]
    shared = generator.standard_normal((scene.processes, 1, 1))
    own = generator.standard_normal((scene.processes, 1, slots))
    own[..., 1] = own[..., 0]
    return np.asarray(scene.spread * (shared + own) / 2**0.5)


def _snapshot(points: Sequence[Point]) -> Snapshot:
    machine = OtherMachine(cpu="simulated")
    return Snapshot(name="simulated", created="", machine=machine, points=tuple(points))


# -- tables -------------------------------------------------------------------------------------------------------


def tables(recording: Floats, comparisons: int, seed: int, show: Callable[[str], None]) -> None:
    """Print, as Markdown, how often each kind of noise raises a false alarm, and the power curve."""
    kinds = noises(recording)
    header = "| false alarms | " + " | ".join(f"{100 * slowdown:g} % found" for slowdown in SLOWDOWNS)
    show(f"| noise | processes | spread seen: single, speedup {header} | decided |")
    show("|---|--:|--:|" + "--:|" * (len(SLOWDOWNS) + 2))
    for name, noise in kinds.items():
        for processes in PROCESSES:
            _show_line(Scene(name, noise, 0.009, processes), f"{name} | {processes}", comparisons, seed, show)
    show(f"\n| spread | processes | spread seen: single, speedup {header} | decided |")
    show("|--:|--:|--:|" + "--:|" * (len(SLOWDOWNS) + 2))
    for spread in SPREADS:
        for processes in PROCESSES:
            scene = Scene("recorded", kinds["recorded"], spread, processes, whole=True)
            _show_line(scene, f"{100 * spread:.1f} % | {processes}", comparisons, seed, show)


def _show_line(scene: Scene, begin: str, comparisons: int, seed: int, show: Callable[[str], None]) -> None:
    found = simulate(scene, comparisons, SLOWDOWNS, seed=seed)
    seen = ", ".join(f"{100 * one:.1f} %" for one in found.seen)
    worse = " | ".join(f"{100 * found.worse[slowdown]:.0f} %" for slowdown in SLOWDOWNS)
    show(f"| {begin} | {seen} | {100 * found.false_alarms:.1f} % | {worse} | {100 * found.decided[0.0]:.0f} % |")


def read_recording(path: Path) -> Floats:
    """Seconds of a recording made by tests/replays/record.py. Raises UsageError if there is none."""
    try:
        with np.load(path) as recording:
            return np.asarray(recording["times"], dtype=float)
    except (OSError, EOFError, ValueError, KeyError, BadZipFile) as error:
        raise UsageError(f"{str(path)!r} is no recording: {error}; tests/replays/record.py makes one") from None


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the tables, or how far the processes of a recording lie apart; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m bench.history.simulation", description=__doc__.split("\n")[0])
    parser.add_argument("recording", nargs="?", type=Path, default=DEFAULT_RECORDING, help="made by record.py")
    parser.add_argument("--comparisons", type=int, default=1000, help="in each line of the tables (1000)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--spread", action="store_true", help="how far the recording's fresh processes lie apart")
    given = parser.parse_args(arguments)
    if given.comparisons < 1:
        parser.error("--comparisons: at least 1")
    try:
        times = read_recording(given.recording)
        if given.spread:
            for quantity, found in process_spread(times).items():
                total, within, between = (f"{100 * one:.2f} %" for one in (found.total, found.within, found.between))
                print(f"{quantity} of {len(times)} processes: {total}; {within} from their rounds, {between} beyond")
        else:
            tables(times, given.comparisons, given.seed, partial(print, flush=True))
    except UsageError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
