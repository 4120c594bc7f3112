import pytest
import torch

from bench.machine.memory import PEAK_SLACK_BYTES, reset_peak_rss
from bench.speed.peak_memory import PeakMemory

BLOCK = 256 * 2**20
CPU = torch.device("cpu")

needs_a_peak_that_can_be_reset = pytest.mark.skipif(
    not reset_peak_rss(), reason="this kernel does not let a process reset its peak (proc/self/clear_refs)"
)


@needs_a_peak_that_can_be_reset
def test_a_block_that_is_gone_again_is_in_the_peak() -> None:
    peak = PeakMemory(CPU)
    peak.start()
    before = peak.read()
    torch.ones(BLOCK // 4)
    highest = peak.read()
    assert before is not None
    assert highest is not None
    assert highest - before == pytest.approx(BLOCK, abs=PEAK_SLACK_BYTES)


@needs_a_peak_that_can_be_reset
def test_starting_forgets_earlier_peaks() -> None:
    peak = PeakMemory(CPU)
    peak.start()
    torch.ones(BLOCK // 4)
    earlier = peak.read()
    peak.start()
    later = peak.read()
    assert earlier is not None
    assert later is not None
    assert earlier - later == pytest.approx(BLOCK, abs=PEAK_SLACK_BYTES)


def test_where_the_peak_cannot_be_reset_there_is_no_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.speed.peak_memory.reset_peak_rss", lambda: False)
    peak = PeakMemory(CPU)
    peak.start()
    assert peak.read() is None


@pytest.mark.gpu
def test_on_cuda_it_is_what_torchs_allocator_handed_out() -> None:
    peak = PeakMemory(torch.device("cuda:0"))
    peak.start()
    before = peak.read()
    torch.ones(BLOCK // 4, device="cuda")
    highest = peak.read()
    peak.start()
    after = peak.read()
    assert before is not None
    assert highest is not None
    assert highest - before == BLOCK
    assert after == before
