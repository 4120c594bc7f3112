"""State of trainings on disk: never half-written, never mixed, never executed.

    checkpoints/
        batch-ce-lr0.1-seed0.safetensors     the weights a training ended with
        batch-ce-lr0.1-seed0/                its checkpoints, while it is under way; a stack's are one unit
            step-000012000/
                weights.safetensors          parameters and buffers
                state.pt                     optimiser, random state, curve: read with weights_only
                checkpoint.json              step, whose it is, and the digest of both files

A checkpoint is written beside, synced, and renamed as a whole folder, so that a kill leaves the one before it. The
newest two are kept. What was cut short or altered is refused with its name. Files of others, such as the shards of a
top layer that is split over ranks (bench.accuracy.ranks.sharded_checkpoints), lie in the same folder.
"""

import contextlib
import hashlib
import io
import json
import os
import pickle
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, NonNegativeInt, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load as parse_safetensors
from safetensors.torch import save as safetensors_bytes
from torch import Tensor

from archs.shards_on_disk import digest_of
from archs.whole_files import replacing
from bench.errors import UsageError
from bench.folder import write_atomically

#: Checkpoints of a work that are kept: if the newest is damaged by the disk, the one before it is there.
KEPT = 2

WEIGHTS_FILE = "weights.safetensors"
_STATE, _CONTENTS = "state.pt", "checkpoint.json"
_DIGEST = "sha256"

State = dict[str, Any]


class _Contents(BaseModel):
    """What a checkpoint holds."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    step: NonNegativeInt
    work: str
    sha256: dict[str, str]


@dataclass(frozen=True)
class Checkpoint:
    """A work after `step` steps. `weights`: name -> tensor on the CPU; `state`: tensors, numbers, lists and dicts.

    folder: where it lies.
    """

    step: int
    weights: dict[str, Tensor]
    state: State
    folder: Path | None = None


class CheckpointFolder:
    """The checkpoints of one work: a training, or a stack of them."""

    def __init__(self, path: Path, work: str) -> None:
        """`work` is a digest of all that decides the result; a checkpoint of another work is refused."""
        self.path = path
        self._work = work

    def save(self, step: int, weights: Mapping[str, Tensor], state: State) -> None:
        """Write a checkpoint; raises OSError if the disk refuses, and leaves those before it as they are."""
        beside = self.begin(step)
        try:
            self.finish(beside, step, weights, state)
        except OSError:
            self.abandon(beside)
            raise

    def begin(self, step: int) -> Path:
        """A new folder for the files of a checkpoint, which nothing sees before `finish`. Raises OSError."""
        beside = self.path / f".{_name_of(step)}.{os.getpid()}"
        beside.mkdir(parents=True)
        return beside

    def finish(
        self, beside: Path, step: int, weights: Mapping[str, Tensor], state: State, also: Sequence[str] = ()
    ) -> None:
        """Write weights and state into a folder from `begin`, and make it the newest checkpoint. Raises OSError.

        also: names of files in it that are to have their digests kept too.
        """
        files = {WEIGHTS_FILE: _serialised(weights, {}), _STATE: _pickled(state)}
        digests = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
        digests |= {name: hashlib.sha256((beside / name).read_bytes()).hexdigest() for name in also}
        contents = _Contents(step=step, work=self._work, sha256=digests)
        for name, content in {**files, _CONTENTS: contents.model_dump_json(indent=1).encode()}.items():
            write_atomically(beside / name, content)
        _sync_folder(beside)
        os.rename(beside, self.path / _name_of(step))
        _sync_folder(self.path)
        for older in self._steps()[:-KEPT]:
            shutil.rmtree(older, ignore_errors=True)

    def abandon(self, beside: Path) -> None:
        """Remove what `begin` made and nothing has finished."""
        shutil.rmtree(beside, ignore_errors=True)

    def newest(self) -> Checkpoint | None:
        """The newest checkpoint; None if there is none. Raises UsageError as `at` does."""
        step = self.newest_step()
        return None if step is None else self.at(step)

    def newest_step(self) -> int | None:
        """The step of the newest checkpoint, unread; None if there is none. Removes what a kill left half-written."""
        for left_over in self.path.glob(".step-*"):
            shutil.rmtree(left_over, ignore_errors=True)
        folders = self._steps()
        return _step_of(folders[-1]) if folders else None

    def at(self, step: int) -> Checkpoint:
        """The checkpoint of a step; removes nothing, and nothing in it is executed.

        Raises UsageError naming the file if it is missing, was cut short or altered, holds anything but data, or is of
        another work.
        """
        return self._read(self.path / _name_of(step))

    def discard(self) -> None:
        """Remove them all: the work has ended."""
        shutil.rmtree(self.path, ignore_errors=True)

    def _steps(self) -> list[Path]:
        return sorted((path for path in self.path.glob("step-*") if path.is_dir()), key=_step_of)

    def _read(self, folder: Path) -> Checkpoint:
        contents = _read_contents(folder / _CONTENTS)
        if contents.work != self._work:
            raise UsageError(
                f"{folder} is a checkpoint of other trainings, data or settings; "
                "go on with those it was made with, or remove it to begin anew"
            )
        weights = _read_bytes(folder / WEIGHTS_FILE, contents.sha256)
        state = _read_bytes(folder / _STATE, contents.sha256)
        for name in contents.sha256.keys() - {WEIGHTS_FILE, _STATE}:
            _read_bytes(folder / name, contents.sha256)
        return Checkpoint(
            contents.step,
            _parsed(folder / WEIGHTS_FILE, weights),
            _unpickled(folder / _STATE, state, contents.step),
            folder,
        )


def _name_of(step: int) -> str:
    return f"step-{step:09d}"


def _step_of(folder: Path) -> int:
    return int(folder.name.removeprefix("step-"))


def write_weights(path: Path, weights: Mapping[str, Tensor], whose: str) -> None:
    """Write the weights and buffers of one network, with whose they are and a digest. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, _serialised(weights, {"whose": whose, _DIGEST: _digest_of(weights)}))


