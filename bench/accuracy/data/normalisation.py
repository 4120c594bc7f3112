"""Normalisation by channel: (x / unit - mean) / std, as one multiplication and one addition."""

import copy
from collections.abc import Iterator, Sequence
from typing import Self

import torch
from torch import Tensor

#: Images at a time while means are taken: float64 values of a few megabytes.
_CHUNK = 1024


class Normalisation:
    """What is done to pixels before a network sees them; a channel that never varies is only centred."""

    def __init__(self, mean: Sequence[float], std: Sequence[float], unit: float) -> None:
        """`mean` and `std` by channel, of pixels / `unit` (255 for uint8, 1 for floating pixels)."""
        self.mean, self.std, self.unit = tuple(mean), tuple(std), unit
        divisors = [deviation or 1.0 for deviation in std]
        self._scale = _by_channel([1 / (unit * divisor) for divisor in divisors])
        self._offset = _by_channel([-centre / divisor for centre, divisor in zip(mean, divisors, strict=True)])

    def __call__(self, pixels: Tensor) -> Tensor:
        """(n, c, h, w) of uint8 or a floating type -> the same shape, float32, on the same device."""
        # in place: on a CPU addcmul, which does both at once, takes three times as long when it broadcasts
        return pixels.to(torch.float32, copy=True).mul_(self._scale).add_(self._offset)

    def on(self, device: torch.device | str) -> Self:
        """The same for pixels on another device."""
        moved = copy.copy(self)
        moved._scale, moved._offset = self._scale.to(device), self._offset.to(device)
        return moved

    def described(self, source: str) -> str:
        """One line for the record: what was subtracted and divided by, and from which images it was taken."""
        mean, std = (", ".join(f"{value:.6g}" for value in values) for values in (self.mean, self.std))
        divided = f" / {self.unit:g}" if self.unit != 1 else ""
        return f"normalised by channel: mean {mean}, standard deviation {std} of pixels{divided}, {source}"


def fitted(pixels: Tensor) -> Normalisation:
    """The normalisation that gives these (n, c, h, w) pixels mean 0 and (population) standard deviation 1."""
    if pixels.dtype == torch.uint8:
        return _from_counts(sum(map(value_counts, _chunks(pixels)), torch.zeros(1, dtype=torch.int64)))
    return _from_values(pixels)


def value_counts(pixels: Tensor) -> Tensor:
    """How often each of the 256 values occurs in each channel: (n, c, h, w) uint8 -> (c, 256) int64."""
    return torch.stack([torch.bincount(channel.reshape(-1), minlength=256) for channel in pixels.unbind(1)])


def _from_counts(counts: Tensor) -> Normalisation:
    values = torch.arange(256, dtype=torch.float64) / 255
    shares = counts.double() / counts.sum(1, keepdim=True)
    mean = shares @ values
    variance = (shares * (values - mean[:, None]).square()).sum(1)
    return Normalisation(mean.tolist(), variance.sqrt().tolist(), 255)


def _from_values(pixels: Tensor) -> Normalisation:
    size = pixels.numel() / pixels.shape[1]
    mean = torch.stack([chunk.double().sum((0, 2, 3)) for chunk in _chunks(pixels)]).sum(0) / size
    squares = [(chunk.double() - _by_channel(mean)).square().sum((0, 2, 3)) for chunk in _chunks(pixels)]
    return Normalisation(mean.tolist(), (torch.stack(squares).sum(0) / size).sqrt().tolist(), 1)


def _chunks(pixels: Tensor) -> Iterator[Tensor]:
    return (pixels[start : start + _CHUNK] for start in range(0, len(pixels), _CHUNK))


def _by_channel(values: Sequence[float] | Tensor) -> Tensor:
    if isinstance(values, Tensor):
        return values.view(-1, 1, 1)
    return torch.tensor(values, dtype=torch.float32).view(-1, 1, 1)
