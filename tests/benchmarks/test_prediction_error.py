"""How far the predicted time of a large top layer is from the measured one."""

from collections.abc import Callable
from typing import Any

import pytest

from bench import sweep

pytestmark = [pytest.mark.benchmark, pytest.mark.slow]

CLASSES = 2**16


@pytest.mark.parametrize("arch", ["alexnet", "torchvision/resnet18"])
def test_prediction_against_measurement(arch: str, benchmark: Any, say: Callable[..., None]) -> None:
    """Within 10 % is what the design wants; the rates are taken seconds before, on a machine that may be busy then."""
    done = benchmark.pedantic(
        sweep,
        args=(arch,),
        kwargs={"classes": [1, CLASSES], "batch_size": 8, "minibatches": 20, "device": "cpu"},
        rounds=1,
        iterations=1,
    )
    single, row = (next(row for row in done.rows() if row.classes == count) for count in (1, CLASSES))
    ratio = row.predicted_s / row.median_s
    added = (row.predicted_s - single.median_s) / (row.median_s - single.median_s)
    say(
        f"{arch}: predicted {row.predicted_s * 1e3:.2f} ms, measured {row.median_s * 1e3:.2f} ms an example, "
        f"off by {ratio - 1:+.1%} of the whole and {added - 1:+.1%} of what the top layer adds",
        predicted_s=row.predicted_s,
        measured_s=row.median_s,
        relative_error=ratio - 1,
        relative_error_of_added=added - 1,
    )
    assert 1 / 1.5 < ratio < 1.5
