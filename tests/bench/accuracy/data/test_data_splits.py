import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.accuracy import data
from bench.accuracy.data import splits
from bench.accuracy.data.normalisation import Normalisation, fitted
from bench.accuracy.data.splits import MemorySplit

PIXELS = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (30, 3, 4, 5), dtype=np.uint8))
LABELS = torch.arange(30) % 7


@pytest.fixture(params=["a float32 copy", "uint8"])
def split(request, monkeypatch):
    """Small splits are kept normalised, large ones as uint8: what they give must be the same."""
    monkeypatch.setattr(splits, "FLOAT_COPY_BYTES", PIXELS.numel() * 4 if request.param == "a float32 copy" else 0)
    return MemorySplit(PIXELS, LABELS, Normalisation((0.1, 0.2, 0.3), (0.5, 0.6, 0.7), 255))


def expected(indices):
    mean, std = torch.tensor([0.1, 0.2, 0.3]).view(3, 1, 1), torch.tensor([0.5, 0.6, 0.7]).view(3, 1, 1)
    return ((PIXELS[indices].double() / 255 - mean) / std).float()


def test_images_are_gathered_and_normalised(split):
    indices = torch.tensor([29, 0, 0, 7])
    images = split.images(indices)
    assert images.dtype == torch.float32
    assert images.is_contiguous()
    torch.testing.assert_close(images, expected(indices), atol=2e-6, rtol=0)


def test_stacked_indices_give_stacked_images(split):
    indices = torch.arange(12).reshape(4, 3).flip(0)
    images = split.images(indices)
    assert images.shape == (4, 3, 3, 4, 5)
    for row in range(4):
        assert torch.equal(images[row], split.images(indices[row]))


def test_plain_indices_and_seeds_are_taken(split):
    assert torch.equal(split.images([3, 1]), split.images(torch.tensor([3, 1]), seed=9))
    assert torch.equal(split.images(np.array([3, 1])), split.images(torch.tensor([3, 1], dtype=torch.int32)))


def test_a_split_says_what_it_holds(split):
    assert len(split) == 30
    assert split.input_shape == (3, 4, 5)
    assert torch.equal(split.labels, LABELS)
    with pytest.raises(IndexError):
        split.images(torch.tensor([30]))


def test_images_in_hand_are_not_those_of_the_split(split):
    before = split.images([0]).clone()
    split.images([0]).zero_()
    assert torch.equal(split.images([0]), before)


def test_prefetch_gives_the_same_in_order(split):
    batches = [(torch.tensor([number, 29 - number]), None) for number in range(5)]
    for (indices, _), images in zip(batches, split.prefetch(batches), strict=True):
        assert torch.equal(images, split.images(indices))


def test_on_the_same_device_nothing_is_copied(split):
    assert split.on("cpu").images([1]).equal(split.images([1]))
    assert split.on("cpu")._pixels.data_ptr() == split._pixels.data_ptr()


def test_on_another_device_everything_but_the_labels_is_there(split):
    moved = split.on("meta")
    assert moved.images(torch.tensor([1, 2], device="meta")).shape == (2, 3, 4, 5)
    assert moved.images(torch.tensor([1, 2], device="meta")).device.type == "meta"
    assert moved.labels.device.type == "cpu"
    assert split.images([1]).device.type == "cpu"


@pytest.mark.gpu
def test_a_gpu_gives_the_same_images(split):
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    moved = split.on("cuda")
    images = moved.images(torch.arange(30).reshape(5, 6))
    assert images.device.type == "cuda"
    torch.testing.assert_close(images.cpu(), split.images(torch.arange(30).reshape(5, 6)), atol=1e-6, rtol=0)


def test_a_data_set_moves_as_a_whole():
    digits = data.load("digits").on("meta")
    for split in (digits.train, digits.validation, digits.test):
        assert split.images(torch.zeros(1, dtype=torch.int64, device="meta")).device.type == "meta"
        assert split.labels.device.type == "cpu"


def test_a_split_can_be_sent_to_another_process(split):
    assert torch.equal(pickle.loads(pickle.dumps(split)).images([2, 1]), split.images([2, 1]))


@settings(deadline=None)
@given(st.lists(st.integers(0, 29), min_size=1, max_size=20))
def test_both_ways_to_keep_pixels_agree(indices):
    normalisation = fitted(PIXELS)
    ready = MemorySplit(PIXELS, LABELS, normalisation)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(splits, "FLOAT_COPY_BYTES", 0)
        late = MemorySplit(PIXELS, LABELS, normalisation)
    assert late._pixels.dtype == torch.uint8
    assert ready._pixels.dtype == torch.float32
    torch.testing.assert_close(ready.images(indices), late.images(indices), atol=1e-6, rtol=0)
