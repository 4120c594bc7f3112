from dataclasses import replace

import pytest

from bench import doctor
from bench.doctor import GpuReadings, Readings, examine
from bench.machine.fingerprint import Gpu, Machine

GPU = Gpu(name="NVIDIA H100", memory_bytes=85_000_000_000, persistence_mode=True, mig=False)
QUIET = Readings(
    device="cpu",
    machine=Machine(
        os="Linux",
        cpu="AMD EPYC",
        cores_physical=4,
        cores_logical=4,
        cores_usable=4.0,
        memory_bytes=64_000_000_000,
        governor="performance",
    ),
    threads=4,
    watched_cores=4,
    other_load=0.03,
    steal=0.0,
    turbo=False,
    free_bytes=60_000_000_000,
    swapped_pages=0,
)
QUIET_GPU = replace(
    QUIET,
    device="cuda:0",
    machine=QUIET.machine.model_copy(update={"gpu": GPU}),
    gpu=GpuReadings(free_bytes=84_000_000_000, foreign_processes=0, reasons=0x1),
)


def with_machine(readings, **changes):
    return replace(readings, machine=readings.machine.model_copy(update=changes))


def with_gpu(**changes):
    return replace(QUIET_GPU, gpu=replace(QUIET_GPU.gpu, **changes))


def finding(readings, kind):
    (found,) = [found for found in examine(readings) if found.kind == kind]
    return found


@pytest.mark.parametrize("readings", [QUIET, QUIET_GPU])
def test_a_quiet_machine_has_nothing_to_mend(readings):
    assert {(found.severity, found.remedy) for found in examine(readings)} == {("ok", "")}


def test_a_gpus_findings_are_added_to_the_machines():
    kinds = [found.kind for found in examine(QUIET)]
    assert len(kinds) == len(set(kinds))
    assert [found.kind for found in examine(QUIET_GPU)][: len(kinds)] == kinds
    assert len(examine(QUIET_GPU)) > len(kinds)


@pytest.mark.parametrize(
    ("readings", "kind", "severity", "word"),
    [
        (replace(QUIET, other_load=1.0), "load", "warning", "--threads 3"),
        (replace(QUIET, other_load=3.5), "load", "warning", "stop"),
        (replace(QUIET, other_load=1.0, threads=2), "load", "advice", "stop"),
        (replace(QUIET, other_load=0.3, threads=2), "load", "ok", ""),
        (replace(QUIET, other_load=None), "load", "advice", "top"),
        (replace(QUIET, steal=0.5), "steal", "warning", "dedicated"),
        (replace(QUIET, steal=None), "steal", "advice", "top"),
        (replace(QUIET, threads=5), "threads", "warning", "--threads 4"),
        (with_machine(QUIET, cores_usable=0.5), "threads", "warning", "--threads 1"),
        (with_machine(QUIET, cores_physical=2), "hyperthreads", "warning", "--threads 2"),
        (with_machine(replace(QUIET, threads=2), cores_physical=2), "hyperthreads", "advice", "taskset"),
        (with_machine(QUIET, governor="powersave"), "governor", "advice", "performance"),
        (with_machine(QUIET, governor=None), "governor", "ok", ""),
        (replace(QUIET, turbo=True), "turbo", "advice", "no_turbo"),
        (replace(QUIET, turbo=None), "turbo", "ok", ""),
        (replace(QUIET, free_bytes=3_500_000_000), "memory", "warning", "--max-classes"),
        (replace(QUIET, free_bytes=5_000_000_000), "memory", "advice", "AlexNet"),
        (with_machine(QUIET, cores_usable=2.0), "container", "advice", "cpuset"),
        (with_machine(QUIET, container_memory_limit_bytes=8_000_000_000), "container", "ok", ""),
        (replace(QUIET, swapped_pages=12), "swap", "warning", "memory"),
        (replace(QUIET, swapped_pages=None), "swap", "advice", "vmstat"),
        (with_gpu(free_bytes=2_000_000_000), "gpu-memory", "warning", "--max-classes"),
        (with_gpu(problem="cannot start NVML: Driver Not Loaded"), "nvml", "advice", "nvidia-smi"),
        (with_gpu(foreign_processes=1), "gpu-processes", "warning", "nvidia-smi"),
        (with_gpu(foreign_processes=None), "gpu-processes", "advice", "nvidia-smi"),
        (with_gpu(reasons=0x40), "gpu-clocks", "warning", "cool"),
        (with_gpu(reasons=None), "gpu-clocks", "ok", ""),
        (
            with_machine(QUIET_GPU, gpu=GPU.model_copy(update={"persistence_mode": False})),
            "persistence",
            "advice",
            "-pm",
        ),
        (with_machine(QUIET_GPU, gpu=GPU.model_copy(update={"persistence_mode": None})), "persistence", "ok", ""),
        (with_machine(QUIET_GPU, gpu=GPU.model_copy(update={"mig": True})), "mig", "advice", "slice"),
    ],
)
def test_each_thing_that_spoils_timings_is_found(readings, kind, severity, word):
    found = finding(readings, kind)
    assert found.severity == severity
    assert word in found.remedy
    assert bool(found.remedy) == (severity != "ok")
    assert found.happened
    assert found.matters


