import pickle
import tarfile

import pytest
import torch
from torchvision import datasets

from bench.accuracy import data
from bench.accuracy.data import cifar, splits
from bench.errors import UsageError

SOURCES = {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}


class Bomb:
    """Unpickling it leaves a mark."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return (open, (str(self.mark), "w"))


def assert_is(dataset, tiny):
    pixels, labels = tiny.test
    assert dataset.facts.input_shape == (3, 32, 32)
    assert dataset.test.labels.tolist() == labels.tolist()
    expected = torch.from_numpy(pixels).flatten(2).argsort(dim=2, stable=True)
    assert torch.equal(dataset.test.images(torch.arange(len(labels))).flatten(2).argsort(dim=2, stable=True), expected)
    both = torch.cat([dataset.train.labels, dataset.validation.labels])
    assert torch.equal(both.bincount(), torch.from_numpy(tiny.train[1]).bincount())


@pytest.mark.parametrize("name", SOURCES)
def test_the_pickled_version_is_read(name, tiny_cifar, monkeypatch):
    monkeypatch.setattr(splits, "FLOAT_COPY_BYTES", 0)  # as the real one: uint8
    tiny = tiny_cifar(SOURCES[name])
    dataset = data.load(name, data_dir=tiny.root)
    assert_is(dataset, tiny)
    classes = 10 if name == "cifar10" else 100
    assert dataset.class_names == tuple(f"class {label}" for label in range(classes))
    assert set(dataset.facts.checksums) == {*tiny.files, SOURCES[name].meta["filename"]}
    assert dataset.facts.validation == (20 if name == "cifar10" else 100)


def test_the_binary_version_is_read(tiny_cifar_binary):
    tiny = tiny_cifar_binary()
    dataset = data.load("cifar10", data_dir=tiny.root)
    assert_is(dataset, tiny)
    assert dataset.class_names == cifar.CIFAR10_CLASSES
    assert dataset.facts.checksums == {name: f"sha1:{sha1}" for name, sha1 in cifar.BINARY_SHA1.items()}
    assert (dataset.facts.train, dataset.facts.validation, dataset.facts.test) == (180, 20, 40)


def test_the_classes_are_those_of_the_pickled_version():
    """In alphabetical order, as published."""
    assert sorted(cifar.CIFAR10_CLASSES) == list(cifar.CIFAR10_CLASSES)
    assert len(cifar.CIFAR10_CLASSES) == 10


@pytest.mark.parametrize("batch", ["data_batch_3.bin", "test_batch.bin"])
def test_a_truncated_binary_batch_is_refused_by_name(tiny_cifar_binary, batch):
    tiny = tiny_cifar_binary()
    tiny.path(batch).write_bytes(tiny.path(batch).read_bytes()[:-1])
    with pytest.raises(UsageError, match=f"{tiny.path(batch)} is truncated or altered: its SHA1"):
        data.load("cifar10", data_dir=tiny.root)


def test_a_binary_batch_of_no_whole_records_is_refused(tmp_path):
    path = tmp_path / "data_batch_1.bin"
    for content in (b"", bytes(3074)):
        path.write_bytes(content)
        with pytest.raises(UsageError, match=f"{path} is truncated"):
            cifar._records(path)


def test_a_missing_binary_batch_is_named(tiny_cifar_binary):
    tiny = tiny_cifar_binary()
    tiny.path("data_batch_4.bin").unlink()
    with pytest.raises(UsageError, match=f"{tiny.path('data_batch_4.bin')} is missing"):
        data.load("cifar10", data_dir=tiny.root)


def test_a_label_out_of_range_is_refused(tiny_cifar_binary):
    with pytest.raises(UsageError, match="cifar10, training data: label 10 of example 10 is out of range"):
        data.load("cifar10", data_dir=tiny_cifar_binary(labels_up_to=11).root)


@pytest.mark.parametrize("file", ["data_batch_2", "test_batch", "batches.meta"])
def test_nothing_is_unpickled_that_is_not_the_published_file(tiny_cifar, tmp_path, file):
    tiny, mark = tiny_cifar(), tmp_path / "executed"
    path = tiny.root / datasets.CIFAR10.base_folder / file
    path.write_bytes(pickle.dumps(Bomb(mark)))
    with pytest.raises(UsageError, match=f"{path} is truncated or altered"):
        data.load("cifar10", data_dir=tiny.root)
    assert not mark.exists()
    pickle.loads(path.read_bytes()).close()
    assert mark.exists()  # it would have


def packed(tiny, source, monkeypatch):
    """The published folder as the published archive; the folder itself goes."""
    archive = tiny.root / source.filename
    folder = tiny.root / source.base_folder
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(folder, source.base_folder)
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()
    monkeypatch.setattr(source, "tgz_md5", datasets.utils.calculate_md5(archive))
    return archive


def test_the_published_archive_is_unpacked(tiny_cifar, monkeypatch):
    tiny = tiny_cifar()
    archive = packed(tiny, datasets.CIFAR10, monkeypatch)
    lines: list[str] = []
    assert_is(data.load("cifar10", data_dir=tiny.root, say=lines.append), tiny)
    assert lines == [f"unpacking {archive}"]
    assert {path.name for path in tiny.root.iterdir()} == {archive.name, datasets.CIFAR10.base_folder}


def test_a_truncated_archive_is_refused_by_name(tiny_cifar, monkeypatch):
    tiny = tiny_cifar()
    archive = packed(tiny, datasets.CIFAR10, monkeypatch)
    archive.write_bytes(archive.read_bytes()[:-20])
    with pytest.raises(UsageError, match=f"{archive} is truncated or altered"):
        data.load("cifar10", data_dir=tiny.root)
    assert [path.name for path in tiny.root.iterdir()] == [archive.name]


@pytest.mark.parametrize("name", SOURCES)
def test_a_missing_set_is_downloaded_by_torchvision(name, tiny_cifar, monkeypatch, serve, tmp_path):
    tiny = tiny_cifar(SOURCES[name])
    archive = packed(tiny, SOURCES[name], monkeypatch)
    serve({archive.name: archive.read_bytes()})
    assert_is(data.load(name, data_dir=tmp_path / "fresh"), tiny)


@pytest.mark.parametrize("name", SOURCES)
def test_a_missing_set_says_what_to_put_where(name, tmp_path):
    with pytest.raises(UsageError) as refused:
        data.load(name, data_dir=tmp_path)
    assert f"{name} is not here and could not be downloaded" in str(refused.value)
    assert str(tmp_path / SOURCES[name].base_folder) in str(refused.value)
    assert f"{SOURCES[name].filename} into {tmp_path}" in str(refused.value)
