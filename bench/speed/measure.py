"""One process measures one setting, from the empty machine to the last round.

    rates -> backbone -> what fits -> bank -> first calls -> warm-up rounds -> timed rounds (-> energy)
      |         |            |                    |                |               |             |
      +---------+------------+--- every finding is emitted as an event ------------+-------------+

What is emitted is written and shown by the receiver, between passes and never during one: `emit` returns when
the receiver is done.
"""

import gc
import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict

import torch
from torch import nn

from archs.registry import Network
from archs.top_layer import TopLayer
from bench.folder import now
from bench.machine.energy import EnergyMeter, EnergyRefused
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
from bench.speed.capacity import Demand, shortage, split_by_need
from bench.speed.clocks import Forward, clock_for
from bench.speed.energy import EnergyProtocol, Window, measure_energy, order, work_of
from bench.speed.energy_rows import no_energy
from bench.speed.events import Doing, Event, Noticed, PassesDone, PointFound, ProcessState, WindowDone
from bench.speed.failures import first_line, status_of
from bench.speed.forwards import Eager, ForwardMaker, no_recompilation
from bench.speed.passes import Failure, PassRunner
from bench.speed.peak_memory import PeakMemory
from bench.speed.prediction import Rates, calibrate
from bench.speed.settings import Protocol, Setting
from bench.speed.statistics import steady, warmup_limit
from bench.speed.stopping import Stopping
from bench.speed.tasks import Assignment
from bench.speed.torch_state import DTYPES, torch_state
from bench.speed.work import held_bytes, is_reference, is_rival, scores, works_of

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
        self._assignment = assignment
        self._pool: list[torch.Tensor] = []
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
        """Prepare, then time, then measure energy if this process is to."""
        try:
            self.prepare()
        except Exception as error:  # what a user's network raises while it is built is a row, not a traceback
            self.fail_all(status_of(error), first_line(error))
        self.time()
        if self._assignment.energy and self._setting.subset in self._forwards:
            self._measure_energy()

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
            self._setting.batch_size * self._assignment.positions,
            largest_bytes=max(point.bytes for point in self._points.values()),
            free_bytes=_free_bytes(self._setting),
            features=self._assignment.features,
        )
        self._tell(**asdict(rates))
        self._doing(f"building {self._setting.arch}")
        inputs = self._input_bytes()
        if self._lacks("the network and its inputs", self._assignment.backbone_bytes + inputs):
            return
        backbone, top = build_backbone(self._network, self._setting)
        example = one_example(self._setting)
        least_bytes = 2 * largest_step_bytes(backbone, example) * self._setting.batch_size
        if self._lacks("one forward and its inputs", inputs + least_bytes):
            return
        self._pool = pool = input_pool(self._setting, self._process.pool)
        self._runner = PassRunner(
            setting=self._task.setting,
            process=self._task.process,
            clock=clock_for(self._device, self._setting.work),
            pool=pool,
            threads=self._setting.threads,
            probe=self._probe,
        )
        activation_bytes = max(least_bytes, self._activation_bytes(backbone, pool[0].to(self._device)))
        assembly = self._assemble(backbone, top, rates, activation_bytes)
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

    def _input_bytes(self) -> int:
        """Bytes of minibatches on the device: end to end there is one, beside those in the host's memory."""
        pool = pool_bytes(self._setting, self._process.pool)
        if not self._from_host:
            return pool
        return pool_bytes(self._setting, 1) + (pool if self._device.type == "cpu" else 0)

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
        if not (self._from_host and self._device.type == "cuda"):  # how fast its bus copies is not calibrated
            works = works_of(self._setting, top, {*self._alive(), self._setting.subset})
            for count in self._alive():
                self._update(count, added_s=rates.added_seconds(works[count], works[self._setting.subset]))
        fitting = self._fitting(top, activation_bytes)
        while fitting:
            rows = self._bank_rows(fitting)
            self._doing(f"filling a top layer of {rows:,} rows")
            try:
                return Assembly(backbone, top, self._setting, rows)
            except Exception as error:  # the allocator knows better than the look before: try the next smaller count
                self._fail(Failure(fitting.pop(), status_of(error), first_line(error)))
        return None

    def _first_calls(self, assembly: Assembly, example: torch.Tensor) -> None:
        """Call every count once, smallest first: its time, its memory, and whether its logits agree."""
        most = max((scores(self._setting, count) for count in self._alive()), default=0)
        make = ForwardMaker(self._setting, example, scores=self._setting.batch_size * most)
        reference: Reference | None = None
        for count in self._alive():
            self._doing(f"first call at {count:,} classes")
            found: dict[str, object] = {}
            try:
                found = self._first_call(make, assembly, count)
                if count in self._forwards:
                    reference = reference or assembly.reference(self._setting.subset, example)
                    self._check(count, assembly, reference, example)
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
        not_deployed = assembly.unused_bytes(count)
        if not (self._from_host and self._device.type == "cuda"):  # else the pool is not in the device's memory
            not_deployed += pool_bytes(self._setting, self._process.pool - 1)
        return {
            "graphs": made.graphs,
            "preparation_s": made.preparation_s,
            "peak_memory_bytes": None if highest is None else highest - not_deployed,
        }

    def _check(self, count: int, assembly: Assembly, reference: Reference, example: torch.Tensor) -> None:
        """Hold a forward to what its scores must be; `reference` is that of the logits asked for, computed alone."""
        forward, setting = self._forwards[count], self._setting
        if is_reference(setting, count) or (setting.top_layer == "full" and setting.work != "normalised"):
            difference = reference.disagreement(forward, setting)
        else:
            difference = assembly.reference(count, example).disagreement(forward, setting)
            if difference is None and not is_rival(setting, count):
                # Log-probabilities do not tell on their own whether the logits behind them are those of single units.
                logits = setting.model_copy(update={"work": "logits", "compile": "none"})
                difference = reference.disagreement(Eager(assembly.logits(count)), logits)
        if difference is not None:
            self._fail(Failure(count, "failed", difference))

    def _fitting(self, top: TopLayer, activation_bytes: int) -> list[int]:
        """Class counts that fit, ascending; the others fail with the reason.

        Rivals share no rows with one another, so what a count needs comes on top of all smaller ones.
        """
        demand = Demand(
            row_bytes=(top.features + top.bias) * self._dtype.itemsize,
            logit_bytes=self._setting.batch_size * top.outputs * self._dtype.itemsize,
            activation_bytes=activation_bytes,
            logit_copies=_LOGIT_COPIES[self._setting.work] + (self._setting.top_layer != "full") * _RIVAL_COPIES,
        )
        needs: dict[int, int] = {}
        rivals = 0
        for count in self._alive():
            weights = held_bytes(self._setting, top, count)
            needs[count] = demand.beside(count, rivals + weights)
            rivals += weights if is_rival(self._setting, count) else 0
        fitting, refused = split_by_need(needs, _free_bytes(self._setting))
        if self._from_host and self._device.type == "cuda":
            row = self._setting.batch_size * self._dtype.itemsize
            inputs = pool_bytes(self._setting, self._process.pool)
            left = {count: inputs + row * scores(self._setting, count) for count in fitting}
            fitting, others = split_by_need(left, free_bytes("cpu"))
            refused |= {count: f"{reason} in the host's memory" for count, reason in others.items()}
        for count, reason in refused.items():
            self._fail(Failure(count, "out-of-memory", reason))
        return fitting

    def _bank_rows(self, fitting: list[int]) -> int:
        """Rows of the largest linear layer; beside a rival, enough to tell the size of logits by."""
        if self._setting.top_layer == "full":
            return fitting[-1]
        return max(self._setting.subset, min(COLUMNS, fitting[-1]))

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
        stopping = Stopping(self._protocol.until, seed=self._setting.seed, reference=self._setting.subset)
        for planned in self._schedule():
            if self._setting.subset not in self._forwards:  # without the reference there is no speedup to measure
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
        return ([planned] for planned in rounds.sequential(self._slots(), todo))

    def _slots(self) -> tuple[rounds.Slot, ...]:
        return rounds.slots_of(list(self._forwards), self._setting.subset)

    def _round(self, number: int) -> list[rounds.PlannedPass]:
        return rounds.interleaved(
            self._slots(),
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

    # -- energy -------------------------------------------------------------------------------------------------

    def _measure_energy(self) -> None:
        """Windows of the reference and of the largest count: after the rounds, so that nothing of it is in a time."""
        setting = self._setting
        counts = sorted({setting.subset, max(self._forwards)})
        protocol = EnergyProtocol()
        total = len(order(counts, protocol.cycles))
        done = 0

        def emit(window: Window) -> None:
            nonlocal done
            done += 1
            self._emit(WindowDone(window=window))
            self._doing(f"measuring energy: {done} of {total} windows")
            gc.collect(0)

        self._doing(f"measuring energy: about {protocol.seconds(len(counts)):.0f} s")
        try:
            with no_recompilation(setting):
                measure_energy(
                    EnergyMeter.open(setting.device),
                    {count: work_of(self._forwards[count], self._pool, self._synchronise) for count in counts},
                    batch_size=setting.batch_size,
                    setting=self._task.setting,
                    process=self._task.process,
                    emit=emit,
                    protocol=protocol,
                    seed=setting.seed,
                )
        except Exception as error:  # a refusal, or what the network raised: the times stay good, and so do windows
            reason = str(error) if isinstance(error, EnergyRefused) else first_line(error)
            self._emit(Noticed(notice=no_energy(f"{notices.name_of(setting)}: {reason}")))

    def _synchronise(self) -> None:
        torch.cuda.synchronize(self._device)

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
    def _from_host(self) -> bool:
        return self._setting.work == "end-to-end"

    @property
    def _in_rounds(self) -> bool:
        return self._setting.order == "interleaved"

    def _alive(self) -> list[int]:
        return sorted(count for count, point in self._points.items() if point.status == "ok")


#: How often the logits of a minibatch stand in memory at once, while forwards are checked: once as they are computed,
#: once as they are looked at in float32; log-probabilities beside them, or the copy that the host gets.
_LOGIT_COPIES = {"logits": 2, "normalised": 4, "end-to-end": 3}
#: And more where all of a rival's log-probabilities are worked out, level by level and in another order.
_RIVAL_COPIES = 4

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
