import gc
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import nn

from archs.registry import Network
from bench.run import Point, Sample
from bench.speed.events import Doing, Event, PassesDone, PointFound, ProcessState
from bench.speed.forwards import Eager, ForwardMaker, Made
from bench.speed.measure import measure
from bench.speed.plan import Plan, Request, plan
from bench.speed.tasks import Assignment, Task

pytestmark = pytest.mark.usefixtures("in_factories")


def planned(network: str = "small", **options: object) -> Plan:
    asked = {"classes": "1,16,64", "batch_size": [2], "minibatches": 6, "threads": 1, "device": "cpu", **options}
    return plan(Request(arch=[f"tiny_networks:{network}"], **asked))  # type: ignore[arg-type]


def run(
    plan: Plan, emit: Callable[[Event], None] | None = None, *, first_round: int = 0, process: int = 0
) -> list[Event]:
    (setting,) = plan.settings
    points = tuple(
        Point(setting=0, process=process, classes=classes, operations=32 * classes, bytes=32 * classes)
        for classes in plan.protocol.classes
    )
    assignment = Assignment(
        task=Task(setting=0, process=process, first_round=first_round),
        setting=setting,
        backbone_bytes=0,
        points=points,
    )
    events: list[Event] = []

    def take(event: Event) -> None:
        events.append(event)
        if emit:
            emit(event)

    measure(assignment, plan.protocol, plan.networks[setting.arch], take)
    return events


def samples_of(events: list[Event], phase: str) -> list[Sample]:
    return [
        sample for event in events if isinstance(event, PassesDone) for sample in event.samples if sample.phase == phase
    ]


def points_of(events: list[Event]) -> dict[int, Point]:
    """The last word on each class count."""
    return {event.point.classes: event.point for event in events if isinstance(event, PointFound)}


def test_the_course_of_a_measurement() -> None:
    events = run(planned(), first_round=2, process=3)
    assert isinstance(events[0], ProcessState)
    assert events[0].process.stop_reason is None
    assert events[0].process.first_round == 2
    last = events[-1]
    assert isinstance(last, ProcessState)
    assert (last.process.stop_reason, last.process.pool) == ("minibatches", 6)
    assert last.process.ended is not None
    assert last.process.inside_passes is not None
    assert 0 < last.process.inside_passes < 1
    assert [sample.classes for sample in samples_of(events, "first")] == [1, 16, 64]
    timed = samples_of(events, "timed")
    assert {sample.process for sample in timed} == {3}
    assert [sample.round for sample in timed] == [number for number in range(2, 6) for _ in range(4)]
    for number in range(2, 6):
        visited = [(sample.classes, sample.control) for sample in timed if sample.round == number]
        assert sorted(visited) == [(1, False), (1, True), (16, False), (64, False)]
    everything = [sample for phase in ("first", "warmup", "timed") for sample in samples_of(events, phase)]
    assert [one.predecessor for one in everything] == [None, *(one.classes for one in everything[:-1])]
    said = [event.text for event in events if isinstance(event, Doing)]
    assert said[:2] == ["calibrating cpu", "building tiny_networks:small"]
    assert said[-1] == "timing"
    assert {point.status for point in points_of(events).values()} == {"ok"}
    assert {point.preparation_s for point in points_of(events).values()} == {None}


def test_each_round_is_written_before_the_next_one_begins() -> None:
    rounds = [event.samples for event in run(planned()) if isinstance(event, PassesDone)]
    timed = [samples for samples in rounds if samples[0].phase == "timed"]
    assert [len(samples) for samples in timed] == [4] * 6
    assert {sample.round_size for samples in timed for sample in samples} == {4}


def test_the_sequential_order_writes_every_pass() -> None:
    timed = samples_of(run(planned(order="sequential")), "timed")
    assert [(one.classes, one.control) for one in timed] == (
        [(1, False)] * 6 + [(16, False)] * 6 + [(64, False)] * 6 + [(1, True)] * 6
    )
    assert {one.round_size for one in timed} == {1}


def test_a_block_keeps_the_first_pass_of_each_visit_out() -> None:
    timed = samples_of(run(planned(block=3)), "timed")
    assert len(timed) == 6 * 4 * 3
    for first, second, third in zip(timed[::3], timed[1::3], timed[2::3], strict=True):
        assert (first.kept_out, second.kept_out, third.kept_out) == (True, False, False)
        assert first.classes == second.classes == third.classes
        assert (second.predecessor, third.predecessor) == (first.classes, first.classes)


@pytest.mark.parametrize("error", [OSError("no space"), ValueError("a bad view"), KeyboardInterrupt()])
@pytest.mark.parametrize("moment", ["calibrating cpu", "first call at 16 classes", "timing"])
def test_what_the_receiver_raises_is_passed_on_and_no_point_failed(moment: str, error: BaseException) -> None:
    events: list[Event] = []

    def refuse(event: Event) -> None:
        events.append(event)
        if event == Doing(text=moment):
            raise error

    with pytest.raises(type(error)):
        run(planned(), refuse)
    assert events[-1] == Doing(text=moment)
    assert {point.status for point in points_of(events).values()} == {"ok"}


