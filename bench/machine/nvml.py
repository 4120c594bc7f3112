"""What NVML tells about a GPU between rounds: clocks, temperature, why clocks are lower, who else is on it.

Everything here is readable without privilege, and nothing is set. A device is found by its UUID: NVML's index
ignores CUDA_VISIBLE_DEVICES and orders devices differently. An error never breaks a measurement: opening raises
NvmlUnavailable, for the caller to state; afterwards what cannot be read is None and `problems` says why.
"""

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

#: Reading more often would only cost time: power and clock readings are refreshed about this often.
READ_INTERVAL_S = 0.1

#: Bits of nvmlDeviceGetCurrentClocksEventReasons (nvml.h).
REASONS = {
    0x1: "idle",
    0x2: "application clocks",
    0x4: "software power cap",
    0x8: "hardware slowdown",
    0x10: "sync boost",
    0x20: "software thermal slowdown",
    0x40: "hardware thermal slowdown",
    0x80: "power brake",
    0x100: "display clock",
}

#: Reasons for which the GPU is slower than it was asked to be; an idle GPU and clocks chosen by its owner are not.
THROTTLING = 0x4 | 0x8 | 0x20 | 0x40 | 0x80

#: Field numbers of nvmlDeviceGetFieldValues (nvml.h) that count nanoseconds spent under a limit.
COUNTERS = {
    74: "power",
    75: "thermal",
    76: "sync boost",
    77: "board limit",
    78: "low utilization",
    79: "reliability",
    269: "software thermal slowdown",
    270: "hardware thermal slowdown",
    271: "power brake",
}

#: Low utilization and reliability voltage are limits of healthy GPUs at rest and at top clocks.
THROTTLING_COUNTERS = frozenset(COUNTERS.values()) - {"sync boost", "low utilization", "reliability"}

#: Members of the union nvmlValue_t by nvmlValueType_t (nvml.h).
VALUE_MEMBERS = ("dVal", "uiVal", "ulVal", "ullVal", "sllVal", "siVal", "usVal")


class NvmlUnavailable(RuntimeError):
    """NVML cannot be read for this device: one line that says why."""


@dataclass(frozen=True)
class GpuState:
    """One reading; None where NVML does not tell."""

    clock_mhz: int | None
    temperature_c: int | None
    reasons: int | None


@dataclass(frozen=True)
class GpuFacts:
    """What does not change during a run; None where NVML does not tell."""

    driver: str | None
    cuda: str | None
    power_limit_w: int | None
    persistence_mode: bool | None
    max_clock_mhz: int | None
    mig: bool | None


@dataclass(frozen=True)
class GpuProcess:
    """A process that computes on the GPU; the pid is the host's, which inside a container is another number."""

    pid: int
    memory_bytes: int | None


def throttled(reasons: int) -> bool:
    """Whether a mask of clock-event reasons says that the GPU ran slower than asked."""
    return bool(reasons & THROTTLING)


def reason_names(reasons: int) -> list[str]:
    """The names of the bits in a mask of clock-event reasons; a bit without a name is given in hexadecimal."""
    bits = [1 << position for position in range(reasons.bit_length()) if reasons >> position & 1]
    return [REASONS.get(bit, hex(bit)) for bit in bits]


def throttled_between(before: Mapping[str, int], after: Mapping[str, int]) -> list[str]:
    """Names of throttling counters that grew from one reading to the next: sees what a snapshot misses."""
    return [name for name in after if name in THROTTLING_COUNTERS and after[name] > before.get(name, after[name])]


def foreign(processes: Sequence[GpuProcess], own_pid: int, *, own_context: bool) -> list[GpuProcess]:
    """The processes that are not this one.

    In a container NVML lists this process under a pid it does not know; if it holds a CUDA context
    (`own_context`) and its pid is not there, one of those listed is this one. Which one cannot be told, so the
    first is left out: only the number of those returned is then certain.
    """
    others = [process for process in processes if process.pid != own_pid]
    return others[1:] if own_context and len(others) == len(processes) else others


