"""Two runs in brief, point by point: what changed, whether that is for the worse, and what could not be told.

    base, new --> matched points --> a Change each of single, all, speedup (bench.history.verdict)
              --> how many tests share the false alarms --> verdicts --> Comparison --> outcome

docs/comparing.md gives the rule and its reasons.
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from bench.counts import label
from bench.errors import UsageError
from bench.history.snapshot import Estimate, OtherMachine, Point, Snapshot, Work
from bench.history.verdict import GATED as GATED
from bench.history.verdict import MARGIN as MARGIN
from bench.history.verdict import (
    Change,
    Standing,
    across_processes,
    cause,
    change,
    simultaneous,
    speedup_verdict,
    standings,
    time_verdict,
)
from bench.history.verdict import Gate as Gate
from bench.history.verdict import Quantity as Quantity
from bench.machine.fingerprint import Machine, same_hardware

Outcome = Literal["nothing worse", "worse", "undecided"]
Pair = tuple[Point, Point]

QUANTITIES: tuple[Quantity, ...] = ("single", "all", "speedup")


@dataclass(frozen=True)
class Judged:
    """One quantity of one point on both sides.

    low, high: ends of the interval of new / base, all intervals of the comparison holding together; None if the error
    is unknown. verdict: None for figures without one. smallest: the smallest relative change (0.05: 5 %) that would
    have been found four times out of five; None if there is no verdict or none would.
    """

    base: Estimate
    new: Estimate
    change: Change
    low: float | None
    high: float | None
    verdict: str | None
    smallest: float | None


@dataclass(frozen=True)
class PointChange:
    """One point that both sides measured; a quantity is None where a side lacks it. cause: in words."""

    work: Work
    base: Point
    new: Point
    single: Judged | None
    all: Judged | None
    speedup: Judged | None
    cause: str

    def standings(self, gate: Gate) -> tuple[Standing, ...]:
        """What each verdict comes to that the gate looks at."""
        return standings(*self.verdicts, gate)

    def standing(self, gate: Gate) -> Standing | None:
        """Whether this point turns the comparison red, or cannot be decided; None without verdicts."""
        order: tuple[Standing, ...] = ("worse", "undecided", "not worse")
        return min(self.standings(gate), key=order.index, default=None)

    @property
    def verdicts(self) -> tuple[str | None, str | None, str | None]:
        """The verdicts on single, all and speedup."""
        return _verdict(self.single), _verdict(self.all), _verdict(self.speedup)


@dataclass(frozen=True)
class Comparison:
    """What changed from one run to another.

    failed: points that BASE measured and NEW could not (the new ones). only_base, only_new: points with figures on
    one side alone. neither: points that failed on both sides (the new ones). hardware: fields that differ, and then
    there are no verdicts; `threads` concerns the points with unequal threads alone. versions: what differs, in
    words. tests: how many tests share the chance of a false alarm.
    """

    base: Snapshot
    new: Snapshot
    margin: float
    gate: Gate
    points: tuple[PointChange, ...]
    failed: tuple[Point, ...]
    only_base: tuple[Point, ...]
    only_new: tuple[Point, ...]
    hardware: tuple[str, ...]
    versions: tuple[str, ...]
    tests: int
    neither: tuple[Point, ...] = ()

    @property
    def worse(self) -> tuple[PointChange, ...]:
        """Points that turn the comparison red."""
        return tuple(point for point in self.points if point.standing(self.gate) == "worse")

    @property
    def undecided(self) -> tuple[PointChange, ...]:
        """Points that are not worse, but of which the gate looks at something that cannot be told."""
        return tuple(point for point in self.points if point.standing(self.gate) == "undecided")

    @property
    def outcome(self) -> Outcome:
        """Worse beats undecided; ambiguous points alone leave a comparison undecided only if nothing was decided."""
        if self.worse:
            return "worse"
        decided = any("not worse" in point.standings(self.gate) for point in self.points)
        return "nothing worse" if decided and not self.failed and not self.hardware else "undecided"


def compare(base: Snapshot, new: Snapshot, *, margin: float = MARGIN, gate: Gate = "both") -> Comparison:
    """Compare two runs; `margin` is the relative change that does not matter.

    Raises UsageError for a margin outside 0 to 1, other work, no point in common, a number that is none, and a side
    without a complete round.
    """
    if not 0 < margin < 1:
        raise UsageError(f"a margin of {margin} is none: give more than 0 and less than 1, such as 0.03 for 3 %")
    for side, run in (("BASE", base), ("NEW", new)):
        _check(side, run)
    pairs, only_base, only_new = _matched(base.points, new.points)
    if not pairs:
        raise UsageError(_nothing_in_common(base, new))
    hardware = _hardware(base, new)
    both = [pair for pair in pairs if all(map(_measured, pair))]
    tests = max(1, len(_tests([pair for pair in both if _same_threads(pair)], gate)))
    points = [_point_change(pair, margin, tests) for pair in both]
    comparable = [not hardware and _same_threads(pair) for pair in both]
    if not all(map(_same_threads, both)):
        hardware = (*hardware, "threads")
    return Comparison(
        base=base,
        new=new,
        margin=margin,
        gate=gate,
        points=tuple(
            point if alike else _without_verdicts(point) for point, alike in zip(points, comparable, strict=True)
        ),
        failed=tuple(_as_failed(new) for base, new in pairs if _measured(base) and not _measured(new)),
        only_base=tuple(only_base),
        only_new=(*only_new, *(new for base, new in pairs if _measured(new) and not _measured(base))),
        hardware=hardware,
        versions=tuple(_versions(base, new)),
        tests=tests,
        neither=tuple(new for base, new in pairs if not _measured(base) and not _measured(new)),
    )


def _check(side: str, run: Snapshot) -> None:
    if not run.points:
        raise UsageError(f"{side} ({run.name}) holds no point with more than one class: nothing to compare")
    for point in run.points:
        for name, estimate in _estimates(point):
            if estimate is not None and not _is_finite(estimate):
                raise UsageError(
                    f"{side} ({run.name}): {name} of {_name(point.work)} is not a number; measure it again"
                )
    if all(point.status == "ok" and not _measured(point) for point in run.points):
        raise UsageError(f"{side} ({run.name}) holds no complete round; measure it again, or --resume it")


def _is_finite(estimate: Estimate) -> bool:
    numbers = (estimate.value, estimate.error, estimate.degrees)
    return estimate.value > 0 and all(number is None or math.isfinite(number) for number in numbers)


def _estimates(point: Point) -> Iterator[tuple[Quantity, Estimate | None]]:
    yield from zip(QUANTITIES, (point.single, point.all, point.speedup), strict=True)


def _measured(point: Point) -> bool:
    return point.status == "ok" and point.all is not None


def _as_failed(point: Point) -> Point:
    """A point without a complete round says why there is nothing to compare."""
    reason = {} if point.status != "ok" else {"status": "failed", "reason": "no complete round"}
    return point.model_copy(update=reason)


# -- which points belong together ---------------------------------------------------------------------------------


def _matched(base: Sequence[Point], new: Sequence[Point]) -> tuple[list[Pair], list[Point], list[Point]]:
    """Pairs of equal work in BASE's order, and what is left of either side; equal threads go together first."""
    partners: dict[int, int] = {}
    for with_threads in (True, False):
        waiting: dict[tuple[Work, int | None], list[int]] = defaultdict(list)
        for number, point in enumerate(new):
            if number not in partners.values():
                waiting[_key(point, with_threads)].append(number)
        for number, point in enumerate(base):
            if number not in partners and waiting[_key(point, with_threads)]:
                partners[number] = waiting[_key(point, with_threads)].pop(0)
    pairs = [(base[ours], new[theirs]) for ours, theirs in sorted(partners.items())]
    left_base = [point for number, point in enumerate(base) if number not in partners]
    left_new = [point for number, point in enumerate(new) if number not in partners.values()]
    return pairs, left_base, left_new


