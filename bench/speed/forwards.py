"""The ways to run a network at one class count: eager, compiled, as a replayed CUDA graph."""

import time
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
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


class Capture:
    """What the CUDA graphs of one setting share: the input's buffer, a memory pool and a stream.

    A pool is shared well only by captures on one stream, and torch's own is of whichever device came first.
    """

    def __init__(self, example: Tensor) -> None:
        self.input = example.clone()
        self.pool: Any = torch.cuda.graph_pool_handle()
        self.stream = torch.cuda.Stream(example.device)  # type: ignore[no-untyped-call]


class GraphReplay:
    """One captured CUDA graph; its input is a fixed buffer, filled before the clock starts."""

    def __init__(self, network: Callable[[Tensor], Tensor], capture: Capture) -> None:
        self._input = capture.input
        stream, device = capture.stream, capture.input.device
        stream.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(stream):
            for _ in range(PRIMING_CALLS):
                network(self._input)
        torch.cuda.current_stream(device).wait_stream(stream)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph, pool=capture.pool, stream=stream):
            self._logits = network(self._input)

    def load(self, minibatch: Tensor) -> None:
        """Copy the next input into the graphs' own buffer."""
        self._input.copy_(minibatch)

    def __call__(self) -> Tensor:
        """Replay; the logits, of shape (batch, classes), are overwritten by the next replay."""
        self._graph.replay()
        return self._logits


@dataclass(frozen=True)
class Made:
    """A forward in its final form, and what making it took."""

    forward: Forward
    graphs: int | None  # that torch.compile made for it; None: not compiled
    preparation_s: float | None  # seconds to compile, capture and prime; None: eager


class ForwardMaker:
    """Makes the forwards of one setting, one for each class count."""

    def __init__(self, setting: Setting, example: Tensor) -> None:
        self._setting = setting
        self._example = example
        self._capture = Capture(example) if setting.cuda_graph else None

    def __call__(self, network: nn.Module, when_compiled: Callable[[], None] = lambda: None) -> Made:
        """Make one; `when_compiled` is called once compiling, if any, is over and before the network is captured.

        Whatever goes wrong while compiling, capturing or running is raised as torch raises it; RuntimeError where
        torch.compile left out the CUDA graphs that it was asked for.
        """
        began = time.perf_counter()
        graphs: int | None = None
        if self._setting.compile == "none":
            when_compiled()
            forward = self._around(network)
        else:
            forward, graphs = self._compiled(network, when_compiled)
        if self._example.is_cuda:
            torch.cuda.synchronize(self._example.device)
        eager = self._setting.compile == "none" and self._capture is None
        return Made(forward, graphs, None if eager else time.perf_counter() - began)

    def _around(self, call: Callable[[Tensor], Tensor]) -> Forward:
        return Eager(call) if self._capture is None else GraphReplay(call, self._capture)

    def _compiled(self, network: nn.Module, when_compiled: Callable[[], None]) -> tuple[Forward, int]:
        mode = self._setting.compile
        graphs, skips = _counted("stats", "unique_graphs"), _counted("inductor", "cudagraph_skips")
        call = compiled_alone(network, mode)
        first = GraphTrees(call) if mode == "reduce-overhead" else Eager(call)
        first.load(self._example)
        first()  # this is when torch compiles
        when_compiled()
        forward: Forward = first if self._capture is None else self._around(call)
        for _ in range(PRIMING_CALLS):
            forward.load(self._example)
            forward()
        if mode == "reduce-overhead" and _counted("inductor", "cudagraph_skips") > skips:
            raise RuntimeError("torch.compile skipped CUDA graphs (cudagraph_skips): reduce-overhead would be default")
        return forward, _counted("stats", "unique_graphs") - graphs


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


def _counted(group: str, name: str) -> int:
    """One of torch.compile's own counts, of the whole process so far."""
    from torch._dynamo.utils import counters  # no public ones tell this; importing them takes a second

    return int(counters[group][name])
