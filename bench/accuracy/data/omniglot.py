"""Omniglot: 1,623 hand-drawn characters, 20 drawings each, split by drawing.

Source: B. Lake, R. Salakhutdinov and J. Tenenbaum, Human-level concept learning through probabilistic program
induction, Science 350 (2015). Its two parts, meant for few-shot learning, together are one set of 1,623 classes here.
"""

import io
import zipfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision import datasets

from bench.accuracy.data.assembly import Labelled, Published
from bench.accuracy.data.catalogue import Say
from bench.accuracy.data.decoding import READ_ERRORS, unreadable, workers
from bench.accuracy.data.downloads import obtain
from bench.accuracy.data.integrity import tree_digest, verified
from bench.accuracy.data.stratification import stratified
from bench.errors import UsageError

#: Characters of each part, and drawings of each character.
PARTS = {"images_background": 964, "images_evaluation": 659}
DRAWINGS = 20

#: Of the published drawings, taken as tree_digest does. Unpacked drawings have no published digest of their own.
PUBLISHED_DRAWINGS = "sha256:6741849fb07548c3fa4587fdfb76c3aab23f34c5dd1f4ab959df450e30f5ea75"

#: Of a character's 20 drawings 4 are to test on, always the same; of the others 2 are held out by the split seed.
TEST_SHARE = 4 / 20
VALIDATION_SHARE = 2 / 16
TEST_SEED = 0

SIDE = 32

#: Drawings that one thread takes at a time: each is a fraction of a millisecond's work.
_CHUNK = 256

_Files = list[tuple[str, bytes]]


def read(data_dir: Path, say: Say) -> Published:
    """Images (n, 1, 32, 32) uint8 with ink as high values: of 1,623 classes 16 drawings to train and 4 to test on."""
    folder = data_dir / datasets.Omniglot.folder
    if not all(_present(folder, part) for part in PARTS):
        archives = " and ".join(f"{part}.zip" for part in PARTS)
        instead = f"put {archives}, or the folders of the same names, into {folder}"
        obtain("omniglot", data_dir, _fetch, instead=instead, say=say)
    say(f"reading {sum(PARTS.values()) * DRAWINGS:,} drawings of omniglot")
    checksums: dict[str, str] = {}
    files: _Files = []
    for part in PARTS:
        origin, of_part = _part(folder, part)
        checksums |= origin
        files += of_part
    class_names, labels = _characters(folder, files)
    every = Labelled(_pixels(folder, files), labels)
    train, test = stratified(labels.numpy(), TEST_SHARE, TEST_SEED)
    notes: tuple[str, ...] = (
        "classes: the characters of images_background and images_evaluation together",
        f"of {DRAWINGS} drawings of a character 4 are to test on, always the same, and 2 are held out for validation",
        f"drawings of 105 x 105, black on white, resized to {SIDE} x {SIDE} by area, ink as high values",
    )
    drawings = tree_digest(files)
    if not checksums and drawings != PUBLISHED_DRAWINGS:
        notes += ("the unpacked drawings are not, byte by byte, the published ones: see the checksum",)
    checksums["drawings"] = drawings
    return Published(every.at(train), every.at(test), class_names, checksums, notes, validation_share=VALIDATION_SHARE)


def _present(folder: Path, part: str) -> bool:
    return (folder / f"{part}.zip").is_file() or (folder / part).is_dir()


def _fetch(root: str) -> None:
    for background in (True, False):
        datasets.Omniglot(root, background=background, download=True)


def _part(folder: Path, part: str) -> tuple[dict[str, str], _Files]:
    """The drawings of a part, in order: from the published archive, whose digest is known, else from its folder."""
    archive = folder / f"{part}.zip"
    if archive.is_file():
        checksum = verified(archive, "md5", datasets.Omniglot.zips_md5[part])
        return {archive.name: checksum}, _in_archive(archive, part)
    paths = _in_order(path.relative_to(folder).as_posix() for path in (folder / part).glob("*/*/*.png"))
    try:
        return {}, [(path, (folder / path).read_bytes()) for path in paths]
    except OSError as error:
        raise UsageError(f"{error.filename} cannot be read: {error.strerror}") from error


def _in_archive(archive: Path, part: str) -> _Files:
    with zipfile.ZipFile(archive) as packed:
        names = [name for name in packed.namelist() if name.startswith(f"{part}/") and name.endswith(".png")]
        return [(name, packed.read(name)) for name in _in_order(names)]


def _in_order(paths: Iterable[str]) -> list[str]:
    return sorted(paths, key=lambda path: path.split("/"))


def _characters(folder: Path, files: _Files) -> tuple[tuple[str, ...], Tensor]:
    """Names of the characters, "Greek/character01", and each drawing's class; UsageError where any are missing."""
    of_drawings = [path.rpartition("/")[0] for path, _ in files]
    names, labels, counts = np.unique(of_drawings, return_inverse=True, return_counts=True)
    for part, expected in PARTS.items():
        found = sum(str(name).startswith(f"{part}/") for name in names)
        if found != expected:
            raise UsageError(f"{folder / part} has {found} characters, {expected} are published")
    for name, count in zip(names, counts, strict=True):
        if count != DRAWINGS:
            raise UsageError(f"{folder / str(name)} has {count} drawings, {DRAWINGS} are published")
    return tuple(str(name).partition("/")[2] for name in names), torch.from_numpy(labels.astype(np.int64))


def _pixels(folder: Path, files: _Files) -> Tensor:
    """The drawings, (n, 1, 32, 32) uint8; UsageError names one that is no image."""
    chunks = [files[start : start + _CHUNK] for start in range(0, len(files), _CHUNK)]
    small = workers().map(lambda chunk: b"".join(_resized(folder / path, content) for path, content in chunk), chunks)
    return torch.from_numpy(255 - np.frombuffer(b"".join(small), dtype=np.uint8)).view(-1, 1, SIDE, SIDE)


def _resized(path: Path, content: bytes) -> bytes:
    try:
        with Image.open(io.BytesIO(content)) as image:
            return image.convert("L").resize((SIDE, SIDE), Image.Resampling.BOX).tobytes()
    except READ_ERRORS as error:
        raise unreadable(path, error) from error
