"""The top layer: where it is.

    module -- locate --> TopLayer(path, features d, classes, bias)          archs.heads
    ClassBank(d, K) -- layer(k) --> nn.Linear(d, k), a view of the bank's first k rows
    at_class_count(module, top, layer) --> the network with k logits; all else shared with module

A network is supported if one row makes one score: the last linear layers or convolutions on every way to its output
have one output a class each, and what follows them (pooling, averaging, ReLU) mixes no class with another. Everything
else is refused with the reason.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from archs.class_bank import ClassBank
from archs.heads import Head, TopLayer, UnsupportedNetwork
from archs.registry import Network, UnknownNetwork, one_line
from archs.swapping import at_class_count, with_heads
from archs.tracing import LAYERS, Call, Output, trace

__all__ = [
    "ClassBank",
    "Facts",
    "Head",
    "TopLayer",
    "UnsupportedNetwork",
    "at_class_count",
    "inspect",
    "locate",
    "place_of",
    "with_heads",
]

#: Examples in the forward that is traced: 2, so that the batch axis is told from axes of length 1.
_BATCH = 2

#: Subclasses with a forward of their own that computes the same.
_EQUAL_TO_LINEAR = {"timm.layers.linear.Linear"}

#: How often half of the classes, chosen at random, get other values, to see that the other half's scores stay: two
#: given classes are in different halves every second time.
_HALVES = 4


#: Numbers of the last layers' outputs that are followed at most: a gigabyte of them.
_FOLLOWED = 2**28


class _DidNotRun(UnsupportedNetwork):
    """It could not be built or run: on the meta device that says nothing about real tensors."""


@dataclass(frozen=True)
class Facts:
    """What is known of a network before it is built. `backbone_parameters` leaves out the top layer's."""

    top: TopLayer
    backbone_parameters: int


def inspect(network: Network) -> Facts:
    """Find the top layer and count parameters on the meta device: nothing is allocated.

    A network that cannot be built there is built with its parameters alone on the meta device; one that cannot be run
    there is built for real, and a module in hand is traced on its own device. Raises UnsupportedNetwork with name and
    reason, UnknownNetwork if a factory fails.
    """
    attempts = (torch.device("meta"), _parameters_on_meta())
    try:
        for context in attempts:
            try:
                return _inspect_on_meta(network, context)
            except (_DidNotRun, UnknownNetwork):
                continue
        return _facts(_built(network), network)
    except UnsupportedNetwork as error:
        raise UnsupportedNetwork(f"{network.name}: {error}") from error.__cause__


def _inspect_on_meta(network: Network, context: AbstractContextManager[object]) -> Facts:
    with context:
        module = _built(network)
    if place_of(module)[0].type != "meta":
        return _facts(module, network)
    with torch.device("meta"):  # for what the forward makes: masks, positions
        return _facts(module.to("meta"), network)


@contextmanager
def _parameters_on_meta() -> Iterator[None]:
    """For networks that read a small tensor's values while they are built, which the meta device has not.

    Each parameter goes to the meta device as soon as a module registers it, before it is initialised.
    """

    def to_meta(module: nn.Module, name: str, parameter: nn.Parameter | None) -> nn.Parameter | None:
        if parameter is None or parameter.is_meta:
            return None  # as it is; a parameter that two modules share stays one
        return nn.Parameter(parameter.to("meta"), requires_grad=parameter.requires_grad)

    hook = register_module_parameter_registration_hook(to_meta)  # type: ignore[arg-type]  # its own annotation is wrong
    try:
        yield
    finally:
        hook.remove()


def _built(network: Network) -> nn.Module:
    try:
        return network.build()
    except UnknownNetwork:
        raise
    except Exception as error:
        raise _DidNotRun(f"it cannot be built: {type(error).__name__}: {one_line(error)}") from error


def _facts(module: nn.Module, network: Network) -> Facts:
    top = locate(module, network.input_shape)
    rows = {id(parameter) for head in top.heads for parameter in module.get_submodule(head.path).parameters()}
    backbone = sum(parameter.numel() for parameter in module.parameters() if id(parameter) not in rows)
    return Facts(top, backbone)


def locate(module: nn.Module, input_shape: Sequence[int]) -> TopLayer:
    """Find the layers of which one row makes one score, by one forward of two random examples.

    `input_shape` is that of one example. The forward runs in evaluation mode on the module's own device and in its
    dtype (on the meta device at no cost), and twice more to see that the network returns (2, k) with another top layer:
    k = 1, and k a few more than its own. What follows the layers runs a few times more, on the CPU, to see that no
    score depends on another class's. The module is left as it was.

    Raises UnsupportedNetwork with the reason.
    """
    inputs = _random_examples(module, input_shape)
    with _evaluating(module), torch.no_grad():
        output, calls, ending = _traced(module, inputs)
        classes = _classes_of(output)
        _check_heads(ending.calls, calls, classes, has_linear=_has_linear(module))
        top = _top_layer(ending, classes)
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


