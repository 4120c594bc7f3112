"""A top layer in several files: read as one, and every way in which the files are no such layer."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from archs import SingleLogit, shards_on_disk
from archs.registry import from_module
from archs.rows_on_disk import Rows, UnusableFile, open_tensors
from archs.shards_on_disk import RowShard, ShardedTensors, new_layer, read_range, shard_name, write_index, write_shard

CLASSES, FEATURES = 11, 4
INDEX = "top-layer.safetensors.index.json"


def layer(dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    source = torch.Generator().manual_seed(0)
    return torch.randn(CLASSES, FEATURES, generator=source).to(dtype), torch.arange(float(CLASSES)).to(dtype)


def written(
    folder: Path, bounds: list[int], *, dtype: torch.dtype = torch.float32, bias: bool = True, **names: Any
) -> Path:
    """Shards of classes bounds[i] .. bounds[i + 1] - 1, written in the reverse order, and their index."""
    weight, biases = layer(dtype)
    name, count = new_layer(), len(bounds) - 1
    shards = [
        write_shard(
            folder / shard_name(number, count),
            weight[bounds[number] : bounds[number + 1]],
            biases[bounds[number] : bounds[number + 1]] if bias else None,
            first_class=bounds[number],
            layer=name,
        )
        for number in reversed(range(count))
    ]
    write_index(folder / INDEX, shards, layer=name, **{"bias": "bias" if bias else None, **names})
    return folder / INDEX


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    cuts=st.lists(st.integers(0, CLASSES), max_size=4),
    first=st.integers(0, CLASSES),
    more=st.integers(0, CLASSES),
    bias=st.booleans(),
)
def test_any_rows_from_any_shards(
    tmp_path_factory: pytest.TempPathFactory, cuts: list[int], first: int, more: int, bias: bool
) -> None:
    folder = tmp_path_factory.mktemp("shards")
    path = written(folder, [0, *sorted(cuts), CLASSES], bias=bias)
    rows = slice(first, min(first + more, CLASSES))
    weight, biases = read_range(path, rows, CLASSES)
    assert torch.equal(weight, layer()[0][rows])
    assert (biases is None) == (not bias)
    assert biases is None or torch.equal(biases, layer()[1][rows])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_shards_are_safetensors_and_open_as_one_file(tmp_path: Path, dtype: torch.dtype) -> None:
    path = written(tmp_path, [0, 5, 9, 11], dtype=dtype)
    weight, bias = layer(dtype)
    assert torch.equal(load_file(tmp_path / "top-layer-00002-of-00003.safetensors")["weight"], weight[5:9])
    file = open_tensors(path)
    assert file.names == ("weight", "bias")
    assert (file.shape("weight"), file.shape("bias"), file.dtype("weight")) == ((11, 4), (11,), dtype)
    assert torch.equal(file.read("weight"), weight)
    rows = Rows(file, "weight", "bias")
    for index in range(CLASSES):
        own, own_bias = rows.read(index)
        assert torch.equal(own, weight[index : index + 1])
        assert own_bias is not None
        assert torch.equal(own_bias, bias[index : index + 1])
    file.close()
    with pytest.raises(UnusableFile, match="was closed"):
        rows.read(0)


def test_only_the_shard_that_holds_a_row_is_read(tmp_path: Path) -> None:
    path = written(tmp_path, [0, 5, 11])
    file = ShardedTensors(path)
    os.truncate(tmp_path / shard_name(1, 2), 100)
    assert torch.equal(file.read("weight", 4), layer()[0][4:5])
    with pytest.raises(UnusableFile, match=r"top-layer-00002-of-00002\.safetensors was cut short after it was opened"):
        file.read("weight", 5)


def test_an_index_of_whole_tensors_alone(tmp_path: Path) -> None:
    """As Hugging Face's tools write it."""
    save_file({"a.weight": torch.ones(2, 3)}, tmp_path / "model-00001-of-00002.safetensors")
    save_file({"b.weight": torch.zeros(4, 2)}, tmp_path / "model-00002-of-00002.safetensors")
    content = {
        "metadata": {"total_size": 56},
        "weight_map": {
            "a.weight": "model-00001-of-00002.safetensors",
            "b.weight": "model-00002-of-00002.safetensors",
        },
    }
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(content))
    file = open_tensors(tmp_path / "model.safetensors.index.json")
    assert file.names == ("a.weight", "b.weight")
    assert torch.equal(file.read("b.weight"), torch.zeros(4, 2))
    assert file.layer_names == ("weight", "bias")
    with pytest.raises(UnusableFile, match="names no layer that is split"):
        read_range(tmp_path / "model.safetensors.index.json", slice(0, 1), 4)


