"""Random numbers by their place: the one at (key, index) is the same whoever asks, in whatever order, wherever.

Philox 4x32-10, a counter-based generator: J. Salmon et al., Parallel random numbers: as easy as 1, 2, 3 (SC 2011). It
is integer arithmetic alone, so every device gives the same words. numpy and torch have generators of this family, but
theirs are streams that are read from the beginning; here each of millions of indices has a stream of its own.
"""

import math

import numpy as np
import torch
from torch import Tensor

#: Multipliers and key increments (Salmon et al., Sect. 3.3), and the rounds that pass all tests of TestU01.
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_INCREMENTS = (0x9E3779B9, 0xBB67AE85)
_ROUNDS = 10

_WORD = 0xFFFFFFFF

#: Words of one block.
_BLOCK = 4

#: Indices at a time: some tens of megabytes on the way.
_CHUNK = 2**19

Key = tuple[int, int]


def key(*numbers: int) -> Key:
    """A key, two words, from a seed and what the numbers are for: well mixed, by numpy's SeedSequence.

    Among the first four words zeros at the end do not count, and a number from 2**32 on is two words: (7, 1) and
    (7, 1, 0) are one key, and so are (2**32 * 3 + 7, 1) and (7, 3, 1).
    """
    first, second = np.random.SeedSequence(numbers).generate_state(2, np.uint32).tolist()
    return first, second


def blocks(counter: tuple[Tensor, Tensor, Tensor, Tensor], of: Key) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Philox 4x32-10 of counters, four int64 tensors of one shape that hold 32-bit words; the same of its output."""
    a, b, c, d = counter
    first, second = of
    for _ in range(_ROUNDS):
        left, right = a * _MULTIPLIERS[0], c * _MULTIPLIERS[1]  # the low 64 bits, whatever the sign says
        a, b, c, d = _high(right) ^ b ^ first, right & _WORD, _high(left) ^ d ^ second, left & _WORD
        first, second = (first + _INCREMENTS[0]) & _WORD, (second + _INCREMENTS[1]) & _WORD
    return a, b, c, d


def words(of: Key, indices: Tensor, count: int) -> Tensor:
    """The first `count` 32-bit words of each index's stream: (n,) int64, not negative -> (n, count) int64."""
    block = torch.arange(-(-count // _BLOCK), device=indices.device).expand(len(indices), -1)
    low, high = ((indices >> shift & _WORD)[:, None].expand_as(block) for shift in (0, 32))
    mixed = blocks((block, torch.zeros_like(block), low, high), of)
    return torch.stack(mixed, dim=-1).flatten(1)[:, :count]


def uniforms(of: Key, count: int) -> Tensor:
    """One number in [0, 1) for each of the indices 0 to `count` - 1: (count,) float64, in steps of 2**-53."""
    numbers = torch.empty(count, dtype=torch.float64)
    for start in range(0, count, _CHUNK):
        part = numbers[start : start + _CHUNK]  # two words a number: a block serves two indices
        pairs = torch.arange(start // 2, start // 2 + -(-len(part) // 2))
        upper, lower = words(of, pairs, _BLOCK).view(-1, 2)[: len(part)].unbind(1)
        part.copy_(((upper << 21) | (lower >> 11)).double() * 2.0**-53)
    return numbers


def normals(of: Key, indices: Tensor, count: int) -> Tensor:
    """`count` standard normal numbers for each index: (n,) int64 -> (n, count) float64, below 6.8 in size.

    G. Box and M. Muller, A note on the generation of random normal deviates (1958).
    """
    pairs = -(-count // 2)
    drawn = words(of, indices, 2 * pairs)
    lengths = ((drawn[:, :pairs].double() + 0.5) * 2.0**-32).log_().mul_(-2).sqrt_()
    angles = drawn[:, pairs:].double() * (2 * math.pi * 2.0**-32)
    return torch.cat((lengths * angles.cos(), lengths * angles.sin()), dim=1)[:, :count]


def _high(product: Tensor) -> Tensor:
    return product >> 32 & _WORD
