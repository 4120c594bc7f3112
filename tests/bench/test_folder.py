"""What the folders of all kinds of runs share; what a speed run makes of it is in test_run.py."""

import json
import os
import resource
import signal
from pathlib import Path
from typing import ClassVar, Literal

import pytest

from bench import folder
from bench.errors import UsageError
from bench.folder import FolderWriter, Record, RunManifest, RunNotWritten, now, read_lines, read_manifest


class Plain(RunManifest):
    schema_version: Literal[1] = 1


class Line(Record):
    number: int


class Writer(FolderWriter[Plain]):
    FILES: ClassVar[tuple[str, ...]] = ("first.jsonl", "second.jsonl")


@pytest.fixture
def manifest() -> Plain:
    return Plain(name="a run", created="2026-01-02T03:04:05+00:00")


def test_a_folder_with_a_manifest_has_all_its_files(
    tmp_path: Path, manifest: Plain, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kill before run.json is there leaves no run, one after it a whole one."""
    seen: list[set[str]] = []
    write = folder.write_atomically

    def looked_at(path: Path, content: str | bytes) -> None:
        seen.append(set(os.listdir(path.parent)))
        write(path, content)

    monkeypatch.setattr(folder, "write_atomically", looked_at)
    writer = Writer.create(tmp_path, manifest)
    assert seen == [{".lock", "first.jsonl", "second.jsonl"}]
    assert set(os.listdir(writer.path)) == {".lock", "first.jsonl", "second.jsonl", "run.json"}
    assert writer.path.name == "2026-01-02T03-04-05-a-run"
    writer.close()


def test_what_cannot_be_created_leaves_nothing(
    tmp_path: Path, manifest: Plain, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path, content: str | bytes) -> None:
        raise OSError(28, "No space left on device")

    descriptors = len(os.listdir("/proc/self/fd"))
    monkeypatch.setattr(folder, "write_atomically", refuse)
    with pytest.raises(UsageError, match=r"No space left on device; name another folder with --output"):
        Writer.create(tmp_path, manifest)
    assert list(tmp_path.iterdir()) == []
    assert len(os.listdir("/proc/self/fd")) == descriptors


def test_a_folder_whose_files_cannot_be_opened_is_let_go_of(tmp_path: Path, manifest: Plain) -> None:
    (tmp_path / "second.jsonl").mkdir()
    descriptors = len(os.listdir("/proc/self/fd"))
    with pytest.raises(IsADirectoryError):
        Writer(tmp_path, manifest)
    assert len(os.listdir("/proc/self/fd")) == descriptors


def test_each_file_takes_its_own_lines(tmp_path: Path, manifest: Plain) -> None:
    writer = Writer.create(tmp_path, manifest)
    writer.append_to("first.jsonl", [Line(number=1), Line(number=2)])
    writer.append_to("second.jsonl", [Line(number=3)])
    writer.replace(manifest.model_copy(update={"status": "complete"}))
    writer.close()
    assert read_lines(writer.path / "first.jsonl", Line, "line") == ([Line(number=1), Line(number=2)], [])
    assert read_lines(writer.path / "second.jsonl", Line, "line") == ([Line(number=3)], [])
    assert read_manifest(writer.path, Plain, newest=1).status == "complete"


def test_torn_lines_of_every_file_are_cut_off(tmp_path: Path, manifest: Plain) -> None:
    writer = Writer.create(tmp_path, manifest)
    for name in Writer.FILES:
        writer.append_to(name, [Line(number=1)])
        with (writer.path / name).open("ab") as file:
            file.write(b'{"numb')
    lines, (notice,) = read_lines(writer.path / "first.jsonl", Line, "line")
    assert (len(lines), notice.kind) == (1, "torn-line")
    writer.drop_torn_line()
    writer.close()
    for name in Writer.FILES:
        assert (writer.path / name).read_bytes() == b'{"number":1}\n'


def test_a_line_that_the_disk_refuses_leaves_no_half_of_it(tmp_path: Path, manifest: Plain) -> None:
    writer = Writer.create(tmp_path, manifest)
    writer.append_to("first.jsonl", [Line(number=1)])
    size = (writer.path / "first.jsonl").stat().st_size
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 5, before[1]))
    try:
        with pytest.raises(RunNotWritten, match=r"cannot write .*first\.jsonl: File too large"):
            writer.append_to("first.jsonl", [Line(number=2)])
        with pytest.raises(RunNotWritten, match=r"cannot write .*run\.json"):
            writer.replace(manifest)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert (writer.path / "first.jsonl").stat().st_size == size
    assert read_manifest(writer.path, Plain, newest=1) == manifest
    writer.append_to("first.jsonl", [Line(number=2)])
    writer.close()
    assert len(read_lines(writer.path / "first.jsonl", Line, "line")[0]) == 2


def test_closing_twice_closes_once(tmp_path: Path, manifest: Plain) -> None:
    writer = Writer.create(tmp_path, manifest)
    writer.close()
    with open(os.devnull) as other:  # takes the number that the lock had
        writer.close()
        assert other.read() == ""


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "is not a run"),
        ("{", "not JSON"),
        ("[]", "not a JSON object"),
        ("\udcff", "is not a run"),
        ('{"schema_version": 2}', "a newer slc-bench can read it"),
        ('{"schema_version": "1"}', "not written by slc-bench"),
        ('{"schema_version": 1}', "name: Field required"),
    ],
)
def test_what_is_no_run_is_named(tmp_path: Path, content: str | None, words: str) -> None:
    if content is not None:
        (tmp_path / "run.json").write_text(content, errors="surrogateescape")
    with pytest.raises(UsageError, match=words):
        read_manifest(tmp_path, Plain, newest=1)


def test_the_time_is_utc_to_the_second() -> None:
    assert len(now()) == len("2026-01-02T03:04:05+00:00")
    assert now().endswith("+00:00")


def test_lines_of_a_missing_file_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot read the lines"):
        read_lines(tmp_path / "none.jsonl", Line, "line")
    (tmp_path / "some.jsonl").write_text(json.dumps({"number": "one"}) + "\n")
    with pytest.raises(UsageError, match=r"some\.jsonl, line 1: not a line \(number: "):
        read_lines(tmp_path / "some.jsonl", Line, "line")
