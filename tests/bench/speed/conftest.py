"""A GPU with an energy counter, for machines that have none."""

import functools

import pytest
import torch

from bench.machine.energy import EnergyRefused
from bench.speed import measure as measuring
from bench.speed.energy import measure_energy


class FakeGpu:
    """A counter of 100 W, and a clock that stands still but for rests and for 0.3 s a wait for the device."""

    def __init__(self) -> None:
        self.now = 0.0
        self.refusal: EnergyRefused | None = None
        self.waits = 0

    def clock(self) -> float:
        return self.now

    def rest(self, seconds: float) -> None:
        self.now += seconds

    def wait(self, device: object = None) -> None:
        self.waits += 1
        self.now += 0.3

    def read(self) -> int:
        return int(self.now / 0.02) * 2000  # 100 W, counted every 20 ms

    def others(self) -> int:
        return 0

    def utilisation(self) -> int:
        return 0

    def refuse_if_false(self) -> None:
        if self.refusal:
            raise self.refusal


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> FakeGpu:
    """Energy is measured on this one, in no time, whatever the device."""
    fake = FakeGpu()
    monkeypatch.setattr(measuring.EnergyMeter, "open", lambda device: fake)
    monkeypatch.setattr(torch.cuda, "synchronize", fake.wait)
    replayed = functools.partial(measure_energy, clock=fake.clock, sleep=fake.rest)
    monkeypatch.setattr(measuring, "measure_energy", replayed)
    return fake