class GpuProbe:
    """One GPU seen through NVML.

    `uuid` is the GPU's, full, once opened; `problems` are lines on what could not be read so far.
    """

    def __init__(self, uuid: str, nvml: Any, clock: Callable[[], float] = time.monotonic) -> None:
        """Find the GPU by the UUID torch gives; raises NvmlUnavailable if NVML does not start or know it.

        `nvml` is the module pynvml or anything with its functions; `clock` returns seconds and never goes back.
        """
        self.problems: list[str] = []
        self._nvml = nvml
        self._clock = clock
        self._last: tuple[float, GpuState] | None = None
        with _clear_errors(nvml, "cannot start NVML"):
            nvml.nvmlInit()
        self.uuid, self._device = _find(nvml, uuid)

    @classmethod
    def open(cls, index: int) -> "GpuProbe":
        """The probe of torch's CUDA device `index`. Raises NvmlUnavailable without NVML or without the device."""
        import torch

        try:
            import pynvml
        except ImportError as error:
            raise NvmlUnavailable(f"cannot import pynvml: {error}; install nvidia-ml-py") from None
        try:
            uuid = str(torch.cuda.get_device_properties(index).uuid)
        except (AssertionError, RuntimeError, AttributeError) as error:
            raise NvmlUnavailable(f"torch does not tell the UUID of device {index}: {_first_line(error)}") from None
        return cls(uuid, pynvml)

    def read(self) -> GpuState:
        """Clock, temperature and reasons now, or the last reading if that is less than 100 ms old."""
        now = self._clock()
        if self._last is not None and now - self._last[0] < READ_INTERVAL_S:
            return self._last[1]
        nvml, device = self._nvml, self._device
        state = GpuState(
            clock_mhz=self._ask("SM clock", lambda: nvml.nvmlDeviceGetClockInfo(device, nvml.NVML_CLOCK_SM)),
            temperature_c=self._ask("temperature", lambda: _temperature(nvml, device)),
            reasons=self._ask("clock reasons", lambda: nvml.nvmlDeviceGetCurrentClocksEventReasons(device)),
        )
        self._last = now, state
        return state

    def counters(self) -> dict[str, int]:
        """Nanoseconds spent under each limit since the driver was loaded; those the GPU does not count are left out."""
        values = self._ask("counters", lambda: self._nvml.nvmlDeviceGetFieldValues(self._device, list(COUNTERS)))
        return {
            COUNTERS[value.fieldId]: int(getattr(value.value, VALUE_MEMBERS[value.valueType]))
            for value in (values if values is not None else ())
            if value.nvmlReturn == self._nvml.NVML_SUCCESS and value.valueType < len(VALUE_MEMBERS)
        }

    def foreign_processes(self, *, own_context: bool | None = None) -> list[GpuProcess] | None:
        """Other processes that compute on this GPU; None if NVML does not tell.

        `own_context`: whether this process holds a CUDA context there; by default torch is asked.
        """
        if own_context is None:
            import torch

            initialized: Callable[[], bool] = torch.cuda.is_initialized  # untyped in torch
            own_context = initialized()
        listed = self._ask("processes", lambda: self._nvml.nvmlDeviceGetComputeRunningProcesses(self._device))
        if listed is None:
            return None
        processes = [GpuProcess(process.pid, process.usedGpuMemory) for process in listed]
        return foreign(processes, os.getpid(), own_context=own_context)

    def facts(self) -> GpuFacts:
        """Driver, power limit, persistence mode, highest clock and multi-instance mode."""
        nvml, device = self._nvml, self._device
        cuda = self._ask("CUDA version", nvml.nvmlSystemGetCudaDriverVersion)
        power_mw = self._ask("power limit", lambda: nvml.nvmlDeviceGetEnforcedPowerLimit(device))
        persistence = self._ask("persistence mode", lambda: nvml.nvmlDeviceGetPersistenceMode(device))
        mig = self._ask("MIG mode", lambda: nvml.nvmlDeviceGetMigMode(device)[0])
        return GpuFacts(
            driver=self._ask("driver", nvml.nvmlSystemGetDriverVersion),
            cuda=None if cuda is None else f"{cuda // 1000}.{cuda % 1000 // 10}",
            power_limit_w=None if power_mw is None else round(power_mw / 1000),
            persistence_mode=None if persistence is None else bool(persistence),
            max_clock_mhz=self._ask(
                "highest clock", lambda: nvml.nvmlDeviceGetMaxClockInfo(device, nvml.NVML_CLOCK_SM)
            ),
            mig=True if self.uuid.startswith("MIG-") else None if mig is None else bool(mig),
        )

    def _ask(self, what: str, question: Callable[[], Any]) -> Any:
        try:
            with _clear_errors(self._nvml, f"NVML does not tell {what}"):
                return question()
        except NvmlUnavailable as error:
            if str(error) not in self.problems:
                self.problems.append(str(error))
            return None


def _temperature(nvml: Any, device: Any) -> int:
    """The newer call is missing from drivers before 570, the older one will be from those after CUDA 13."""
    try:
        return int(nvml.nvmlDeviceGetTemperatureV(device, nvml.NVML_TEMPERATURE_GPU))
    except (nvml.NVMLError, AttributeError):
        return int(nvml.nvmlDeviceGetTemperature(device, nvml.NVML_TEMPERATURE_GPU))


def _find(nvml: Any, uuid: str) -> tuple[str, Any]:
    """torch gives a bare UUID; NVML wants its kind before it."""
    bare = uuid.removeprefix("GPU-").removeprefix("MIG-")
    with contextlib.suppress(NvmlUnavailable), _clear_errors(nvml, ""):
        return f"GPU-{bare}", nvml.nvmlDeviceGetHandleByUUID(f"GPU-{bare}")
    with _clear_errors(nvml, f"NVML does not know the device with UUID {bare}"):
        return f"MIG-{bare}", nvml.nvmlDeviceGetHandleByUUID(f"MIG-{bare}")
    raise AssertionError("unreachable")


@contextlib.contextmanager
def _clear_errors(nvml: Any, what: str) -> Iterator[None]:
    """Turn what pynvml raises into one line.

    An old pynvml lacks functions (AttributeError). What an old driver lacks is an NVMLError, and for some functions of
    several versions an NVMLLibraryMismatchError, which is none.
    """
    mismatch: type[Exception] = getattr(nvml, "NVMLLibraryMismatchError", nvml.NVMLError)
    try:
        yield
    except (nvml.NVMLError, mismatch, AttributeError, OSError) as error:
        raise NvmlUnavailable(f"{what}: {_first_line(error)}") from None


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
