"""Checkpoints of a split layer: whole or not there, whoever is killed; read by any number of ranks, and SingleLogit."""

import copy
import errno
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from archs import SingleLogit
from archs.registry import from_module
from bench.accuracy.checkpoints import CheckpointFolder
from bench.accuracy.chunked import form_of
from bench.accuracy.losses import configured
from bench.accuracy.ranks import (
    Alone,
    ShardedCheckpoints,
    ShardedTopLayer,
    TopLayerNames,
    own_rows,
    read_network,
    sharded_checkpoints,
    write_network,
)
from bench.errors import UsageError

K, D = 11, 4
NAMES = TopLayerNames("1.weight", "1.bias")


#: Made once: ranks that are threads share torch's random state.
NETWORK = nn.Sequential(nn.Linear(3, D), nn.Linear(D, K)).requires_grad_(False)


def network() -> nn.Sequential:
    return copy.deepcopy(NETWORK)


def backbone_of(module: nn.Sequential) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in module.state_dict().items() if name.startswith("0.")}


def layer_of(ranks: Any, add: float = 0.0) -> ShardedTopLayer:
    layer = ShardedTopLayer.of_layer(network()[1], form_of(configured("ce", classes=K), K), ranks)
    layer.weight += add
    return layer


def checkpoints_in(path: Path, ranks: Any, work: str = "this work") -> ShardedCheckpoints:
    return ShardedCheckpoints(CheckpointFolder(path, work), ranks, NAMES)


def save(path: Path, as_threads: Callable[..., list[Any]], size: int, step: int, add: float = 0.0) -> list[Any]:
    def of_rank(ranks: Any) -> None:
        state = {"step": step, "rank": ranks.rank}
        checkpoints_in(path, ranks).save(step, backbone_of(network()), state, layer_of(ranks, add))

    return as_threads(size, of_rank)


def load(path: Path, as_threads: Callable[..., list[Any]], size: int) -> list[Any]:
    return as_threads(size, lambda ranks: checkpoints_in(path, ranks).newest(K))


@pytest.mark.parametrize("written", [1, 2, 3])
@pytest.mark.parametrize("read", [1, 2, 3, 12])
def test_any_number_of_ranks_goes_on(
    tmp_path: Path, as_threads: Callable[..., list[Any]], written: int, read: int
) -> None:
    assert load(tmp_path, as_threads, read) == [None] * read
    assert save(tmp_path, as_threads, written, 7) == [None] * written
    found = load(tmp_path, as_threads, read)
    module = network()
    assert torch.equal(torch.cat([each.weight for each in found]), module[1].weight)
    assert torch.equal(torch.cat([each.bias for each in found]), module[1].bias)
    for rank, each in enumerate(found):
        held = own_rows_of(rank, read)
        assert len(each.weight) == held.stop - held.start
        assert each.step == 7
        assert each.state == {"step": 7, "rank": 0}
        assert torch.equal(each.weights["0.weight"], module[0].weight)


def own_rows_of(rank: int, size: int) -> slice:
    class Place(Alone):
        pass

    place = Place()
    place.rank, place.size = rank, size
    return own_rows(K, place) if size <= K else slice(min(rank, K), min(rank + 1, K))


def test_the_newest_two_are_kept(tmp_path: Path, as_threads: Callable[..., list[Any]]) -> None:
    for step in (1, 2, 3):
        save(tmp_path, as_threads, 2, step, add=step)
    assert sorted(os.listdir(tmp_path)) == ["step-000000002", "step-000000003"]
    assert sorted(os.listdir(tmp_path / "step-000000003")) == [
        "checkpoint.json",
        "state.pt",
        "top-layer-00001-of-00002.safetensors",
        "top-layer-00002-of-00002.safetensors",
        "top-layer.safetensors.index.json",
        "weights.safetensors",
    ]
    found = load(tmp_path, as_threads, 1)[0]
    assert torch.equal(found.weight, network()[1].weight + 3)


def test_single_logit_opens_a_training_s_checkpoint(tmp_path: Path, as_threads: Callable[..., list[Any]]) -> None:
    save(tmp_path, as_threads, 3, 1)
    index = tmp_path / "step-000000001" / "top-layer.safetensors.index.json"
    images, module = torch.randn(5, 3), network().eval()
    with SingleLogit.from_checkpoint(index, arch=from_module(network(), (3,))) as query:
        for asked in (0, 3, 4, 10):
            torch.testing.assert_close(query(images, asked), module(images)[:, asked].detach())


@pytest.mark.parametrize("who", [0, 1, 2])
def test_a_rank_killed_while_writing_leaves_the_checkpoint_before(
    tmp_path: Path, as_processes: Callable[..., list[Any]], cases: dict[str, Any], who: int
) -> None:
    path = tmp_path / "checkpoints"
    found = as_processes(3, "checkpoint_cut_off", tmp_path / "said", path=str(path), who=who)
    assert found[who] == -9
    assert {each["error"] for rank, each in enumerate(found) if rank != who} == {"RankLost"}
    checkpoint = ShardedCheckpoints(CheckpointFolder(path, "this work"), Alone()).newest(cases["K"])
    assert checkpoint is not None
    assert checkpoint.step == 1
    assert torch.equal(checkpoint.weight, cases["network"]()[2].weight)
    assert os.listdir(path) == ["step-000000001"], "what was half-written is gone"


