"""A grid of trainings against a plain loop, one training after the other, and against its own matrix products.

On two CPU cores the grid must never be slower than the plain loop, and reach 90 % of what its kernels allow: matrix
products, which are three quarters of a step, and all else that a step cannot do without (batch norm, ReLU, the
optimiser's pass over every weight, the gathered minibatch). 90 % of the products alone, which was the aim, is out of
reach for that reason; the share is shown. On a GPU, where a plain step waits for its own launches, a
stack of the grid must reach 10 times the plain loop's examples per second.
"""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from archs.small import mlp
from bench.accuracy.data import Dataset, from_arrays
from bench.accuracy.events import Ended, Stepped
from bench.accuracy.records import Training
from bench.accuracy.settings import PAPER_LOSSES, LossSetting, Member, Recipe
from bench.accuracy.training import Work, train
from bench.speed.statistics import ratios

pytestmark = pytest.mark.benchmark

SHAPE, CLASSES, BATCH = (1, 28, 28), 10, 128
EXAMPLES = 6_400

#: Steps of one visit: about a second and a half on one core.
STEPS = 300
VISITS = 8

#: The products of one step: (rows, inner, columns) of forward, weight gradient, and input gradient but the first.
PRODUCTS = [
    (BATCH, 784, 500),
    (BATCH, 500, 500),
    (BATCH, 500, CLASSES),
    (500, BATCH, 784),
    (500, BATCH, 500),
    (CLASSES, BATCH, 500),
    (BATCH, 500, 500),
    (BATCH, CLASSES, 500),
]

#: What both children of a visit do: a process a core with one thread each, begun together, timed by themselves.
CHILD = """
import sys, torch
from test_grid_throughput import bare_kernels, bare_products, train_one
torch.set_num_threads(1)
work = {"train": train_one, "products": bare_products, "kernels": bare_kernels}[sys.argv[1]]
work()  # warm
for line in sys.stdin:
    print(work(), flush=True)
"""


def mnist_like() -> Dataset:
    """Random images of MNIST's shape: the time of a step does not depend on what they show."""
    generator = np.random.default_rng(0)

    def split(examples: int) -> tuple[Any, Any]:
        images = generator.integers(0, 256, (examples, *SHAPE), dtype=np.uint8)
        return images, np.arange(examples) % CLASSES

    return from_arrays("mnist-like", train=split(EXAMPLES), test=split(200))


def recipe(**fields: Any) -> Recipe:
    return Recipe(**{"network": "mlp", "steps": STEPS, "batch_size": BATCH, "curve_points": 1, **fields})


def train_one() -> float:
    """Steps per second of one training by the grid's own code, validation left out."""
    return steps_per_s(trained([Member(loss="ce", learning_rate=0.01, seed=0)], recipe()))


def trained(members: Sequence[Member], how: Recipe) -> list[Training]:
    ended: list[Training] = []

    def take(event: Stepped | Ended) -> None:
        if isinstance(event, Ended):
            ended.append(event.training)

    keys = dict.fromkeys(member.loss for member in members)
    losses = tuple(LossSetting(key=key, name=key, aligned=False) for key in keys)
    train(Work(members=tuple(members), recipe=how, losses=losses), mnist_like(), take, checkpoints=None)
    return ended


def steps_per_s(trainings: Sequence[Training]) -> float:
    """Of all of them together, each with its share."""
    return sum((each.examples_per_s or 0.0) for each in trainings) / BATCH


def bare_products() -> float:
    """Steps per second if a step were nothing but its matrix products."""
    operands = [(torch.randn(rows, inner), torch.randn(inner, columns)) for rows, inner, columns in PRODUCTS]
    outputs = [torch.empty(rows, columns) for rows, _, columns in PRODUCTS]
    start = time.perf_counter()
    for _ in range(STEPS):
        for (left, right), output in zip(operands, outputs, strict=True):
            torch.mm(left, right, out=output)
    return STEPS / (time.perf_counter() - start)