# --- by SingleLogit


def network() -> nn.Sequential:
    torch.manual_seed(0)
    made = nn.Sequential(nn.Linear(3, FEATURES), nn.Linear(FEATURES, CLASSES)).eval()
    with torch.no_grad():
        made[1].weight.copy_(layer()[0])
        made[1].bias.copy_(layer()[1])
    return made


def test_single_logit_from_rows(tmp_path: Path) -> None:
    path, module, images = written(tmp_path, [0, 5, 9, 11]), network(), torch.randn(4, 3)
    with SingleLogit.from_rows(network(), path, (3,)) as query:
        expected = module(images).detach()
        for index in range(CLASSES):
            torch.testing.assert_close(query(images, index), expected[:, index])
        torch.testing.assert_close(query(images, [10, 0, 5]), expected[:, [10, 0, 5]])


def test_single_logit_of_a_layer_without_bias(tmp_path: Path) -> None:
    module, images = nn.Sequential(network()[0], nn.Linear(FEATURES, CLASSES, bias=False)).eval(), torch.randn(4, 3)
    module[1].weight.data.copy_(layer()[0])
    with SingleLogit.from_rows(module, written(tmp_path, [0, 5, 11], bias=False), (3,)) as query:
        torch.testing.assert_close(query(images, 7), module(images)[:, 7].detach())


def test_single_logit_from_a_checkpoint(tmp_path: Path) -> None:
    module, images = network(), torch.randn(4, 3)
    save_file({"0.weight": module[0].weight, "0.bias": module[0].bias}, tmp_path / "backbone.safetensors")
    whole = {"0.weight": "backbone.safetensors", "0.bias": "backbone.safetensors"}
    path = written(tmp_path, [0, 6, 11], weight="1.weight", bias=True, whole=whole)
    content = json.loads(path.read_text())
    content["row_shards"]["bias"] = "1.bias"
    path.write_text(json.dumps(content))
    with SingleLogit.from_checkpoint(path, arch=from_module(network(), (3,))) as query:
        assert query.classes == CLASSES
        for index in (0, 5, 6, 10):
            torch.testing.assert_close(query(images, index), module(images)[:, index].detach())
    with SingleLogit.from_rows(network(), path, (3,)) as query:
        torch.testing.assert_close(query(images, 7), module(images)[:, 7].detach())


def test_single_logit_names_the_shard_that_is_missing(tmp_path: Path) -> None:
    path = written(tmp_path, [0, 6, 11])
    (tmp_path / shard_name(1, 2)).unlink()
    with pytest.raises(UnusableFile, match=r"top-layer-00002-of-00002\.safetensors is missing, which .* names"):
        SingleLogit.from_rows(network(), path, (3,))


# --- what is no such layer


def changed(path: Path, change: dict[str, Any]) -> None:
    content = json.loads(path.read_text())
    content["row_shards"]["shards"][1] |= change
    path.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"first_class": 6, "stop": 11, "shape": [5, 4]}, "begins at class 6, where the one before ends at 5"),
        ({"shape": [6, 5]}, r"is \(6, 5\) of F32, where its classes and .* make \(6, 4\)"),
        ({"dtype": "F16"}, "of F16, where its classes"),
        ({"stop": 12, "shape": [7, 4]}, r"'weight' is \(6, 4\) of float32, where .* says \(7, 4\)"),
        ({"file": "../top-layer-00002-of-00002.safetensors"}, "is no name of a file beside the index"),
        ({"file": "top-layer-00001-of-00002.safetensors"}, "belongs to another checkpoint"),
        ({"file": "weights.pt"}, r"weights\.pt is no safetensors file"),
        ({"sha256": 5}, "is no index of shards"),
        ({"more": 5}, "is no index of shards"),
    ],
)
def test_an_index_that_does_not_fit_its_shards(tmp_path: Path, change: dict[str, Any], reason: str) -> None:
    path = written(tmp_path, [0, 5, 11])
    torch.save({}, tmp_path / "weights.pt")
    changed(path, change)
    with pytest.raises(UnusableFile, match=reason) as raised:
        open_tensors(path)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("content", "reason"),
    [("", "is no index of shards"), ("{}", "names no tensors"), ("[1]", "is no index"), ('{"weight_map": 3}', "is no")],
)
def test_what_is_no_index(tmp_path: Path, content: str, reason: str) -> None:
    (tmp_path / INDEX).write_text(content)
    with pytest.raises(UnusableFile, match=reason):
        open_tensors(tmp_path / INDEX)


