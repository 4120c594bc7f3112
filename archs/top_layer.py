"""The top layer: where it is, and the network with another one.

    module -- locate --> TopLayer(path, features d, classes, bias)
    ClassBank(d, K) -- layer(k) --> nn.Linear(d, k), a view of the bank's first k rows
    at_class_count(module, top, layer) --> the network with k logits; all else shared with module

A network is supported if it has one linear layer whose output is what the network returns: then one row of its
weight makes one logit. Everything else is refused with the reason.
"""

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from archs.registry import Network, UnknownNetwork, one_line

#: Examples in the forward that is traced: 2, so that the batch axis is told from axes of length 1.
_BATCH = 2

#: Rows of a bank that are drawn; the others repeat them.
_TILE_ROWS = 1024

#: Subclasses of nn.Linear with a forward of their own that computes the same.
_EQUAL_TO_LINEAR = {"timm.layers.linear.Linear"}


class UnsupportedNetwork(ValueError):
    """A network without one recognisable linear top layer: one line with the reason."""


class _DidNotRun(UnsupportedNetwork):
    """It could not be built or run: on the meta device that says nothing about real tensors."""


@dataclass(frozen=True)
class TopLayer:
    """A network's last linear layer.

    `path` is dotted, as in `nn.Module.get_submodule` (empty if the network is that layer); its weight has the shape
    (`classes`, `features`).
    """

    path: str
    features: int
    classes: int
    bias: bool


@dataclass(frozen=True)
class Facts:
    """What is known of a network before it is built. `backbone_parameters` leaves out the top layer's."""

    top: TopLayer
    backbone_parameters: int


@dataclass(frozen=True, eq=False)
class _Call:
    """One call of a linear layer or a convolution in the traced forward.

    `shape` is that of its output; the output itself is kept only if it could be the logits.
    """

    path: str
    layer: nn.Linear | nn.Conv2d
    shape: tuple[int, ...]
    output: torch.Tensor | None
    version: int

    @property
    def classes(self) -> int:
        return self.layer.out_features if isinstance(self.layer, nn.Linear) else self.layer.out_channels


def inspect(network: Network) -> Facts:
    """Find the top layer and count parameters on the meta device: nothing is allocated.

    A network that cannot be built or run there is built for real, and a module in hand is traced on its own device.
    Raises UnsupportedNetwork with name and reason, UnknownNetwork if a factory fails.
    """
    try:
        try:
            return _inspect_on_meta(network)
        except (_DidNotRun, UnknownNetwork):
            return _facts(_built(network), network)
    except UnsupportedNetwork as error:
        raise UnsupportedNetwork(f"{network.name}: {error}") from error.__cause__


def _inspect_on_meta(network: Network) -> Facts:
    with torch.device("meta"):
        module = _built(network)
        if place_of(module)[0].type == "meta":
            return _facts(module, network)
    return _facts(module, network)


def _built(network: Network) -> nn.Module:
    try:
        return network.build()
    except UnknownNetwork:
        raise
    except Exception as error:
        raise _DidNotRun(f"it cannot be built: {type(error).__name__}: {one_line(error)}") from error


def _facts(module: nn.Module, network: Network) -> Facts:
    top = locate(module, network.input_shape)
    head = {id(parameter) for parameter in module.get_submodule(top.path).parameters()}
    backbone = sum(parameter.numel() for parameter in module.parameters() if id(parameter) not in head)
    return Facts(top, backbone)


def locate(module: nn.Module, input_shape: Sequence[int]) -> TopLayer:
    """Find the linear layer whose output is what the network returns, by one forward of two random examples.

    `input_shape` is that of one example. The forward runs in evaluation mode on the module's own device and in its
    dtype (on the meta device at no cost), and twice more to see that the network returns (2, k) with another top layer:
    k = 1, and k a few more than its own. The module is left as it was.

    Raises UnsupportedNetwork with the reason.
    """
    inputs = _random_examples(module, input_shape)
    with _evaluating(module), torch.no_grad():
        output, calls = _trace(module, inputs)
        call = _call_behind(output, calls)
        if call is None:
            raise UnsupportedNetwork(_refusal(output, calls, has_linear=_has_linear(module)))
        assert isinstance(call.layer, nn.Linear)
        _check_plain(call.path, call.layer)
        top = TopLayer(call.path, call.layer.in_features, call.layer.out_features, call.layer.bias is not None)
        _check_swap(module, top, inputs)
    return top


def place_of(module: nn.Module) -> tuple[torch.device, torch.dtype]:
    """Device and floating-point dtype of a module, by its first parameter or buffer that has one.

    The CPU and float32 for a module without any.
    """
    for group in (module.parameters(), module.buffers()):
        for tensor in group:
            if tensor.is_floating_point():
                return tensor.device, tensor.dtype
    return torch.device("cpu"), torch.float32


