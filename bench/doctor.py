"""What spoils timings on this machine, why it matters and what to do about it; nothing is changed.

`read` looks (about a second), `examine` decides from plain numbers, whoever calls them shows the findings.
"""

import os
import re
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from bench.machine import memory, read_text
from bench.machine.fingerprint import Machine, cuda_index, describe
from bench.machine.nvml import GpuProbe, NvmlUnavailable, reason_names, throttled

Severity = Literal["ok", "advice", "warning"]

#: Long enough that the kernel's 10 ms accounting is 1 % of a core.
WATCH_S = 1.0

#: Load of other processes, in cores. A desktop at rest takes a few percent of one.
QUIET_CORES = 0.1

#: Cores are left over, but memory bandwidth, the last cache and the turbo budget are shared with whoever uses them.
NEIGHBOUR_CORES = 0.5

#: Time the hypervisor gave to others, in cores.
STEAL_CORES = 0.02

#: Top layer of 2**18.5 = 370,727 classes in float32: 2,048 features (ResNet, Inception) and 4,096 (AlexNet, VGG-16).
SMALLER_TOP_LAYER_BYTES = 370_727 * 2048 * 4
LARGER_TOP_LAYER_BYTES = 370_727 * 4096 * 4

#: The largest backbone of the paper's five (VGG-16: 0.5 GB), its activations at batch size 32 and the logits.
REST_BYTES = 1_000_000_000


@dataclass(frozen=True)
class Finding:
    """One thing looked at: what it is, why it matters, what to do; no remedy where nothing is to be done."""

    kind: str
    severity: Severity
    happened: str
    matters: str
    remedy: str = ""


@dataclass(frozen=True)
class GpuReadings:
    """The GPU's part; None where it could not be read."""

    free_bytes: int
    foreign_processes: int | None
    reasons: int | None
    problem: str | None = None


@dataclass(frozen=True)
class Readings:
    """What was seen; None where the system does not tell. Loads are in cores, over the cores this process may use."""

    device: str
    machine: Machine
    threads: int
    watched_cores: int
    other_load: float | None
    steal: float | None
    turbo: bool | None
    free_bytes: int
    swapped_pages: int | None
    gpu: GpuReadings | None = None


def read(device: str, threads: int | None = None, watch_s: float = WATCH_S) -> Readings:
    """Look at this machine for `watch_s` seconds, asleep meanwhile; `threads` is torch's own number by default.

    Raises UsageError if `device` is not here.
    """
    import torch  # two seconds: only once a command needs it

    machine = describe(device)
    cores = sorted(os.sched_getaffinity(0))
    before = _activity(cores)
    time.sleep(watch_s)
    after = _activity(cores)
    other_load, steal = _loads(before, after)
    return Readings(
        device=device,
        machine=machine,
        threads=torch.get_num_threads() if threads is None else threads,
        watched_cores=len(cores),
        other_load=other_load,
        steal=steal,
        turbo=turbo(),
        free_bytes=memory.free_bytes("cpu"),
        swapped_pages=None if None in (before.swapped, after.swapped) else (after.swapped or 0) - (before.swapped or 0),
        gpu=None if device == "cpu" else _read_gpu(device),
    )


@dataclass(frozen=True)
class _Activity:
    """Sums since boot, or since the process started, at one moment."""

    at_s: float
    own_s: float
    times: tuple[float, float] | None
    swapped: int | None


def _activity(cores: list[int]) -> _Activity:
    return _Activity(
        at_s=time.monotonic(),
        own_s=time.process_time(),
        times=core_seconds(read_text(Path("/proc/stat")) or "", cores, os.sysconf("SC_CLK_TCK")),
        swapped=swapped_pages(read_text(Path("/proc/vmstat")) or ""),
    )


