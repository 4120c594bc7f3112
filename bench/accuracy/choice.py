"""The choice of learning rate: by validation accuracy, before the test data are touched (Sect. 6.1)."""

import math
from collections.abc import Iterable

from bench.accuracy.records import Training


def choose(trainings: Iterable[Training]) -> Training | None:
    """The best of one loss's trainings at several learning rates; None if none of them reached its end.

    Highest validation accuracy; among equals the lowest validation loss, then the smallest learning rate. One that
    diverged or failed is never chosen.
    """
    finished = [training for training in trainings if training.validation_accuracy is not None]
    return min(finished, key=_order, default=None)


def _order(training: Training) -> tuple[float, float, float]:
    accuracy, loss = training.validation_accuracy, training.validation_loss
    assert accuracy is not None
    return -accuracy, math.inf if loss is None else loss, training.member.learning_rate
