"""Whether a run fits on this machine: looked at before anything is built or written.

On a CPU asking for too much memory is not answered with an error: the kernel kills a process, perhaps another one.
"""

import math
from pathlib import Path

from archs.rows_on_disk import UnusableFile, check_room
from bench.deploy.plan import DeploymentPlan
from bench.errors import UsageError
from bench.machine.memory import free_bytes
from bench.speed.capacity import shortage
from bench.speed.torch_state import DTYPES

#: Networks are built in float32, whatever they are measured in.
_BUILT_ITEMSIZE = 4


def layer_bytes(planned: DeploymentPlan) -> int:
    """Bytes of the whole top layer: rows and biases of all classes."""
    return planned.setting.classes * row_bytes(planned)


def row_bytes(planned: DeploymentPlan) -> int:
    """Bytes of one class: its row and its bias."""
    top = planned.facts.top
    return (top.features + top.bias) * DTYPES[planned.setting.dtype].itemsize


def built_bytes(planned: DeploymentPlan) -> int:
    """Bytes of memory that building the network and one minibatch takes at least; what its forward needs comes on top.

    The network comes with a top layer of its own, of which one row is kept. The whole top layer that is measured is
    no part of it: whether that fits is looked at when it is its turn, and a run without it says so.
    """
    facts, setting = planned.facts, planned.setting
    parameters = facts.backbone_parameters + facts.top.classes * (facts.top.features + facts.top.bias)
    return _BUILT_ITEMSIZE * (parameters + setting.batch_size * math.prod(setting.input_shape))


def refuse_without_room(planned: DeploymentPlan, layer_file: Path) -> None:
    """See that the network fits into memory and the top layer on the disk of `layer_file`.

    Folders on the way to it need not be there yet. Raises UsageError.
    """
    setting = planned.setting
    for device in dict.fromkeys(("cpu", setting.device)):
        reason = shortage(
            f"{setting.arch} and a minibatch of {setting.batch_size:,}", built_bytes(planned), free_bytes(device)
        )
        if reason is not None:
            raise UsageError(f"{reason} on {device}: take a smaller --batch-size or network, or free memory")
    try:
        check_room(layer_file, layer_bytes(planned))
    except UnusableFile as error:
        raise UsageError(f"{error} with --output, or take fewer --classes than {setting.classes:,}") from None
