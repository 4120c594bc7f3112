"""Before it turns red: what looks worse is measured again, in fresh processes, base and new in turn.

    compare --> suspected points --> group by setting
                  turn 1:  base  new        each one fresh process: python -m bench --classes 1,K...
                  turn 2:  base  new
                  ...
                --> the runs of a side as one run of several processes --> compare --> the verdict that counts

Two runs lie hours apart and the machine may have changed between them; in turns both sides meet the same drift, and
the spread between processes, which one process cannot show, enters the interval. Where the base cannot be run, the
new side alone is measured again and held against the base as it was kept.
"""

import json
import math
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pydantic import ValidationError

from bench.errors import UsageError
from bench.exit_codes import DONE, INCOMPLETE
from bench.folder import Record, first_problem
from bench.history.compare import Comparison, Outcome, PointChange, compare
from bench.history.programs import Program, Side
from bench.history.snapshot import Point, Snapshot, Work, snapshot
from bench.machine.fingerprint import DIRTY, Machine, same_hardware
from bench.run import Run, load_run

#: Fresh processes a side: with fewer, a 5 % slowdown is missed too often on a shared machine.
TURNS = 5

#: The hindrance where nothing was to be measured again.
NOT_ASKED = "--confirm 0"

#: What a sweep ends with: done, and finished with points that failed, which its run names.
_LEFT_A_RUN = (DONE, INCOMPLETE)

#: Started with `-c`, so that bench is found as `-m bench` finds it: in the folder first.
_FACTS_SCRIPT = """
import json, sys
from bench.machine import fingerprint
commit = fingerprint.tree_commit() or fingerprint.commit()
facts = {"versions": fingerprint.versions(), "commit": commit}
print(json.dumps({**facts, "machine": fingerprint.describe(sys.argv[1]).model_dump()}))
"""


class MeasuringFailed(Exception):
    """A fresh process left no run to read; says why."""


#: Measures with these arguments of `python -m bench` in a fresh process of that side. Raises MeasuringFailed.
Measure = Callable[[Side, tuple[str, ...]], Run]


class Facts(Record):
    """What a program would measure with, and on what; `commit` as a run in brief has it."""

    versions: dict[str, str]
    commit: str | None
    machine: Machine


@dataclass(frozen=True)
class Lost:
    """A suspected point that could not be measured again."""

    point: PointChange
    reason: str


@dataclass(frozen=True)
class Confirmed:
    """A comparison, and what became of its suspected points when they were measured again."""

    first: Comparison
    again: Comparison | None = None
    """of the suspected points alone; None if none was measured again"""
    lost: tuple[Lost, ...] = ()
    turns: int = 0
    """fresh processes a side; 0 if nothing was to be measured again"""
    base_again: bool = False
    """whether base was measured again too, and not taken as it was kept"""
    hindrance: str = ""
    """why suspected points were not tried again: the first verdicts stand"""
    unchecked: tuple[str, ...] = ()
    """of which side, and why, it was not checked that its own code was measured again"""

    @property
    def final(self) -> Comparison:
        """The verdicts that count: a suspected point's second, and every other point's first; lost points are out."""
        lost = {_key(each.point) for each in self.lost}
        kept = (self.again_of(point) or point for point in self.first.points if _key(point) not in lost)
        return replace(self.first, points=tuple(kept))

    @property
    def outcome(self) -> Outcome:
        """What measured worse twice is worse; what was suspected and is neither that nor cleared leaves it open."""
        if self.final.worse:
            return "worse"
        return "undecided" if self.lost or self.unsettled else self.final.outcome

    def again_of(self, point: PointChange) -> PointChange | None:
        """The same point measured again, if it was."""
        again = () if self.again is None else self.again.points
        return next((each for each in again if _key(each) == _key(point)), None)

    @property
    def cleared(self) -> tuple[PointChange, ...]:
        """Suspected points, as first compared, of which the second measurement decided that they are not worse."""
        return tuple(point for point in self._worse_once if not self._is_open(point))

    @property
    def unsettled(self) -> tuple[PointChange, ...]:
        """Suspected points, as first compared, of which the second measurement could not tell what was suspected."""
        return tuple(point for point in self._worse_once if self._is_open(point))

    @property
    def _worse_once(self) -> tuple[PointChange, ...]:
        worse = {_key(point) for point in self.final.worse}
        return tuple(point for point in self.first.worse if self.again_of(point) and _key(point) not in worse)

    def _is_open(self, point: PointChange) -> bool:
        again, gate = self.again_of(point), self.first.gate
        before, after = point.standings(gate), again.standings(gate) if again else ()
        if len(before) != len(after):  # what was suspected may not have been measured
            return True
        return any(pair == ("worse", "undecided") for pair in zip(before, after, strict=True))


