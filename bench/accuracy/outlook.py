"""What a grid is expected to take, before anything is trained."""

from dataclasses import dataclass

import torch
from torch.utils.flop_counter import FlopCounterMode

from bench.accuracy import networks
from bench.accuracy.plan import Plan
from bench.accuracy.records import DatasetFacts
from bench.accuracy.settings import Recipe
from bench.machine.memory import free_bytes
from bench.speed.prediction import calibrate

#: Examples whose operations are counted; batch norm needs two.
_COUNTED = 2

#: Bytes of the products that calibrate a device: large enough to leave its caches.
_CALIBRATION_BYTES = 2**26


@dataclass(frozen=True)
class Outlook:
    """What would be trained, and about how long it would take."""

    dataset: DatasetFacts
    recipe: Recipe
    trainings: int
    losses: tuple[str, ...]
    """keys"""
    learning_rates: tuple[float, ...]
    seeds: tuple[int, ...]
    operations_per_example: int
    """floating-point operations of a step, forward and backward"""
    seconds: float
    """from operations alone, at the rate of large matrix products: a lower bound"""


def outlook_of(planned: Plan) -> Outlook:
    """Count a step's operations, and measure the device's rate in a few seconds."""
    recipe = planned.recipe
    trainings = len(planned.losses) * len(planned.learning_rates) * len(planned.seeds)
    operations = operations_per_example(recipe, planned.dataset.facts)
    device = torch.device(recipe.device)
    rates = calibrate(
        device,
        getattr(torch, recipe.dtype),
        recipe.batch_size,
        largest_bytes=_CALIBRATION_BYTES,
        free_bytes=free_bytes(recipe.device),
    )
    return Outlook(
        dataset=planned.dataset.facts,
        recipe=recipe,
        trainings=trainings,
        losses=tuple(loss.key for loss in planned.losses),
        learning_rates=planned.learning_rates,
        seeds=planned.seeds,
        operations_per_example=operations,
        seconds=trainings * recipe.steps * recipe.batch_size * operations / (rates.operations_per_s * recipe.ranks),
    )


def operations_per_example(recipe: Recipe, facts: DatasetFacts) -> int:
    """Floating-point operations of one example's forward and backward pass, counted on two."""
    auxiliary = recipe.auxiliary_weight > 0
    network = networks.build(recipe.network, facts.input_shape, facts.classes, seed=0, auxiliary=auxiliary)
    with FlopCounterMode(display=False) as counter:
        outputs = network(torch.zeros(_COUNTED, *facts.input_shape))
        sum(part.sum() for part in (outputs if isinstance(outputs, tuple) else (outputs,))).backward()
    return int(counter.get_total_flops()) // _COUNTED
