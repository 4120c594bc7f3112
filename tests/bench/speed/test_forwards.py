import os
import shutil
import subprocess
import sys

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
    """In place of torch.compile: notes its calls, and bumps torch's counts of graphs and skips at the first."""

    def __init__(self, skips: int, graphs: int = 1) -> None:
        self.events: list[str] = []
        self._skips = skips
        self._graphs = graphs

    def __call__(self, network: nn.Module, mode: str) -> "Compiled":
        self.mode = mode
        self._network = network
        return self

    def forward(self, minibatch: torch.Tensor) -> torch.Tensor:
        from torch._dynamo.utils import counters

        if "call" not in self.events:
            counters["inductor"]["cudagraph_skips"] += self._skips
            counters["stats"]["unique_graphs"] += self._graphs
        self.events.append("call")
        logits: torch.Tensor = self._network(minibatch)
        return logits


def in_place_of_torch(monkeypatch: pytest.MonkeyPatch, *, skips: int, graphs: int = 1) -> Compiled:
    stub = Compiled(skips, graphs)
    monkeypatch.setattr(forwards, "compiled_alone", lambda network, mode: stub(network, mode).forward)
    monkeypatch.setattr(torch.compiler, "cudagraph_mark_step_begin", lambda: stub.events.append("step"))
    return stub


