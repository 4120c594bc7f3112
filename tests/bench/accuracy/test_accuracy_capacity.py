import dataclasses
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.accuracy.capacity import Demand, choose_step, side_by_side, states_of
from bench.errors import UsageError
from bench.speed.capacity import RESERVE_BYTES

GB = 10**9

#: The top layer of a ResNet at 2**18.5 classes: 3.04 GB.
LARGE = Demand(examples=32, classes=370_727, features=2048, backbone_parameters=23_500_000, states=2)
SMALL = Demand(examples=128, classes=100, features=500, backbone_parameters=10**6, states=1)


def test_sizes_worked_by_hand() -> None:
    weight = 4 * 370_727 * 2049
    backbone = 4 * 23_500_000
    on_gpu = dataclasses.replace(LARGE, in_host_memory=False)
    assert LARGE.weight_bytes == weight
    # weight, gradient and two moments of layer and backbone; four copies of 32 x 370,727 logits
    assert on_gpu.needed("dense") == 4 * weight + 4 * backbone + 4 * 4 * 32 * 370_727
    assert on_gpu.needed("chunked") == 4 * weight + 4 * backbone + 2**27
    assert on_gpu.needed("in-place") == weight + 4 * backbone + 2**27
    # on a CPU a checkpoint takes more than a step: all that is kept, three times
    assert LARGE.needed("chunked") == 3 * (3 * weight + 3 * backbone)


@pytest.mark.parametrize(
    ("optimiser", "momentum", "states"),
    [("sgd", 0.9, 1), ("sgd", 0.0, 0), ("adam", 0.9, 2), ("adamw", 0.0, 2), ("rmsprop", 0.9, 2), ("rmsprop", 0.0, 1)],
)
def test_what_an_optimiser_keeps(optimiser: Any, momentum: float, states: int) -> None:
    assert states_of(optimiser, momentum) == states


@pytest.mark.parametrize(
    ("demand", "free", "step"),
    [
        (SMALL, 16 * GB, "dense"),
        (SMALL, GB, "dense"),
        (LARGE, 64 * GB, "chunked"),
        (LARGE, 1000 * GB, "dense"),  # 3.8 GB are a small share of it
        (LARGE, 20 * GB, "in-place"),
        (dataclasses.replace(LARGE, states=0), 20 * GB, "chunked"),
    ],
)
def test_a_step_is_chosen_by_size(demand: Demand, free: int, step: str) -> None:
    assert choose_step(None, demand, free) == step


def test_what_was_asked_for_is_done_where_it_fits() -> None:
    for step in ("dense", "chunked", "in-place"):
        assert choose_step(step, SMALL, GB) == step
        assert choose_step(step, LARGE, 100 * GB) == step


@pytest.mark.parametrize(
    ("asked", "free", "words"),
    [
        ("dense", 20 * GB, "370,727 classes of 2,048 features need .* GB to train through all logits .*in-place needs"),
        ("chunked", 20 * GB, "over chunks of classes .a weight of 3.04 GB.*19.80 GB are free.*in-place needs"),
        ("in-place", 5 * GB, "in place .*take fewer classes"),
        (None, 5 * GB, "in place .*take fewer classes"),
        ("sparse", 5 * GB, "--top-layer-step 'sparse': must be one of dense, chunked, in-place"),
    ],
)
def test_no_memory_is_one_line_that_says_what_to_do(asked: str | None, free: int, words: str) -> None:
    with pytest.raises(UsageError, match=words) as refused:
        choose_step(asked, LARGE, free)
    assert "\n" not in str(refused.value)


def test_sizes_of_a_rank_worked_by_hand() -> None:
    """370,727 over 2: 185,364 classes on the larger one, which never has the others."""
    split = dataclasses.replace(LARGE, ranks=2, sharded=True)
    own, whole, backbone = 4 * 185_364 * 2049, 4 * 370_727 * 2049, 4 * 23_500_000
    assert split.weight_bytes == own
    gathered = 4 * 4 * 32 * 2048
    on_gpu = dataclasses.replace(split, in_host_memory=False)
    assert on_gpu.needed("in-place") == own + 4 * backbone + min(2**27, 4 * 4 * 16 * 370_727) + gathered
    assert on_gpu.needed("chunked") == 4 * own + 4 * backbone + min(2**27, 4 * 4 * 16 * 370_727) + gathered
    assert split.needed("in-place") == 2 * own + 9 * backbone, "a checkpoint is read beside what it replaces"
    together = dataclasses.replace(LARGE, ranks=2, in_host_memory=False)
    assert together.needed("dense") == 4 * whole + 4 * backbone + 4 * 4 * 16 * 370_727


@pytest.mark.parametrize(
    ("sharded", "free", "step"),
    [
        (False, 1000 * GB, "dense"),
        (False, 48 * GB, "chunked"),
        (True, 1000 * GB, "chunked"),
        (True, 64 * GB, "chunked"),
        (True, 6 * GB, "in-place"),
    ],
)
def test_of_several_ranks_only_what_they_can_do_is_chosen(sharded: bool, free: int, step: str) -> None:
    assert choose_step(None, dataclasses.replace(LARGE, ranks=2, sharded=sharded), free) == step


def test_ranks_without_memory_are_told_to_split_the_layer() -> None:
    with pytest.raises(UsageError, match=r"over chunks of classes on each of 2 ranks .*or add --shard-top-layer"):
        choose_step(None, dataclasses.replace(LARGE, ranks=2), 20 * GB)


demands = st.builds(
    Demand,
    examples=st.integers(1, 4096),
    classes=st.integers(2, 10**6),
    features=st.integers(1, 4096),
    backbone_parameters=st.integers(0, 10**8),
    states=st.integers(0, 2),
    in_host_memory=st.booleans(),
)


@given(demands, st.integers(0, 10**12))
def test_what_is_chosen_fits_and_so_do_all_that_run_side_by_side(demand: Demand, free: int) -> None:
    try:
        step = choose_step(None, demand, free)
    except UsageError:
        assert demand.needed("in-place") + RESERVE_BYTES > free
        return
    room = side_by_side(step, demand, free)
    assert room * demand.needed(step) + RESERVE_BYTES <= free
    assert demand.needed("in-place") <= demand.needed("chunked") <= demand.needed("dense")
