"""Steps and drifts, decided by simulation with fixed seeds: false ones, found ones, and how far off they are."""

import functools
import itertools
import math
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.history.snapshot import Estimate, OtherMachine, Point, Snapshot, Work
from bench.history.steps import FEWEST, LONGEST, SMALLEST, direction, penalty, series, steps, without_outliers
from bench.history.store import Entry
from bench.machine.fingerprint import Machine

RECORDING = Path(__file__).parents[2] / "replays" / "resnet18_cpu.npz"

Noise = Callable[[int, np.random.Generator], np.ndarray]


def normal(entries: int, generator: np.random.Generator) -> np.ndarray:
    return generator.normal(0, 0.01, entries)


def student(entries: int, generator: np.random.Generator) -> np.ndarray:
    return 0.01 * generator.standard_t(5, entries)


@functools.cache
def recording() -> np.ndarray:
    times: np.ndarray = np.load(RECORDING)["times"]
    return times


def recorded(entries: int, generator: np.random.Generator) -> np.ndarray:
    """Log speedups of runs of 30 rounds, each a stretch of the recording from another place in it."""
    times = recording()
    begins = generator.integers(0, len(times), entries)
    rounds = times[(begins[:, None] + np.arange(30)) % len(times)]
    return np.log(np.median(rounds[:, :, 3], axis=1) / np.median(rounds[:, :, :2].reshape(entries, -1), axis=1))


@pytest.mark.parametrize("noise", [normal, student, recorded])
@pytest.mark.parametrize("entries", [6, 10, 30, 100])
def test_of_pure_noise_one_percent_at_most_holds_a_step(noise: Noise, entries: int) -> None:
    generator = np.random.default_rng(entries)
    runs = 250
    false = sum(bool(steps(np.exp(noise(entries, generator)).tolist())) for _ in range(runs))
    assert false <= 0.01 * runs + 2.6 * math.sqrt(runs * 0.01 * 0.99), "beyond the 99.5 % end of what 1 % would give"


@pytest.mark.parametrize(("entries", "place"), [(12, 6), (30, 20), (100, 60), (100, 94)])
def test_a_step_of_five_percent_is_found_where_it_is(entries: int, place: int) -> None:
    """Noise of 1 % from run to run: neighbours alone say nothing surely."""
    generator = np.random.default_rng(place)
    found = []
    for _ in range(60):
        logs = normal(entries, generator)
        logs[place:] += math.log(0.95)
        found.append(steps(np.exp(logs).tolist()))
    once = [each[0] for each in found if len(each) == 1]
    assert len(once) >= 57
    off = np.array([each.after - place for each in once if each.kind == "step"])
    assert len(off) >= 52
    assert np.mean(np.abs(off) <= 1) >= 0.95
    assert np.median([each.ratio for each in once]) == pytest.approx(0.95, abs=0.003)
    assert np.mean([each.low < 0.95 < each.high for each in once]) >= 0.85


def test_a_regression_and_its_repair_do_not_hide_each_other() -> None:
    generator = np.random.default_rng(1)
    for _ in range(20):
        logs = normal(100, generator)
        logs[40:60] -= 0.06
        down, up = steps(np.exp(logs).tolist())
        assert abs(down.after - 40) <= 1
        assert abs(up.after - 60) <= 1
        assert down.ratio < 1 < up.ratio


@pytest.mark.parametrize("noise", [0.0, 0.003, 0.005])
def test_ten_runs_each_half_a_percent_worse_are_a_drift_of_five_percent(noise: float) -> None:
    generator = np.random.default_rng(0)
    for _ in range(50):
        logs = -0.005 * np.arange(11) + noise * generator.standard_normal(11)
        (drift,) = steps(np.exp(logs).tolist())
        assert drift.kind == "drift"
        assert drift.before <= 3
        assert drift.after >= 7
        assert drift.ratio == pytest.approx(0.951, abs=0.02)
        assert drift.low <= drift.ratio <= drift.high


def test_a_drift_in_the_middle_is_named_from_its_beginning_to_its_end() -> None:
    generator = np.random.default_rng(2)
    befores, afters = [], []
    for _ in range(20):
        logs = 0.004 * generator.standard_normal(60)
        logs -= np.interp(np.arange(60), [20, 40], [0, 0.08])
        (drift,) = steps(np.exp(logs).tolist())
        assert drift.kind == "drift"
        befores.append(drift.before)
        afters.append(drift.after)
        assert drift.ratio == pytest.approx(math.exp(-0.08), abs=0.01)
    assert np.median(befores) == pytest.approx(20, abs=2)
    assert np.median(afters) == pytest.approx(40, abs=2)


def test_a_run_that_lay_in_a_burst_is_no_step() -> None:
    generator = np.random.default_rng(3)
    logs = 0.005 * generator.standard_normal(40)
    logs[[10, 11, 30]] -= 0.15
    assert steps(np.exp(logs).tolist()) == ()
    assert np.ptp(without_outliers(logs)) < 0.04


def test_runs_that_know_their_error_to_be_large_count_for_less() -> None:
    """Six wild runs at the end are no new level if they say themselves how wild they are."""
    generator = np.random.default_rng(4)
    errors = [0.003] * 24 + [0.08] * 6
    told = untold = 0
    for _ in range(100):
        logs = np.concatenate([0.003 * generator.standard_normal(24), 0.08 * generator.standard_normal(6)])
        told += bool(steps(np.exp(logs).tolist(), errors))
        untold += bool(steps(np.exp(logs).tolist()))
    assert told <= 3
    assert untold > 10


def test_too_few_runs_hold_no_step() -> None:
    values = [4.0, 4.0, 4.0, 2.0, 2.0, 2.0]
    assert len(values) == FEWEST
    assert steps(values[1:]) == ()
    (step,) = steps(values)
    assert (step.kind, step.before, step.after, step.ratio) == ("step", 2, 3, pytest.approx(0.5, rel=0.02))


