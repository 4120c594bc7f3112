"""Time and memory of a training step, in a process of its own: nothing of other steps is in its memory.

    a step of 2 classes, so that libraries are in memory       not counted
    minibatches are made                                       not counted
    the network is made; WARM_UP steps                         memory counts from here, time does not
    steps, until there are enough                              counted

A step is forward, loss, backward and optimiser; its minibatch lies ready. It gets all threads of the machine.

    parent                                 child (this file)
      |--- order, one JSON line -------------->|
      |<-- StepCost, one JSON line ------------|
"""

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence

import psutil
import torch
from pydantic import Field, PositiveInt
from torch import Tensor

from bench.accuracy import losses, networks
from bench.accuracy.batches import stream_seed
from bench.accuracy.data import synthetic
from bench.accuracy.settings import LossSetting, Recipe, starts_at_prior
from bench.accuracy.steps import Learner, parted
from bench.child import die_with, private_standard_output
from bench.folder import Record
from bench.scaling.records import StepCost
from bench.speed.failures import first_line
from bench.speed.peak_memory import PeakMemory

#: Optimisers make their state in the first step, allocators find their sizes in the next two.
WARM_UP = 3

#: Timed steps at least, and for how long at least: steps of a second each are five, those of a millisecond a thousand.
FEWEST_STEPS = 5
LONG_ENOUGH_S = 2.0
MOST_STEPS = 1000

#: Minibatches that lie ready, and are taken in turn.
MINIBATCHES = 4

#: Classes of the step that brings libraries into memory.
_FEW_CLASSES = 2

#: What the child runs; it finds this package as its parent did.
COMMAND = (sys.executable, "-m", "bench.scaling.cost")


class CostOrder(Record):
    """What a child times."""

    parent: int = Field(description="process id of the one that waits for it")
    dataset: str = Field(description="synthetic:K,... with examples for its minibatches")
    classes: PositiveInt
    recipe: Recipe
    loss: str = Field(description="key in bench.accuracy.losses")
    setting: LossSetting
    learning_rate: float
    threads: PositiveInt

    def refused(self, reason: str) -> StepCost:
        """The record of a step that was not timed."""
        return StepCost(
            classes=self.classes,
            loss=self.loss,
            step=self.recipe.top_layer_step,
            batch_size=self.recipe.batch_size,
            threads=self.threads,
            seconds=(),
            reason=reason,
        )


def in_fresh_process(order: CostOrder, command: Sequence[str] = COMMAND) -> StepCost:
    """Have a new process time a step; a process that dies is a record with a reason.

    Whatever is raised here (also a keyboard interrupt) ends the process first.
    """
    child = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,  # an interrupt at the terminal reaches the parent alone, which then ends the child
        env={**os.environ, "OMP_NUM_THREADS": str(order.threads)},
    )
    try:
        out, _ = child.communicate(order.model_dump_json() + "\n")
    except BaseException:
        child.kill()
        child.wait()
        raise
    finally:
        for pipe in (child.stdin, child.stdout):
            with contextlib.suppress(OSError):
                assert pipe is not None
                pipe.close()
    if child.returncode or not out.endswith("\n"):
        return order.refused(how_it_ended(child.returncode))
    return StepCost.model_validate_json(out)


def how_it_ended(code: int) -> str:
    """Why a child left no record, from its exit code."""
    if code == -9:
        return "its process was killed (signal 9); the kernel does that to a process when memory runs out"
    if code < 0:
        return f"its process was ended by signal {-code}"
    return f"its process ended with exit code {code}; its message, if it left one, is above"


def enough(seconds: Sequence[float]) -> bool:
    """Whether so many timed steps, of so many seconds each, will do."""
    return len(seconds) >= MOST_STEPS or (len(seconds) >= FEWEST_STEPS and sum(seconds) >= LONG_ENOUGH_S)


def timed(step: Callable[[], object], finish: Callable[[], object], clock: Callable[[], float]) -> tuple[float, ...]:
    """Seconds of each step, by `clock`; `finish` waits until a step is done."""
    seconds: list[float] = []
    while not enough(seconds):
        finish()
        began = clock()
        step()
        finish()
        seconds.append(clock() - began)
    return tuple(seconds)


def measure(order: CostOrder, clock: Callable[[], float] = time.perf_counter) -> StepCost:
    """Time the steps of an order in this process, in its number of threads."""
    device = torch.device(order.recipe.device)
    torch.set_num_threads(order.threads)
    dataset = synthetic.load(order.dataset)
    split = dataset.train.on(device)
    rows = torch.arange(MINIBATCHES * order.recipe.batch_size).view(MINIBATCHES, 1, -1)
    batches = [(split.images(each), dataset.train.labels[each].to(device)) for each in rows]
    few = [(images, labels % _FEW_CLASSES) for images, labels in batches]
    _stepping(_learner(order, dataset.facts.input_shape, _FEW_CLASSES, None), few)()
    _finish(device)
    before = _held(device)
    shares = dataset.mixture.log_prior(torch.arange(order.classes)).exp()
    step = _stepping(_learner(order, dataset.facts.input_shape, order.classes, shares), batches)
    memory = PeakMemory(device)
    memory.start()
    for _ in range(WARM_UP):
        step()
    seconds = timed(step, lambda: _finish(device), clock)
    peak = memory.read()
    return StepCost(
        classes=order.classes,
        loss=order.loss,
        step=order.recipe.top_layer_step,
        batch_size=order.recipe.batch_size,
        threads=torch.get_num_threads(),
        seconds=seconds,
        peak_bytes=None if peak is None else max(0, peak - before),
    )


def _learner(order: CostOrder, shape: Sequence[int], classes: int, shares: Tensor | None) -> Learner:
    """A network of so many classes, ready to step by the order's loss; `shares` of the classes, all alike if none."""
    recipe, setting = order.recipe, order.setting
    network = networks.build(
        recipe.network, shape, classes, seed=0, prior_bias=starts_at_prior(recipe, setting) and classes > _FEW_CLASSES
    )
    loss = losses.configured(
        order.loss,
        classes=classes,
        class_frequencies=torch.full((classes,), 1 / classes) if shares is None else shares,
        label_smoothing=recipe.label_smoothing,
        generator=torch.Generator(recipe.device).manual_seed(stream_seed("noise", 0)),
        **setting.hyperparameters,
    )
    top = networks.outline(recipe.network, shape).path if parted(recipe) else None
    return Learner([network], [loss], [order.learning_rate], recipe, top=top)


def _stepping(learner: Learner, batches: Sequence[tuple[Tensor, Tensor]]) -> Callable[[], object]:
    """Each call is the next step, on the minibatches in turn."""
    taken = 0

    def step() -> object:
        nonlocal taken
        images, labels = batches[taken % len(batches)]
        taken += 1
        return learner.step(images, labels)

    return step


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _held(device: torch.device) -> int:
    """Bytes in use now: of torch's allocator on CUDA, else of this process."""
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device)
    return int(psutil.Process().memory_info().rss)


def main() -> None:
    """Time what the order on standard input says; its record is a line on standard output."""
    answer = private_standard_output()
    order = CostOrder.model_validate_json(sys.stdin.readline())
    die_with(order.parent)
    try:
        cost = measure(order)
    except (RuntimeError, MemoryError, ValueError, ArithmeticError, OSError) as error:
        cost = order.refused(first_line(error))
    answer.write(cost.model_dump_json() + "\n")
    answer.flush()


if __name__ == "__main__":
    main()