def confirm(
    first: Comparison,
    measure: Measure,
    *,
    turns: int = TURNS,
    base_again: bool,
    input_size: Callable[[Work], int | None] | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> Confirmed:
    """Measure the suspected points of a comparison again and compare anew.

    `base_again`: whether base can be measured too; otherwise it is taken as it was kept. `input_size` tells what
    --input-size a network needs (by default as archs.registry says), `say` takes a line before each process.
    A process that fails, or a point in it, makes the point lost: nothing is decided about it.
    """
    suspected = first.worse
    if not suspected:
        return Confirmed(first)
    lost: list[Lost] = []
    pairs: list[tuple[PointChange, Point, Point]] = []
    sides: tuple[Side, ...] = ("base", "new") if base_again else ("new",)
    seen: dict[Side, Snapshot] = {}
    for group in groups(suspected):
        try:
            size = (input_size or _input_size)(group[0].work)
            runs = _in_turn(group, sides, measure, turns, size, say)
        except MeasuringFailed as failure:
            lost += [Lost(point, str(failure)) for point in group]
            continue
        found = {side: snapshot(merged(each)) for side, each in runs.items()}
        seen |= found
        for point in group:
            base = _measured(found["base"], point) if base_again else point.base
            new = _measured(found["new"], point)
            reason = _why_not(base, new)
            if base is None or new is None or reason:
                lost.append(Lost(point, reason))
            else:
                pairs.append((point, base, new))
    return _decide(Confirmed(first, lost=tuple(lost), turns=turns, base_again=base_again), pairs, seen)


def _in_turn(
    group: Sequence[PointChange],
    sides: Sequence[Side],
    measure: Measure,
    turns: int,
    size: int | None,
    say: Callable[[str], None],
) -> dict[Side, list[Run]]:
    runs: dict[Side, list[Run]] = {side: [] for side in sides}
    counts = ", ".join(f"{point.work.classes:,}" for point in group)
    for turn in range(turns):
        for side in sides:
            say(f"measuring again: {group[0].work.arch}, {counts} classes, {side}, {turn + 1} of {turns}")
            try:
                runs[side].append(measure(side, arguments(group, seed=turn, input_size=size)))
            except MeasuringFailed as failure:
                raise MeasuringFailed(f"{side}, process {turn + 1} of {turns}: {failure}") from None
    return runs


def groups(points: Iterable[PointChange]) -> list[tuple[PointChange, ...]]:
    """Points that one process can measure together: those of one setting, in the order given."""
    found: dict[tuple[Work, int | None], list[PointChange]] = {}
    for point in points:
        found.setdefault((point.work.model_copy(update={"classes": None}), point.new.threads), []).append(point)
    return [tuple(group) for group in found.values()]


def arguments(group: Sequence[PointChange], *, seed: int, input_size: int | None = None) -> tuple[str, ...]:
    """What `python -m bench` is given to measure a group of points as they were measured before.

    `seed` is that of the turn, the same for both sides: in each turn they see the same inputs in the same order.
    """
    work, threads = group[0].work, group[0].new.threads
    rounds = max(math.ceil(point.new.rounds / max(1, len(point.new.replicates))) for point in group)
    values = {
        "--arch": work.arch,
        "--classes": ",".join(str(count) for count in (work.subset, *(point.work.classes for point in group))),
        "--minibatches": rounds,
        "--processes": 1,
        "--seed": seed,
        "--device": work.device,
        "--dtype": work.dtype,
        "--batch-size": work.batch_size,
        "--compile": work.compile,
        "--order": work.order,
        "--block": work.block,
        "--threads": threads,
        "--input-size": input_size,
    }
    # Left out at their defaults: a side may be a version of slc-bench that does not know them.
    newer = {
        "--cuda-graph": "on" if work.cuda_graph else "off",
        "--work": work.work,
        "--subset": work.subset,
        "--top-layer": work.top_layer,
    }
    usual = {"--cuda-graph": "off", "--work": "logits", "--subset": 1, "--top-layer": "full"}
    values |= {option: value for option, value in newer.items() if value != usual[option]}
    switches = {
        "--tf32": work.tf32,
        "--no-cudnn-benchmark": not work.cudnn_benchmark,
        "--channels-last": work.channels_last,
    }
    given = [text for option, value in values.items() if value is not None for text in (option, str(value))]
    return (*given, *(option for option, is_on in switches.items() if is_on))


def merged(runs: Sequence[Run]) -> Run:
    """Runs of one setting, each of one process, as one run of several. Raises ValueError for none."""
    if not runs:
        raise ValueError("no runs to merge")
    first = runs[0].manifest
    points = [
        point.model_copy(update={"process": process})
        for process, run in enumerate(runs)
        for point in run.manifest.points
    ]
    samples = [
        sample.model_copy(update={"process": process}) for process, run in enumerate(runs) for sample in run.samples
    ]
    processes = [
        each.model_copy(update={"process": process})
        for process, run in enumerate(runs)
        for each in run.manifest.processes
    ]
    update = {
        "points": tuple(points),
        "processes": tuple(processes),
        "protocol": first.protocol.model_copy(update={"processes": len(runs)}),
    }
    return Run(first.model_copy(update=update), samples)


def _decide(
    begun: Confirmed, pairs: Sequence[tuple[PointChange, Point, Point]], seen: Mapping[Side, Snapshot]
) -> Confirmed:
    if not pairs:
        return begun
    base = seen.get("base", begun.first.base).model_copy(update={"points": tuple(base for _, base, _ in pairs)})
    new = seen["new"].model_copy(update={"points": tuple(new for _, _, new in pairs)})
    try:
        again = compare(base, new, margin=begun.first.margin, gate=begun.first.gate)
        reason = f"the machines differ ({', '.join(again.hardware)})" if again.hardware else ""
    except UsageError as error:
        reason = str(error)
    if reason:
        return replace(begun, lost=(*begun.lost, *(Lost(point, reason) for point, _, _ in pairs)))
    return replace(begun, again=again)


def _measured(found: Snapshot, point: PointChange) -> Point | None:
    return next((each for each in found.points if each.work == point.work), None)


def _why_not(base: Point | None, new: Point | None) -> str:
    """Why two points cannot be compared, the first reason; empty if they can."""
    for side, point in (("base", base), ("new", new)):
        if point is None:
            return f"{side}: the fresh processes measured something else"
        if point.status != "ok":
            return f"{side}: {point.status}" + (f": {' '.join(point.reason.split())}" if point.reason else "")
        if not point.rounds:
            return f"{side}: no complete round"
    return ""


def _key(point: PointChange) -> tuple[Work, int | None]:
    return point.work, point.new.threads


def _input_size(work: Work) -> int | None:
    """The --input-size that a network needs to take the examples it took before; None if it does so by itself."""
    from archs.registry import UnknownNetwork, find

    try:
        usual = find(work.arch).input_shape
    except UnknownNetwork as error:
        raise MeasuringFailed(str(error)) from None
    return None if work.input_shape is None or work.input_shape == usual else work.input_shape[-1]


# -- what may be measured again, and by what ----------------------------------------------------------------------


def hindrance(new: Snapshot, here: Facts) -> str:
    """Why NEW cannot be measured again by the program of these facts; empty if it can."""
    if new.tool != "slc-bench" or not isinstance(new.machine, Machine):
        return f"NEW was measured by {new.tool}, which has to measure it again itself"
    if differing := same_hardware(new.machine, here.machine):
        return f"NEW was not measured on this machine ({', '.join(differing)} differ)"
    if differing := other_software(new, here):
        return f"NEW was not measured with what would measure it now ({'; '.join(differing)})"
    return ""


def other_software(then: Snapshot, now: Facts) -> list[str]:
    """In what words the software of a run differs from that of a program: versions, and the commit if both have one.

    Where one has none, `not_checked` says so.
    """
    differing = [
        f"{package} {version} then, {now.versions.get(package, 'none')} now"
        for package, version in then.versions.items()
        if now.versions.get(package) != version
    ]
    if then.commit and now.commit and then.commit != now.commit:
        differing.append(f"commit {_short(then.commit)} then, {_short(now.commit)} now")
    return differing


def not_checked(then: Snapshot, now: Facts) -> str:
    """Why equal software (`other_software`) does not show that a program has the code of a run; empty if it does."""
    if then.commit is None:
        return "the commit it was measured at is unknown"
    if now.commit is None:
        return "the commit of what measured it again is unknown"
    if then.commit.endswith(DIRTY):
        return "it was measured with changes that were not committed"
    return ""


def _short(commit: str) -> str:
    name, plus, dirty = commit.partition("+")
    return name[:12] + plus + dirty


def facts_of(program: Program, device: str = "cpu") -> Facts:
    """What a program would measure with. Raises UsageError if it cannot be started or has no slc-bench of this kind."""
    ended = _run([program.python, "-c", _FACTS_SCRIPT, device], program.folder)
    if ended.returncode:
        raise UsageError(f"{program.python} cannot measure in {str(program.folder)!r}: {_last_line(ended.stderr)}")
    try:
        return Facts.model_validate(json.loads(ended.stdout.splitlines()[-1]))
    except (IndexError, json.JSONDecodeError):
        raise UsageError(f"{program.python} is no Python with slc-bench: it printed {ended.stdout[:60]!r}") from None
    except ValidationError as error:
        raise UsageError(f"{program.python} has another slc-bench ({first_problem(error)}); install this one") from None


def in_fresh_processes(programs: Mapping[Side, Program]) -> Measure:
    """Measure by the program of each side, each time in a new process that leaves a run in a temporary folder."""

    def measure(side: Side, given: tuple[str, ...]) -> Run:
        program = programs[side]
        with tempfile.TemporaryDirectory(prefix="slc-bench-") as folder:
            command = [program.python, "-m", "bench", *given, "--output", folder, "--quiet"]
            try:
                ended = _run(command, program.folder)
                runs = [path for path in Path(folder).iterdir() if (path / "run.json").exists()]
                if ended.returncode in _LEFT_A_RUN and runs:
                    return load_run(runs[0])
            except UsageError as error:
                raise MeasuringFailed(str(error)) from None
            raise MeasuringFailed(_how_it_ended(ended.returncode, ended.stderr))

    return measure


def _run(command: Sequence[str], folder: Path) -> "subprocess.CompletedProcess[str]":
    """Run to the end, asleep meanwhile: whoever waits busily keeps a core from what is being measured."""
    try:
        return subprocess.run(
            command, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", check=False
        )
    except OSError as error:
        raise UsageError(f"cannot start {command[0]!r}: {error.strerror or error}") from None


def _how_it_ended(code: int, stderr: str) -> str:
    if code == -9:
        return "the process was killed (signal 9); the kernel does that when memory runs out"
    if code < 0:
        return f"the process was ended by signal {-code}"
    return f"the process ended with exit code {code}: {_last_line(stderr)}"


def _last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1].strip() if lines else "it said nothing"
