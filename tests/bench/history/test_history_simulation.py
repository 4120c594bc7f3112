"""The rule, proved on replayed noise; the tables of docs/comparing.md: `python -m bench.history.simulation`."""

from pathlib import Path

import numpy as np
import pytest

from bench.errors import UsageError
from bench.history import simulation
from bench.history.simulation import (
    MODEL_TIMES_S,
    Outcomes,
    Scene,
    main,
    modelled,
    noises,
    process_spread,
    read_recording,
    recorded,
    simulate,
    slowed,
)
from bench.history.snapshot import Work, measured

RECORDING = Path(__file__).parents[2] / "replays" / "resnet18_cpu.npz"
KINDS = ("recorded", "drift", "bursts", "throttling", "quiet")

#: 1 % false alarms in so few comparisons: more than this happens by chance once in 500 suites (binomial).
COMPARISONS = 80
FALSE_ALARMS_AT_MOST = 4


@pytest.fixture(scope="module")
def times() -> np.ndarray:
    return read_recording(RECORDING)


def scene(times: np.ndarray, kind: str, spread: float = 0.009, processes: int = 5, *, whole: bool = False) -> Scene:
    return Scene(kind, noises(times)[kind], spread, processes, whole=whole)


def alarms(found: Outcomes) -> int:
    return round(found.false_alarms * found.comparisons)


def test_five_processes_a_side_find_a_slowdown_of_5_percent_and_raise_no_false_alarm(times: np.ndarray):
    found = simulate(scene(times, "recorded", whole=True), COMPARISONS, [0.05], seed=1)
    assert found.seen[1] == pytest.approx(0.009, rel=0.2)  # the speedups of its processes do lie that far apart
    assert alarms(found) <= FALSE_ALARMS_AT_MOST
    assert found.worse[0.05] >= 0.95 - 2 * (0.95 * 0.05 / COMPARISONS) ** 0.5


