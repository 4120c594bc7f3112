"""From what a user asks for to the setting of a run, contradictions refused before anything is built or written."""

from dataclasses import dataclass
from typing import get_args

import torch

from archs.registry import Network, UnknownNetwork, find
from archs.top_layer import Facts, UnsupportedNetwork, inspect
from bench import counts
from bench.deploy.records import DeploymentSetting
from bench.errors import UsageError
from bench.machine.device import resolve_device
from bench.refusals import refuse_sizes
from bench.speed.settings import Dtype, Setting


@dataclass(frozen=True)
class DeploymentRequest:
    """The options of `python -m bench single`."""

    arch: str | Network = "alexnet"
    classes: str | int = "2**18.5"
    batch_size: int = 32
    dtype: Dtype = "float32"
    device: str = "auto"
    threads: int | None = None
    switches: int = 30
    minibatches: int = 30
    input_size: int | None = None
    seed: int = 0


@dataclass(frozen=True)
class DeploymentPlan:
    """What a run will measure."""

    setting: DeploymentSetting
    network: Network
    facts: Facts


def plan(request: DeploymentRequest) -> DeploymentPlan:
    """Decide what a request means on this machine. Raises UsageError for what is unknown or contradicts itself."""
    _refuse_sizes(request)
    classes = counts.parse_count(str(request.classes))
    if classes < 2:
        raise UsageError("--classes 1: with one class there is none to switch to; give 2 or more")
    network, facts = _network(request)
    setting = DeploymentSetting(
        arch=network.name,
        input_shape=network.input_shape,
        device=resolve_device(request.device),
        dtype=request.dtype,
        batch_size=request.batch_size,
        threads=request.threads or torch.get_num_threads(),
        classes=classes,
        seed=request.seed,
        switches=request.switches,
        minibatches=request.minibatches,
    )
    return DeploymentPlan(setting, network, facts)


def speed_setting(setting: DeploymentSetting) -> Setting:
    """The same as a setting of the sweep, which knows how to build a backbone and its inputs."""
    return Setting(
        arch=setting.arch,
        input_shape=setting.input_shape,
        device=setting.device,
        dtype=setting.dtype,
        batch_size=setting.batch_size,
        threads=setting.threads,
        seed=setting.seed,
    )


def _refuse_sizes(request: DeploymentRequest) -> None:
    if request.dtype not in get_args(Dtype):
        raise UsageError(f"--dtype {request.dtype!r}: must be one of {', '.join(get_args(Dtype))}")
    positive = {
        "--batch-size": request.batch_size,
        "--switches": request.switches,
        "--minibatches": request.minibatches,
        "--input-size": request.input_size,
    }
    refuse_sizes(positive, threads=request.threads, seed=request.seed)


def _network(request: DeploymentRequest) -> tuple[Network, Facts]:
    try:
        asked = request.arch
        network = asked if isinstance(asked, Network) else find(asked, request.input_size)
        facts = inspect(network)
    except (UnknownNetwork, UnsupportedNetwork) as error:
        raise UsageError(str(error)) from None
    if facts.top.further:
        raise UsageError(
            f"{network.name}: its top layer is {len(facts.top.heads)} layers, and one row of one layer is read for a "
            "class; name another network"
        )
    return network, facts