def _traced(module: nn.Module, inputs: torch.Tensor) -> tuple[object, list[Call], Output]:
    try:
        return trace(module, inputs)
    except Exception as error:
        raise _did_not_run(inputs, error) from error


def _run(module: nn.Module, inputs: torch.Tensor) -> object:
    try:
        return module(inputs)
    except Exception as error:
        raise _did_not_run(inputs, error) from error


def _did_not_run(inputs: torch.Tensor, error: Exception) -> _DidNotRun:
    what = f"{type(error).__name__}: {one_line(error)}".removesuffix(": ")
    return _DidNotRun(f"its forward on an input of shape {tuple(inputs.shape)} raised {what}")


def _has_linear(module: nn.Module) -> bool:
    return any(isinstance(part, LAYERS) for part in module.modules())


def _classes_of(output: object) -> int:
    """Length of the class axis of what a network returns for two examples."""
    if not isinstance(output, torch.Tensor):
        raise UnsupportedNetwork(f"it returns a {type(output).__name__}, not one tensor of logits")
    shape = tuple(output.shape)
    if len(shape) != 2 or shape[0] != _BATCH:
        encoder = "; it may be an encoder, which returns features of every token or pixel" if len(shape) > 2 else ""
        raise UnsupportedNetwork(
            f"it returns a tensor of shape {shape} for {_BATCH} examples, not ({_BATCH}, classes){encoder}"
        )
    return shape[1]


def _check_heads(last: Sequence[Call], calls: Sequence[Call], classes: int, *, has_linear: bool) -> None:
    """Whether the last layers before the output can be heads: one plain output a class, and used for nothing else."""
    if not has_linear:
        raise UnsupportedNetwork("it has no linear layer")
    others = [call for call in last if call.classes != classes]
    if not last or len(others) == len(last):
        raise UnsupportedNetwork("no linear layer makes its output; it may be an encoder without a classifier")
    if others:
        heads = _quoted(call.path for call in last if call.classes == classes)
        raise UnsupportedNetwork(
            f"its output is made by {heads} ({classes} outputs) together with {_quoted(call.path for call in others)} "
            f"({others[0].classes} outputs), which has no row for each class"
        )
    for call in last:
        _check_plain(call)
        times = sum(other.path == call.path for other in calls)
        if times > sum(other.path == call.path for other in last):
            raise UnsupportedNetwork(
                f"its layer {call.path!r} is applied {times} times in one forward, and not to make the output alone"
            )


def _check_plain(call: Call) -> None:
    """A layer with other weights takes its place, which must therefore compute what its kind computes."""
    kind, base = type(call.layer), next(base for base in LAYERS if isinstance(call.layer, base))
    name = "linear layer" if base is nn.Linear else "convolution"
    own_forward = kind.forward is not base.forward and f"{kind.__module__}.{kind.__qualname__}" not in _EQUAL_TO_LINEAR
    if own_forward or nn.utils.parametrize.is_parametrized(call.layer):
        raise UnsupportedNetwork(f"its top layer {call.path!r} is a {kind.__name__}, which does more than a {name}")
    if isinstance(call.layer, nn.Linear):
        return
    if call.layer.groups > 1:
        raise UnsupportedNetwork(f"its top layer {call.path!r} is a convolution in {call.layer.groups} groups")
    positions = _positions(call)
    if max(call.layer.kernel_size) > 1 and positions > 1:
        size = " x ".join(str(side) for side in call.layer.kernel_size)
        raise UnsupportedNetwork(
            f"its last layer {call.path!r} is a convolution of {size} at {positions} positions; "
            "it may be an encoder without a classifier"
        )


