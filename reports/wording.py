"""Numbers and settings as words: what tables, figure and terminal say alike. Plain values in, text out."""

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from bench import counts
from bench.run import Manifest, Point
from bench.speed.rows import Row
from bench.speed.settings import Setting

if TYPE_CHECKING:
    from bench.machine.fingerprint import Machine
    from bench.speed.rows import BreakEven

#: Headings of columns that hold words; all others hold numbers, aligned to the right.
WORDS = ("architecture", "setting")


def count(classes: int) -> str:
    """A class count with its thousands apart: 370,727."""
    return f"{classes:,}"


def exponent(classes: int) -> str | None:
    """The n of 2^n where bench.counts.label calls a count so: 18.5 for the paper's 370,727; None elsewhere."""
    return counts.label(classes).partition("^")[2] or None


def named(arch: str, label: str) -> str:
    """A network with what tells its setting from others, if anything has to: resnet50 (bfloat16)."""
    return f"{arch} ({label})" if label else arch


def significant(value: float, digits: int = 3) -> str:
    """A positive number to so many significant digits, never in exponent form; whole digits are never cut."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    decimals = digits - 1 - math.floor(math.log10(abs(value)))
    return f"{value:.{max(0, decimals)}f}"


def milliseconds(seconds: float | None) -> str:
    """Seconds as milliseconds to four significant digits, without the unit; empty for None."""
    return "" if seconds is None else significant(1e3 * seconds, 4)


def speedup(value: float | None) -> str:
    """A speedup to two decimals as the paper prints it, three significant digits at least; empty for None."""
    if value is None:
        return ""
    return f"{value:.2f}" if value >= 1 else significant(value)


def interval(row: Row, between: str = " .. ") -> str:
    """The 95 % interval of a row's speedup; empty where there is none, and for the single logit, which is 1."""
    if row.speedup_low is None or row.speedup_high is None or row.is_reference:
        return ""
    return f"{row.speedup_low:.3f}{between}{row.speedup_high:.3f}"


def classes_of(row: Row) -> str:
    """The class count of a row, which for the control says so."""
    return f"{count(row.classes)} (control)" if row.kind == "control" else count(row.classes)


def status(row: Row) -> str:
    """How far a row has come, in a word or two: its failure, rounds done, marked samples."""
    if row.status != "ok":
        return row.status
    if row.rounds_done == 0:
        return "waiting"
    marked = f", {row.marked_samples} marked" if row.marked_samples else ""
    return f"{row.rounds_done} rounds{marked}"


def failure(name: str, failed: Row | Point) -> str:
    """Which point of a setting of that name failed, how, and why."""
    reason = " ".join(failed.reason.split())
    return f"{name}, {count(failed.classes)} classes: {failed.status}" + (f": {reason}" if reason else "")


def failed_points(manifest: Manifest) -> list[str]:
    """One line for every point that has failed so far; where it did so in several processes, for the first of these."""
    failed: dict[tuple[int, int], Point] = {}
    for point in manifest.points:
        if point.status != "ok":
            failed.setdefault((point.setting, point.classes), point)
    names = setting_labels(manifest.settings)
    return [failure(names[point.setting], point) for point in failed.values()]


def duration(seconds: float) -> str:
    """A time to wait, to no more than a person needs: 45 s, 12 min, 3 h 10 min."""
    if seconds < 90:
        return f"{max(0, math.ceil(seconds))} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"


def threads(number: int) -> str:
    """How many threads: 1 thread, 2 threads."""
    return "1 thread" if number == 1 else f"{number} threads"


def asked(subset: int) -> str:
    """What is measured against all logits: one logit, or the several asked for at a time."""
    return "one logit" if subset == 1 else f"{subset} logits"


def break_even(found: Sequence["BreakEven"]) -> str:
    """From how many classes on one logit is how much faster, of one setting; counts to two digits, as they are guesses.

    Where the measured counts cannot say, it says so.
    """
    known = [
        f"{each.speedup:g}x as fast from "
        + ("about " if each.extrapolated else "")
        + f"{_about(each.classes)} classes"
        + (" (extrapolated)" if each.extrapolated else "")
        for each in found
        if each.classes is not None
    ]
    unknown = [f"{each.speedup:g}x" for each in found if each.classes is None]
    several = found[0].subset > 1 if found else False
    told = f"{asked(found[0].subset)} {'are' if several else 'is'} {', '.join(known)}" if known else ""
    they_are = "they are" if several else "it is"
    untold = f"from where {they_are} {', '.join(unknown)} as fast, the measured counts cannot say" if unknown else ""
    return "; ".join(filter(None, (told, untold)))


def break_even_lines(found: Sequence["BreakEven"], labels: Mapping[int, str] | None = None) -> list[str]:
    """One line a setting; `labels` names the settings by their index where the network's name is not enough."""
    by_setting: dict[int, list[BreakEven]] = defaultdict(list)
    for each in found:
        by_setting[each.setting].append(each)
    labels = labels or {}
    return [f"{labels.get(setting, each[0].arch)}: {break_even(each)}" for setting, each in sorted(by_setting.items())]


def _about(value: float) -> str:
    """Two significant digits, in millions or billions where that is shorter."""
    rounded = float(f"{value:.1e}")
    for name, size in (("billion", 1e9), ("million", 1e6)):
        if rounded >= size:
            return f"{rounded / size:g} {name}"
    return f"{rounded:,.0f}"


