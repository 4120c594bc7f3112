"""The published sets themselves, where SLC_BENCH_DATA_DIR says that they are."""

import os
from pathlib import Path

import pytest
import torch

from bench.accuracy import data

pytestmark = pytest.mark.data

EXPECTED = {
    "mnist": (10, (1, 28, 28), 54_000, 6_000, 10_000),
    "fashion-mnist": (10, (1, 28, 28), 54_000, 6_000, 10_000),
    "svhn": (10, (3, 32, 32), 65_931, 7_326, 26_032),
    "cifar10": (10, (3, 32, 32), 45_000, 5_000, 10_000),
    "cifar100": (100, (3, 32, 32), 45_000, 5_000, 10_000),
    "omniglot": (1623, (1, 32, 32), 14 * 1623, 2 * 1623, 4 * 1623),
}

PLACES = {
    "mnist": ["MNIST/raw"],
    "fashion-mnist": ["FashionMNIST/raw"],
    "svhn": ["train_32x32.mat", "svhn/train_32x32.mat"],
    "cifar10": ["cifar-10-batches-bin", "cifar-10-batches-py"],
    "cifar100": ["cifar-100-python"],
    "omniglot": ["omniglot-py"],
}


@pytest.fixture(scope="module", params=EXPECTED)
def published(request):
    if "SLC_BENCH_DATA_DIR" not in os.environ:
        pytest.skip("SLC_BENCH_DATA_DIR names no folder of data sets")
    folder = Path(os.environ["SLC_BENCH_DATA_DIR"])
    if not any((folder / place).exists() for place in PLACES[request.param]):
        pytest.skip(f"{request.param} is not in {folder}")
    return data.load(request.param, data_dir=folder)


def test_counts_are_those_published(published):
    facts = published.facts
    found = (facts.classes, facts.input_shape, facts.train, facts.validation, facts.test)
    assert found == EXPECTED[published.name]
    assert facts.checksums
    assert not any("not, byte by byte" in note for note in facts.notes)


def test_every_class_is_in_every_split(published):
    for split in (published.train, published.validation, published.test):
        assert split.labels.unique().tolist() == list(range(published.facts.classes))


def test_images_are_normalised(published):
    images = published.train.images(torch.arange(0, len(published.train), 7)).double()
    assert images.mean((0, 2, 3)).abs().max() < 0.02
    assert (images.std((0, 2, 3)) - 1).abs().max() < 0.02


def test_the_nearest_class_mean_beats_chance(published):
    """Images and labels belong together: a classifier of class means is right far more often than by chance."""
    train = published.train.images(torch.arange(len(published.train))).flatten(1)
    means = torch.zeros(published.facts.classes, train.shape[1])
    means.index_add_(0, published.train.labels, train)
    means /= published.train.labels.bincount()[:, None]
    test = published.test.images(torch.arange(len(published.test))).flatten(1)
    right = (torch.cdist(test, means).argmin(1) == published.test.labels).double().mean().item()
    assert right > (1.15 if published.name == "svhn" else 2) / published.facts.classes