@pytest.mark.parametrize("kind", KINDS)
def test_noise_raises_no_false_alarm(times: np.ndarray, kind: str):
    assert alarms(simulate(scene(times, kind), COMPARISONS // 2, seed=2)) <= FALSE_ALARMS_AT_MOST


def test_the_simulation_can_tell_a_wrong_rule_from_this_one(times: np.ndarray, monkeypatch: pytest.MonkeyPatch):
    """Without the spread between processes, one process a side is far too sure of itself."""
    fresh = scene(times, "quiet", spread=0.03, processes=1)
    monkeypatch.setattr("bench.history.verdict.PROCESS_SPREAD", 1e-9)
    assert alarms(simulate(fresh, COMPARISONS, seed=3)) > 3 * FALSE_ALARMS_AT_MOST


def test_small_changes_of_a_quiet_machine_are_the_same_and_large_ones_are_found(times: np.ndarray):
    found = simulate(scene(times, "quiet", spread=0.003), COMPARISONS // 2, [0.10], seed=4)
    assert found.decided[0.0] > 0.9
    assert found.worse == {0.0: 0.0, 0.10: 1.0}


def test_a_recording_is_replayed_in_stretches_within_one_process():
    generator = np.random.default_rng(0)
    recording = np.exp(np.arange(3 * 40).reshape(3, 40, 1) * np.ones(4) / 100)
    places = np.rint(recorded(recording)(50, 30, generator)[..., 0] * 100).astype(int)
    assert np.all(places // 40 == places[:, :1] // 40)
    following = np.diff(places % 40, axis=1) % 40 == 1
    assert 1 - 1.6 / simulation.STRETCH < following.mean() < 1 - 0.4 / simulation.STRETCH


@pytest.mark.parametrize("kind", ["drift", "bursts", "throttling"])
def test_what_a_round_shares_lengthens_its_passes_alike(kind: str):
    strength = {"drift": {"drift": 0.05}, "bursts": {"bursts": 0.02}, "throttling": {"throttling": 0.02}}[kind]
    logs = modelled(200, 100, np.random.default_rng(0), own=0.001, **strength) - np.log(MODEL_TIMES_S)
    assert np.std(logs[..., 0]) > 10 * np.std(logs[..., 0] - logs[..., 1])
    if kind != "bursts":  # a busy neighbour costs the single logit more than it costs a memory-bound layer
        assert np.std(logs[..., 0]) > 10 * np.std(logs[..., 0] - logs[..., 3])


def test_a_slowed_point_is_what_slowed_passes_would_give():
    generator = np.random.default_rng(0)
    passes = np.exp(0.1 * generator.standard_normal((40, 3)))
    owners = np.repeat([0, 1], 20)
    work = Work(arch="small", classes=16)
    truth = measured(work, 1.05 * passes[:, :2], passes[:, 2:], owners)
    found = slowed(measured(work, passes[:, :2], passes[:, 2:], owners), 1.05)
    for ours, theirs in ((found.single, truth.single), (found.all, truth.all), (found.speedup, truth.speedup)):
        assert ours is not None
        assert theirs is not None
        assert ours.model_dump() == pytest.approx(theirs.model_dump())
    assert found.replicates[0].model_dump() == pytest.approx(truth.replicates[0].model_dump())


def test_the_spread_between_processes_is_found_beside_that_of_their_rounds():
    generator = np.random.default_rng(0)
    logs = 0.02 * generator.standard_normal((60, 40, 4)) + 0.01 * generator.standard_normal((60, 1, 4)) * [0, 0, 0, 1]
    logs += 0.03 * generator.standard_normal((60, 1, 1))  # what hits all passes of a process alike
    found = process_spread(np.exp(logs))
    assert found["speedup"].between == pytest.approx(0.01, rel=0.25)
    assert found["single"].between == pytest.approx(0.03, rel=0.25)
    for each in found.values():
        assert each.total**2 == pytest.approx(each.within**2 + each.between**2)


def test_one_process_has_no_spread(times: np.ndarray):
    with pytest.raises(UsageError, match="two fresh processes"):
        process_spread(times)


def test_the_command_prints_both_tables(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setattr(simulation, "PROCESSES", (2,))
    monkeypatch.setattr(simulation, "SPREADS", (0.003,))
    assert main([str(RECORDING), "--comparisons", "2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(" | ")[0] for line in lines if line] == [
        "| noise",
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|",
        *(f"| {kind}" for kind in KINDS),
        "| spread",
        "|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
        "| 0.3 %",
    ]


def test_the_command_derives_the_spread_of_a_recording(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    logs = np.random.default_rng(0).standard_normal((6, 20, 4)) / 100
    np.savez(tmp_path / "some.npz", times=np.exp(logs))
    assert main([str(tmp_path / "some.npz"), "--spread"]) == 0
    single, speedup = capsys.readouterr().out.splitlines()
    assert single.startswith("single of 6 processes: ")
    assert speedup.startswith("speedup of 6 processes: ")


@pytest.mark.parametrize("content", [b"", b"no recording", b"PK\x03\x04torn", None])
def test_a_recording_that_is_none_is_refused(content: bytes | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    path = tmp_path / "none.npz"
    if content is not None:
        path.write_bytes(content)
    assert main([str(path)]) == 2
    assert capsys.readouterr().err.startswith(f"error: {str(path)!r} is no recording")


@pytest.mark.slow
@pytest.mark.parametrize("spread", [0.003, 0.006, 0.009])
@pytest.mark.parametrize("kind", KINDS)
def test_the_figures_of_the_rule(times: np.ndarray, kind: str, spread: float):
    """At most 1 % false alarms, at least 95 % of 5 % slowdowns found, give or take two standard errors."""
    comparisons = 1000
    found = simulate(scene(times, kind, spread, whole=True), comparisons, [0.05], seed=5)
    assert found.false_alarms <= 0.01 + 2 * (0.01 * 0.99 / comparisons) ** 0.5
    assert found.worse[0.05] >= 0.95 - 2 * (0.95 * 0.05 / comparisons) ** 0.5


@pytest.mark.slow
@pytest.mark.parametrize("spread", [0.003, 0.006, 0.009, 0.016, 0.03])
@pytest.mark.parametrize("kind", KINDS)
def test_false_alarms_stay_rare_however_noisy_it_is(times: np.ndarray, kind: str, spread: float):
    found = simulate(scene(times, kind, spread), 1000, seed=6)
    assert found.false_alarms <= 0.01 + 2 * (0.01 * 0.99 / 1000) ** 0.5
