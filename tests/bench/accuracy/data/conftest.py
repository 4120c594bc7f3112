"""Tiny data sets in the published formats. Their digests replace the published ones in torchvision's tables."""

import gzip
import hashlib
import io
import pickle
import struct
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import scipy.io
from PIL import Image
from torchvision import datasets

from bench.accuracy.data import cifar, mnist, omniglot


def digest(content: bytes, algorithm: str = "md5") -> str:
    return hashlib.new(algorithm, content).hexdigest()


def idx(values: np.ndarray) -> bytes:
    """The IDX format: two zeros, type 8 (unsigned byte), number of dimensions, the dimensions, the values."""
    return struct.pack(f">BBBB{values.ndim}I", 0, 0, 8, values.ndim, *values.shape) + values.tobytes()


def png(values: np.ndarray, **options: object) -> bytes:
    file = io.BytesIO()
    Image.fromarray(values).save(file, "png", **options)
    return file.getvalue()


def labelled(n: int, shape: tuple[int, ...], classes: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Random images, and labels that go round the classes."""
    pixels = np.random.default_rng(seed).integers(0, 256, (n, *shape), dtype=np.uint8)
    return pixels, (np.arange(n) % classes).astype(np.uint8)


@dataclass
class Tiny:
    """What was written where, to compare with what is read."""

    root: Path
    train: tuple[np.ndarray, np.ndarray]
    test: tuple[np.ndarray, np.ndarray]
    files: dict[str, Path] = field(default_factory=dict)

    def path(self, name: str) -> Path:
        return self.files[name]


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test asks a server for anything: whatever it needs it makes."""

    def refuse(request: object, *rest: object, **options: object) -> None:
        raise urllib.error.URLError("no network in tests")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Callable[[dict[str, bytes]], list[str]]:
    """`serve({"name": content})` answers downloads of files of these names; returns the addresses asked for."""

    class Response(io.BytesIO):
        def __init__(self, url: str, content: bytes) -> None:
            super().__init__(content)
            self.url, self.length = url, len(content)

    def begin(files: dict[str, bytes]) -> list[str]:
        asked: list[str] = []

        def answer(request: urllib.request.Request, *rest: object, **options: object) -> Response:
            asked.append(request.full_url)
            name = request.full_url.rpartition("/")[2]
            if name not in files:
                raise urllib.error.URLError(f"{name} not found")
            return Response(request.full_url, files[name])

        monkeypatch.setattr(urllib.request, "urlopen", answer)
        return asked

    return begin


@pytest.fixture
def tiny_mnist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Tiny]:
    """MNIST or Fashion-MNIST of 40 and 20 images, gzipped as published."""

    def write(source: type = datasets.MNIST, *, packed: bool = True, labels_up_to: int = 10) -> Tiny:
        folder = tmp_path / source.__name__ / "raw"
        folder.mkdir(parents=True)
        tiny = Tiny(tmp_path, labelled(40, (28, 28), labels_up_to), labelled(20, (28, 28), 10, seed=1))
        resources, unpacked = [], {}
        for part, (pixels, labels) in (("train", tiny.train), ("t10k", tiny.test)):
            for name, values in ((f"{part}-images-idx3-ubyte", pixels), (f"{part}-labels-idx1-ubyte", labels)):
                content = idx(values)
                archive = gzip.compress(content, mtime=0)
                resources.append((f"{name}.gz", digest(archive)))
                unpacked[name] = digest(content)
                tiny.files[name] = folder / (f"{name}.gz" if packed else name)
                tiny.files[name].write_bytes(archive if packed else content)
        monkeypatch.setattr(source, "resources", resources)
        monkeypatch.setattr(mnist, "UNPACKED_MD5", unpacked)
        return tiny

    return write


@pytest.fixture
def tiny_cifar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Tiny]:
    """CIFAR-10 or CIFAR-100, pickled, of 200 and 100 images."""

    def write(source: type = datasets.CIFAR10) -> Tiny:
        fine = source is datasets.CIFAR100
        classes = 100 if fine else 10
        folder = tmp_path / source.base_folder
        folder.mkdir()
        tiny = Tiny(tmp_path, labelled(200, (3, 32, 32), classes), labelled(100, (3, 32, 32), classes, seed=1))
        for attribute, (pixels, labels) in (("train_list", tiny.train), ("test_list", tiny.test)):
            table = []
            names = [name for name, _ in getattr(source, attribute)]
            parts = zip(np.array_split(pixels, len(names)), np.array_split(labels, len(names)), strict=True)
            for name, (images, targets) in zip(names, parts, strict=True):
                key = "fine_labels" if fine else "labels"
                content = pickle.dumps({"data": images.reshape(-1, 3072), key: targets.tolist()}, protocol=2)
                tiny.files[name] = folder / name
                tiny.files[name].write_bytes(content)
                table.append([name, digest(content)])
            monkeypatch.setattr(source, attribute, table)
        meta = source.meta
        content = pickle.dumps({meta["key"]: [f"class {label}" for label in range(classes)]}, protocol=2)
        (folder / meta["filename"]).write_bytes(content)
        monkeypatch.setattr(source, "meta", {**meta, "md5": digest(content)})
        return tiny

    return write


