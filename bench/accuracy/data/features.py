"""`features:PATH`: precomputed features and their labels, mapped from disk: the way heads of many classes are trained.

PATH/features.json              what they are (FeaturesHeader); {"classes": 1000} is enough
PATH/train/features.npy         (n, d) float16, float32, float64, or bfloat16 as uint16
PATH/train/labels.npy           (n,) integers from 0
PATH/test/...                   to test on
PATH/validation/...             to choose the learning rate by; if there is none, a part of train/ is held out

The arrays are numpy's own files (numpy.lib.format), written in C order. What is gathered is checked: no number that is
not finite is ever trained on. `bench.accuracy.extraction` writes such folders.
"""

import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, PositiveInt, ValidationError
from torch import Tensor

from bench.accuracy.data.assembly import VALIDATION_SHARE, check_classes, check_labels, hold_out
from bench.accuracy.data.catalogue import Say
from bench.accuracy.data.integrity import file_digest
from bench.accuracy.data.normalisation import Normalisation
from bench.accuracy.data.splits import FLOAT_COPY_BYTES, Dataset, MemorySplit, Split
from bench.accuracy.records import DatasetFacts
from bench.errors import UsageError
from bench.folder import Record, first_problem

HEADER = "features.json"
FEATURES, LABELS = "features.npy", "labels.npy"
PARTS = ("train", "validation", "test")

#: Rows read at a time where all are read.
CHUNK = 4096

#: Of an array's file, at its beginning and its end, for the record: enough to tell one from another.
_DIGESTED_BYTES = 2**16

#: The types of features.npy and what torch calls them.
_DTYPES = {"float16": torch.float16, "float32": torch.float32, "float64": torch.float64, "uint16": torch.bfloat16}


class FeaturesHeader(Record):
    """features.json."""

    format: Literal["slc-bench/features/1"] = "slc-bench/features/1"
    classes: PositiveInt
    class_names: tuple[str, ...] = Field((), description="in the order of the classes; none, or one for each")
    dtype: Literal["float16", "float32", "float64", "bfloat16"] | None = Field(
        None, description="of the features; needed only for bfloat16, which numpy has not: it is stored as uint16"
    )
    network: str = Field("", description="the network whose top layer takes these features")
    weights: str = Field("", description="where its weights are from")
    preprocessing: tuple[str, ...] = Field((), description="what was done to an image before the network saw it")
    source: str = Field("", description="the images: a data set of bench.accuracy.data, or a folder")
    digests: dict[str, str] = Field({}, description="file -> SHA-256 of all of it, such as train/features.npy")


@dataclass(frozen=True)
class FeatureFile:
    """One features.npy, mapped: nothing is read until it is asked for."""

    path: Path
    array: NDArray[Any]
    dtype: torch.dtype

    @classmethod
    def opened(cls, path: Path, header: FeaturesHeader) -> Self:
        """Map it; UsageError if it is missing, cut short, or no (n, d) array of a type above."""
        array = _mapped(path)
        if array.ndim != 2 or not array.size:
            raise UsageError(f"{path} has the shape {array.shape}, expected (examples, features), none of them 0")
        if not array.flags.c_contiguous:
            raise UsageError(f"{path} is in Fortran order; write it in C order (numpy.ascontiguousarray)")
        if array.dtype.name not in _DTYPES or not array.dtype.isnative:
            raise UsageError(f"{path} is {array.dtype}; give float16, float32, float64, or bfloat16 as uint16")
        dtype = _DTYPES[array.dtype.name]
        if (dtype is torch.bfloat16) != (header.dtype == "bfloat16"):
            raise UsageError(
                f"{path} is {array.dtype}, and {HEADER} has dtype {header.dtype}; bfloat16 alone is stored as uint16"
            )
        return cls(path, array, dtype)

    def rows(self, indices: NDArray[np.int64]) -> Tensor:
        """Rows by index, (m,) -> (m, d) float32 on the CPU.

        Raises UsageError, with the first offender, for values that are not finite, and for a file that was cut short
        since it was opened: what is no longer there cannot be read through a mapping, the kernel ends the process.
        """
        if os.path.getsize(self.path) < _offset(self.array) + self.array.nbytes:
            raise UsageError(f"{self.path} was cut short after it was opened: restore it")
        order = np.argsort(indices, kind="stable")  # as they lie on disk
        gathered = np.empty((len(indices), self.array.shape[1]), self.array.dtype)
        gathered[order] = self.array[indices[order]]
        stored = torch.from_numpy(gathered.view(np.int16) if self.dtype is torch.bfloat16 else gathered)
        values = stored.view(self.dtype).float()
        finite = values.isfinite().all(1)
        if not finite.all():
            at = int(indices[int((~finite).nonzero()[0])])
            raise UsageError(f"{self.path}: row {at} holds values that are not finite in float32 (NaN or infinity)")
        return values

    def chunks(self, rows: NDArray[np.int64] | None = None) -> Iterator[Tensor]:
        """All rows, or these, CHUNK at a time, as `rows` gives them."""
        chosen = np.arange(len(self.array)) if rows is None else rows
        return (self.rows(chosen[start : start + CHUNK]) for start in range(0, len(chosen), CHUNK))


