"""Checkpoints of a training whose top layer is split over ranks: in a folder that appears whole, or not at all.

    batch-ce-lr0.1-seed0/
        step-000012000/
            weights.safetensors                       the backbone           rank 0 writes it
            state.pt                                  optimiser, random state, curve   rank 0
            top-layer-00001-of-00003.safetensors      rows of its classes    each rank writes its own
            top-layer-00001-of-00003.pt               what only it has       each rank, where there is any
            top-layer.safetensors.index.json          the index              rank 0, once all shards are there
            checkpoint.json                           digests                rank 0

The ranks write into a folder beside, which rank 0 renames once all have: a kill, of any rank at any moment, leaves the
checkpoint before it as it was. Any number of ranks reads it, each the rows that are now its own; what a rank alone had,
such as an optimiser's state of its rows, only the same number of ranks. `archs.SingleLogit.from_checkpoint` opens the
index as it is. The folder must be one that all ranks see.
"""

import contextlib
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from archs.rows_on_disk import INDEX_SUFFIX, UnusableFile
from archs.shards_on_disk import RowShard, new_layer, read_range, shard_name, write_index, write_shard
from bench.accuracy.checkpoints import (
    WEIGHTS_FILE,
    CheckpointFolder,
    State,
    read_state,
    read_weights,
    write_state,
    write_weights,
)
from bench.accuracy.ranks.process_group import Ranks, on_all, on_each, on_first, shares
from bench.accuracy.ranks.sharded import ShardedTopLayer
from bench.errors import UsageError

INDEX = f"top-layer{INDEX_SUFFIX}"

#: In the state of a checkpoint: file and digest of what each rank alone had.
_OWN = "files_of_ranks"


@dataclass(frozen=True)
class TopLayerNames:
    """Names of the top layer's weight and bias in the network's state dict."""

    weight: str = "weight"
    bias: str = "bias"


@dataclass(frozen=True)
class ShardedCheckpoint:
    """A training after `step` steps: backbone and state, the same on all ranks, and this rank's rows, on the CPU.

    own: what this rank alone gave; none if nothing was given, or another number of ranks wrote it.
    """

    step: int
    weights: dict[str, Tensor]
    state: State
    weight: Tensor
    bias: Tensor | None
    own: State | None = None


class ShardedCheckpoints:
    """The checkpoints of one training, written and read by all its ranks together."""

    def __init__(self, folder: CheckpointFolder, ranks: Ranks, names: TopLayerNames | None = None) -> None:
        """`folder`: the same on all ranks, on a disk that they share."""
        self._folder, self._ranks, self._names = folder, ranks, names or TopLayerNames()

    def save(
        self,
        step: int,
        weights: Mapping[str, Tensor],
        state: State,
        layer: ShardedTopLayer,
        own: State | None = None,
    ) -> None:
        """Write a checkpoint; weights and state (whose "step" is `step`) are those of rank 0.

        weights: the backbone's, without the top layer. own: what this rank alone has, with its "step"; given by all
        ranks or by none. Raises OSError on all ranks if the disk refuses on one, and
        leaves the checkpoints before it as they are.
        """
        ranks = self._ranks
        beside = on_first(ranks, lambda: self._folder.begin(step))
        try:
            _write_shards(beside, weights, layer, self._names, ranks)
            if own is not None:
                state = {**state, _OWN: on_all(ranks, lambda: _write_state_of_rank(beside, own, ranks))}
            on_first(ranks, lambda: self._folder.finish(beside, step, weights, state, also=(INDEX,)))
        except BaseException:
            if ranks.rank == 0:
                self._folder.abandon(beside)
            raise

    def newest(self, classes: int) -> ShardedCheckpoint | None:
        """The newest checkpoint, with the rows that are this rank's now; none if there is none.

        Written by any number of ranks. Raises UsageError on all ranks, naming the file, if it was cut short, altered
        or is another training's, a shard is missing or of another shape or checkpoint, or a rank does not see it.
        """
        step = on_first(self._ranks, self._folder.newest_step)
        return None if step is None else on_each(self._ranks, lambda: self._read(step, classes))

    def _read(self, step: int, classes: int) -> ShardedCheckpoint:
        found = self._folder.at(step)
        assert found.folder is not None
        weight, bias = _own_rows(found.folder / INDEX, classes, self._ranks)
        files = found.state.pop(_OWN, [])
        own = None
        if len(files) == self._ranks.size:
            name, digest = files[self._ranks.rank]
            own = read_state(found.folder / name, digest, step)
        return ShardedCheckpoint(step, found.weights, found.state, weight, bias, own)


