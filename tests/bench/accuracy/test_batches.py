import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bench.accuracy.batches import BatchOrder, stream_seed

SIZES = {"examples": st.integers(1, 40), "batch_size": st.integers(1, 60), "seed": st.integers(0, 5)}


@given(**SIZES, epochs=st.integers(1, 4))
def test_every_epoch_visits_every_example_once(examples: int, batch_size: int, seed: int, epochs: int) -> None:
    steps = -(-epochs * examples // batch_size)
    line = BatchOrder(examples, batch_size, seed).window(0, steps).reshape(-1)
    for epoch in range(epochs):
        visited = line[epoch * examples : (epoch + 1) * examples]
        assert sorted(visited.tolist()) == list(range(examples))


@given(**SIZES, first=st.integers(0, 30), steps=st.integers(1, 12))
def test_a_minibatch_depends_on_seed_and_step_alone(
    examples: int, batch_size: int, seed: int, first: int, steps: int
) -> None:
    one_by_one = BatchOrder(examples, batch_size, seed)
    alone = [one_by_one.window(step, 1) for step in range(first + steps)][first:]
    at_once = BatchOrder(examples, batch_size, seed).window(first, steps)
    assert at_once.shape == (steps, batch_size)
    assert at_once.dtype == torch.int64
    assert torch.equal(at_once, torch.cat(alone))


def test_epochs_and_seeds_have_orders_of_their_own() -> None:
    line = BatchOrder(1000, 1000, 0).window(0, 2)
    assert not torch.equal(line[0], line[1])
    assert not torch.equal(line[0], BatchOrder(1000, 1000, 1).window(0, 1)[0])


def test_the_global_generator_is_left_alone() -> None:
    before = torch.get_rng_state()
    BatchOrder(10, 3, 0).window(0, 10)
    assert torch.equal(torch.get_rng_state(), before)


def test_streams_differ_by_purpose_and_numbers() -> None:
    seeds = [
        stream_seed("order", 0, 0),
        stream_seed("order", 0, 1),
        stream_seed("order", 1, 0),
        stream_seed("augmentation", 0),
        stream_seed("noise", 0),
        stream_seed("validation noise", 0),
    ]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**62 for seed in seeds)


def test_empty_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="from 0 examples"):
        BatchOrder(0, 4, 0)