def _random_examples(module: nn.Module, input_shape: Sequence[int]) -> torch.Tensor:
    device, dtype = place_of(module)
    shape = (_BATCH, *input_shape)
    try:
        if device.type == "meta":
            return torch.empty(shape, device=device, dtype=dtype)  # has no values: a large one costs nothing either
        generator = torch.Generator("cpu").manual_seed(0)  # its own, so that the global one stays where it is
        return torch.randn(shape, generator=generator, device="cpu").to(device, dtype)
    except (RuntimeError, TypeError) as error:  # no memory; a number of elements that is none
        raise _DidNotRun(f"inputs of shape {shape} cannot be made: {one_line(error)}") from error


@contextmanager
def _evaluating(module: nn.Module) -> Iterator[None]:
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, training in modes:
            part.training = training


def _trace(module: nn.Module, inputs: torch.Tensor) -> tuple[object, list[_Call]]:
    """One forward; what it returns, and the calls of linear layers and convolutions in their order."""
    calls: list[_Call] = []

    def record(path: str) -> Callable[..., None]:
        def hook(layer: nn.Module, _: Any, output: object) -> None:
            if isinstance(layer, nn.Linear | nn.Conv2d) and isinstance(output, torch.Tensor):
                # Only what could be the logits is kept: holding every activation would take memory.
                kept = output if output.ndim == 2 and len(output) == _BATCH else None
                calls.append(_Call(path, layer, tuple(output.shape), kept, _version(output)))

        return hook

    watched = [(path, part) for path, part in module.named_modules() if isinstance(part, nn.Linear | nn.Conv2d)]
    hooks = [part.register_forward_hook(record(path)) for path, part in watched]
    try:
        return _run(module, inputs), calls
    finally:
        for hook in hooks:
            hook.remove()


def _run(module: nn.Module, inputs: torch.Tensor) -> object:
    try:
        return module(inputs)
    except Exception as error:
        what = f"{type(error).__name__}: {one_line(error)}".removesuffix(": ")
        raise _DidNotRun(f"its forward on an input of shape {tuple(inputs.shape)} raised {what}") from error


def _version(tensor: torch.Tensor) -> int:
    """Counts the changes made in place; tensors of inference mode do not keep count."""
    return 0 if tensor.is_inference() else tensor._version


def _call_behind(output: object, calls: Sequence[_Call]) -> _Call | None:
    """The one call of a linear layer whose output is the logits: the same memory seen the same way, unchanged since.

    nn.Identity, dropout in evaluation mode and flattening what is flat pass it through.
    """
    if not isinstance(output, torch.Tensor) or output.ndim != 2:
        return None
    for call in calls:
        if isinstance(call.layer, nn.Linear) and call.output is not None and _same(call.output, output):
            alone = sum(other.path == call.path for other in calls) == 1
            return call if alone and _version(output) == call.version else None
    return None


def _same(a: torch.Tensor, b: torch.Tensor) -> bool:
    # Identity of the storage, as its address is 0 for all tensors on the meta device.
    if a.untyped_storage()._cdata != b.untyped_storage()._cdata:
        return False
    return (a.shape, a.stride(), a.storage_offset()) == (b.shape, b.stride(), b.storage_offset())


def _has_linear(module: nn.Module) -> bool:
    return any(isinstance(part, nn.Linear) for part in module.modules())


def _refusal(output: object, calls: Sequence[_Call], *, has_linear: bool) -> str:
    """Why no linear layer's output is the logits."""
    if not isinstance(output, torch.Tensor):
        return f"it returns a {type(output).__name__}, not one tensor of logits"
    shape = tuple(output.shape)
    if len(shape) != 2 or shape[0] != _BATCH:
        return f"it returns a tensor of shape {shape} for {_BATCH} examples, not ({_BATCH}, classes)"
    last = calls[-1] if calls else None
    if last is not None and isinstance(last.layer, nn.Conv2d) and last.classes == shape[1]:
        return f"its output is made by a convolution ({last.path!r}), not by a linear layer"
    heads = [call for call in calls if isinstance(call.layer, nn.Linear) and call.classes == shape[1]]
    if any(len(call.shape) == 2 for call in heads):
        return _refusal_of_heads([call.path for call in heads])
    if len(heads) == 1 and heads[0] is last:
        return f"its linear layer {last.path!r} is applied to every token or position, not once to each example"
    if not has_linear:
        return "it has no linear layer"
    return "no linear layer makes its output; it may be an encoder without a classifier"


def _refusal_of_heads(paths: Sequence[str]) -> str:
    """Linear layers with as many outputs as there are logits, one path a call: why they are not the top layer."""
    different = list(dict.fromkeys(paths))
    if len(different) > 1:
        return f"{len(different)} linear layers ({', '.join(map(repr, different))}) are combined into the logits"
    if len(paths) > 1:
        return f"its linear layer {paths[0]!r} is applied {len(paths)} times in one forward"
    return f"the output of its linear layer {paths[0]!r} is changed before it is returned"


