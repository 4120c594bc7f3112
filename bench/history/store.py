"""The history: a folder that can be committed or cached, one small file a run.

    .slc-bench/
      history/2026-11-23T09-15-02-resnet50-261e04a2-3f9c0d51ab20.json     a run in brief, readable by eye
      baselines/main.json                                                 a copy of one, under a name

A file's name ends with a digest of what it holds, machine and all: the same run added twice is one file, and two
processes that add at once never want the same name for different runs. No file is ever changed, none is shared, and
each appears whole or not at all, so that nothing has to be locked, and two branches of a repository merge without a
conflict. A baseline holds a copy and not a name of an entry, so that old history can be deleted and the baseline stays.
"""

import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import Field

from bench.errors import UsageError
from bench.folder import LONGEST_NAME, Record, now, write_atomically
from bench.history.reading import as_record, plausible, read_json
from bench.history.snapshot import SCHEMA_VERSION, Snapshot

#: Where the history is unless --store says otherwise.
DEFAULT = Path(".slc-bench")

#: Characters of the digest: 48 bits, of which two among a million runs agree with a chance of 0.2 %; and then nothing
#: is lost either, for a name also holds the time, the run's name and the commit.
DIGEST_LENGTH = 12

#: Characters of a commit in a file's name.
COMMIT_LENGTH = 8

_BASELINE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True)
class Entry:
    """A run of the history and its file."""

    snapshot: Snapshot
    path: Path


@dataclass(frozen=True)
class Contents:
    """What a folder of records holds: what can be read, oldest first, and a line about each file that cannot."""

    entries: tuple[Entry, ...]
    problems: tuple[str, ...]


class Baseline(Record):
    """A run under a name."""

    schema_version: Literal[1] = 1
    name: str
    chosen: str = Field(description="when it was made the baseline: UTC, ISO 8601")
    digest: str = Field(description="of `run`: tells an edited file from a written one")
    run: Snapshot


class Store:
    """A history on disk. Nothing is made before something is added, and nothing is ever deleted."""

    def __init__(self, path: Path = DEFAULT) -> None:
        """`path`: the folder; it need not exist."""
        self.path = path

    def add(self, snapshot: Snapshot) -> Path:
        """Keep a run; the path of its file, which is there already if the same run was added before.

        Safe in several processes at once. Raises UsageError if the folder cannot be written.
        """
        return self._write(self.path / "history" / _file_name(snapshot), snapshot)

    def read(self) -> Contents:
        """All runs, by the time they ran, and what is wrong with the files that cannot be read.

        Raises UsageError if there is no history.
        """
        folder = self.path / "history"
        if not folder.is_dir():
            raise UsageError(f"no history in {str(self.path)!r}: begin one with `python -m bench history add RUN`")
        return _contents(folder, _entry)

    def entries(self) -> list[Entry]:
        """The runs that can be read, by the time they ran; `read` also says which cannot. Raises as `read` does."""
        return list(self.read().entries)

    def entry(self, name: str) -> Entry:
        """The one entry whose file's name, or the digest in it, begins with `name`.

        Raises UsageError if there is none, several, or one that cannot be read.
        """
        folder = self.path / "history"
        files = _files(folder) if folder.is_dir() else []
        found = [file for file in files if file.name.startswith(name) or _digest_in(file).startswith(name)]
        if not name or not found:
            raise UsageError(
                f"no entry of {str(self.path)!r} is called {name!r}; `python -m bench history list` shows all"
            )
        if len(found) > 1:
            raise UsageError(
                f"{len(found)} entries begin with {name!r}: {found[0].name}, {found[1].name} ...; give more of it"
            )
        return _entry(found[0])

    def set_baseline(self, name: str, snapshot: Snapshot) -> Path:
        """Give a run a name, in the place of the run that had it before; the path of its file.

        Raises UsageError for a name that cannot be a file's, if the folder cannot be written, and for a baseline that
        cannot be read: what it holds, perhaps points of others, would be lost.
        """
        record = Baseline(name=_checked(name), chosen=now(), digest=digest(snapshot), run=snapshot)
        if self.has_baseline(name):
            _baseline(self.baseline_file(name))
        return self._write(self.baseline_file(name), record)

    def has_baseline(self, name: str) -> bool:
        """Whether there is a baseline of this name, readable or not."""
        return bool(_BASELINE_NAME.fullmatch(name)) and self.baseline_file(name).is_file()

    def baseline_file(self, name: str) -> Path:
        """Where the baseline of this name is, or would be."""
        return self.path / "baselines" / f"{name}.json"

    def baseline(self, name: str) -> Snapshot:
        """The run of this name. Raises UsageError if there is none, or its file cannot be read."""
        file = self.baseline_file(name)
        if not self.has_baseline(name):
            known = ", ".join(each.stem for each in _files(file.parent)) if file.parent.is_dir() else ""
            raise UsageError(
                f"no baseline {name!r} in {str(self.path)!r}: {'there is ' + known if known else 'there is none yet'}; "
                f"`python -m bench history baseline set {name} RUN` makes one"
            )
        return _baseline(file).run

    def baselines(self) -> Contents:
        """All baselines, by the time their runs ran; an entry's file is named like the baseline."""
        folder = self.path / "baselines"
        if not folder.is_dir():
            return Contents((), ())
        return _contents(folder, lambda file: Entry(_baseline(file).run, file))

    def _write(self, file: Path, record: Record) -> Path:
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(file, record.model_dump_json(indent=1) + "\n")
        except OSError as error:
            raise UsageError(
                f"cannot write {str(file)!r}: {error.strerror or error}; nothing was changed, make room or name "
                "another folder with --store"
            ) from None
        return file


