"""Numbers that every command refuses."""

from typing import Any

import pytest

from bench.errors import UsageError
from bench.refusals import MOST_THREADS, positive, refuse_sizes


@pytest.mark.parametrize("value", [0, -1])
def test_what_must_be_positive(value: int) -> None:
    assert positive("--turns", 1) == 1
    with pytest.raises(UsageError, match=f"^--turns {value}: must be 1 or more$"):
        positive("--turns", value)


@pytest.mark.parametrize(
    ("fields", "line"),
    [
        ({"sizes": {"--batch-size": 0}}, "--batch-size 0: must be 1 or more"),
        ({"threads": 0}, "--threads 0: must be 1 or more"),
        ({"threads": MOST_THREADS + 1}, f"--threads {MOST_THREADS + 1}: must be {MOST_THREADS} or less"),
        ({"seed": -1}, "--seed -1: must be 0 or more"),
        ({"seed": 2**63}, f"--seed {2**63}: must be 0 or more, and below"),
    ],
)
def test_sizes_that_cannot_be(fields: dict[str, Any], line: str) -> None:
    with pytest.raises(UsageError, match=line):
        refuse_sizes(**{"sizes": {}, "threads": None, "seed": 0, **fields})


def test_sizes_that_can() -> None:
    refuse_sizes({"--batch-size": 1, "--subset": None}, threads=MOST_THREADS, seed=2**63 - 1)