def test_a_shard_of_another_shape(tmp_path: Path) -> None:
    path = written(tmp_path, [0, 5, 11])
    name = json.loads(path.read_text())["row_shards"]["layer"]
    write_shard(tmp_path / shard_name(1, 2), torch.zeros(6, 3), torch.zeros(6), first_class=5, layer=name)
    with pytest.raises(UnusableFile, match=r"'weight' is \(6, 3\) of float32, where .* says \(6, 4\)"):
        open_tensors(path)
    write_shard(tmp_path / shard_name(1, 2), torch.zeros(6, 4), None, first_class=5, layer=name)
    with pytest.raises(UnusableFile, match="'bias' is not there"):
        open_tensors(path)


def test_a_shard_of_another_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    path, _ = written(tmp_path, [0, 5, 11]), written(tmp_path / "other", [0, 5, 11])
    os.replace(tmp_path / "other" / shard_name(1, 2), tmp_path / shard_name(1, 2))
    with pytest.raises(UnusableFile, match=r"top-layer-00002-of-00002\.safetensors belongs to another checkpoint"):
        open_tensors(path)


def test_an_altered_shard_is_found_by_its_digest(tmp_path: Path) -> None:
    path = written(tmp_path, [0, 5, 11])
    content = bytearray((tmp_path / shard_name(1, 2)).read_bytes())
    content[-1] ^= 1
    (tmp_path / shard_name(1, 2)).write_bytes(content)
    assert torch.equal(read_range(path, slice(0, 5), CLASSES)[0], layer()[0][:5]), "its other shards are as they were"
    for rows in (slice(4, 6), slice(10, 11)):
        with pytest.raises(UnusableFile, match=r"00002-of-00002\.safetensors was altered after it was written"):
            read_range(path, rows, CLASSES)
    with pytest.raises(UnusableFile, match="was altered"):
        ShardedTensors(path).verify()


def test_what_an_interrupt_or_a_full_disk_left(tmp_path: Path) -> None:
    """A shard that ends early, though its rows are not asked for; shards without their index, which is written last."""
    path = written(tmp_path, [0, 5, 11])
    shard = tmp_path / shard_name(1, 2)
    os.truncate(shard, shard.stat().st_size - 7)
    with pytest.raises(UnusableFile, match=r"00002-of-00002\.safetensors cannot be read .* cut short"):
        read_range(path, slice(0, 2), CLASSES)
    path.unlink()
    with pytest.raises(UnusableFile, match=r"index\.json cannot be read: No such file"):
        read_range(path, slice(0, 2), CLASSES)


def test_a_layer_of_another_number_of_classes(tmp_path: Path) -> None:
    with pytest.raises(UnusableFile, match="holds a layer of 11 classes, not of 12"):
        read_range(written(tmp_path, [0, 5, 11]), slice(0, 2), 12)


def test_a_whole_tensor_that_is_not_in_its_file(tmp_path: Path) -> None:
    save_file({"other": torch.ones(2)}, tmp_path / "backbone.safetensors")
    path = written(tmp_path, [0, 11], whole={"0.weight": "backbone.safetensors"})
    with pytest.raises(UnusableFile, match=r"backbone\.safetensors has no '0\.weight'"):
        open_tensors(path)


def test_what_is_no_layer_is_not_written(tmp_path: Path) -> None:
    shard = RowShard(file="a.safetensors", first_class=1, stop=3, shape=(2, 4), dtype="F32", sha256="")
    with pytest.raises(ValueError, match="begins at class 1, where the one before ends at 0"):
        write_index(tmp_path / INDEX, [shard], layer=new_layer())
    with pytest.raises(ValueError, match="must end in"):
        write_index(tmp_path / "index.json", [shard], layer=new_layer())
    assert os.listdir(tmp_path) == []


def test_a_huge_index_is_not_parsed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path, [0, 11])
    monkeypatch.setattr(shards_on_disk, "LARGEST_INDEX", 10)
    with pytest.raises(UnusableFile, match="too large for an index"):
        open_tensors(path)
