import math
import os
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision.transforms.v2 import functional as transforms

from bench.accuracy.data import decoding
from bench.accuracy.data.decoding import (
    CROP_AREA,
    CROP_RATIO,
    DiskSplit,
    augmentation,
    central_box,
    crop_box,
    evaluation_view,
)
from bench.accuracy.data.normalisation import Normalisation
from bench.errors import UsageError

PLAIN = Normalisation((0, 0, 0), (1, 1, 1), 255)
SIDES = st.integers(1, 400)


def picture(height, width, seed=0):
    values = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(values)


@pytest.fixture
def split(tmp_path):
    paths = []
    for number in range(12):
        path = tmp_path / f"{number}.png"
        picture(20 + 3 * number, 50 - 2 * number, seed=number).save(path)
        paths.append(str(path))
    return DiskSplit(paths, torch.arange(12) % 3, size=16, central=0.875, normalisation=PLAIN)


@settings(deadline=None)
@given(SIDES, SIDES, st.integers(0, 2**31))
def test_a_crop_lies_within_the_image(height, width, seed):
    top, left, tall, wide = crop_box(height, width, augmentation(seed, 0))
    assert 0 <= top <= top + tall <= height
    assert 0 <= left <= left + wide <= width
    assert tall >= 1
    assert wide >= 1


@settings(deadline=None)
@given(st.integers(100, 400), st.integers(100, 400), st.integers(0, 2**31))
def test_a_crop_has_the_published_area_and_shape(height, width, seed):
    _, _, tall, wide = crop_box(height, width, augmentation(seed, 0))
    slack = 1 + 1 / min(tall, wide)  # sides are whole pixels
    assert CROP_RATIO[0] / slack <= wide / tall <= CROP_RATIO[1] * slack
    assert CROP_AREA[0] / slack**2 <= tall * wide / (height * width) <= CROP_AREA[1]


