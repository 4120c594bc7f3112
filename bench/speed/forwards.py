"""The ways to run a network at one class count: eager, compiled, as a replayed CUDA graph; from the host and back."""

import os
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

#: Variables of the environment that switch torch.compile off where they are 1.
_SWITCHES = ("TORCH_COMPILE_DISABLE", "TORCHDYNAMO_DISABLE")


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
        before = torch.cuda.current_stream(device)
        try:
            self._capture(network, capture.pool, stream, before)
        finally:
            # Not every torch does so where a capture fails, and whatever is run next would be run on its stream.
            torch.cuda.set_stream(before)

    def _capture(self, network: Callable[[Tensor], Tensor], pool: Any, stream: Any, before: Any) -> None:
        stream.wait_stream(before)
        with torch.cuda.stream(stream):
            for _ in range(PRIMING_CALLS):
                network(self._input)
        before.wait_stream(stream)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph, pool=pool, stream=stream):
            self._logits = network(self._input)

    def load(self, minibatch: Tensor) -> None:
        """Copy the next input into the graphs' own buffer."""
        self._input.copy_(minibatch)

    def __call__(self) -> Tensor:
        """Replay; the logits, of shape (batch, classes), are overwritten by the next replay."""
        self._graph.replay()
        return self._logits


class HostMemory:
    """What the end-to-end passes of one setting share: the input's place on the device, the scores' on the host.

    On CUDA the host's memory is pinned: from any other, a copy goes through a pinned one first.
    """

    def __init__(self, example: Tensor, scores: int) -> None:
        """`example`: a minibatch where the network takes it; `scores`: most that any pass leaves."""
        self.input = torch.empty_like(example)
        self.scores = torch.empty(scores, dtype=example.dtype, pin_memory=example.is_cuda)


class EndToEnd:
    """A forward with its input from the host's memory and its scores back there, copies included."""

    def __init__(self, inner: Forward, input: Tensor, scores: Tensor) -> None:
        """`inner` reads `input`, a fixed place; `scores` takes what it gives, one after the other."""
        self._inner = inner
        self._input = input
        self._scores = scores
        self._minibatch: Tensor

    def load(self, minibatch: Tensor) -> None:
        """Take the next input, in the host's memory; nothing is copied yet."""
        self._minibatch = minibatch
        self._inner.load(self._input)

    def __call__(self) -> Tensor:
        """Scores in the host's memory, overwritten by the next pass of any class count."""
        self._input.copy_(self._minibatch, non_blocking=True)
        found = self._inner()
        taken = self._scores[: found.numel()].view(found.shape)
        taken.copy_(found, non_blocking=True)
        if found.is_cuda:
            torch.cuda.current_stream(found.device).synchronize()  # until then nobody can read them
        return taken


@dataclass(frozen=True)
class Made:
    """A forward in its final form, and what making it took."""

    forward: Forward
    graphs: int | None  # that torch.compile made for it; None: not compiled
    preparation_s: float | None  # seconds to compile, capture and prime; None: eager


class ForwardMaker:
    """Makes the forwards of one setting, one for each class count."""

    def __init__(self, setting: Setting, example: Tensor, scores: int = 0) -> None:
        """`example`: a minibatch where passes take it; `scores`: most that a pass leaves, for --work end-to-end."""
        self._setting = setting
        self._example = example.to(setting.device)
        self._capture = Capture(self._example) if setting.cuda_graph else None
        self._host = HostMemory(self._example, scores) if setting.work == "end-to-end" else None

    def __call__(self, network: nn.Module, when_compiled: Callable[[], None] = lambda: None) -> Made:
        """Make one; `when_compiled` is called once compiling, if any, is over and before the network is captured.

        Whatever goes wrong while compiling, capturing or running is raised as torch raises it; RuntimeError where
        torch.compile is switched off or compiled nothing, or left out the CUDA graphs that it was asked for.
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
        prepared_s = None if eager else time.perf_counter() - began
        return Made(self._from_host(forward), graphs, prepared_s)

    def _from_host(self, forward: Forward) -> Forward:
        if self._host is None:
            return forward
        # A graph's own input takes the minibatch itself: the place of another would be one copy more.
        place = self._host.input if self._capture is None else self._capture.input
        return EndToEnd(forward, place, self._host.scores)

    def _around(self, call: Callable[[Tensor], Tensor]) -> Forward:
        return Eager(call) if self._capture is None else GraphReplay(call, self._capture)

    def _compiled(self, network: nn.Module, when_compiled: Callable[[], None]) -> tuple[Forward, int]:
        mode = self._setting.compile
        _refuse_switched_off()
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
        made = _counted("stats", "unique_graphs") - graphs
        if made != 1:
            raise RuntimeError(
                f"torch.compile made {made} graphs where 1 is right: what would be timed is not the compiled network"
                + (" but the eager one" if made == 0 else "")
            )
        return forward, made


def _refuse_switched_off() -> None:
    """Raise RuntimeError where torch is told not to compile: it would run the network eagerly, or fail unclearly."""
    from torch._dynamo import config  # no public way tells this

    # torch reads the first variable when dynamo is imported, and the second one with every call of torch.compile.
    variables = [name for name in _SWITCHES if os.environ.get(name) == "1"]
    if getattr(config, "disable", False) or os.environ.get(_SWITCHES[1]) == "1":
        by = f"{variables[0]}=1" if variables else "torch._dynamo.config.disable"
        raise RuntimeError(f"{by} switches torch.compile off: unset it, or measure with --compile none")


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