def test_equal_runs_hold_no_step() -> None:
    assert steps([4.0] * 50) == ()
    assert steps([4.0, 4.0] * 25, [0.0] * 50) == ()


def test_a_change_that_nobody_would_act_on_is_left_out() -> None:
    assert SMALLEST == 0.01
    assert steps([1.0] * 50 + [1.006] * 50) == ()
    assert len(steps([1.0] * 50 + [1.02] * 50)) == 1


@given(
    st.lists(st.floats(0.5, 2.0), min_size=0, max_size=40),
    st.floats(1e-6, 1e6),
)
@settings(max_examples=50, deadline=None)
def test_steps_are_in_order_inside_and_do_not_depend_on_the_unit(values: list[float], unit: float) -> None:
    found = steps(values)
    assert all(0 <= each.before < each.after < len(values) for each in found)
    assert all(first.after <= second.after for first, second in itertools.pairwise(found))
    assert all(each.kind == "drift" or each.after == each.before + 1 for each in found)
    scaled = steps([value * unit for value in values])
    assert [(each.kind, each.before, each.after) for each in scaled] == [
        (each.kind, each.before, each.after) for each in found
    ]


@pytest.mark.parametrize("value", [0.0, -1.0, math.nan, math.inf])
def test_what_is_no_positive_number_is_refused(value: float) -> None:
    with pytest.raises(ValueError, match="positive numbers only"):
        steps([1.0, value])


def test_the_penalty_grows_with_the_places_a_step_may_have() -> None:
    assert penalty(6) == 14.0
    assert penalty(6) < penalty(50) < penalty(500) < penalty(1000) == penalty(LONGEST)


def test_a_thousand_entries_take_a_second_and_the_newest_of_more_are_looked_at() -> None:
    generator = np.random.default_rng(5)
    logs = normal(1000, generator)
    logs[700:] += 0.03
    began = time.process_time()
    (step,) = steps(np.exp(logs).tolist())
    assert time.process_time() - began < 3, "fifteen series of a thousand entries must be a matter of seconds"
    assert abs(step.after - 700) <= 2
    longer = np.concatenate([np.full(LONGEST, 9.0), np.exp(logs)])
    boundary, again = steps(longer.tolist())
    assert boundary.after == LONGEST, "places count from the oldest entry, also of those that are not looked at"
    assert again.after == LONGEST + step.after


# -- series ---------------------------------------------------------------------------------------------------------


def entry(day: int, speedup: float, machine: Machine | OtherMachine, *, classes: int = 1024, threads: int = 2) -> Entry:
    work = Work(arch="resnet50", classes=classes, batch_size=32, device="cpu", dtype="float32")
    point = Point(
        work=work,
        threads=threads,
        single=Estimate(value=0.1, error=0.002, degrees=4),
        all=Estimate(value=0.1 * speedup, error=0.002, degrees=4),
        speedup=Estimate(value=speedup, error=0.002, degrees=4),
    )
    failed = Point(work=work.model_copy(update={"classes": 2**18}), status="out-of-memory", reason="too large")
    snapshot = Snapshot(
        name="night",
        created=f"2026-01-{day:02}T03:04:05+00:00",
        commit=f"{day:040}",
        machine=machine,
        points=(point, failed),
    )
    return Entry(snapshot, Path(f"{day}.json"))


def machine(**fields: object) -> Machine:
    values: dict[str, object] = {
        "os": "Linux", "cpu": "a processor", "cores_physical": 2, "cores_logical": 2, "cores_usable": 2,
        "memory_bytes": 2**34,
    }  # fmt: skip
    return Machine(**{**values, **fields})  # type: ignore[arg-type]


def test_a_series_holds_one_quantity_of_one_work_on_one_kind_of_machine() -> None:
    here, slightly_more_memory, elsewhere = machine(), machine(memory_bytes=2**34 + 1000), machine(cpu="another")
    found = series(
        [
            entry(3, 4.0, slightly_more_memory),
            entry(1, 4.0, here),
            entry(2, 3.0, elsewhere),
            entry(4, 4.0, here, threads=1),
            entry(5, 4.0, here, classes=2048),
            entry(6, 4.0, OtherMachine(cpu="a processor", cores=2)),
        ]
    )
    assert [len(each.measured) for each in found if each.quantity == "speedup"] == [2, 1, 1, 1, 1]
    assert {each.quantity for each in found} == {"single", "all", "speedup"}
    first = next(each for each in found if each.quantity == "speedup")
    assert [each.commit for each in first.measured] == [f"{1:040}", f"{3:040}"], "oldest first"
    assert all(each.work.classes != 2**18 for each in found), "a point that failed has no value"


def test_a_series_names_the_commits_on_both_sides_of_a_step() -> None:
    entries = [entry(day, 4.0 if day <= 6 else 3.6, machine()) for day in range(1, 13)]
    speedup = next(each for each in series(reversed(entries)) if each.quantity == "speedup")
    (step,) = speedup.steps
    assert speedup.measured[step.before].commit == f"{6:040}"
    assert speedup.measured[step.after].commit == f"{7:040}"
    assert step.ratio == pytest.approx(0.9, rel=0.01)
    assert not next(each for each in series(entries) if each.quantity == "single").steps


def test_directions_are_the_words_of_the_verdicts() -> None:
    assert [direction("speedup", ratio) for ratio in (1.1, 0.9)] == ["HIGHER", "LOWER"]
    assert [direction("single", ratio) for ratio in (1.1, 0.9)] == ["SLOWER", "FASTER"]
    assert direction("all", 1.1) == "SLOWER"
