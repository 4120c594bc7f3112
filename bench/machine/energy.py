"""The energy that an NVIDIA GPU has used, from NVML's counter, and who else would be in that figure.

nvmlDeviceGetTotalEnergyConsumption counts the millijoules of the whole board since the driver was loaded, on Volta and
later. It knows neither processes nor slices: what another process or another slice of a GPU shared by MIG uses is in
it. So it is refused wherever the figure would not be this process's, and wherever NVML cannot tell whether it is.

Who else is there is told by two lists of processes (computing, drawing). A container can hide them: NVML then lists
nobody, not even this process. What is left is to look whether kernels run while this process rests.
"""

import contextlib
import os
from collections.abc import Callable, Iterator
from typing import Any

from bench.errors import UsageError
from bench.machine.nvml import GpuProbe, GpuProcess, NvmlUnavailable, foreign

#: What to do where energy cannot be measured, whatever the reason.
_REMEDY = "leave out --energy"


class EnergyRefused(UsageError):
    """This GPU's energy counter cannot be read, or would not count this process alone: one line that says why."""


def refuse_device(device: str) -> None:
    """Refuse what has no NVML before anything is built; `device` is "cpu", "cuda" or "cuda:N".

    Raises EnergyRefused.
    """
    if device.partition(":")[0] != "cuda":
        raise EnergyRefused(
            f"--energy reads the energy counter of an NVIDIA GPU, and {device!r} has none: {_REMEDY}, or give "
            "--device cuda"
        )


class EnergyMeter:
    """The energy counter of one GPU, found by UUID; the energy of other GPUs of the machine is not in it."""

    def __init__(self, probe: GpuProbe, nvml: Any, *, own_context: Callable[[], bool]) -> None:
        """`own_context` tells whether this process uses the GPU by now.

        `nvml` is the module pynvml or anything with its functions. Raises EnergyRefused if NVML lost the GPU.
        """
        self._nvml = nvml
        self._own_context = own_context
        self._is_slice = probe.uuid.startswith("MIG-")
        with _refusing(nvml, "NVML does not know the GPU"):
            self._device = nvml.nvmlDeviceGetHandleByUUID(probe.uuid)

    @classmethod
    def open(cls, device: str) -> "EnergyMeter":
        """The meter of "cuda" or "cuda:N", torch's numbering. Raises EnergyRefused without NVML or without the GPU."""
        refuse_device(device)
        import torch

        index = torch.device(device).index or 0
        try:
            probe = GpuProbe.open(index)
        except NvmlUnavailable as error:
            raise EnergyRefused(f"--energy needs NVML: {error}; mend that, or {_REMEDY}") from None
        import pynvml

        reserved: Callable[[int], int] = torch.cuda.memory_reserved
        return cls(probe, pynvml, own_context=lambda: reserved(index) > 0)

    def refuse_if_false(self) -> None:
        """Raise EnergyRefused if the counter is missing, or would count more than this process, or if NVML cannot tell.

        To be asked while this process lets the GPU rest.
        """
        if self._is_slice or self._has_mig():
            raise EnergyRefused(
                "this GPU is shared by MIG, and its energy counter is that of all slices together: switch MIG off "
                f"(nvidia-smi -mig 0, as root), use another GPU, or {_REMEDY}"
            )
        self.read()
        others = self.others()
        if others:
            raise EnergyRefused(
                f"{others} other {'process uses' if others == 1 else 'processes use'} this GPU and would be in its "
                f"energy: end {'it' if others == 1 else 'them'} (nvidia-smi lists who), or {_REMEDY}"
            )
        if others is None and self.utilisation() is None:
            raise EnergyRefused(
                "NVML lists no process on this GPU, not even this one, nor how busy it is, so nobody can tell whose "
                f"energy is counted: run outside the container, or {_REMEDY}"
            )

    def read(self) -> int:
        """Millijoules since the driver was loaded. Raises EnergyRefused where NVML does not tell."""
        nvml = self._nvml
        try:
            with _refusing(nvml, "NVML does not tell the energy"):
                return int(nvml.nvmlDeviceGetTotalEnergyConsumption(self._device))
        except EnergyRefused as refused:
            if _is_unsupported(nvml, refused.__cause__):
                raise EnergyRefused(
                    "this GPU does not count its energy (NVIDIA's do from Volta on, and most virtual GPUs do not): "
                    f"use another GPU, or {_REMEDY}"
                ) from None
            raise

    def others(self) -> int | None:
        """How many other processes compute or draw on this GPU.

        None if NVML lists nobody although this process uses it: then others would not be listed either. Raises
        EnergyRefused where NVML does not tell at all.
        """
        nvml, device = self._nvml, self._device
        with _refusing(nvml, "NVML does not tell who uses this GPU, so others could be in its energy"):
            listed = [
                *nvml.nvmlDeviceGetComputeRunningProcesses(device),
                *nvml.nvmlDeviceGetGraphicsRunningProcesses(device),
            ]
        processes = {process.pid: GpuProcess(process.pid, process.usedGpuMemory) for process in listed}
        own_context = self._own_context()
        if own_context and not processes:
            return None
        return len(foreign(list(processes.values()), os.getpid(), own_context=own_context))

    def utilisation(self) -> int | None:
        """Percent of the last sampling period (at most a second) in which any kernel ran; None where NVML is silent."""
        nvml = self._nvml
        try:
            return int(nvml.nvmlDeviceGetUtilizationRates(self._device).gpu)
        except (nvml.NVMLError, AttributeError, OSError):
            return None

    def _has_mig(self) -> bool:
        """Whether MIG is on; a GPU that does not support it has it off."""
        nvml = self._nvml
        try:
            with _refusing(nvml, "NVML does not tell whether MIG shares this GPU"):
                return bool(nvml.nvmlDeviceGetMigMode(self._device)[0])
        except EnergyRefused as refused:
            if _is_unsupported(nvml, refused.__cause__):
                return False
            raise


def _is_unsupported(nvml: Any, error: BaseException | None) -> bool:
    return bool(getattr(error, "value", None) == nvml.NVML_ERROR_NOT_SUPPORTED)


@contextlib.contextmanager
def _refusing(nvml: Any, what: str) -> Iterator[None]:
    """Turn what pynvml raises into one line, with its error as the cause.

    A function that the driver lacks is an NVMLError, or NVMLLibraryMismatchError, which is none; one that pynvml
    lacks is an AttributeError.
    """
    mismatch: type[Exception] = getattr(nvml, "NVMLLibraryMismatchError", nvml.NVMLError)
    try:
        yield
    except (nvml.NVMLError, mismatch, AttributeError, OSError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
        raise EnergyRefused(f"{what}: {reason}; update the driver and nvidia-ml-py, or {_REMEDY}") from error
