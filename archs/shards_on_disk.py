"""A top layer in several files, each with the rows of neighbouring classes, and an index that says which has which.

    top-layer-00001-of-00003.safetensors     weight (123576, d), bias (123576,)
    top-layer-00002-of-00003.safetensors     ...
    model.safetensors                        the backbone, in one file or several
    model.safetensors.index.json             the index

The index is Hugging Face's, `weight_map` from names to files (https://huggingface.co/docs/transformers, "Sharded
checkpoints"), so that those open as well; what is split by rows, which that format has no place for, stands under
`row_shards`, with the classes, shape, dtype and digest of each file. Every shard carries the name of the layer it
belongs to: shards of two checkpoints never make one layer. Rows are read lazily, from the file that holds them.
"""

import hashlib
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

import torch
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, NonNegativeInt, PositiveInt, ValidationError
from torch import Tensor

from archs.rows_on_disk import DTYPES, INDEX_SUFFIX, TensorFile, UnusableFile, open_tensors, write_rows
from archs.whole_files import replacing

#: Metadata of a shard: the layer it belongs to, and its first class.
LAYER, FIRST_CLASS = "layer", "first_class"

#: Rows converted and written together: 16 MB at 4096 features in float32.
CHUNK_ROWS = 1024

#: Bytes of an index that are read at most: one of a million tensors is smaller.
LARGEST_INDEX = 2**28


def _plain_name(name: str) -> str:
    if Path(name).name != name or name in ("", ".", ".."):
        raise ValueError(f"{name!r} is no name of a file beside the index")
    return name


FileName = Annotated[str, AfterValidator(_plain_name)]


class RowShard(BaseModel):
    """One file of a layer that is split by its rows: classes first_class .. stop - 1."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    file: FileName
    first_class: NonNegativeInt
    stop: NonNegativeInt
    shape: tuple[NonNegativeInt, PositiveInt] = Field(description="of the weight: rows, features")
    dtype: str = Field(description="as safetensors names it")
    sha256: str = Field(description="of the whole file")


class RowShards(BaseModel):
    """A layer that is split by its rows; its shards in the order of their classes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    layer: str = Field(description="what tells this layer's shards from those of every other")
    weight: str = Field(description="name of the weight in the network's state dict")
    bias: str | None = Field(description="name of the bias; none for a layer without")
    shards: tuple[RowShard, ...] = Field(min_length=1)

    @property
    def classes(self) -> int:
        """Rows of all shards."""
        return self.shards[-1].stop


class Index(BaseModel):
    """What an index file holds. Other tools add to it, so that what is not known is left alone."""

    model_config = ConfigDict(frozen=True)

    metadata: dict[str, object] = {}
    weight_map: dict[str, FileName] = Field({}, description="name of a whole tensor -> the file it is in")
    row_shards: RowShards | None = None


def new_layer() -> str:
    """A name that no other layer's shards have; the one writer's choice, told to all who write a shard."""
    return secrets.token_hex(16)


def shard_name(number: int, of: int, stem: str = "top-layer") -> str:
    """top-layer-00001-of-00003.safetensors for shard 0 of 3."""
    return f"{stem}-{number + 1:05d}-of-{of:05d}.safetensors"


def write_shard(path: Path, weight: Tensor, bias: Tensor | None, *, first_class: int, layer: str) -> RowShard:
    """Write the rows of some neighbouring classes, and say what the index is to hold of them.

    weight (rows, features), bias (rows,) or none, on any device. The file appears once it is whole and synced; where
    one of that name is, it is replaced, so that a checkpoint that is to stay usable needs a folder of its own. Raises
    UnusableFile as `write_rows` does.
    """
    rows, features = weight.shape
    write_rows(
        path,
        (weight[start : start + CHUNK_ROWS] for start in range(0, rows, CHUNK_ROWS)),
        bias,
        classes=rows,
        features=features,
        dtype=weight.dtype,
        metadata={LAYER: layer, FIRST_CLASS: str(first_class)},
    )
    return RowShard(
        file=path.name,
        first_class=first_class,
        stop=first_class + rows,
        shape=(rows, features),
        dtype=_named(weight.dtype),
        sha256=digest_of(path),
    )


