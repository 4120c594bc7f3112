"""The runner with a replayed clock: times are read from a list, nothing sleeps."""

from collections.abc import Iterator

import torch

from bench.machine.nvml import GpuState
from bench.speed.clocks import Forward, Reading
from bench.speed.passes import PassRunner
from bench.speed.rounds import PlannedPass, Slot


class Loaded:
    def load(self, minibatch: torch.Tensor) -> None:
        self.minibatch = minibatch

    def __call__(self) -> torch.Tensor:
        return torch.zeros(1)


class Raising(Loaded):
    def __init__(self, error: Exception) -> None:
        self.error = error


def replay(readings: list[Reading]):
    left: Iterator[Reading] = iter(readings)
    seen: list[float] = []

    def clock(forward: Forward, minibatch: torch.Tensor) -> Reading:
        if isinstance(forward, Raising):
            raise forward.error
        seen.append(float(minibatch))
        return next(left)

    return clock, seen


def runner(clock, **fields) -> PassRunner:
    pool = [torch.tensor(0.0), torch.tensor(1.0)]
    return PassRunner(
        **{"setting": 3, "process": 1, "clock": clock, "pool": pool, "threads": 2, "probe": None, **fields}
    )


def test_samples_say_what_ran_when_after_whom_and_how_long() -> None:
    clock, inputs = replay([Reading(0.1), Reading(0.2), Reading(0.3), Reading(0.4)])
    run = runner(clock)
    forwards = {1: Loaded(), 8: Loaded()}
    first, failures = run.run([PlannedPass(Slot(8), 0), PlannedPass(Slot(1, True), 0)], "warmup", forwards)
    second, _ = run.run([PlannedPass(Slot(1), 5), PlannedPass(Slot(1), 5, kept_out=True)], "timed", forwards)
    assert not failures
    assert inputs == [0, 0, 1, 1]  # round 5 of a pool of two uses input 1, all its passes the same
    facts = [
        (s.phase, s.round, s.round_size, s.position, s.classes, s.control, s.kept_out, s.predecessor, s.wall_s)
        for s in first + second
    ]
    assert facts == [
        ("warmup", 0, 2, 0, 8, False, False, None, 0.1),
        ("warmup", 0, 2, 1, 1, True, False, 8, 0.2),
        ("timed", 5, 2, 0, 1, False, False, 1, 0.3),
        ("timed", 5, 2, 1, 1, False, True, 1, 0.4),
    ]
    assert {(s.setting, s.process) for s in first + second} == {(3, 1)}


def test_a_pass_that_raises_is_a_failure_and_the_round_goes_on() -> None:
    clock, _ = replay([Reading(0.1), Reading(0.2)])
    forwards = {1: Loaded(), 8: Raising(torch.OutOfMemoryError("CUDA out of memory."))}
    planned = [PlannedPass(Slot(1), 0), PlannedPass(Slot(8), 0), PlannedPass(Slot(8), 0), PlannedPass(Slot(1, True), 0)]
    samples, failures = runner(clock).run(planned, "timed", forwards)
    assert [(s.classes, s.round_size) for s in samples] == [(1, 2), (1, 2)]
    assert [(f.classes, f.status, f.reason) for f in failures] == [
        (8, "out-of-memory", "OutOfMemoryError: CUDA out of memory.")
    ]


def test_a_pass_whose_threads_were_taken_away_is_marked_and_kept() -> None:
    # two threads: 1.99 CPU seconds a wall second, then a neighbour leaves 0.99 (facts of a shared machine)
    quiet = Reading(0.32, cpu_s=0.637, switches=20, faults=0)
    busy = Reading(2.8, cpu_s=2.77, switches=700, faults=0)
    clock, _ = replay([quiet, busy, quiet])
    run = runner(clock)
    samples, _ = run.run([PlannedPass(Slot(1), n) for n in range(3)], "timed", {1: Loaded()})
    assert [sample.marks for sample in samples] == [(), ("contention",), ()]
    assert run.parallelism is not None
    assert abs(run.parallelism - 1.99) < 0.01


def test_a_pass_under_thermal_slowdown_is_marked_and_tells_clock_and_temperature() -> None:
    class Probe:
        def read(self) -> GpuState:
            return GpuState(clock_mhz=1200, temperature_c=90, reasons=0x40)

    clock, _ = replay([Reading(0.1, device_s=0.09)])
    samples, _ = runner(clock, probe=Probe()).run([PlannedPass(Slot(1), 0)], "timed", {1: Loaded()})
    (sample,) = samples
    assert sample.marks == ("throttling",)
    assert (sample.clock_mhz, sample.temperature_c, sample.clock_reasons, sample.device_s) == (1200, 90, 0x40, 0.09)
