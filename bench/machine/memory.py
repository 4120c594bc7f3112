"""How much memory may still be asked for, and how much was used at most.

On a CPU the kernel kills a process that takes too much, it raises nothing; so the limits are looked at first:
what the machine has free, every control group above the process (containers), and the process's own limits.
"""

import os
import re
import resource
from collections.abc import Sequence
from pathlib import Path

import psutil

from bench.machine import read_text

CGROUP_ROOT = Path("/sys/fs/cgroup")
CGROUP_MEMBERSHIP = Path("/proc/self/cgroup")
PROC_SELF = Path("/proc/self")

#: Version 1 of control groups writes "no limit" as the largest multiple of a page below 2**63.
UNLIMITED_BYTES = 2**60

#: The kernel counts resident pages per thread in batches, so a fresh peak may lie a little above the present size.
PEAK_SLACK_BYTES = 16 * 2**20


def free_bytes(device: str) -> int:
    """Bytes that can still be allocated on "cpu", "cuda" or "cuda:N".

    On CUDA this is what the driver has free: what torch's allocator keeps cached counts as taken, so empty its cache
    first. Raises what torch raises for a device that is not here.
    """
    if device == "cpu":
        return available(psutil.virtual_memory().available, [*cgroup_limits(), *process_limits()])
    import torch  # two seconds: only once a GPU is asked for

    return int(torch.cuda.mem_get_info(torch.device(device))[0])


def available(psutil_available: int, limits: Sequence[tuple[int, int]]) -> int:
    """The tightest of what the machine has free and what each (limit, used) pair leaves, in bytes; never negative."""
    return max(0, min([psutil_available, *(limit - used for limit, used in limits)]))


def container_limit(root: Path = CGROUP_ROOT, membership: Path = CGROUP_MEMBERSHIP) -> int | None:
    """The tightest memory limit of the control groups this process is in, in bytes; None if there is none."""
    return min((limit for limit, _ in cgroup_limits(root, membership)), default=None)


def cgroup_limits(root: Path = CGROUP_ROOT, membership: Path = CGROUP_MEMBERSHIP) -> list[tuple[int, int]]:
    """(limit, used) in bytes of every limited control group, from the process's own up to the root.

    File cache that the kernel gives back under pressure (inactive_file) does not count as used. Version 2 has two
    limits: over memory.max the kernel kills, over memory.high it slows the process down; the lower one counts.
    """
    groups = [_limits_v2(folder) for folder in cgroup_folders("", root, membership)]
    groups += [_limits_v1(folder) for folder in cgroup_folders("memory", root, membership)]
    return [group for group in groups if group is not None]


def cgroup_folders(controller: str, root: Path, membership: Path) -> list[Path]:
    """Existing folders of a controller's control groups, the process's own first; "" stands for version 2.

    A container without its own namespace reads the host's path, which does not exist in its mount: the mount's
    root is then the container's group, so the root is always among the folders.
    """
    path = _membership_path(controller, membership)
    if path is None:
        return []
    mounted = root / (controller or "unified")  # beside version 1 the second version is mounted as "unified"
    top = mounted if controller or mounted.is_dir() else root
    own = top / os.path.normpath("/" + path).lstrip("/")
    return [folder for folder in (own, *own.parents) if folder.is_relative_to(top) and folder.is_dir()]


def _membership_path(controller: str, membership: Path) -> str | None:
    """Lines read "hierarchy:controllers:path"; version 2 is hierarchy 0 with no controllers."""
    for line in (read_text(membership) or "").splitlines():
        hierarchy, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if (controller in controllers.split(",")) if controller else hierarchy == "0":
            return path
    return None


def _limits_v2(folder: Path) -> tuple[int, int] | None:
    limits = [_number(folder / name) for name in ("memory.max", "memory.high")]  # "max" is no number: no limit
    known = [limit for limit in limits if limit is not None]
    current = _number(folder / "memory.current")
    if not known or current is None:
        return None
    return min(known), max(0, current - _stat(folder, "inactive_file"))


def _limits_v1(folder: Path) -> tuple[int, int] | None:
    limit, usage = _number(folder / "memory.limit_in_bytes"), _number(folder / "memory.usage_in_bytes")
    if limit is None or usage is None or limit >= UNLIMITED_BYTES:
        return None
    return limit, max(0, usage - _stat(folder, "total_inactive_file"))


def _stat(folder: Path, field: str) -> int:
    match = re.search(rf"^{field} (\d+)$", read_text(folder / "memory.stat") or "", re.MULTILINE)
    return int(match[1]) if match else 0


def cpu_quota(root: Path = CGROUP_ROOT, membership: Path = CGROUP_MEMBERSHIP) -> float | None:
    """The tightest CPU quota of the control groups this process is in, in cores; None if there is none."""
    quotas = [_quota_v2(folder) for folder in cgroup_folders("", root, membership)]
    quotas += [_quota_v1(folder) for folder in cgroup_folders("cpu", root, membership)]
    return min((quota for quota in quotas if quota is not None), default=None)


def _quota_v2(folder: Path) -> float | None:
    match = re.fullmatch(r"(\d+) (\d+)", (read_text(folder / "cpu.max") or "").strip())  # "max 100000": no quota
    return int(match[1]) / int(match[2]) if match and int(match[2]) else None


def _quota_v1(folder: Path) -> float | None:
    quota, period = _number(folder / "cpu.cfs_quota_us"), _number(folder / "cpu.cfs_period_us")  # -1: no quota
    return quota / period if quota and period else None


def process_limits(proc: Path = PROC_SELF) -> list[tuple[int, int]]:
    """(limit, used) in bytes of the process's own limits: address space (ulimit -v) and data (ulimit -d)."""
    limits = []
    for kind, field in ((resource.RLIMIT_AS, "VmSize"), (resource.RLIMIT_DATA, "VmData")):
        soft = resource.getrlimit(kind)[0]
        used = _status(field, proc)
        if soft != resource.RLIM_INFINITY and used is not None:
            limits.append((soft, used))
    return limits


def peak_rss(proc: Path = PROC_SELF) -> int:
    """Most resident memory of this process, in bytes, since it started or since the last reset_peak_rss()."""
    peak = _status("VmHWM", proc)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 if peak is None else peak


def reset_peak_rss(proc: Path = PROC_SELF) -> bool:
    """Let peak_rss() start again from the present size; False where the kernel refuses, or takes it and does nothing.

    Source: proc_pid_clear_refs(5), value 5 (Linux 4.0).
    """
    try:
        (proc / "clear_refs").write_text("5")
    except OSError:
        return False
    peak, now = _status("VmHWM", proc), _status("VmRSS", proc)
    return peak is not None and now is not None and peak <= now + PEAK_SLACK_BYTES


def _status(field: str, proc: Path) -> int | None:
    match = re.search(rf"^{field}:\s*(\d+) kB$", read_text(proc / "status") or "", re.MULTILINE)
    return int(match[1]) * 1024 if match else None


def _number(path: Path) -> int | None:
    text = (read_text(path) or "").strip()
    return int(text) if text.isdecimal() else None