def test_a_thin_image_gives_its_centre():
    """One hundred to one: no box of an allowed shape has 8 % of its area."""
    assert crop_box(10, 1000, augmentation(0, 0)) == central_box(10, 1000) == (0, (1000 - 13) // 2, 10, 13)
    assert central_box(1000, 9) == ((1000 - 12) // 2, 0, 12, 9)
    assert central_box(30, 40) == (0, 0, 30, 40)


def test_crops_are_spread_over_area_and_place():
    boxes = [crop_box(200, 200, augmentation(7, index)) for index in range(2000)]
    areas = np.array([tall * wide for _, _, tall, wide in boxes]) / 200**2
    middles = np.array([(top + tall / 2, left + wide / 2) for top, left, tall, wide in boxes]) / 200
    assert areas.min() < 0.1
    assert areas.max() > 0.9
    np.testing.assert_allclose(middles.mean(0), 0.5, atol=5 * 0.15 / math.sqrt(2000))


def test_evaluation_keeps_the_centre():
    values = np.zeros((40, 80, 3), np.uint8)
    values[:, 20:60] = 255
    assert evaluation_view(Image.fromarray(values), 40, 1.0).eq(255).all()
    assert evaluation_view(Image.fromarray(values), 40, 1.0).shape == (3, 40, 40)


def test_evaluation_at_the_images_own_size_is_the_image():
    image = picture(24, 24)
    assert torch.equal(evaluation_view(image, 24, 1.0), transforms.pil_to_tensor(image))


def test_images_without_a_seed_are_the_evaluation_view(split):
    images = split.images(torch.tensor([5, 0]))
    expected = [evaluation_view(decoding.decoded(split._paths[index]), 16, 0.875) for index in (5, 0)]
    torch.testing.assert_close(images, torch.stack(expected).float() / 255)
    assert images.shape == (2, 3, 16, 16)


def test_a_seed_and_an_index_give_one_image_whatever_is_beside_it(split):
    together = split.images(torch.tensor([3, 4, 5]), seed=1)
    assert torch.equal(split.images(torch.tensor([4]), seed=1)[0], together[1])
    assert torch.equal(split.images(torch.tensor([[5, 4], [4, 3]]), seed=1)[1, 1], together[0])
    assert not torch.equal(split.images(torch.tensor([4]), seed=2)[0], together[1])
    assert not torch.equal(split.images(torch.tensor([4]))[0], together[1])


def test_some_are_mirrored_and_some_are_not(tmp_path):
    """A picture that brightens to the right: mirrored, it brightens to the left."""
    path = tmp_path / "ramp.png"
    Image.fromarray(np.tile(np.linspace(0, 255, 64).astype(np.uint8)[None, :, None], (64, 1, 3))).save(path)
    split = DiskSplit([str(path)], torch.tensor([0]), size=16, central=1, normalisation=PLAIN)
    mirrored = 0
    for seed in range(200):
        image = split.images(torch.tensor([0]), seed=seed)[0, 0]
        mirrored += bool(image[:, 0].mean() > image[:, -1].mean())
    assert abs(mirrored - 100) < 5 * math.sqrt(200) / 2


def test_nothing_else_random_is_touched(split):
    torch.manual_seed(3)
    before = torch.get_rng_state()
    split.images(torch.arange(12), seed=0)
    assert torch.equal(torch.get_rng_state(), before)


def test_stacked_indices_give_stacked_images(split):
    indices = torch.tensor([[0, 1, 2], [2, 1, 0]])
    images = split.images(indices)
    assert images.shape == (2, 3, 3, 16, 16)
    assert torch.equal(images[0], images[1].flip(0))


def test_prefetch_gives_the_same_in_order_and_reads_ahead(split):
    batches = [(torch.tensor([number, 11 - number]), number % 3 or None) for number in range(6)]
    read = []

    def reading():
        for batch in batches:
            read.append(batch)
            yield batch

    images = split.prefetch(reading(), ahead=2)
    first = next(images)
    assert len(read) == 3
    everything = [first, *images]
    assert len(everything) == 6
    for (indices, seed), given_ in zip(batches, everything, strict=True):
        assert torch.equal(given_, split.images(indices, seed=seed))


def test_whoever_stops_early_waits_for_nothing(split):
    images = split.prefetch([(torch.arange(12), 0)] * 100, ahead=5)
    next(images)
    images.close()
    assert split.images(torch.tensor([0])).shape == (1, 3, 16, 16)


def test_a_split_can_be_sent_to_another_process(split):
    split.images(torch.tensor([0]))  # threads are at work by now
    sent = pickle.loads(pickle.dumps(split))
    assert torch.equal(sent.images(torch.tensor([2]), seed=1), split.images(torch.tensor([2]), seed=1))


def test_images_move_to_a_device(split):
    moved = split.on("meta")
    assert moved.images(torch.tensor([1, 2])).device.type == "meta"
    assert split.images(torch.tensor([1])).device.type == "cpu"
    assert moved.labels.device.type == "cpu"
    assert len(moved) == 12


@pytest.mark.gpu
def test_a_gpu_gives_the_same_images(split):
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    images = split.on("cuda").images(torch.arange(12), seed=1)
    assert images.device.type == "cuda"
    torch.testing.assert_close(images.cpu(), split.images(torch.arange(12), seed=1), atol=1e-6, rtol=0)


@pytest.mark.parametrize("content", [b"", b"no image", b"\x89PNG\r\n\x1a\n" + bytes(40), "cut short"])
def test_an_unreadable_image_is_named(split, content):
    path = split._paths[3]
    if isinstance(content, str):
        with open(path, "rb") as file:
            content = file.read()[:300]
    with open(path, "wb") as file:
        file.write(content)
    with pytest.raises(UsageError, match=f"{path} cannot be read as an image"):
        split.images(torch.arange(12))
    os.unlink(path)
    with pytest.raises(UsageError, match=f"{path} cannot be read as an image"):
        next(split.prefetch([(torch.arange(12), 1)]))


def test_grey_and_palette_images_become_rgb(tmp_path):
    for mode in ("L", "P", "RGBA", "1", "CMYK"):
        path = tmp_path / f"{mode}.tiff"
        picture(20, 20).convert(mode).save(path)
        assert decoding.decoded(path).mode == "RGB"


def test_a_fork_gets_threads_of_its_own():
    assert decoding.workers() is decoding.workers()
    assert decoding._pool(-1) is not decoding.workers()
