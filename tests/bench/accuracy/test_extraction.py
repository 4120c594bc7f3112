"""Features written from a network: what its top layer is given, whole or not at all."""

import os
import resource
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn

from archs import registry
from bench.accuracy import data, extraction, networks
from bench.accuracy.data import folders
from bench.accuracy.data.decoding import DiskSplit
from bench.accuracy.data.features import read_header, verify
from bench.accuracy.extraction import ExtractionRequest, extract
from bench.errors import UsageError


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Three classes of four images to train and two to test on, 10 x 12 pixels."""
    drawn = np.random.default_rng(0)
    for part, count in (("train", 4), ("test", 2)):
        for name in "abc":
            folder = tmp_path / "images" / part / name
            folder.mkdir(parents=True)
            for number in range(count):
                Image.fromarray(drawn.integers(0, 256, (10, 12, 3), dtype=np.uint8)).save(folder / f"{number}.png")
    return tmp_path / "images"


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """The weights of a cnn for 3 classes of 32 x 32 pixels."""
    save_file(trained().state_dict(), tmp_path / "cnn.safetensors")
    return tmp_path / "cnn.safetensors"


def trained() -> nn.Module:
    network = networks.build("cnn", (3, 32, 32), 3, seed=8)
    network(torch.randn(16, 3, 32, 32, generator=torch.Generator().manual_seed(0)))  # statistics of its batch norm
    return network.eval()


def asked(tmp_path: Path, **options: Any) -> ExtractionRequest:
    return ExtractionRequest(**{"arch": "cnn", "output": tmp_path / "made", "device": "cpu", **options})


def test_features_are_the_input_of_the_top_layer(tmp_path: Path, images: Path, checkpoint: Path) -> None:
    lines: list[str] = []
    written = extract(asked(tmp_path, images=images, checkpoint=checkpoint, batch_size=5), lines.append)
    assert (written.features, dict(written.examples)) == (1024, {"train": 12, "test": 6})
    assert "train: 12 of 12 examples" in lines
    found = data.load(f"features:{written.path}")
    assert found.class_names == ("a", "b", "c")
    assert found.test.labels.tolist() == [0, 0, 1, 1, 2, 2]
    pixels = torch.stack(
        [torch.from_numpy(np.array(view(path))).permute(2, 0, 1) for path in sorted((images / "test").rglob("*.png"))]
    )
    mean, std = (torch.tensor(values)[:, None, None] for values in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    network = trained()
    top = network[-1]  # type: ignore[index]
    assert isinstance(top, nn.Linear)
    with torch.no_grad():
        logits = network((pixels / 255 - mean) / std)
        torch.testing.assert_close(top(found.test.images(range(6))), logits, rtol=1e-4, atol=1e-4)


def view(path: Path) -> Image.Image:
    """The central 87.5 % of the shorter side at 32 x 32: resized so that the shorter side is 37, then cropped."""
    image = Image.open(path)
    width = round(37 * image.width / image.height - 0.5)
    resized = image.resize((width, 37), Image.Resampling.BILINEAR)
    left, top = round((width - 32) / 2), round((37 - 32) / 2)
    return resized.crop((left, top, left + 32, top + 32))


def test_the_header_says_what_they_are(tmp_path: Path, images: Path, checkpoint: Path) -> None:
    request = asked(tmp_path, images=images, checkpoint=checkpoint, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
    header = read_header(extract(request).path)
    assert (header.classes, header.network, header.source, header.dtype) == (3, "cnn", str(images), "float32")
    assert header.weights.startswith("cnn.safetensors, sha256:")
    assert (
        "mean 0.5, 0.5, 0.5, standard deviation 0.25, 0.25, 0.25 of pixels / 255, as given" in header.preprocessing[1]
    )
    assert set(header.digests) == {
        f"{part}/{name}.npy" for part in ("train", "test") for name in ("features", "labels")
    }
    assert verify(tmp_path / "made") == 4


def test_a_registered_network_with_a_state_dict_of_another_class_count(tmp_path: Path, images: Path) -> None:
    """torch.save's file, as training scripts leave it: prefixed by DataParallel, nested, with its own top layer."""
    network = registry.find("torchvision/resnet18").build()
    state = {f"module.{name}": tensor for name, tensor in network.state_dict().items()}
    torch.save({"state_dict": state}, tmp_path / "resnet18.pt")
    request = asked(
        tmp_path, arch="torchvision/resnet18", images=images, checkpoint=tmp_path / "resnet18.pt", input_size=40
    )
    written = extract(request)
    assert written.features == 512
    found = data.load(f"features:{written.path}")
    listing = folders.listed(images, print).test
    same = DiskSplit(
        listing.paths, listing.labels, size=40, central=0.875, normalisation=folders.IMAGENET_NORMALISATION
    )
    with torch.no_grad():
        logits = network(same.images(range(6)))
        torch.testing.assert_close(network.fc(found.test.images(range(6))), logits, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_a_named_data_set_in_every_type(tmp_path: Path, dtype: str) -> None:
    request = asked(tmp_path, arch="mlp", dataset="digits", random_weights=True, dtype=dtype, batch_size=500, seed=5)
    written = extract(request)
    digits, found = data.load("digits", split_seed=5), data.load(f"features:{written.path}")
    for name in ("train", "validation", "test"):
        own, other = getattr(found, name), getattr(digits, name)
        assert torch.equal(own.labels, other.labels)
        assert own.images([0]).shape == (1, 500)
    assert found.class_names == digits.class_names
    assert any("random weights, seed 5, never trained" in note for note in found.facts.notes)
    stored = np.load(written.path / "test" / "features.npy")
    assert stored.dtype == np.dtype({"bfloat16": "uint16"}.get(dtype, dtype))
    assert verify(written.path) == 6
    spread = found.train.images(range(1000)).std()
    assert 0.1 < float(spread) < 10  # batch norm has statistics of its inputs


def test_heads_can_be_trained_on_them(tmp_path: Path) -> None:
    """A linear layer on features of random weights: far above chance, so labels and rows belong together."""
    extract(asked(tmp_path, arch="mlp", dataset="digits", random_weights=True))
    found = data.load(f"features:{tmp_path / 'made'}")
    network = networks.build("linear", found.facts.input_shape, 10, seed=0)
    optimiser = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9)
    for _ in range(60):
        loss = nn.functional.cross_entropy(network(found.train.images(range(len(found.train)))), found.train.labels)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    right = network(found.test.images(range(len(found.test)))).argmax(1) == found.test.labels
    assert float(right.double().mean()) > 0.8


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "no images": ({"checkpoint": Path("x")}, "give either --images FOLDER or --dataset NAME"),
    "two sources": ({"images": Path("x"), "dataset": "digits", "random_weights": True}, "give either --images"),
    "no weights": ({"dataset": "digits"}, "give --checkpoint FILE"),
    "two weights": ({"dataset": "digits", "checkpoint": Path("x"), "random_weights": True}, "give --checkpoint FILE"),
    "type": ({"dataset": "digits", "random_weights": True, "dtype": "int8"}, "--dtype 'int8': must be one of float32"),
    "batch": ({"dataset": "digits", "random_weights": True, "batch_size": 0}, "--batch-size 0: must be 1 or more"),
    "mean": ({"images": Path("x"), "random_weights": True, "mean": (1.0,)}, "--mean: give three numbers"),
    "std": ({"images": Path("x"), "random_weights": True, "std": (1.0, 0.0, 1.0)}, "--std: standard deviations are"),
    "mean of a set": ({"dataset": "digits", "random_weights": True, "mean": (0.0,) * 3}, "are of --images"),
    "network": ({"dataset": "digits", "random_weights": True, "arch": "nothing"}, "not a network"),
    "network of images": ({"images": Path("x"), "random_weights": True, "arch": "nothing"}, "needs a folder train"),
    "no backbone": ({"dataset": "digits", "random_weights": True, "arch": "linear"}, "linear is a top layer alone"),
    "no file": ({"dataset": "digits", "arch": "mlp", "checkpoint": Path("nowhere.pt")}, "nowhere.pt"),
    "data set": ({"dataset": "digit", "random_weights": True}, "did you mean digits?"),
}


