import numpy as np
import pytest
import torch
from PIL import Image

from bench.accuracy import data
from bench.accuracy.data import folders
from bench.accuracy.data.decoding import DiskSplit, decoded, evaluation_view
from bench.accuracy.data.splits import MemorySplit
from bench.errors import UsageError

PETS = {"train": {"cat": 30, "dog": 20, "eel": 2}, "val": {"cat": 4, "dog": 3, "eel": 1}}


def test_few_images_are_held_in_memory(image_folder):
    path = image_folder(PETS)
    dataset = data.load(f"folder:{path}")
    assert dataset.class_names == ("cat", "dog", "eel")
    assert dataset.facts.input_shape == (3, 32, 32)
    assert dataset.test.labels.tolist() == [0] * 4 + [1] * 3 + [2]
    assert dataset.validation.labels.tolist() == [0] * 3 + [1] * 2 + [2]
    assert dataset.facts.train == 52 - 6
    assert isinstance(dataset.train, MemorySplit)
    assert any("held in memory, not augmented" in note for note in dataset.facts.notes)


def test_test_images_are_the_central_squares(image_folder):
    path = image_folder(PETS)
    dataset = data.load(f"folder:{path}", input_size=24)
    files = sorted((path / "val" / "cat").iterdir()) + sorted((path / "val" / "dog").iterdir())
    expected = torch.stack([evaluation_view(decoded(file), 24, 1.0) for file in files])
    images = dataset.test.images(torch.arange(7))
    assert torch.equal(images.flatten(2).argsort(dim=2, stable=True), expected.flatten(2).argsort(dim=2, stable=True))


@pytest.mark.parametrize("streamed", [False, True])
def test_a_test_folder_makes_val_the_validation_split(image_folder, monkeypatch, streamed):
    if streamed:
        monkeypatch.setattr(folders, "IN_MEMORY_BYTES", 0)
    dataset = data.load(f"folder:{image_folder({**PETS, 'test': {'cat': 2, 'dog': 2, 'eel': 2}})}")
    assert (dataset.facts.train, dataset.facts.validation, dataset.facts.test) == (52, 8, 6)
    assert "validation: as published" in dataset.facts.notes


def test_a_test_folder_alone_is_enough(image_folder):
    dataset = data.load(f"folder:{image_folder({'train': PETS['train'], 'test': PETS['val']})}")
    assert (dataset.facts.train, dataset.facts.validation, dataset.facts.test) == (46, 6, 8)


def test_many_images_are_streamed_and_augmented(image_folder, monkeypatch):
    path = image_folder(PETS)
    held = data.load(f"folder:{path}")
    monkeypatch.setattr(folders, "IN_MEMORY_BYTES", 0)
    lines: list[str] = []
    dataset = data.load(f"folder:{path}", say=lines.append)
    assert isinstance(dataset.train, DiskSplit)
    assert torch.equal(dataset.train.labels, held.train.labels)
    assert torch.equal(dataset.validation.labels, held.validation.labels)
    assert dataset.facts.checksums == held.facts.checksums
    indices = torch.arange(4)
    assert not torch.equal(dataset.train.images(indices, seed=1), dataset.train.images(indices))
    assert lines == [f"listing the images in {path}", "taking the normalisation from 2,048 training images"]
    assert any("training images drawn by the split seed" in note for note in dataset.facts.notes)
    everything = dataset.train.images(torch.arange(46)).double()
    assert everything.mean((0, 2, 3)).abs().max() < 0.05
    assert (everything.std((0, 2, 3)) - 1).abs().max() < 0.05


def test_imagenet_is_streamed_from_its_folders(image_folder, tmp_path):
    parts = {"train": {"n01440764": 12, "n01443537": 11}, "val": {"n01440764": 2, "n01443537": 3}}
    image_folder(parts, name="imagenet", extension="JPEG")
    (tmp_path / "imagenet" / "test").mkdir()  # its published test images have no labels
    dataset = data.load("imagenet", data_dir=tmp_path)
    assert dataset.facts.input_shape == (3, 299, 299)
    assert dataset.class_names == ("n01440764", "n01443537")
    assert (dataset.facts.train, dataset.facts.validation, dataset.facts.test) == (21, 2, 5)
    assert isinstance(dataset.train, DiskSplit)
    assert dataset.test.images([0]).shape == (1, 3, 299, 299)
    small = data.load("imagenet", data_dir=tmp_path, input_size=64)
    assert small.train.images([0, 1], seed=3).shape == (2, 3, 64, 64)
    assert any("mean 0.485, 0.456, 0.406" in note for note in small.facts.notes)