def test_a_full_disk_is_told_by_all_and_leaves_nothing(
    tmp_path: Path, as_threads: Callable[..., list[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path, as_threads, 2, 1)
    write = sharded_checkpoints.write_shard

    def full(path: Path, *shard: Any, **named: Any) -> Any:
        if "00002-of" in path.name:
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        return write(path, *shard, **named)

    monkeypatch.setattr(sharded_checkpoints, "write_shard", full)
    found = save(tmp_path, as_threads, 2, 2)
    assert [type(each) for each in found] == [OSError] * 2, found
    assert all("rank 1: " in str(each) and "No space left" in str(each) for each in found)
    assert os.listdir(tmp_path) == ["step-000000001"]


def test_a_full_disk_stays_one_on_its_way_from_a_shard(
    tmp_path: Path, as_threads: Callable[..., list[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error's number says that the grid is at its end, and not this training alone."""
    from archs import rows_on_disk

    replacing = rows_on_disk.replacing

    def full(path: Path) -> Any:
        if path.name == "top-layer-00002-of-00002.safetensors":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return replacing(path)

    monkeypatch.setattr(rows_on_disk, "replacing", full)
    for found in save(tmp_path, as_threads, 2, step=1):
        assert isinstance(found, OSError)
        assert found.errno == errno.ENOSPC
        assert found.strerror == "rank 1: No space left on device"
        assert str(found.filename).endswith("top-layer-00002-of-00002.safetensors")
    assert list(tmp_path.iterdir()) == []


def damaged(folder: Path, what: str) -> None:
    shard, index = folder / "top-layer-00002-of-00003.safetensors", folder / "top-layer.safetensors.index.json"
    if what == "missing":
        shard.unlink()
    elif what == "cut short":
        os.truncate(shard, shard.stat().st_size - 8)
    elif what == "altered":
        content = bytearray(shard.read_bytes())
        content[-1] ^= 1
        shard.write_bytes(content)
    elif what == "of another step":
        shard.write_bytes((folder.with_name("step-000000001") / shard.name).read_bytes())
    elif what == "index":
        content = json.loads(index.read_text())
        content["row_shards"]["shards"][1]["sha256"] = "0" * 64
        index.write_text(json.dumps(content))
    else:
        index.unlink()


@pytest.mark.parametrize(
    ("what", "line"),
    [
        ("missing", r"top-layer-00002-of-00003\.safetensors is missing, which .* names: restore it"),
        ("cut short", r"top-layer-00002-of-00003\.safetensors cannot be read .* cut short"),
        ("altered", r"top-layer-00002-of-00003\.safetensors was altered after it was written"),
        ("of another step", r"top-layer-00002-of-00003\.safetensors belongs to another checkpoint"),
        ("index", r"index\.json was cut short or altered .*; remove the folder 'step-000000002' to go on"),
        ("no index", r"index\.json was cut short or altered .*No such file"),
    ],
)
def test_what_was_damaged_is_named_on_all_ranks_and_the_one_before_is_usable(
    tmp_path: Path, as_threads: Callable[..., list[Any]], what: str, line: str
) -> None:
    for step in (1, 2):
        save(tmp_path, as_threads, 3, step, add=step)
    damaged(tmp_path / "step-000000002", what)
    found = load(tmp_path, as_threads, 2)
    assert [type(each) for each in found] == [UsageError] * 2
    assert str(found[0]) == str(found[1])
    assert "\n" not in str(found[0])
    with pytest.raises(UsageError, match=line):
        raise found[0]
    for file in (tmp_path / "step-000000002").iterdir():
        file.unlink()
    (tmp_path / "step-000000002").rmdir()
    before = load(tmp_path, as_threads, 2)
    assert torch.equal(torch.cat([each.weight for each in before]), network()[1].weight + 1)


def test_a_checkpoint_of_another_training_or_another_number_of_classes(
    tmp_path: Path, as_threads: Callable[..., list[Any]]
) -> None:
    save(tmp_path, as_threads, 2, 1)
    with pytest.raises(UsageError, match="a checkpoint of other trainings"):
        checkpoints_in(tmp_path, Alone(), "other work").newest(K)
    with pytest.raises(UsageError, match="holds a layer of 11 classes, not of 12"):
        checkpoints_in(tmp_path, Alone()).newest(K + 1)


def test_a_folder_that_another_rank_does_not_see(tmp_path: Path, as_threads: Callable[..., list[Any]]) -> None:
    def of_rank(ranks: Any) -> None:
        own = checkpoints_in(tmp_path / str(ranks.rank), ranks)
        if ranks.rank == 0:
            own = checkpoints_in(tmp_path / "0", ranks)
        own.newest(K)

    save(tmp_path / "0", as_threads, 2, 1)
    assert all("rank 1: " in str(each) and "No such file" in str(each) for each in as_threads(2, of_rank))


@pytest.mark.parametrize("again", [False, True])
def test_the_network_that_a_training_ended_with(
    tmp_path: Path, as_threads: Callable[..., list[Any]], again: bool
) -> None:
    path = tmp_path / "ce-lr0.1-seed0"
    for add in (5.0, 0.0) if again else (0.0,):
        written = as_threads(
            3,
            lambda ranks, add=add: write_network(
                path, backbone_of(network()), layer_of(ranks, add), "ce-lr0.1-seed0", ranks, NAMES
            ),
        )
        assert written == [None] * 3
    found = as_threads(2, lambda ranks: read_network(path, "ce-lr0.1-seed0", K, ranks))
    assert torch.equal(torch.cat([weight for _, weight, _ in found]), network()[1].weight)
    assert torch.equal(found[1][0]["0.bias"], network()[0].bias)
    assert os.listdir(tmp_path) == [path.name]
    refused = as_threads(2, lambda ranks: read_network(path, "another", K, ranks))
    assert all("these are the weights of ce-lr0.1-seed0, not of another" in str(each) for each in refused)