@pytest.mark.parametrize("fault", REFUSED)
def test_what_cannot_be_is_refused_in_one_line(tmp_path: Path, fault: str) -> None:
    options, line = REFUSED[fault]
    with pytest.raises(UsageError) as refused:
        extract(asked(tmp_path, **options))
    assert line in str(refused.value)
    assert "\n" not in str(refused.value)
    assert not list(tmp_path.iterdir())


def test_another_networks_checkpoint_is_refused(tmp_path: Path, images: Path, checkpoint: Path) -> None:
    with pytest.raises(UsageError, match=r"is no checkpoint of cnn: '18.weight' has the shape|no checkpoint of cnn"):
        extract(asked(tmp_path, images=images, checkpoint=checkpoint, input_size=64))
    with pytest.raises(UsageError, match=r"is no checkpoint of mlp: .*missing|is no checkpoint of mlp: .*shape"):
        extract(asked(tmp_path, arch="mlp", images=images, checkpoint=checkpoint))
    assert not (tmp_path / "made").exists()


def test_what_exists_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "made").mkdir()
    with pytest.raises(UsageError, match="made exists already; name another folder with --output"):
        extract(asked(tmp_path, dataset="digits", random_weights=True))


def left_over(tmp_path: Path) -> list[str]:
    return [path.name for path in tmp_path.iterdir() if "made" in path.name]


