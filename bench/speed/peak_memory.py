"""The most memory in use at once, between a start and a reading."""

import torch

from bench.machine.memory import peak_rss, reset_peak_rss


class PeakMemory:
    """On CUDA what torch's allocator had handed out; on the CPU the resident memory of the whole process.

    None where the kernel does not let a process reset its peak: then there is no number, not another one. On
    the CPU a compiler's modules, once imported, stay resident and are in every later peak.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._known = True

    def start(self) -> None:
        """Forget earlier peaks."""
        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._device)
        else:
            self._known = reset_peak_rss()

    def read(self) -> int | None:
        """Bytes at the peak since the start."""
        if self._device.type == "cuda":
            return torch.cuda.max_memory_allocated(self._device)
        return peak_rss() if self._known else None
