import numpy as np
import pytest
import torch

from bench.accuracy.data import from_arrays
from bench.errors import UsageError

RANDOM = np.random.default_rng(0)
IMAGES = RANDOM.integers(0, 256, (60, 2, 5, 6), dtype=np.uint8)
LABELS = np.arange(60) % 3
TEST = (IMAGES[:9], LABELS[:9])


def build(images=IMAGES, labels=LABELS, test=TEST, **options):
    return from_arrays("mine", (images, labels), test, **options)


def test_arrays_become_a_data_set():
    dataset = build(class_names=["a", "b", "c"], split_seed=5)
    facts = dataset.facts
    assert (facts.name, facts.classes, facts.input_shape) == ("mine", 3, (2, 5, 6))
    assert (facts.train, facts.validation, facts.test, facts.split_seed) == (54, 6, 9, 5)
    assert (len(dataset.train), len(dataset.validation), len(dataset.test)) == (54, 6, 9)
    assert dataset.class_names == ("a", "b", "c")
    assert torch.bincount(dataset.validation.labels).tolist() == [2, 2, 2]
    assert any("validation: 0.1 of each class" in note and "seed 5" in note for note in facts.notes)
    assert any("normalised by channel: mean" in note for note in facts.notes)


def test_the_normalisation_is_that_of_the_examples_trained_on():
    dataset = build()
    trained_on = dataset.train.images(torch.arange(54)).double()
    assert trained_on.mean((0, 2, 3)).abs().max() < 1e-6
    assert (trained_on.var((0, 2, 3), correction=0) - 1).abs().max() < 1e-5
    assert dataset.validation.images(torch.arange(6)).double().mean().abs() > 1e-4


def test_training_and_validation_examples_are_those_given_each_once():
    unique = np.arange(60, dtype=np.float64).reshape(60, 1, 1, 1)
    dataset = build(unique, test=(unique[:9], LABELS[:9]))
    train, validation = (
        split.images(torch.arange(len(split))).flatten() for split in (dataset.train, dataset.validation)
    )
    assert len(set(torch.cat([train, validation]).tolist())) == 60
    both = sorted(zip(torch.cat([train, validation]).tolist(), _labels(dataset), strict=True))
    assert [label for _, label in both] == LABELS.tolist()


def _labels(dataset):
    return torch.cat([dataset.train.labels, dataset.validation.labels]).tolist()


def test_a_validation_split_in_hand_is_used():
    dataset = build(validation=(IMAGES[:6], LABELS[:6]))
    assert (len(dataset.train), len(dataset.validation)) == (60, 6)
    assert "validation: as published" in dataset.facts.notes


def test_tensors_floats_and_images_without_channels_are_taken():
    grey = torch.rand(60, 5, 6, dtype=torch.float64)
    dataset = build(grey, torch.from_numpy(LABELS).to(torch.int32), (grey[:9], LABELS[:9].astype(np.uint8)))
    assert dataset.facts.input_shape == (1, 5, 6)
    assert dataset.train.images([0]).dtype == torch.float32
    assert dataset.train.labels.dtype == torch.int64
    assert dataset.class_names == ("0", "1", "2")


def changed(array, at, value):
    array = array.copy()
    array[at] = value
    return array


FLOATS = IMAGES.astype(np.float32)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"labels": changed(LABELS, 4, -1)}, "mine, training data: label -1 of example 4 is out of range, 0 to 2"),
        (
            {"labels": changed(LABELS, 4, 3), "class_names": "abc"},
            "mine, training data: label 3 of example 4 is out of range, 0 to 2 are its classes",
        ),
        ({"test": (IMAGES[:9], LABELS[:9] + 1)}, "mine, test data: label 3 of example 2 is out of range, 0 to 2"),
        ({"images": changed(FLOATS, (7, 1, 2, 3), np.nan)}, "training data: image 7 holds values that are not finite"),
        (
            {"images": FLOATS, "test": (changed(FLOATS[:9], (8, 0, 0, 0), np.inf), LABELS[:9])},
            "test data: image 8 holds values that are not finite",
        ),
        ({"images": IMAGES[:59]}, "training data: 59 images, but labels of shape (60,)"),
        ({"labels": LABELS[:, None]}, "training data: 60 images, but labels of shape (60, 1)"),
        ({"labels": np.empty(0, np.int64)}, "training data: 60 images, but labels of shape (0,)"),
        ({"images": IMAGES.reshape(60, 60)}, "images have shape (60, 60), expected (n, channels, height, width)"),
        ({"images": IMAGES[:0], "labels": LABELS[:0]}, "images have shape (0, 2, 5, 6), expected"),
        ({"images": IMAGES.astype(np.int64)}, "images are int64, expected uint8 (0 to 255) or a floating type"),
        ({"labels": LABELS.astype(np.float32)}, "labels are float32, expected integers"),
        ({"labels": [None] * 60}, "mine, training data: no array of numbers"),
        ({"test": (IMAGES[:9, :1], LABELS[:9])}, "test data: images have shape (1, 5, 6), those to train on have"),
        ({"labels": LABELS * 0, "test": (IMAGES, LABELS * 0)}, "mine has 1 class; telling one from the others needs"),
        (
            {"images": IMAGES[:2], "labels": LABELS[:2], "test": (IMAGES[:2], LABELS[:2])},
            "mine: no class has two training examples, so none can be held out for validation",
        ),
    ],
)
def test_what_is_no_data_set_is_refused(arguments, message):
    with pytest.raises(UsageError) as refused:
        build(**arguments)
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)
