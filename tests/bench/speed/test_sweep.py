"""`bench.sweep`, from Python."""

import math
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from archs.registry import find
from bench import UsageError, load_run, sweep
from bench.machine import fingerprint
from bench.machine.energy import EnergyRefused
from bench.run import Run
from bench.speed.plan import Plan, Request, plan
from bench.speed.sweep import Sweep, execute, reopen, start
from bench.speed.tasks import without_energy

pytestmark = pytest.mark.usefixtures("in_factories")

COLUMNS = ["kind", "arch", "classes", "status", "median_s", "speedup", "speedup_low", "speedup_high", "predicted_s"]


def tiny(network: str = "small", **options: Any) -> Sweep:
    usual: dict[str, Any] = {"classes": [1, 16], "batch_size": 2, "minibatches": 6, "threads": 1, "device": "cpu"}
    return sweep(f"tiny_networks:{network}", **{**usual, **options})


def timed(run: Run) -> list[tuple[int, int]]:
    return [(sample.process, sample.round) for sample in run.samples if sample.phase == "timed"]


def test_a_sweep_in_memory() -> None:
    done = tiny()
    assert done.complete
    assert done.path is None
    frame = done.to_frame()
    assert [name for name in frame.columns if name in COLUMNS] == COLUMNS
    assert list(frame["kind"]) == ["point", "control", "point"]
    assert list(frame["classes"]) == [1, 1, 16]
    assert (frame["rounds_done"] == 6).all()
    assert frame["speedup"][0] == 1
    assert "few-rounds" in [notice.kind for notice in done.notices()]
    assert [one.speedup for one in done.break_evens()] == [1.1, 1.5, 2.0, 10.0]


def test_a_sweep_on_disk_is_what_is_read_back(tmp_path: Path) -> None:
    done = tiny(output=tmp_path, batch_size=[2, 3], dtype=["float32", "bfloat16"], minibatches=4)
    assert done.path is not None
    again = load_run(done.path)
    assert again.manifest == done.run.manifest
    assert again.samples == done.run.samples
    assert again.manifest.command[0] == "bench.sweep"
    assert [(one.dtype, one.batch_size) for one in again.manifest.settings] == [
        ("float32", 2),
        ("bfloat16", 2),
        ("float32", 3),
        ("bfloat16", 3),
    ]
    assert len(done.rows()) == 4 * 3


def test_the_commit_of_the_current_tree_is_recorded_beside_our_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fingerprint, "commit", lambda: None)
    monkeypatch.setattr(fingerprint, "tree_commit", lambda: "a" * 40)
    manifest = tiny().run.manifest
    assert (manifest.commit, manifest.tree_commit) == (None, "a" * 40)


