"""What a network's output is made of: the last linear layers and convolutions before it, and what comes after them.

    images -- ... -- head -- pool --\\
                 \\                   + -- / 2 -- output        calls: head, head_dist
                  `- head_dist -----/                          Output.given: pool, +, / 2 on other values of the calls

One forward is watched operation by operation (a TorchDispatchMode: also on the meta device, where there are no values).
Every tensor remembers how it was made, back to the calls of linear layers and convolutions it was last made from; no
tensor is held for that. What follows these calls can then be run again on the CPU, on values of our choosing.
"""

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import TreeSpec, tree_flatten, tree_unflatten
from torch.utils.weak import WeakTensorKeyDictionary

#: What may hold the rows of a top layer.
Layer = nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d
LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


@dataclass(frozen=True, eq=False)
class Call:
    """One call of a linear layer or a convolution in the traced forward; `shape` and `dtype` are its output's."""

    path: str
    layer: Layer
    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def classes(self) -> int:
        """How many outputs the layer has at each position."""
        return self.layer.out_features if isinstance(self.layer, nn.Linear) else self.layer.out_channels

    @property
    def class_axis(self) -> int:
        """The axis of the output along which these lie, counted from the end."""
        return -1 if isinstance(self.layer, nn.Linear) else 1 - len(self.shape)

    @property
    def rows(self) -> int:
        """How many rows of features the layer was applied to: examples times tokens or pixels."""
        return torch.Size(self.shape).numel() // self.classes


@dataclass(frozen=True, eq=False)
class _Operation:
    """An operation on tensors that were made from calls; its arguments are flat, these tensors replaced by _Made."""

    number: int
    function: Any
    arguments: tuple[Any, ...]
    form: TreeSpec


@dataclass(frozen=True, eq=False)
class _Made:
    """Where a tensor comes from: a call, or one of the outputs of an operation."""

    by: Call | _Operation
    place: int = 0


@dataclass(frozen=True, eq=False)
class Output:
    """How the network's output is made from `calls`, the last ones on every way to it (none if it is made of none)."""

    calls: tuple[Call, ...]
    _operations: tuple[_Operation, ...]
    _made: _Made | None

    def given(self, values: Mapping[Call, torch.Tensor]) -> torch.Tensor:
        """The network's output if the calls had given these values (of their shapes, on the CPU).

        Tensors from elsewhere in the network have their own values; on the meta device, where there are none, random
        ones around 1. Raises what an operation raises that does not run on the CPU.
        """
        assert self._made is not None
        results: dict[object, list[Any]] = {call: [values[call]] for call in self.calls}
        for operation in self._operations:
            results[operation] = tree_flatten(_run_again(operation, results))[0]
        result = results[self._made.by][self._made.place]
        assert isinstance(result, torch.Tensor)
        return result


def trace(module: nn.Module, inputs: torch.Tensor) -> tuple[object, list[Call], Output]:
    """One forward: what it returns, all calls of linear layers and convolutions in their order, and how they end.

    Raises what the forward raises.
    """
    calls: list[Call] = []
    watch = _Watch()

    def record(path: str) -> Callable[..., None]:
        def hook(layer: nn.Module, _: Any, output: object) -> None:
            if isinstance(layer, LAYERS) and isinstance(output, torch.Tensor):
                calls.append(Call(path, layer, tuple(output.shape), output.dtype))
                watch.made[output] = _Made(calls[-1])

        return hook

    watched = [(path, part) for path, part in module.named_modules() if isinstance(part, LAYERS)]
    hooks = [part.register_forward_hook(record(path)) for path, part in watched]
    try:
        with watch:
            output = module(inputs)
    finally:
        for hook in hooks:
            hook.remove()
    made = watch.made.get(output) if isinstance(output, torch.Tensor) else None
    return output, calls, _output(made, calls)


class _Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Remembers of every tensor how it was made, from calls onwards; what was made from none is not remembered."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.made: Any = WeakTensorKeyDictionary()
        self._numbers = itertools.count()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        results = func(*args, **(kwargs or {}))
        flat, form = tree_flatten((args, kwargs or {}))
        arguments = tuple(self._origin(argument) for argument in flat)
        if any(isinstance(argument, _Made) for argument in arguments):
            operation = _Operation(next(self._numbers), func, arguments, form)
            for place, result in enumerate(tree_flatten(results)[0]):
                if isinstance(result, torch.Tensor):
                    self.made[result] = _Made(operation, place)
        return results

    def _origin(self, argument: object) -> object:
        return self.made.get(argument, argument) if isinstance(argument, torch.Tensor) else argument


def _output(made: _Made | None, order: Sequence[Call]) -> Output:
    """Everything between the last calls and one tensor, in the order in which it ran."""
    calls: set[Call] = set()
    operations: set[_Operation] = set()
    waiting = [made.by] if made else []
    while waiting:  # no recursion: a residual stream is thousands of operations deep
        by = waiting.pop()
        if isinstance(by, Call):
            calls.add(by)
        elif by not in operations:
            operations.add(by)
            waiting += [argument.by for argument in by.arguments if isinstance(argument, _Made)]
    last = tuple(call for call in order if call in calls)
    return Output(last, tuple(sorted(operations, key=lambda operation: operation.number)), made)


def _run_again(operation: _Operation, results: Mapping[object, Sequence[Any]]) -> Any:
    changes = operation.function._schema.is_mutable  # in place: what others have read must not change for them
    generator = torch.Generator("cpu").manual_seed(operation.number)

    def value(argument: Any) -> Any:
        if isinstance(argument, _Made):
            result = results[argument.by][argument.place]
            return result.clone() if changes else result
        if isinstance(argument, torch.Tensor):
            return _on_cpu(argument, generator)
        return torch.device("cpu") if isinstance(argument, torch.device) else argument

    args, kwargs = tree_unflatten([value(argument) for argument in operation.arguments], operation.form)
    return operation.function(*args, **kwargs)


def _on_cpu(tensor: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    if tensor.device.type != "meta":
        return tensor.detach().to("cpu", copy=True)
    if tensor.is_floating_point():
        # Around 1: it may be a variance, or what something is divided by.
        return (torch.rand(tensor.shape, generator=generator, device="cpu") + 0.5).to(tensor.dtype)
    return torch.zeros(tensor.shape, dtype=tensor.dtype, device="cpu")
