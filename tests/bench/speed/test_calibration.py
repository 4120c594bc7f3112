import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.speed import calibration
from bench.speed.calibration import Probe, take_turns


class Replay:
    """A device with a clock of its own: every call takes as long as it is told, every wait what waiting takes."""

    def __init__(self, call_s: float, wait_s: float = 0.0) -> None:
        self.now = 0.0
        self.calls = 0
        self.waits = 0
        self.call_s = call_s
        self._wait_s = wait_s

    def step(self) -> None:
        self.calls += 1
        self.now += self.call_s

    def wait(self) -> None:
        self.waits += 1
        self.now += self._wait_s

    def clock(self) -> float:
        return self.now

    def probe(self, stretch_s: float = 0.0) -> Probe:
        return Probe(self.step, self.wait, stretch_s=stretch_s, clock=self.clock)


@pytest.mark.parametrize("call_s", [1e-6, 1e-4, 1e-2])
def test_what_launching_and_waiting_take_hardly_changes_the_time_of_a_call(call_s: float) -> None:
    probe = Replay(call_s, wait_s=20e-6).probe(calibration.STRETCH_SECONDS)
    probe.visit()
    assert probe.least_s == pytest.approx(call_s, rel=0.01)


def test_without_a_stretch_there_is_one_call_between_two_readings() -> None:
    device = Replay(1e-3)
    device.probe().visit()
    assert device.calls == device.waits == 1 + 20  # the first warms up; then 20 ms of readings


def test_a_slow_call_is_read_once_a_visit() -> None:
    device = Replay(0.4)
    seconds = device.probe().visit()
    assert (device.calls, seconds) == (2, pytest.approx(0.8))


def test_the_least_reading_of_all_visits_counts() -> None:
    device = Replay(0.4)
    probe = device.probe()
    for device.call_s in (0.4, 0.1, 0.3):
        probe.visit()
    assert probe.least_s == pytest.approx(0.1)


def test_a_probe_without_a_visit_has_no_reading() -> None:
    with pytest.raises(ValueError, match="not visited"):
        _ = Replay(0.4).probe().least_s


def test_a_neighbour_of_half_the_time_disturbs_no_least_reading() -> None:
    """Everything takes twice as long in the first second: probes that take turns are read after it, too."""

    class Shared(Replay):
        def slowed(self, call_s: float) -> None:
            self.now += 2 * call_s if self.now < 1.0 else call_s

    device = Shared(0.0)
    probes = [
        Probe(lambda: device.slowed(0.1), clock=device.clock),
        Probe(lambda: device.slowed(0.2), clock=device.clock),
    ]
    take_turns(probes, rounds=50, seconds=2.0)
    assert [probe.least_s for probe in probes] == pytest.approx([0.1, 0.2])


def test_turns_end_when_their_time_is_over() -> None:
    device = Replay(0.4)
    take_turns([device.probe(), device.probe()], rounds=50, seconds=2.0)
    # 0.8 s each in the first round with its warm-up, 0.4 s each in the second: 2.4 s
    assert device.calls == 2 * 2 + 2


@given(st.integers(1, 5))
def test_turns_end_after_so_many_rounds(rounds: int) -> None:
    device = Replay(0.1)
    take_turns([device.probe()], rounds=rounds, seconds=1e9)
    assert device.calls == 1 + rounds


def test_there_is_a_round_however_little_time_there_is() -> None:
    device = Replay(5.0)
    probe = device.probe()
    take_turns([probe], rounds=50, seconds=0.0)
    assert probe.least_s == 5.0