def write_network(
    path: Path,
    weights: Mapping[str, Tensor],
    layer: ShardedTopLayer,
    whose: str,
    ranks: Ranks,
    names: TopLayerNames | None = None,
) -> None:
    """Write a network that a training ended with as the folder `path`: backbone, shards and index.

    In the place of what a training that was cut off left there. Raises OSError on all ranks if the disk refuses.
    """
    beside = on_first(ranks, lambda: _new_folder(path))
    try:
        _write_shards(beside, weights, layer, names or TopLayerNames(), ranks)
        on_first(ranks, lambda: _finish(beside, path, weights, whose))
    except BaseException:
        if ranks.rank == 0:
            shutil.rmtree(beside, ignore_errors=True)
        raise


def read_network(path: Path, whose: str, classes: int, ranks: Ranks) -> tuple[dict[str, Tensor], Tensor, Tensor | None]:
    """What `write_network` wrote: the backbone, and this rank's rows of the top layer, on the CPU.

    Raises UsageError on all ranks as ShardedCheckpoints.newest does.
    """

    def own() -> tuple[dict[str, Tensor], Tensor, Tensor | None]:
        weights = read_weights(path / WEIGHTS_FILE, whose)
        return weights, *_own_rows(path / INDEX, classes, ranks)

    return on_each(ranks, own)


def _new_folder(path: Path) -> Path:
    for left_over in path.parent.glob(f".{path.name}.*"):
        shutil.rmtree(left_over, ignore_errors=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    beside.mkdir(parents=True)
    return beside


def _finish(beside: Path, path: Path, weights: Mapping[str, Tensor], whose: str) -> None:
    write_weights(beside / WEIGHTS_FILE, weights, whose)
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(path)
    os.rename(beside, path)


def _write_shards(
    beside: Path, weights: Mapping[str, Tensor], layer: ShardedTopLayer, names: TopLayerNames, ranks: Ranks
) -> None:
    """Every rank its shard, and rank 0 the index of them all."""
    name = ranks.broadcast(new_layer())
    written = on_all(ranks, lambda: _write_own(beside, layer, name, ranks))
    bias = None if layer.bias is None else names.bias
    on_first(ranks, lambda: _write_index(beside, written, name, names.weight, bias, weights))


def _write_own(beside: Path, layer: ShardedTopLayer, name: str, ranks: Ranks) -> RowShard:
    if not beside.is_dir():
        raise UsageError(f"this rank does not see {beside}: give --output a folder on a disk that all ranks share")
    path = beside / shard_name(ranks.rank, ranks.size)
    try:
        return write_shard(path, layer.weight.detach(), layer.bias, first_class=layer.first_class, layer=name)
    except UnusableFile as error:
        raise _of_the_disk(error, path) from None


def _write_state_of_rank(beside: Path, own: State, ranks: Ranks) -> tuple[str, str]:
    path = (beside / shard_name(ranks.rank, ranks.size)).with_suffix(".pt")
    return path.name, write_state(path, own)


def _write_index(
    beside: Path, written: Sequence[RowShard], layer: str, weight: str, bias: str | None, weights: Mapping[str, Tensor]
) -> None:
    whole = dict.fromkeys(weights, WEIGHTS_FILE)
    try:
        write_index(beside / INDEX, written, layer=layer, weight=weight, bias=bias, whole=whole)
    except UnusableFile as error:
        raise _of_the_disk(error, beside / INDEX) from None


def _of_the_disk(error: UnusableFile, path: Path) -> OSError:
    """What archs found unusable, as the error of the disk that it was: a full one ends the grid, and is not retried."""
    cause = error.__context__
    if isinstance(cause, OSError) and cause.errno is not None:
        return OSError(cause.errno, cause.strerror, str(path))
    return OSError(str(error))


def _own_rows(index: Path, classes: int, ranks: Ranks) -> tuple[Tensor, Tensor | None]:
    try:
        return read_range(index, shares(classes, ranks.size)[ranks.rank], classes)
    except UnusableFile as error:
        raise UsageError(str(error)) from None