def write_state(path: Path, state: State) -> str:
    """Write a state as a file of its own, straight from memory, and give its digest. Raises OSError."""
    with replacing(path) as file:
        torch.save(state, file)
    return digest_of(path)


def read_state(path: Path, digest: str, step: int) -> State:
    """Read what `write_state` wrote, on the CPU; nothing in it is executed.

    Raises UsageError naming the file if it is missing, cut short, altered, or not of that step.
    """
    try:
        found = digest_of(path)
    except OSError as error:
        raise _damaged(path, error.strerror or str(error)) from None
    if found != digest:
        raise _damaged(path, "its digest is not the one it was written with")
    return _unpickled(path, path, step)


def read_weights(path: Path, whose: str) -> dict[str, Tensor]:
    """Read what `write_weights` wrote, on the CPU.

    Raises UsageError naming the file if it is missing, cut short, altered, or another training's.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UsageError(f"{path}: no weights of {whose} ({error.strerror}); restore it, or start a new run") from None
    weights = _parsed(path, content)
    metadata = _metadata(content)
    if metadata.get("whose") != whose:
        raise UsageError(f"{path}: these are the weights of {metadata.get('whose')}, not of {whose}")
    if metadata.get(_DIGEST) != _digest_of(weights):
        raise _damaged(path, "its digest is not that of its content")
    return weights


def _serialised(weights: Mapping[str, Tensor], metadata: dict[str, str]) -> bytes:
    # Memory of their own, which safetensors asks for: slices of a stack share theirs.
    apart = {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in weights.items()}
    return safetensors_bytes(apart, metadata=metadata or None)


def _pickled(state: State) -> bytes:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue()


def _digest_of(weights: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(weights):
        tensor = weights[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _metadata(content: bytes) -> dict[str, str]:
    """The metadata of a safetensors file that has been parsed: 8 bytes of length, then a JSON header."""
    length = int.from_bytes(content[:8], "little")
    metadata = json.loads(content[8 : 8 + length]).get("__metadata__")
    return metadata if isinstance(metadata, dict) else {}


def _read_contents(file: Path) -> _Contents:
    try:
        return _Contents.model_validate_json(file.read_bytes())
    except (OSError, ValidationError) as error:
        raise _damaged(file, str(error).splitlines()[0]) from None


def _read_bytes(file: Path, digests: Mapping[str, str]) -> bytes:
    try:
        content = file.read_bytes()
    except OSError as error:
        raise _damaged(file, error.strerror or str(error)) from None
    if hashlib.sha256(content).hexdigest() != digests.get(file.name):
        raise _damaged(file, f"its digest is not the one in {_CONTENTS}")
    return content


def _parsed(file: Path, content: bytes) -> dict[str, Tensor]:
    try:
        return parse_safetensors(content)
    except SafetensorError as error:
        raise _damaged(file, str(error)) from None


def _unpickled(file: Path, content: bytes | Path, step: int) -> State:
    source = content if isinstance(content, Path) else io.BytesIO(content)
    try:
        state = torch.load(source, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError) as error:
        reason = "it holds more than data, and nothing of it was run" if _names_code(error) else "it cannot be parsed"
        raise _damaged(file, reason) from None
    if not isinstance(state, dict) or state.get("step") != step:
        raise _damaged(file, f"it is not the state after step {step}")
    return state


def _names_code(error: Exception) -> bool:
    return isinstance(error, pickle.UnpicklingError)


def _damaged(file: Path, reason: str) -> UsageError:
    return UsageError(
        f"{file} was cut short or altered ({reason}); remove the folder {file.parent.name!r} "
        "to go on from what was written before it"
        if file.parent.name.startswith("step-")
        else f"{file} was cut short or altered ({reason}); restore it, or start a new run"
    )


def _sync_folder(path: Path) -> None:
    """A rename is on disk once its folder is."""
    with contextlib.suppress(OSError):  # some file systems cannot sync folders
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
