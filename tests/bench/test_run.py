import json
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from bench.errors import UsageError
from bench.folder import RunNotWritten, write_atomically
from bench.run import RunWriter, complete_rounds, load_run


def test_what_is_written_is_what_is_read(tmp_path: Path, make_manifest, make_round) -> None:
    manifest = make_manifest()
    writer = RunWriter.create(tmp_path, manifest)
    writer.append(make_round(0))
    writer.append(make_round(1))
    writer.replace(manifest.model_copy(update={"status": "complete"}))
    writer.close()
    run = load_run(writer.path)
    assert run.manifest == manifest.model_copy(update={"status": "complete"})
    assert run.samples == make_round(0) + make_round(1)
    assert run.notices == ()


def test_two_runs_never_share_a_folder(tmp_path: Path, make_manifest) -> None:
    writers = [RunWriter.create(tmp_path, make_manifest()) for _ in range(3)]
    assert [writer.path.name for writer in writers] == [
        "2026-01-02T03-04-05-resnet50",
        "2026-01-02T03-04-05-resnet50-2",
        "2026-01-02T03-04-05-resnet50-3",
    ]


def test_a_run_that_is_being_written_is_not_written_by_another(tmp_path: Path, make_manifest, make_round) -> None:
    writer = RunWriter.create(tmp_path, make_manifest())
    writer.append(make_round(0))
    with pytest.raises(UsageError, match="another process is writing"):
        RunWriter.reopen(writer.path)
    writer.append(make_round(1))
    writer.close()
    again, run = RunWriter.reopen(writer.path)
    assert run.samples == make_round(0) + make_round(1)
    again.close()


def test_a_folder_that_is_no_run_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is not a run"):
        RunWriter.reopen(tmp_path)
    assert os.listdir(tmp_path) == []


def test_a_run_that_cannot_be_read_is_let_go_of(tmp_path: Path, make_manifest) -> None:
    writer = RunWriter.create(tmp_path, make_manifest())
    writer.close()
    (writer.path / "samples.jsonl").write_text("rubbish\n")
    for _ in range(2):  # a lock that was kept would be the second error
        with pytest.raises(UsageError, match="line 1"):
            RunWriter.reopen(writer.path)


def test_names_that_are_no_file_names_are_made_into_one(tmp_path: Path, make_manifest) -> None:
    writer = RunWriter.create(tmp_path, make_manifest(name="timm/a b:../c"))
    assert writer.path.parent == tmp_path
    assert writer.path.name == "2026-01-02T03-04-05-timm-a-b-..-c"


def test_a_name_of_many_networks_is_cut_short(tmp_path: Path, make_manifest) -> None:
    writer = RunWriter.create(tmp_path, make_manifest(name="-".join(["timm-efficientnet_b0"] * 30)))
    assert writer.path.is_dir()
    assert len(writer.path.name) <= 100


def test_a_torn_last_line_is_dropped_with_its_round_and_said(tmp_path: Path, make_manifest, make_round) -> None:
    writer = RunWriter.create(tmp_path, make_manifest())
    writer.append(make_round(0))
    writer.append(make_round(1))
    writer.close()
    file = writer.path / "samples.jsonl"
    file.write_bytes(file.read_bytes()[:-10])
    run = load_run(writer.path)
    assert run.samples == make_round(0)
    assert [notice.kind for notice in run.notices] == ["torn-line"]
    again, _ = RunWriter.reopen(writer.path)
    again.drop_torn_line()
    again.append(make_round(2))
    again.close()
    assert load_run(writer.path).samples == make_round(0) + make_round(2)
    assert load_run(writer.path).notices == ()


@pytest.mark.parametrize("rubbish", [b"rubbish", b"{}", b'{"setting": 0}', b"\xff\xfe", b""])
def test_rubbish_in_the_middle_is_an_error_that_names_the_line(
    tmp_path: Path, make_manifest, make_round, rubbish: bytes
) -> None:
    writer = RunWriter.create(tmp_path, make_manifest())
    writer.append(make_round(0))
    writer.close()
    file = writer.path / "samples.jsonl"
    lines = file.read_bytes().splitlines()
    before = b"\n".join([lines[0], rubbish, *lines[1:]]) + b"\n"
    file.write_bytes(before)
    with pytest.raises(UsageError, match=r"samples\.jsonl, line 2"):
        load_run(writer.path)
    assert file.read_bytes() == before


