"""CIFAR-10, pickled or binary, and CIFAR-100, pickled. Nothing is unpickled that is not the published file.

Source: A. Krizhevsky, Learning Multiple Layers of Features from Tiny Images (2009).
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torchvision import datasets
from torchvision.datasets.utils import extract_archive

from bench.accuracy.data.assembly import Labelled, Published
from bench.accuracy.data.catalogue import Say
from bench.accuracy.data.downloads import obtain, settle, temporary_folder
from bench.accuracy.data.integrity import verified
from bench.errors import UsageError

BINARY_FOLDER = "cifar-10-batches-bin"

#: SHA-1 of the published binary batches, as Apache MXNet's gluon.data.vision.CIFAR10 lists them.
BINARY_SHA1 = {
    "data_batch_1.bin": "aadd24acce27caa71bf4b10992e9e7b2d74c2540",
    "data_batch_2.bin": "c0ba65cce70568cd57b4e03e9ac8d2a5367c1795",
    "data_batch_3.bin": "1dd00a74ab1d17a6e7d73e185b69dbf31242f295",
    "data_batch_4.bin": "aab85764eb3584312d3c7f65fd2fd016e36a258e",
    "data_batch_5.bin": "26e2849e66a845b7f1e4614ae70f4889ae604628",
    "test_batch.bin": "67eb016db431130d61cd03c7ad570b013799c88c",
}

#: The binary batches do not hold the names; batches.meta.txt, which is beside them as published, is often left out.
CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")

#: One label byte, then the red, green and blue planes of 32 x 32 bytes, row by row.
_SHAPE = (3, 32, 32)
_RECORD_BYTES = 1 + 3 * 32 * 32


def read_10(data_dir: Path, say: Say) -> Published:
    """CIFAR-10: images (n, 3, 32, 32) uint8, 50,000 to train and 10,000 to test on as published."""
    binary = data_dir / BINARY_FOLDER
    if binary.is_dir():
        return _binary(binary)
    instead = f"put the published batches into {data_dir / datasets.CIFAR10.base_folder} or, as .bin files, {binary}"
    return _pickled("cifar10", datasets.CIFAR10, instead, data_dir, say)


def read_100(data_dir: Path, say: Say) -> Published:
    """CIFAR-100, its 100 fine classes: images (n, 3, 32, 32) uint8, 50,000 and 10,000 as published."""
    instead = f"put the published files train, test and meta into {data_dir / datasets.CIFAR100.base_folder}"
    return _pickled("cifar100", datasets.CIFAR100, instead, data_dir, say)


def _binary(folder: Path) -> Published:
    checksums = {name: verified(folder / name, "sha1", sha1) for name, sha1 in BINARY_SHA1.items()}
    train = [_records(folder / name) for name in BINARY_SHA1 if not name.startswith("test")]
    return Published(_joined(train), _joined([_records(folder / "test_batch.bin")]), CIFAR10_CLASSES, checksums)


def _records(path: Path) -> NDArray[np.uint8]:
    """The records of a binary batch, (n, 3073) uint8."""
    values = np.fromfile(path, dtype=np.uint8)
    if not len(values) or len(values) % _RECORD_BYTES:
        raise UsageError(f"{path} is truncated: {len(values)} bytes are no whole records of {_RECORD_BYTES} bytes")
    return values.reshape(-1, _RECORD_BYTES)


def _joined(batches: list[NDArray[np.uint8]]) -> Labelled:
    records = np.concatenate(batches)
    pixels = torch.from_numpy(np.ascontiguousarray(records[:, 1:])).view(-1, *_SHAPE)
    return Labelled(pixels, torch.from_numpy(records[:, 0].astype(np.int64)))


def _pickled(name: str, source: Any, instead: str, data_dir: Path, say: Say) -> Published:
    folder, archive = data_dir / source.base_folder, data_dir / source.filename
    if not folder.is_dir() and archive.is_file():
        verified(archive, "md5", source.tgz_md5)
        _unpack(archive, data_dir, say)
    elif not folder.is_dir():
        instead += f", or {source.filename} into {data_dir}"
        obtain(name, data_dir, lambda root: source(root, download=True), instead=instead, say=say)
    members = [*source.train_list, *source.test_list, (source.meta["filename"], source.meta["md5"])]
    checksums = {member: verified(folder / member, "md5", md5) for member, md5 in members}
    train, test = (source(data_dir, train=training) for training in (True, False))
    return Published(_labelled(train), _labelled(test), tuple(train.classes), checksums)


def _unpack(archive: Path, data_dir: Path, say: Say) -> None:
    say(f"unpacking {archive}")
    try:
        with temporary_folder(data_dir) as folder:
            extract_archive(archive, folder)
            settle(Path(folder), data_dir)
    except OSError as error:
        raise UsageError(f"{archive} cannot be unpacked: {error}") from error


def _labelled(split: Any) -> Labelled:
    """torchvision's arrays, (n, 32, 32, 3) and a list, as ours."""
    pixels = torch.from_numpy(np.ascontiguousarray(split.data.transpose(0, 3, 1, 2)))
    return Labelled(pixels, torch.tensor(split.targets, dtype=torch.int64))