def test_findings_say_what_was_seen():
    assert "1.00 of 4 cores" in finding(replace(QUIET, other_load=1.0), "load").happened
    assert "hardware thermal slowdown" in finding(with_gpu(reasons=0x40), "gpu-clocks").happened
    assert "2 other processes" in finding(with_gpu(foreign_processes=2), "gpu-processes").happened
    limited = with_machine(QUIET, cores_usable=2.0, container_memory_limit_bytes=8_000_000_000)
    assert "2 of 4 cores and 8.0 GB" in finding(limited, "container").happened


STAT = """cpu  300 0 100 5000 0 0 0 60 0 0
cpu0 100 10 50 2000 7 3 2 20 90 0
cpu1 200 0 50 3000 0 0 0 40 0 0
intr 12345
"""


def test_core_seconds_by_hand():
    """Busy is user + nice + system + irq + softirq; waiting for a disk is idle, a guest is part of user."""
    assert doctor.core_seconds(STAT, [0], 100) == (1.65, 0.2)
    busy, stolen = doctor.core_seconds(STAT, [0, 1], 100)
    assert busy == pytest.approx(4.15)
    assert stolen == pytest.approx(0.6)


@pytest.mark.parametrize("stat", ["", "cpu0 1 2 3 4\n", "cpu7 1 2 3 4 5 6 7 8\n"])
def test_core_seconds_that_are_not_told(stat):
    assert doctor.core_seconds(stat, [0, 1], 100) is None


def test_swapped_pages():
    assert doctor.swapped_pages("pgfault 9\npswpin 3\npswpout 4\n") == 7
    assert doctor.swapped_pages("pgfault 9\n") is None


def test_turbo(tmp_path):
    assert doctor.turbo(tmp_path) is None
    (tmp_path / "cpufreq").mkdir()
    (tmp_path / "cpufreq" / "boost").write_text("1\n")
    assert doctor.turbo(tmp_path) is True
    (tmp_path / "intel_pstate").mkdir()
    (tmp_path / "intel_pstate" / "no_turbo").write_text("1\n")
    assert doctor.turbo(tmp_path) is False


def test_the_load_of_others_leaves_out_our_own():
    before = doctor._Activity(at_s=10.0, own_s=1.0, times=(100.0, 5.0), swapped=0)
    after = doctor._Activity(at_s=12.0, own_s=1.5, times=(103.0, 5.4), swapped=0)
    load, steal = doctor._loads(before, after)
    assert load == pytest.approx((3.0 - 0.5) / 2)
    assert steal == pytest.approx(0.2)
    assert doctor._loads(replace(before, times=None), after) == (None, None)


def test_this_machine_is_read():
    readings = doctor.read("cpu", threads=3, watch_s=0.05)
    assert readings.threads == 3
    assert readings.gpu is None
    assert readings.free_bytes > 0
    assert readings.other_load is None or 0 <= readings.other_load <= readings.watched_cores + 1
    assert len(examine(readings)) == len(examine(QUIET))


@pytest.mark.gpu
def test_a_real_gpu_is_read():
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    readings = doctor.read("cuda:0", watch_s=0.05)
    assert readings.gpu is not None
    assert readings.gpu.free_bytes > 0
    assert len(examine(readings)) == len(examine(QUIET_GPU))
