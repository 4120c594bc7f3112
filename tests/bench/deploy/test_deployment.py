"""A run of a small network from its plan to its folder, and what becomes of it when something goes wrong."""

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from archs import rows_on_disk
from archs.registry import Network, from_module
from bench.deploy import deployment, measure
from bench.deploy.deployment import LAYER_FILE, execute
from bench.deploy.plan import DeploymentPlan, DeploymentRequest, plan
from bench.deploy.records import Memory, Sample, load
from bench.deploy.rows import complete, ended_complete, notices, rows
from bench.errors import UsageError
from bench.machine import memory
from bench.runs import kind_of
from bench.speed.clocks import Reading


def network() -> Network:
    layers = nn.Sequential(nn.Conv2d(3, 256, 3), nn.BatchNorm2d(256), nn.Flatten(), nn.ReLU(), nn.Linear(9216, 4))
    return from_module(layers, (3, 8, 8), "a")


def planned(**asked: object) -> DeploymentPlan:
    options = {"classes": 2000, "batch_size": 2, "threads": 1, "switches": 3, "minibatches": 4, "device": "cpu"}
    return plan(DeploymentRequest(arch=network(), **{**options, **asked}))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    said: list[str] = []
    run = execute(planned(), tmp_path_factory.mktemp("runs"), command=["python"], say=said.append)
    assert run.path is not None
    assert said[0] == "writing a top layer of 2,000 rows"
    return run.path


def test_a_run_is_read_as_it_was_written(folder: Path) -> None:
    run = load(folder)
    counted = {what: sum(each.what == what for each in run.samples) for what in ("cold", "warm", "kept", "one", "all")}
    assert counted == {"cold": 3, "warm": 3, "kept": 3, "one": 7, "all": 7}
    assert sum(each.phase == "warmup" for each in run.samples) == 6
    assert [each.state for each in run.manifest.memory] == ["backbone", "one", "all"]
    assert run.manifest.status == ("complete" if complete(run) else "incomplete")
    assert (run.manifest.row_bytes, run.manifest.layer_bytes) == (4 * 9217, 2000 * 4 * 9217)
    assert run.manifest.command == ("python",)
    assert json.loads((folder / "run.json").read_text())["kind"] == "single"
    assert len(rows(run)) == 8


def test_the_top_layer_is_removed_at_the_end(folder: Path) -> None:
    assert sorted(os.listdir(folder)) == [".lock", "run.json", "samples.jsonl"]


def test_measured_memory_is_that_of_the_layer(folder: Path) -> None:
    """74 MB of rows: one of them adds next to nothing, all of them what arithmetic says."""
    table = {row.quantity: row for row in rows(load(folder))}
    one, every = table["memory that one class adds"], table["memory that the whole top layer adds"]
    assert one.measured is not None
    assert every.measured is not None
    assert one.measured < 8e6
    assert every.measured == pytest.approx(every.computed, rel=0.15)


def test_another_command_says_what_kind_it_is(folder: Path) -> None:
    with pytest.raises(UsageError, match="a run of python -m bench single, which is shown alone"):
        kind_of(folder)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_file_is_the_layer_that_is_timed(tmp_path: Path, dtype: str) -> None:
    """One logit of the file equals that column of all logits in memory, beyond the first tile too."""
    chosen = planned(classes=1500, dtype=dtype)
    top, path = chosen.facts.top, tmp_path / "a.safetensors"
    measure.write_layer(path, chosen.setting, top)
    backbone, top = measure._backbone(chosen)
    images = torch.randn(2, 3, 8, 8).to(getattr(torch, dtype))
    every, refused = measure._all_logits(backbone, top, chosen.setting, images)
    assert every is not None
    assert refused == ""
    every.load(images)
    with torch.inference_mode():
        logits = every().float()
    query = measure.opened(backbone, top, path, chosen.setting)
    for index in (0, 1023, 1024, 1499):
        # The file's biases are zero, those in memory are small and random.
        assert torch.allclose(query(images, index).float(), logits[:, index], atol=0.1)


def test_all_logits_that_do_not_fit_leave_the_rest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "free_bytes", lambda _: 2**28)
    run = execute(planned(), tmp_path)
    assert run.manifest.status == "incomplete"
    assert run.manifest.all_refused.startswith("the whole top layer and its logits need 0.28 GB, 0.27 GB are free")
    assert not any(each.what == "all" for each in run.samples)
    assert sum(each.what == "one" and each.phase == "timed" for each in run.samples) == 4
    assert "all-not-measured" in {notice.kind for notice in notices(run)}


def test_an_allocator_that_gives_up_is_a_reason_too(monkeypatch: pytest.MonkeyPatch) -> None:
    class Exhausted:
        def __init__(self, *_: object, **__: object) -> None:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 6 GB")

    chosen = planned()
    backbone, top = measure._backbone(chosen)
    monkeypatch.setattr(measure, "ClassBank", Exhausted)
    every, refused = measure._all_logits(backbone, top, chosen.setting, torch.zeros(2, 3, 8, 8))
    assert every is None
    assert "can't allocate memory" in refused