def _positions(call: Call) -> int:
    return max(1, call.rows // _BATCH)


def _top_layer(ending: Output, classes: int) -> TopLayer:
    """What the last calls are together, once it is seen that no class's score depends on another's."""
    heads: dict[str, Head] = {}
    for call in ending.calls:
        positions = _positions(call) + (heads[call.path].positions if call.path in heads else 0)
        heads[call.path] = Head(call.path, call.layer.weight[0].numel(), positions)
    first, *further = heads.values()
    try:
        unchanged = _ends_class_by_class(ending, classes)
    except UnsupportedNetwork:
        raise
    except Exception as error:  # an operation that the CPU has not, or one that must know real values
        what = f"{type(error).__name__}: {one_line(error)}".removesuffix(": ")
        raise UnsupportedNetwork(f"what follows its top layer {first.path!r} cannot be followed: {what}") from error
    return TopLayer(
        first.path,
        sum(head.features for head in heads.values()),
        classes,
        bias=any(call.layer.bias is not None for call in ending.calls),
        positions=first.positions,
        further=tuple(further),
        plain=unchanged and len(ending.calls) == 1 and isinstance(ending.calls[0].layer, nn.Linear),
    )


def _ends_class_by_class(ending: Output, classes: int) -> bool:
    """Whether the output is the last call's own output, unchanged; raises if the last layers are no heads.

    Found with random values for the outputs of the last layers: other values for half of the classes must change these
    classes' scores and no others. An activation after a linear layer makes it a hidden one, of an encoder: a number
    added to all of its outputs must be added to all scores, alike or in proportion, which pooling and averaging do.
    After a convolution of one pixel it is how some classifiers end (SqueezeNet).
    """
    numbers = sum(call.rows * call.classes for call in ending.calls)
    if numbers > _FOLLOWED:
        raise UnsupportedNetwork(
            f"its top layer {ending.calls[0].path!r} gives {numbers:,} numbers for {_BATCH} examples, too many "
            "to see what becomes of them; use a smaller input"
        )
    generator = torch.Generator("cpu").manual_seed(0)
    given = {call: _random_values(call, generator) for call in ending.calls}
    scores = ending.given(given)
    for _ in range(_HALVES if classes > 1 else 0):
        half = torch.randperm(classes, generator=generator, device="cpu")[: classes // 2]
        changed = ending.given({call: _with_others(call, value, half, generator) for call, value in given.items()})
        stays = torch.ones(classes, dtype=torch.bool, device="cpu").index_fill_(0, half, False)
        apart = torch.isclose(scores, changed, rtol=1e-3, atol=1e-6, equal_nan=True).logical_not().any(0)
        if apart[stays].any():
            raise UnsupportedNetwork(_refusal_of_mixing(ending.calls))
        if not apart[half].any():
            raise UnsupportedNetwork(f"the output of its top layer {ending.calls[0].path!r} makes no difference to it")
    linear = [call.path for call in ending.calls if isinstance(call.layer, nn.Linear)]
    if linear and not _adds_up(ending, given, scores):
        raise UnsupportedNetwork(
            f"the output of its linear layer {linear[0]!r} is changed before it is returned; it may be an "
            "encoder without a classifier"
        )
    first = given[ending.calls[0]]
    return scores.shape == first.shape and torch.equal(scores, first)


def _adds_up(ending: Output, given: Mapping[Call, torch.Tensor], scores: torch.Tensor) -> bool:
    """Whether a number added to all outputs of the last layers is added to all scores, times one factor.

    Two numbers, of which one takes all outputs below zero; within what subtraction leaves of a half type.
    """
    up, down = (
        (ending.given({call: value + shift for call, value in given.items()}) - scores).float() for shift in (8, -16)
    )
    factor = up.mean()
    close = [(up - factor).abs().max(), (down + 2 * factor).abs().max()]
    return all(float(difference) <= 0.05 * float(factor.abs()) for difference in close)


def _random_values(call: Call, generator: torch.Generator) -> torch.Tensor:
    return torch.randn(call.shape, generator=generator, device="cpu").to(call.dtype)


def _with_others(call: Call, value: torch.Tensor, classes: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    others = _random_values(call, generator).index_select(call.class_axis, classes)
    return value.index_copy(call.class_axis, classes, others)


def _refusal_of_mixing(calls: Sequence[Call]) -> str:
    paths = list(dict.fromkeys(call.path for call in calls))
    if len(paths) > 1:
        return f"{len(paths)} layers ({_quoted(paths)}) are combined so that one score depends on several rows of one"
    kind = "linear layer" if isinstance(calls[0].layer, nn.Linear) else "convolution"
    return f"the output of its {kind} {paths[0]!r} is changed before it is returned: one score depends on several rows"


def _quoted(paths: Iterable[str]) -> str:
    return ", ".join(repr(path) for path in dict.fromkeys(paths))


def _check_swap(module: nn.Module, top: TopLayer, inputs: torch.Tensor) -> None:
    counts = (1, top.classes + 7)  # 1 finds what squeezes or broadcasts its output, more than its own what cuts it
    bank = ClassBank(top.features, counts[-1], bias=top.bias, dtype=inputs.dtype, device=inputs.device)
    for count in counts:
        where = f"with {count} instead of {top.classes} classes in its top layer {top.path!r}"
        try:
            output = _run(at_class_count(module, top, bank.layer(count)), inputs)
        except Exception as error:
            encoder = "" if top.plain else "; it may be an encoder without a classifier"
            raise UnsupportedNetwork(f"{where}, {one_line(error)}{encoder}") from error
        if not isinstance(output, torch.Tensor) or output.shape != (_BATCH, count):
            what = tuple(output.shape) if isinstance(output, torch.Tensor) else type(output).__name__
            raise UnsupportedNetwork(f"{where} it returns {what}, not {(_BATCH, count)}")
