"""Finished runs of single parts, taken into the paper's run instead of being measured again.

    RUN  ->  of which part is it, and does it measure what the part would?  ->  copied into the paper's folder

The runs of a part take hours; who has them on this machine need not pay for them twice.
"""

import contextlib
import itertools
import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from bench.accuracy import data, losses
from bench.accuracy.orders import orders_left
from bench.accuracy.request import PRESETS
from bench.accuracy.run import AccuracyRun
from bench.accuracy.settings import LossSetting, Recipe
from bench.accuracy.spreading import cores, spread
from bench.errors import UsageError
from bench.folder import Notice
from bench.machine import fingerprint
from bench.machine.device import resolve_device
from bench.paper.parts import AccuracyPart, Options, Size, SpeedPart, full_size
from bench.paper.record import PaperManifest, PartRecord, Reused, name_of
from bench.paper.requests import accuracy_request, speed_request
from bench.run import Run
from bench.runs import load_any
from bench.speed.plan import plan as plan_speed
from bench.speed.rows import rows
from bench.speed.tasks import remaining_tasks

P = TypeVar("P", SpeedPart, AccuracyPart)

_COMMIT_DIGITS = 12

#: Copies in the making; a kill leaves them behind, and the next --resume removes them.
_UNFINISHED = ".reused-"

#: What a run needs in order to be gone on with, and nobody needs who only reads it.
_NOT_COPIED = "checkpoints"

#: Fields of a setting and of a recipe that do not say what is measured: how much, how it is spread over the machine.
#: Seeds are drawn: any is as good as another, and a run's own is in its run.json.
OF_NO_CONCERN = {"seed", "steps", "threads", "workers", "stack", "curve_points"}


@dataclass(frozen=True)
class Found:
    """A finished run, and the part that it is."""

    path: Path
    run: Run | AccuracyRun
    part: SpeedPart | AccuracyPart
    size: Size

    @property
    def reused(self) -> Reused:
        """What the paper's run.json says of it."""
        manifest = self.run.manifest
        return Reused(name=manifest.name, created=manifest.created, commit=manifest.commit)


def find(paths: Sequence[Path], manifest: PaperManifest) -> list[Found]:
    """The runs in these folders, each with its part.

    Raises UsageError, one line, for a run that is not complete, not from this machine and these versions, of no part
    or of one that has begun, and for two of one part.
    """
    found: list[Found] = []
    for path in paths:
        new = _found(path, manifest)
        for other in found:
            if other.part == new.part:
                raise _refused(path, f"{other.path} is the {name_of(new.part)} too; give one of them")
        found.append(new)
    return found


def _found(path: Path, manifest: PaperManifest) -> Found:
    run = load_any(path)
    records = [record for record in manifest.parts if _subject(record.part) == _subject_of(run)]
    if not records:
        raise _refused(path, f"{_words(_subject_of(run))} is no part of the paper's run")
    record = records[0]
    if record.folder is not None:
        raise _refused(path, f"the {name_of(record.part)} has begun already in {record.folder}")
    if isinstance(run, Run):
        assert isinstance(record.part, SpeedPart)
        device, size = run.manifest.settings[0].device, _speed_size(path, run, record.part, manifest.options)
    else:
        assert isinstance(record.part, AccuracyPart)
        device, size = run.manifest.recipe.device, _accuracy_size(path, run, record.part, manifest.options)
    try:
        fingerprint.refuse_another(run.manifest.machine, run.manifest.versions, device, path)
    except UsageError as error:
        raise UsageError(f"--reuse: {error}") from None
    return Found(path, run, record.part, size)


def _subject(part: SpeedPart | AccuracyPart) -> tuple[str, str]:
    """What tells a part from the others: its kind, and its network or data set."""
    return part.kind, part.arch if isinstance(part, SpeedPart) else part.dataset


def _subject_of(run: Run | AccuracyRun) -> tuple[str, str]:
    if isinstance(run, Run):
        return "speed", ", ".join(dict.fromkeys(setting.arch for setting in run.manifest.settings))
    source = run.manifest.source
    return "accuracy", f"data in hand ({run.manifest.dataset.name})" if source is None else source.name


def _words(subject: tuple[str, str]) -> str:
    kind, name = subject
    return f"speed of {name}" if kind == "speed" else f"accuracy on {name}"


def _refused(path: Path, why: str) -> UsageError:
    return UsageError(f"--reuse {path}: {why}")


def _refuse_unfinished(path: Path, run: Run | AccuracyRun, command: str, *, is_whole: bool) -> None:
    status = run.manifest.status
    if status != "complete":
        state = "cut off, or still being measured" if status == "running" else status
        raise _refused(path, f"the run is {state}; let it end first: python -m bench {command}--resume {path}")
    if not is_whole:
        raise _refused(path, "its run.json says that it is complete, but records are missing: restore them")


