import gzip

import numpy as np
import pytest
import torch
from torchvision import datasets

from bench.accuracy import data
from bench.errors import UsageError

SOURCES = {"mnist": datasets.MNIST, "fashion-mnist": datasets.FashionMNIST}


@pytest.fixture(params=SOURCES)
def name(request):
    return request.param


def order_of(split):
    """What normalisation leaves of images: their pixels in order of their values, ties by place."""
    return split.images(torch.arange(len(split))).flatten(1).argsort(dim=1, stable=True)


def test_the_published_archives_are_read(name, tiny_mnist):
    tiny = tiny_mnist(SOURCES[name])
    before = sorted(tiny.root.rglob("*"))
    dataset = data.load(name, data_dir=tiny.root)
    assert dataset.facts.input_shape == (1, 28, 28)
    assert (dataset.facts.train, dataset.facts.validation, dataset.facts.test) == (30, 10, 20)
    expected = tuple("0123456789") if name == "mnist" else tuple(SOURCES[name].classes)
    assert dataset.class_names == expected
    pixels, labels = tiny.test
    assert dataset.test.labels.tolist() == labels.tolist()
    expected = torch.from_numpy(pixels).flatten(1).argsort(dim=1, stable=True)
    assert torch.equal(order_of(dataset.test), expected)
    assert dataset.facts.checksums == {name: f"md5:{md5}" for name, md5 in SOURCES[name].resources}
    assert sorted(tiny.root.rglob("*")) == before  # a folder that may only be read is enough


def test_unpacked_files_are_read(name, tiny_mnist):
    tiny = tiny_mnist(SOURCES[name], packed=False)
    dataset = data.load(name, data_dir=tiny.root)
    assert dataset.test.labels.tolist() == tiny.test[1].tolist()
    assert set(dataset.facts.checksums) == set(tiny.files)
    assert all(digest.startswith("md5:") for digest in dataset.facts.checksums.values())
    unpublished = [note for note in dataset.facts.notes if "no digest of the unpacked file is published" in note]
    assert len(unpublished) == (4 if name == "fashion-mnist" else 0)


def test_a_truncated_archive_is_refused_by_name(name, tiny_mnist):
    tiny = tiny_mnist(SOURCES[name])
    path = tiny.path("train-images-idx3-ubyte")
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(UsageError, match=f"{path} is truncated or altered"):
        data.load(name, data_dir=tiny.root)


def test_an_altered_unpacked_file_is_refused_by_name(tiny_mnist):
    tiny = tiny_mnist(packed=False)
    path = tiny.path("t10k-images-idx3-ubyte")
    content = bytearray(path.read_bytes())
    content[100] ^= 1
    path.write_bytes(content)
    with pytest.raises(UsageError, match=f"{path} is truncated or altered"):
        data.load("mnist", data_dir=tiny.root)


@pytest.mark.parametrize("kept", [3, 12, -9])
def test_a_truncated_unpacked_file_without_a_published_digest_is_refused_too(tiny_mnist, kept):
    tiny = tiny_mnist(datasets.FashionMNIST, packed=False)
    path = tiny.path("train-images-idx3-ubyte")
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(UsageError, match=f"{path} is no IDX file, or is truncated"):
        data.load("fashion-mnist", data_dir=tiny.root)


def test_a_label_out_of_range_is_refused(tiny_mnist):
    tiny = tiny_mnist(labels_up_to=11)
    with pytest.raises(UsageError, match="mnist, training data: label 10 of example 10 is out of range, 0 to 9"):
        data.load("mnist", data_dir=tiny.root)


def test_a_missing_set_says_what_to_put_where(name, tmp_path):
    with pytest.raises(UsageError) as refused:
        data.load(name, data_dir=tmp_path)
    message = str(refused.value)
    assert message.startswith(f"{name} is not here and could not be downloaded (")
    assert "no network in tests" in message
    folder = tmp_path / SOURCES[name].__name__ / "raw"
    assert message.endswith(
        "put train-images-idx3-ubyte.gz, train-labels-idx1-ubyte.gz, t10k-images-idx3-ubyte.gz, "
        f"t10k-labels-idx1-ubyte.gz into {folder}"
    )
    assert list(tmp_path.iterdir()) == []


def test_a_missing_set_is_downloaded_by_torchvision(name, tiny_mnist, serve, tmp_path, capfd):
    tiny = tiny_mnist(SOURCES[name])
    asked = serve({path.name: path.read_bytes() for path in tiny.files.values()})
    lines: list[str] = []
    fresh = data.load(name, data_dir=tmp_path / "fresh", say=lines.append)
    assert fresh.facts == data.load(name, data_dir=tiny.root).facts
    assert {address.rpartition("/")[2] for address in asked} == {path.name for path in tiny.files.values()}
    assert any(line.startswith(f"downloading {name}: ") and "%" in line for line in lines)
    assert capfd.readouterr() == ("", "")
    asked.clear()
    assert data.load(name, data_dir=tmp_path / "fresh").facts == fresh.facts
    assert asked == []


def test_a_download_that_is_cut_short_is_refused_and_thrown_away(tiny_mnist, serve, tmp_path):
    tiny = tiny_mnist()
    serve({path.name: path.read_bytes()[:-5] for path in tiny.files.values()})
    with pytest.raises(UsageError, match=r"could not be downloaded .*corrupted"):
        data.load("mnist", data_dir=tmp_path / "fresh")
    assert list((tmp_path / "fresh").iterdir()) == []


def test_images_and_labels_that_do_not_match_are_refused(tiny_mnist, monkeypatch):
    tiny = tiny_mnist(datasets.FashionMNIST, packed=False)
    labels = tiny.path("train-labels-idx1-ubyte")
    labels.write_bytes(labels.read_bytes()[:4] + np.array(30, ">u4").tobytes() + bytes(30))
    with pytest.raises(UsageError, match=r"fashion-mnist, training data: 40 images, but labels of shape \(30,\)"):
        data.load("fashion-mnist", data_dir=tiny.root)


def test_the_published_digest_wins_over_an_unpacked_neighbour(tiny_mnist):
    tiny = tiny_mnist()
    path = tiny.path("t10k-labels-idx1-ubyte")
    other = gzip.decompress(path.read_bytes())[:8] + bytes(20)
    path.with_suffix("").write_bytes(other)
    assert data.load("mnist", data_dir=tiny.root).test.labels.tolist() == tiny.test[1].tolist()
