"""What a run would do, before it does it: points, memory, expected duration."""

from dataclasses import dataclass

import torch

from archs.top_layer import TopLayer
from bench.machine.memory import free_bytes
from bench.speed import duration
from bench.speed.assembly import pool_bytes, pool_size
from bench.speed.capacity import RESERVE_BYTES
from bench.speed.energy import EnergyProtocol
from bench.speed.plan import Plan
from bench.speed.prediction import Work, backbone_operations, calibrate
from bench.speed.settings import Setting
from bench.speed.torch_state import DTYPES, torch_state
from bench.speed.work import held_bytes, widest


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
    """All points of a plan, the free memory they are held against, and the seconds rounds and energy would take."""

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
        seconds += EnergyProtocol().seconds(min(2, len(expected))) if planned.protocol.energy else 0.0
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
            setting.batch_size * widest(facts.top).positions,
            largest_bytes=works[planned.protocol.classes[-1]].bytes,
            free_bytes=free,
            features=widest(facts.top).features,
        )
    backbone = backbone_operations(planned.networks[setting.arch], facts.top)
    held = facts.backbone_parameters * itemsize + pool_bytes(setting, pool_size(planned.protocol.minibatches))
    top_bytes = {classes: _top_layer_bytes(setting, facts.top, classes, works[classes]) for classes in works}
    return [
        Expected(
            setting=setting,
            classes=classes,
            pass_s=setting.batch_size * backbone / rates.operations_per_s + rates.seconds(work),
            memory_bytes=held + top_bytes[classes],
            fits=held + top_bytes[classes] + RESERVE_BYTES <= free,
        )
        for classes, work in works.items()
    ]


def _top_layer_bytes(setting: Setting, top: TopLayer, classes: int, work: Work) -> int:
    """Weights, features and logits, each once; a rival's score moves fewer bytes than the rival holds."""
    return max(held_bytes(setting, top, classes), work.bytes)
