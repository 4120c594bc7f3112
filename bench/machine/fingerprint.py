"""What a measurement ran on: the machine, the versions, the commit. No host name, no paths."""

import importlib.metadata
import os
import platform
import re
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
from pydantic import BaseModel, ConfigDict, Field

from bench.errors import UsageError
from bench.machine import memory, read_text

if TYPE_CHECKING:
    from bench.machine.nvml import GpuProbe

#: Equal machines report slightly different totals: what firmware and kernel keep for themselves varies.
MEMORY_TOLERANCE = 0.01

#: git answers in milliseconds; on a network file system that hangs, a commit is not worth waiting for.
GIT_TIMEOUT_S = 5.0

#: What follows the name of a commit if tracked files of its working tree were changed.
DIRTY = "+dirty"

#: Packages whose version can change a timing.
PACKAGES = ("torchvision", "timm", "numpy", "slc-bench")


class Gpu(BaseModel):
    """One GPU; what only NVML knows is None where NVML cannot be read."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    uuid: str | None = None
    memory_bytes: int
    driver: str | None = None
    cuda: str | None = Field(None, description="newest CUDA version the driver supports")
    power_limit_w: int | None = Field(None, description="enforced power limit")
    persistence_mode: bool | None = None
    max_clock_mhz: int | None = Field(None, description="highest SM clock")
    mig: bool | None = Field(None, description="multi-instance mode: the device is a slice of a GPU")


class Machine(BaseModel):
    """The machine a run was measured on."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    os: str
    cpu: str = Field(description="model name")
    cores_physical: int
    cores_logical: int
    cores_usable: float = Field(description="cores this process may use: affinity and the container's CPU quota")
    memory_bytes: int
    governor: str | None = Field(None, description="frequency governor of the usable cores; none if not shown")
    container_memory_limit_bytes: int | None = Field(
        None, description="tightest control-group limit; none if unlimited"
    )
    gpu: Gpu | None = None


def describe(device: str) -> Machine:
    """Describe this machine, with its GPU if `device` is one.

    Raises UsageError if `device` is neither "cpu" nor a CUDA device that is here.
    """
    logical = psutil.cpu_count() or 1
    return Machine(
        os=platform.platform(),
        cpu=cpu_model(read_text(Path("/proc/cpuinfo")) or ""),
        cores_physical=psutil.cpu_count(logical=False) or logical,
        cores_logical=logical,
        cores_usable=usable_cores(len(os.sched_getaffinity(0)), memory.cpu_quota()),
        memory_bytes=psutil.virtual_memory().total,
        governor=governor(sorted(os.sched_getaffinity(0))),
        container_memory_limit_bytes=memory.container_limit(),
        gpu=None if device == "cpu" else _gpu(device),
    )


def same_hardware(a: Machine, b: Machine) -> list[str]:
    """Names of the hardware fields that differ; empty if a time on `a` may be compared with a time on `b`.

    Memory is equal to within 1 %. Two cards of one model are equal, so the UUID does not count; what software sets
    (governor, persistence mode, driver) does not count either, the enforced power limit does: it bounds the clocks.
    What one side does not know (NVML unreadable) is not a difference.
    """
    differing = [
        name
        for name in ("cpu", "cores_physical", "cores_logical", "cores_usable")
        if getattr(a, name) != getattr(b, name)
    ]
    if not _close(a.memory_bytes, b.memory_bytes):
        differing.append("memory_bytes")
    if a.gpu is None or b.gpu is None:
        return differing if a.gpu is b.gpu else [*differing, "gpu"]
    return differing + _differing_gpu_fields(a.gpu, b.gpu)


def refuse_another(machine: Machine, versions_then: Mapping[str, str], device: str, run: Path) -> None:
    """Numbers of other hardware, another driver or other versions do not belong into one run.

    Raises UsageError, naming what differs between the machine a run began on and this one.
    """
    here = describe(device)
    versions_now = versions()
    differing = same_hardware(machine, here)
    if machine.gpu and here.gpu and machine.gpu.driver != here.gpu.driver:
        differing.append(f"GPU driver ({machine.gpu.driver} then, {here.gpu.driver} now)")
    differing += [
        f"{package} ({then} then, {versions_now.get(package, 'none')} now)"
        for package, then in versions_then.items()
        if versions_now.get(package) != then
    ]
    if differing:
        raise UsageError(
            f"{run} cannot be continued here, its numbers would not belong together: {', '.join(differing)}"
        )


def _differing_gpu_fields(a: Gpu, b: Gpu) -> list[str]:
    differing = []
    for name in ("name", "max_clock_mhz", "power_limit_w", "mig"):
        ours, theirs = getattr(a, name), getattr(b, name)
        if ours is not None and theirs is not None and ours != theirs:
            differing.append(f"gpu.{name}")
    if not _close(a.memory_bytes, b.memory_bytes):
        differing.append("gpu.memory_bytes")
    return differing


def _close(a: int, b: int) -> bool:
    return abs(a - b) <= MEMORY_TOLERANCE * max(a, b)


def usable_cores(affinity: int, quota: float | None) -> float:
    """Cores a process may keep busy: those in its affinity mask, or fewer if a CPU quota says so."""
    return float(affinity) if quota is None else min(float(affinity), quota)