def _loads(before: _Activity, after: _Activity) -> tuple[float | None, float | None]:
    """Load of other processes and stolen time, in cores."""
    if before.times is None or after.times is None:
        return None, None
    wall_s = after.at_s - before.at_s
    busy_s = after.times[0] - before.times[0] - (after.own_s - before.own_s)
    return max(0.0, busy_s / wall_s), max(0.0, (after.times[1] - before.times[1]) / wall_s)


def core_seconds(stat: str, cores: Iterable[int], ticks_per_s: int) -> tuple[float, float] | None:
    """(busy, stolen) seconds of these cores since boot, from the text of /proc/stat; None if it does not list them.

    Source: proc_stat(5): user nice system idle iowait irq softirq steal; a guest's time is part of user.
    """
    lines = {line.split()[0]: line.split()[1:] for line in stat.splitlines() if line.startswith("cpu")}
    listed = [[int(field) for field in lines[f"cpu{core}"]] for core in cores if f"cpu{core}" in lines]
    if not listed or any(len(fields) < 8 for fields in listed):
        return None
    busy = sum(user + nice + system + irq + soft for user, nice, system, _, _, irq, soft, *_ in listed)
    return busy / ticks_per_s, sum(fields[7] for fields in listed) / ticks_per_s


def swapped_pages(vmstat: str) -> int | None:
    """Pages moved to and from swap since boot, from the text of /proc/vmstat; None if it does not say."""
    counts = re.findall(r"^pswp(?:in|out) (\d+)$", vmstat, re.MULTILINE)
    return sum(int(count) for count in counts) if counts else None


def turbo(root: Path = Path("/sys/devices/system/cpu")) -> bool | None:
    """Whether the cores may exceed their nominal clock; None where the system does not tell (most VMs)."""
    no_turbo, boost = read_text(root / "intel_pstate/no_turbo"), read_text(root / "cpufreq/boost")
    if no_turbo is not None:
        return no_turbo.strip() == "0"
    return None if boost is None else boost.strip() == "1"


def _read_gpu(device: str) -> GpuReadings:
    free = memory.free_bytes(device)
    try:
        probe = GpuProbe.open(cuda_index(device))
    except NvmlUnavailable as error:
        return GpuReadings(free, None, None, str(error))
    others = probe.foreign_processes()
    reasons = probe.read().reasons
    return GpuReadings(free, None if others is None else len(others), reasons, "; ".join(probe.problems) or None)


def examine(readings: Readings) -> list[Finding]:
    """One finding for each thing that was looked at, also where all is well."""
    findings = [
        _load(readings),
        _steal(readings),
        _threads(readings),
        _hyperthreads(readings),
        _governor(readings.machine.governor),
        _turbo(readings.turbo),
        _memory("memory", "free memory", readings.free_bytes),
        _container(readings.machine, readings.watched_cores),
        _swap(readings.swapped_pages),
    ]
    if readings.gpu is not None:
        findings += [
            _memory("gpu-memory", f"free memory of {readings.device}", readings.gpu.free_bytes),
            _nvml(readings.gpu.problem),
            _persistence(readings.machine),
            _foreign(readings.gpu.foreign_processes),
            _clocks(readings.gpu.reasons),
            _mig(readings.machine),
        ]
    return findings


def _load(readings: Readings) -> Finding:
    load, cores, threads = readings.other_load, readings.watched_cores, readings.threads
    matters = "a thread that shares its core holds up all others at every barrier: one busy neighbour can slow passes "
    matters += "ninefold and change the speedup itself"
    if load is None:
        return Finding("load", "advice", "the load of other processes cannot be read here", matters, "look with top")
    happened = f"other processes use {load:.2f} of {cores} cores; {threads} threads are to be timed"
    if load > QUIET_CORES and threads + load > cores + QUIET_CORES:
        left = int(cores - load)
        fewer = f" or measure with --threads {left}" if left >= 1 else ""
        return Finding("load", "warning", happened, matters, f"stop or wait for the other work{fewer}")
    if load > NEIGHBOUR_CORES:
        matters = "memory bandwidth, the last cache and the turbo clock are shared even where cores are free"
        return Finding("load", "advice", happened, matters, "stop or wait for the other work")
    return Finding("load", "ok", happened, matters)


