"""Ranks that run different things: the field and both values."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bench.accuracy import grid
from bench.accuracy.ranks import Alone, Place, agree, refuse_drift
from bench.accuracy.ranks.agreement import first_difference, flattened
from bench.accuracy.request import Request
from bench.errors import UsageError

FACTS: dict[str, Any] = {
    "recipe": {"steps": 9, "dtype": "float32", "decay_rate": None},
    "dataset": {"classes": 10, "checksums": {"train": "ab"}},
    "losses": [{"key": "ce"}],
    "rates": (0.1, 1.0),
}


def test_fields_by_hand() -> None:
    assert flattened(FACTS) == {
        "dataset.checksums.train": '"ab"',
        "dataset.classes": "10",
        "losses": '[{"key": "ce"}]',
        "rates": "[0.1, 1.0]",
        "recipe.decay_rate": "null",
        "recipe.dtype": '"float32"',
        "recipe.steps": "9",
    }


def test_alike() -> None:
    assert first_difference([flattened(FACTS)] * 3) is None
    agree(Alone(), FACTS)


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"recipe": {**FACTS["recipe"], "steps": 10}}, "recipe.steps is 9 on rank 0 and 10 on rank 2"),
        ({"rates": (0.1,)}, "rates is [0.1, 1.0] on rank 0 and [0.1] on rank 2"),
        ({"seeds": [0]}, "seeds is nothing on rank 0 and [0] on rank 2"),
        ({"dataset": {**FACTS["dataset"], "checksums": {}}}, "dataset.checksums is nothing on rank 0 and {} on rank 2"),
    ],
)
def test_a_difference_names_field_and_values(change: dict[str, Any], line: str) -> None:
    by_rank = [flattened(FACTS), flattened(FACTS), flattened({**FACTS, **change})]
    assert str(first_difference(by_rank)) == line


def test_long_values_are_cut_short() -> None:
    found = str(first_difference([{"a": "x" * 500}, {"a": "y" * 500}]))
    assert found.endswith("y... on rank 1")
    assert len(found) < 200


values = st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.floats(allow_nan=False)


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.dictionaries(st.sampled_from("abc"), values), st.dictionaries(st.sampled_from("abc"), values))
def test_a_difference_is_found_exactly_where_there_is_one(one: dict[str, Any], other: dict[str, Any]) -> None:
    found = first_difference([flattened(one), flattened(other)])
    assert (found is None) == (flattened(one) == flattened(other))


def test_every_rank_refuses(outcomes: list[dict[str, Any]]) -> None:
    lines = {outcome["refused"].get("facts") for outcome in outcomes}
    if len(outcomes) == 1:
        assert lines == {None}
        return
    (line,) = lines
    assert line.startswith("the ranks run different things: recipe.batch_size is 128 on rank 0 and 256 on rank ")


def test_weights_are_compared_bit_for_bit(as_threads: Callable[..., list[Any]]) -> None:
    """Of every type that a state dict holds, and in any layout."""

    def of_rank(ranks: Any, change: float) -> None:
        weights = {
            "whole": torch.tensor(3),
            "turned": torch.arange(6.0).view(2, 3).t(),
            "half": torch.ones(2, dtype=torch.bfloat16),
            "double": torch.ones(2, dtype=torch.float64) + (change if ranks.rank == 2 else 0),
        }
        refuse_drift(ranks, weights, 7)

    assert as_threads(3, lambda ranks: of_rank(ranks, 0.0)) == [None] * 3
    found = as_threads(3, lambda ranks: of_rank(ranks, 3e-16))
    assert [type(each) for each in found] == [UsageError] * 3
    assert "after step 7 double is not the same on ranks 0 and 2" in str(found[0])


def test_ranks_that_are_asked_for_other_things_plan_nothing(
    as_threads: Callable[..., list[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of them may be refused a plan, or take long for another: neither is to come first."""
    monkeypatch.setattr(grid, "plan", lambda *arguments: pytest.fail("it was planned"))

    def work(ranks: Any) -> Any:
        asked = {"top_layer_step": "dense", "shard_top_layer": True} if ranks.rank else {"top_layer_step": "chunked"}
        place = Place(ranks.rank, ranks.size, 0)  # where a rank is, and its threads, may differ
        return grid.plan_over(Request(place=place, threads=1 + ranks.rank, **asked), ranks)

    for found in as_threads(2, work):
        assert isinstance(found, UsageError)
        assert "request.shard_top_layer is false on rank 0 and true on rank 1" in str(found)


def test_ranks_that_are_asked_alike_have_one_plan(as_threads: Callable[..., list[Any]]) -> None:
    def work(ranks: Any) -> Any:
        place = Place(ranks.rank, ranks.size, ranks.rank)
        request = Request(losses="ce", device="cpu", place=place, local_ranks=2, threads=1 + ranks.rank)
        return grid.plan_over(request, ranks)

    one, other = as_threads(2, work)
    assert one.decides() == other.decides()
    assert (one.recipe.threads, other.recipe.threads) == (1, 2)