def cpu_model(cpuinfo: str) -> str:
    """The processor's model name from the text of /proc/cpuinfo; Arm's has none, only numbers."""
    fields = dict(re.findall(r"^([\w ]+?)\s*:\s*(.+)$", cpuinfo, re.MULTILINE))
    if "model name" in fields:
        return str(fields["model name"]).strip()
    if "CPU implementer" in fields:
        return f"{platform.machine()} implementer {fields['CPU implementer']} part {fields.get('CPU part', 'unknown')}"
    return platform.processor() or platform.machine() or "unknown"


def governor(cores: list[int], root: Path = Path("/sys/devices/system/cpu")) -> str | None:
    """The frequency governor of these cores, several joined by commas; None where none is shown (most VMs)."""
    read = (read_text(root / f"cpu{core}/cpufreq/scaling_governor") for core in cores)
    return ", ".join(sorted({text.strip() for text in read if text})) or None


def cuda_index(device: str) -> int:
    """The index in "cuda" or "cuda:N".

    Raises UsageError for any other text, and if there is no such device here.
    """
    match = re.fullmatch(r"cuda(?::(\d+))?", device)
    if not match:
        raise UsageError(f"unknown device {device!r}; give cpu, cuda or cuda:N")
    import torch  # two seconds: only once a GPU is asked for

    count = torch.cuda.device_count()
    index = int(match[1] or 0)
    if index >= count:
        raise UsageError(f"no device {device!r}: this machine shows {count} CUDA device(s); give cpu or a lower number")
    return index


def _gpu(device: str) -> Gpu:
    import torch

    from bench.machine.nvml import GpuProbe, NvmlUnavailable

    index = cuda_index(device)
    properties = torch.cuda.get_device_properties(index)
    plain = Gpu(name=properties.name, uuid=str(properties.uuid), memory_bytes=properties.total_memory)
    try:
        probe = GpuProbe.open(index)
    except NvmlUnavailable:
        return plain
    return with_nvml(plain, probe)


def with_nvml(gpu: Gpu, probe: "GpuProbe") -> Gpu:
    """The same GPU with what only NVML knows filled in."""
    facts = probe.facts()
    return gpu.model_copy(
        update={
            "uuid": probe.uuid,
            "driver": facts.driver,
            "cuda": facts.cuda,
            "power_limit_w": facts.power_limit_w,
            "persistence_mode": facts.persistence_mode,
            "max_clock_mhz": facts.max_clock_mhz,
            "mig": facts.mig,
        }
    )


def versions() -> dict[str, str]:
    """Name -> version of everything that can change a timing: Python, packages, and torch's own libraries.

    A package that is not installed (slc-bench started from its source folder) says so.
    """
    import torch

    found = {"python": platform.python_version(), "torch": torch.version.__version__}
    for package in PACKAGES:
        found[package] = _version(package) or "not installed"
    cudnn_version: Callable[[], int | None] = torch.backends.cudnn.version  # untyped in torch
    cudnn = cudnn_version()
    libraries = {
        "cuda": torch.version.cuda,
        "cudnn": None if cudnn is None else str(cudnn),
        "triton": _version("triton"),
        **library_versions(torch.__config__.show()),
    }
    return found | {name: version for name, version in libraries.items() if version}


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def library_versions(configuration: str) -> dict[str, str]:
    """Versions of MKL and oneDNN from the text of torch.__config__.show(); those it does not name are left out."""
    patterns = {
        "mkl": r"Math Kernel Library Version (\S+?)(?:-Product|\s|$)",
        "onednn": r"(?:MKL-DNN|oneDNN) v(\S+)",
    }
    found = {name: re.search(pattern, configuration) for name, pattern in patterns.items()}
    return {name: match[1] for name, match in found.items() if match}


def commit(folder: Path | None = None) -> str | None:
    """The commit of the source tree slc-bench runs from, with "+dirty" if tracked files were changed.

    None without git, or if the package is not tracked there: an installed copy may lie inside another project's
    tree, whose commit would say nothing. Never raises.
    """
    folder = Path(__file__).resolve().parent if folder is None else folder
    try:
        if not _git(folder, "ls-files", "--error-unmatch", "fingerprint.py"):
            return None
        return _described(folder)
    except (OSError, subprocess.SubprocessError):
        return None


def tree_commit(folder: Path | None = None) -> str | None:
    """The commit of the working tree that a folder lies in, by default the current one, with "+dirty" as `commit` has.

    A network is found in the current folder first: where slc-bench is installed, this commit and not slc-bench's own
    tells its code. None without git or outside a working tree. Never raises.
    """
    try:
        return _described(Path.cwd() if folder is None else folder)
    except (OSError, subprocess.SubprocessError):
        return None


def _described(folder: Path) -> str | None:
    return _git(folder, "describe", "--always", "--exclude=*", "--abbrev=40", f"--dirty={DIRTY}")


def _git(folder: Path, *arguments: str) -> str | None:
    # Inside a hook, GIT_DIR and its like name another repository; without optional locks git only reads.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    done = subprocess.run(
        ["git", "-C", str(folder), *arguments],
        env=environment | {"GIT_OPTIONAL_LOCKS": "0"},
        capture_output=True,
        text=True,
        timeout=GIT_TIMEOUT_S,
        check=False,
    )
    return (done.stdout.strip() or None) if done.returncode == 0 else None