class AsTheyAre(Normalisation):
    """Features are taken as the network gave them."""

    def __init__(self) -> None:
        """Nothing is subtracted or divided by."""
        super().__init__((0.0,), (1.0,), 1)

    def __call__(self, pixels: Tensor) -> Tensor:
        """As float32."""
        return pixels.float()

    def on(self, device: torch.device | str) -> Self:
        """The same: it holds no numbers."""
        return self


class FeatureSplit(Split):
    """A split whose features stay on disk, and are gathered from there by index; never augmented."""

    def __init__(self, file: FeatureFile, labels: Tensor, rows: NDArray[np.int64] | None = None) -> None:
        """`labels` (n,) int64 of the split; `rows` (n,) of the file that make the split, all if None."""
        self.labels = labels
        self.input_shape = (file.array.shape[1],)
        self._file = file
        self._rows = rows
        self._device = torch.device("cpu")

    def images(self, indices: Tensor | Sequence[int], *, seed: int | None = None) -> Tensor:
        """As Split.images: (m,) -> (m, d), (g, m) -> (g, m, d); UsageError as FeatureFile.rows."""
        asked = torch.as_tensor(indices, dtype=torch.int64).cpu()
        chosen = asked.reshape(-1).numpy()
        rows = self._file.rows(chosen if self._rows is None else self._rows[chosen])
        return rows.view(*asked.shape, *self.input_shape).to(self._device)

    def on(self, device: torch.device | str) -> Self:
        """As Split.on: what is gathered is moved there."""
        moved = FeatureSplit(self._file, self.labels, self._rows)
        moved._device = torch.device(device)
        return moved  # type: ignore[return-value]  # there is no subclass


def load(name: str, path: Path, *, split_seed: int = 0, say: Say = lambda line: None) -> Dataset:
    """The data set in a folder (see above), its labels read and its features mapped; splits below 256 MB are held.

    `say` is told of classes without a training example. Raises UsageError, one line that names the file, for what is
    missing, cut short, of another shape or type, out of range or not finite.
    """
    header = read_header(path)
    check_classes(name, header.classes)
    parts = {part: _part(path / part, header) for part in PARTS if part != "validation" or (path / part).is_dir()}
    _check_widths([file for file, _ in parts.values()])
    labels, notes = parts["train"][1], [*_described(header), "features are taken as they are"]
    if "validation" in parts:
        kept, held_out = None, _split(*parts["validation"])
        notes.append("validation: as given")
    else:
        chosen = hold_out(name, labels, VALIDATION_SHARE, split_seed)
        kept, held_out = chosen.kept, _split(*parts["train"], chosen.held_out)
        notes.append(chosen.note)
    train, test = _split(*parts["train"], kept), _split(*parts["test"])
    if unseen := int((torch.bincount(train.labels, minlength=header.classes) == 0).sum()):
        notes.append(f"{unseen:,} of {header.classes:,} classes have not one example to train on")
        say(f"notice: {name}: {notes[-1]}")
    facts = DatasetFacts(
        name=name,
        classes=header.classes,
        input_shape=train.input_shape,
        train=len(train),
        validation=len(held_out),
        test=len(test),
        split_seed=split_seed,
        checksums=_checksums(path, tuple(parts)),
        notes=tuple(notes),
    )
    return Dataset(name, facts, header.class_names, train, held_out, test)


def verify(path: Path, say: Say = lambda line: None) -> int:
    """Read everything in a folder: digests where features.json has them, and that all values are finite.

    Returns how many files' digests were compared. Raises UsageError as `load`, and for a file that differs.
    """
    header = read_header(path)
    load(f"features:{path}", path, say=say)
    for file, expected in header.digests.items():
        say(f"reading {path / file}")
        found = f"sha256:{file_digest(path / file, 'sha256')}"
        if found != expected:
            raise UsageError(f"{path / file} is not what was written: its digest is {found}, {HEADER} has {expected}")
    for part in PARTS:
        if (path / part).is_dir():
            say(f"looking for values that are not finite in {path / part / FEATURES}")
            for _ in FeatureFile.opened(path / part / FEATURES, header).chunks():
                pass
    return len(header.digests)


