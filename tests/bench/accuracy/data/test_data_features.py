"""`features:PATH`: what is read, and what is refused."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from bench.accuracy import data
from bench.accuracy.data import features
from bench.accuracy.data.features import FeatureSplit, read_header, verify
from bench.accuracy.data.splits import MemorySplit
from bench.errors import UsageError
from bench.machine.memory import peak_rss, reset_peak_rss

CLASSES, WIDTH = 4, 3
SIZES = {"train": 40, "validation": 8, "test": 12}


def values(part: str, dtype: str = "float32") -> np.ndarray:
    drawn = np.random.default_rng(len(part)).normal(size=(SIZES[part], WIDTH)).astype(np.float32)
    return bits(drawn) if dtype == "bfloat16" else drawn.astype(dtype)


def bits(array: np.ndarray) -> np.ndarray:
    """float32 as the bits of bfloat16."""
    return torch.from_numpy(array).bfloat16().view(torch.int16).numpy().view(np.uint16)


def labels(part: str) -> np.ndarray:
    return np.arange(SIZES[part]) % CLASSES


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return written(tmp_path / "some")


def written(path: Path, dtype: str = "float32", parts: tuple[str, ...] = ("train", "validation", "test")) -> Path:
    for part in parts:
        (path / part).mkdir(parents=True)
        np.save(path / part / "features.npy", values(part, dtype))
        np.save(path / part / "labels.npy", labels(part).astype(np.int32))
    header = {"classes": CLASSES} | ({"dtype": "bfloat16"} if dtype == "bfloat16" else {})
    (path / "features.json").write_text(json.dumps(header))
    return path


@pytest.mark.parametrize("held", [True, False])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "bfloat16"])
def test_what_was_written_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: str, held: bool) -> None:
    if not held:
        monkeypatch.setattr(features, "FLOAT_COPY_BYTES", 0)
    dataset = data.load(f"features:{written(tmp_path / 'some', dtype)}")
    assert dataset.facts.classes == CLASSES
    assert dataset.facts.input_shape == (WIDTH,)
    assert dataset.class_names == ()
    for part, split in (("train", dataset.train), ("validation", dataset.validation), ("test", dataset.test)):
        assert isinstance(split, MemorySplit if held else FeatureSplit)
        exact = torch.from_numpy(values(part))
        expected = exact.to(getattr(torch, dtype)).float()
        assert torch.equal(split.images(range(len(split))), expected)
        assert torch.equal(split.labels, torch.from_numpy(labels(part)))
        order = torch.tensor([[7, 0], [3, 7]])
        assert torch.equal(split.on("cpu").images(order), expected[order])
    assert "validation: as given" in dataset.facts.notes


@pytest.mark.parametrize("held", [True, False])
def test_without_validation_some_of_each_class_are_held_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, held: bool
) -> None:
    if not held:
        monkeypatch.setattr(features, "FLOAT_COPY_BYTES", 0)
    path = written(tmp_path / "some", parts=("train", "test"))
    first, again, other = (data.load(f"features:{path}", split_seed=seed) for seed in (1, 1, 2))
    assert (first.facts.train, first.facts.validation) == (36, 4)
    assert sorted(first.validation.labels.tolist()) == list(range(CLASSES))
    both = torch.cat([split.images(range(len(split))) for split in (first.train, first.validation)])
    assert sorted(both.tolist()) == sorted(values("train").tolist())
    assert first.facts == again.facts != other.facts
    assert torch.equal(first.validation.images(range(4)), again.validation.images(range(4)))


def test_a_class_without_a_training_example_is_told(folder: Path) -> None:
    (folder / "features.json").write_text(json.dumps({"classes": CLASSES + 2, "network": "resnet50"}))
    lines: list[str] = []
    dataset = data.load(f"features:{folder}", say=lines.append)
    line = "2 of 6 classes have not one example to train on"
    assert lines == [f"notice: features:{folder}: {line}"]
    assert line in dataset.facts.notes
    assert dataset.facts.notes[0] == "features of resnet50"


def test_a_change_is_another_data_set(folder: Path) -> None:
    before = data.load(f"features:{folder}").facts
    array = values("test")
    array[-1, -1] += 1
    np.save(folder / "test" / "features.npy", array)
    after = data.load(f"features:{folder}").facts
    assert [name for name in before.checksums if before.checksums[name] != after.checksums[name]] == [
        "test/features.npy, size and ends"
    ]


def spoil(path: Path, part: str, array: np.ndarray, name: str = "features.npy") -> None:
    np.save(path / part / name, array)


def with_nan(array: np.ndarray) -> np.ndarray:
    array[5, 1] = np.nan
    return array


def cut(file: Path, size: int) -> None:
    file.write_bytes(file.read_bytes()[:size])


REFUSED = {
    "no header": (lambda path: (path / "features.json").unlink(), "features.json is missing"),
    "no JSON": (lambda path: (path / "features.json").write_text("{"), "features.json: "),
    "no classes": (lambda path: (path / "features.json").write_text("{}"), "features.json: classes: Field required"),
    "one class": (lambda path: (path / "features.json").write_text('{"classes": 1}'), "has 1 class;"),
    "surplus": (
        lambda path: (path / "features.json").write_text('{"classes": 4, "klasses": 4}'),
        "features.json: klasses: ",
    ),
    "names": (
        lambda path: (path / "features.json").write_text('{"classes": 4, "class_names": ["a"]}'),
        "1 names for 4 classes",
    ),
    "no features": (lambda path: (path / "train" / "features.npy").unlink(), "train/features.npy is missing"),
    "no labels": (lambda path: (path / "test" / "labels.npy").unlink(), "test/labels.npy is missing"),
    "cut": (lambda path: cut(path / "train" / "features.npy", 300), "train/features.npy is cut short or no array"),
    "cut header": (lambda path: cut(path / "train" / "features.npy", 20), "train/features.npy is cut short or"),
    "empty": (lambda path: cut(path / "train" / "labels.npy", 0), "train/labels.npy is cut short or no array"),
    "too long": (
        lambda path: (path / "test" / "features.npy").open("ab").write(b"more"),
        "test/features.npy is cut short or no array of numbers (it has 276 bytes, and 272 by its header)",
    ),
    "label": (
        lambda path: spoil(path, "train", np.full(SIZES["train"], 4), "labels.npy"),
        "train/labels.npy: label 4 of example 0 is out of range, 0 to 3 are its classes",
    ),
    "negative label": (
        lambda path: spoil(path, "test", labels("test") - 1, "labels.npy"),
        "label -1 of example 0 is out of range",
    ),
    "huge label": (
        lambda path: spoil(path, "test", np.full(SIZES["test"], 2**64 - 1, np.uint64), "labels.npy"),
        "of example 0 is out of range",
    ),
    "label type": (
        lambda path: spoil(path, "test", labels("test") * 1.0, "labels.npy"),
        "labels are float64, expected integers",
    ),
    "label count": (
        lambda path: spoil(path, "test", labels("test")[1:], "labels.npy"),
        "labels have the shape (11,), features.npy beside it has 12 rows",
    ),
    "NaN": (
        lambda path: spoil(path, "train", with_nan(values("train"))),
        "train/features.npy: row 5 holds values that are not finite",
    ),
    "beyond float32": (
        lambda path: spoil(path, "train", values("train").astype(np.float64) * 1e300),
        "row 0 holds values that are not finite in float32",
    ),
    "dimensions": (lambda path: spoil(path, "test", values("test")[0]), "has the shape (3,), expected"),
    "none": (lambda path: spoil(path, "test", values("test")[:0]), "has the shape (0, 3), expected"),
    "width": (lambda path: spoil(path, "test", values("test")[:, :2].copy()), "has 2 features, "),
    "type": (lambda path: spoil(path, "test", values("test").astype(np.int32)), "is int32; give float16"),
    "byte order": (lambda path: spoil(path, "test", values("test").astype(">f4")), "is >f4; give float16"),
    "objects": (lambda path: spoil(path, "test", values("test").astype(object)), "is cut short or no array of numbers"),
    "order": (lambda path: spoil(path, "test", np.asfortranarray(values("test"))), "is in Fortran order"),
    "uint16": (
        lambda path: spoil(path, "test", bits(values("test"))),
        "is uint16, and features.json has dtype None; bfloat16 alone is stored as uint16",
    ),
}


@pytest.mark.parametrize("fault", REFUSED)
def test_what_cannot_be_right_is_refused_in_one_line(folder: Path, fault: str) -> None:
    cause, line = REFUSED[fault]
    cause(folder)
    with pytest.raises(UsageError) as refused:
        data.load(f"features:{folder}")
    assert line in str(refused.value)
    assert "\n" not in str(refused.value)


def test_what_is_no_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="names no folder"):
        data.load("features:")
    with pytest.raises(UsageError, match=r"features\.json is missing"):
        data.load(f"features:{tmp_path / 'nothing'}")
    with pytest.raises(UsageError, match="has no images"):
        data.load(f"features:{tmp_path}", input_size=32)


def test_what_is_mapped_is_checked_as_it_is_gathered(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "FLOAT_COPY_BYTES", 0)
    spoil(folder, "train", with_nan(values("train")))
    dataset = data.load(f"features:{folder}")
    assert dataset.train.images([0, 4, 6]).isfinite().all()
    with pytest.raises(UsageError, match="row 5 holds values that are not finite"):
        dataset.train.images([6, 5, 0])
    with pytest.raises(UsageError, match="row 5 holds values that are not finite"):
        verify(folder)
    cut(folder / "train" / "features.npy", 300)
    with pytest.raises(UsageError, match="was cut short after it was opened: restore it"):
        dataset.train.images([0])


@pytest.mark.skipif(not reset_peak_rss(), reason="this kernel does not let a process reset its peak memory")
def test_features_stay_on_disk(folder: Path) -> None:
    """Of 800 MB of zeros, which a file with holes holds in no space, the rows that are asked for are read."""
    shape = (200_000, 1000)
    for part, rows in (("train", shape[0]), ("validation", 10), ("test", 10)):
        np.lib.format.open_memmap(folder / part / "features.npy", "w+", np.float32, (rows, shape[1])).flush()
        np.save(folder / part / "labels.npy", np.arange(rows) % CLASSES)
    reset_peak_rss()
    before = peak_rss()
    dataset = data.load(f"features:{folder}")
    assert isinstance(dataset.train, FeatureSplit)
    assert dataset.train.images(range(0, shape[0], 1000)).shape == (200, shape[1])
    assert peak_rss() - before < 0.1 * 4 * shape[0] * shape[1]


def test_digests_are_compared_on_request(folder: Path) -> None:
    lines: list[str] = []
    assert verify(folder, lines.append) == 0
    assert any("not finite" in line for line in lines)
    digest = features.file_digest(folder / "test" / "labels.npy", "sha256")
    header = {"classes": CLASSES, "digests": {"test/labels.npy": f"sha256:{digest}"}}
    (folder / "features.json").write_text(json.dumps(header))
    assert read_header(folder).digests == header["digests"]
    assert verify(folder) == 1
    spoil(folder, "test", labels("test")[::-1].copy(), "labels.npy")
    with pytest.raises(UsageError, match="is not what was written"):
        verify(folder)


@pytest.mark.gpu
def test_features_come_on_a_gpu(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "FLOAT_COPY_BYTES", 0)
    moved = data.load(f"features:{folder}").on("cuda").train.images(torch.tensor([3, 1], device="cuda"))
    assert moved.device.type == "cuda"
    assert torch.equal(moved.cpu(), torch.from_numpy(values("train")[[3, 1]]))
