"""Part after part until the paper is measured, the time is spent or somebody stops it; then it can be resumed.

    what would each part take?  ->  sizes that fit the budget  ->  the part that is expected to end first
                                             ^                                     |
                                             '----- what time is left, then? ------'

The short parts come first: what they take beyond what was expected of them corrects what is expected of the long ones.
"""

import contextlib
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from bench.accuracy import grid
from bench.accuracy.plan import plan as plan_accuracy
from bench.accuracy.run import AccuracyRun
from bench.errors import UsageError
from bench.folder import Notice, RunNotWritten, RunStatus, not_written, now
from bench.machine import fingerprint
from bench.machine.device import resolve_device
from bench.paper import reuse
from bench.paper.budget import Candidate, Demand, parse_budget, seconds_of, spread
from bench.paper.parts import AccuracyPart, Options, Size, SpeedPart
from bench.paper.record import PaperManifest, PaperWriter, PartRecord, load, size_words, without_home
from bench.paper.requests import accuracy_request, speed_request
from bench.run import Run
from bench.runs import load_any
from bench.speed import sweep
from bench.speed.failures import first_line
from bench.speed.plan import plan as plan_speed

#: A kill loses at most so much of what is known of the time spent; nothing else depends on it.
KEEP_TIME_S = 10.0

#: What ends a part and leaves the others to be done.
_FAILURES = (RuntimeError, ValueError, ArithmeticError, MemoryError, OSError)

#: Learns what a part would take (bench.paper.expectation.demand_of).
Expect = Callable[[SpeedPart | AccuracyPart, Options], Demand]


class Watch(Protocol):
    """Who is told what happens."""

    def expects(self, record: PartRecord) -> None:
        """It is being found out what this part would take."""

    def begins(self, record: PartRecord) -> None:
        """This part begins, or goes on."""

    def advances(self, record: PartRecord, share: float) -> None:
        """So large a share of its passes or trainings is done; called between passes, so it must be quick."""

    def ends(self, record: PartRecord, run: Run | AccuracyRun | None) -> None:
        """This part has ended; without a run if it never began."""


@dataclass(frozen=True)
class Rests:
    """Seconds left in each half of the budget; None without a limit."""

    speed_s: float
    accuracy_s: float


def rests(manifest: PaperManifest) -> Rests | None:
    """What is left of each half; below 0 where it is overdrawn. Finding out what parts would take is paid by both."""
    if manifest.budget_s is None:
        return None
    half = (manifest.budget_s - manifest.preparing_s) / 2
    spent = {
        kind: sum(record.seconds for record in manifest.parts if record.part.kind == kind)
        for kind in ("speed", "accuracy")
    }
    return Rests(half - spent["speed"], half - spent["accuracy"])


def slower(records: Sequence[PartRecord], kind: str) -> float:
    """How many times as long as expected the parts of a kind have taken that are done; 1 before there is one."""
    done = [
        (record.seconds, seconds_of(record.demand, record.size))
        for record in records
        if record.part.kind == kind and record.state == "done" and record.demand and record.size
    ]
    expected = sum(seconds for _, seconds in done)
    return sum(seconds for seconds, _ in done) / expected if expected else 1.0


def candidates(records: Sequence[PartRecord]) -> list[Candidate]:
    """The parts that have not begun, with what is expected of them in the light of those that are done."""
    return [
        Candidate(record.part, record.demand.times(slower(records, record.part.kind)))
        for record in records
        if record.state in ("waiting", "left-out") and record.demand is not None
    ]


def settled(manifest: PaperManifest) -> tuple[PartRecord, ...]:
    """The records with the sizes that the time left allows; what does not fit is left out, with the reason."""
    waiting = {each.part.key: each for each in candidates(manifest.parts)}
    left = rests(manifest)
    if left is None:
        sizes = {key: Size(amount=each.part.full, learning_rates=each.part.grids[0]) for key, each in waiting.items()}
    else:
        sizes = spread(list(waiting.values()), speed_s=left.speed_s, accuracy_s=left.accuracy_s)
    return tuple(
        _settled(record, waiting[record.part.key], sizes.get(record.part.key)) if record.part.key in waiting else record
        for record in manifest.parts
    )


def _settled(record: PartRecord, candidate: Candidate, size: Size | None) -> PartRecord:
    if size is not None:
        return record.model_copy(update={"state": "waiting", "size": size, "reason": ""})
    part = candidate.part
    least = Size(amount=part.least, learning_rates=part.grids[-1])
    reason = f"{size_words(part, least)} would take {_words(candidate.least_s)}, more than is left for it"
    return record.model_copy(update={"state": "left-out", "size": None, "reason": reason})