def read_header(path: Path) -> FeaturesHeader:
    """features.json of a folder; UsageError, naming it, if it is missing or is none."""
    file = path / HEADER
    try:
        header = FeaturesHeader.model_validate_json(file.read_bytes())
    except FileNotFoundError:
        raise UsageError(f'{file} is missing; {{"classes": 1000}} is enough in it') from None
    except OSError as error:
        raise UsageError(f"{file} cannot be read: {error.strerror}") from error
    except ValidationError as error:
        raise UsageError(f"{file}: {first_problem(error)}") from None
    if header.class_names and len(header.class_names) != header.classes:
        raise UsageError(f"{file}: {len(header.class_names)} names for {header.classes} classes")
    return header


def _part(folder: Path, header: FeaturesHeader) -> tuple[FeatureFile, Tensor]:
    file = FeatureFile.opened(folder / FEATURES, header)
    return file, _labels(folder / LABELS, len(file.array), header.classes)


def _labels(path: Path, examples: int, classes: int) -> Tensor:
    array = _mapped(path)
    if array.dtype.kind not in "iu":
        raise UsageError(f"{path}: labels are {array.dtype}, expected integers")
    if array.shape != (examples,):
        raise UsageError(f"{path}: labels have the shape {array.shape}, {FEATURES} beside it has {examples:,} rows")
    labels = torch.from_numpy(np.array(array, dtype=np.int64))  # in memory of its own
    check_labels(str(path), labels, classes)
    return labels


def _mapped(path: Path) -> NDArray[Any]:
    """A .npy file, mapped; UsageError if it is missing, no such file, or has other bytes than its header says."""
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
        if not isinstance(array, np.memmap):
            raise ValueError("it is an archive of several arrays")
        size, expected = os.path.getsize(path), _offset(array) + array.nbytes
        if size != expected:
            raise ValueError(f"it has {size:,} bytes, and {expected:,} by its header")
    except FileNotFoundError:
        raise UsageError(f"{path} is missing") from None
    except (ValueError, EOFError) as error:
        raise UsageError(f"{path} is cut short or no array of numbers ({error}); write it again") from None
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from error
    return array


def _offset(array: NDArray[Any]) -> int:
    assert isinstance(array, np.memmap)
    return array.offset


def _check_widths(files: Sequence[FeatureFile]) -> None:
    first, *others = files
    for other in others:
        if other.array.shape[1] != first.array.shape[1]:
            raise UsageError(
                f"{other.path} has {other.array.shape[1]} features, {first.path} has {first.array.shape[1]}"
            )


def _split(file: FeatureFile, labels: Tensor, rows: NDArray[np.int64] | None = None) -> Split:
    labels = labels if rows is None else labels[torch.from_numpy(rows)]
    if len(labels) * file.array.shape[1] * torch.float32.itemsize > FLOAT_COPY_BYTES:
        return FeatureSplit(file, labels, rows)
    return MemorySplit(torch.cat(list(file.chunks(rows))), labels, AsTheyAre())


def _described(header: FeaturesHeader) -> list[str]:
    """What is known of the features, for the record."""
    parts = [f"features of {header.network}" if header.network else "", header.weights, header.source]
    line = "; ".join(filter(None, parts))
    return [*([line] if line else []), *header.preprocessing]


def _checksums(path: Path, parts: Sequence[str]) -> dict[str, str]:
    """Of small files all of it; of features their size, beginning (with its header) and end."""
    found = {HEADER: f"sha256:{file_digest(path / HEADER, 'sha256')}"}
    for part in parts:
        found[f"{part}/{LABELS}"] = f"sha256:{file_digest(path / part / LABELS, 'sha256')}"
        found[f"{part}/{FEATURES}, size and ends"] = _digest_of_ends(path / part / FEATURES)
    return found


def _digest_of_ends(path: Path) -> str:
    size = os.path.getsize(path)
    digest = hashlib.sha256(str(size).encode())
    with open(path, "rb") as file:
        digest.update(file.read(_DIGESTED_BYTES))
        file.seek(max(0, size - _DIGESTED_BYTES))
        digest.update(file.read())
    return f"sha256:{digest.hexdigest()}"
