"""What torchmetrics says of a single logit, and why these measures are not its."""

import pytest
import torch
from torch import Tensor
from torchmetrics.functional.classification import (
    multiclass_average_precision,
    multilabel_average_precision,
)

from bench.accuracy.metrics import measure

EXAMPLES, CLASSES = 3000, 10


@pytest.fixture
def labels() -> Tensor:
    return torch.randint(CLASSES, (EXAMPLES,), generator=torch.Generator().manual_seed(0))


def separated(labels: Tensor) -> Tensor:
    """Logits that a classifier of all of them finds easy: the true one is 12 above the others, give or take one."""
    noise = torch.randn(EXAMPLES, CLASSES, generator=torch.Generator().manual_seed(1))
    return noise + 12 * torch.nn.functional.one_hot(labels, CLASSES)


def test_its_softmax_hides_that_a_single_logit_tells_nothing(labels: Tensor) -> None:
    """Each row moved by a constant of its own, as cross-entropy lets it be: one logit alone is lost, all are not.

    torchmetrics takes a softmax of the row whenever a value lies outside [0, 1], and with that asks all logits.
    """
    shifts = 200 * torch.randn(EXAMPLES, 1, generator=torch.Generator().manual_seed(2))
    logits = separated(labels) + shifts
    assert measure(logits, labels).auprc < 0.2
    assert float(multiclass_average_precision(logits, labels, CLASSES)) > 0.99
    assert measure(logits, labels, score="all").auprc > 0.99


def test_its_sigmoid_in_float32_ties_logits_that_differ(labels: Tensor) -> None:
    """Its multilabel form looks at one logit, through a sigmoid that is 1 from 17 on."""
    indicators = torch.nn.functional.one_hot(labels, CLASSES)
    logits = 30 + separated(labels)
    assert measure(logits, labels).auprc > 0.999
    assert float(multilabel_average_precision(logits, indicators, CLASSES)) < 0.2


def test_within_the_unit_interval_both_agree(labels: Tensor) -> None:
    """Where it maps nothing it is the same measure, to the float32 in which it divides."""
    logits = torch.rand(EXAMPLES, CLASSES, generator=torch.Generator().manual_seed(3))
    logits += 2 * torch.nn.functional.one_hot(labels, CLASSES)
    indicators = torch.nn.functional.one_hot(labels, CLASSES)
    theirs = multilabel_average_precision(logits / 3, indicators, CLASSES, average="none")
    torch.testing.assert_close(torch.from_numpy(measure(logits / 3, labels).by_class.auprc).float(), theirs)
