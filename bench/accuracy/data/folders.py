"""Folders of images by class: ImageNet, and anyone's own. Many are streamed from disk, few are held in memory.

PATH/train/CLASS/*.jpg ...      to train on
PATH/val/CLASS/...              to test on, if there is no test/; else to choose the learning rate by
PATH/test/CLASS/...             to test on
"""

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision.datasets.folder import IMG_EXTENSIONS, make_dataset

from bench.accuracy.data.assembly import VALIDATION_SHARE, Labelled, Published, assemble, check_classes, hold_out
from bench.accuracy.data.catalogue import Say
from bench.accuracy.data.decoding import DiskSplit, decoded, evaluation_view, unreadable, workers
from bench.accuracy.data.normalisation import Normalisation, fitted
from bench.accuracy.data.splits import Dataset
from bench.accuracy.records import DatasetFacts
from bench.errors import UsageError

#: Sides in pixels unless asked otherwise: of the paper's six-layer CNN, and of its Inception-v3.
FOLDER_SIZE = 32
IMAGENET_SIZE = 299

#: A folder whose images at that size take less than this is held in memory, and not augmented.
IN_MEMORY_BYTES = 10**9

#: Share of the shorter side that evaluation keeps: of ImageNet what TensorFlow's Inception keeps, else all of it.
IMAGENET_CENTRAL = 0.875
WHOLE = 1.0

#: Mean and standard deviation of ImageNet's channels, as everyone uses them; to take them anew would take hours.
IMAGENET_NORMALISATION = Normalisation((0.485, 0.456, 0.406), (0.229, 0.224, 0.225), 255)

#: Training images that the normalisation of a large folder is taken from: its error is then well under 1 %.
SAMPLE = 2048

#: Images between two lines of progress.
_TELL_EVERY = 5000


@dataclass(frozen=True)
class Listing:
    """The images of one split: paths in order, and their classes (n,)."""

    paths: tuple[str, ...]
    labels: Tensor

    def at(self, indices: NDArray[np.int64]) -> "Listing":
        """The examples with these indices."""
        return Listing(tuple(self.paths[index] for index in indices), self.labels[torch.from_numpy(indices)])


@dataclass(frozen=True)
class Folder:
    """A folder as it lies on disk."""

    class_names: tuple[str, ...]
    train: Listing
    test: Listing
    validation: Listing | None
    checksums: Mapping[str, str]


def imagenet(data_dir: Path, *, split_seed: int, input_size: int | None, say: Say) -> Dataset:
    """ImageNet from data_dir/imagenet/{train,val}/<wnid>/*.JPEG, streamed; `val` is the test split, as in the paper."""
    path = data_dir / "imagenet"
    if not (path / "train").is_dir():
        raise UsageError(
            "imagenet is not here, and image-net.org gives it to registered users only; put its images into "
            f"{path / 'train'}/<wnid>/*.JPEG and {path / 'val'}/<wnid>/*.JPEG"
        )
    found = listed(path, say, parts=("train", "val"))  # the images of its test/ have no published labels
    size = input_size or IMAGENET_SIZE
    return _streamed("imagenet", found, size, IMAGENET_CENTRAL, split_seed, IMAGENET_NORMALISATION, "as published")


def folder(name: str, path: Path, *, split_seed: int, input_size: int | None, say: Say) -> Dataset:
    """Anyone's images by class (see above), at 32 x 32 unless asked otherwise; held in memory if they are few."""
    found, size = listed(path, say), input_size or FOLDER_SIZE
    parts = [part for part in (found.train, found.test, found.validation) if part is not None]
    if sum(len(part.paths) for part in parts) * 3 * size**2 < IN_MEMORY_BYTES:
        return assemble(name, _in_memory(found, size, say), split_seed=split_seed)
    say(f"taking the normalisation from {SAMPLE:,} training images")
    chosen = np.random.default_rng(split_seed).permutation(len(found.train.paths))[:SAMPLE]
    sample = fitted(_pixels(found.train.at(np.sort(chosen)).paths, size, say))
    source = f"of {len(chosen):,} training images drawn by the split seed"
    return _streamed(name, found, size, WHOLE, split_seed, sample, source)


