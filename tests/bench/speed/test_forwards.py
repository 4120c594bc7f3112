import shutil

import pytest
import torch
from torch import nn

from bench.speed.forwards import ForwardMaker, compiled_alone, no_recompilation
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
    forward, graphs = make(one)
    inputs = torch.randn(2, 8)
    forward.load(inputs)
    assert graphs is None
    torch.testing.assert_close(forward(), one(inputs))


@compiler
def test_ten_class_counts_make_ten_static_graphs_and_none_falls_back(setting: Setting) -> None:
    """One cache for all would turn dynamic at the second count and fall back to eager after the eighth."""
    torch._dynamo.reset()
    inputs = torch.randn(2, 8)
    with torch.inference_mode():
        make = ForwardMaker(compiled(setting), inputs)
        made = {classes: make(network(classes)) for classes in range(1, 11)}
        assert [graphs for _, graphs in made.values()] == [1] * 10
        with no_recompilation(compiled(setting)):
            for classes, (forward, _) in made.items():
                forward.load(inputs)
                torch.testing.assert_close(forward(), network(classes)(inputs))


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


@pytest.mark.gpu
@pytest.mark.parametrize("update", [{"cuda_graph": True}, {"compile": "reduce-overhead"}])
def test_graphs_on_a_gpu_give_the_eager_logits_for_every_input(setting: Setting, update: dict[str, object]) -> None:
    inputs = [torch.randn(2, 8, device="cuda") for _ in range(3)]
    networks = {classes: network(classes).cuda() for classes in (1, 5)}
    with torch.inference_mode():
        make = ForwardMaker(setting.model_copy(update={"device": "cuda:0", **update}), inputs[0])
        forwards = {classes: make(one)[0] for classes, one in networks.items()}
        for minibatch in inputs:
            for classes, forward in forwards.items():
                forward.load(minibatch)
                torch.testing.assert_close(forward().clone(), networks[classes](minibatch), rtol=1e-3, atol=1e-4)
