"""One process measures one setting, from the empty machine to the last round.

    rates -> backbone -> what fits -> bank -> first calls -> warm-up rounds -> timed rounds
      |         |            |                    |                |               |
      +---------+------------+--- every finding is emitted as an event ------------+

What is emitted is written and shown by the receiver, between passes and never during one: `emit` returns when
the receiver is done.
"""

import gc
import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import nn

from archs.registry import Network
from archs.top_layer import TopLayer
from bench.folder import now
from bench.machine.memory import free_bytes
from bench.machine.nvml import GpuProbe, NvmlUnavailable, throttled_between
from bench.run import Phase, Point, Process, Sample, Status, StopReason
from bench.speed import notices, rounds
from bench.speed.agreement import COLUMNS, Reference
from bench.speed.assembly import (
    Assembly,
    build_backbone,
    input_pool,
    largest_step_bytes,
    one_example,
    pool_bytes,
    pool_size,
)
from bench.speed.capacity import Demand, shortage, split_by_fit
from bench.speed.clocks import Forward, clock_for
from bench.speed.events import Doing, Event, Noticed, PassesDone, PointFound, ProcessState
from bench.speed.failures import first_line, status_of
from bench.speed.forwards import ForwardMaker, no_recompilation
from bench.speed.passes import Failure, PassRunner
from bench.speed.peak_memory import PeakMemory
from bench.speed.prediction import Rates, Work, calibrate
from bench.speed.settings import Protocol, Setting
from bench.speed.statistics import steady, warmup_limit
from bench.speed.stopping import Stopping
from bench.speed.tasks import Assignment
from bench.speed.torch_state import DTYPES, torch_state

Emit = Callable[[Event], None]


def measure(assignment: Assignment, protocol: Protocol, network: Network, emit: Emit) -> None:
    """Do one assignment; emit everything that is found, in order and between passes.

    A class count that cannot be measured becomes a point with a reason, and larger ones are not tried; a network
    that cannot be built makes that of all its points. What `emit` raises is passed on.
    """
    with torch_state(assignment.setting), torch.inference_mode(), _collector_paused():
        try:
            _Measurement(assignment, protocol, network, _carrying_errors(emit)).run()
        except _EmitRaised as raised:
            raise raised.error from None
    _let_go(assignment.setting)


class _EmitRaised(BaseException):
    """Carries what the receiver raised past the places where what a network raises becomes a row."""

    def __init__(self, error: Exception) -> None:
        super().__init__(error)
        self.error = error


def _carrying_errors(emit: Emit) -> Emit:
    def carrying(event: Event) -> None:
        try:
            emit(event)
        except Exception as error:
            raise _EmitRaised(error) from error

    return carrying