def _key(point: Point, with_threads: bool) -> tuple[Work, int | None]:
    return point.work, point.threads if with_threads else None


def _same_threads(pair: Pair) -> bool:
    base, new = (point.threads for point in pair)
    return base == new or base is None or new is None


def _nothing_in_common(base: Snapshot, new: Snapshot) -> str:
    """Why no point of one run can be compared with one of the other: what differs where least differs."""
    ways = [_differing(ours.work, theirs.work) for ours in base.points for theirs in new.points]
    fewest = min(ways, key=lambda way: ("classes" not in way or len(way) > 1, len(way)))
    if set(fewest) == {"classes"}:
        sides = " against ".join(_counts(run.points) for run in (base, new))
        return f"BASE and NEW have no point in common: class counts {sides}; measure at equal ones"
    fewest.pop("classes", None)
    fields = ", ".join(f"{name} {ours} against {theirs}" for name, (ours, theirs) in fewest.items())
    return f"BASE and NEW measured different work: {fields}; compare runs of the same"


def _differing(ours: Work, theirs: Work) -> dict[str, tuple[object, object]]:
    return {
        name: (getattr(ours, name), getattr(theirs, name))
        for name in Work.model_fields
        if getattr(ours, name) != getattr(theirs, name)
    }


def _counts(points: Iterable[Point]) -> str:
    return ", ".join(label(count) for count in sorted({point.work.classes or 0 for point in points}))


