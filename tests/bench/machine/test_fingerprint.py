import re
import shutil
import socket
import subprocess
import sys
from types import SimpleNamespace

import pytest
from pydantic import ValidationError

from bench.errors import UsageError
from bench.machine import fingerprint
from bench.machine.fingerprint import Gpu, Machine, same_hardware
from bench.machine.nvml import GpuFacts

GPU = Gpu(
    name="NVIDIA H100",
    uuid="GPU-1",
    memory_bytes=85_000_000_000,
    driver="580",
    cuda="13.0",
    power_limit_w=700,
    persistence_mode=True,
    max_clock_mhz=1980,
    mig=False,
)
MACHINE = Machine(
    os="Linux",
    cpu="AMD EPYC",
    cores_physical=8,
    cores_logical=16,
    cores_usable=16.0,
    memory_bytes=64_000_000_000,
    governor="performance",
    gpu=GPU,
)


def test_this_machine_is_described():
    machine = fingerprint.describe("cpu")
    assert machine.gpu is None
    assert 1 <= machine.cores_physical <= machine.cores_logical
    assert 0 < machine.cores_usable <= machine.cores_logical
    assert machine.memory_bytes > 10**8
    assert machine.cpu
    assert Machine.model_validate_json(machine.model_dump_json()) == machine


def test_neither_host_name_nor_paths_are_kept():
    text = fingerprint.describe("cpu").model_dump_json()
    assert "/" not in text
    if len(socket.gethostname()) > 3:  # a shorter name may be part of any word
        assert socket.gethostname() not in text


def test_a_machine_is_frozen_and_knows_its_fields():
    with pytest.raises(ValidationError):
        MACHINE.cpu = "other"
    with pytest.raises(ValidationError):
        Machine.model_validate(MACHINE.model_dump() | {"hostname": "x"})


@pytest.mark.parametrize("device", ["tpu", "cuda:x", "cuda:-1", "", "cuda:99"])
def test_a_device_that_is_not_here_is_refused(device):
    with pytest.raises(UsageError):
        fingerprint.describe(device)


def test_equal_machines_do_not_differ():
    assert same_hardware(MACHINE, MACHINE) == []
    without = MACHINE.model_copy(update={"gpu": None})
    assert same_hardware(without, without) == []


@pytest.mark.parametrize(
    "change",
    [
        {"os": "Linux 7"},
        {"governor": "powersave"},
        {"governor": None},
        {"container_memory_limit_bytes": 10**9},
        {"memory_bytes": 64_500_000_000},
        {"gpu": GPU.model_copy(update={"persistence_mode": False, "driver": "590", "cuda": "13.1"})},
        {"gpu": GPU.model_copy(update={"uuid": "GPU-2", "memory_bytes": 85_100_000_000})},
        {"gpu": GPU.model_copy(update={"max_clock_mhz": None, "mig": None, "power_limit_w": None})},
    ],
)
def test_what_is_no_hardware_does_not_differ(change):
    other = MACHINE.model_copy(update=change)
    assert same_hardware(MACHINE, other) == same_hardware(other, MACHINE) == []


@pytest.mark.parametrize(
    ("change", "names"),
    [
        ({"cpu": "Intel Xeon"}, ["cpu"]),
        ({"cores_physical": 4, "cores_logical": 8}, ["cores_physical", "cores_logical"]),
        ({"cores_usable": 2.0}, ["cores_usable"]),
        ({"memory_bytes": 65_000_000_000}, ["memory_bytes"]),
        ({"gpu": None}, ["gpu"]),
        ({"gpu": GPU.model_copy(update={"name": "NVIDIA H200"})}, ["gpu.name"]),
        ({"gpu": GPU.model_copy(update={"memory_bytes": 10**11})}, ["gpu.memory_bytes"]),
        ({"gpu": GPU.model_copy(update={"power_limit_w": 350, "mig": True})}, ["gpu.power_limit_w", "gpu.mig"]),
    ],
)
def test_what_is_hardware_differs_both_ways(change, names):
    other = MACHINE.model_copy(update=change)
    assert same_hardware(MACHINE, other) == same_hardware(other, MACHINE) == names


def test_usable_cores_are_the_fewer():
    assert fingerprint.usable_cores(4, None) == 4.0
    assert fingerprint.usable_cores(4, 1.5) == 1.5
    assert fingerprint.usable_cores(2, 16.0) == 2.0


def test_the_cpu_model_is_read():
    assert fingerprint.cpu_model("processor\t: 0\nmodel\t\t: 17\nmodel name\t: AMD EPYC 9B14\n") == "AMD EPYC 9B14"
    assert "0x41 part 0xd4f" in fingerprint.cpu_model("CPU implementer\t: 0x41\nCPU part\t: 0xd4f\n")
    assert fingerprint.cpu_model("")


