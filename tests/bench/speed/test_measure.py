import gc
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from archs.registry import Network
from archs.rivals import RIVALS
from bench.machine.energy import EnergyRefused
from bench.run import Point, Sample
from bench.speed import measure as measuring
from bench.speed.energy import Window, is_complete
from bench.speed.events import Doing, Event, Noticed, PassesDone, PointFound, ProcessState, WindowDone
from bench.speed.forwards import Eager, ForwardMaker, Made
from bench.speed.measure import measure
from bench.speed.plan import Plan, Request, plan
from bench.speed.prediction import Rates
from bench.speed.tasks import Assignment, Task

pytestmark = pytest.mark.usefixtures("in_factories")


def planned(network: str = "small", **options: object) -> Plan:
    asked = {"classes": "1,16,64", "batch_size": [2], "minibatches": 6, "threads": 1, "device": "cpu", **options}
    return plan(Request(arch=[f"tiny_networks:{network}"], **asked))  # type: ignore[arg-type]


def run(
    plan: Plan,
    emit: Callable[[Event], None] | None = None,
    *,
    first_round: int = 0,
    process: int = 0,
    energy: bool = False,
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
        features=8,
        energy=energy,
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


MODES = [{"work": ["normalised"]}, {"work": ["end-to-end"]}, *({"top_layer": [kind]} for kind in RIVALS)]


@pytest.mark.parametrize(("subset", "mode"), [*((1, mode) for mode in MODES), *((3, mode) for mode in MODES[:3])])
def test_every_kind_of_work_is_timed_against_the_logits_asked_for_alone(subset: int, mode: dict[str, Any]) -> None:
    plan = planned(classes="16,64", minibatches=3, subset=subset, **mode)
    events = run(plan)
    points = points_of(events)
    assert {count: (point.status, point.reason) for count, point in points.items()} == dict.fromkeys(
        (subset, 16, 64), ("ok", "")
    )
    assert points[subset].added_s == 0
    visited = [(one.classes, one.control) for one in samples_of(events, "timed") if one.round == 0]
    assert sorted(visited) == [(subset, False), (subset, True), (16, False), (64, False)]


@pytest.mark.parametrize("mode", MODES[:3])
def test_scores_that_are_wrong_are_refused_whatever_they_are(
    mode: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Off(Eager):
        def __call__(self) -> torch.Tensor:
            return super().__call__() + 1.0

    class Maker(ForwardMaker):
        """The first forward, of the reference, is right; the others are off by 1."""

        def __call__(self, network: nn.Module, when_compiled: Callable[[], None] = lambda: None) -> Made:
            made = super().__call__(network, when_compiled)
            self._made = getattr(self, "_made", 0) + 1
            return made if self._made == 1 else replace(made, forward=Off(network))

    monkeypatch.setattr("bench.speed.measure.ForwardMaker", Maker)
    points = points_of(run(planned(**mode)))
    assert {count: point.status for count, point in points.items()} == {1: "ok", 16: "failed", 64: "failed"}
    assert "differs from" in points[16].reason


def test_log_probabilities_of_logits_that_are_not_those_of_single_units_are_refused() -> None:
    """`averaging` divides its logits by their number: log-softmax of them agrees with itself and means nothing."""
    points = points_of(run(planned("averaging", work=["normalised"])))
    assert points[1].status == "ok"
    assert "the single logit differs from its column" in points[16].reason


def test_rivals_lie_in_memory_side_by_side(monkeypatch: pytest.MonkeyPatch) -> None:
    """A balanced tree over k classes has k - 1 nodes of 8 weights: 32 MB at a million, 64 MB at two.

    Logits stand 6 times, 8 bytes a class each time.
    """
    needed = 32 * 1_000_000 + (32 + 48) * 2_000_000
    monkeypatch.setattr("bench.speed.measure.free_bytes", lambda device: 192 * 2**20 + needed - 1_000_000)
    asked = {"classes": "1,1000000,2000000", "minibatches": 1, "top_layer": ["hierarchical-balanced"]}
    points = points_of(run(planned(**asked)))
    assert {count: point.status for count, point in points.items()} == {
        1: "ok", 1_000_000: "ok", 2_000_000: "out-of-memory",
    }  # fmt: skip


def test_a_setting_whose_compile_fails_leaves_the_next_one_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(network: nn.Module, mode: str) -> Callable[[torch.Tensor], torch.Tensor]:
        raise torch._dynamo.exc.TorchDynamoException("no compiler here\nwith a second line")

    monkeypatch.setattr("bench.speed.forwards.compiled_alone", fail)
    points = points_of(run(planned(compile=["default"])))
    assert {(point.status, point.reason) for point in points.values() if point.classes == 1} == {
        ("unsupported", "TorchDynamoException: no compiler here")
    }
    assert {point.status for point in points_of(run(planned())).values()} == {"ok"}


@pytest.mark.gpu
@pytest.mark.parametrize("graph", [{}, {"cuda_graph": True}, {"compile": ["default"]}])
@pytest.mark.parametrize("mode", MODES)
def test_every_kind_of_work_on_a_gpu(mode: dict[str, Any], graph: dict[str, Any]) -> None:
    points = points_of(run(planned("convolutional", device="cuda:0", **mode, **graph)))
    assert {(point.status, point.reason) for point in points.values()} == {("ok", "")}
    copies = mode == {"work": ["end-to-end"]}
    assert all((point.added_s is None) == copies for point in points.values()), "no rate of the bus is calibrated"


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


def windows_of(events: list[Event]) -> list[Window]:
    return [event.window for event in events if isinstance(event, WindowDone)]


def test_energy_is_measured_after_the_rounds_of_the_reference_and_the_largest_count(gpu: Any) -> None:
    events = run(planned(), process=2, energy=True)
    last_pass = max(number for number, event in enumerate(events) if isinstance(event, PassesDone))
    assert min(number for number, event in enumerate(events) if isinstance(event, WindowDone)) > last_pass
    windows = windows_of(events)
    assert {window.classes for window in windows} == {None, 1, 64}
    assert is_complete(windows, 0)
    assert {window.process for window in windows} == {2}
    work = [window for window in windows if window.kind == "work"]
    assert all(window.images >= 2 * 17 for window in work)  # 5 s and more at 0.3 s a wait, two images a pass
    assert all(window.joules == pytest.approx(100 * window.seconds, abs=2.1) for window in work)


def test_energy_nobody_asked_for_is_not_measured(gpu: Any) -> None:
    assert windows_of(run(planned())) == []
    assert gpu.waits == 0


def test_energy_that_is_refused_is_a_notice_and_the_times_stay(gpu: Any) -> None:
    gpu.refusal = EnergyRefused("this GPU is shared by MIG: leave out --energy")
    events = run(planned(), energy=True)
    (notice,) = [event.notice for event in events if isinstance(event, Noticed)]
    assert notice.kind == "no-energy"
    assert "tiny_networks:small, batch 2, float32: this GPU is shared by MIG" in notice.happened
    assert windows_of(events) == []
    assert len(samples_of(events, "timed")) == 24


def test_windows_before_a_fault_stay(gpu: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def lost() -> int:
        raise EnergyRefused("NVML does not tell the energy: GPU is lost")

    def take(event: Event) -> None:
        if isinstance(event, WindowDone) and event.window.cycle == 1:
            monkeypatch.setattr(gpu, "read", lost)

    events = run(planned(), take, energy=True)
    assert [window.cycle for window in windows_of(events)] == [0, 0, 0, 1]
    (notice,) = [event.notice for event in events if isinstance(event, Noticed)]
    assert "GPU is lost" in notice.happened


def test_what_the_receiver_of_a_window_raises_is_no_refusal(gpu: Any) -> None:
    def full(event: Event) -> None:
        if isinstance(event, WindowDone):
            raise OSError("no space")

    with pytest.raises(OSError, match="no space"):
        run(planned(), full, energy=True)


def test_a_setting_without_its_reference_has_no_energy(gpu: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.speed.measure.free_bytes", lambda device: 0)
    events = run(planned(), energy=True)
    assert {point.status for point in points_of(events).values()} == {"out-of-memory"}
    assert windows_of(events) == []


def test_rates_are_calibrated_on_a_layer_like_the_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, object] = {}

    def note(device: torch.device, dtype: torch.dtype, batch_size: int, **options: object) -> Rates:
        asked.update(options, batch_size=batch_size)
        return Rates(1e9, 1e9, 3e9)

    monkeypatch.setattr(measuring, "calibrate", note)
    events = run(planned())
    assert (asked["features"], asked["batch_size"]) == (8, 2)
    told = [event.process for event in events if isinstance(event, ProcessState)][-1]
    assert (told.operations_per_s, told.bytes_per_s, told.fresh_bytes_per_s) == (1e9, 1e9, 3e9)