def _steal(readings: Readings) -> Finding:
    steal = readings.steal
    matters = "the hypervisor lets other virtual machines run while this one believes it does: passes are stretched"
    if steal is None:
        return Finding("steal", "advice", "stolen time cannot be read here", matters, "look with top (st)")
    happened = f"the hypervisor took {steal:.2f} of {readings.watched_cores} cores"
    if steal > STEAL_CORES:
        remedy = "use a machine with dedicated cores, or more --processes at several times of day"
        return Finding("steal", "warning", happened, matters, remedy)
    return Finding("steal", "ok", happened, matters)


def _threads(readings: Readings) -> Finding:
    usable, threads = readings.machine.cores_usable, readings.threads
    happened = f"torch uses {threads} threads, and this process may use {usable:g} cores"
    matters = "more threads than cores wait for each other at every barrier, and a quota stops all of them at once"
    if threads > usable:
        return Finding("threads", "warning", happened, matters, f"measure with --threads {max(1, int(usable))}")
    return Finding("threads", "ok", happened, matters)


def _hyperthreads(readings: Readings) -> Finding:
    machine = readings.machine
    matters = "two threads on one physical core share its arithmetic units, and which two do changes from pass to pass"
    if machine.cores_logical <= machine.cores_physical:
        return Finding("hyperthreads", "ok", f"{machine.cores_physical} cores without hyperthreads are shown", matters)
    happened = f"{machine.cores_logical} logical on {machine.cores_physical} physical cores, {readings.threads} threads"
    if readings.threads > machine.cores_physical:
        remedy = f"measure with --threads {machine.cores_physical}"
        return Finding("hyperthreads", "warning", happened, matters, remedy)
    remedy = "pin the process to one logical core of each physical one: taskset -c, cores from lscpu --extended"
    return Finding("hyperthreads", "advice", happened, matters, remedy)


def _governor(governor: str | None) -> Finding:
    matters = "a governor other than performance lowers the clock between passes and raises it during them"
    if governor is None:
        return Finding("governor", "ok", "this system shows no frequency governor (usual in a VM)", matters)
    if governor == "performance":
        return Finding("governor", "ok", "the frequency governor is performance", matters)
    remedy = "as root: cpupower frequency-set --governor performance"
    return Finding("governor", "advice", f"the frequency governor is {governor}", matters, remedy)


def _turbo(turbo: bool | None) -> Finding:
    matters = "a turbo clock falls as cores get warm or more of them work, so early passes are faster than late ones"
    if turbo is None:
        return Finding("turbo", "ok", "this system does not show turbo (usual in a VM)", matters)
    if not turbo:
        return Finding("turbo", "ok", "turbo is off", matters)
    remedy = "as root, for the steadiest times: 1 into /sys/devices/system/cpu/intel_pstate/no_turbo, "
    remedy += "or 0 into /sys/devices/system/cpu/cpufreq/boost"
    return Finding("turbo", "advice", "turbo is on", matters, remedy)


def _memory(kind: str, what: str, free: int) -> Finding:
    smaller, larger = SMALLER_TOP_LAYER_BYTES + REST_BYTES, LARGER_TOP_LAYER_BYTES + REST_BYTES
    happened = f"{what}: {free / 1e9:.1f} GB"
    matters = (
        f"2**18.5 classes in float32 need about {smaller / 1e9:.0f} GB with a ResNet or Inception, "
        f"{larger / 1e9:.0f} GB with AlexNet or VGG-16; a count that does not fit is left out"
    )
    if free < smaller:
        remedy = "free memory, or measure fewer classes with --max-classes or in bfloat16"
        return Finding(kind, "warning", happened, matters, remedy)
    if free < larger:
        remedy = "free memory before AlexNet and VGG-16, or measure them with a lower --max-classes"
        return Finding(kind, "advice", happened, matters, remedy)
    return Finding(kind, "ok", happened, matters)


