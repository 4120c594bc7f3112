"""MNIST and Fashion-MNIST: four IDX files, gzipped as published or unpacked.

Sources: Y. LeCun, L. Bottou, Y. Bengio and P. Haffner (1998); H. Xiao, K. Rasul and R. Vollgraf (2017).
"""

import gzip
import shutil
import tempfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor
from torchvision import datasets
from torchvision.datasets.mnist import read_image_file, read_label_file

from bench.accuracy.data.assembly import Labelled, Published
from bench.accuracy.data.catalogue import Say
from bench.accuracy.data.downloads import obtain
from bench.accuracy.data.integrity import file_digest, verified
from bench.errors import UsageError

#: MD5 of MNIST's files once unpacked, taken from archives whose own MD5 is the published one.
UNPACKED_MD5 = {
    "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
    "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
    "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
    "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
}


def read(data_dir: Path, say: Say) -> Published:
    """MNIST: images (n, 1, 28, 28) uint8, 60,000 to train and 10,000 to test on as published."""
    return _read("mnist", datasets.MNIST, UNPACKED_MD5, data_dir, say)


def read_fashion(data_dir: Path, say: Say) -> Published:
    """Fashion-MNIST: the same format and sizes. No digest of its unpacked files is published: it is recorded."""
    return _read("fashion-mnist", datasets.FashionMNIST, {}, data_dir, say)


def _read(name: str, source: Any, unpacked_md5: Mapping[str, str], data_dir: Path, say: Say) -> Published:
    archives = dict(source.resources)  # file name -> MD5
    folder = data_dir / source.__name__ / "raw"
    if not all(_found(folder, archive) for archive in archives):
        instead = f"put {', '.join(archives)} into {folder}"
        obtain(name, data_dir, lambda root: source(root, download=True), instead=instead, say=say)
    checksums, notes, tensors = {}, [], {}
    for archive, md5 in archives.items():
        path = _found(folder, archive) or folder / archive
        unpacked = archive.removesuffix(".gz")
        expected = md5 if path.suffix == ".gz" else unpacked_md5.get(unpacked)
        if expected is None:
            notes.append(f"{path.name}: no digest of the unpacked file is published; its own is recorded")
        checksums[path.name] = verified(path, "md5", expected) if expected else f"md5:{file_digest(path, 'md5')}"
        tensors[unpacked] = _tensor(path, read_image_file if "images" in archive else read_label_file)
    train, test = (
        Labelled(tensors[f"{part}-images-idx3-ubyte"][:, None], tensors[f"{part}-labels-idx1-ubyte"])
        for part in ("train", "t10k")
    )
    class_names = tuple(name.partition(" - ")[0] for name in source.classes)  # torchvision's name of 1 is "1 - one"
    return Published(train, test, class_names, checksums, tuple(notes))


def _found(folder: Path, archive: str) -> Path | None:
    """The file as published if it is there, since its digest is known; else the unpacked one, if that is there."""
    return next((path for path in (folder / archive, folder / archive.removesuffix(".gz")) if path.is_file()), None)


def _tensor(path: Path, reader: Callable[[str], Tensor]) -> Tensor:
    """What torchvision's reader makes of a file; it reads unpacked ones only."""
    try:
        if path.suffix != ".gz":
            return reader(str(path))
        with tempfile.NamedTemporaryFile() as unpacked, gzip.open(path) as packed:
            shutil.copyfileobj(packed, unpacked)
            unpacked.flush()
            return reader(unpacked.name)
    except (OSError, EOFError, zlib.error) as error:
        raise UsageError(f"{path} cannot be read or unpacked: {error}") from error
    except (RuntimeError, AssertionError, TypeError, ValueError, KeyError) as error:
        raise UsageError(f"{path} is no IDX file, or is truncated: {error}") from error
