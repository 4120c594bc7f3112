"""A top layer on disk: what safetensors reads of it, and every way in which a file is no such thing."""

import os
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from archs import rows_on_disk
from archs.rows_on_disk import Rows, UnusableFile, open_tensors, weight_offset, write_rows

FEATURES, CLASSES = 6, 10


@pytest.fixture
def weight() -> Tensor:
    return torch.randn(CLASSES, FEATURES, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def bias() -> Tensor:
    return torch.arange(CLASSES, dtype=torch.float32)


def written(path: Path, weight: Tensor, bias: Tensor | None, dtype: torch.dtype = torch.float32) -> Path:
    chunks = [weight[:7], weight[7:]]
    write_rows(path, chunks, bias, classes=CLASSES, features=FEATURES, dtype=dtype, metadata={"network": "a"})
    return path


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_safetensors_reads_what_was_written_in_chunks(
    tmp_path: Path, weight: Tensor, bias: Tensor, dtype: torch.dtype
) -> None:
    path = written(tmp_path / "a.safetensors", weight, bias, dtype)
    loaded = load_file(path)
    assert torch.equal(loaded["weight"], weight.to(dtype))
    assert torch.equal(loaded["bias"], bias.to(dtype))
    assert open_tensors(path).metadata == {"network": "a"}
    assert os.listdir(tmp_path) == ["a.safetensors"]
    row = path.read_bytes()[weight_offset(path) + 3 * FEATURES * dtype.itemsize :][: FEATURES * dtype.itemsize]
    assert torch.equal(torch.frombuffer(bytearray(row), dtype=dtype), weight[3].to(dtype))


def saved(path: Path, tensors: dict[str, Tensor]) -> Path:
    save_file(tensors, path) if path.suffix == ".safetensors" else torch.save(tensors, path)
    return path


@pytest.mark.parametrize("name", ["a.safetensors", "a.pt"])
def test_single_rows(tmp_path: Path, weight: Tensor, bias: Tensor, name: str) -> None:
    rows = Rows(open_tensors(saved(tmp_path / name, {"fc.weight": weight, "fc.bias": bias})), "fc.weight", "fc.bias")
    assert (rows.classes, rows.features, rows.dtype, rows.has_bias) == (CLASSES, FEATURES, torch.float32, True)
    assert rows.row_bytes == 4 * (FEATURES + 1)
    assert rows.nbytes == CLASSES * rows.row_bytes
    for index in range(CLASSES):
        row, one_bias = rows.read(index)
        assert one_bias is not None
        assert torch.equal(row, weight[index : index + 1])
        assert torch.equal(one_bias, bias[index : index + 1])
        assert row.untyped_storage().nbytes() == 4 * FEATURES, "memory of its own: no view keeps the file mapped"
    for outside in (-1, CLASSES):
        with pytest.raises(ValueError, match=f"class {outside} is out of range: .* 0 to 9"):
            rows.read(outside)


@pytest.mark.parametrize("kernel", [(6, 1, 1), (3, 2, 1)])
def test_a_convolution_has_rows_too(tmp_path: Path, weight: Tensor, kernel: tuple[int, ...]) -> None:
    path = saved(tmp_path / "a.safetensors", {"head.weight": weight.reshape(CLASSES, *kernel)})
    row, bias = Rows(open_tensors(path), "head.weight", None).read(4)
    assert bias is None
    assert torch.equal(row, weight[4:5])


@pytest.mark.parametrize("wrap", [lambda s: s, lambda s: {"state_dict": s, "epoch": 3}, lambda s: {"model": s}])
def test_state_dicts_are_found_where_scripts_keep_them(
    tmp_path: Path, weight: Tensor, wrap: Callable[[object], object]
) -> None:
    torch.save(wrap({"module.fc.weight": weight}), tmp_path / "a.pth")
    assert open_tensors(tmp_path / "a.pth").names == ("fc.weight",)


# -- what is no such file -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a.safetensors", "a.pt"])
def test_a_file_that_is_not_there(tmp_path: Path, name: str) -> None:
    with pytest.raises(UnusableFile, match="there is no file"):
        open_tensors(tmp_path / name)


@pytest.mark.parametrize("name", ["a.safetensors", "a.pt"])
@pytest.mark.parametrize("keep", [0.0, 0.1, 0.5, 0.99])
def test_a_truncated_file(tmp_path: Path, weight: Tensor, name: str, keep: float) -> None:
    path = saved(tmp_path / name, {"weight": weight})
    os.truncate(path, int(keep * path.stat().st_size))
    with pytest.raises(UnusableFile, match=r"cut short|damaged"):
        open_tensors(path)


@pytest.mark.parametrize("name", ["a.safetensors", "a.pt"])
def test_a_file_cut_short_while_it_is_mapped(tmp_path: Path, name: str) -> None:
    """Read through the mapping, what is gone would end this process with SIGBUS."""
    rows = Rows(open_tensors(saved(tmp_path / name, {"weight": torch.ones(4096, 64)})), "weight", None)
    rows.read(0)
    os.truncate(rows.file.path, 8192)
    with pytest.raises(UnusableFile, match="was cut short after it was opened"):
        rows.read(4000)


class Malicious:
    def __reduce__(self) -> tuple[Callable[..., object], tuple[str]]:
        return os.mkdir, ("executed",)


def test_what_is_more_than_tensors_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"weight": Malicious()}, "a.pt")
    with pytest.raises(UnusableFile, match=r"more than tensors.* nothing of it was run"):
        open_tensors(Path("a.pt"))
    assert not Path("executed").exists()