# -- speed ------------------------------------------------------------------------------------------------------


def _speed_size(path: Path, run: Run, part: SpeedPart, options: Options) -> Size:
    """How much of a part a run is. Raises UsageError if it is not that part."""
    if len(run.manifest.settings) > 1:
        raise _refused(path, f"it holds {len(run.manifest.settings)} settings of {part.arch}, and a part is one")
    done = min((row.rounds_done for row in rows(run)), default=0)
    _refuse_unfinished(path, run, "", is_whole=_is_whole(run, done))
    setting = run.manifest.settings[0]
    wanted = plan_speed(speed_request(part, full_size(part), options)).settings[0]
    _refuse_another(path, setting.model_dump(), wanted.model_dump())
    if setting.threads != wanted.threads:
        raise _refused(path, _other_threads(setting.threads, wanted.threads))
    missing = sorted(set(part.classes) - set(run.manifest.protocol.classes))
    if missing:
        counts = ", ".join(f"{count:,}" for count in missing)
        raise _refused(path, f"it has no passes at {counts} classes, which are those of the {name_of(part)} too")
    return _large_enough(path, part, Size(amount=done) if done else None, "minibatches")


def _is_whole(run: Run, done: int) -> bool:
    """Whether every round that was asked for is there; a process that says it ended is not proof of its samples."""
    protocol = run.manifest.protocol
    stopped_early = protocol.until is not None
    return not remaining_tasks(run.manifest, run.samples) and (
        stopped_early or done == protocol.minibatches * protocol.processes
    )


# -- accuracy ---------------------------------------------------------------------------------------------------


def _accuracy_size(path: Path, run: AccuracyRun, part: AccuracyPart, options: Options) -> Size:
    """How much of a part a run is. Raises UsageError if it is not that part."""
    manifest = run.manifest
    is_whole = next(orders_left(manifest, run.trainings, run.evaluations), None) is None
    _refuse_unfinished(path, run, "accuracy ", is_whole=is_whole)
    assert manifest.source is not None, "data in hand are no part's"
    _refuse_another(path, manifest.source.model_dump(), {"split_seed": 0, "input_size": None})
    wanted = wanted_recipe(part, resolve_device(options.device))
    _refuse_another(path, manifest.recipe.model_dump(), wanted.model_dump())
    threads, threads_here = manifest.recipe.workers * manifest.recipe.threads, _threads(run, part, options)
    if threads != threads_here:
        raise _refused(path, _other_threads(threads, threads_here))
    _refuse_other_losses(path, run, part)
    if missing := [rate for rate in part.grids[-1] if rate not in manifest.learning_rates]:
        raise _refused(path, f"it has no trainings at learning rate {', '.join(f'{rate:g}' for rate in missing)}")
    size = Size(amount=manifest.recipe.steps, learning_rates=manifest.learning_rates)
    return _large_enough(path, part, size, "steps")


def wanted_recipe(part: AccuracyPart, device: str) -> Recipe:
    """How a part trains, found without its data: a data set that is gone does not spoil what was measured on it."""
    preset = PRESETS[part.preset] if part.preset else {}
    fields = {name: value for name, value in preset.items() if name in Recipe.model_fields}
    return Recipe(**{"network": data.default_network(part.dataset), "steps": part.full, "device": device, **fields})


def wanted_losses(part: AccuracyPart) -> tuple[str, ...]:
    """Keys of the losses that a part trains."""
    if part.preset and part.losses == "paper":
        return tuple(PRESETS[part.preset]["losses"])
    names = part.losses.split(",")
    return tuple(key for name in names for key in (losses.PAPER if name == "paper" else (losses.find(name).key,)))


def _refuse_other_losses(path: Path, run: AccuracyRun, part: AccuracyPart) -> None:
    found = {loss.key: loss for loss in run.manifest.losses}
    wanted = wanted_losses(part)
    if missing := [key for key in wanted if key not in found]:
        raise _refused(path, f"without {', '.join(missing)}, which the {name_of(part)} trains too")
    for key in wanted:
        if found[key].hyperparameters != (defaults := _defaults(key, run).hyperparameters):
            raise _refused(path, f"it has {key} with {found[key].hyperparameters}, and the part with {defaults}")


def _defaults(key: str, run: AccuracyRun) -> LossSetting:
    """A loss as a part has it; its names for frequencies do not depend on what these are."""
    classes, smoothing = run.manifest.dataset.classes, run.manifest.recipe.label_smoothing
    return losses.configured(key, classes=classes, class_frequencies=[1.0] * classes, label_smoothing=smoothing).setting


def _threads(run: AccuracyRun, part: AccuracyPart, options: Options) -> int:
    """Threads, all workers together, with which the same trainings would be done here."""
    recipe = run.manifest.recipe
    asked = accuracy_request(part, full_size(part), options)
    spreading = spread(
        len(run.manifest.members),
        device=recipe.device,
        stackable=True,
        cores=cores(),
        workers=asked.workers,
        stack=recipe.stack,
        threads=asked.threads,
    )
    return spreading.workers * spreading.threads