@pytest.fixture
def tiny_cifar_binary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Tiny]:
    """CIFAR-10, binary: 40 images in each of five batches and in the test batch."""

    def write(*, labels_up_to: int = 10) -> Tiny:
        folder = tmp_path / cifar.BINARY_FOLDER
        folder.mkdir()
        pixels, labels = labelled(240, (3, 32, 32), labels_up_to)
        table = {}
        for number, name in enumerate(cifar.BINARY_SHA1):
            chosen = slice(40 * number, 40 * (number + 1))
            content = np.hstack([labels[chosen, None], pixels[chosen].reshape(40, -1)]).tobytes()
            (folder / name).write_bytes(content)
            table[name] = digest(content, "sha1")
        monkeypatch.setattr(cifar, "BINARY_SHA1", table)
        files = {name: folder / name for name in table}
        return Tiny(tmp_path, (pixels[:200], labels[:200]), (pixels[200:], labels[200:]), files)

    return write


@pytest.fixture
def tiny_svhn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Tiny]:
    """SVHN: (32, 32, 3, n) and labels 1 to 10, where 10 is the digit 0, as published."""

    def write(folder: str = "") -> Tiny:
        tiny = Tiny(tmp_path, labelled(40, (3, 32, 32), 10), labelled(20, (3, 32, 32), 10, seed=1))
        (tmp_path / folder).mkdir(exist_ok=True)
        table = {}
        for part, (pixels, labels) in (("train", tiny.train), ("test", tiny.test)):
            url, name, _ = datasets.SVHN.split_list[part]
            tiny.files[name] = tmp_path / folder / name
            published = np.where(labels == 0, 10, labels).astype(np.uint8)[:, None]
            scipy.io.savemat(tiny.files[name], {"X": pixels.transpose(2, 3, 1, 0), "y": published})
            table[part] = [url, name, digest(tiny.files[name].read_bytes())]
        monkeypatch.setattr(datasets.SVHN, "split_list", table)
        return tiny

    return write


@pytest.fixture
def tiny_omniglot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Omniglot of 3 + 2 characters: drawings of 105 x 105 with one bit a pixel, a black square on white each."""

    def write(*, packed: bool = False) -> Path:
        folder = tmp_path / datasets.Omniglot.folder
        folder.mkdir()
        monkeypatch.setattr(omniglot, "PARTS", {"images_background": 3, "images_evaluation": 2})
        zips = {}
        for part, characters in omniglot.PARTS.items():
            file = io.BytesIO()
            with zipfile.ZipFile(file, "w") as archive:
                for character in range(characters):
                    for drawing in range(omniglot.DRAWINGS):
                        values = np.full((105, 105), True)
                        values[character * 10 : character * 10 + 30, drawing : drawing + 40] = False
                        name = f"{part}/Script_of_{part}/character{character + 1:02}/{character:04}_{drawing:02}.png"
                        archive.writestr(name, png(values))
            zips[part] = digest(file.getvalue())
            if packed:
                (folder / f"{part}.zip").write_bytes(file.getvalue())
            else:
                zipfile.ZipFile(file).extractall(folder)
        monkeypatch.setattr(datasets.Omniglot, "zips_md5", zips)
        return folder

    return write


@pytest.fixture
def image_folder(tmp_path: Path) -> Callable[..., Path]:
    """`image_folder({"train": {"cat": 3, "dog": 2}, ...})`: so many PNG files of random sizes in each class folder."""

    def write(parts: dict[str, dict[str, int]], *, name: str = "pictures", extension: str = "png") -> Path:
        random = np.random.default_rng(0)
        for part, classes in parts.items():
            for label, count in classes.items():
                folder = tmp_path / name / part / label
                folder.mkdir(parents=True)
                for number in range(count):
                    height, width = random.integers(20, 60, 2)
                    image = Image.fromarray(random.integers(0, 256, (height, width, 3), dtype=np.uint8))
                    image.save(folder / f"{number:03}.{extension}", quality=95)
        return tmp_path / name

    return write