@pytest.fixture
def little_room() -> Iterator[None]:
    """Files end at 8 kB: a write beyond it is refused, as it is on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8192, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.usefixtures("little_room")
def test_a_disk_that_refuses_is_one_line_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="made cannot be written: File too large; make room, or name another") as told:
        extract(asked(tmp_path, arch="mlp", dataset="digits", random_weights=True))
    assert "\n" not in str(told.value)
    assert left_over(tmp_path) == []


def test_a_disk_without_room_is_refused_before_anything_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 10**9, 2**26 + 10))
    monkeypatch.setattr(extraction, "_features", lambda *_: pytest.fail("begun"))
    with pytest.raises(UsageError, match=r"made needs 3,608,376 bytes, and 10 are free there; make room"):
        extract(asked(tmp_path, arch="mlp", dataset="digits", random_weights=True))
    assert left_over(tmp_path) == []


def test_an_interrupt_leaves_nothing(tmp_path: Path) -> None:
    def interrupt(line: str) -> None:
        if line.startswith("validation"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        extract(asked(tmp_path, arch="mlp", dataset="digits", random_weights=True), interrupt)
    assert left_over(tmp_path) == []


def test_a_read_only_place_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="cannot be written"):
        extract(asked(tmp_path, arch="mlp", dataset="digits", random_weights=True, output=tmp_path / "file" / "made"))


def test_features_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    state = networks.build("mlp", (1, 8, 8), 10, seed=0).state_dict()
    state["5.weight"] *= 1e6  # the last batch norm: beyond float16, within float32
    save_file(state, tmp_path / "mlp.safetensors")
    request = {"arch": "mlp", "dataset": "digits", "checkpoint": tmp_path / "mlp.safetensors"}
    with pytest.raises(UsageError, match=r"not finite .* in float16; store them as float32 or bfloat16"):
        extract(asked(tmp_path, **request, dtype="float16"))
    assert left_over(tmp_path) == []
    extract(asked(tmp_path, **request, dtype="bfloat16"))
    state["5.weight"] *= float("inf")
    save_file(state, tmp_path / "mlp.safetensors")
    os.rename(tmp_path / "made", tmp_path / "other")
    with pytest.raises(UsageError, match=r"not finite .* as computed"):
        extract(asked(tmp_path, **request))


@pytest.mark.gpu
def test_a_gpu_gives_the_same_features(tmp_path: Path) -> None:
    request = {"arch": "mlp", "dataset": "digits", "random_weights": True}
    here = extract(asked(tmp_path, **request, output=tmp_path / "here"))
    there = extract(asked(tmp_path, **request, output=tmp_path / "there", device="cuda"))
    left, right = (np.load(made.path / "test" / "features.npy") for made in (here, there))
    np.testing.assert_allclose(left, right, rtol=1e-3, atol=1e-3)
