"""What `python -m bench history` does once its options are read."""

import sys
from collections.abc import Sequence
from pathlib import Path

from bench.cli import json_output
from bench.cli.exits import DONE, INCOMPLETE
from bench.errors import UsageError
from bench.history.operands import snapshot_of
from bench.history.snapshot import Snapshot
from bench.history.steps import series
from bench.history.store import Contents, Entry, Store
from bench.text import on_one_line
from reports import history as text
from reports.pipes import while_read

#: Name and version of what `list --json` prints.
ENTRIES_SCHEMA = "slc-bench/history/1"


def add(runs: Sequence[Path], folder: Path) -> int:
    """Keep runs; none is kept unless all can be read."""
    store = Store(folder)
    snapshots = [_measured(str(run), snapshot_of(_as_path(run), folder)) for run in runs]
    for snapshot in snapshots:
        print(f"kept: {store.add(snapshot)}")
    return DONE


def entries(folder: Path, *, json: bool) -> int:
    """List what the history holds."""
    contents = Store(folder).read()
    if json:
        json_output.print_object(_entries_object(folder, contents))
    else:
        text.print_entries(contents.entries)
    return _tell(contents.problems)


def show(name: str | None, archs: Sequence[str], last: int, folder: Path) -> int:
    """Show series with their steps, or one run."""
    wanted = {part.strip() for value in archs for part in value.split(",") if part.strip()}
    store = Store(folder)
    contents = store.read() if name is None or (folder / "history").is_dir() else Contents((), ())
    chosen = [entry for entry in contents.entries if name is None or entry.snapshot.name == name]
    if chosen or name is None:
        text.print_series(series(_with_only(chosen, wanted)), last)
    else:
        (one,) = _with_only([_one(store, name)], wanted)
        text.print_run(one.snapshot)
    return _tell(contents.problems)


def set_baseline(name: str, run: str, folder: Path) -> int:
    """Give a run a name."""
    path = Store(folder).set_baseline(name, _measured(run, read(run, folder)))
    print(f"baseline {name}: {path}")
    return DONE


def baselines(folder: Path) -> int:
    """List the baselines."""
    contents = Store(folder).baselines()
    text.print_baselines(contents.entries)
    return _tell(contents.problems)


def read(run: str, folder: Path) -> Snapshot:
    """The run in brief that RUN names: a path, a baseline, or the beginning of an entry's file name or digest.

    Raises UsageError if it names nothing, or nothing that can be read.
    """
    path = Path(run).expanduser()
    return snapshot_of(_as_path(path), folder) if path.exists() else _one(Store(folder), run).snapshot


def _one(store: Store, name: str) -> Entry:
    """The baseline, or else the entry, of this name."""
    if store.has_baseline(name):
        return Entry(store.baseline(name), store.baseline_file(name))
    return store.entry(name)


def _as_path(run: Path) -> str:
    """A path that `snapshot_of` cannot take for a baseline's name."""
    return str(run.expanduser().absolute())


def _measured(run: str, snapshot: Snapshot) -> Snapshot:
    """Refuse a run without a number: nothing could ever be compared with it."""
    if not any(point.status == "ok" and point.all is not None for point in snapshot.points):
        raise UsageError(f"{run!r} holds no measured point yet: nothing to keep; continue it with --resume")
    return snapshot


def _with_only(entries: Sequence[Entry], archs: set[str]) -> list[Entry]:
    """The entries with their points of these networks; none given, all. Raises UsageError if there are none."""
    if not archs:
        return list(entries)
    kept = []
    for entry in entries:
        points = tuple(point for point in entry.snapshot.points if point.work.arch in archs)
        if points:
            kept.append(Entry(entry.snapshot.model_copy(update={"points": points}), entry.path))
    if not kept:
        raise UsageError(f"nothing of {', '.join(sorted(archs))} is there; leave out --arch to see all")
    return kept


def _entries_object(folder: Path, contents: Contents) -> dict[str, object]:
    """{schema, store, rows}: a row an entry, and the files that cannot be read."""
    return {
        "schema": ENTRIES_SCHEMA,
        "store": {"path": str(folder), "problems": list(contents.problems)},
        "rows": [
            {
                "file": str(entry.path),
                "name": entry.snapshot.name,
                "created": entry.snapshot.created,
                "commit": entry.snapshot.commit,
                "status": entry.snapshot.status,
                "tool": entry.snapshot.tool,
                "machine": entry.snapshot.machine.model_dump(mode="json"),
                "points": [
                    point.model_dump(mode="json", include={"work", "threads", "status", "single", "all", "speedup"})
                    for point in entry.snapshot.points
                ],
            }
            for entry in contents.entries
        ],
    }


def _tell(problems: Sequence[str]) -> int:
    """Name what cannot be read; the exit code that follows."""
    with while_read(sys.stderr):
        for problem in problems:
            print(f"warning: {on_one_line(problem)}", file=sys.stderr)
    return INCOMPLETE if problems else DONE