def test_a_full_disk_is_told_before_it_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=50_000_000)
    monkeypatch.setattr(rows_on_disk.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(UsageError, match=r"needs 0\.07 GB and its disk has 0\.05 GB free: make room"):
        execute(planned(), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_fills_up_meanwhile_leaves_an_incomplete_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = iter([10**12, 50_000_000])
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(rows_on_disk.shutil, "disk_usage", lambda _: usage._replace(free=next(free)))
    with pytest.raises(UsageError, match=r"needs 0\.07 GB .*--output names another folder"):
        execute(planned(), tmp_path)
    (folder,) = tmp_path.iterdir()
    run = load(folder)
    assert run.manifest.status == "incomplete"
    assert "0 of 4 samples of 'one image, one logit'" in notices(run)[0].happened


def test_memory_that_runs_out_all_the_same_is_bad_usage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def exhausted(*_: object) -> str:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 6 GB\nmore")

    monkeypatch.setattr(deployment, "measure", exhausted)
    with pytest.raises(UsageError, match=r"can't allocate memory: you tried to allocate 6 GB; take a smaller"):
        execute(planned(), tmp_path)
    (folder,) = tmp_path.iterdir()
    assert load(folder).manifest.status == "incomplete"


def test_a_torn_last_line_is_dropped_and_says_to_run_it_again(folder: Path, tmp_path: Path) -> None:
    torn = shutil.copytree(folder, tmp_path / "torn")
    with open(torn / "samples.jsonl", "r+b") as file:
        file.truncate((torn / "samples.jsonl").stat().st_size - 3)
    run = load(torn)
    (notice,) = run.notices
    assert notice.kind == "torn-line"
    assert notice.remedy == "run the command again: python -m bench single has no --resume"
    assert "round" not in notice.matters
    assert len(run.samples) == len(load(folder).samples) - 1
    assert not ended_complete(run)


def test_an_interrupt_keeps_what_was_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*arguments: object) -> str:
        _, layer_file, emit, _ = arguments
        layer_file.write_bytes(b"rows")  # type: ignore[attr-defined]
        emit(Memory(state="backbone", resident_bytes=1, mapped_bytes=0))  # type: ignore[operator]
        emit(Sample(what="cold", number=0, wall_s=1.0))  # type: ignore[operator]
        raise KeyboardInterrupt

    monkeypatch.setattr(deployment, "measure", interrupted)
    with pytest.raises(KeyboardInterrupt):
        execute(planned(), tmp_path)
    (folder,) = tmp_path.iterdir()
    run = load(folder)
    assert (run.manifest.status, len(run.samples), len(run.manifest.memory)) == ("interrupted", 1, 1)
    assert not (folder / LAYER_FILE).exists()


def test_a_disk_that_refuses_a_sample_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: object) -> str:
        monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device")))
        arguments[2](Memory(state="backbone", resident_bytes=1, mapped_bytes=0))  # type: ignore[operator]
        raise AssertionError("unreachable")

    monkeypatch.setattr(deployment, "measure", full)
    with pytest.raises(UsageError, match=r"cannot write .*No space left"):
        execute(planned(), tmp_path)


def test_forwards_come_in_turn_and_warm_up_first() -> None:
    chosen = planned(minibatches=50).setting
    times = {"one": 1.0, "all": 5.0}
    forwards: dict[str, object] = {what: what for what in times}

    def replayed(forward: object, minibatch: Tensor) -> Reading:
        return Reading(wall_s=times[str(forward)])

    samples = list(measure.timed_in_turn(forwards, chosen, torch.zeros(1), replayed))  # type: ignore[arg-type]
    assert [each.phase for each in samples] == ["warmup"] * 6 + ["timed"] * 100
    timed = samples[6:]
    assert all(each.wall_s == times[each.what] for each in timed)
    for number in range(50):
        assert {each.what for each in timed if each.number == number} == {"one", "all"}
    firsts = [each.what for each in timed[::2]]
    assert 10 < firsts.count("one") < 40, "in random order"


@pytest.mark.gpu
def test_on_a_gpu_memory_is_read_from_the_device(tmp_path: Path) -> None:
    run = execute(planned(device="cuda"), tmp_path)
    table = rows(run)
    assert all(each.device_bytes is not None for each in run.manifest.memory)
    assert table[1].measured == pytest.approx(run.manifest.row_bytes, abs=4096)
    assert table[2].measured == pytest.approx(run.manifest.layer_bytes, rel=0.05)


def test_reading_memory_counts_no_device_on_a_cpu() -> None:
    reading = measure.read_memory("one", "cpu")
    assert reading.device_bytes is None
    assert reading.resident_bytes <= memory.peak_rss() + memory.PEAK_SLACK_BYTES