def _words(seconds: float) -> str:
    minutes = max(1, round(seconds / 60))
    if minutes < 90:
        return f"{minutes} min"
    return f"{minutes / 60:.1f} h" if minutes < 48 * 60 else f"{minutes / 1440:.1f} days"


class Edition:
    """The paper's run in the making: knows what became of each part, and writes it down.

    Without a writer it is a look ahead, and nothing is written.
    """

    def __init__(
        self,
        manifest: PaperManifest,
        writer: PaperWriter | None,
        watch: Watch,
        expect: Expect,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`expect` finds out what a part takes; `clock` is in seconds."""
        self.manifest = manifest
        self._writer = writer
        self._watch = watch
        self._expect = expect
        self._clock = clock

    @property
    def path(self) -> Path:
        """The run's folder."""
        assert self._writer is not None, "a look ahead has no folder"
        return self._writer.path

    def record(self, key: str) -> PartRecord:
        """What became of a part so far."""
        return next(record for record in self.manifest.parts if record.part.key == key)

    def look_ahead(self) -> None:
        """Find out what the parts would take of which it is not known, and what fits. Raises RunNotWritten."""
        for record in self.manifest.parts:
            if record.state != "waiting" or record.demand is not None:
                continue
            began, before = self._clock(), self.manifest.preparing_s
            self._watch.expects(record)
            try:
                found = record.model_copy(update={"demand": self._expect(record.part, self.manifest.options)})
            except UsageError as error:
                found = record.model_copy(update={"state": "unavailable", "reason": without_home(str(error))})
            except _FAILURES as error:
                found = record.model_copy(update={"state": "failed", "reason": without_home(first_line(error))})
            self._put(found, preparing_s=before + self._clock() - began)
            if found.state != "waiting":
                self._watch.ends(found, None)
        self._replace(self.manifest.model_copy(update={"parts": settled(self.manifest)}))

    def look_again(self) -> bool:
        """Find out anew what the parts would take that are left out; whether there was time left to do so.

        A machine that was busy when it was looked at first makes them seem too dear for a budget that now has time.
        Raises RunNotWritten.
        """
        left = rests(self.manifest)
        left_out = [record.part.key for record in self.manifest.parts if record.state == "left-out"]
        if left is None or not left_out or left.speed_s + left.accuracy_s <= self.manifest.preparing_s:
            return False
        for key in left_out:
            self._update(key, state="waiting", demand=None, reason="")
        self.look_ahead()
        return True

    def next_part(self) -> PartRecord | None:
        """The part that was begun, else the one expected to end first; None when nothing is left that fits."""
        begun = [record for record in self.manifest.parts if record.state == "begun"]
        if begun:
            return begun[0]
        expected = {
            each.part.key: seconds_of(each.demand, size)
            for each in candidates(self.manifest.parts)
            if (size := self.record(each.part.key).size) is not None
        }
        return self.record(min(expected, key=lambda key: expected[key])) if expected else None

    def carry_out(self, record: PartRecord) -> RunStatus:
        """Do one part, or what it lacks; how its run ended. Raises RunNotWritten if the disk refuses this run.json."""
        key = record.part.key
        began, before = self._clock(), record.seconds
        kept = began

        def keep_time(share: float) -> None:
            nonlocal kept
            if self._clock() - kept >= KEEP_TIME_S:
                kept = self._clock()
                self._update(key, seconds=before + kept - began)
            self._watch.advances(self.record(key), share)

        self._watch.begins(record)
        run: Run | AccuracyRun | None = None
        try:
            run = (
                self._speed(record, keep_time) if isinstance(record.part, SpeedPart) else self._grid(record, keep_time)
            )
            state, reason = _outcome(run)
        except UsageError as error:
            state, reason = "failed", without_home(str(error))
        except _FAILURES as error:
            state, reason = "failed", without_home(first_line(error))
        finally:
            self._update(key, seconds=before + self._clock() - began)
        self._update(key, state=state, reason=reason)
        self._watch.ends(self.record(key), run)
        return run.manifest.status if run is not None else "incomplete"

    def settle(self) -> None:
        """Spread what time is left over what has not begun. Raises RunNotWritten."""
        self._replace(self.manifest.model_copy(update={"parts": settled(self.manifest)}))

    def end(self, status: RunStatus) -> None:
        """Write down how it ended, and let go of the folder."""
        try:
            self._replace(self.manifest.model_copy(update={"status": status}))
        finally:
            if self._writer:
                self._writer.close()

    def abandon(self, notice: Notice) -> None:
        """The disk refused: keep the ending in memory alone."""
        if self._writer:
            self._writer.close()
        update = {"status": "incomplete", "notices": (*self.manifest.notices, notice)}
        self.manifest = self.manifest.model_copy(update=update)

    def _speed(self, record: PartRecord, advance: Callable[[float], None]) -> Run:
        assert isinstance(record.part, SpeedPart)
        if record.folder is not None:
            planned, recorder = sweep.reopen(self.path / record.folder)
        else:
            assert record.size is not None, "a part that begins has a size"
            planned = plan_speed(speed_request(record.part, record.size, self.manifest.options))
            recorder = sweep.start(planned, self.path, self.manifest.command)
            self._began(record, recorder.run.path)
        rounds = planned.protocol.minibatches

        def watch(run: Run, doing: str) -> None:
            last = run.samples[-1] if run.samples else None
            advance((last.round + 1) / rounds if last is not None and last.phase == "timed" else 0.0)

        return sweep.execute(planned, recorder, watch)

    def _grid(self, record: PartRecord, advance: Callable[[float], None]) -> AccuracyRun:
        assert isinstance(record.part, AccuracyPart)

        def watch(run: AccuracyRun, progress: grid.Progress) -> None:
            steps = run.manifest.recipe.steps
            running = sum(len(each.members) * each.step / steps for each in progress.running)
            advance(min(1.0, (progress.done + running) / progress.total))

        if record.folder is not None:
            planned, started = grid.reopen(self.path / record.folder, watch)
        else:
            assert record.size is not None, "a part that begins has a size"
            planned = plan_accuracy(accuracy_request(record.part, record.size, self.manifest.options))
            started = grid.start(planned, self.path, self.manifest.command, watch)
            self._began(record, started.run.path)
        return grid.execute(planned, started)

    def _began(self, record: PartRecord, folder: Path | None) -> None:
        assert folder is not None, "its run was written under the paper's folder"
        self._update(record.part.key, state="begun", folder=folder.name)

    def _update(self, key: str, **update: object) -> None:
        self._put(self.record(key).model_copy(update=update))

    def _put(self, record: PartRecord, **update: object) -> None:
        parts = tuple(record if old.part.key == record.part.key else old for old in self.manifest.parts)
        self._replace(self.manifest.model_copy(update={"parts": parts, **update}))

    def _replace(self, manifest: PaperManifest) -> None:
        if self._writer:
            self._writer.replace(manifest)
        self.manifest = manifest


def _outcome(run: Run | AccuracyRun) -> tuple[str, str]:
    """State of a part whose run has ended, and the reason."""
    status = run.manifest.status
    if status == "complete":
        return "done", ""
    if status == "interrupted":
        return "begun", ""
    return "incomplete", _what_is_missing(run)


def _what_is_missing(run: Run | AccuracyRun) -> str:
    if isinstance(run, Run):
        failed = [point for point in run.manifest.points if point.status != "ok"]
        if failed:
            counts = ", ".join(f"{each.classes:,}" for each in sorted(failed, key=lambda point: point.classes))
            return f"no numbers for {counts} classes: {failed[0].reason or failed[0].status}"
    else:
        lost = [each for each in run.trainings if each.status == "failed"]
        if lost:
            return f"{len(lost)} trainings failed: {lost[0].member.name}: {lost[0].reason}"
    notices = run.manifest.notices
    return notices[-1].happened if notices else "not everything that was asked for was measured"


def start(
    manifest: PaperManifest, output: Path, watch: Watch, expect: Expect, reused: Sequence[reuse.Found] = ()
) -> Edition:
    """A new run in a folder under `output`, with copies of the runs that are reused.

    Raises UsageError if that cannot be written; nothing of it is then left.
    """
    writer = PaperWriter.create(output, manifest)
    try:
        manifest = _taking(manifest, writer, reused)
    except BaseException:
        writer.close()
        shutil.rmtree(writer.path, ignore_errors=True)
        raise
    return Edition(manifest, writer, watch, expect)


def _taking(manifest: PaperManifest, writer: PaperWriter, reused: Sequence[reuse.Found]) -> PaperManifest:
    """Copy the runs that are reused into the folder and write the manifest that says so; all of it or nothing.

    Raises UsageError.
    """
    folders = reuse.copy_into(writer.path, reused)
    manifest = reuse.marked(manifest, reused, folders)
    try:
        writer.replace(manifest)
    except BaseException as error:
        for folder in folders.values():
            shutil.rmtree(writer.path / folder, ignore_errors=True)
        if isinstance(error, RunNotWritten):
            raise UsageError(f"{error}; make room, or make it writable") from None
        raise
    return manifest


def runs_of(manifest: PaperManifest, path: Path) -> dict[str, Run | AccuracyRun]:
    """What the parts have on disk, by their keys; a run that cannot be read is left out."""
    found: dict[str, Run | AccuracyRun] = {}
    for record in manifest.parts:
        if record.folder is not None:
            with contextlib.suppress(UsageError):
                found[record.part.key] = load_any(path / record.folder)
    return found


def manifest_of(
    parts: Sequence[SpeedPart | AccuracyPart], options: Options, budget_s: float | None, command: Sequence[str] = ()
) -> PaperManifest:
    """A new run's manifest. Raises UsageError for a device that is not here."""
    device = resolve_device(options.device)
    return PaperManifest(
        name="paper",
        created=now(),
        command=tuple(command),
        options=options,
        budget_s=budget_s,
        parts=tuple(PartRecord(part=part) for part in parts),
        machine=fingerprint.describe(device),
        versions=fingerprint.versions(),
        commit=fingerprint.commit(),
    )


def reopened(manifest: PaperManifest, budget: str | None) -> PaperManifest:
    """A manifest to go on from: what was begun goes on, what could not be done is tried again.

    `budget` as on the command line; None leaves it as it is. Raises UsageError if it is no time.
    """
    parts = tuple(
        record
        if record.state == "done"
        else record.model_copy(update={"state": "begun", "reason": ""})
        if record.folder is not None
        else record.model_copy(update={"state": "waiting", "reason": ""})
        for record in manifest.parts
    )
    update: dict[str, object] = {"status": "running", "parts": parts}
    update["notices"] = tuple(notice for notice in manifest.notices if notice.kind != "not-written")
    if budget is not None:
        update["budget_s"] = parse_budget(budget)
    return manifest.model_copy(update=update)


def reopen(path: Path, budget: str | None, watch: Watch, expect: Expect, reused: Sequence[Path] = ()) -> Edition:
    """A paper's run that was cut off, or was left without something, to be continued.

    A new budget counts from its first beginning; None leaves the old one. `reused`: runs of parts that have not begun.
    Raises UsageError if it cannot be read or written, or if machine or versions are others than those it began with.
    """
    manifest = load(path)
    try:
        writer = PaperWriter(path, manifest)
    except OSError as error:
        raise UsageError(f"{path} cannot be continued: {error}; make it writable") from None
    with writer.going_on():
        writer.manifest = load(path)  # under the lock: nobody changes it any more
        device = resolve_device(manifest.options.device)
        fingerprint.refuse_another(manifest.machine, manifest.versions, device, path)
        manifest = reopened(writer.manifest, budget)
        for record in manifest.parts:
            if record.folder is not None and not (path / record.folder).is_dir():
                raise UsageError(f"{path / record.folder}, a part of the paper, is gone; put it back, or start anew")
        found = reuse.find(reused, manifest)
        reuse.remove_unfinished(path)
        manifest = _taking(manifest, writer, found)
    return Edition(manifest, writer, watch, expect)


def execute(edition: Edition) -> RunStatus:
    """Do what the budget allows; how it ended.

    An interrupt ends it early; a part that fails leaves the others alone.
    """
    try:
        status = _execute(edition)
    except KeyboardInterrupt:
        status = "interrupted"
    except RunNotWritten as error:
        edition.abandon(_not_written(str(error)))
        return "incomplete"
    try:
        edition.end(status)
    except RunNotWritten as error:
        edition.abandon(_not_written(str(error)))
        return "incomplete"
    return status


def _execute(edition: Edition) -> RunStatus:
    edition.look_ahead()
    has_done_one = False
    while (record := edition.next_part()) is not None or (has_done_one and edition.look_again()):
        if record is None:
            has_done_one = False  # nothing is looked at twice without something done in between
            continue
        if edition.carry_out(record) == "interrupted":
            return "interrupted"
        has_done_one = True
        edition.settle()
    return "complete" if all(record.state == "done" for record in edition.manifest.parts) else "incomplete"


def _not_written(reason: str) -> Notice:
    return not_written(reason, "the paper's run ended here: what cannot be kept is not measured")
