"""Images that are read from disk as they are needed: decoded by threads, seen as training or as evaluation sees them.

The augmentation of an image follows from (seed, index of the example) alone, so a minibatch is the same whatever else
is in it and however many threads decode it.
"""

import copy
import functools
import hashlib
import math
import os
import struct
import zlib
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Self

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import functional as transforms

from bench.accuracy.data.normalisation import Normalisation
from bench.accuracy.data.splits import Split
from bench.errors import UsageError

#: What Pillow raises for files that are no images, are cut short, or claim absurd sizes.
READ_ERRORS = (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error, Image.DecompressionBombError)

#: Random resized crop: share of the image's area, and width / height. Source: C. Szegedy et al., Going Deeper with
#: Convolutions (2015), Sect. 6; torchvision's RandomResizedCrop has the same.
CROP_AREA = (0.08, 1.0)
CROP_RATIO = (3 / 4, 4 / 3)

#: Boxes drawn before the largest central one is taken, as torchvision does.
CROP_ATTEMPTS = 10

Box = tuple[int, int, int, int]


def workers() -> ThreadPoolExecutor:
    """The threads that decode, as many as this process has cores; Pillow lets go of the interpreter's lock."""
    return _pool(os.getpid())


@functools.cache
def _pool(process: int) -> ThreadPoolExecutor:
    """One pool a process: threads do not survive a fork."""
    return ThreadPoolExecutor(len(os.sched_getaffinity(0)), thread_name_prefix="decode")


class DiskSplit(Split):
    """A split whose images stay on disk. Given a seed they are cropped and mirrored at random."""

    def __init__(
        self, paths: Sequence[str], labels: Tensor, *, size: int, central: float, normalisation: Normalisation
    ) -> None:
        """`size` is the side of what comes out; `central` the share of the shorter side that evaluation keeps."""
        self.labels = labels
        self.input_shape = (3, size, size)
        self._paths = paths
        self._size, self._central = size, central
        self._normalisation = normalisation
        self._device = torch.device("cpu")

    def images(self, indices: Tensor | Sequence[int], *, seed: int | None = None) -> Tensor:
        """As Split.images; UsageError names an image that cannot be read."""
        indices = torch.as_tensor(indices, dtype=torch.int64)
        return self._gathered(self._submitted(indices, seed), indices.shape)

    def on(self, device: torch.device | str) -> Self:
        """As Split.on: images are moved there as uint8 and normalised there."""
        moved = copy.copy(self)
        moved._device = torch.device(device)
        moved._normalisation = self._normalisation.on(device)
        return moved

    def prefetch(self, batches: Iterable[tuple[Tensor, int | None]], *, ahead: int = 2) -> Iterator[Tensor]:
        """As Split.prefetch: `ahead` minibatches are decoded while one is used."""
        waiting: deque[tuple[list[Future[Tensor]], torch.Size]] = deque()
        try:
            for indices, seed in batches:
                waiting.append((self._submitted(indices, seed), indices.shape))
                if len(waiting) > ahead:
                    yield self._gathered(*waiting.popleft())
            while waiting:
                yield self._gathered(*waiting.popleft())
        finally:  # whoever stops early does not wait for images that nobody will see
            for futures, _ in waiting:
                for future in futures:
                    future.cancel()

    def _submitted(self, indices: Tensor, seed: int | None) -> list[Future[Tensor]]:
        return [workers().submit(self._image, index, seed) for index in indices.flatten().tolist()]

    def _gathered(self, decoded: list[Future[Tensor]], shape: torch.Size) -> Tensor:
        pixels = torch.stack([future.result() for future in decoded]).to(self._device)
        return self._normalisation(pixels).view(*shape, *self.input_shape)

    def _image(self, index: int, seed: int | None) -> Tensor:
        image = decoded(Path(self._paths[index]))
        if seed is None:
            return evaluation_view(image, self._size, self._central)
        return training_view(image, self._size, augmentation(seed, index))


def decoded(path: Path) -> Image.Image:
    """The image in a file as RGB; UsageError names the file if there is none in it."""
    try:
        with Image.open(path) as image:
            return image.convert("RGB")
    except READ_ERRORS as error:
        raise unreadable(path, error) from error


def unreadable(path: Path, error: Exception) -> UsageError:
    """The error for a file that is no image, or not a whole one."""
    return UsageError(f"{path} cannot be read as an image ({error}); put a whole one in its place, or take it away")


def evaluation_view(image: Image.Image, size: int, central: float) -> Tensor:
    """The central square, (3, size, size) uint8: `central` is the share of the shorter side that is kept."""
    resized = transforms.resize(image, [max(size, round(size / central))], antialias=True)
    pixels: Tensor = transforms.pil_to_tensor(transforms.center_crop(resized, [size, size]))
    return pixels


def training_view(image: Image.Image, size: int, generator: torch.Generator) -> Tensor:
    """A random part of the image, mirrored half the time, (3, size, size) uint8."""
    top, left, height, width = crop_box(image.height, image.width, generator)
    cropped = transforms.resized_crop(image, top, left, height, width, [size, size], antialias=True)
    mirrored = torch.rand((), generator=generator).item() < 0.5
    pixels: Tensor = transforms.pil_to_tensor(transforms.horizontal_flip(cropped) if mirrored else cropped)
    return pixels


def augmentation(seed: int, index: int) -> torch.Generator:
    """Random numbers that follow from the seed of a minibatch and the index of an example, and from nothing else."""
    mixed = hashlib.blake2b(f"{seed},{index}".encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(mixed, "big") >> 1)


def crop_box(height: int, width: int, generator: torch.Generator) -> Box:
    """Top, left, height and width of a random resized crop within an image (CROP_AREA, CROP_RATIO)."""
    for _ in range(CROP_ATTEMPTS):
        area, log_ratio, down, across = torch.rand(4, generator=generator, dtype=torch.float64).tolist()
        area = height * width * _between(*CROP_AREA, area)
        ratio = math.exp(_between(math.log(CROP_RATIO[0]), math.log(CROP_RATIO[1]), log_ratio))
        tall, wide = round(math.sqrt(area / ratio)), round(math.sqrt(area * ratio))
        if 0 < tall <= height and 0 < wide <= width:
            return int(down * (height - tall + 1)), int(across * (width - wide + 1)), tall, wide
    return central_box(height, width)


def central_box(height: int, width: int) -> Box:
    """The largest central box whose ratio is within CROP_RATIO."""
    low, high = CROP_RATIO
    wide = min(width, max(1, round(height * high)))
    tall = min(height, max(1, round(width / low)))
    return (height - tall) // 2, (width - wide) // 2, tall, wide


def _between(low: float, high: float, share: float) -> float:
    return low + (high - low) * share
