import pytest
import torch

from bench.accuracy import data
from bench.accuracy.data import omniglot
from bench.errors import UsageError

CLASSES = (
    *(f"Script_of_images_background/character{number:02}" for number in (1, 2, 3)),
    *(f"Script_of_images_evaluation/character{number:02}" for number in (1, 2)),
)


def test_the_drawings_of_every_character_are_split_14_2_4(tiny_omniglot):
    dataset = data.load("omniglot", data_dir=tiny_omniglot().parent)
    assert dataset.class_names == CLASSES
    for split, drawings in ((dataset.train, 14), (dataset.validation, 2), (dataset.test, 4)):
        assert split.labels.bincount().tolist() == [drawings] * 5
    assert dataset.facts.input_shape == (1, 32, 32)


def test_ink_is_high_and_where_it_was(tiny_omniglot):
    """Each tiny drawing is 30 x 40 pixels of ink; its top edge is 10 pixels lower with each character."""
    dataset = data.load("omniglot", data_dir=tiny_omniglot().parent)
    images = dataset.test.images(torch.arange(len(dataset.test)))[:, 0]
    darkest = images - images.amin((1, 2), keepdim=True)
    share = darkest.mean((1, 2)) / darkest.amax((1, 2))
    torch.testing.assert_close(share, torch.full_like(share, 30 * 40 / 105**2), atol=5e-3, rtol=0)
    rows = darkest.sum(2)
    tops = (rows > rows.amax(1, keepdim=True) / 2).int().argmax(1)
    characters = torch.tensor([int(CLASSES[label][-2:]) - 1 for label in dataset.test.labels.tolist()])
    assert (tops - characters * 10 * 32 / 105).abs().max() <= 1


def test_the_seed_moves_validation_drawings_and_never_test_drawings(tiny_omniglot):
    folder = tiny_omniglot().parent
    first, second = (data.load("omniglot", data_dir=folder, split_seed=seed) for seed in (0, 1))
    images = [dataset.test.images(torch.arange(20)).flatten(1) for dataset in (first, second)]
    assert torch.equal(*(image.argsort(dim=1, stable=True) for image in images))
    assert first.facts.notes != second.facts.notes
    assert first.facts.checksums == second.facts.checksums


def test_the_published_archives_are_read_without_unpacking(tiny_omniglot, tmp_path):
    folder = tiny_omniglot(packed=True)
    packed = data.load("omniglot", data_dir=tmp_path)
    assert set(packed.facts.checksums) == {"images_background.zip", "images_evaluation.zip", "drawings"}
    assert sorted(path.name for path in folder.iterdir()) == ["images_background.zip", "images_evaluation.zip"]


def test_archives_and_folders_hold_the_same(tiny_omniglot, tmp_path, monkeypatch):
    folder = tiny_omniglot()
    unpacked = data.load("omniglot", data_dir=tmp_path)
    folder.rename(tmp_path / "aside")
    tiny_omniglot(packed=True)
    packed = data.load("omniglot", data_dir=tmp_path)
    assert packed.facts.checksums["drawings"] == unpacked.facts.checksums["drawings"]
    assert torch.equal(packed.train.images(torch.arange(70)), unpacked.train.images(torch.arange(70)))
    assert packed.class_names == unpacked.class_names


def test_a_truncated_archive_is_refused_by_name(tiny_omniglot, tmp_path):
    archive = tiny_omniglot(packed=True) / "images_evaluation.zip"
    archive.write_bytes(archive.read_bytes()[:-30])
    with pytest.raises(UsageError, match=f"{archive} is truncated or altered"):
        data.load("omniglot", data_dir=tmp_path)


def test_missing_characters_and_drawings_are_named(tiny_omniglot, tmp_path):
    folder = tiny_omniglot()
    character = folder / CLASSES[1].replace("Script", "images_background/Script", 1)
    next(character.iterdir()).unlink()
    with pytest.raises(UsageError, match=f"{character} has 19 drawings, 20 are published"):
        data.load("omniglot", data_dir=tmp_path)
    character.rename(tmp_path / "elsewhere")
    with pytest.raises(UsageError, match=f"{folder / 'images_background'} has 2 characters, 3 are published"):
        data.load("omniglot", data_dir=tmp_path)


def test_a_drawing_that_is_no_image_is_named(tiny_omniglot, tmp_path):
    path = sorted(tiny_omniglot().glob("images_evaluation/*/character02/*.png"))[7]
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(UsageError, match=f"{path} cannot be read as an image"):
        data.load("omniglot", data_dir=tmp_path)


def test_one_altered_drawing_changes_the_digest(tiny_omniglot, tmp_path):
    folder = tiny_omniglot()
    before = data.load("omniglot", data_dir=tmp_path).facts.checksums
    first, second = sorted(folder.glob("images_evaluation/*/character02/*.png"))[:2]
    first.write_bytes(second.read_bytes())
    assert data.load("omniglot", data_dir=tmp_path).facts.checksums != before


def test_unpacked_drawings_that_are_not_the_published_ones_are_noted(tiny_omniglot, tmp_path, monkeypatch):
    def noted():
        notes = data.load("omniglot", data_dir=tmp_path).facts.notes
        return any("not, byte by byte, the published ones" in note for note in notes)

    folder = tiny_omniglot()
    assert noted()
    found = data.load("omniglot", data_dir=tmp_path).facts.checksums["drawings"]
    monkeypatch.setattr(omniglot, "PUBLISHED_DRAWINGS", found)
    assert not noted()
    first, second = sorted(folder.glob("images_evaluation/*/character02/*.png"))[:2]
    first.write_bytes(second.read_bytes())
    assert noted()


def test_a_missing_set_says_what_to_put_where(tmp_path):
    with pytest.raises(UsageError, match=r"put images_background\.zip and images_evaluation\.zip, or the folders"):
        data.load("omniglot", data_dir=tmp_path)


def test_a_missing_set_is_downloaded_by_torchvision(tiny_omniglot, serve, tmp_path):
    folder = tiny_omniglot(packed=True)
    serve({path.name: path.read_bytes() for path in folder.iterdir()})
    fresh = data.load("omniglot", data_dir=tmp_path / "fresh")
    assert fresh.facts == data.load("omniglot", data_dir=tmp_path).facts
