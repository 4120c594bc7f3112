"""What a run would do, before it does it: points, memory, expected duration."""

from dataclasses import dataclass

import torch

from bench.machine.memory import free_bytes
from bench.speed import duration
from bench.speed.assembly import pool_size
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
        facts = planned.facts[setting.arch]
        itemsize = DTYPES[setting.dtype].itemsize
        backbone = backbone_operations(planned.networks[setting.arch])
        with torch_state(setting):
            rates = calibrate(
                torch.device(setting.device),
                DTYPES[setting.dtype],
                setting.batch_size,
                largest_bytes=planned.protocol.classes[-1] * facts.top.features * itemsize,
                free_bytes=free,
            )
        operations = {
            classes: duration.pass_operations(setting, classes, backbone=backbone, features=facts.top.features)
            for classes in planned.protocol.classes
        }
        seconds += duration.expected_seconds(planned.protocol, setting, operations, rates)
        inputs = pool_size(planned.protocol.minibatches) * setting.batch_size * torch.Size(setting.input_shape).numel()
        for classes in planned.protocol.classes:
            top = classes * (facts.top.features + facts.top.bias + setting.batch_size)
            memory = (facts.backbone_parameters + inputs + top) * itemsize
            points.append(
                Expected(
                    setting=setting,
                    classes=classes,
                    pass_s=operations[classes] / rates.operations_per_s,
                    memory_bytes=memory,
                    fits=memory + RESERVE_BYTES <= free,
                )
            )
    return Outlook(tuple(points), free, seconds)
