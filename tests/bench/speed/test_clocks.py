import pytest
import torch

from bench.speed.clocks import CudaClock, CudaWallClock, clock_for, read_on_cpu


class Spinning:
    """A forward that keeps one core busy for a known time and touches fresh memory."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.loaded: torch.Tensor

    def load(self, minibatch: torch.Tensor) -> None:
        self.loaded = minibatch

    def __call__(self) -> torch.Tensor:
        import time

        end = time.perf_counter() + self.seconds
        while time.perf_counter() < end:
            pass
        return torch.ones(2**20)


def test_a_pass_on_the_cpu_takes_what_it_takes() -> None:
    forward, minibatch = Spinning(0.05), torch.ones(1)
    reading = read_on_cpu(forward, minibatch)
    assert forward.loaded is minibatch
    assert reading.wall_s >= 0.05
    assert reading.cpu_s is not None
    assert reading.cpu_s > 0.02
    assert reading.switches is not None
    assert reading.switches >= 0
    assert reading.faults is not None
    assert reading.faults >= 0
    assert reading.device_s is None


def test_the_cpu_has_the_cpu_clock() -> None:
    assert clock_for(torch.device("cpu")) is read_on_cpu


def test_on_the_cpu_copies_are_timed_by_the_same_clock() -> None:
    assert clock_for(torch.device("cpu"), "end-to-end") is read_on_cpu


class Device:
    """In place of a CUDA device and of time: what is asked of it takes a known time and is done at a synchronise."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now_ns = 0
        self.pending_ns = 0
        monkeypatch.setattr(torch.cuda, "synchronize", self.synchronize)
        monkeypatch.setattr("bench.speed.clocks.time.perf_counter_ns", lambda: self.now_ns)

    def synchronize(self, device: torch.device) -> None:
        self.now_ns, self.pending_ns = self.now_ns + self.pending_ns, 0

    def load(self, minibatch: torch.Tensor) -> None:
        self.pending_ns += 7_000  # left over from before the pass: no part of it

    def __call__(self) -> torch.Tensor:
        self.now_ns += 2_000  # the host's own part
        self.pending_ns += 5_000
        return torch.ones(1)


def test_end_to_end_on_cuda_is_a_wall_clock_around_a_synchronised_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = clock_for(torch.device("cuda:0"), "end-to-end")
    assert isinstance(clock, CudaWallClock)
    reading = clock(Device(monkeypatch), torch.ones(1))
    assert reading.wall_s == pytest.approx(7e-6)
    assert reading.device_s is None, "events would leave the host's part out"


@pytest.mark.gpu
def test_device_events_lie_within_the_synchronised_wall_clock() -> None:
    class Product:
        def load(self, minibatch: torch.Tensor) -> None:
            self.minibatch = minibatch

        def __call__(self) -> torch.Tensor:
            return self.minibatch @ self.minibatch

    minibatch = torch.randn(4096, 4096, device="cuda")
    clock = clock_for(torch.device("cuda:0"))
    assert isinstance(clock, CudaClock)
    clock(Product(), minibatch)
    reading = clock(Product(), minibatch)
    assert reading.device_s is not None
    assert 0 < reading.device_s <= reading.wall_s
