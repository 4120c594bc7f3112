from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.machine import nvml
from bench.machine.nvml import GpuProbe, GpuProcess, GpuState, NvmlUnavailable

UUID = "01234567-89ab-cdef-0123-456789abcdef"


class NVMLError(Exception):
    pass


class FakeNvml:
    """The functions of pynvml for one GPU; names in `broken` raise as pynvml does."""

    NVMLError = NVMLError
    NVML_SUCCESS = 0
    NVML_CLOCK_SM = 1
    NVML_TEMPERATURE_GPU = 0

    def __init__(self, uuid=f"GPU-{UUID}", broken=()):
        self.uuid = uuid
        self.broken = set(broken)
        self.calls = []
        self.clock_mhz = 1980
        self.fields = {}
        self.processes = []

    def __getattr__(self, name):
        if not name.startswith("nvml"):
            raise AttributeError(name)
        answers = {
            "nvmlInit": lambda: None,
            "nvmlDeviceGetHandleByUUID": self._handle,
            "nvmlDeviceGetClockInfo": lambda device, kind: self.clock_mhz,
            "nvmlDeviceGetMaxClockInfo": lambda device, kind: 2100,
            "nvmlDeviceGetTemperatureV": lambda device, sensor: 41,
            "nvmlDeviceGetTemperature": lambda device, sensor: 42,
            "nvmlDeviceGetCurrentClocksEventReasons": lambda device: 0x4,
            "nvmlDeviceGetFieldValues": self._values,
            "nvmlDeviceGetComputeRunningProcesses": lambda device: self.processes,
            "nvmlSystemGetDriverVersion": lambda: "580.65.06",
            "nvmlSystemGetCudaDriverVersion": lambda: 13020,
            "nvmlDeviceGetEnforcedPowerLimit": lambda device: 699_999,
            "nvmlDeviceGetPersistenceMode": lambda device: 0,
            "nvmlDeviceGetMigMode": lambda device: [0, 0],
        }

        def call(*arguments):
            self.calls.append(name)
            if name in self.broken:
                raise NVMLError("Not Supported")
            return answers[name](*arguments)

        return call

    def _handle(self, uuid):
        if uuid != self.uuid:
            raise NVMLError("Not Found")
        return "handle"

    def _values(self, device, numbers):
        """Each field as (nvmlReturn, valueType, value); those not given are unsupported (3)."""
        values = []
        for number in numbers:
            returned, kind, value = self.fields.get(number, (3, 0, 0))
            members = {name: value if i == kind else -1 for i, name in enumerate(nvml.VALUE_MEMBERS)}
            values.append(
                SimpleNamespace(fieldId=number, nvmlReturn=returned, valueType=kind, value=SimpleNamespace(**members))
            )
        return values


def test_only_slower_than_asked_is_throttling():
    for reasons in (0x4, 0x8, 0x20, 0x40, 0x80, 0x1 | 0x4):
        assert nvml.throttled(reasons)
    for reasons in (0, 0x1, 0x2, 0x10, 0x100, 0x1 | 0x2):
        assert not nvml.throttled(reasons)


def test_reason_names():
    assert nvml.reason_names(0) == []
    assert nvml.reason_names(0x1 | 0x80) == ["idle", "power brake"]
    assert nvml.reason_names(0x4 | 0x4000) == ["software power cap", "0x4000"]


@settings(deadline=None)  # a busy machine is no failure
@given(st.integers(0, 2**64 - 1))
def test_every_bit_has_a_name(reasons):
    names = nvml.reason_names(reasons)
    assert len(names) == len(set(names)) == reasons.bit_count()


def test_the_bits_and_fields_are_pynvmls_own():
    pynvml = pytest.importorskip("pynvml")
    throttling = (
        pynvml.nvmlClocksEventReasonSwPowerCap
        | pynvml.nvmlClocksEventReasonHwSlowdown
        | pynvml.nvmlClocksEventReasonSwThermalSlowdown
        | pynvml.nvmlClocksEventReasonHwThermalSlowdown
        | pynvml.nvmlClocksEventReasonHwPowerBrakeSlowdown
    )
    assert throttling == nvml.THROTTLING
    assert nvml.COUNTERS[pynvml.NVML_FI_DEV_PERF_POLICY_POWER] == "power"
    assert nvml.COUNTERS[pynvml.NVML_FI_DEV_PERF_POLICY_RELIABILITY] == "reliability"
    members = tuple(name for name, _ in pynvml.c_nvmlValue_t._fields_)
    assert members[: len(nvml.VALUE_MEMBERS)] == nvml.VALUE_MEMBERS


def test_a_device_is_found_by_uuid():
    for given_uuid in (UUID, f"GPU-{UUID}"):
        assert GpuProbe(given_uuid, FakeNvml()).uuid == f"GPU-{UUID}"
    slice_of_a_gpu = GpuProbe(UUID, FakeNvml(uuid=f"MIG-{UUID}"))
    assert slice_of_a_gpu.uuid == f"MIG-{UUID}"
    assert slice_of_a_gpu.facts().mig is True


def test_an_unknown_device_and_a_missing_driver_are_one_line():
    with pytest.raises(NvmlUnavailable, match=r"UUID 01234567.*Not Found"):
        GpuProbe(UUID, FakeNvml(uuid="GPU-other"))
    with pytest.raises(NvmlUnavailable, match="cannot start NVML: Not Supported"):
        GpuProbe(UUID, FakeNvml(broken=["nvmlInit"]))