def test_a_missing_imagenet_says_what_to_put_where(tmp_path):
    with pytest.raises(UsageError, match=f"put its images into {tmp_path}/imagenet/train/<wnid>"):
        data.load("imagenet", data_dir=tmp_path)


def test_an_empty_class_folder_is_refused_by_name(image_folder):
    path = image_folder(PETS)
    for file in (path / "val" / "dog").iterdir():
        file.rename(file.with_suffix(".txt"))
    with pytest.raises(UsageError, match=f"class folder {path / 'val' / 'dog'} is empty: no .jpg"):
        data.load(f"folder:{path}")


@pytest.mark.parametrize(("lacking", "having"), [("train", "val"), ("val", "train")])
def test_classes_must_be_the_same_in_both(image_folder, lacking, having):
    path = image_folder(PETS)
    (path / lacking / "eel").rename(path.parent / "gone")
    with pytest.raises(UsageError) as refused:
        data.load(f"folder:{path}")
    assert f"class folder eel is in {path / having} but not in {path / lacking}" in str(refused.value)


@pytest.mark.parametrize("parts", [{}, {"train": PETS["train"]}, {"val": PETS["val"], "test": PETS["val"]}])
def test_a_folder_without_its_parts_is_refused(image_folder, parts):
    path = image_folder(parts)
    with pytest.raises(UsageError, match=f"{path} needs a folder train and a folder val or test"):
        data.load(f"folder:{path}")


@pytest.mark.parametrize(("classes", "found"), [({"cat": 3}, "1 class"), ({}, "0 classes")])
def test_one_class_is_none(image_folder, classes, found):
    path = image_folder({"train": classes, "val": classes})
    for part in ("train", "val"):
        (path / part).mkdir(parents=True, exist_ok=True)
    with pytest.raises(UsageError, match=f"{path} has {found}; telling one from the others needs two"):
        data.load(f"folder:{path}")


@pytest.mark.parametrize("streamed", [False, True])
def test_nothing_to_hold_out_is_refused(image_folder, monkeypatch, streamed):
    if streamed:
        monkeypatch.setattr(folders, "IN_MEMORY_BYTES", 0)
    path = image_folder({"train": {"cat": 1, "dog": 1}, "val": {"cat": 1, "dog": 1}})
    with pytest.raises(UsageError, match="no class has two training examples"):
        data.load(f"folder:{path}")


def test_an_unreadable_image_is_named(image_folder):
    path = image_folder(PETS)
    broken = path / "train" / "dog" / "003.png"
    broken.write_bytes(broken.read_bytes()[:100])
    with pytest.raises(UsageError, match=f"{broken} cannot be read as an image"):
        data.load(f"folder:{path}")


def test_a_link_that_leads_nowhere_is_named(image_folder):
    path = image_folder(PETS)
    link = path / "train" / "dog" / "link.png"
    link.symlink_to(path / "nothing")
    with pytest.raises(UsageError, match=f"{link} cannot be read as an image"):
        data.load(f"folder:{path}")


def test_the_record_tells_folders_apart(image_folder):
    path = image_folder(PETS)
    before = data.load(f"folder:{path}").facts.checksums
    assert set(before) == {"train, names and sizes", "val, names and sizes"}
    Image.fromarray(np.zeros((9, 9, 3), np.uint8)).save(path / "val" / "cat" / "000.png")
    after = data.load(f"folder:{path}").facts.checksums
    assert before["train, names and sizes"] == after["train, names and sizes"]
    assert before["val, names and sizes"] != after["val, names and sizes"]


def test_progress_is_told(image_folder, monkeypatch):
    monkeypatch.setattr(folders, "_TELL_EVERY", 26)
    lines: list[str] = []
    data.load(f"folder:{image_folder(PETS)}", say=lines.append)
    assert lines[1:] == ["26 of 52 images read", "52 of 52 images read"]