def write_index(
    path: Path,
    shards: Sequence[RowShard],
    *,
    layer: str,
    weight: str = "weight",
    bias: str | None = "bias",
    whole: Mapping[str, str] | None = None,
) -> None:
    """Write the index of a layer's shards, last of all files.

    path: its name ends in `.safetensors.index.json`. weight, bias: names in the network's state dict. whole: the
    network's other tensors, each with the name of the file it is in. Raises ValueError for shards that are no whole
    layer, UnusableFile if it cannot be written.
    """
    if not path.name.endswith(INDEX_SUFFIX):
        raise ValueError(f"{path.name!r} is no name of an index: it must end in {INDEX_SUFFIX}")
    in_order = tuple(sorted(shards, key=lambda shard: (shard.first_class, shard.stop)))
    if (wrong := _not_one_layer(in_order)) is not None:
        raise ValueError(wrong)
    named = RowShards(layer=layer, weight=weight, bias=bias, shards=in_order)
    numbers = named.classes * (in_order[0].shape[1] + (bias is not None))
    size = numbers * DTYPES[in_order[0].dtype].itemsize
    index = Index(metadata={"top_layer_bytes": size}, weight_map=dict(whole or {}), row_shards=named)
    try:
        with replacing(path) as file:
            file.write(index.model_dump_json(indent=1).encode())
    except OSError as error:
        raise UnusableFile(f"{path} cannot be written: {error.strerror or error}; name another folder") from None