def listed(path: Path, say: Say, *, parts: Sequence[str] = ("train", "val", "test")) -> Folder:
    """Find the images; UsageError names a split or class folder that is missing, empty or without a counterpart."""
    say(f"listing the images in {path}")
    found = {part: path / part for part in parts if (path / part).is_dir()}
    if "train" not in found or len(found) < 2:
        raise UsageError(f"{path} needs a folder train and a folder val or test, each with one folder a class")
    classes = {part: _classes(folder) for part, folder in found.items()}
    for part, names in classes.items():
        _check_same(found["train"], classes["train"], found[part], names)
    check_classes(str(path), len(classes["train"]))
    listings = {part: _listing(folder, classes[part]) for part, folder in found.items()}
    return Folder(
        class_names=classes["train"],
        train=listings["train"],
        test=listings.get("test") or listings["val"],
        validation=listings.get("val") if "test" in listings else None,
        checksums={f"{part}, names and sizes": _fingerprint(path, listing) for part, listing in listings.items()},
    )


def _classes(folder: Path) -> tuple[str, ...]:
    return tuple(sorted(entry.name for entry in os.scandir(folder) if entry.is_dir()))


def _check_same(train: Path, expected: Sequence[str], other: Path, found: Sequence[str]) -> None:
    for name in sorted(set(expected) ^ set(found)):
        here, lacking = (train, other) if name in expected else (other, train)
        raise UsageError(f"class folder {name} is in {here} but not in {lacking}: both must have the same classes")


def _listing(folder: Path, classes: Sequence[str]) -> Listing:
    """The images of a split, class by class and in order of their names, as torchvision's ImageFolder has them."""
    index_of = {name: index for index, name in enumerate(classes)}
    found = make_dataset(folder, index_of, extensions=IMG_EXTENSIONS, allow_empty=True)
    labels = torch.tensor([label for _, label in found], dtype=torch.int64)
    for index, count in enumerate(torch.bincount(labels, minlength=len(classes)).tolist()):
        if not count:
            raise UsageError(f"class folder {folder / classes[index]} is empty: no {', '.join(IMG_EXTENSIONS)} in it")
    return Listing(tuple(path for path, _ in found), labels)


def _fingerprint(root: Path, listing: Listing) -> str:
    """A digest of names and sizes: enough to tell one folder from another without reading it all."""
    digest = hashlib.sha256()
    for path in listing.paths:
        try:
            size = os.path.getsize(path)
        except OSError as error:  # a link that leads nowhere
            raise unreadable(Path(path), error) from error
        digest.update(f"{os.path.relpath(path, root)}\0{size}\0".encode(errors="surrogateescape"))
    return f"sha256:{digest.hexdigest()}"


def _in_memory(found: Folder, size: int, say: Say) -> Published:
    def read(listing: Listing) -> Labelled:
        return Labelled(_pixels(listing.paths, size, say), listing.labels)

    return Published(
        read(found.train),
        read(found.test),
        found.class_names,
        found.checksums,
        notes=(f"images: the central square, resized to {size} x {size}; held in memory, not augmented",),
        validation=read(found.validation) if found.validation else None,
    )


def _pixels(paths: Sequence[str], size: int, say: Say) -> Tensor:
    """The evaluation view of every image, (n, 3, size, size) uint8."""
    pixels = torch.empty(len(paths), 3, size, size, dtype=torch.uint8)

    def place(index: int) -> None:
        pixels[index] = evaluation_view(decoded(Path(paths[index])), size, WHOLE)

    for done, _ in enumerate(workers().map(place, range(len(paths))), start=1):
        if done % _TELL_EVERY == 0:
            say(f"{done:,} of {len(paths):,} images read")
    return pixels


def _streamed(
    name: str, found: Folder, size: int, central: float, split_seed: int, normalisation: Normalisation, source: str
) -> Dataset:
    train, validation, note = found.train, found.validation, "validation: as published"
    if validation is None:
        split = hold_out(name, found.train.labels, VALIDATION_SHARE, split_seed)
        train, validation, note = found.train.at(split.kept), found.train.at(split.held_out), split.note
    view = f"images: evaluation keeps the central {central:g} of the shorter side, at {size} x {size}"
    facts = DatasetFacts(
        name=name,
        classes=len(found.class_names),
        input_shape=(3, size, size),
        train=len(train.paths),
        validation=len(validation.paths),
        test=len(found.test.paths),
        split_seed=split_seed,
        checksums=dict(found.checksums),
        notes=(f"{view}; training crops and mirrors at random", note, normalisation.described(source)),
    )
    splits = [
        DiskSplit(listing.paths, listing.labels, size=size, central=central, normalisation=normalisation)
        for listing in (train, validation, found.test)
    ]
    return Dataset(name, facts, found.class_names, *splits)