def test_readings_are_taken_at_most_every_100_ms():
    now = [0.0]
    fake = FakeNvml()
    probe = GpuProbe(UUID, fake, clock=lambda: now[0])
    assert probe.read() == GpuState(clock_mhz=1980, temperature_c=41, reasons=0x4)
    fake.clock_mhz = 1200
    now[0] = 0.099
    assert probe.read().clock_mhz == 1980
    now[0] = 0.1
    assert probe.read().clock_mhz == 1200
    assert fake.calls.count("nvmlDeviceGetClockInfo") == 2


def test_an_error_in_a_reading_is_none_and_said_once():
    now = [0.0]
    probe = GpuProbe(UUID, FakeNvml(broken=["nvmlDeviceGetClockInfo"]), clock=lambda: now[0])
    assert probe.read() == GpuState(clock_mhz=None, temperature_c=41, reasons=0x4)
    now[0] = 1.0
    probe.read()
    assert probe.problems == ["NVML does not tell SM clock: Not Supported"]


def test_an_older_driver_has_only_the_older_temperature():
    probe = GpuProbe(UUID, FakeNvml(broken=["nvmlDeviceGetTemperatureV"]))
    assert probe.read().temperature_c == 42
    assert probe.problems == []


def test_counters_that_the_gpu_does_not_count_are_left_out():
    fake = FakeNvml()
    fake.fields = {74: (0, 3, 5_000_000), 75: (0, 1, 7), 269: (3, 3, 99), 271: (0, 4, 11), 77: (0, 200, 1)}
    assert GpuProbe(UUID, fake).counters() == {"power": 5_000_000, "thermal": 7, "power brake": 11}


def test_counters_of_a_gpu_that_has_none():
    probe = GpuProbe(UUID, FakeNvml(broken=["nvmlDeviceGetFieldValues"]))
    assert probe.counters() == {}
    assert len(probe.problems) == 1


def test_throttling_between_two_readings():
    before = {"power": 1, "low utilization": 1, "reliability": 1, "thermal": 4}
    after = {"power": 2, "low utilization": 9, "reliability": 9, "thermal": 4, "power brake": 7}
    assert nvml.throttled_between(before, after) == ["power"]


def test_foreign_processes_leave_this_one_out(monkeypatch):
    monkeypatch.setattr("os.getpid", lambda: 10)
    fake = FakeNvml()
    fake.processes = [SimpleNamespace(pid=10, usedGpuMemory=5), SimpleNamespace(pid=11, usedGpuMemory=None)]
    assert GpuProbe(UUID, fake).foreign_processes(own_context=True) == [GpuProcess(11, None)]


def test_processes_that_cannot_be_listed_are_unknown_not_none_at_all():
    probe = GpuProbe(UUID, FakeNvml(broken=["nvmlDeviceGetComputeRunningProcesses"]))
    assert probe.foreign_processes(own_context=False) is None
    assert probe.problems == ["NVML does not tell processes: Not Supported"]


def test_in_a_container_this_process_is_one_of_those_listed():
    listed = [GpuProcess(7001, 1), GpuProcess(7002, 2)]
    assert len(nvml.foreign(listed, own_pid=12, own_context=True)) == 1
    assert nvml.foreign(listed, own_pid=12, own_context=False) == listed
    assert nvml.foreign(listed[:1], own_pid=12, own_context=True) == []
    assert nvml.foreign([], own_pid=12, own_context=True) == []


def test_facts():
    facts = GpuProbe(UUID, FakeNvml()).facts()
    assert facts == nvml.GpuFacts(
        driver="580.65.06", cuda="13.2", power_limit_w=700, persistence_mode=False, max_clock_mhz=2100, mig=False
    )


def test_facts_that_are_not_told_are_none():
    broken = [
        "nvmlSystemGetDriverVersion",
        "nvmlSystemGetCudaDriverVersion",
        "nvmlDeviceGetEnforcedPowerLimit",
        "nvmlDeviceGetPersistenceMode",
        "nvmlDeviceGetMaxClockInfo",
        "nvmlDeviceGetMigMode",
    ]
    probe = GpuProbe(UUID, FakeNvml(broken=broken))
    assert probe.facts() == nvml.GpuFacts(None, None, None, None, None, None)
    assert len(probe.problems) == len(broken)


@pytest.fixture
def gpu():
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    return GpuProbe.open(0)


@pytest.mark.gpu
def test_a_real_gpu_tells_its_state(gpu):
    state = gpu.read()
    assert state.clock_mhz is None or 0 < state.clock_mhz < 10_000
    assert state.temperature_c is None or 0 < state.temperature_c < 150
    assert state.reasons is None or state.reasons >= 0
    assert gpu.read() is state
    assert all(value >= 0 for value in gpu.counters().values())
    assert gpu.facts().driver


@pytest.mark.gpu
def test_a_real_gpus_uuid_is_torchs(gpu):
    torch = pytest.importorskip("torch")
    assert gpu.uuid.endswith(str(torch.cuda.get_device_properties(0).uuid))


def test_without_a_gpu_opening_says_so():
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    with pytest.raises(NvmlUnavailable) as refused:
        GpuProbe.open(0)
    assert len(str(refused.value).splitlines()) == 1


def test_functions_whose_version_the_driver_lacks_are_what_cannot_be_read():
    fake = FakeNvml()
    fake.NVMLLibraryMismatchError = type("NVMLLibraryMismatchError", (Exception,), {})  # of pynvml: no NVMLError

    def mismatch(device):
        raise fake.NVMLLibraryMismatchError("Unversioned function called and the versioned one is missing")

    fake.nvmlDeviceGetComputeRunningProcesses = mismatch
    probe = GpuProbe(UUID, fake)
    assert probe.foreign_processes(own_context=True) is None
    assert probe.problems == [
        "NVML does not tell processes: Unversioned function called and the versioned one is missing"
    ]
