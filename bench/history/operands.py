"""What BASE and NEW may be: a run's folder, a named baseline or a file of the history, or a pytest-benchmark file."""

import os
from pathlib import Path

from bench.errors import UsageError
from bench.folder import read_content
from bench.history.reading import plausible
from bench.history.snapshot import Snapshot, snapshot
from bench.history.store import Store
from bench.run import load_run
from bench.runs import kind_of


def snapshot_of(text: str, store: Path) -> Snapshot:
    """The run in brief that an operand names.

    A text with a slash, or a dot in front, is a path; any other is a baseline if there is one of that name, and a
    path otherwise. Raises UsageError if it is both, or neither, or cannot be read.
    """
    path = Path(text).expanduser()
    if _is_plainly_a_path(text):
        if not path.exists():
            raise UsageError(f"there is no {text!r}: give a run's folder, a baseline's name or a pytest-benchmark file")
        return _of_path(path)
    is_baseline = Store(store).has_baseline(text)  # also one that cannot be read: a path must not stand in for it
    if is_baseline and (path.is_file() or (path / "run.json").exists()):
        raise UsageError(f"{text!r} is a baseline of {str(store)!r} and a path; write ./{text} for the path")
    if is_baseline:
        return Store(store).baseline(text)
    if path.exists():
        return _of_path(path)
    try:
        return Store(store).baseline(text)
    except UsageError as error:
        raise UsageError(f"there is no file or folder {text!r}, and {error}") from None


def _is_plainly_a_path(text: str) -> bool:
    return text.startswith((".", "~")) or os.sep in text


def _of_path(path: Path) -> Snapshot:
    return _of_folder(path) if path.is_dir() else _of_file(path)


def _of_folder(path: Path) -> Snapshot:
    if not (path / "run.json").exists():
        raise UsageError(f"{str(path)!r} is not a run: there is no run.json in it{_newest_below(path)}")
    if kind_of(path) == "accuracy":
        raise UsageError(f"{str(path)!r} is an accuracy run; speed runs are read here, those of `python -m bench`")
    return plausible(path, snapshot(load_run(path)))


def _of_file(path: Path) -> Snapshot:
    if path.name == "run.json":
        raise UsageError(f"{str(path)!r} is one file of a run; give its folder, {str(path.parent)!r}")
    store = Store(path.absolute().parent.parent)
    if path.absolute().parent.name == "history":
        return store.entry(path.name).snapshot
    if path.absolute().parent.name == "baselines":
        return store.baseline(path.stem)
    from bench.history.formats import from_pytest_benchmark

    return from_pytest_benchmark(path)


def _newest_below(path: Path) -> str:
    """What to say of a folder of runs; a folder may have been renamed, so the run itself says when it was made."""
    runs = [file.parent for file in path.glob("*/run.json")]
    return f"; the newest run below it is {str(max(runs, key=_made))!r}" if runs else ""


def _made(run: Path) -> tuple[str, str]:
    """When a run was made, and its folder's name; what cannot be read counts as the oldest."""
    try:
        created = read_content(run).get("created")
    except UsageError:
        created = None
    return created if isinstance(created, str) else "", run.name
