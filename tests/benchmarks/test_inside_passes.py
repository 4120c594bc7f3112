"""Of a sweep on a CPU, 95 % of the time from the first round to the last is spent inside passes."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bench import sweep

pytestmark = pytest.mark.benchmark


def test_a_sweep_spends_its_time_in_passes(benchmark: Any, say: Callable[..., None], tmp_path: Path) -> None:
    """A real run, written to disk as ever: AlexNet, whose passes of 8 examples take 50 ms and more on two cores."""
    done = benchmark.pedantic(
        sweep,
        args=("alexnet",),
        kwargs={
            "classes": [1, 2**10, 2**14],
            "batch_size": 8,
            "minibatches": 30,
            "device": "cpu",
            "output": tmp_path,
            "watch": lambda run, doing: None,
        },
        rounds=1,
        iterations=1,
    )
    (process,) = done.run.manifest.processes
    per_pass_s = min(row.median_s for row in done.rows()) * 8
    say(
        f"{process.inside_passes:.2%} inside passes, {process.inside_passes_with_warmup:.2%} with warm-up; "
        f"shortest pass {per_pass_s * 1e3:.0f} ms",
        inside_passes=process.inside_passes,
        inside_passes_with_warmup=process.inside_passes_with_warmup,
        shortest_pass_s=per_pass_s,
    )
    assert 0.95 <= process.inside_passes <= 1
    assert 0.95 <= process.inside_passes_with_warmup <= 1
