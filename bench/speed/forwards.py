"""The ways to run a network at one class count: eager, compiled, as a replayed CUDA graph."""

import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from bench.speed.clocks import Forward
from bench.speed.settings import Setting

#: Calls before a forward is in its final form: torch's CUDA graph trees run once, then record, then replay.
PRIMING_CALLS = 3


class Eager:
    """The network as it is (or a compiled callable in its place)."""

    def __init__(self, network: Callable[[Tensor], Tensor]) -> None:
        self._network = network
        self._minibatch: Tensor

    def load(self, minibatch: Tensor) -> None:
        """Take the next input, of shape (batch, *input_shape)."""
        self._minibatch = minibatch

    def __call__(self) -> Tensor:
        """Logits of shape (batch, classes)."""
        return self._network(self._minibatch)


class GraphTrees(Eager):
    """A compiled callable whose CUDA graphs torch keeps in trees: each pass is a new generation of outputs."""

    def load(self, minibatch: Tensor) -> None:
        """Take the next input, and tell torch that the last output is no longer needed."""
        torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]
        super().load(minibatch)


class GraphReplay:
    """One captured CUDA graph; its input is a fixed buffer, filled before the clock starts."""

    def __init__(self, network: Callable[[Tensor], Tensor], example: Tensor, pool: Any) -> None:
        self._input = example.clone()
        stream = torch.cuda.Stream(example.device)  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream(example.device))
        with torch.cuda.stream(stream):
            for _ in range(PRIMING_CALLS):
                network(self._input)
        torch.cuda.current_stream(example.device).wait_stream(stream)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph, pool=pool):
            self._logits = network(self._input)

    def load(self, minibatch: Tensor) -> None:
        """Copy the next input into the graph's own buffer."""
        self._input.copy_(minibatch)

    def __call__(self) -> Tensor:
        """Replay; the logits, of shape (batch, classes), are overwritten by the next replay."""
        self._graph.replay()
        return self._logits


class ForwardMaker:
    """Makes the forwards of one setting, one for each class count."""

    def __init__(self, setting: Setting, example: Tensor) -> None:
        self._setting = setting
        self._example = example
        self._pool = torch.cuda.graph_pool_handle() if setting.cuda_graph else None

    def __call__(self, network: nn.Module) -> tuple[Forward, int | None]:
        """A forward in its final form, and how many graphs torch.compile made for it (None: not compiled).

        Whatever goes wrong while compiling, capturing or running is raised as torch raises it.
        """
        compiled = self._setting.compile != "none"
        call = compiled_alone(network, self._setting.compile) if compiled else network
        before = _graphs_made() if compiled else 0
        forward: Forward
        if self._pool is not None:
            forward = GraphReplay(call, self._example, self._pool)
        elif self._setting.compile == "reduce-overhead":
            forward = GraphTrees(call)
        else:
            forward = Eager(call)
        if compiled:
            for _ in range(PRIMING_CALLS):
                forward.load(self._example)
                forward()
        return forward, _graphs_made() - before if compiled else None


def compiled_alone(network: nn.Module, mode: str) -> Callable[[Tensor], Tensor]:
    """Compile one network for static shapes and as one graph, with a cache of its own.

    torch keeps compiled graphs by code object. Networks that differ only in their top layer share theirs, so
    their graphs would pile up in one cache, be guarded against one another, turn dynamic in the class count,
    and after eight fall back to eager. A copy of the code object keeps every class count to itself.
    """

    def forward(minibatch: Tensor) -> Tensor:
        return network(minibatch)  # type: ignore[no-any-return]

    alone = types.FunctionType(
        forward.__code__.replace(co_name=f"forward_{id(network)}"),
        forward.__globals__,
        closure=forward.__closure__,
    )
    compiled: Callable[[Tensor], Tensor] = torch.compile(alone, mode=mode, fullgraph=True, dynamic=False)
    return compiled


@contextmanager
def no_recompilation(setting: Setting) -> Iterator[None]:
    """While timing, a recompilation raises instead of quietly making another graph."""
    if setting.compile == "none":
        yield
        return
    with torch.compiler.set_stance("fail_on_recompile"):
        yield


def _graphs_made() -> int:
    from torch._dynamo.utils import counters  # the only public count is this one; importing it takes a second

    return int(counters["stats"]["unique_graphs"])