def test_a_module_in_hand_is_left_as_it_is() -> None:
    module = find("tiny_networks:convolutional").build().train()
    module.get_submodule("dropout").eval()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    modes = {name: part.training for name, part in module.named_modules()}
    done = sweep(module, input_shape=(3, 8, 8), classes=[16], batch_size=2, minibatches=3, threads=1, device="cpu")
    assert done.complete
    assert done.rows()[0].arch == "Convolutional"
    assert [row.classes for row in done.rows()] == [1, 1, 16]
    assert {name: part.training for name, part in module.named_modules()} == modes
    assert module.state_dict().keys() == before.keys()
    for name, tensor in module.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    assert module.get_submodule("top").out_features == 4
    assert all(parameter.requires_grad for parameter in module.parameters())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"input_shape": (3, 8, 8)}, "input_shape= is for a module in hand"),
        ({"classes": [1, 0]}, "'0' is not a class count"),
        ({"max_classes": 16}, "exclude each other"),
        ({"minibatches": 0}, "--minibatches 0"),
        ({"dtype": "int8"}, "'int8'"),
        ({"compile": "max"}, "'max'"),
        ({"order": "backwards"}, "'backwards'"),
    ],
)
def test_what_cannot_be_done_is_a_usage_error(options: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        tiny(**options)


def test_a_module_in_hand_needs_a_shape_and_this_process() -> None:
    with pytest.raises(UsageError, match="needs input_shape="):
        sweep(torch.nn.Linear(3, 4))
    with pytest.raises(UsageError, match="cannot be built again in another process"):
        sweep(torch.nn.Linear(3, 4), input_shape=(3,), processes=2)


def test_what_the_watcher_raises_comes_through(tmp_path: Path) -> None:
    class Seen(Exception):
        pass

    def watch(run: Run, doing: str) -> None:
        if doing.startswith("first call"):
            raise Seen

    with pytest.raises(Seen):
        tiny(output=tmp_path, watch=watch)
    (folder,) = tmp_path.iterdir()
    assert {point.status for point in load_run(folder).manifest.points} == {"ok"}


def test_until_stops_when_it_is_known_well_enough_and_says_so() -> None:
    done = tiny(minibatches=200, until=99.0)
    (process,) = done.run.manifest.processes
    assert process.stop_reason == "until"
    assert done.complete
    rounds = len(set(timed(done.run)))
    assert 30 <= rounds < 200
    assert {row.rounds_done for row in done.rows()} == {rounds}


def test_until_that_is_not_reached_is_a_warning() -> None:
    done = tiny(minibatches=31, until=1e-9)
    (process,) = done.run.manifest.processes
    assert process.stop_reason == "minibatches"
    assert "until-not-reached" in [notice.kind for notice in done.notices()]


def test_processes_are_replicates_with_t_intervals() -> None:
    done = tiny(processes=2, minibatches=10)
    assert done.complete
    assert timed(done.run) == [(process, number) for process in (0, 1) for number in range(10) for _ in range(3)]
    first, second = done.run.manifest.processes
    assert first.pid != second.pid
    point = done.rows()[-1]
    assert point.speedup is not None
    assert point.speedup_low is not None
    assert point.speedup_high is not None
    assert point.rounds_done == 20
    first_log, second_log = _log_ratios(done)
    # t quantile for 1 degree of freedom, from tables; the standard error of two numbers is half their distance
    reach = 12.7062 * abs(first_log - second_log) / 2
    assert math.log(point.speedup_high / point.speedup) == pytest.approx(reach, rel=1e-4)
    assert math.log(point.speedup / point.speedup_low) == pytest.approx(reach, rel=1e-4)
    assert "few-processes" in [notice.kind for notice in done.notices()]


def _log_ratios(done: Sweep) -> list[float]:
    """Logarithm of each process's ratio of medians."""
    ratios = []
    for process in (0, 1):
        at = {
            count: torch.tensor(
                [
                    sample.wall_s
                    for sample in done.run.samples
                    if (sample.phase, sample.process, sample.classes) == ("timed", process, count)
                ],
                dtype=torch.float64,
            )
            for count in (1, 16)
        }
        ratios.append(math.log(at[16].quantile(0.5) / at[1].quantile(0.5)))
    return ratios


def test_bfloat16_on_the_cpu() -> None:
    done = tiny("convolutional", dtype="bfloat16")
    assert done.complete
    assert {row.dtype for row in done.rows()} == {"bfloat16"}


@pytest.fixture
def _compiler() -> Iterator[None]:
    if shutil.which("g++") is None:
        pytest.skip("torch.compile on the CPU needs a C++ compiler (g++), and there is none here")
    yield
    torch._dynamo.reset()


@pytest.mark.usefixtures("_compiler")
def test_each_count_is_compiled_to_one_graph() -> None:
    done = tiny(compile="default", minibatches=3)
    assert done.complete
    assert [point.graphs for point in done.run.manifest.points] == [1, 1]


@pytest.mark.usefixtures("_compiler")
def test_a_network_that_must_be_compiled_again_while_timing_is_unsupported() -> None:
    def flip(run: Run, doing: str) -> None:
        import tiny_networks  # type: ignore[import-not-found]

        tiny_networks.switch["on"] = doing == "timing"

    done = tiny("switching", compile="default", classes=[1], watch=flip)
    assert not done.complete
    (point,) = done.run.manifest.points
    assert point.status == "unsupported"
    assert "recompil" in point.reason.lower()
    assert {sample.phase for sample in done.run.samples} == {"first", "warmup"}


def test_where_torch_must_not_compile_the_row_has_one_clear_reason() -> None:
    with torch._dynamo.config.patch(disable=True):
        done = tiny(compile=["none", "default"])
    assert not done.complete
    eager, compiled = ([row for row in done.rows() if row.compile == mode] for mode in ("none", "default"))
    assert all(row.median_s for row in eager)
    assert {row.status for row in compiled} == {"failed"}
    switched = "torch._dynamo.config.disable switches torch.compile off"
    assert compiled[0].reason.endswith(f"{switched}: unset it, or measure with --compile none")


def test_a_run_of_rivals_that_measured_none_is_incomplete_and_says_so() -> None:
    done = tiny(top_layer="adaptive", classes=[1])
    assert not done.complete
    assert [row.status for row in done.rows()] == ["ok", "ok"]  # one logit and its control are kept
    (told,) = [notice for notice in done.notices() if notice.kind == "no-rival"]
    assert "--top-layer adaptive: not measured" in told.happened
    both = tiny(top_layer=["full", "adaptive"], classes=[1])
    assert both.complete
    assert "no-rival" in [notice.kind for notice in both.notices()]


def test_nothing_to_measure_is_refused() -> None:
    with pytest.raises(UsageError, match=r"^--arch: none is given"):
        sweep([])
    with pytest.raises(UsageError, match=r"^--batch-size: none is given"):
        tiny(batch_size=[])


def test_a_watcher_sees_the_run_grow() -> None:
    seen: list[tuple[int, str]] = []
    watch: Callable[[Run, str], None] = lambda run, doing: seen.append((len(run.samples), doing))  # noqa: E731
    done = tiny(watch=watch)
    counts = [count for count, _ in seen]
    assert counts == sorted(counts)
    assert counts[-1] == len(done.run.samples)
    assert seen[-1][1] == "timing"


def with_energy(planned: Plan) -> Plan:
    """As on a GPU: this machine has none, and a plan for a CPU refuses it."""
    return replace(planned, protocol=planned.protocol.model_copy(update={"energy": True}))


@pytest.fixture
def energetic(gpu: Any, monkeypatch: pytest.MonkeyPatch) -> Plan:
    """A plan of two settings whose energy is measured on a replayed GPU, resumed as it was planned."""
    asked = Request(
        arch=["tiny_networks:small"], classes="1,16", batch_size=[2, 3], minibatches=3, threads=1, device="cpu"
    )
    return with_energy(plan(asked))


def told(run: Run, doing: str) -> None:
    """A watcher that looks away."""


def test_energy_is_measured_once_a_setting_and_kept(energetic: Plan, tmp_path: Path) -> None:
    run = execute(energetic, start(energetic, tmp_path, command=[]), told)
    assert run.path is not None
    assert run.manifest.status == "complete"
    assert without_energy(run.manifest, run.windows) == []
    assert load_run(run.path).windows == run.windows
    assert len(run.windows) == 2 * 19  # six cycles of a rest and two counts, and the last rest
    samples = list(run.samples)
    again = execute(*reopen(run.path), told)
    assert (again.windows, list(again.samples)) == (run.windows, samples)


def test_energy_that_was_refused_leaves_the_run_incomplete_and_is_asked_for_once(
    energetic: Plan, tmp_path: Path, gpu: Any
) -> None:
    gpu.refusal = EnergyRefused("1 other process uses this GPU: end it, or leave out --energy")
    run = execute(energetic, start(energetic, tmp_path, command=[]), told)
    assert run.path is not None
    assert (run.manifest.status, run.windows) == ("incomplete", [])
    assert [notice.kind for notice in run.manifest.notices] == ["no-energy", "no-energy"]
    assert not (run.path / "energy.jsonl").exists()
    gpu.refusal = None
    resumed = execute(*reopen(run.path), told)
    assert resumed.manifest.status == "complete"
    assert resumed.manifest.notices == ()
    assert without_energy(resumed.manifest, resumed.windows) == []
    assert timed(resumed) == timed(run)  # no round was taken again


def test_energy_that_was_cut_off_is_measured_again_and_no_other(energetic: Plan, tmp_path: Path) -> None:
    def interrupt(run: Run, doing: str) -> None:
        if run.windows and run.windows[-1].setting == 1:
            raise KeyboardInterrupt

    run = execute(energetic, start(energetic, tmp_path, command=[]), interrupt)
    assert run.path is not None
    assert run.manifest.status == "interrupted"
    assert without_energy(run.manifest, run.windows) == [1]
    resumed = execute(*reopen(run.path), told)
    assert resumed.manifest.status == "complete"
    assert [(window.setting, window.process) for window in resumed.windows] == [(0, 0)] * 19 + [(1, 0)] + [(1, 1)] * 19


def test_energy_is_refused_on_a_cpu_before_anything_is_built() -> None:
    with pytest.raises(UsageError, match="--energy reads the energy counter of an NVIDIA GPU, and 'cpu' has none"):
        sweep("no_such_network", device="cpu", energy=True)
