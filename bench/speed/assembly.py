"""A setting's network in memory: one backbone, one bank of top-layer rows, a pool of inputs."""

import math

import torch
from torch import Tensor, nn

from archs.batch_norm import calibrate
from archs.registry import Network
from archs.top_layer import ClassBank, TopLayer, at_class_count, locate
from bench.speed.settings import Setting
from bench.speed.torch_state import DTYPES

#: Inputs in device memory; every round uses one of them. Enough that no pass sees the input of the one before.
POOL = 8


def pool_size(minibatches: int) -> int:
    """How many minibatches of inputs a run of this many rounds keeps."""
    return min(minibatches, POOL)


def pool_bytes(setting: Setting, size: int) -> int:
    """Bytes of a pool of this many minibatches."""
    return size * setting.batch_size * math.prod(setting.input_shape) * DTYPES[setting.dtype].itemsize


def input_pool(setting: Setting, size: int) -> list[Tensor]:
    """Minibatches of standard normal noise, shape (batch, *input_shape).

    Never zeros: some devices multiply those faster.
    """
    generator = torch.Generator().manual_seed(setting.seed)
    return [
        _to_setting(torch.randn(setting.batch_size, *setting.input_shape, generator=generator), setting)
        for _ in range(size)
    ]


def one_example(setting: Setting) -> Tensor:
    """A minibatch of one, for looking at a network before a whole minibatch is asked for."""
    return input_pool(setting.model_copy(update={"batch_size": 1}), 1)[0]


def build_backbone(network: Network, setting: Setting) -> tuple[nn.Module, TopLayer]:
    """The network of a setting on its device, in evaluation mode, with the top layer still to be swapped.

    Batch-norm statistics of a network that is built here, with random weights, are set from one minibatch: with
    the usual 0 and 1 activations grow from block to block and are infinite in float16. A module in hand keeps
    its own.
    """
    device = torch.device(setting.device)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(setting.seed)
        module = network.build()
    module = module.eval().requires_grad_(False).to(device)
    if not network.in_hand:
        generator = torch.Generator().manual_seed(setting.seed)
        examples = torch.randn(max(2, min(setting.batch_size, 8)), *setting.input_shape, generator=generator)
        calibrate(module, examples.to(device))
    module = module.to(DTYPES[setting.dtype])
    if setting.channels_last:
        module = module.to(memory_format=torch.channels_last)
    return module, locate(module, setting.input_shape)


def largest_step_bytes(module: nn.Module, examples: Tensor) -> int:
    """Bytes of the largest input and output that any one layer holds together, for one example.

    Found by a forward of a few examples. Twice that is what a forward needs at least for activations: a residual
    branch keeps its input for later, and libraries take scratch of the same order.
    """
    largest = 0

    def look(layer: nn.Module, inputs: tuple[object, ...], output: object) -> None:
        nonlocal largest
        held = sum(tensor.nbytes for tensor in (*inputs, output) if isinstance(tensor, Tensor))
        largest = max(largest, held)

    hooks = [layer.register_forward_hook(look) for layer in module.modules() if not any(layer.children())]
    try:
        module(examples)
    finally:
        for hook in hooks:
            hook.remove()
    return largest // len(examples)


class Assembly:
    """Backbone and bank of one setting; every class count's network shares both."""

    def __init__(self, backbone: nn.Module, top: TopLayer, setting: Setting, classes: int) -> None:
        self._backbone = backbone
        self._top = top
        self.bank = ClassBank(
            top.features,
            classes,
            bias=top.bias,
            dtype=DTYPES[setting.dtype],
            device=torch.device(setting.device),
            seed=setting.seed,
        )
        self.classes = classes

    def network(self, classes: int) -> nn.Module:
        """The network with its top layer at this many classes."""
        return at_class_count(self._backbone, self._top, self.bank.layer(classes))

    def unused_bytes(self, classes: int) -> int:
        """Bytes of the bank that a deployment with this many classes would not have."""
        return (self.classes - classes) * self.bank.row_bytes


def _to_setting(minibatch: Tensor, setting: Setting) -> Tensor:
    minibatch = minibatch.to(setting.device, DTYPES[setting.dtype])
    return minibatch.contiguous(memory_format=torch.channels_last) if setting.channels_last else minibatch
