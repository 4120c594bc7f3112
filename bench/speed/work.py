"""What a pass does beyond the backbone, by `--work` and `--top-layer`: operations and bytes, from shapes alone.

                    at the reference's count       at a larger count k
    logits          its logits                     k logits
    normalised      its logits                     k logits, and each read twice more for the log-normaliser
    end-to-end      its logits, copied to the      k logits, copied to the host's memory
                    host's memory
    a rival         its logits                     what the rival computes for the classes asked for

The input's copy to the device is in every pass alike and so in none of these.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

import torch

from archs.heads import Head
from archs.rivals import make
from archs.top_layer import TopLayer
from archs.top_layer_kinds import TopLayerKind
from bench.speed.prediction import Work, top_layer_work
from bench.speed.settings import Setting
from bench.speed.torch_state import DTYPES

#: Of the log-normaliser, for every logit: a comparison for the largest; a subtraction, an exponential and an addition
#: for the sum.
NORMALISER_OPERATIONS = 4
#: Times that a fused log-softmax reads the logits once they are made: for the largest, and for the sum.
NORMALISER_READS = 2


def is_reference(setting: Setting, classes: int) -> bool:
    """Whether a class count is what speedups are relative to: the logits asked for, computed alone."""
    return classes == setting.subset


def scores(setting: Setting, classes: int) -> int:
    """How many scores of an example a pass at a class count leaves: all logits, or those of the classes asked for."""
    asked_alone = is_reference(setting, classes) or is_rival(setting, classes) or setting.work == "normalised"
    return setting.subset if asked_alone else classes


def is_rival(setting: Setting, classes: int) -> bool:
    """Whether a rival stands in the place of the top layer at this class count."""
    return setting.top_layer != "full" and not is_reference(setting, classes)


def widest(top: TopLayer) -> Head:
    """The head with the most operations: rates are calibrated on a layer like it."""
    return max(top.heads, key=lambda head: head.features * head.positions)


def works_of(setting: Setting, top: TopLayer, counts: Iterable[int]) -> dict[int, Work]:
    """The work of one minibatch by class count."""
    return {classes: _work(setting, top, classes) for classes in counts}


def held_bytes(setting: Setting, top: TopLayer, classes: int) -> int:
    """Bytes of the weights of the top layer that a class count is measured with."""
    if is_rival(setting, classes):
        return _outline(setting, top, classes).parameter_bytes
    return classes * (top.features + top.bias) * DTYPES[setting.dtype].itemsize


def _work(setting: Setting, top: TopLayer, classes: int) -> Work:
    itemsize = DTYPES[setting.dtype].itemsize
    if is_rival(setting, classes):
        work = _outline(setting, top, classes).work
    else:
        work = _linear_work(setting, top, classes)
        if setting.work == "normalised" and not is_reference(setting, classes):
            logits = setting.batch_size * classes
            moved = NORMALISER_READS * logits * itemsize
            work = _plus(work, Work(NORMALISER_OPERATIONS * logits, moved, logits * itemsize))
    if setting.work == "end-to-end":
        copied = setting.batch_size * scores(setting, classes) * itemsize
        work = _plus(work, Work(0, 2 * copied))  # read here, written there, into memory that is kept
    return work


def _linear_work(setting: Setting, top: TopLayer, classes: int) -> Work:
    """Of a layer that is applied at several positions of an example as if each were an example of its own."""
    work = Work(0, 0)
    for head in top.heads:
        one = top_layer_work(
            batch_size=setting.batch_size * head.positions,
            features=head.features,
            classes=classes,
            bias=top.bias,
            itemsize=DTYPES[setting.dtype].itemsize,
        )
        work = _plus(work, one)
    return work


def _plus(one: Work, other: Work) -> Work:
    return Work(one.operations + other.operations, one.bytes + other.bytes, one.logit_bytes + other.logit_bytes)


@dataclass(frozen=True)
class _Outline:
    """A rival in brief."""

    parameter_bytes: int
    work: Work


def _outline(setting: Setting, top: TopLayer, classes: int) -> _Outline:
    return _outline_of(
        setting.top_layer, top.features, classes, DTYPES[setting.dtype], setting.batch_size, setting.subset
    )


@lru_cache(maxsize=256)
def _outline_of(
    kind: TopLayerKind, features: int, classes: int, dtype: torch.dtype, batch_size: int, subset: int
) -> _Outline:
    """From a layer without numbers, which is let go: its tables would count as memory of what is measured."""
    layer = make(kind, features, classes, dtype=dtype, device="meta")
    return _Outline(layer.parameter_bytes, Work(*layer.work(batch_size, layer.typical(subset))))
