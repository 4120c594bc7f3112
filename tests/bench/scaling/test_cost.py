"""The cost of a step: when there is enough of it, in this process by a replayed clock, and in a child."""

import itertools
import os
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from bench.accuracy.settings import LossSetting, Recipe
from bench.scaling.cost import (
    FEWEST_STEPS,
    LONG_ENOUGH_S,
    MINIBATCHES,
    MOST_STEPS,
    CostOrder,
    enough,
    in_fresh_process,
    measure,
    timed,
)


def order_of(loss: str = "ce", step: str = "dense", classes: int = 50, **hyperparameters: float | str) -> CostOrder:
    recipe = Recipe(
        network="mlp",
        steps=10,
        batch_size=8,
        optimiser="adam",
        schedule="cosine",
        top_layer_step=step,  # type: ignore[arg-type]
    )
    return CostOrder(
        parent=os.getpid(),
        dataset=f"synthetic:{classes},d=8,zipf=0,examples={8 * MINIBATCHES}",
        classes=classes,
        recipe=recipe,
        loss=loss,
        setting=LossSetting(key=loss, name=loss, aligned=True, hyperparameters=hyperparameters),
        learning_rate=0.001,
        threads=1,
    )


@pytest.fixture
def own_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_enough_is_five_steps_and_two_seconds_or_very_many_steps() -> None:
    assert not enough([])
    assert not enough([100.0] * (FEWEST_STEPS - 1))
    assert enough([LONG_ENOUGH_S / FEWEST_STEPS] * FEWEST_STEPS)
    assert not enough([1e-4] * (MOST_STEPS - 1))
    assert enough([1e-4] * MOST_STEPS)


def test_a_step_is_timed_from_an_idle_device_to_its_end() -> None:
    happened: list[str] = []
    ticks = itertools.count()

    def clock() -> float:
        happened.append("clock")
        return float(next(ticks))

    found = timed(lambda: happened.append("step"), lambda: happened.append("finish"), clock)
    assert found == (1.0,) * FEWEST_STEPS
    assert happened == ["finish", "clock", "step", "finish", "clock"] * FEWEST_STEPS


@pytest.mark.parametrize("step", ["dense", "chunked", "in-place"])
@pytest.mark.parametrize(
    ("loss", "hyperparameters"),
    [("ce", {}), ("batch-ce", {}), ("nce", {"estimate": "sampled", "t": 5, "q": "uniform"})],
)
def test_every_way_to_step_can_be_timed(own_threads: None, step: str, loss: str, hyperparameters: Any) -> None:
    ticks = itertools.count()
    cost = measure(order_of(loss, step, **hyperparameters), clock=lambda: float(next(ticks)))
    assert (cost.classes, cost.loss, cost.step, cost.batch_size, cost.threads) == (50, loss, step, 8, 1)
    assert cost.seconds == (1.0,) * FEWEST_STEPS
    assert cost.reason == ""


def test_memory_is_that_of_weights_gradient_and_states(own_threads: None) -> None:
    ticks = itertools.count()
    classes = 40_000
    cost = measure(order_of(classes=classes), clock=lambda: float(next(ticks)))
    if cost.peak_bytes is None:
        pytest.skip("this system does not let a process forget its peak memory")
    weight = 4 * 501 * classes  # of the MLP's 500 features and a bias, 80 MB; its gradient and Adam's two states
    assert 3.5 * weight < cost.peak_bytes < 7 * weight


def test_a_child_times_a_step() -> None:
    cost = in_fresh_process(order_of())
    assert cost.reason == ""
    assert enough(cost.seconds)
    assert min(cost.seconds) > 0
    assert cost.threads == 1


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("import os; os.kill(os.getpid(), 9)", "killed (signal 9)"),
        ("import os; os.kill(os.getpid(), 15)", "signal 15"),
        ("raise SystemExit(3)", "exit code 3"),
        ("print('{', end='')", "exit code 0"),
    ],
)
def test_a_child_that_dies_is_a_record_with_a_reason(script: str, words: str) -> None:
    cost = in_fresh_process(order_of(), command=(sys.executable, "-c", script))
    assert words in cost.reason
    assert (cost.seconds, cost.peak_bytes) == ((), None)


def test_what_a_child_cannot_do_is_a_record_with_a_reason() -> None:
    cost = in_fresh_process(order_of("nce", estimate="sampled", t=5, q="nonsense"))
    assert "UsageError" in cost.reason
    assert cost.seconds == ()


@pytest.mark.gpu
def test_a_step_on_a_gpu_is_timed() -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    order = order_of(classes=40_000)
    order = order.model_copy(update={"recipe": order.recipe.model_copy(update={"device": "cuda:0"})})
    cost = in_fresh_process(order)
    assert cost.reason == ""
    assert cost.peak_bytes is not None
    assert cost.peak_bytes > 4 * 4 * 501 * 40_000