def digest_of(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal digits; read in pieces."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class ShardedTensors(TensorFile):
    """The tensors of an index, as if they were in one file; a layer split by rows is one tensor of all of them."""

    def __init__(self, path: Path) -> None:
        """Opens every file and reads its header. Raises UnusableFile naming the one that is missing or does not fit."""
        self.index = _read_index(path)
        super().__init__(path, {name: str(value) for name, value in self.index.metadata.items()})
        self._files: dict[str, TensorFile] = {}
        try:
            for name, file in self.index.weight_map.items():
                if name not in self._opened(file).names:
                    raise UnusableFile(f"{path.parent / file} has no {name!r}, which {path.name} says it holds")
            for shard in self._shards:
                self._check(shard)
        except BaseException:
            self.close()
            raise

    @property
    def names(self) -> tuple[str, ...]:
        """Those of whole tensors, and of the layer that is split."""
        return (*self.index.weight_map, *self._split)

    @property
    def layer_names(self) -> tuple[str, str]:
        """Names of weight and bias of the layer that is split."""
        split = self.index.row_shards
        return super().layer_names if split is None else (split.weight, split.bias or "bias")

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor, of all rows."""
        if name not in self._split:
            return self._opened(self.index.weight_map[name]).shape(name)
        assert self.index.row_shards is not None
        within = self._opened(self._shards[0].file).shape(self._split[name])[1:]
        return (self.index.row_shards.classes, *within)

    def dtype(self, name: str) -> torch.dtype | None:
        """Dtype of a tensor; None for one that is no dtype of a top layer."""
        if name not in self._split:
            return self._opened(self.index.weight_map[name]).dtype(name)
        return DTYPES[self._shards[0].dtype]

    def verify(self, rows: slice | None = None) -> None:
        """Raise UnusableFile unless the shards that hold these rows, or all of them, have the digests of the index.

        It reads these files once from beginning to end, which opening them and reading rows does not.
        """
        for shard in self._shards:
            wanted = rows is None or _within(shard, rows.start, rows.stop) is not None
            if wanted and digest_of(self.path.parent / shard.file) != shard.sha256:
                raise UnusableFile(
                    f"{self.path.parent / shard.file} was altered after it was written (its digest is not the one in "
                    f"{self.path.name}): restore it, or go on from another checkpoint"
                )

    def close(self) -> None:
        """Let go of all files; a second time does nothing."""
        for file in getattr(self, "_files", {}).values():
            file.close()
        super().close()

    @property
    def _shards(self) -> tuple[RowShard, ...]:
        return () if self.index.row_shards is None else self.index.row_shards.shards

    @property
    def _split(self) -> dict[str, str]:
        """Names of the split layer's tensors -> their names in a shard."""
        split = self.index.row_shards
        if split is None:
            return {}
        return {split.weight: "weight"} | ({} if split.bias is None else {split.bias: "bias"})

    def _mapped(self, name: str, rows: slice | None) -> Tensor:
        if name not in self._split:
            return self._opened(self.index.weight_map[name]).read_rows(name, rows)
        first, stop = (0, self.shape(name)[0]) if rows is None else (rows.start, rows.stop)
        parts = [
            self._opened(shard.file).read_rows(self._split[name], own)
            for shard in self._shards
            if (own := _within(shard, first, stop)) is not None
        ]
        if not parts:
            return torch.empty((0, *self.shape(name)[1:]), dtype=self.dtype(name))
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _opened(self, file: str) -> TensorFile:
        if file not in self._files:
            path = self.path.parent / file
            if not path.is_file():
                raise UnusableFile(f"{path} is missing, which {self.path.name} names: restore it beside the index")
            if path.suffix != ".safetensors":
                raise UnusableFile(f"{path} is no safetensors file, which {self.path.name} must name")
            self._files[file] = open_tensors(path)
        return self._files[file]

    def _check(self, shard: RowShard) -> None:
        """See that a file is the shard that the index tells of, from its header."""
        assert self.index.row_shards is not None
        file = self._opened(shard.file)
        if file.metadata.get(LAYER) != self.index.row_shards.layer or file.metadata.get(FIRST_CLASS) != str(
            shard.first_class
        ):
            raise UnusableFile(
                f"{file.path} belongs to another checkpoint than {self.path.name}: restore the one written with it"
            )
        for name, inside in self._split.items():
            expected = shard.shape if inside == "weight" else shard.shape[:1]
            found = file.shape(inside) if inside in file.names else None
            dtype = None if found is None else file.dtype(inside)
            if found != expected or dtype != DTYPES[shard.dtype]:
                held = "is not there" if found is None else f"is {found} of {_said(dtype)}"
                raise UnusableFile(
                    f"{file.path}: {name!r} {held}, where {self.path.name} says {expected} of "
                    f"{_said(DTYPES[shard.dtype])}: restore the shard written with it"
                )


def read_range(path: Path, rows: slice, classes: int) -> tuple[Tensor, Tensor | None]:
    """Some classes' rows of a split layer, checked: weight (rows, features), bias (rows,) or none, on the CPU.

    What one of any number of ranks takes of a checkpoint, however many shards its index names; only those that hold
    some of the rows are read. classes: those of the whole layer. Raises UnusableFile as ShardedTensors and its `verify`
    do, and for an index of no split layer, or of another number of classes.
    """
    file = ShardedTensors(path)
    try:
        split = file.index.row_shards
        if split is None:
            raise UnusableFile(f"{path} names no layer that is split by its rows")
        if split.classes != classes:
            raise UnusableFile(f"{path} holds a layer of {split.classes} classes, not of {classes}")
        file.verify(rows)
        weight = file.read_rows(split.weight, rows)
        return weight, None if split.bias is None else file.read_rows(split.bias, rows)
    finally:
        file.close()


def _within(shard: RowShard, first: int, stop: int) -> slice | None:
    """Which of a shard's own rows are among classes first .. stop - 1."""
    start, end = max(first, shard.first_class), min(stop, shard.stop)
    return slice(start - shard.first_class, end - shard.first_class) if start < end else None


def _read_index(path: Path) -> Index:
    try:
        if path.stat().st_size > LARGEST_INDEX:
            raise UnusableFile(f"{path} is too large for an index: restore it")
        index = Index.model_validate_json(path.read_bytes())
    except OSError as error:
        raise UnusableFile(f"{path} cannot be read: {error.strerror or error}") from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise UnusableFile(f"{path} is no index of shards ({where or 'content'}: {first['msg']}): restore it") from None
    if not index.weight_map and index.row_shards is None:
        raise UnusableFile(f"{path} names no tensors (no 'weight_map' and no 'row_shards'): it is another file's index")
    if index.row_shards is not None and (wrong := _not_one_layer(index.row_shards.shards)) is not None:
        raise UnusableFile(f"{path}: {wrong}; restore it")
    return index


def _not_one_layer(shards: Sequence[RowShard]) -> str | None:
    """Why shards, in the order of their classes, do not make one layer; none where they do."""
    end, first = 0, shards[0]
    for shard in shards:
        if shard.first_class != end or shard.stop < shard.first_class:
            return f"{shard.file} begins at class {shard.first_class}, where the one before ends at {end}"
        if shard.shape != (shard.stop - shard.first_class, first.shape[1]) or shard.dtype != first.dtype:
            return (
                f"{shard.file} is {shard.shape} of {shard.dtype}, where its classes and {first.file} make "
                f"{(shard.stop - shard.first_class, first.shape[1])} of {first.dtype}"
            )
        if shard.dtype not in DTYPES:
            return f"{shard.file} is of {shard.dtype}, where a layer is of {', '.join(DTYPES)}"
        end = shard.stop
    return None if end else "its shards hold no class"


def _named(dtype: torch.dtype) -> str:
    return next(name for name, each in DTYPES.items() if each == dtype)


def _said(dtype: torch.dtype | None) -> str:
    return "another type" if dtype is None else str(dtype).removeprefix("torch.")