def test_an_old_format_says_how_to_save_it_again(tmp_path: Path, weight: Tensor) -> None:
    torch.save({"weight": weight}, tmp_path / "a.pt", _use_new_zipfile_serialization=False)
    with pytest.raises(UnusableFile, match=r"before 1\.6 \(then load it and save it again"):
        open_tensors(tmp_path / "a.pt")
    (tmp_path / "b.pt").write_bytes(pickle.dumps([1]))
    with pytest.raises(UnusableFile, match=r"b\.pt"):
        open_tensors(tmp_path / "b.pt")


@pytest.mark.parametrize(
    ("content", "reason"),
    [([1], "holds a list"), ({}, "it is empty"), ({"epoch": 3}, "'epoch' is a int"), (torch.ones(2), "holds a Tensor")],
)
def test_what_is_no_state_dict(tmp_path: Path, content: object, reason: str) -> None:
    torch.save(content, tmp_path / "a.pt")
    with pytest.raises(UnusableFile, match=reason):
        open_tensors(tmp_path / "a.pt")


@pytest.mark.parametrize(
    ("tensors", "reason"),
    [
        ({"other": torch.ones(2, 3)}, "has no 'weight': there is no top layer"),
        ({"weight": torch.ones(2, 3)}, "has no 'bias'"),
        ({"weight": torch.ones(6), "bias": torch.ones(6)}, r"the shape \(6,\), not \(classes, features\)"),
        ({"weight": torch.ones(0, 3), "bias": torch.ones(0)}, r"\(0, 3\), not"),
        ({"weight": torch.ones(2, 3, dtype=torch.int8), "bias": torch.ones(2)}, "'weight' is not of float16"),
        ({"weight": torch.ones(2, 3), "bias": torch.ones(2, dtype=torch.int32)}, "'bias' is not of float16"),
        ({"weight": torch.ones(2, 3), "bias": torch.ones(3)}, "where 'weight' has 2 rows"),
    ],
)
@pytest.mark.parametrize("name", ["a.safetensors", "a.pt"])
def test_what_is_no_top_layer(tmp_path: Path, tensors: dict[str, Tensor], reason: str, name: str) -> None:
    with pytest.raises(UnusableFile, match=reason):
        Rows(open_tensors(saved(tmp_path / name, tensors)), "weight", "bias")


def test_a_closed_file_says_so(tmp_path: Path, weight: Tensor) -> None:
    rows = Rows(open_tensors(saved(tmp_path / "a.safetensors", {"weight": weight})), "weight", None)
    rows.file.close()
    rows.file.close()
    with pytest.raises(UnusableFile, match="was closed"):
        rows.read(0)


# -- writing ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("chunks", "bias", "reason"),
    [
        ([torch.ones(3, 6)], torch.ones(10), "3 rows, where 10 classes"),
        ([torch.ones(10, 6)], torch.ones(9), r"biases of shape \(9,\), where 10 classes"),
        ([torch.ones(10, 5)], None, r"a chunk of shape \(10, 5\), where rows have 6 features"),
    ],
)
def test_chunks_that_do_not_come_to_the_shape(
    tmp_path: Path, chunks: list[Tensor], bias: Tensor | None, reason: str
) -> None:
    with pytest.raises(ValueError, match=reason):
        write_rows(tmp_path / "a.safetensors", chunks, bias, classes=10, features=6, dtype=torch.float32)
    assert os.listdir(tmp_path) == []


def test_a_disk_without_room_is_told_before_anything_is_written(
    tmp_path: Path, weight: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rows_on_disk.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 1000}))
    with pytest.raises(UnusableFile, match=r"its disk has 0\.00 GB free: make room"):
        written(tmp_path / "a.safetensors", weight, None)
    assert os.listdir(tmp_path) == []


def test_room_is_looked_for_on_the_disk_of_a_folder_still_to_be_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Path] = []

    def usage(folder: Path) -> object:
        asked.append(folder)
        return type("Usage", (), {"free": 10**9})

    monkeypatch.setattr(rows_on_disk.shutil, "disk_usage", usage)
    path = tmp_path / "not" / "yet" / "a.safetensors"
    rows_on_disk.check_room(path, 10**9 - rows_on_disk.DISK_RESERVE_BYTES)
    with pytest.raises(UnusableFile, match=r"a\.safetensors needs 18,014,398\.51 GB and its disk has 1\.00 GB free"):
        rows_on_disk.check_room(path, 2**54)
    assert asked == [tmp_path, tmp_path]


def test_a_bias_of_one_number_is_written_in_parts(
    tmp_path: Path, weight: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rows_on_disk, "BIAS_CHUNK", 4)
    largest: list[int] = []
    to_bytes = rows_on_disk._bytes_of
    monkeypatch.setattr(
        rows_on_disk, "_bytes_of", lambda part, dtype: largest.append(len(part)) or to_bytes(part, dtype)
    )
    path = written(tmp_path / "a.safetensors", weight, torch.tensor([2.5]).expand(CLASSES))
    assert torch.equal(load_file(path)["bias"], torch.full((CLASSES,), 2.5))
    assert largest == [7, 3, 4, 4, 2]


def test_a_folder_that_is_not_there(tmp_path: Path, weight: Tensor) -> None:
    with pytest.raises(UnusableFile, match="cannot be written: No such file"):
        written(tmp_path / "nowhere" / "a.safetensors", weight, None)
