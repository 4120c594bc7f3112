import types
from types import SimpleNamespace

import pytest

from bench.machine import energy
from bench.machine.energy import EnergyMeter, EnergyRefused
from bench.machine.nvml import GpuProbe

UUID = "01234567-89ab-cdef-0123-456789abcdef"
OTHER_UUID = "ffffffff-89ab-cdef-0123-456789abcdef"
NOT_SUPPORTED, FUNCTION_NOT_FOUND, GPU_IS_LOST = 3, 13, 15
WORDS = {NOT_SUPPORTED: "Not Supported", FUNCTION_NOT_FOUND: "Function Not Found", GPU_IS_LOST: "GPU is lost"}


class NVMLError(Exception):
    def __init__(self, value):
        super().__init__(WORDS.get(value, f"code {value}"))
        self.value = value


class NVMLLibraryMismatchError(Exception):
    """pynvml's own is no NVMLError either."""


class FakeNvml:
    """The functions of pynvml for two GPUs; what stands in `errors` raises that error, `absent` is not there."""

    NVMLError = NVMLError
    NVMLLibraryMismatchError = NVMLLibraryMismatchError
    NVML_ERROR_NOT_SUPPORTED = NOT_SUPPORTED

    def __init__(self, kind="GPU"):
        self.kind = kind
        self.errors = {}
        self.absent = set()
        self.millijoules = {UUID: 5_000_000, OTHER_UUID: 77}
        self.computing = []
        self.drawing = []
        self.mig = [0, 0]
        self.gpu = 0

    def __getattr__(self, name):
        if not name.startswith("nvml") or name in self.absent:
            raise AttributeError(f"module 'pynvml' has no attribute {name!r}")
        answers = {
            "nvmlInit": lambda: None,
            "nvmlDeviceGetHandleByUUID": self._handle,
            "nvmlDeviceGetTotalEnergyConsumption": lambda device: self.millijoules[device],
            "nvmlDeviceGetMigMode": lambda device: self.mig,
            "nvmlDeviceGetComputeRunningProcesses": lambda device: self.computing,
            "nvmlDeviceGetGraphicsRunningProcesses": lambda device: self.drawing,
            "nvmlDeviceGetUtilizationRates": lambda device: SimpleNamespace(gpu=self.gpu, memory=0),
        }

        def call(*arguments):
            if name in self.errors:
                raise self.errors[name]
            return answers[name](*arguments)

        return call

    def _handle(self, uuid):
        kind, _, bare = uuid.partition("-")
        if kind != self.kind or bare not in self.millijoules:
            raise NVMLError(6)
        return bare


def process(pid):
    return SimpleNamespace(pid=pid, usedGpuMemory=None)


@pytest.fixture
def fake(monkeypatch):
    monkeypatch.setattr("os.getpid", lambda: 10)
    return FakeNvml()


def meter_of(fake, uuid=UUID, own_context=True):
    fake.computing = fake.computing or ([process(10)] if own_context else [])
    return EnergyMeter(GpuProbe(uuid, fake), fake, own_context=lambda: own_context)


def refusal(meter):
    with pytest.raises(EnergyRefused) as refused:
        meter.refuse_if_false()
    text = str(refused.value)
    assert len(text.splitlines()) == 1
    assert "leave out --energy" in text
    return text


def test_a_gpu_of_ones_own_is_not_refused(fake):
    meter = meter_of(fake)
    meter.refuse_if_false()
    assert meter.read() == 5_000_000
    assert meter.others() == 0
    assert meter.utilisation() == 0


def test_of_several_gpus_the_one_with_this_uuid_is_read(fake):
    fake.computing = [process(10)]
    assert meter_of(fake, OTHER_UUID).read() == 77


@pytest.mark.parametrize("device", ["cpu", "mps", "xpu:0"])
def test_a_device_without_nvml_is_refused_before_anything_is_built(device):
    with pytest.raises(EnergyRefused, match=f"NVIDIA GPU, and '{device}' has none"):
        energy.refuse_device(device)
    energy.refuse_device("cuda")
    energy.refuse_device("cuda:1")


def test_opening_on_a_cpu_says_so():
    with pytest.raises(EnergyRefused, match="'cpu' has none"):
        EnergyMeter.open("cpu")


def test_opening_without_a_gpu_or_driver_is_one_line():
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    with pytest.raises(EnergyRefused, match="--energy needs NVML: ") as refused:
        EnergyMeter.open("cuda:0")
    assert len(str(refused.value).splitlines()) == 1