def _check_plain(path: str, layer: nn.Linear) -> None:
    """A plain linear layer takes its place, which must therefore compute the same."""
    kind = type(layer)
    own_forward = (
        kind.forward is not nn.Linear.forward and f"{kind.__module__}.{kind.__qualname__}" not in _EQUAL_TO_LINEAR
    )
    if own_forward or nn.utils.parametrize.is_parametrized(layer):
        raise UnsupportedNetwork(f"its top layer {path!r} is a {kind.__name__}, which does more than a linear layer")


def _check_swap(module: nn.Module, top: TopLayer, inputs: torch.Tensor) -> None:
    counts = (1, top.classes + 7)  # 1 finds what squeezes or broadcasts its output, more than its own what cuts it
    bank = ClassBank(top.features, counts[-1], bias=top.bias, dtype=inputs.dtype, device=inputs.device)
    for count in counts:
        where = f"with {count} instead of {top.classes} classes in its top layer {top.path!r}"
        try:
            output = _run(at_class_count(module, top, bank.layer(count)), inputs)
        except Exception as error:
            raise UnsupportedNetwork(f"{where}, {one_line(error)}") from error
        if not isinstance(output, torch.Tensor) or output.shape != (_BATCH, count):
            what = tuple(output.shape) if isinstance(output, torch.Tensor) else type(output).__name__
            raise UnsupportedNetwork(f"{where} it returns {what}, not {(_BATCH, count)}")


class ClassBank:
    """One weight of shape (classes, features), and a bias, of which every smaller class count is a view.

    It is filled by a small random tile (normal, standard deviation 1/sqrt(features)), which is then doubled in place:
    several times as fast as drawing every number, and every page of memory is truly written. Memory that was never
    written must not be timed: all its pages are one page of zeros.

    The same seed gives the same values on every device.
    """

    def __init__(
        self,
        features: int,
        classes: int,
        *,
        bias: bool = True,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        seed: int = 0,
    ) -> None:
        """Allocate and fill it. Raises ValueError for sizes below 1, and what torch raises when memory runs out."""
        if features < 1 or classes < 1:
            raise ValueError(f"a bank of {classes} classes with {features} features is empty; both must be 1 or more")
        self.features = features
        self.classes = classes
        self.weight = torch.empty(classes, features, dtype=dtype, device=device)
        self.bias = torch.empty(classes, dtype=dtype, device=device) if bias else None
        generator = torch.Generator("cpu").manual_seed(seed)
        with torch.no_grad():
            _fill(self.weight, features, generator)
            if self.bias is not None:
                _fill(self.bias, features, generator)

    @property
    def row_bytes(self) -> int:
        """Bytes of one class: its row of the weight, and its bias."""
        return (self.features + (self.bias is not None)) * self.weight.element_size()

    @property
    def nbytes(self) -> int:
        """Bytes of the whole bank."""
        return self.classes * self.row_bytes

    def layer(self, classes: int) -> nn.Linear:
        """A linear layer on the first rows: a contiguous view, nothing copied or initialised, no gradients.

        Raises ValueError if the bank does not hold so many classes.
        """
        if not 1 <= classes <= self.classes:
            raise ValueError(f"this bank holds 1 to {self.classes} classes, not {classes}")
        layer = nn.Linear(self.features, classes, bias=self.bias is not None, device="meta")
        layer.weight = nn.Parameter(self.weight[:classes], requires_grad=False)
        if self.bias is not None:
            layer.bias = nn.Parameter(self.bias[:classes], requires_grad=False)
        return layer.eval()


def _fill(rows: torch.Tensor, features: int, generator: torch.Generator) -> None:
    filled = min(len(rows), _TILE_ROWS)
    tile = torch.randn((filled, *rows.shape[1:]), generator=generator, dtype=torch.float32, device="cpu")
    rows[:filled].copy_(tile / features**0.5)
    while filled < len(rows):
        step = min(filled, len(rows) - filled)
        rows[filled : filled + step].copy_(rows[:step])
        filled += step


def at_class_count(module: nn.Module, top: TopLayer, layer: nn.Linear) -> nn.Module:
    """The network with that layer on top; every other submodule, parameter and buffer is the module's own.

    Only the modules on the way to the top layer are copied, and those shallowly, so that networks with several class
    counts exist side by side at no cost. The module itself is not changed.

    Raises ValueError if the layer takes another number of features.
    """
    if layer.in_features != top.features:
        raise ValueError(f"the top layer takes {top.features} features, not {layer.in_features}")
    if not top.path:
        return layer
    *way, last = top.path.split(".")
    network = parent = _shallow(module)
    for name in way:
        child = _shallow(parent.get_submodule(name))
        parent._modules[name] = child
        parent = child
    parent._modules[last] = layer
    return network


def _shallow(module: nn.Module) -> nn.Module:
    twin = copy.copy(module)
    twin._modules = dict(module._modules)
    return twin
