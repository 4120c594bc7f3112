import hashlib
import json
import os
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from bench.accuracy.checkpoints import Checkpoint, CheckpointFolder, read_weights, write_weights
from bench.errors import UsageError
from bench.folder import write_atomically

WEIGHTS = {"layer.weight": torch.arange(6.0).view(2, 3), "layer.steps": torch.tensor(7)}
STATE: dict[str, Any] = {"rate": 0.1, "buffer": torch.ones(3), "curve": [{"step": 1, "loss": None}]}


@pytest.fixture
def folder(tmp_path: Path) -> CheckpointFolder:
    return CheckpointFolder(tmp_path / "ce-lr0.1-seed0", "this work")


def save(folder: CheckpointFolder, step: int) -> Path:
    folder.save(step, WEIGHTS, {**STATE, "step": step})
    return folder.path / f"step-{step:09d}"


def found(folder: CheckpointFolder) -> Checkpoint:
    checkpoint = folder.newest()
    assert checkpoint is not None
    return checkpoint


def test_what_is_saved_is_found(folder: CheckpointFolder) -> None:
    assert folder.newest() is None
    save(folder, 40)
    checkpoint = found(folder)
    assert checkpoint.step == checkpoint.state["step"] == 40
    assert checkpoint.weights.keys() == WEIGHTS.keys()
    assert all(torch.equal(checkpoint.weights[name], tensor) for name, tensor in WEIGHTS.items())
    assert torch.equal(checkpoint.state["buffer"], STATE["buffer"])
    assert checkpoint.state["curve"] == STATE["curve"]


def test_views_of_one_memory_are_saved_as_they_look(folder: CheckpointFolder) -> None:
    whole = torch.arange(12.0).view(2, 6)
    folder.save(1, {"a": whole[0], "b": whole[1], "c": whole.t()}, {"step": 1})
    checkpoint = found(folder)
    assert torch.equal(checkpoint.weights["b"], whole[1])
    assert torch.equal(checkpoint.weights["c"], whole.t())


def test_the_newest_two_are_kept(folder: CheckpointFolder) -> None:
    for step in (9, 10, 100, 1000):
        save(folder, step)
    assert sorted(path.name for path in folder.path.iterdir()) == ["step-000000100", "step-000001000"]
    assert found(folder).step == 1000
    folder.discard()
    assert not folder.path.exists()
    folder.discard()


def test_what_a_kill_left_half_written_is_not_looked_at(folder: CheckpointFolder) -> None:
    save(folder, 1)
    torn = folder.path / ".step-000000002.99"
    torn.mkdir()
    (torn / "weights.safetensors").write_bytes(b"torn")
    assert found(folder).step == 1
    assert not torn.exists()


def test_a_disk_that_refuses_leaves_the_checkpoint_before(
    folder: CheckpointFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(folder, 1)

    def full(path: Path, content: bytes) -> None:
        if path.name == "checkpoint.json":
            raise OSError(28, "No space left on device")
        write_atomically(path, content)

    monkeypatch.setattr("bench.accuracy.checkpoints.write_atomically", full)
    with pytest.raises(OSError, match="No space left"):
        save(folder, 2)
    assert [path.name for path in folder.path.iterdir()] == ["step-000000001"]
    assert found(folder).step == 1


FILES = ("weights.safetensors", "state.pt", "checkpoint.json")


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", ["cut", "altered", "gone", "empty"])
def test_a_damaged_file_is_refused_by_its_name(folder: CheckpointFolder, name: str, damage: str) -> None:
    file = save(folder, 5) / name
    content = bytearray(file.read_bytes())
    if damage == "gone":
        file.unlink()
    elif damage == "altered":
        content[len(content) // 2] ^= 1
        file.write_bytes(content)
    else:
        file.write_bytes(content[: len(content) // 2 if damage == "cut" else 0])
    with pytest.raises(UsageError, match=name):
        folder.newest()


def test_files_of_two_checkpoints_are_never_combined(folder: CheckpointFolder) -> None:
    first, second = save(folder, 1), save(folder, 2)
    os.replace(first / "state.pt", second / "state.pt")
    with pytest.raises(UsageError, match=r"state\.pt"):
        folder.newest()


class Malicious:
    """A pickle that makes a file when it is loaded."""

    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.proof,)


def code_in(proof: Path) -> Iterator[bytes]:
    yield pickle.dumps({"step": 5, "optimiser": Malicious(proof)})
    buffer = proof.with_suffix(".pt")
    torch.save({"step": 5, "optimiser": Malicious(proof)}, buffer)
    yield buffer.read_bytes()


def test_code_in_a_state_is_refused_and_never_runs(folder: CheckpointFolder, tmp_path: Path) -> None:
    proof = tmp_path / "it-ran"
    saved = save(folder, 5)
    for content in code_in(proof):
        (saved / "state.pt").write_bytes(content)
        with pytest.raises(UsageError, match=r"state\.pt"):
            folder.newest()
        contents = json.loads((saved / "checkpoint.json").read_text())
        contents["sha256"]["state.pt"] = hashlib.sha256(content).hexdigest()  # whoever put it there knows the format
        (saved / "checkpoint.json").write_text(json.dumps(contents))
        with pytest.raises(UsageError, match=r"state\.pt.*more than data"):
            folder.newest()
        assert not proof.exists()
    pickle.loads(next(code_in(proof)))
    assert proof.exists()  # it would have


def test_a_checkpoint_of_another_work_is_refused(folder: CheckpointFolder) -> None:
    save(folder, 1)
    with pytest.raises(UsageError, match="other trainings, data or settings"):
        CheckpointFolder(folder.path, "another work").newest()


def test_final_weights_come_back(tmp_path: Path) -> None:
    file = tmp_path / "made" / "a.safetensors"
    write_weights(file, WEIGHTS, "a")
    weights = read_weights(file, "a")
    assert all(torch.equal(weights[name], tensor) for name, tensor in WEIGHTS.items())


def test_bfloat16_weights_come_back(tmp_path: Path) -> None:
    file = tmp_path / "a.safetensors"
    write_weights(file, {"w": torch.ones(3, dtype=torch.bfloat16)}, "a")
    assert torch.equal(read_weights(file, "a")["w"], torch.ones(3, dtype=torch.bfloat16))


def test_final_weights_that_were_altered_cut_or_swapped_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "a.safetensors"
    with pytest.raises(UsageError, match=r"a\.safetensors: no weights of a"):
        read_weights(file, "a")
    write_weights(file, WEIGHTS, "a")
    with pytest.raises(UsageError, match="of a, not of b"):
        read_weights(file, "b")
    content = bytearray(file.read_bytes())
    content[-3] ^= 1
    file.write_bytes(content)
    with pytest.raises(UsageError, match=r"a\.safetensors was cut short or altered"):
        read_weights(file, "a")
    file.write_bytes(content[:-4])
    with pytest.raises(UsageError, match=r"a\.safetensors was cut short or altered"):
        read_weights(file, "a")