def digest(snapshot: Snapshot) -> str:
    """DIGEST_LENGTH hexadecimal digits of what a run in brief says.

    Fields at their defaults do not count, so that a field that a later version adds leaves old digests as they are.
    """
    content = snapshot.model_dump(mode="json", exclude_defaults=True)
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:DIGEST_LENGTH]


def _file_name(snapshot: Snapshot) -> str:
    stamp = snapshot.created.removesuffix("+00:00").replace(":", "-")
    parts = [stamp, snapshot.name[:LONGEST_NAME], (snapshot.commit or "no-commit")[:COMMIT_LENGTH]]
    plain = [re.sub(r"[^A-Za-z0-9._-]+", "-", part).strip("-.") for part in parts]
    return "-".join([*(part for part in plain if part), digest(snapshot)]) + ".json"


def _files(folder: Path) -> list[Path]:
    """Records of a folder by name; what a killed writer left behind begins with a dot."""
    return sorted(file for file in folder.glob("*.json") if not file.name.startswith("."))


def _digest_in(file: Path) -> str:
    return file.stem.rpartition("-")[2]


def _contents(folder: Path, read: Callable[[Path], Entry]) -> Contents:
    entries, problems = [], []
    for file in _files(folder):
        try:
            entries.append(read(file))
        except UsageError as error:
            problems.append(str(error))
    entries.sort(key=lambda entry: (entry.snapshot.created, entry.path.name))
    return Contents(tuple(entries), tuple(problems))


def _entry(file: Path) -> Entry:
    snapshot = plausible(file, as_record(file, read_json(file), Snapshot, newest=SCHEMA_VERSION))
    if digest(snapshot) != _digest_in(file):
        raise UsageError(f"{file}: its content is not what its name stands for: it was edited or renamed; restore it")
    return Entry(snapshot, file)


def _baseline(file: Path) -> Baseline:
    found = as_record(file, read_json(file), Baseline, newest=SCHEMA_VERSION)
    if digest(found.run) != found.digest or found.name != file.stem:
        raise UsageError(
            f"{file}: it was edited or renamed after it was written; restore it, or delete it and set the baseline "
            "again"
        )
    plausible(file, found.run)
    return found


def _checked(name: str) -> str:
    if not _BASELINE_NAME.fullmatch(name) or len(name) > LONGEST_NAME:
        raise UsageError(
            f"{name!r} cannot be a baseline's name: at most {LONGEST_NAME} letters, digits, dots, dashes and "
            "underscores, the first a letter or digit"
        )
    return name