def control_line(name: str, row: Row) -> str:
    """What the control of a setting of that name found, the single logit against itself; empty if not measured."""
    if row.speedup is None:
        return ""
    between = f" (95 % interval {interval(row)})" if row.speedup_low is not None else ""
    itself = "the single logit against itself" if row.subset == 1 else f"{row.subset} logits against themselves"
    return f"{name}: control, {itself}: {row.speedup:.3f}{between}; must be 1"


def hardware(machine: "Machine", device: str) -> str:
    """What a device is: the GPU's name, or the CPU's with the cores that may be used."""
    if device != "cpu" and machine.gpu is not None:
        return machine.gpu.name
    return f"{machine.cpu}, {machine.cores_usable:g} of {machine.cores_logical} logical cores"


def measured_on(manifest: Manifest) -> list[str]:
    """What is measured on what: one line for the networks, one for the settings, one for the machine."""
    settings, protocol = manifest.settings, manifest.protocol
    devices = _each(setting.device for setting in settings)
    machine = "; ".join(f"{device} ({hardware(manifest.machine, device)})" for device in devices)
    torch = manifest.versions.get("torch", "of unknown version")
    rounds = f"{protocol.minibatches} minibatches"
    if protocol.processes > 1:
        rounds += f" in each of {protocol.processes} processes"
    if protocol.until is not None:
        rounds += f", or until every speedup is within +-{protocol.until:g} %"
    found = [traits(setting) for setting in settings]
    shared = [_shared(name, [each[name] for each in found]) for name in _SHOWN]
    return [
        f"{', '.join(_each(setting.arch for setting in settings))}: {asked(settings[0].subset)} against up to "
        f"{count(protocol.classes[-1])} classes, {rounds}",
        "; ".join(text for text in shared if text),
        f"{machine}; torch {torch}",
    ]


#: What an empty trait says, where some settings have it and others do not.
_USUAL = {
    "compile": "eager",
    "cuda graph": "no CUDA graph",
    "channels last": "contiguous",
    "work": "logits",
    "top layer": "full top layer",
}


def _shared(name: str, texts: Sequence[str]) -> str:
    """A trait of all settings of a run, every different one once; empty where none of them has it."""
    return ", ".join(_each(text or _USUAL.get(name, "") for text in texts)) if any(texts) else ""


#: Traits a header names always; the others only tell settings apart.
_SHOWN = ("dtype", "batch", "threads", "compile", "cuda graph", "tf32", "channels last", "work", "top layer", "order")


def traits(setting: Setting) -> dict[str, str]:
    """What tells settings apart, as short texts; switches that are off are empty."""
    return {
        "device": setting.device,
        "dtype": setting.dtype,
        "batch": f"batch {setting.batch_size}",
        "compile": "" if setting.compile == "none" else f"compile {setting.compile}",
        "order": setting.order + (f", block {setting.block}" if setting.block > 1 else ""),
        "threads": threads(setting.threads),
        "tf32": "TF32" if setting.tf32 and _has_tf32(setting) else "",
        **_modes(setting),
        "cudnn": "" if setting.cudnn_benchmark else "no cuDNN benchmark",
        "input": "x".join(map(str, setting.input_shape)),
        "seed": f"seed {setting.seed}",
    }


def _modes(known: Setting | Row) -> dict[str, str]:
    return {
        "cuda graph": "CUDA graph" if known.cuda_graph else "",
        "channels last": "channels last" if known.channels_last else "",
        "work": "" if known.work == "logits" else known.work,
        "top layer": "" if known.top_layer == "full" else f"{known.top_layer} top layer",
        "subset": "" if known.subset == 1 else f"{known.subset} classes at a time",
    }


def _has_tf32(setting: Setting) -> bool:
    """Elsewhere the switch changes nothing, whatever a run says of it."""
    return setting.dtype == "float32" and setting.device.startswith("cuda")


def row_traits(row: Row) -> dict[str, str]:
    """The traits that a row itself knows."""
    return {
        "device": row.device,
        "dtype": row.dtype,
        "batch": f"batch {row.batch_size}",
        "compile": "" if row.compile == "none" else f"compile {row.compile}",
        "order": row.order,
        **_modes(row),
    }


def distinguish(names: Sequence[str], described: Sequence[Mapping[str, str]]) -> list[str]:
    """For each of `described`, the traits in which those of the same name differ; empty where there is one of a name.

    Raises ValueError if the two differ in length.
    """
    groups: dict[str, list[Mapping[str, str]]] = defaultdict(list)
    for name, each in zip(names, described, strict=True):
        groups[name].append(each)
    differing = {
        trait
        for group in groups.values()
        for each in group
        for trait in each
        if len({other.get(trait, "") for other in group}) > 1
    }
    return [", ".join(text for trait, text in each.items() if trait in differing and text) for each in described]


def setting_labels(settings: Sequence[Setting]) -> dict[int, str]:
    """Index -> the network's name, and what tells the setting from others of the same network."""
    apart = distinguish([setting.arch for setting in settings], [traits(setting) for setting in settings])
    return {
        index: named(setting.arch, apart_by)
        for index, (setting, apart_by) in enumerate(zip(settings, apart, strict=True))
    }


def _each(values: Iterable[str]) -> list[str]:
    """Every different value once, in the order of first appearance."""
    return list(dict.fromkeys(values))