class _Measurement:
    """One setting in one process."""

    def __init__(self, assignment: Assignment, protocol: Protocol, network: Network, emit: Emit) -> None:
        self._task = assignment.task
        self._setting = assignment.setting
        self._protocol = protocol
        self._network = network
        self._emit = emit
        self._device = torch.device(assignment.setting.device)
        self._points = {point.classes: point for point in assignment.points}
        self._backbone_bytes = assignment.backbone_bytes
        self._forwards: dict[int, Forward] = {}
        self._runner: PassRunner | None = None
        self._probe = self._open_probe()
        self._process = Process(
            setting=self._task.setting,
            process=self._task.process,
            pid=os.getpid(),
            started=now(),
            first_round=self._task.first_round,
            pool=pool_size(protocol.minibatches),
        )

    def run(self) -> None:
        """Prepare, then time."""
        try:
            self.prepare()
        except Exception as error:  # what a user's network raises while it is built is a row, not a traceback
            self.fail_all(status_of(error), first_line(error))
        self.time()

    # -- before the first round ---------------------------------------------------------------------------------

    def prepare(self) -> None:
        """Build what is timed, and call every class count once."""
        self._tell()
        for point in self._points.values():
            self._found(point)
        self._doing(f"calibrating {self._setting.device}")
        rates = calibrate(
            self._device,
            self._dtype,
            self._setting.batch_size,
            largest_bytes=max(point.bytes for point in self._points.values()),
            free_bytes=_free_bytes(self._setting),
        )
        self._tell(operations_per_s=rates.operations_per_s, bytes_per_s=rates.bytes_per_s)
        self._doing(f"building {self._setting.arch}")
        inputs = pool_bytes(self._setting, self._process.pool)
        if self._lacks("the network and its inputs", self._backbone_bytes + inputs):
            return
        backbone, top = build_backbone(self._network, self._setting)
        example = one_example(self._setting)
        least_bytes = 2 * largest_step_bytes(backbone, example) * self._setting.batch_size
        if self._lacks("one forward and its inputs", inputs + least_bytes):
            return
        pool = input_pool(self._setting, self._process.pool)
        self._runner = PassRunner(
            setting=self._task.setting,
            process=self._task.process,
            clock=clock_for(self._device),
            pool=pool,
            threads=self._setting.threads,
            probe=self._probe,
        )
        assembly = self._assemble(backbone, top, rates, max(least_bytes, self._activation_bytes(backbone, pool[0])))
        if assembly is not None:
            self._first_calls(assembly, pool[0])

    def _open_probe(self) -> GpuProbe | None:
        if self._device.type != "cuda":
            return None
        try:
            return GpuProbe.open(self._device.index or 0)
        except NvmlUnavailable as error:
            self._emit(Noticed(notice=notices.no_nvml(str(error))))
            return None

    def _counters(self) -> dict[str, int]:
        return self._probe.counters() if self._probe else {}

    def _lacks(self, what: str, needed: int) -> bool:
        """Whether something that every class count needs does not fit; all points then say so."""
        reason = shortage(what, needed, _free_bytes(self._setting))
        if reason is not None:
            self.fail_all("out-of-memory", reason)
        return reason is not None

    def _activation_bytes(self, backbone: nn.Module, minibatch: torch.Tensor) -> int:
        """Bytes that a forward needs for a while, weights and inputs not counted."""
        if self._device.type == "cuda":
            backbone(minibatch)  # cuDNN tries algorithms at the first call, in workspaces that no other call needs
        peak = PeakMemory(self._device)
        peak.start()
        before = peak.read() or 0
        backbone(minibatch)
        return max(0, (peak.read() or 0) - before)

    def _assemble(self, backbone: nn.Module, top: TopLayer, rates: Rates, activation_bytes: int) -> Assembly | None:
        """See which class counts fit, and make a bank for the largest of them."""
        demand = Demand(
            row_bytes=(top.features + top.bias) * self._dtype.itemsize,
            logit_bytes=self._setting.batch_size * self._dtype.itemsize,
            activation_bytes=activation_bytes,
        )
        single = _work(self._points[1])
        for count in self._alive():
            self._update(count, added_s=rates.seconds(_work(self._points[count]) - single))
        fitting, refused = split_by_fit(self._alive(), demand, _free_bytes(self._setting))
        for count, reason in refused.items():
            self._fail(Failure(count, "out-of-memory", reason))
        while fitting:
            self._doing(f"filling a top layer of {fitting[-1]:,} rows")
            try:
                return Assembly(backbone, top, self._setting, fitting[-1])
            except Exception as error:  # the allocator knows better than the look before: try the next smaller count
                self._fail(Failure(fitting.pop(), status_of(error), first_line(error)))
        return None

    def _first_calls(self, assembly: Assembly, example: torch.Tensor) -> None:
        """Call every count once, smallest first: its time, its memory, and whether its logits agree."""
        make = ForwardMaker(self._setting, example)
        reference: Reference | None = None
        for count in self._alive():
            self._doing(f"first call at {count:,} classes")
            found: dict[str, object] = {}
            try:
                found = self._first_call(make, assembly, count)
                if count in self._forwards:
                    reference = reference or self._reference(assembly, example)
                    self._check(count, reference)
            except Exception as error:
                self._fail(Failure(count, status_of(error), first_line(error)))
            if self._points[count].status != "ok":
                self._fail_larger(count)
                return
            self._update(count, **found)

    def _first_call(self, make: ForwardMaker, assembly: Assembly, count: int) -> dict[str, object]:
        """Make the forward of a count and call it; fields of its point.

        The peak begins after compiling, which needs memory that a forward does not.
        """
        peak = PeakMemory(self._device)
        made = make(assembly.network(count), peak.start)
        self._forwards[count] = made.forward
        self._passes([rounds.PlannedPass(rounds.Slot(count), round=0)], "first")
        highest = peak.read()
        not_deployed = assembly.unused_bytes(count) + pool_bytes(self._setting, self._process.pool - 1)
        return {
            "graphs": made.graphs,
            "preparation_s": made.preparation_s,
            "peak_memory_bytes": None if highest is None else highest - not_deployed,
        }

    def _reference(self, assembly: Assembly, example: torch.Tensor) -> Reference:
        several = min(assembly.classes, COLUMNS)
        return Reference(assembly.network(1), assembly.network(several), example)

    def _check(self, count: int, reference: Reference) -> None:
        difference = reference.disagreement(self._forwards[count], self._setting)
        if difference is not None:
            self._fail(Failure(count, "failed", difference))

    # -- rounds -------------------------------------------------------------------------------------------------

    def time(self) -> None:
        """Warm up, then run the timed rounds until there are enough."""
        with no_recompilation(self._setting):
            began = time.perf_counter()
            warmup = self._warm_up()
            counters = self._counters()
            start = time.perf_counter()
            timed, reason = self._timed()
            end = time.perf_counter()
        self._tell(
            ended=now(),
            stop_reason=reason,
            # A warm-up too short to be judged, or cut off unsteady, is judged with the rounds that follow it.
            steady=steady(warmup) or steady((warmup + timed)[: max(6, len(warmup) + 3)]) if self._in_rounds else None,
            throttled_by=tuple(throttled_between(counters, self._counters())),
            parallelism=self._runner.parallelism if self._runner else None,
            inside_passes=sum(timed) / (end - start) if timed else None,
            inside_passes_with_warmup=sum(warmup + timed) / (end - began) if timed else None,
        )

    def _warm_up(self) -> list[float]:
        """Rounds until they are steady, at most a tenth of the rounds asked for; returns the seconds of each."""
        seconds: list[float] = []
        while self._forwards and len(seconds) < warmup_limit(self._protocol.minibatches) and not steady(seconds):
            self._doing("warming up")
            seconds.append(_seconds(self._passes(self._round(len(seconds)), "warmup")))
        self._tell(warmup_rounds=len(seconds))
        return seconds

    def _timed(self) -> tuple[list[float], StopReason]:
        """The timed rounds (in the sequential order: passes); returns the seconds of each, and why they ended."""
        seconds: list[float] = []
        self._doing("timing")
        stopping = Stopping(self._protocol.until, seed=self._setting.seed)
        for planned in self._schedule():
            if 1 not in self._forwards:  # without the single logit there is no speedup to measure
                return seconds, "no points left"
            samples = self._passes(planned, "timed")
            seconds.append(_seconds(samples))
            if stopping.enough_after(samples):
                return seconds, "until"
        return seconds, "minibatches" if self._forwards else "no points left"

    def _schedule(self) -> Iterator[list[rounds.PlannedPass]]:
        """What is run, and then written, together."""
        todo = range(self._task.first_round, self._protocol.minibatches)
        if self._in_rounds:
            return (self._round(number) for number in todo)
        return ([planned] for planned in rounds.sequential(rounds.slots_of(list(self._forwards)), todo))

    def _round(self, number: int) -> list[rounds.PlannedPass]:
        return rounds.interleaved(
            rounds.slots_of(list(self._forwards)),
            seed=self._setting.seed,
            process=self._task.process,
            round=number,
            block=self._setting.block,
        )

    def _passes(self, planned: Iterable[rounds.PlannedPass], phase: Phase) -> list[Sample]:
        """Run passes, emit their samples, and take counts that failed out of what comes."""
        assert self._runner is not None, "prepare() makes the runner before the first forward"
        present = [one for one in planned if one.slot.classes in self._forwards]
        samples, failures = self._runner.run(present, phase, self._forwards)
        if samples:
            self._emit(PassesDone(samples=tuple(samples)))
        for failure in failures:
            del self._forwards[failure.classes]
            self._fail(failure)
        gc.collect(0)  # the collector sleeps while passes run; what they left behind goes between them
        return samples

    # -- what is emitted ----------------------------------------------------------------------------------------

    def fail_all(self, status: Status, reason: str) -> None:
        """Nothing of this setting can be measured."""
        self._forwards.clear()
        for count in self._alive():
            self._fail(Failure(count, status, reason))

    def _fail_larger(self, count: int) -> None:
        failed = self._points[count]
        for larger in self._alive():
            if larger > count:
                reason = f"not tried: {count:,} classes {_STATUS_WORDS[failed.status]} ({failed.reason})"
                self._fail(Failure(larger, failed.status, reason))

    def _fail(self, failure: Failure) -> None:
        self._forwards.pop(failure.classes, None)
        self._update(failure.classes, status=failure.status, reason=failure.reason)

    def _update(self, count: int, **changes: object) -> None:
        self._found(self._points[count].model_copy(update=changes))

    def _found(self, point: Point) -> None:
        self._points[point.classes] = point
        self._emit(PointFound(point=point))

    def _tell(self, **changes: object) -> None:
        self._process = self._process.model_copy(update=changes)
        self._emit(ProcessState(process=self._process))

    def _doing(self, text: str) -> None:
        self._emit(Doing(text=text))

    # -- small facts --------------------------------------------------------------------------------------------

    @property
    def _dtype(self) -> torch.dtype:
        return DTYPES[self._setting.dtype]

    @property
    def _in_rounds(self) -> bool:
        return self._setting.order == "interleaved"

    def _alive(self) -> list[int]:
        return sorted(count for count, point in self._points.items() if point.status == "ok")


_STATUS_WORDS = {"out-of-memory": "ran out of memory", "unsupported": "are unsupported", "failed": "failed"}


def _free_bytes(setting: Setting) -> int:
    """Free memory, what torch keeps for later allocations on a CUDA device included."""
    if setting.device != "cpu":
        torch.cuda.empty_cache()
    return free_bytes(setting.device)


def _let_go(setting: Setting) -> None:
    """Give a setting's memory back before the next one asks what is free."""
    if setting.compile != "none":
        torch._dynamo.reset()  # its caches hold the compiled networks, and these the bank
    gc.collect()
    if setting.device != "cpu":
        torch.cuda.empty_cache()


def _work(point: Point) -> Work:
    return Work(point.operations, point.bytes)


def _seconds(samples: Iterable[Sample]) -> float:
    return sum(sample.wall_s for sample in samples)


@contextmanager
def _collector_paused() -> Iterator[None]:
    """No garbage collection between two clock readings; what exists already is never looked at again."""
    was_enabled = gc.isenabled()
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        yield
    finally:
        gc.unfreeze()
        if was_enabled:
            gc.enable()
