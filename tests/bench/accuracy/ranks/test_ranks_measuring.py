"""Measures over ranks are one process's."""

from typing import Any

import numpy as np
import pytest
import torch

from bench.accuracy.metrics import measure
from bench.accuracy.ranks import Alone, own_classes


def test_measures_of_one_process(outcomes: list[dict[str, Any]], cases: dict[str, Any]) -> None:
    random = np.random.default_rng(0)
    features = torch.from_numpy(random.standard_normal((40, cases["D"])))
    labels = random.integers(0, cases["K"], 40)
    top = cases["network"]()[2]
    logits = top(features).detach()
    correct = float((logits.argmax(1).numpy() == labels).mean())
    for found in (outcome["measures"] for outcome in outcomes):
        for kind in ("split", "whole"):
            for score in ("single", "all"):
                assert found[f"{kind} {score}"] == pytest.approx(measure(logits, labels, score=score).auprc, rel=1e-12)
            assert found[f"{kind} accuracy"] == correct


def test_equal_logits_count_for_the_lowest_class(as_threads: Any) -> None:
    def of_rank(ranks: Any) -> float:
        features, labels = torch.ones(2, 1), torch.tensor([0, 3])
        own = own_classes(features, labels, torch.zeros(2, 1), None, 2 * ranks.rank, ranks)
        return own.accuracy()

    assert as_threads(2, of_rank) == [0.5, 0.5]


def test_a_logit_that_is_no_number_is_refused() -> None:
    own = own_classes(torch.ones(2, 1), torch.tensor([0, 1]), torch.tensor([[1.0], [float("nan")]]), None, 0, Alone())
    with pytest.raises((ValueError, RuntimeError), match="NaN"):
        own.accuracy()
