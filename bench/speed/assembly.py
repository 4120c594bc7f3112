"""A setting's network in memory: one backbone, one bank of top-layer rows, a pool of inputs."""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from archs.batch_norm import calibrate
from archs.registry import Network
from archs.rivals import OneClass, RivalLayer, make
from archs.top_layer import ClassBank, TopLayer, at_class_count, locate
from bench.speed.agreement import COLUMNS, Reference
from bench.speed.settings import Setting
from bench.speed.torch_state import DTYPES
from bench.speed.work import is_reference, is_rival

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
    """A minibatch of one on the device, for looking at a network before a whole minibatch is asked for."""
    return input_pool(setting.model_copy(update={"batch_size": 1}), 1)[0].to(setting.device)


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
    """Backbone and bank of one setting; every class count's network shares both.

    A rival is made for its class count alone.
    """

    def __init__(self, backbone: nn.Module, top: TopLayer, setting: Setting, classes: int) -> None:
        """`classes`: rows of the bank, which every count that a linear layer is timed at is a view of."""
        self._backbone = backbone
        self._top = top
        self._setting = setting
        self.bank = ClassBank(
            top.features,
            classes,
            bias=top.bias,
            dtype=DTYPES[setting.dtype],
            device=torch.device(setting.device),
            seed=setting.seed,
        )
        self.classes = classes
        self._rivals: dict[int, RivalLayer] = {}

    def network(self, classes: int) -> nn.Module:
        """What is timed at this many classes: (batch, *input_shape) -> (batch, scores).

        Raises ValueError where a rival cannot be made of these sizes, or cannot take the top layer's place.
        """
        if is_rival(self._setting, classes):
            layer = self._rival(classes)
            return self._with_rival(OneClass(layer, layer.typical(self._setting.subset)))
        if self._setting.work == "normalised" and not is_reference(self._setting, classes):
            return Normalised(self.logits(classes), self._setting.subset)
        return self.logits(classes)

    def logits(self, classes: int) -> nn.Module:
        """The network with all logits of the full layer at this many classes."""
        return at_class_count(self._backbone, self._top, self.bank.layer(classes))

    def reference(self, classes: int, minibatch: Tensor) -> Reference:
        """What the scores of a forward at this many classes must be, worked out by another way than it takes."""
        asked = self._setting.subset
        if is_rival(self._setting, classes):
            layer = self._rival(classes)
            columns, every = list(layer.typical(asked)), self._placed(self._with_rival(layer))
            return Reference(lambda inputs: every(inputs)[:, columns], every, minibatch)
        if self._setting.work == "normalised" and not is_reference(self._setting, classes):
            logits = self._placed(self.logits(classes))
            every = lambda inputs: logits(inputs).float().log_softmax(1)  # noqa: E731 - one line says it
            return Reference(lambda inputs: every(inputs)[:, :asked], every, minibatch)
        several = min(self.classes, max(asked, COLUMNS))
        return Reference(self._placed(self.logits(asked)), self._placed(self.logits(several)), minibatch)

    def unused_bytes(self, classes: int) -> int:
        """Bytes of top layers in memory that a deployment with this many classes would not have."""
        held = self.bank.nbytes + sum(layer.parameter_bytes for layer in self._rivals.values())
        needed = self._rivals[classes].parameter_bytes if classes in self._rivals else classes * self.bank.row_bytes
        return held - needed

    def _rival(self, classes: int) -> RivalLayer:
        if classes not in self._rivals:
            made = make(
                self._setting.top_layer,
                self._top.features,
                classes,
                dtype=DTYPES[self._setting.dtype],
                device=self._setting.device,
                seed=self._setting.seed,
            )
            self._rivals[classes] = made.requires_grad_(False).eval()
        return self._rivals[classes]

    def _with_rival(self, layer: nn.Module) -> nn.Module:
        """The network with a rival, or one class of it, in the place of its top layer."""
        if not self._top.plain:
            raise ValueError(f"a rival is unsupported here: the top layer {self._top.path!r} is no plain linear layer")
        if not self._top.path:
            return layer
        network = self.logits(1)
        network.set_submodule(self._top.path, layer)  # what leads there was copied for this network alone
        return network

    def _placed(self, network: nn.Module) -> Callable[[Tensor], Tensor]:
        """The network for inputs that are where passes take them from, its scores where passes leave them."""

        def scores(inputs: Tensor) -> Tensor:
            found: Tensor = network(inputs.to(self._setting.device))
            return found.to(inputs.device)

        return scores


class Normalised(nn.Module):
    """All logits and their log-normaliser, for the log-probabilities of the first classes: (batch, asked).

    By torch's fused log-softmax, which on a CPU takes a fifteenth of the time of logsumexp at 2**17 classes.
    """

    def __init__(self, network: nn.Module, asked: int) -> None:
        super().__init__()
        self.network = network
        self.asked = asked

    def forward(self, minibatch: Tensor) -> Tensor:
        """(batch, *input_shape) -> (batch, asked)."""
        logits: Tensor = self.network(minibatch)
        return logits.log_softmax(1)[:, : self.asked]


def _to_setting(minibatch: Tensor, setting: Setting) -> Tensor:
    """Where and how passes take their input: in the host's memory where the copy to the device is part of the work."""
    from_host = setting.work == "end-to-end"
    minibatch = minibatch.to("cpu" if from_host else setting.device, DTYPES[setting.dtype])
    if setting.channels_last:
        minibatch = minibatch.contiguous(memory_format=torch.channels_last)
    return minibatch.pin_memory() if from_host and setting.device != "cpu" else minibatch
