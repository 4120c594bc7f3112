"""All measures at 50,000 x 1,000 at least ten times as fast as others' average precision alone, and equal to it."""

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score
from torch import Tensor
from torchmetrics.functional.classification import multilabel_average_precision

from bench.accuracy.metrics import measure

pytestmark = pytest.mark.benchmark

EXAMPLES, CLASSES = 50_000, 1_000
#: The design's figure.
TIMES_AS_FAST = 10
#: Repeats of ours. The others take seconds and run once, which is as long as many repeats of ours.
REPEATS = 5


def scores(above: float) -> tuple[Tensor, Tensor]:
    """Normal logits with the true ones higher, in float32, moved into [0, 1]: torchmetrics then maps nothing."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(CLASSES, (EXAMPLES,), generator=generator)
    logits = torch.randn(EXAMPLES, CLASSES, generator=generator)
    logits[torch.arange(EXAMPLES), labels] += above
    return logits.sub_(logits.min()).div_(logits.max()), labels


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    start = time.perf_counter()
    found = work()
    return time.perf_counter() - start, found


def by_scikit_learn(logits: NDArray[Any], labels: NDArray[Any]) -> NDArray[np.float64]:
    return np.array([average_precision_score(labels == column, logits[:, column]) for column in range(CLASSES)])


def by_torchmetrics(logits: Tensor, labels: Tensor) -> Tensor:
    indicators = torch.nn.functional.one_hot(labels, CLASSES)
    return multilabel_average_precision(logits, indicators, CLASSES, average="none", validate_args=False)


@pytest.mark.parametrize("above", [3.0, 0.0], ids=["a classifier", "guesses"])
def test_ten_times_as_fast_and_equal(above: float, benchmark: Any, say: Callable[..., None]) -> None:
    logits, labels = scores(above)
    ours = benchmark.pedantic(lambda: measure(logits, labels), rounds=REPEATS, warmup_rounds=1, iterations=1)
    seconds = float(benchmark.stats.stats.median)
    torchmetrics_s, torchmetrics = timed(lambda: by_torchmetrics(logits, labels))
    scikit_learn_s, scikit_learn = timed(lambda: by_scikit_learn(logits.numpy(), labels.numpy()))
    say(
        f"{seconds:.3f} s; torchmetrics {torchmetrics_s:.2f} s ({torchmetrics_s / seconds:.1f}x), "
        f"scikit-learn {scikit_learn_s:.2f} s ({scikit_learn_s / seconds:.1f}x), {torch.get_num_threads()} threads",
        ours_s=seconds,
        torchmetrics_s=torchmetrics_s,
        scikit_learn_s=scikit_learn_s,
    )
    np.testing.assert_allclose(ours.by_class.auprc, scikit_learn, rtol=0, atol=1e-12)
    # torchmetrics divides in float32.
    np.testing.assert_allclose(ours.by_class.auprc, torchmetrics.numpy(), rtol=1e-5)
    assert torchmetrics_s / seconds >= TIMES_AS_FAST
    assert scikit_learn_s / seconds >= TIMES_AS_FAST
