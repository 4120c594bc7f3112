"""Which data sets there are, and what the paper does with each. Torch is imported only once one is loaded."""

import difflib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bench.accuracy.data.synthetic_spec import SYNTHETIC, parse
from bench.errors import UsageError

if TYPE_CHECKING:
    from bench.accuracy.data.assembly import Published
    from bench.accuracy.data.splits import Dataset

Say = Callable[[str], None]

#: Steps of a training in Sect. 6.1 of the paper; those of ImageNet and of the bundled digits differ.
PAPER_STEPS = 100_000

FOLDER = "folder:"
FEATURES = "features:"


@dataclass(frozen=True)
class Entry:
    """A data set by name: the paper's network for it (or for its like) and how many steps are trained."""

    network: str
    steps: int = PAPER_STEPS


ENTRIES = {
    "digits": Entry("mlp", steps=2_000),
    "mnist": Entry("mlp"),
    "fashion-mnist": Entry("mlp"),
    "svhn": Entry("cnn"),
    "cifar10": Entry("cnn"),
    "cifar100": Entry("cnn"),
    "omniglot": Entry("cnn"),
    "imagenet": Entry("inception_v3", steps=6_000_000),
}

_OF_A_FOLDER = Entry("cnn")
#: A head on features that are fixed is one layer; the posterior of synthetic data needs a backbone.
_OF_FEATURES = Entry("linear")
_OF_SYNTHETIC = Entry("mlp")

#: Every name `load` takes; the last three stand for any folder of images or of features, and any number of classes.
NAMES = (*ENTRIES, f"{FOLDER}PATH", f"{FEATURES}PATH", f"{SYNTHETIC}K")


def default_steps(name: str) -> int:
    """Steps of one training on a data set (Sect. 6.1, or as many); raises UsageError for a name that is none."""
    return _entry(name).steps


def default_network(name: str) -> str:
    """The network of Sect. 6.1 for a data set or its like: mlp, cnn, inception_v3; linear for precomputed features.

    Raises UsageError for a name that is none.
    """
    return _entry(name).network


def default_data_dir() -> Path:
    """The user's cache folder, after the XDG Base Directory Specification: ~/.cache/slc-bench/data."""
    cache = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (cache if cache.is_absolute() else Path.home() / ".cache") / "slc-bench" / "data"


def load(
    name: str,
    *,
    data_dir: Path | None = None,
    split_seed: int = 0,
    input_size: int | None = None,
    say: Say = lambda line: None,
) -> "Dataset":
    """A data set by name, checked, split and ready to be trained on.

    `data_dir` is where the published files lie or are downloaded to (default_data_dir()); `split_seed` that of the
    validation split; `input_size` the side in pixels that images from folders are brought to (imagenet 299,
    folder:PATH 32; the other sets have one size). `say` is told what takes long, in lines.

    Raises UsageError, one line, if there is no such set, if it is neither here nor to be had, or if a file of it is
    truncated, altered or unreadable.
    """
    _entry(name)
    data_dir = default_data_dir() if data_dir is None else Path(data_dir).expanduser()
    if name == "imagenet" or name.startswith(FOLDER):
        return _from_folder(name, data_dir, split_seed, input_size, say)
    if name.startswith((FEATURES, SYNTHETIC)):
        return _without_images(name, split_seed, input_size, say)
    from bench.accuracy.data.assembly import assemble

    dataset = assemble(name, _reader(name)(data_dir, say), split_seed=split_seed)
    side = dataset.facts.input_shape[-1]
    if input_size not in (None, side):
        raise UsageError(f"{name} has images of {side} x {side}; an input size is for imagenet and {FOLDER}PATH")
    return dataset


def _entry(name: str) -> Entry:
    if name == FOLDER:
        raise UsageError(f"{FOLDER}PATH names no folder: {FOLDER}my-images, with train/ and val/ or test/ in it")
    if name == FEATURES:
        raise UsageError(f"{FEATURES}PATH names no folder: {FEATURES}my-features, with features.json in it")
    if name.startswith(FOLDER):
        return _OF_A_FOLDER
    if name.startswith(FEATURES):
        return _OF_FEATURES
    if name.startswith(SYNTHETIC):
        parse(name)
        return _OF_SYNTHETIC
    if name not in ENTRIES:
        near = difflib.get_close_matches(name.lower().replace("_", "-"), ENTRIES, n=1)
        meant = f"did you mean {near[0]}? " if near else ""
        raise UsageError(f"there is no data set {name!r}; {meant}known are {', '.join(NAMES)}")
    return ENTRIES[name]


def _from_folder(name: str, data_dir: Path, split_seed: int, input_size: int | None, say: Say) -> "Dataset":
    from bench.accuracy.data import folders

    if name == "imagenet":
        return folders.imagenet(data_dir, split_seed=split_seed, input_size=input_size, say=say)
    path = Path(name.removeprefix(FOLDER)).expanduser()
    return folders.folder(name, path, split_seed=split_seed, input_size=input_size, say=say)


def _without_images(name: str, split_seed: int, input_size: int | None, say: Say) -> "Dataset":
    from bench.accuracy.data import features, synthetic

    if input_size is not None:
        raise UsageError(f"{name} has no images; an input size is for imagenet and {FOLDER}PATH")
    if name.startswith(SYNTHETIC):
        return synthetic.load(name, split_seed=split_seed, say=say)
    path = Path(name.removeprefix(FEATURES)).expanduser()
    return features.load(name, path, split_seed=split_seed, say=say)


def _reader(name: str) -> "Callable[[Path, Say], Published]":
    """What reads a set's published files: a folder and who is told of progress in, checked arrays out."""
    from bench.accuracy.data import cifar, digits, mnist, omniglot, svhn

    return {
        "digits": digits.read,
        "mnist": mnist.read,
        "fashion-mnist": mnist.read_fashion,
        "svhn": svhn.read,
        "cifar10": cifar.read_10,
        "cifar100": cifar.read_100,
        "omniglot": omniglot.read,
    }[name]
