"""What a step cannot be, refused in one line that says what to do."""

from typing import Any

import pytest
from torch import nn

from bench.accuracy.refusals import (
    refuse_lone_example,
    refuse_more_ranks_than_classes,
    refuse_unfit_members,
    refuse_unfit_step,
)
from bench.accuracy.settings import Member, Recipe
from bench.errors import UsageError


def recipe(**fields: Any) -> Recipe:
    return Recipe(**{"network": "mlp", "steps": 1, "batch_size": 8, **fields})


def members(*keys: str) -> list[Member]:
    return [Member(loss=key, learning_rate=0.1, seed=seed) for seed, key in enumerate(keys)]


@pytest.mark.parametrize(
    ("fields", "ranks", "line"),
    [
        ({"accumulation": 3}, 1, "--accumulate 3: .* 8 examples"),
        ({"accumulation": 2, "compile": "default"}, 1, "--compile default: .*dropout"),
        ({"top_layer_step": "in-place", "dtype": "float16"}, 1, "--dtype float16 .*chunked"),
        ({"top_layer_step": "chunked", "auxiliary_weight": 0.4}, 1, "auxiliary head, .*--top-layer-step dense"),
        ({"shard_top_layer": True}, 1, "splits the classes over ranks, and there is one: start several with torchrun"),
        ({"ranks": 2}, 3, "a training of 2 ranks, .* 3 ranks would carry it out: start 2 with torchrun"),
        ({"ranks": 3}, 1, "a training of 3 ranks, .* 1 rank would carry it out: start 3 with torchrun"),
        ({"ranks": 1}, 2, "a training of 1 rank, .* 2 ranks would carry it out: start it without torchrun"),
        ({"ranks": 3, "top_layer_step": "in-place"}, 3, "every rank holds cannot step .* add --shard-top-layer"),
        ({"ranks": 3, "shard_top_layer": True}, 3, "as a dense step needs; give --top-layer-step in-place"),
        (
            {"ranks": 3, "shard_top_layer": True, "top_layer_step": "chunked", "dtype": "float16"},
            3,
            "--dtype float16 .*rows: give",
        ),
        ({"ranks": 3, "compile": "default"}, 3, "--compile default: .* leave it out"),
        ({"ranks": 3, "batch_size": 2}, 3, "minibatches of 2 examples over 3 ranks"),
        ({"ranks": 3, "batch_size": 4, "accumulation": 2}, 3, "micro-batches of 2 examples over 3 ranks"),
    ],
)
def test_a_step_that_would_not_be_what_the_recipe_says(fields: dict[str, Any], ranks: int, line: str) -> None:
    with pytest.raises(UsageError, match=line) as refused:
        refuse_unfit_step(recipe(**fields), ranks)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("fields", "ranks"),
    [
        ({"accumulation": 4}, 1),
        ({"top_layer_step": "in-place", "dtype": "bfloat16"}, 1),
        ({"ranks": 3, "top_layer_step": "chunked", "dtype": "float16"}, 3),
        ({"ranks": 3, "shard_top_layer": True, "top_layer_step": "in-place", "accumulation": 2}, 3),
    ],
)
def test_steps_that_are_what_they_say(fields: dict[str, Any], ranks: int) -> None:
    refuse_unfit_step(recipe(**fields), ranks)


@pytest.mark.parametrize(
    ("keys", "fields", "line"),
    [
        (("ce", "ce"), {"network": "cnn"}, "trainings of cnn in float32 cannot be stacked"),
        (("ce", "ce"), {"dtype": "float16"}, "trainings of mlp in float16 cannot be stacked"),
        (("ce", "ce"), {"top_layer_step": "chunked"}, "chunks of classes, .* cannot be stacked"),
        (("ce", "ce"), {"accumulation": 2}, "in micro-batches, cannot be stacked"),
        (("ce", "ce"), {"ranks": 2}, "over several ranks cannot be stacked"),
        (("ce", "adaptive"), {}, "a top layer of adaptive cannot be stacked"),
        (("adaptive",), {"shard_top_layer": True, "ranks": 2}, "a top layer of adaptive cannot be split"),
    ],
)
def test_members_that_cannot_step_together(keys: tuple[str, ...], fields: dict[str, Any], line: str) -> None:
    with pytest.raises(UsageError, match=line) as refused:
        refuse_unfit_members(members(*keys), recipe(**fields))
    assert "\n" not in str(refused.value)


def test_members_that_can() -> None:
    refuse_unfit_members(members("ce", "batch-ce"), recipe(dtype="bfloat16"))
    refuse_unfit_members(members("adaptive"), recipe(network="cnn"))


def test_a_rank_needs_a_class_of_its_own() -> None:
    split = recipe(ranks=3, shard_top_layer=True, top_layer_step="in-place")
    refuse_more_ranks_than_classes(split, 3)
    with pytest.raises(UsageError, match="2 classes over 3 ranks: each rank needs one"):
        refuse_more_ranks_than_classes(split, 2)
    refuse_more_ranks_than_classes(split.model_copy(update={"shard_top_layer": False}), 2)


@pytest.mark.parametrize(
    ("fields", "what"), [({"batch_size": 1}, "minibatch"), ({"batch_size": 4, "accumulation": 4}, "micro-batch")]
)
def test_one_example_has_no_variance(fields: dict[str, int], what: str) -> None:
    normalises = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
    with pytest.raises(UsageError, match=f"normalises by its {what}, .* give 2 or more"):
        refuse_lone_example(recipe(**fields), normalises)
    refuse_lone_example(recipe(**fields), nn.Linear(3, 3))
    refuse_lone_example(recipe(**{**fields, "accumulation": 1, "batch_size": 2}), normalises)
