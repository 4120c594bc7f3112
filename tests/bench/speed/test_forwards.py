import shutil

import pytest
import torch
from torch import nn

from bench.speed import forwards
from bench.speed.failures import status_of
from bench.speed.forwards import PRIMING_CALLS, ForwardMaker, compiled_alone, no_recompilation
from bench.speed.settings import Setting

compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile on a CPU needs a C++ compiler")


def network(classes: int) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, classes)).eval()


def compiled(setting: Setting) -> Setting:
    return setting.model_copy(update={"compile": "default"})


def test_eager_runs_what_was_loaded_last(setting: Setting) -> None:
    make = ForwardMaker(setting, torch.randn(2, 8))
    one = network(3)
    made = make(one)
    inputs = torch.randn(2, 8)
    made.forward.load(inputs)
    assert made.graphs is made.preparation_s is None
    torch.testing.assert_close(made.forward(), one(inputs))


def test_an_eager_network_is_not_run_before_its_first_pass(setting: Setting) -> None:
    def fail(inputs: torch.Tensor) -> torch.Tensor:
        raise AssertionError("called while it was made")

    network = nn.Identity()
    network.register_forward_pre_hook(lambda module, inputs: fail(inputs[0]))
    called: list[str] = []
    ForwardMaker(setting, torch.randn(2, 8))(network, lambda: called.append("compiled"))
    assert called == ["compiled"]


@compiler
def test_ten_class_counts_make_ten_static_graphs_and_none_falls_back(setting: Setting) -> None:
    """One cache for all would turn dynamic at the second count and fall back to eager after the eighth."""
    torch._dynamo.reset()
    inputs = torch.randn(2, 8)
    with torch.inference_mode():
        make = ForwardMaker(compiled(setting), inputs)
        made = {classes: make(network(classes)) for classes in range(1, 11)}
        assert [one.graphs for one in made.values()] == [1] * 10
        assert all(one.preparation_s is not None and one.preparation_s > 0 for one in made.values())
        with no_recompilation(compiled(setting)):
            for classes, one in made.items():
                one.forward.load(inputs)
                torch.testing.assert_close(one.forward(), network(classes)(inputs))


@compiler
def test_while_timing_a_recompilation_raises(setting: Setting) -> None:
    forward = compiled_alone(network(3), "default")
    with torch.inference_mode():
        forward(torch.randn(2, 8))
        with no_recompilation(compiled(setting)), pytest.raises(RuntimeError, match=r"[Rr]ecompile"):
            forward(torch.randn(5, 8))


@compiler
def test_a_network_that_cannot_be_one_graph_raises_instead_of_falling_back(setting: Setting) -> None:
    class Breaks(nn.Module):
        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            torch._dynamo.graph_break()
            return inputs

    with pytest.raises(Exception, match=r"graph_break|graph break"):
        ForwardMaker(compiled(setting), torch.randn(2, 8))(Breaks())


class Compiled:
    """In place of torch.compile: notes its calls, and bumps torch's count of skipped CUDA graphs at the first."""

    def __init__(self, skips: int) -> None:
        self.events: list[str] = []
        self._skips = skips

    def __call__(self, network: nn.Module, mode: str) -> "Compiled":
        self.mode = mode
        self._network = network
        return self

    def forward(self, minibatch: torch.Tensor) -> torch.Tensor:
        from torch._dynamo.utils import counters

        if "call" not in self.events:
            counters["inductor"]["cudagraph_skips"] += self._skips
        self.events.append("call")
        logits: torch.Tensor = self._network(minibatch)
        return logits


def in_place_of_torch(monkeypatch: pytest.MonkeyPatch, *, skips: int) -> Compiled:
    stub = Compiled(skips)
    monkeypatch.setattr(forwards, "compiled_alone", lambda network, mode: stub(network, mode).forward)
    monkeypatch.setattr(torch.compiler, "cudagraph_mark_step_begin", lambda: stub.events.append("step"))
    return stub


def test_what_follows_compilation_is_told_when_it_begins(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    stub = in_place_of_torch(monkeypatch, skips=0)
    make = ForwardMaker(setting.model_copy(update={"compile": "reduce-overhead"}), torch.randn(2, 8))
    made = make(network(3), lambda: stub.events.append("compiled"))
    assert stub.mode == "reduce-overhead"
    assert stub.events == ["step", "call", "compiled"] + ["step", "call"] * PRIMING_CALLS
    assert made.graphs == 0
    assert made.preparation_s is not None


def test_graphs_that_torch_left_out_are_not_passed_over(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    in_place_of_torch(monkeypatch, skips=1)
    make = ForwardMaker(setting.model_copy(update={"compile": "reduce-overhead"}), torch.randn(2, 8))
    with pytest.raises(RuntimeError, match="cudagraph_skips") as caught:
        make(network(3))
    assert status_of(caught.value) == "unsupported"


def test_without_a_wish_for_graphs_none_can_be_left_out(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    in_place_of_torch(monkeypatch, skips=1)
    ForwardMaker(compiled(setting), torch.randn(2, 8))(network(3))


GRAPHS = [{"cuda_graph": True}, {"compile": "reduce-overhead"}, {"compile": "default", "cuda_graph": True}]


@pytest.mark.gpu
@pytest.mark.parametrize("update", GRAPHS)
def test_graphs_on_a_gpu_give_the_eager_logits_for_every_input(setting: Setting, update: dict[str, object]) -> None:
    inputs = [torch.randn(2, 8, device="cuda") for _ in range(3)]
    networks = {classes: network(classes).cuda() for classes in (1, 5)}
    with torch.inference_mode():
        make = ForwardMaker(setting.model_copy(update={"device": "cuda:0", **update}), inputs[0])
        made = {classes: make(one) for classes, one in networks.items()}
        assert all(one.preparation_s is not None for one in made.values())
        for minibatch in inputs:
            for classes, one in made.items():
                one.forward.load(minibatch)
                logits = one.forward().clone()
                torch.testing.assert_close(logits, networks[classes](minibatch), rtol=1e-3, atol=1e-4)


@pytest.mark.gpu
def test_a_network_that_waits_for_the_device_cannot_be_captured(setting: Setting) -> None:
    class Waits(nn.Module):
        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            return inputs if inputs.sum().item() < 1e30 else -inputs

    make = ForwardMaker(setting.model_copy(update={"device": "cuda:0", "cuda_graph": True}), torch.randn(2, 8).cuda())
    with torch.inference_mode(), pytest.raises(RuntimeError) as caught:
        make(Waits())
    assert status_of(caught.value) == "unsupported"