# -- both -------------------------------------------------------------------------------------------------------


def _refuse_another(path: Path, found: Mapping[str, object], wanted: Mapping[str, object]) -> None:
    """Raises UsageError naming each field that says another thing than the part's."""
    differing = [
        f"{name} is {found[name]} where the part has {value}"
        for name, value in wanted.items()
        if name not in OF_NO_CONCERN and found[name] != value
    ]
    if differing:
        raise _refused(path, f"it was measured another way: {', '.join(differing)}")


def _other_threads(then: int, now: int) -> str:
    return f"it was measured with {then} CPU threads, and this run has {now}; give --threads {then} here too"


def _large_enough(path: Path, part: P, size: Size | None, unit: str) -> Size:
    least = min(part.least, part.full)
    if size is None or size.amount < least:
        done = 0 if size is None else size.amount
        raise _refused(path, f"it has {done:,} {unit}, and the least that is worth the name is {least:,}")
    return size


def marked(manifest: PaperManifest, found: Iterable[Found], folders: Mapping[str, str]) -> PaperManifest:
    """The manifest with these parts done; `folders` by key of the part, and empty where nothing was copied."""
    by_key = {each.part.key: each for each in found}
    parts = tuple(
        _marked(record, by_key[record.part.key], folders.get(record.part.key)) if record.part.key in by_key else record
        for record in manifest.parts
    )
    others = [each.reused for each in by_key.values() if each.run.manifest.commit != manifest.commit]
    notices = (*manifest.notices, _other_commit(others, manifest.commit)) if others else manifest.notices
    return manifest.model_copy(update={"parts": parts, "notices": notices})


def _marked(record: PartRecord, found: Found, folder: str | None) -> PartRecord:
    return PartRecord(part=record.part, state="done", size=found.size, folder=folder, reused=found.reused)


def _other_commit(others: Sequence[Reused], commit: str | None) -> Notice:
    names: dict[str, list[str]] = {}
    for each in others:
        names.setdefault(_short(each.commit), []).append(each.name)
    measured = "; ".join(f"{', '.join(runs)} by {then}" for then, runs in names.items())
    return Notice(
        kind="reused-from-other-commit",
        happened=f"runs that are reused were measured by other commits than {_short(commit)}: {measured}",
        matters="if what lies between them changes how it is measured, the parts do not belong together",
        remedy="look at what changed between them, or leave out --reuse to measure them again",
    )


def _short(commit: str | None) -> str:
    """A commit in as many digits as tell it from others; a working tree that was altered still says so."""
    if commit is None:
        return "unknown"
    digits, plus, dirty = commit.partition("+")
    return digits[:_COMMIT_DIGITS] + plus + dirty


def copy_into(folder: Path, found: Sequence[Found]) -> dict[str, str]:
    """Copy the runs under a folder, all of them or none; the names of their folders by key of the part.

    Checkpoints, locks and hidden files are left out. Raises UsageError if that is impossible, or if a run is changed
    meanwhile.
    """
    copied: dict[str, str] = {}
    try:
        for each in found:
            copied[each.part.key] = _copy(folder, each)
    except BaseException as error:
        for name in copied.values():
            shutil.rmtree(folder / name, ignore_errors=True)
        if isinstance(error, OSError | shutil.Error):
            raise UsageError(f"cannot copy a run to be reused into {folder}: {_first_reason(error)}") from None
        raise
    return copied


def _copy(folder: Path, found: Found) -> str:
    source = found.path.resolve()
    beside = folder / f"{_UNFINISHED}{os.getpid()}"
    try:
        shutil.copytree(source, beside, ignore=shutil.ignore_patterns(_NOT_COPIED, ".*"))
        if load_any(beside).manifest != found.run.manifest:
            raise UsageError(f"--reuse {found.path}: it was changed while it was copied; try again")
        for attempt in itertools.count(1):
            name = (source.name.lstrip(".") or "run") + (f"-{attempt}" if attempt > 1 else "")
            if not (folder / name).exists():
                beside.rename(folder / name)
                return name
        raise AssertionError("unreachable")
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def _first_reason(error: OSError) -> str:
    """copytree collects what failed of each file: (from, to, why)."""
    reasons = error.args[0] if isinstance(error, shutil.Error) and error.args else None
    if isinstance(reasons, list) and reasons:
        return f"{reasons[0][-1]}"
    return error.strerror or str(error)


def remove_unfinished(folder: Path) -> None:
    """Remove copies that a kill left half-made; called under the folder's lock."""
    for left in folder.glob(f"{_UNFINISHED}*"):
        with contextlib.suppress(OSError):
            shutil.rmtree(left)
