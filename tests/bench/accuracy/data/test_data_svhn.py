import pytest
import torch

from bench.accuracy import data
from bench.errors import UsageError


@pytest.mark.parametrize("folder", ["", "svhn"])
def test_the_published_files_are_read(tiny_svhn, folder):
    tiny = tiny_svhn(folder)
    dataset = data.load("svhn", data_dir=tiny.root)
    assert dataset.facts.input_shape == (3, 32, 32)
    assert (dataset.facts.train, dataset.facts.validation, dataset.facts.test) == (30, 10, 20)
    pixels, labels = tiny.test
    assert dataset.test.labels.tolist() == labels.tolist()  # the published 10 is the digit 0
    expected = torch.from_numpy(pixels).flatten(2).argsort(dim=2, stable=True)
    assert torch.equal(dataset.test.images(torch.arange(20)).flatten(2).argsort(dim=2, stable=True), expected)
    assert set(dataset.facts.checksums) == {"train_32x32.mat", "test_32x32.mat"}


def test_a_truncated_file_is_refused_by_name(tiny_svhn):
    tiny = tiny_svhn()
    path = tiny.path("test_32x32.mat")
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(UsageError, match=f"{path} is truncated or altered"):
        data.load("svhn", data_dir=tiny.root)


def test_a_missing_set_says_what_to_put_where(tmp_path):
    with pytest.raises(UsageError, match=f"put train_32x32.mat and test_32x32.mat into {tmp_path / 'svhn'}"):
        data.load("svhn", data_dir=tmp_path)


def test_a_missing_set_is_downloaded_by_torchvision(tiny_svhn, serve, tmp_path):
    tiny = tiny_svhn()
    serve({name: path.read_bytes() for name, path in tiny.files.items()})
    dataset = data.load("svhn", data_dir=tmp_path / "fresh")
    assert dataset.facts == data.load("svhn", data_dir=tiny.root).facts
    assert {path.name for path in (tmp_path / "fresh" / "svhn").iterdir()} == set(tiny.files)