def _container(machine: Machine, cores: int) -> Finding:
    limits = []
    if machine.cores_usable < cores:
        limits.append(f"a quota of {machine.cores_usable:g} of {cores} cores")
    if machine.container_memory_limit_bytes is not None:
        limits.append(f"{machine.container_memory_limit_bytes / 1e9:.1f} GB of memory")
    matters = "a CPU quota stops every thread for the rest of a period once it is used up; memory over its limit kills"
    if not limits:
        return Finding("container", "ok", "no control group limits this process", matters)
    happened = "a control group limits this process to " + " and ".join(limits)
    if machine.cores_usable < cores:
        remedy = "give the container whole cores of its own (--cpuset-cpus) in place of a quota (--cpus)"
        return Finding("container", "advice", happened, matters, remedy)
    return Finding("container", "ok", happened, matters)


def _swap(pages: int | None) -> Finding:
    matters = "a pass that waits for the disk measures the disk"
    if pages is None:
        return Finding("swap", "advice", "swapping cannot be read here", matters, "look with vmstat 1 (si, so)")
    if pages > 0:
        happened = f"{pages} pages went to or came from swap while watching"
        return Finding("swap", "warning", happened, matters, "free memory until nothing is swapped")
    return Finding("swap", "ok", "nothing was swapped while watching", matters)


def _nvml(problem: str | None) -> Finding:
    matters = "without NVML lower clocks and other processes on the GPU go unnoticed; times are measured all the same"
    if problem is None:
        return Finding("nvml", "ok", "NVML can be read", matters)
    return Finding("nvml", "advice", problem, matters, "check that nvidia-smi works here")


def _persistence(machine: Machine) -> Finding:
    matters = (
        "without persistence mode the driver lets go of an unused GPU: the next start is slow and its clocks reset"
    )
    mode = None if machine.gpu is None else machine.gpu.persistence_mode
    if mode is None:
        return Finding("persistence", "ok", "persistence mode is not shown", matters)
    if mode:
        return Finding("persistence", "ok", "persistence mode is on", matters)
    return Finding("persistence", "advice", "persistence mode is off", matters, "as root: nvidia-smi -pm 1")


def _foreign(count: int | None) -> Finding:
    matters = "another process's kernels run between ours and take its memory bandwidth, caches and power"
    if count is None:
        remedy = "look with nvidia-smi"
        return Finding("gpu-processes", "advice", "other processes on the GPU cannot be listed", matters, remedy)
    if count:
        happened = f"{count} other process{'es compute' if count > 1 else ' computes'} on the GPU"
        return Finding(
            "gpu-processes", "warning", happened, matters, "stop them (nvidia-smi lists them) or take a free GPU"
        )
    return Finding("gpu-processes", "ok", "no other process computes on the GPU", matters)


def _clocks(reasons: int | None) -> Finding:
    matters = "a GPU held back by heat or power runs below its clocks, more so the longer it works"
    if reasons is None:
        return Finding("gpu-clocks", "ok", "the reasons for lower clocks are not shown", matters)
    happened = "reasons for lower clocks now: " + (", ".join(reason_names(reasons)) or "none")
    if throttled(reasons):
        return Finding(
            "gpu-clocks", "warning", happened, matters, "improve cooling or power, or wait until it has cooled"
        )
    return Finding("gpu-clocks", "ok", happened, matters)


def _mig(machine: Machine) -> Finding:
    matters = "a slice shares power, and so clocks, with its neighbours, and its times are not those of the whole GPU"
    if machine.gpu is None or not machine.gpu.mig:
        return Finding("mig", "ok", "the GPU is not split into slices, as far as is shown", matters)
    return Finding(
        "mig", "advice", "the GPU is in multi-instance mode", matters, "compare only with runs on an equal slice"
    )
