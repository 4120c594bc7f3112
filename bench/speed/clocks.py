"""Clocks: what stands between the two readings is the pass and nothing else.

           read usage      the pass       read usage
    ----|--------------|t0============t1|--------------|----
         fill the input                  drop the output

The wall clock is read with the device idle on both sides. On CUDA two events are recorded around the same
pass: `device_s` leaves out the time before the first kernel starts and after the last one ends. The two are
different clocks and never stand in one ratio; neither does the replay of a CUDA graph, which is another
setting. Where the pass begins and ends in the host's memory (--work end-to-end) the copies lie between the two
readings and there are no events.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from bench.machine.usage import read_usage
from bench.speed.settings import WorkKind


class Forward(Protocol):
    """A network at one class count, ready to run: the input is put in place first, outside the clock."""

    def load(self, minibatch: Tensor) -> None:
        """Put the next input, of shape (batch, *input_shape), in place."""

    def __call__(self) -> Tensor:
        """Run one forward; returns the logits, of shape (batch, classes)."""


@dataclass(frozen=True)
class Reading:
    """What one pass took, in seconds for the whole minibatch; counts are of the whole process."""

    wall_s: float
    device_s: float | None = None
    cpu_s: float | None = None
    switches: int | None = None
    faults: int | None = None


Clock = Callable[[Forward, Tensor], Reading]


def read_on_cpu(forward: Forward, minibatch: Tensor) -> Reading:
    """Time one pass on the CPU, and what it used."""
    forward.load(minibatch)
    before = read_usage()
    start = time.perf_counter_ns()
    logits = forward()  # kept until after the second reading: giving memory back is not the pass
    end = time.perf_counter_ns()
    after = read_usage()
    del logits
    return Reading(
        wall_s=(end - start) / 1e9,
        cpu_s=after.cpu_s - before.cpu_s,
        switches=after.switches - before.switches,
        faults=after.faults - before.faults,
    )


class CudaClock:
    """Times passes on one CUDA device; the two events are made once."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._first = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        self._last = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]

    def __call__(self, forward: Forward, minibatch: Tensor) -> Reading:
        """Time one pass between two synchronisations, with device events beside the wall clock."""
        forward.load(minibatch)
        torch.cuda.synchronize(self._device)
        start = time.perf_counter_ns()
        self._first.record()
        logits = forward()
        self._last.record()
        torch.cuda.synchronize(self._device)
        end = time.perf_counter_ns()
        del logits
        return Reading(wall_s=(end - start) / 1e9, device_s=self._first.elapsed_time(self._last) / 1e3)


class CudaWallClock:
    """Times passes that begin and end in the host's memory: events on the device would leave the host's part out."""

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def __call__(self, forward: Forward, minibatch: Tensor) -> Reading:
        """Time one pass between two synchronisations, by the wall clock alone."""
        forward.load(minibatch)
        torch.cuda.synchronize(self._device)
        start = time.perf_counter_ns()
        scores = forward()
        torch.cuda.synchronize(self._device)
        end = time.perf_counter_ns()
        del scores
        return Reading(wall_s=(end - start) / 1e9)


def clock_for(device: torch.device, work: WorkKind = "logits") -> Clock:
    """The clock of a device for some kind of work."""
    if device.type != "cuda":
        return read_on_cpu
    return CudaWallClock(device) if work == "end-to-end" else CudaClock(device)