def test_what_follows_compilation_is_told_when_it_begins(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    stub = in_place_of_torch(monkeypatch, skips=0)
    make = ForwardMaker(setting.model_copy(update={"compile": "reduce-overhead"}), torch.randn(2, 8))
    made = make(network(3), lambda: stub.events.append("compiled"))
    assert stub.mode == "reduce-overhead"
    assert stub.events == ["step", "call", "compiled"] + ["step", "call"] * PRIMING_CALLS
    assert made.graphs == 1
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


@pytest.mark.parametrize(("graphs", "words"), [(0, "but the eager one"), (2, "made 2 graphs where 1 is right")])
def test_a_compile_that_falls_back_without_a_word_raises(
    setting: Setting, monkeypatch: pytest.MonkeyPatch, graphs: int, words: str
) -> None:
    in_place_of_torch(monkeypatch, skips=0, graphs=graphs)
    with pytest.raises(RuntimeError, match=words):
        ForwardMaker(compiled(setting), torch.randn(2, 8))(network(3))


def test_where_torch_gives_back_the_eager_network_that_is_found(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "compile", lambda forward, **options: forward)
    with pytest.raises(RuntimeError, match=r"made 0 graphs where 1 is right: .* but the eager one"):
        ForwardMaker(compiled(setting), torch.randn(2, 8))(network(3))


@pytest.mark.parametrize("variable", ["TORCH_COMPILE_DISABLE", "TORCHDYNAMO_DISABLE"])
def test_where_torch_is_told_not_to_compile_the_reason_names_the_variable(variable: str) -> None:
    """In a process of its own: torch reads the first of them once."""
    program = (
        "import torch\n"
        "from torch import nn\n"
        "from bench.speed.failures import first_line, status_of\n"
        "from bench.speed.forwards import ForwardMaker\n"
        "from bench.speed.settings import Setting\n"
        "setting = Setting(arch='net', input_shape=(8,), device='cpu', threads=1, compile='default')\n"
        "try:\n"
        "    ForwardMaker(setting, torch.randn(2, 8))(nn.Linear(8, 3))\n"
        "except Exception as error:\n"
        "    print(status_of(error), first_line(error))\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, variable: "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    switched = f"failed RuntimeError: {variable}=1 switches torch.compile off"
    assert ended.stdout == f"{switched}: unset it, or measure with --compile none\n"


def test_dynamos_own_switch_is_found_too(setting: Setting) -> None:
    with torch._dynamo.config.patch(disable=True):
        with pytest.raises(RuntimeError, match=r"_dynamo\.config\.disable switches torch\.compile off"):
            ForwardMaker(compiled(setting), torch.randn(2, 8))(network(3))
        made = ForwardMaker(setting, torch.randn(2, 8))(network(3))
    assert made.graphs is None  # what is not to be compiled does not mind


class Streams:
    """In place of torch.cuda where a graph is captured: keeps which stream is current, as torch does."""

    def __init__(self, fails: bool) -> None:
        self.current: object = self
        self.fails = fails

    def wait_stream(self, other: object) -> None:
        """Nothing runs here."""

    def put_into(self, monkeypatch: pytest.MonkeyPatch) -> None:
        streams = self

        class Switched:
            def __init__(self, stream: object) -> None:
                self.stream = stream

            def __enter__(self) -> None:
                self.before, streams.current = streams.current, self.stream

            def __exit__(self, *error: object) -> None:
                streams.current = self.before

        class Graph(Switched):
            def __init__(self, graph: object, pool: object, stream: object) -> None:
                super().__init__(stream)

            def __exit__(self, *error: object) -> None:
                if streams.fails:  # as torch did before it unwound: the capture's stream stays the current one
                    raise RuntimeError("CUDA error: operation failed due to a previous error during capture")
                super().__exit__()

        monkeypatch.setattr(torch.cuda, "current_stream", lambda device=None: streams.current)
        monkeypatch.setattr(torch.cuda, "set_stream", lambda stream: setattr(streams, "current", stream))
        monkeypatch.setattr(torch.cuda, "stream", Switched)
        monkeypatch.setattr(torch.cuda, "graph", Graph)
        monkeypatch.setattr(torch.cuda, "CUDAGraph", lambda: None)
        monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: None)
        monkeypatch.setattr(torch.cuda, "Stream", lambda device: Streams(False))


@pytest.mark.parametrize("fails", [False, True])
def test_a_capture_leaves_the_stream_as_it_was_whether_or_not_it_fails(
    setting: Setting, monkeypatch: pytest.MonkeyPatch, fails: bool
) -> None:
    streams = Streams(fails)
    streams.put_into(monkeypatch)
    make = ForwardMaker(setting.model_copy(update={"cuda_graph": True}), torch.randn(2, 8))
    if fails:
        with pytest.raises(RuntimeError, match="during capture") as caught:
            make(network(3))
        assert status_of(caught.value) == "unsupported"
    else:
        make(network(3))
    assert streams.current is streams


def from_host(setting: Setting) -> Setting:
    return setting.model_copy(update={"work": "end-to-end"})


def test_end_to_end_takes_its_input_from_the_host_and_leaves_its_scores_there(setting: Setting) -> None:
    example, networks = torch.randn(2, 8), {classes: network(classes) for classes in (1, 5)}
    make = ForwardMaker(from_host(setting), example, scores=2 * 5)
    made = {classes: make(one).forward for classes, one in networks.items()}
    for classes, forward in made.items():
        inputs = torch.randn(2, 8)
        forward.load(inputs)
        scores = forward()
        torch.testing.assert_close(scores, networks[classes](inputs))
        assert scores.is_contiguous()
    assert made[1]().data_ptr() == made[5]().data_ptr(), "one place in the host's memory serves all class counts"


def test_the_input_is_copied_within_the_pass_and_not_before(setting: Setting) -> None:
    make = ForwardMaker(from_host(setting), torch.zeros(2, 8), scores=2)
    forward, inputs = make(network(1)).forward, torch.randn(2, 8)
    forward.load(inputs)
    inputs.zero_()  # what is in the host's memory when the pass begins is what counts
    torch.testing.assert_close(forward(), network(1)(torch.zeros(2, 8)))


@compiler
def test_end_to_end_can_be_compiled(setting: Setting) -> None:
    torch._dynamo.reset()
    inputs = torch.randn(2, 8)
    with torch.inference_mode():
        made = ForwardMaker(from_host(compiled(setting)), torch.zeros(2, 8), scores=6)(network(3))
        assert made.graphs == 1
        made.forward.load(inputs)
        torch.testing.assert_close(made.forward(), network(3)(inputs))


@pytest.mark.gpu
@pytest.mark.parametrize("update", [{}, {"cuda_graph": True}, {"compile": "default"}, {"compile": "reduce-overhead"}])
def test_end_to_end_on_a_gpu_leaves_its_scores_in_pinned_memory(setting: Setting, update: dict[str, object]) -> None:
    inputs = [torch.randn(2, 8).pin_memory() for _ in range(3)]
    networks = {classes: network(classes).cuda() for classes in (1, 5)}
    with torch.inference_mode():
        make = ForwardMaker(from_host(setting).model_copy(update={"device": "cuda:0", **update}), inputs[0], scores=10)
        made = {classes: make(one).forward for classes, one in networks.items()}
        for minibatch in inputs:
            for classes, forward in made.items():
                forward.load(minibatch)
                scores = forward()
                assert scores.is_pinned()
                expected = networks[classes](minibatch.cuda()).cpu()
                torch.testing.assert_close(scores, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.gpu
def test_after_a_capture_that_failed_another_setting_runs_as_ever(setting: Setting) -> None:
    class Waits(nn.Module):
        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            return inputs if inputs.sum().item() < 1e30 else -inputs

    graph = setting.model_copy(update={"device": "cuda:0", "cuda_graph": True})
    inputs, whole = torch.randn(2, 8, device="cuda"), network(3).cuda()
    before = torch.cuda.current_stream()
    with torch.inference_mode():
        with pytest.raises(RuntimeError):
            ForwardMaker(graph, inputs)(Waits())
        assert torch.cuda.current_stream() == before
        made = ForwardMaker(graph, inputs)(whole)
        made.forward.load(inputs)
        torch.testing.assert_close(made.forward().clone(), whole(inputs), rtol=1e-3, atol=1e-4)
        torch.randn(4, device="cuda")  # the generator must not think that it is still being captured


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
