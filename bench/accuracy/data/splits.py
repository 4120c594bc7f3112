"""A split of a data set: labels, and normalised images by index. Small ones live on the device as a whole."""

import copy
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from bench.accuracy.data.normalisation import Normalisation
from bench.accuracy.records import DatasetFacts

#: Splits up to this size are kept as normalised float32: a minibatch is then one gather. Larger ones stay uint8.
FLOAT_COPY_BYTES = 256 * 10**6


class Split(ABC):
    """Images with labels: `labels` (n,) int64, always on the CPU; `input_shape` (c, h, w).

    Or features, or synthetic examples: their `input_shape` is (d,), and so is that of what `images` gives.
    """

    labels: Tensor
    input_shape: tuple[int, ...]

    def __len__(self) -> int:
        """How many examples."""
        return len(self.labels)

    @abstractmethod
    def images(self, indices: Tensor | Sequence[int], *, seed: int | None = None) -> Tensor:
        """Images by index as float32, normalised, on the split's device: (m,) -> (m, c, h, w), (g, m) -> (g, m, ...).

        `seed` is that of the augmentation, where there is any (images streamed from disk); None is the view for
        evaluation. The same seed and index give the same image, whatever the other indices are.
        """

    @abstractmethod
    def on(self, device: torch.device | str) -> Self:
        """The same split, whose images come on another device; the labels stay."""

    def prefetch(self, batches: Iterable[tuple[Tensor, int | None]], *, ahead: int = 2) -> Iterator[Tensor]:
        """`images` of one (indices, seed) after the other, in order.

        Where images are decoded, `ahead` minibatches are under way while one is used, so `batches` is read that far
        ahead; where they are in memory, nothing is gained by that and nothing is read ahead.
        """
        for indices, seed in batches:
            yield self.images(indices, seed=seed)


class MemorySplit(Split):
    """A split held in memory, and moved to a device, as a whole; it is never augmented."""

    def __init__(self, pixels: Tensor, labels: Tensor, normalisation: Normalisation) -> None:
        """`pixels` (n, c, h, w), uint8 or floating; `labels` (n,) int64."""
        self.labels = labels
        self.input_shape = tuple(pixels.shape[1:])
        self._normalisation = normalisation
        self._normalised = pixels.numel() * torch.float32.itemsize <= FLOAT_COPY_BYTES
        self._pixels = (normalisation(pixels) if self._normalised else pixels).contiguous()

    def images(self, indices: Tensor | Sequence[int], *, seed: int | None = None) -> Tensor:
        """As Split.images; `seed` changes nothing."""
        indices = torch.as_tensor(indices, dtype=torch.int64, device=self._pixels.device)
        gathered = self._pixels.index_select(0, indices.reshape(-1))
        images = gathered if self._normalised else self._normalisation(gathered)
        return images if indices.dim() == 1 else images.view(*indices.shape, *self.input_shape)

    def on(self, device: torch.device | str) -> Self:
        """As Split.on; on the device it is on already, the same memory."""
        moved = copy.copy(self)
        moved._pixels = self._pixels.to(device)
        moved._normalisation = self._normalisation.on(device)
        return moved


@dataclass(frozen=True)
class Dataset:
    """A data set that is ready to be trained on: three splits, and facts enough to tell it from another."""

    name: str
    facts: DatasetFacts
    class_names: tuple[str, ...]
    train: Split
    validation: Split
    test: Split

    def on(self, device: torch.device | str) -> "Dataset":
        """The same data set with all three splits on another device."""
        return replace(
            self, train=self.train.on(device), validation=self.validation.on(device), test=self.test.on(device)
        )

    def class_frequencies(self) -> Tensor:
        """Examples of each class in the training split: int64, (classes,)."""
        return torch.bincount(self.train.labels, minlength=self.facts.classes)
