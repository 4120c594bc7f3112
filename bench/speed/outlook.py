"""What a run would do, before it does it: points, memory, expected duration."""

from dataclasses import dataclass

import torch

from bench.machine.memory import free_bytes
from bench.speed import duration
from bench.speed.assembly import pool_bytes, pool_size
from bench.speed.capacity import RESERVE_BYTES
from bench.speed.plan import Plan
from bench.speed.prediction import backbone_operations, calibrate
from bench.speed.settings import Setting
from bench.speed.torch_state import DTYPES, torch_state


@dataclass(frozen=True)
class Expected:
    """One point: what it is expected to need and take."""

    setting: Setting
    classes: int
    pass_s: float  # seconds for one minibatch
    memory_bytes: int  # weights, inputs and logits; without activations, which only a pass shows
    fits: bool


@dataclass(frozen=True)
class Outlook:
    """All points of a plan, the free memory they are held against, and the seconds the rounds would take."""

    points: tuple[Expected, ...]
    free_bytes: int
    seconds: float


def outlook_of(planned: Plan) -> Outlook:
    """Work out a plan's points; the device's rates are calibrated for it (seconds), nothing else runs."""
    free = free_bytes(planned.settings[0].device)
    points: list[Expected] = []
    seconds = 0.0
    for setting in planned.settings:
        expected = _expected(planned, setting, free)
        points += expected
        pass_seconds = {point.classes: point.pass_s for point in expected}
        seconds += duration.expected_seconds(planned.protocol, setting, pass_seconds)
    return Outlook(tuple(points), free, seconds)


def _expected(planned: Plan, setting: Setting, free: int) -> list[Expected]:
    facts = planned.facts[setting.arch]
    itemsize = DTYPES[setting.dtype].itemsize
    works = planned.top_layer_works(setting)
    with torch_state(setting):
        rates = calibrate(
            torch.device(setting.device),
            DTYPES[setting.dtype],
            setting.batch_size,
            largest_bytes=works[planned.protocol.classes[-1]].bytes,
            free_bytes=free,
        )
    backbone = backbone_operations(planned.networks[setting.arch], facts.top)
    held = facts.backbone_parameters * itemsize + pool_bytes(setting, pool_size(planned.protocol.minibatches))
    return [
        Expected(
            setting=setting,
            classes=classes,
            pass_s=setting.batch_size * backbone / rates.operations_per_s + rates.seconds(work),
            memory_bytes=held + work.bytes,
            fits=held + work.bytes + RESERVE_BYTES <= free,
        )
        for classes, work in works.items()
    ]
