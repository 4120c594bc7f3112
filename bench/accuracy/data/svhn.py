"""SVHN, cropped digits: two MATLAB files.

Source: Y. Netzer, T. Wang, A. Coates, A. Bissacco, B. Wu and A. Ng (2011).
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torchvision import datasets

from bench.accuracy.data.assembly import Labelled, Published
from bench.accuracy.data.catalogue import Say
from bench.accuracy.data.downloads import obtain
from bench.accuracy.data.integrity import verified

#: The paper uses the built-in train and test splits; the published "extra" images are neither.
_PARTS = ("train", "test")


def read(data_dir: Path, say: Say) -> Published:
    """Images (n, 3, 32, 32) uint8, 73,257 to train and 26,032 to test on as published; the digit 0 is class 0."""
    files = {part: datasets.SVHN.split_list[part][1:] for part in _PARTS}  # (file name, MD5)
    names = [name for name, _ in files.values()]
    folder = _folder(data_dir, names)
    if not all((folder / name).is_file() for name in names):
        instead = f"put {' and '.join(names)} into {folder}"
        obtain("svhn", folder, _fetch, instead=instead, say=say)
    checksums = {name: verified(folder / name, "md5", md5) for name, md5 in files.values()}
    train, test = (_labelled(datasets.SVHN(folder, split=part)) for part in _PARTS)
    return Published(train, test, tuple(map(str, range(10))), checksums)


def _folder(data_dir: Path, names: list[str]) -> Path:
    """The folder itself, where torchvision leaves the files of this set, or svhn/ in it, where ours are left."""
    return data_dir if any((data_dir / name).is_file() for name in names) else data_dir / "svhn"


def _fetch(root: str) -> None:
    for part in _PARTS:
        datasets.SVHN(root, split=part, download=True)


def _labelled(split: Any) -> Labelled:
    return Labelled(torch.from_numpy(np.ascontiguousarray(split.data)), torch.from_numpy(split.labels))
