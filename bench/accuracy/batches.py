"""Which examples a training sees at a step: decided by its seed and the step alone.

    epoch                 0                       1
    permutation   | p0: 0 ... n - 1       | p1: 0 ... n - 1       | ...
    minibatch     | 0 | 1 | 2 | 3 | ...

The permutations of all epochs stand one after the other and minibatches are cut from that line: one may span two
epochs, and no example is left out. Every loss and learning rate of a seed meets the same minibatches: paired by seed.
"""

from typing import Literal

import numpy as np
import torch
from torch import Tensor

#: What random numbers are drawn for; each purpose has a stream of its own.
Purpose = Literal["order", "augmentation", "noise", "validation noise", "dropout"]
_PURPOSES: tuple[Purpose, ...] = ("order", "augmentation", "noise", "validation noise", "dropout")


def stream_seed(purpose: Purpose, *numbers: int) -> int:
    """Seed of a generator, 0 to 2**62 - 1: well mixed, so that neighbouring seeds and epochs are unrelated.

    By numpy's SeedSequence, whose output is the same in every version of numpy.
    """
    sequence = np.random.SeedSequence((_PURPOSES.index(purpose), *numbers))
    return int(sequence.generate_state(1, np.uint64)[0]) >> 2


class BatchOrder:
    """The minibatches of one seed, as indices into the training split."""

    def __init__(self, examples: int, batch_size: int, seed: int) -> None:
        """Raises ValueError for sizes below 1."""
        if examples < 1 or batch_size < 1:
            raise ValueError(f"no minibatches of {batch_size} can be drawn from {examples} examples")
        self.examples = examples
        self.batch_size = batch_size
        self.seed = seed
        self._epochs: dict[int, Tensor] = {}

    def window(self, first: int, steps: int) -> Tensor:
        """The minibatches of `steps` steps from step `first` (counted from 0): int64, (steps, batch size)."""
        begin, end = first * self.batch_size, (first + steps) * self.batch_size
        epochs = range(begin // self.examples, -(-end // self.examples))
        # The last permutation of a window is where the next one begins; older ones are not met again.
        self._epochs = {epoch: self._epochs[epoch] if epoch in self._epochs else self._drawn(epoch) for epoch in epochs}
        line = torch.cat([self._epochs[epoch] for epoch in epochs])
        offset = begin - epochs.start * self.examples
        return line[offset : offset + steps * self.batch_size].view(steps, self.batch_size)

    def _drawn(self, epoch: int) -> Tensor:
        generator = torch.Generator("cpu").manual_seed(stream_seed("order", self.seed, epoch))
        return torch.randperm(self.examples, generator=generator)