def test_the_governor_of_the_usable_cores(tmp_path):
    for core, name in enumerate(["performance", "powersave", "performance"]):
        folder = tmp_path / f"cpu{core}" / "cpufreq"
        folder.mkdir(parents=True)
        (folder / "scaling_governor").write_text(name + "\n")
    assert fingerprint.governor([0, 2], tmp_path) == "performance"
    assert fingerprint.governor([0, 1, 2], tmp_path) == "performance, powersave"
    assert fingerprint.governor([7], tmp_path) is None


def test_nvml_fills_in_what_torch_does_not_tell():
    plain = Gpu(name="NVIDIA H100", uuid="1", memory_bytes=85_000_000_000)
    facts = GpuFacts(driver="580", cuda="13.0", power_limit_w=700, persistence_mode=True, max_clock_mhz=1980, mig=False)
    probe = SimpleNamespace(uuid="GPU-1", facts=lambda: facts)
    assert fingerprint.with_nvml(plain, probe) == GPU


def test_versions_are_those_that_run():
    torch = pytest.importorskip("torch")
    versions = fingerprint.versions()
    assert versions["torch"] == torch.__version__
    assert versions["python"] == ".".join(map(str, sys.version_info[:3]))
    assert {"torchvision", "timm", "numpy", "slc-bench"} <= versions.keys()
    assert all(isinstance(version, str) and version for version in versions.values())


def test_library_versions_are_read_from_torchs_configuration():
    text = """PyTorch built with:
  - Intel(R) oneAPI Math Kernel Library Version 2024.2-Product Build 20240605 for Intel(R) 64 architecture
  - Intel(R) MKL-DNN v3.7.1 (Git Hash 8d263e693366ef8db40acc569cc7d8edf644556d)
"""
    assert fingerprint.library_versions(text) == {"mkl": "2024.2", "onednn": "3.7.1"}
    assert fingerprint.library_versions("PyTorch built with:\n  - GCC 13.3\n") == {}


@pytest.fixture
def repository(tmp_path):
    """A repository with the package's file tracked, as fingerprint.commit() looks for it."""
    if shutil.which("git") is None:
        pytest.skip("git is not installed")
    (tmp_path / "fingerprint.py").write_text("one\n")
    git(tmp_path, "init", "--quiet")
    git(tmp_path, "add", "fingerprint.py")
    identity = ["-c", "user.name=x", "-c", "user.email=x@example.org", "-c", "commit.gpgsign=false"]
    git(tmp_path, *identity, "commit", "--quiet", "--no-verify", "--message", "one")
    return tmp_path


def git(folder, *arguments):
    done = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_the_commit_is_the_source_trees(repository):
    head = git(repository, "rev-parse", "HEAD")
    git(repository, "tag", "v1")
    assert fingerprint.commit(repository) == head
    (repository / "fingerprint.py").write_text("two\n")
    assert fingerprint.commit(repository) == head + "+dirty"


def test_a_hooks_environment_does_not_mislead(repository, monkeypatch):
    monkeypatch.setenv("GIT_DIR", "/nonexistent")
    assert re.fullmatch("[0-9a-f]{40}", fingerprint.commit(repository) or "")


def test_an_installed_copy_inside_another_tree_has_no_commit(repository):
    installed = repository / "site-packages"
    installed.mkdir()
    (installed / "fingerprint.py").write_text("one\n")
    assert fingerprint.commit(installed) is None


def test_the_tree_that_a_run_is_started_in_has_a_commit(repository, monkeypatch):
    inner = repository / "experiments"
    inner.mkdir()
    monkeypatch.chdir(inner)
    head = git(repository, "rev-parse", "HEAD")
    assert fingerprint.tree_commit() == head, "nothing of slc-bench need be tracked there"
    (inner / "untracked").write_text("a run's folder")
    assert fingerprint.tree_commit() == head
    (repository / "fingerprint.py").write_text("two\n")
    assert fingerprint.tree_commit() == head + fingerprint.DIRTY


def test_without_git_or_a_repository_there_is_no_commit(tmp_path, monkeypatch):
    assert fingerprint.commit(tmp_path) is None
    assert fingerprint.commit(tmp_path / "missing") is None
    assert fingerprint.tree_commit(tmp_path) is None
    assert fingerprint.tree_commit(tmp_path / "missing") is None
    monkeypatch.setenv("PATH", str(tmp_path))
    assert fingerprint.commit(tmp_path) is None


def test_a_git_that_hangs_is_not_waited_for(tmp_path, monkeypatch):
    def hang(*arguments, timeout, **options):
        raise subprocess.TimeoutExpired("git", timeout)

    monkeypatch.setattr(subprocess, "run", hang)
    assert fingerprint.commit(tmp_path) is None
    assert fingerprint.tree_commit(tmp_path) is None


def test_describing_a_cpu_does_not_import_torch():
    code = (
        "import sys; from bench.machine import fingerprint; fingerprint.describe('cpu'); print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


@pytest.mark.gpu
def test_a_real_gpu_is_described():
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    gpu = fingerprint.describe("cuda").gpu
    assert gpu is not None
    assert gpu.name == torch.cuda.get_device_name(0)
    assert gpu.driver
