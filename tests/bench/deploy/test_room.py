"""What a run needs, worked by hand, and machines that have not got it."""

import shutil
from pathlib import Path

import pytest
from torch import nn

from archs import rows_on_disk
from archs.registry import from_module
from bench.deploy import room
from bench.deploy.plan import DeploymentPlan, DeploymentRequest, plan
from bench.errors import UsageError
from bench.speed.capacity import RESERVE_BYTES


def planned(**asked: object) -> DeploymentPlan:
    """12 x 6 + 6 parameters under a top layer of 4 x 6 + 4."""
    layers = nn.Sequential(nn.Flatten(), nn.Linear(12, 6), nn.ReLU(), nn.Linear(6, 4))
    network = from_module(layers, (3, 2, 2), "a")
    return plan(DeploymentRequest(arch=network, **{"classes": 1000, "device": "cpu", **asked}))  # type: ignore[arg-type]


def test_what_is_needed_by_hand() -> None:
    half = planned(dtype="float16", batch_size=5)
    assert (room.row_bytes(half), room.layer_bytes(half)) == (14, 14_000)
    assert room.built_bytes(half) == 4 * (78 + 28 + 5 * 12)


def test_memory_is_looked_at_before_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    needed = room.built_bytes(planned()) + RESERVE_BYTES
    monkeypatch.setattr(room, "free_bytes", lambda device: needed)
    room.refuse_without_room(planned(), tmp_path / "a")
    monkeypatch.setattr(room, "free_bytes", lambda device: needed - 1)
    with pytest.raises(UsageError, match=r"a and a minibatch of 32 need 0\.20 GB, 0\.20 GB are free on cpu: "):
        room.refuse_without_room(planned(classes=2**40), tmp_path / "a")


def test_the_memory_of_a_gpu_is_looked_at_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    on_gpu = planned()
    setting = on_gpu.setting.model_copy(update={"device": "cuda:0"})
    monkeypatch.setattr(room, "free_bytes", {"cpu": 10**12, "cuda:0": 10**6}.__getitem__)
    with pytest.raises(UsageError, match="are free on cuda:0"):
        room.refuse_without_room(DeploymentPlan(setting, on_gpu.network, on_gpu.facts), tmp_path / "a")


def test_the_disk_of_a_folder_that_is_still_to_be_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=10**12)
    monkeypatch.setattr(rows_on_disk.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(UsageError, match=r"needs 30,786\.33 GB .* with --output, or take fewer --classes"):
        room.refuse_without_room(planned(classes=2**40), tmp_path / "results" / "a")
    assert list(tmp_path.iterdir()) == []
