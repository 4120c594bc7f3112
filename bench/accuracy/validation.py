"""Loss and accuracy on the validation split, for the curves and the choice of learning rate."""

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from bench.accuracy.data import Split
from bench.accuracy.steps import Learner

#: Numbers of input in one forward, by device: enough for its cost to be that of the products; on a CPU few enough for
#: its caches, on a GPU few enough that the CNN's first activations, 170 times as many, take 6 GB and not more.
_INPUT_NUMBERS = {"cpu": 2**20, "cuda": 2**23}


def validate(learner: Learner, split: Split, members: int) -> list[tuple[float, float]]:
    """Each member's (loss, accuracy) on the split, in evaluation mode; the learner is left in training mode.

    The loss is the training's own, in minibatches of its size in the split's order, since batch losses depend on it:
    the mean over minibatches weighted by their examples, the last of which may be short. Accuracy is the share of
    examples whose largest logit is the true one. A loss that is not finite is returned as it is.
    """
    batch_size = learner.recipe.batch_size
    labels = split.labels.to(learner.device)
    losses = torch.zeros(members, dtype=torch.float64, device=learner.device)
    hits = torch.zeros(members, dtype=torch.int64, device=learner.device)
    size = _chunk(batch_size, math.prod(split.input_shape) * members, _INPUT_NUMBERS[learner.device.type])
    chunks = torch.split(torch.arange(len(split)), size)
    with _evaluating(learner), torch.no_grad():
        for rows, images in zip(chunks, split.prefetch((rows, None) for rows in chunks), strict=True):
            own = labels[rows[0] : rows[-1] + 1].expand(members, -1)
            logits = learner.logits(images.to(learner.device).expand(members, *images.shape))
            hits += (logits.argmax(2) == own).sum(1)
            for z, y in zip(*(torch.split(whole, batch_size, dim=1) for whole in (logits, own)), strict=True):
                losses += learner.losses(z, y).double() * y.shape[1]
    means = (losses / len(split)).tolist()
    return list(zip(means, (hits.double() / len(split)).tolist(), strict=True))


@contextmanager
def _evaluating(learner: Learner) -> Iterator[None]:
    learner.module.eval()
    try:
        yield
    finally:
        learner.module.train()


def _chunk(batch_size: int, numbers: int, most: int) -> int:
    """Examples of one forward: as many whole minibatches of examples of so many numbers as fit, at least one."""
    return max(1, most // (numbers * batch_size)) * batch_size
