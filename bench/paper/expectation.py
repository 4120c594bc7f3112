"""What a part would take: of speed from operations and calibrated rates, of accuracy from a short trial of real steps.

Operations alone are no guide to a training: on two cores a step of the MLP spends four fifths of its time in matrix
products, a convolutional network half. So a few seconds are trained, thrown away, and their rate is taken.
"""

import statistics
import time
from collections.abc import Callable

import torch

from bench.accuracy import training
from bench.accuracy.events import Ended, Stepped
from bench.accuracy.plan import Plan, plan
from bench.accuracy.settings import Member
from bench.paper.budget import Demand
from bench.paper.parts import AccuracyPart, Options, SpeedPart, full_size
from bench.paper.requests import accuracy_request, speed_request
from bench.speed import plan as speed_plan
from bench.speed.outlook import outlook_of

#: Seconds of real steps that a trial waits for.
TRIAL_S = 3.0

#: Two calibrations agree when they are within this factor; on a busy machine one of five was off tenfold.
AGREEING = 1.2

#: Building a network and a top layer of some gigabytes, and drawing its weights.
BUILDING_S = 30.0

#: Rounds that are not timed: each count's first call, the check against the single logit, an uneven warm-up.
UNTIMED_ROUNDS = 2

#: Starting workers that each import torch and read the data.
STARTING_S = 15.0

#: A forward's share of a step: the backward pass has twice its operations.
FORWARD_SHARE = 1 / 3


def demand_of(part: SpeedPart | AccuracyPart, options: Options) -> Demand:
    """What a part would take here; needs some seconds itself, and downloads data that are missing.

    Raises UsageError, one line, for a part that cannot be done here at all.
    """
    return _of_speed(part, options) if isinstance(part, SpeedPart) else _of_accuracy(part, options)


def _of_speed(part: SpeedPart, options: Options) -> Demand:
    planned = speed_plan.plan(speed_request(part, full_size(part), options))
    minibatch_s = agreed(lambda: outlook_of(planned).seconds) / part.full
    return Demand(fixed_s=BUILDING_S + UNTIMED_ROUNDS * minibatch_s, unit_s=minibatch_s)


def agreed(look: Callable[[], float]) -> float:
    """The mean of two looks that agree, else the median of three: a busy neighbour can spoil one calibration."""
    first, second = look(), look()
    if max(first, second) <= AGREEING * min(first, second):
        return (first + second) / 2
    return statistics.median((first, second, look()))


def _of_accuracy(part: AccuracyPart, options: Options) -> Demand:
    planned = plan(accuracy_request(part, full_size(part), options))
    return training_demand(planned, step_seconds(planned))


def training_demand(planned: Plan, step_s: float) -> Demand:
    """What a grid takes whose unit (one training, or a stack of them) takes `step_s` seconds a step."""
    recipe, facts = planned.recipe, planned.dataset.facts
    models = len(planned.losses) * len(planned.seeds)
    forward_s = FORWARD_SHARE * step_s / (recipe.batch_size * recipe.stack)  # of one example in one network
    validated = models * min(recipe.curve_points, recipe.steps) * facts.validation
    tested = models * (facts.test + facts.train)  # the training split for the PoLS numbers
    return Demand(
        fixed_s=STARTING_S + tested * forward_s / recipe.workers,
        rate_s=validated * forward_s / recipe.workers,
        unit_s=models * step_s / (recipe.workers * recipe.stack),
    )


class _SeenEnough(Exception):
    """Ends a trial from within."""


def step_seconds(planned: Plan, trial_s: float = TRIAL_S) -> float:
    """Seconds of one step of the grid's first unit, training it for about `trial_s` seconds; nothing of it is kept.

    Raises UsageError if it cannot be trained.
    """
    members = [
        Member(loss=loss.key, learning_rate=rate, seed=seed)
        for seed in planned.seeds
        for loss in planned.losses
        for rate in sorted(planned.learning_rates)  # the smallest first: it does not diverge
    ]
    rates: list[float] = []
    began = time.monotonic()

    def watch(event: Stepped | Ended) -> None:
        if isinstance(event, Ended):
            rates.extend([event.training.steps / event.training.seconds] if event.training.steps else [])
        elif event.steps_per_s is not None:
            rates.append(event.steps_per_s)
            if time.monotonic() - began >= trial_s:
                raise _SeenEnough

    unit = tuple(members[: planned.recipe.stack])
    work = training.Work(members=unit, recipe=planned.recipe, losses=planned.losses)
    threads = torch.get_num_threads()
    torch.set_num_threads(planned.recipe.threads)
    try:
        training.train(work, planned.dataset, watch, checkpoints=None)
    except _SeenEnough:
        pass
    finally:
        torch.set_num_threads(threads)
    return 1 / max(rates)  # a neighbour, and the first steps, only ever take from a rate
