"""A top layer on disk: written chunk by chunk, mapped, and read one row at a time.

    write_rows(path, chunks, ...)      a safetensors file of weight (classes, features) and bias (classes,)
    open_tensors(path) --> TensorFile  any safetensors file or state dict, mapped: what is not read takes no memory
    Rows(file, names ...).read(417)    one row and its bias, in memory of their own

A layer in several files, with an index of them, is archs.shards_on_disk; `open_tensors` opens its index too.

safetensors writes a file from tensors that are all in memory at once, which a top layer of 6 GB need not be; so the
file is written here, in its format (8 bytes of length, a JSON header, then the tensors' bytes:
https://github.com/huggingface/safetensors#format), and read by safetensors itself.
"""

import json
import math
import os
import pickle
import shutil
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from archs.whole_files import replacing

#: Floating-point dtypes of a top layer, as safetensors names them.
DTYPES = {"F64": torch.float64, "F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}

#: Where a training script keeps a state dict among other things.
NESTED = ("state_dict", "model_state_dict", "model")

#: Put before every name by DataParallel.
PARALLEL_PREFIX = "module."

#: How the name of an index of several safetensors files ends, here as elsewhere.
INDEX_SUFFIX = ".safetensors.index.json"

#: What is left free on a disk that a top layer is written to.
DISK_RESERVE_BYTES = 64 * 2**20

#: Biases a step when a top layer is written: 4 MB in float32.
BIAS_CHUNK = 2**20


class UnusableFile(ValueError):
    """A file that cannot be read or written, or does not fit: one line that says which, why, and what to do."""


class TensorFile(ABC):
    """Named tensors in a mapped file: nothing is read until it is asked for."""

    def __init__(self, path: Path, metadata: Mapping[str, str]) -> None:
        self.path = path
        self.metadata = dict(metadata)
        self._descriptor = os.open(path, os.O_RDONLY)
        self._bytes = os.fstat(self._descriptor).st_size

    @property
    @abstractmethod
    def names(self) -> tuple[str, ...]:
        """Names of the tensors."""

    @abstractmethod
    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor."""

    @abstractmethod
    def dtype(self, name: str) -> torch.dtype | None:
        """Dtype of a tensor; None for one that is no dtype of a top layer."""

    @property
    def layer_names(self) -> tuple[str, str]:
        """Names of weight and bias where the file is of a top layer alone, as `write_rows` writes it."""
        return "weight", "bias"

    @abstractmethod
    def _mapped(self, name: str, rows: slice | None) -> Tensor:
        """A tensor, or some of its rows with the first axis kept, as a view of the mapped file."""

    @property
    def is_closed(self) -> bool:
        """Whether it was let go of."""
        return self._descriptor < 0

    def read(self, name: str, row: int | None = None) -> Tensor:
        """A copy of a tensor, or of one row, of shape (1, ...), in CPU memory of its own.

        Raises UnusableFile as `read_rows` does.
        """
        return self.read_rows(name, None if row is None else slice(row, row + 1))

    def read_rows(self, name: str, rows: slice | None = None) -> Tensor:
        """A copy of some neighbouring rows, of shape (rows, ...), or of the whole tensor; nothing else is read.

        Raises UnusableFile if the file has been cut short since: what is no longer there cannot be read through a
        mapping, the kernel would end the process (SIGBUS).
        """
        if self.is_closed:
            raise UnusableFile(f"{self.path} was closed: open it again")
        if os.fstat(self._descriptor).st_size < self._bytes:
            raise UnusableFile(f"{self.path} was cut short after it was opened: restore it")
        return self._mapped(name, rows).clone()

    def close(self) -> None:
        """Let go of the file; a second time does nothing."""
        if not self.is_closed:
            os.close(self._descriptor)
            self._descriptor = -1

    def __del__(self) -> None:
        """A file that nobody closed is let go of with its object."""
        if hasattr(self, "_descriptor"):
            self.close()


class _Safetensors(TensorFile):
    def __init__(self, path: Path) -> None:
        file: Any = safe_open(path, framework="pt")  # untyped
        self._file = file
        super().__init__(path, file.metadata() or {})

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._file.keys())

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._file.get_slice(name).get_shape())

    def dtype(self, name: str) -> torch.dtype | None:
        return DTYPES.get(self._file.get_slice(name).get_dtype())

    def _mapped(self, name: str, rows: slice | None) -> Tensor:
        tensor: Tensor = self._file.get_tensor(name) if rows is None else self._file.get_slice(name)[rows]
        return tensor


class _StateDict(TensorFile):
    def __init__(self, path: Path, tensors: Mapping[str, Tensor]) -> None:
        super().__init__(path, {})
        self._tensors = tensors

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._tensors)

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._tensors[name].shape)

    def dtype(self, name: str) -> torch.dtype | None:
        dtype = self._tensors[name].dtype
        return dtype if dtype in DTYPES.values() else None

    def _mapped(self, name: str, rows: slice | None) -> Tensor:
        tensor = self._tensors[name].detach()
        return tensor if rows is None else tensor[rows]


def open_tensors(path: Path) -> TensorFile:
    """Map a safetensors file or an index of several (by its name's ending), or a state dict as torch.save writes it.

    A state dict may stand under `state_dict`, `model_state_dict` or `model`, and its names may all begin with
    `module.`, which is left out. Nothing in a file is ever executed. Raises UnusableFile.
    """
    if not path.is_file():
        raise UnusableFile(f"there is no file {str(path)!r}")
    if path.name.endswith(INDEX_SUFFIX):
        from archs.shards_on_disk import ShardedTensors  # which maps its files as this does

        return ShardedTensors(path)
    if path.suffix == ".safetensors":
        try:
            return _Safetensors(path)
        except (SafetensorError, OSError) as error:
            raise _damaged(path, "safetensors file", error) from None
    return _StateDict(path, _state_dict(path, _loaded(path)))


def _loaded(path: Path) -> object:
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError:
        raise UnusableFile(
            f"{path} holds more than tensors, or is damaged, and nothing of it was run: save model.state_dict() alone"
        ) from None
    except (RuntimeError, OSError, EOFError, ValueError, KeyError) as error:
        if "mmap can only be used" in str(error):
            raise UnusableFile(
                f"{path} cannot be mapped: it was cut short, or has torch's format from before 1.6 (then load it and "
                "save it again)"
            ) from None
        raise _damaged(path, "state dict", error) from None


def _state_dict(path: Path, content: object) -> dict[str, Tensor]:
    """The tensors of a state dict, wherever it stands in what was saved."""
    if isinstance(content, dict):
        for key in NESTED:
            if isinstance(content.get(key), dict):
                content = content[key]
                break
    if not isinstance(content, dict):
        raise UnusableFile(f"{path} holds a {type(content).__name__}, not a state dict: save model.state_dict()")
    tensors = {name: tensor for name, tensor in content.items() if isinstance(tensor, Tensor)}
    if not tensors or len(tensors) < len(content):
        other = next((name for name in content if name not in tensors), None)
        what = "it is empty" if other is None else f"its entry {other!r} is a {type(content[other]).__name__}"
        raise UnusableFile(f"{path} is no state dict ({what}): save model.state_dict()")
    prefix = PARALLEL_PREFIX if all(name.startswith(PARALLEL_PREFIX) for name in tensors) else ""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}


def _damaged(path: Path, what: str, error: Exception) -> UnusableFile:
    reason = " ".join(str(error).split())[:160]
    return UnusableFile(f"{path} cannot be read as a {what}, it may have been cut short ({reason}): restore it")


class Rows:
    """The rows of one top layer in a mapped file.

    `classes` is the number of classes of the network; a file exported for one class holds that row alone (`only`).
    The weight has the shape (rows, features), or (rows, channels, *kernel) as a convolution keeps it.
    """

    def __init__(
        self, file: TensorFile, weight: str, bias: str | None, *, only: int | None = None, classes: int | None = None
    ) -> None:
        """Raises UnusableFile for a tensor that is not there or whose shape or dtype is not that of a top layer."""
        for name in (weight, *([bias] if bias is not None else [])):
            if name not in file.names:
                raise UnusableFile(f"{file.path} has no {name!r}: there is no top layer in it, or it is another one's")
        shape, dtype = file.shape(weight), file.dtype(weight)
        if len(shape) < 2 or min(shape) < 1:
            raise UnusableFile(f"{file.path}: {weight!r} has the shape {shape}, not (classes, features)")
        for name in (weight, *([bias] if bias is not None else [])):
            if file.dtype(name) is None:
                raise UnusableFile(f"{file.path}: {name!r} is not of float16, bfloat16, float32 or float64")
        if bias is not None and file.shape(bias) != shape[:1]:
            raise UnusableFile(
                f"{file.path}: {bias!r} has the shape {file.shape(bias)}, where {weight!r} has {shape[0]} rows"
            )
        assert dtype is not None
        self.file = file
        self.features = math.prod(shape[1:])
        self.dtype = dtype
        self.only = only
        self.has_bias = bias is not None
        self.classes = shape[0] if classes is None else classes
        self._weight = weight
        self._bias = bias

    @property
    def row_bytes(self) -> int:
        """Bytes of one class as stored: its row, and its bias."""
        return (self.features + self.has_bias) * self.dtype.itemsize

    @property
    def nbytes(self) -> int:
        """Bytes of the whole top layer, one row a class."""
        return self.classes * self.row_bytes

    def read(self, index: int) -> tuple[Tensor, Tensor | None]:
        """A class's row, shape (1, features), and bias, shape (1,), in CPU memory of their own.

        Raises ValueError for a class that is not there.
        """
        if not 0 <= index < self.classes:
            raise ValueError(f"class {index} is out of range: the top layer has the classes 0 to {self.classes - 1}")
        if self.only is not None and index != self.only:
            raise ValueError(f"class {index} is not in {self.file.path}: it was exported for class {self.only} alone")
        place = index if self.only is None else 0
        weight = self.file.read(self._weight, place).reshape(1, self.features)
        return weight, None if self._bias is None else self.file.read(self._bias, place)


def write_rows(
    path: Path,
    chunks: Iterable[Tensor],
    bias: Tensor | None,
    *,
    classes: int,
    features: int,
    dtype: torch.dtype,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write a top layer as `weight` (classes, features) and `bias` (classes,), one chunk of rows after another.

    chunks: shape (any number of rows, features) each, `classes` rows together. The bias is written in parts too, so one
    number expanded to (classes,) takes no memory. The file appears once it is whole and synced. Raises UnusableFile if
    it does not fit on the disk or cannot be written, ValueError for chunks or a bias that do not come to the shape.
    """
    if bias is not None and bias.shape != (classes,):
        raise ValueError(f"biases of shape {tuple(bias.shape)}, where {classes} classes were announced")
    header = _header(classes, features, dtype, has_bias=bias is not None, metadata=metadata or {})
    needed = len(header) + classes * (features + (bias is not None)) * dtype.itemsize
    try:
        check_room(path, needed)
        with replacing(path) as file:
            file.write(header)
            _write_weight(file, chunks, classes, features, dtype)
            if bias is not None:
                _write_bias(file, bias, dtype)
    except OSError as error:
        raise UnusableFile(f"{path} cannot be written: {error.strerror or error}; name another folder") from None


def _write_weight(file: BinaryIO, chunks: Iterable[Tensor], classes: int, features: int, dtype: torch.dtype) -> None:
    written = 0
    for chunk in chunks:
        if chunk.ndim != 2 or chunk.shape[1] != features:
            raise ValueError(f"a chunk of shape {tuple(chunk.shape)}, where rows have {features} features")
        file.write(_bytes_of(chunk, dtype))
        written += len(chunk)
    if written != classes:
        raise ValueError(f"{written} rows, where {classes} classes were announced")


def _write_bias(file: BinaryIO, bias: Tensor, dtype: torch.dtype) -> None:
    for start in range(0, len(bias), BIAS_CHUNK):
        file.write(_bytes_of(bias[start : start + BIAS_CHUNK], dtype))


def check_room(path: Path, needed_bytes: int) -> None:
    """See that the disk a file will be on has room for it; folders on the way to it need not be there yet.

    Raises UnusableFile.
    """
    folder = next((each for each in path.absolute().parents if each.is_dir()), Path("/"))
    free = shutil.disk_usage(folder).free
    if needed_bytes + DISK_RESERVE_BYTES > free:
        raise UnusableFile(
            f"{path} needs {needed_bytes / 1e9:,.2f} GB and its disk has {free / 1e9:,.2f} GB free: make room, or name "
            "a folder on another disk"
        )


def _header(classes: int, features: int, dtype: torch.dtype, *, has_bias: bool, metadata: Mapping[str, str]) -> bytes:
    name = next(name for name, each in DTYPES.items() if each == dtype)
    end = classes * features * dtype.itemsize
    content: dict[str, object] = {"__metadata__": dict(metadata)} if metadata else {}
    content["weight"] = {"dtype": name, "shape": [classes, features], "data_offsets": [0, end]}
    if has_bias:
        content["bias"] = {"dtype": name, "shape": [classes], "data_offsets": [end, end + classes * dtype.itemsize]}
    text = json.dumps(content).encode()
    text += b" " * (-len(text) % 8)  # the tensors begin at a multiple of 8 bytes
    return len(text).to_bytes(8, "little") + text


def _bytes_of(tensor: Tensor, dtype: torch.dtype) -> memoryview:
    plain = tensor.detach().to("cpu", dtype).contiguous()
    return plain.reshape(-1).view(torch.uint8).numpy().data


def weight_offset(path: Path) -> int:
    """Where the bytes of `weight` begin in a file of `write_rows`."""
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
    return 8 + length + int(header["weight"]["data_offsets"][0])