def _name(work: Work) -> str:
    return work.arch if work.classes is None else f"{work.arch} at {label(work.classes)} classes"


# -- what is judged -----------------------------------------------------------------------------------------------


def _tests(pairs: Sequence[Pair], gate: Gate) -> set[object]:
    """The distinct tests that can raise a false alarm: the points of one setting share the single logit's time."""
    found: set[object] = set()
    for number, pair in enumerate(pairs):
        present = _on_both_sides(pair)
        gated = GATED[gate] if {"single", "speedup"} & present.keys() else ("all",)
        for name in gated:
            estimates = present.get(name)
            if estimates is None or any(estimate.error is None for estimate in estimates):
                continue  # never a verdict but AMBIGUOUS
            setting = pair[0].work.model_copy(update={"classes": None}), pair[0].threads
            found.add((name, *estimates, setting if name == "single" else number))
    return found


def _on_both_sides(pair: Pair) -> dict[Quantity, tuple[Estimate, Estimate]]:
    base, new = (dict(_estimates(point)) for point in pair)
    found = {}
    for name in QUANTITIES:
        ours, theirs = base[name], new[name]
        if ours is not None and theirs is not None:
            found[name] = (ours, theirs)
    return found


def _point_change(pair: Pair, margin: float, tests: int) -> PointChange:
    base, new = pair
    judged = {name: _judged(name, sides, pair, margin, tests) for name, sides in _on_both_sides(pair).items()}
    single, every, speedup = (judged.get(name) for name in QUANTITIES)
    verdicts = _verdict(single), _verdict(every), _verdict(speedup)
    words = cause(single.change if single else None, every.change if every else None, verdicts)
    return PointChange(base.work, base, new, single, every, speedup, words)


def _verdict(judged: Judged | None) -> str | None:
    return None if judged is None else judged.verdict


def _judged(name: Quantity, sides: tuple[Estimate, Estimate], pair: Pair, margin: float, tests: int) -> Judged:
    base, new = sides
    found = change(_across_processes(base, pair[0]), _across_processes(new, pair[1]))
    low, high = found.interval(simultaneous(tests)) or (None, None)
    verdict = (speedup_verdict if name == "speedup" else time_verdict)(found, margin, tests)
    return Judged(base, new, found, low, high, verdict, found.smallest(margin, tests))


def _without_verdicts(point: PointChange) -> PointChange:
    """Figures alone."""
    single, every, speedup = (
        judged and replace(judged, verdict=None, smallest=None) for judged in (point.single, point.all, point.speedup)
    )
    return replace(point, single=single, all=every, speedup=speedup, cause="")


def _across_processes(estimate: Estimate, point: Point) -> Estimate:
    return across_processes(estimate, [each.rounds for each in point.replicates])


# -- on what it was measured --------------------------------------------------------------------------------------


def _hardware(base: Snapshot, new: Snapshot) -> tuple[str, ...]:
    ours, theirs = base.machine, new.machine
    if isinstance(ours, Machine) and isinstance(theirs, Machine):
        return tuple(same_hardware(ours, theirs))
    pairs = zip(("cpu", "cores"), _processor(ours), _processor(theirs), strict=True)
    return tuple(name for name, one, other in pairs if one != other and None not in (one, other))


def _processor(machine: Machine | OtherMachine) -> tuple[str, int | None]:
    cores = machine.cores if isinstance(machine, OtherMachine) else machine.cores_logical
    return machine.cpu, cores


def _versions(base: Snapshot, new: Snapshot) -> Iterator[str]:
    """Software that differs, in words; what one side does not know is not a difference."""
    sides = _software(base), _software(new)
    for name in [*sides[0], *(name for name in sides[1] if name not in sides[0])]:
        ours, theirs = (side.get(name) for side in sides)
        if ours is not None and theirs is not None and ours != theirs:
            yield f"{name} {ours} -> {theirs}"


def _software(run: Snapshot) -> dict[str, str | None]:
    """Versions, and of the machine what software sets."""
    machine = run.machine
    if isinstance(machine, OtherMachine):
        return {**run.versions, "system": machine.system or None, "commit": run.commit}
    driver = machine.gpu.driver if machine.gpu else None
    return {
        **run.versions,
        "system": machine.os,
        "governor": machine.governor,
        "GPU driver": driver,
        "commit": run.commit,
    }