def test_torch_and_the_collector_are_left_as_they_were() -> None:
    threads, benchmark, default = torch.get_num_threads(), torch.backends.cudnn.benchmark, torch.get_default_dtype()
    seen: list[tuple[int, bool, bool]] = []
    random = torch.random.get_rng_state()
    run(
        planned(threads=threads + 1, cudnn_benchmark=not benchmark),
        lambda event: seen.append((torch.get_num_threads(), torch.backends.cudnn.benchmark, gc.isenabled())),
    )
    assert set(seen) == {(threads + 1, not benchmark, False)}
    assert torch.get_num_threads() == threads
    assert torch.backends.cudnn.benchmark == benchmark
    assert torch.get_default_dtype() == default
    assert gc.isenabled()
    assert not torch.is_inference_mode_enabled()
    assert torch.equal(random, torch.random.get_rng_state())


def test_a_network_that_cannot_be_built_fails_at_every_count_with_the_reason() -> None:
    usual = planned()

    def build() -> nn.Module:
        raise NotImplementedError("not on this machine")

    name = usual.settings[0].arch
    broken = Plan(usual.settings, usual.protocol, {name: Network(name, (3, 8, 8), build)}, usual.facts)
    events = run(broken)
    points = points_of(events)
    assert sorted(points) == [1, 16, 64]
    assert {(one.status, one.reason) for one in points.values()} == {
        ("unsupported", "NotImplementedError: not on this machine")
    }
    assert isinstance(events[-1], ProcessState)
    assert events[-1].process.stop_reason == "no points left"


def test_counts_that_do_not_fit_are_refused_and_the_bank_is_as_large_as_the_largest_that_does(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With 300 MB free: 192 are left alone, and a class takes (8 + 1) weights and twice 2 logits of 4 bytes."""
    monkeypatch.setattr("bench.speed.measure.free_bytes", lambda device: 300_000_000)
    events = run(planned(classes="1,16,1000000,4000000,5000000"))
    points = points_of(events)
    assert {classes: point.status for classes, point in points.items()} == {
        1: "ok",
        16: "ok",
        1_000_000: "ok",
        4_000_000: "out-of-memory",
        5_000_000: "out-of-memory",
    }
    assert points[4_000_000].reason == "4,000,000 classes need 0.41 GB, 0.30 GB are free"
    assert Doing(text="filling a top layer of 1,000,000 rows") in events
    assert {sample.classes for sample in samples_of(events, "timed")} == {1, 16, 1_000_000}


def test_a_bank_that_the_allocator_refuses_leaves_the_smaller_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.speed.measure.free_bytes", lambda device: 2**62)
    points = points_of(run(planned(classes="1,16,2**40")))
    assert {classes: point.status for classes, point in points.items()} == {1: "ok", 16: "ok", 2**40: "out-of-memory"}
    assert "can't allocate memory" in points[2**40].reason


def test_what_a_deployment_would_not_have_is_not_in_its_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """A row of the bank has 8 weights and a bias of 4 bytes; a minibatch is 2 x 3 x 8 x 8 of them, the pool 6."""

    class Measured:
        def __init__(self, device: torch.device) -> None:
            pass

        def start(self) -> None:
            pass

        def read(self) -> int:
            return 10_000_000

    monkeypatch.setattr("bench.speed.measure.PeakMemory", Measured)
    points = points_of(run(planned()))
    assert {count: point.peak_memory_bytes for count, point in points.items()} == {
        1: 10_000_000 - 63 * 36 - 5 * 1536,
        16: 10_000_000 - 48 * 36 - 5 * 1536,
        64: 10_000_000 - 5 * 1536,
    }


def test_a_forward_that_does_not_read_its_input_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    class Deaf(Eager):
        def load(self, minibatch: torch.Tensor) -> None:
            if not hasattr(self, "_minibatch"):
                super().load(minibatch)

    class Maker(ForwardMaker):
        def __call__(self, network: nn.Module, when_compiled: Callable[[], None] = lambda: None) -> Made:
            made = super().__call__(network, when_compiled)
            return replace(made, forward=Deaf(network)) if network.top.out_features == 16 else made

    monkeypatch.setattr("bench.speed.measure.ForwardMaker", Maker)
    points = points_of(run(planned()))
    assert {count: point.status for count, point in points.items()} == {1: "ok", 16: "failed", 64: "failed"}
    assert "does not read what it is given" in points[16].reason
    assert points[64].reason.startswith("not tried: 16 classes failed")
    assert points[16].peak_memory_bytes is None


@pytest.mark.gpu
@pytest.mark.parametrize(
    "options", [{}, {"cuda_graph": True}, {"compile": ["default"]}, {"compile": ["reduce-overhead"]}, {"tf32": True}]
)
def test_every_way_to_run_on_a_gpu(options: dict[str, object]) -> None:
    points = points_of(run(planned("convolutional", device="cuda:0", **options)))
    assert {(point.status, point.reason) for point in points.values()} == {("ok", "")}
    eager = not {"cuda_graph", "compile"} & set(options)
    assert all((point.preparation_s is None) == eager for point in points.values())
    assert all((point.peak_memory_bytes or 0) > 0 for point in points.values())