def bare_kernels() -> float:
    """Steps per second of the operators of a step, called one after the other: no autograd, no modules, no loop."""
    data, model = mnist_like(), mlp(SHAPE, CLASSES)
    first, second, top = (layer for layer in model if isinstance(layer, torch.nn.Linear))
    norms = [layer for layer in model if isinstance(layer, torch.nn.BatchNorm1d)]
    weights = [parameter.detach() for parameter in model.parameters()]
    gradients, momenta = ([torch.zeros_like(weight) for weight in weights] for _ in range(2))
    aten, at_once = torch.ops.aten, {"weight_decay": 0.0, "momentum": 0.9, "lr": 0.01, "dampening": 0.0}

    def normalised(values: Any, norm: torch.nn.BatchNorm1d) -> tuple[Any, ...]:
        running = (norm.running_mean, norm.running_var)
        return aten.native_batch_norm(values, norm.weight, norm.bias, *running, True, 0.1, 1e-5)

    def denormalised(slope: Any, values: Any, kept: tuple[Any, ...], norm: torch.nn.BatchNorm1d) -> Any:
        running = (norm.running_mean, norm.running_var)
        return aten.native_batch_norm_backward(
            slope, values, norm.weight, *running, kept[1], kept[2], True, 1e-5, [True] * 3
        )[0]

    def step(indices: Any) -> None:
        images, labels = data.train.images(indices).flatten(1), data.train.labels.index_select(0, indices)
        z1 = images @ first.weight.t()
        kept1 = normalised(z1, norms[0])
        h1 = kept1[0].relu_()
        z2 = h1 @ second.weight.t()
        kept2 = normalised(z2, norms[1])
        h2 = kept2[0].relu_()
        logits = torch.addmm(top.bias, h2, top.weight.t())
        slope = logits.softmax(1)
        slope[torch.arange(BATCH), labels] -= 1
        _ = slope.t() @ h2, slope.sum(0)
        back2 = denormalised(aten.threshold_backward(slope @ top.weight, h2, 0), z2, kept2, norms[1])
        _ = back2.t() @ h1
        back1 = denormalised(aten.threshold_backward(back2 @ second.weight, h1, 0), z1, kept1, norms[0])
        _ = back1.t() @ images
        torch._fused_sgd_(weights, gradients, momenta, nesterov=False, maximize=False, is_first_step=False, **at_once)

    order = torch.randperm(len(data.train.labels))
    with torch.no_grad():
        start = time.perf_counter()
        for number in range(STEPS):
            step(order[torch.arange(number * BATCH, (number + 1) * BATCH) % len(order)])
    return STEPS / (time.perf_counter() - start)


def plain_loop(device: str = "cpu") -> float:
    """Steps per second of the loop that anybody would write, with all threads in one process."""
    torch.manual_seed(0)
    data = mnist_like().on(device)
    model = mlp(SHAPE, CLASSES).to(device)
    optimiser = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    labels = data.train.labels.to(device)
    order = torch.randperm(len(labels), device=device)
    start = 0.0
    for step in range(-20, STEPS):
        if step == 0:
            if device != "cpu":
                torch.cuda.synchronize()
            start = time.perf_counter()
        indices = order[torch.arange(step * BATCH, (step + 1) * BATCH, device=device) % len(order)]
        optimiser.zero_grad()
        torch.nn.functional.cross_entropy(model(data.train.images(indices)), labels[indices]).backward()
        optimiser.step()
    if device != "cpu":
        torch.cuda.synchronize()
    return STEPS / (time.perf_counter() - start)


class Pair:
    """Two processes with one thread each that do the same piece of work at the same time."""

    def __init__(self, work: str) -> None:
        self._children = [
            subprocess.Popen(
                [sys.executable, "-c", CHILD, work],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                cwd=Path(__file__).parent,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},  # what this process finds, they find
            )
            for _ in range(2)
        ]

    def __call__(self) -> float:
        """Steps per second of both together."""
        for child in self._children:
            assert child.stdin is not None
            child.stdin.write("go\n")
            child.stdin.flush()
        return sum(float(child.stdout.readline()) for child in self._children if child.stdout is not None)

    def end(self) -> None:
        for child in self._children:
            child.kill()
            child.wait()


def test_a_grid_on_two_cores(benchmark: Any, say: Callable[..., None], say_ratio: Callable[..., None]) -> None:
    torch.set_num_threads(2)
    grid, products, kernels = Pair("train"), Pair("products"), Pair("kernels")
    rates: dict[str, list[float]] = {"grid": [], "plain loop": [], "products": [], "kernels": []}

    def measure() -> None:
        for _ in range(VISITS):  # in turn, so that drift hits all alike
            rates["grid"].append(grid())
            rates["products"].append(products())
            rates["kernels"].append(kernels())
            rates["plain loop"].append(plain_loop())

    try:
        benchmark.pedantic(measure, rounds=1, iterations=1)
    finally:
        for pair in (grid, products, kernels):
            pair.end()
    times = {case: 1 / np.array(found) for case, found in rates.items()}
    (faster,) = ratios([times["plain loop"]], times["grid"])
    of_products, of_kernels = ratios([times["products"], times["kernels"]], times["grid"])
    assert faster is not None
    assert of_products is not None
    assert of_kernels is not None
    for case, seconds in times.items():
        say(f"{case}: {1e3 * float(np.median(seconds)):.2f} ms a step on two cores")
    say_ratio("the grid's examples per second / the plain loop's", faster)
    say_ratio("the grid's examples per second / what its matrix products allow", of_products)
    say_ratio("the grid's examples per second / what its kernels allow", of_kernels)
    assert faster.interval()[1] > 1, "never slower"
    assert of_kernels.interval()[1] > 0.9


@pytest.mark.gpu
def test_a_stack_on_a_gpu(benchmark: Any, say: Callable[..., None]) -> None:
    members = [
        Member(loss=loss, learning_rate=rate, seed=seed)
        for seed in range(3)
        for loss in PAPER_LOSSES
        for rate in (1.0, 0.1, 0.01, 0.001)
    ]
    how = recipe(device="cuda:0", stack=len(members), steps=2_000)
    stacked = benchmark.pedantic(lambda: steps_per_s(trained(members, how)), rounds=1, iterations=1, warmup_rounds=1)
    plain = float(np.median([plain_loop("cuda") for _ in range(5)]))
    say(f"{len(members)} trainings in a stack: {stacked / plain:.1f} times the plain loop's examples per second")
    assert stacked / plain >= 10