def test_opening_without_pynvml_is_one_line(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pynvml", None)
    with pytest.raises(EnergyRefused, match=r"needs NVML: cannot import pynvml.*install nvidia-ml-py"):
        EnergyMeter.open("cuda:0")


def test_mig_is_refused(fake):
    fake.mig = [1, 1]
    assert "shared by MIG" in refusal(meter_of(fake))


def test_a_slice_of_a_gpu_is_refused(fake):
    fake.kind = "MIG"
    assert "shared by MIG" in refusal(meter_of(fake))


def test_mig_that_is_only_planned_is_not_refused(fake):
    fake.mig = [0, 1]
    meter_of(fake).refuse_if_false()


def test_a_gpu_that_does_not_know_mig_is_not_refused(fake):
    fake.errors["nvmlDeviceGetMigMode"] = NVMLError(NOT_SUPPORTED)
    meter_of(fake).refuse_if_false()


def test_a_gpu_before_volta_is_refused(fake):
    fake.errors["nvmlDeviceGetTotalEnergyConsumption"] = NVMLError(NOT_SUPPORTED)
    assert "does not count its energy (NVIDIA's do from Volta on" in refusal(meter_of(fake))


@pytest.mark.parametrize(
    ("function", "says"),
    [
        ("nvmlDeviceGetTotalEnergyConsumption", "does not tell the energy"),
        ("nvmlDeviceGetMigMode", "does not tell whether MIG"),
        ("nvmlDeviceGetComputeRunningProcesses", "does not tell who uses"),
        ("nvmlDeviceGetGraphicsRunningProcesses", "does not tell who uses"),
    ],
)
@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("absent from pynvml", "no attribute"),
        ("absent from the driver", "Function Not Found"),
        ("of another version", "does not match the NVML lib version"),
        ("failing", "GPU is lost"),
    ],
)
def test_half_an_nvml_is_refused(fake, function, says, how, reason):
    meter = meter_of(fake)
    if how == "absent from pynvml":
        fake.absent.add(function)
    elif how == "absent from the driver":
        fake.errors[function] = NVMLError(FUNCTION_NOT_FOUND)
    elif how == "of another version":
        fake.errors[function] = NVMLLibraryMismatchError("pyNVML does not match the NVML lib version. Use another.")
    else:
        fake.errors[function] = NVMLError(GPU_IS_LOST)
    text = refusal(meter)
    assert says in text
    assert reason in text


@pytest.mark.parametrize("function", ["nvmlDeviceGetComputeRunningProcesses", "nvmlDeviceGetGraphicsRunningProcesses"])
def test_processes_that_the_gpu_does_not_tell_are_refused(fake, function):
    meter = meter_of(fake)
    fake.errors[function] = NVMLError(NOT_SUPPORTED)
    assert "does not tell who uses" in refusal(meter)


def test_a_gpu_that_is_lost_when_it_is_opened_is_refused(fake):
    probe = GpuProbe(UUID, fake)
    fake.errors["nvmlDeviceGetHandleByUUID"] = NVMLError(GPU_IS_LOST)
    with pytest.raises(EnergyRefused, match="does not know the GPU: GPU is lost"):
        EnergyMeter(probe, fake, own_context=lambda: True)


def test_other_processes_are_refused(fake):
    fake.computing = [process(10), process(11)]
    assert "1 other process uses this GPU" in refusal(meter_of(fake))
    fake.computing.append(process(12))
    assert "2 other processes use this GPU" in refusal(meter_of(fake))


def test_a_process_that_draws_is_another_and_one_in_both_lists_counts_once(fake):
    fake.computing = [process(10), process(11)]
    fake.drawing = [process(11)]
    assert meter_of(fake).others() == 1
    fake.drawing = [process(10), process(20)]
    assert meter_of(fake).others() == 2


def test_in_a_container_one_of_those_listed_is_this_process(fake):
    fake.computing = [process(7001)]
    assert meter_of(fake).others() == 0
    fake.computing = [process(7001), process(7002)]
    assert meter_of(fake).others() == 1
    assert meter_of(fake, own_context=False).others() == 2


def test_a_container_that_hides_all_processes_leaves_only_utilisation(fake):
    meter = meter_of(fake)
    fake.computing = []
    assert meter.others() is None
    meter.refuse_if_false()
    fake.errors["nvmlDeviceGetUtilizationRates"] = NVMLError(NOT_SUPPORTED)
    assert meter.utilisation() is None
    assert "NVML lists no process on this GPU, not even this one" in refusal(meter)


def test_without_a_context_nobody_on_the_list_is_nobody(fake):
    assert meter_of(fake, own_context=False).others() == 0


def test_the_errors_are_pynvmls_own():
    pynvml = pytest.importorskip("pynvml")
    assert pynvml.NVMLError(NOT_SUPPORTED).value == pynvml.NVML_ERROR_NOT_SUPPORTED == NOT_SUPPORTED
    assert not issubclass(pynvml.NVMLLibraryMismatchError, pynvml.NVMLError)
    for name in (
        "nvmlDeviceGetTotalEnergyConsumption",
        "nvmlDeviceGetMigMode",
        "nvmlDeviceGetComputeRunningProcesses",
        "nvmlDeviceGetGraphicsRunningProcesses",
        "nvmlDeviceGetUtilizationRates",
    ):
        assert isinstance(getattr(pynvml, name), types.FunctionType)


@pytest.mark.gpu
def test_a_real_counter_counts_or_says_why_not():
    torch = pytest.importorskip("torch")
    torch.ones(1, device="cuda:0")
    try:
        meter = EnergyMeter.open("cuda:0")
        first = meter.read()
    except EnergyRefused as refused:
        pytest.skip(str(refused))
    facts_before, busy = meter.others(), meter.utilisation()
    assert facts_before is None or facts_before >= 0
    assert busy is None or 0 <= busy <= 100
    assert meter.read() >= first > 0