def test_a_sample_of_a_setting_that_is_not_there_is_an_error(tmp_path: Path, make_manifest, make_round) -> None:
    writer = RunWriter.create(tmp_path, make_manifest())
    writer.append(make_round(0, setting=7))
    writer.close()
    with pytest.raises(UsageError, match="setting 7"):
        load_run(writer.path)


@pytest.mark.parametrize("version", [0, 2, "1", None])
def test_a_schema_version_of_another_program_is_refused(tmp_path: Path, make_manifest, version: object) -> None:
    writer = RunWriter.create(tmp_path, make_manifest())
    writer.close()
    file = writer.path / "run.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "schema_version": version}))
    with pytest.raises(UsageError, match="schema version"):
        load_run(writer.path)


def test_what_is_no_run_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is not a run"):
        load_run(tmp_path)
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(UsageError, match="not JSON"):
        load_run(tmp_path)
    (tmp_path / "run.json").write_text('{"schema_version": 1}')
    with pytest.raises(UsageError, match="name: Field required"):
        load_run(tmp_path)


def test_a_parent_that_is_a_file_is_one_clear_error(tmp_path: Path, make_manifest) -> None:
    (tmp_path / "results").write_text("")
    with pytest.raises(UsageError, match=r"cannot write a run under .*--output"):
        RunWriter.create(tmp_path / "results", make_manifest())


def test_an_incomplete_round_is_left_out(make_round) -> None:
    whole, torn = make_round(0), make_round(1)[:-1]
    assert complete_rounds(whole + torn) == whole


def test_an_atomic_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    file = tmp_path / "run.json"
    write_atomically(file, "old")
    script = textwrap.dedent(
        f"""
        import resource, signal
        from pathlib import Path
        from bench.folder import write_atomically
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
        try:
            write_atomically(Path({str(file)!r}), "new" * 100_000)
        except OSError:
            raise SystemExit(7)
        """
    )
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 7
    assert file.read_text() == "old"
    assert os.listdir(tmp_path) == ["run.json"]


def test_samples_that_the_disk_refuses_leave_no_half_line(tmp_path: Path, make_manifest, make_round) -> None:
    """The file size limit of a process stands in for a full disk: the write is cut short, then refused."""
    writer = RunWriter.create(tmp_path, make_manifest())
    writer.append(make_round(0))
    size = (writer.path / "samples.jsonl").stat().st_size
    pid = os.fork()
    if pid == 0:
        import resource

        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size + 100, size + 100))
        try:
            writer.append(make_round(1))
        except RunNotWritten:
            os._exit(7)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
    writer.close()
    assert load_run(writer.path).samples == make_round(0)
    assert load_run(writer.path).notices == ()


def test_a_window_of_a_setting_that_is_not_there_is_an_error(tmp_path: Path, make_manifest) -> None:
    writer = RunWriter.create(tmp_path, make_manifest())
    writer.close()
    window = {"setting": 1, "process": 0, "cycle": 0, "kind": "idle", "started": "", "offset_s": 0, "seconds": 5}
    counted = {"joules": 1, "images": 0, "period_s": 0.1, "resolution_j": 0.1}
    (writer.path / "energy.jsonl").write_text(json.dumps({**window, **counted}) + "\n")
    with pytest.raises(UsageError, match=r"energy\.jsonl: a window names setting 1, run\.json has fewer"):
        load_run(writer.path)


def test_a_writer_that_is_closed_makes_no_file(tmp_path: Path, make_manifest) -> None:
    writer = RunWriter.create(tmp_path, make_manifest())
    writer.close()
    with pytest.raises(ValueError, match="is closed"):
        writer.append_to("energy.jsonl", [])
    assert not (writer.path / "energy.jsonl").exists()
