"""Everything the issue lists under "When things go wrong", caused and looked at."""

import contextlib
import errno
import json
import os
import pty
import re
import resource
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from typer.testing import CliRunner

import bench
import reports.__main__
from bench.folder import RunNotWritten
from bench.run import Manifest, Run, RunWriter, load_run
from bench.speed.tasks import Task, remaining_tasks

#: How a command ended: code, out, err.
Ended = Any
Command = Callable[..., Ended]
Options = Callable[..., list[str]]
Only = Callable[[Path], Path]
Begin = Callable[..., Any]


def assert_one_clear_line(ended: Ended, *words: str) -> None:
    assert ended.code == 2, ended.err
    assert ended.out == ""
    (line,) = ended.err.splitlines()
    assert line.startswith("error: ")
    for word in words:
        assert word in line


# -- what is refused before anything is measured ----------------------------------------------------------------

#: Options, and what the line must name: what is wrong, and what would be right.
REFUSED = {
    "no classes": (["--max-classes", "0"], ["'0'", "at least 1 class"]),
    "negative": (["--max-classes", "-5"], ["'-5'", "give one such as"]),
    "nan": (["--max-classes", "nan"], ["'nan'", "give one such as"]),
    "huge": (["--max-classes", "2**99999"], ["2**99999", "2**40"]),
    "code": (["--max-classes", "__import__('os')"], ["__import__", "give one such as"]),
    "zero in list": (["--classes", "1,0"], ["'0'", "at least 1 class"]),
    "counts twice": (["--classes", "1,16", "--max-classes", "64"], ["--classes", "--max-classes", "exclude"]),
    "network": (["--arch", "resnet5O"], ["'resnet5O'", "resnet50"]),
    "timm network": (["--arch", "timm/resnet19"], ["resnet19", "did you mean"]),
    "no network": (["--arch", ","], ["no network named", "paper"]),
    "no module": (["--arch", "nowhere_at_all:make"], ["nowhere_at_all", "neither installed nor in the current folder"]),
    "no factory": (["--arch", "tiny_networks:smal"], ["'smal'", "did you mean small"]),
    "factory raises": (["--arch", "tiny_networks:raising"], ["RuntimeError: the weights are nowhere to be found"]),
    "not linear": (["--arch", "tiny_networks:softmaxed"], ["'top'", "changed before it is returned"]),
    "device": (["--device", "tpu"], ["'tpu'", "auto, cpu, cuda"]),
    "device number": (["--device", "cuda:x"], ["'cuda:x'", "cuda:N"]),
    "absent device": (["--device", "cuda:99"], ["'cuda:99'", "--device cpu"]),
    "batch of none": (["--batch-size", "0"], ["--batch-size 0", "1 or more"]),
    "batch of x": (["--batch-size", "x"], ["--batch-size 'x'", "whole number"]),
    "no batch": (["--batch-size", ""], ["--batch-size", "name one or more"]),
    "dtype": (["--dtype", "int8"], ["'int8'", "float32, bfloat16, float16"]),
    "no dtype": (["--dtype", ""], ["--dtype", "float32"]),
    "no compile": (["--compile", ","], ["--compile", "none"]),
    "compile": (["--compile", "max"], ["'max'", "none, default, reduce-overhead"]),
    "order": (["--order", "backwards"], ["'backwards'", "interleaved, sequential"]),
    "until 0": (["--until", "0"], ["--until 0", "between 0 and 100"]),
    "until nan": (["--until", "nan"], ["--until nan", "between 0 and 100"]),
    "until in sequence": (["--order", "sequential", "--until", "2"], ["--until", "--order interleaved"]),
    "block in sequence": (["--order", "sequential", "--block", "2"], ["--block", "--order interleaved"]),
    "graph on cpu": (["--device", "cpu", "--cuda-graph", "on"], ["--cuda-graph", "leave it out"]),
    "energy on cpu": (["--device", "cpu", "--energy"], ["--energy", "leave out", "--device cuda"]),
    "tf32 on cpu": (["--device", "cpu", "--tf32"], ["--tf32", "leave it out"]),
    "graph trees on cpu": (["--device", "cpu", "--compile", "reduce-overhead"], ["reduce-overhead", "leave it out"]),
    "no rounds": (["--minibatches", "0"], ["--minibatches 0", "1 or more"]),
    "no processes": (["--processes", "0"], ["--processes 0", "1 or more"]),
    "no block": (["--block", "0"], ["--block 0", "1 or more"]),
    "no threads": (["--threads", "0"], ["--threads 0", "1 or more"]),
    "all threads": (["--threads", "1000000000000"], ["--threads 1000000000000", "4096 or less"]),
    "no pixels": (["--input-size", "0"], ["--input-size 0", "1 or more"]),
    "seed": (["--seed=-1"], ["--seed -1", "0 or more"]),
    "before doctor": (["--minibatches", "5", "doctor"], ["--minibatches", "'doctor'", "leave them out"]),
    "before list": (["--batch-size", "5", "--quick", "list"], ["--batch-size, --quick", "'list'"]),
    "resume and more": (["--resume", "x", "--minibatches", "5", "--quick"], ["--minibatches, --quick", "leave out"]),
    "resume of nothing": (["--resume", "nowhere"], ["'nowhere' is not a run"]),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_done_is_one_clear_line(name: str, tmp_path: Path, here: Command) -> None:
    options, words = REFUSED[name]
    alone = options[-1] in ("doctor", "list") or "--resume" in options
    network = [] if alone or "--arch" in options else ["--arch", "tiny_networks:small"]
    output = [] if alone else ["--output", tmp_path / "results"]
    assert_one_clear_line(here(*network, *output, *options), *words)
    assert list(tmp_path.iterdir()) == []


def test_a_refusal_in_a_process_of_its_own(apart: Command) -> None:
    options, words = REFUSED["before doctor"]
    assert_one_clear_line(apart(*options), *words)


def test_cuda_where_there_is_none(
    tmp_path: Path, here: Command, tiny: Options, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    ended = here(*tiny(tmp_path / "results", "--device", "cuda"))
    assert_one_clear_line(ended, "no device 'cuda' here", "--device cpu")
    assert list(tmp_path.iterdir()) == []


def test_a_file_in_place_of_the_output_folder_is_left_alone(tmp_path: Path, here: Command, tiny: Options) -> None:
    (tmp_path / "results").write_text("precious")
    for output in (tmp_path / "results", tmp_path / "results" / "deeper"):
        assert_one_clear_line(here(*tiny(output)), str(output), "--output")
    assert (tmp_path / "results").read_text() == "precious"


# -- runs that were altered or made elsewhere -------------------------------------------------------------------


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, here: Command, tiny: Options, only: Only) -> Path:
    parent = tmp_path_factory.mktemp("finished")
    assert here(*tiny(parent)).code == 0
    return only(parent)


@pytest.fixture
def copy_of_finished(finished: Path, tmp_path: Path) -> Path:
    copy = tmp_path / finished.name
    copy.mkdir()
    for name in ("run.json", "samples.jsonl"):
        (copy / name).write_bytes((finished / name).read_bytes())
    return copy


def _edit(path: Path, change: Callable[[dict], None]) -> str:
    content = json.loads((path / "run.json").read_text())
    change(content)
    (path / "run.json").write_text(json.dumps(content))
    return (path / "run.json").read_text()


def test_rubbish_in_the_middle_of_the_samples_is_named_and_left_as_it_is(copy_of_finished: Path, here: Command) -> None:
    samples = copy_of_finished / "samples.jsonl"
    lines = samples.read_bytes().splitlines(keepends=True)
    samples.write_bytes(b"".join([*lines[:4], b"rubbish\n", *lines[4:]]))
    before = samples.read_bytes()
    assert_one_clear_line(here("--resume", copy_of_finished), f"{samples}, line 5", "start a new run")
    drawn = CliRunner().invoke(reports.__main__.app, [str(copy_of_finished)])
    assert (drawn.exit_code, drawn.stdout) == (2, "")
    (line,) = drawn.stderr.splitlines()
    assert line.startswith(f"error: {samples}, line 5: not a sample")
    assert samples.read_bytes() == before
    assert sorted(os.listdir(copy_of_finished)) == ["run.json", "samples.jsonl"]


def test_a_torn_last_line_is_dropped_with_a_warning_and_measured_again(copy_of_finished: Path, here: Command) -> None:
    samples = copy_of_finished / "samples.jsonl"
    before = samples.read_bytes()
    samples.write_bytes(before[:-20])
    # The kill that tore the line also kept the process from writing down that it was done.
    _edit(copy_of_finished, lambda run: run.update(status="running"))
    _edit(copy_of_finished, lambda run: run["processes"][0].update(stop_reason=None, ended=None))
    ended = here("--resume", copy_of_finished)
    assert (ended.code, ended.err) == (0, "")
    assert "the last, was cut off in the middle and is dropped" in ended.out
    run = load_run(copy_of_finished)
    assert run.notices == ()
    assert run.manifest.status == "complete"
    assert [process.first_round for process in run.manifest.processes] == [0, 5]
    assert samples.read_bytes().startswith(b"".join(before.splitlines(keepends=True)[:-1]))
    assert _timed_rounds(run) == [0, 1, 2, 3, 4, 5]


def _other_cpu(run: dict) -> None:
    run["machine"]["cpu"] = "Zilog Z80"


def _other_torch(run: dict) -> None:
    run["versions"]["torch"] = "0.4.1"


def _later_schema(run: dict) -> None:
    run["schema_version"] = 99


def _other_input(run: dict) -> None:
    run["settings"][0]["input_shape"] = [1, 8, 8]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_other_cpu, ["cannot be continued here", "cpu"]),
        (_other_torch, ["cannot be continued here", "torch (0.4.1 then"]),
        (_later_schema, ["run.json", "schema version 99"]),
        (_other_input, ["(1, 8, 8)"]),
    ],
)
def test_another_machine_torch_network_or_schema_is_refused(
    copy_of_finished: Path, here: Command, change: Callable[[dict], None], words: list[str]
) -> None:
    before = _edit(copy_of_finished, change)
    assert_one_clear_line(here("--resume", copy_of_finished), *words)
    assert (copy_of_finished / "run.json").read_text() == before


def test_a_complete_run_is_resumed_without_measuring(copy_of_finished: Path, here: Command) -> None:
    before = load_run(copy_of_finished)
    ended = here("--resume", copy_of_finished)
    assert (ended.code, ended.err) == (0, "")
    assert "speedup" in ended.out
    after = load_run(copy_of_finished)
    assert after.samples == before.samples
    assert after.manifest == before.manifest


# -- a full disk ------------------------------------------------------------------------------------------------


@pytest.fixture
def small_disk() -> Iterator[Path]:
    """A file system of 96 KB, which can be filled to the last byte."""
    folder = Path(tempfile.mkdtemp())
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=96k", "tmpfs", folder], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        folder.rmdir()
        pytest.skip(f"needs the right to mount a small file system: {mounted.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)  # this process may still hold a file there
        folder.rmdir()


def _fill(folder: Path) -> Path:
    filler = folder / "filler"
    with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
    return filler


@contextlib.contextmanager
def _files_limited_to(size: int) -> Iterator[None]:
    """The limit of a process on the size of its files: like a full disk, and needs no right to mount."""
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


def test_a_disk_full_before_the_first_sample(small_disk: Path, here: Command, tiny: Options) -> None:
    (small_disk / "results").mkdir()
    filler = _fill(small_disk)
    size = filler.stat().st_size
    ended = here(*tiny(small_disk / "results"))
    assert_one_clear_line(ended, os.strerror(errno.ENOSPC), str(small_disk), "--output")
    assert filler.stat().st_size == size
    assert not list(small_disk.rglob("*run.json*"))


def test_files_that_may_not_grow_before_the_first_sample(tmp_path: Path, here: Command, tiny: Options) -> None:
    with _files_limited_to(100):
        ended = here(*tiny(tmp_path))
    assert_one_clear_line(ended, os.strerror(errno.EFBIG), str(tmp_path), "--output")
    assert not list(tmp_path.rglob("*run.json*"))


def test_a_disk_that_takes_the_manifest_but_no_sample(
    tmp_path: Path, here: Command, tiny: Options, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(writer: object, samples: object) -> None:
        raise RunNotWritten(f"cannot write {tmp_path}: no space")

    monkeypatch.setattr(RunWriter, "append", refuse)
    assert_one_clear_line(here(*tiny(tmp_path, "--quiet")), "no space", "nothing was measured", "--output")


def _assert_table_so_far(ended: Ended, path: Path) -> Run:
    assert ended.code == 3
    assert "incomplete: this is the table so far" in ended.out
    assert "cannot write" in ended.out
    assert "go on with --resume" in ended.out
    run = load_run(path)  # run.json is whole
    assert run.notices == ()  # and so is the last line of the samples
    assert [name for name in os.listdir(path) if name.startswith(".run.json")] == []
    assert 0 < len(_timed_rounds(run)) < run.manifest.protocol.minibatches
    return run


def test_a_disk_that_fills_up_later_and_is_emptied(small_disk: Path, here: Command, tiny: Options, only: Only) -> None:
    ended = here(*tiny(small_disk / "results", "--minibatches", 300))
    path = only(small_disk / "results")
    before = _assert_table_so_far(ended, path)
    assert os.strerror(errno.ENOSPC) in ended.out
    assert "tables and figure are not written" in ended.err
    subprocess.run(["mount", "-o", "remount,size=4m", small_disk], check=True)
    assert here("--resume", path).code == 0
    _assert_resumed(before, load_run(path))


def test_files_that_may_not_grow_later(tmp_path: Path, here: Command, tiny: Options, only: Only) -> None:
    with _files_limited_to(16_000):
        ended = here(*tiny(tmp_path, "--minibatches", 100))
    path = only(tmp_path)
    before = _assert_table_so_far(ended, path)
    assert here("--resume", path).code == 0
    _assert_resumed(before, load_run(path))


def test_a_run_on_a_full_disk_is_not_continued(copy_of_finished: Path, here: Command) -> None:
    samples = copy_of_finished / "samples.jsonl"
    samples.write_bytes(samples.read_bytes()[:-20])
    manifest = _edit(copy_of_finished, lambda run: run.update(status="running"))
    with _files_limited_to(100):
        ended = here("--resume", copy_of_finished)
    assert_one_clear_line(ended, "cannot be continued", os.strerror(errno.EFBIG), "make room")
    assert (copy_of_finished / "run.json").read_text() == manifest


def test_a_disk_that_is_full_when_the_run_ends(
    tmp_path: Path, here: Command, tiny: Options, only: Only, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace = RunWriter.replace

    def refuse_the_end(writer: RunWriter, manifest: Manifest) -> None:
        if manifest.status == "complete":
            raise RunNotWritten("cannot write run.json: no space")
        replace(writer, manifest)

    with monkeypatch.context() as patch:
        patch.setattr(RunWriter, "replace", refuse_the_end)
        ended = here(*tiny(tmp_path))
    assert ended.code == 3
    assert "no space" in ended.out
    path = only(tmp_path)
    before = load_run(path)
    assert here("--resume", path).code == 0
    assert load_run(path).manifest.status == "complete"
    assert load_run(path).samples == before.samples


# -- interrupts and kills ---------------------------------------------------------------------------------------


def _timed_rounds(run: Run) -> list[int]:
    return sorted({sample.round for sample in run.samples if sample.phase == "timed"})


def _assert_resumed(before: Run, after: Run) -> None:
    """The run is complete, every finished round is kept, and what was lacking was measured by a new process."""
    assert after.manifest.status == "complete"
    assert list(after.samples[: len(before.samples)]) == list(before.samples)
    *cut, last = after.manifest.processes
    assert len(cut) == 1
    assert last.process == 1
    assert last.first_round == len(_timed_rounds(before))
    assert last.stop_reason == "minibatches"
    rounds = [(sample.process, sample.round) for sample in after.samples if sample.phase == "timed"]
    assert sorted(set(rounds)) == [
        (int(number >= last.first_round), number) for number in range(after.manifest.protocol.minibatches)
    ]
    slots = len(after.manifest.protocol.classes) + 1
    assert {rounds.count(each) for each in rounds} == {slots}
    phases = [sample.phase for sample in after.samples if sample.process == last.process]
    assert phases[: slots - 1] == ["first"] * (slots - 1)
    assert "warmup" in phases


#: Moment of the fault -> the phases that are then on disk.
MOMENTS = {"build 1": set(), "forward 11": {"first"}, "forward 30": {"first", "warmup", "timed"}}


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory, begin: Begin, tiny: Options, only: Only) -> dict[str, Path]:
    """A run killed at each moment; all at once, as each spends most of its time importing torch."""
    parents = {moment: tmp_path_factory.mktemp("killed") for moment in MOMENTS}
    runs = {
        moment: begin(*tiny(parent, "--minibatches", 12, network="faulty"), fault=f"SIGKILL self {moment}")
        for moment, parent in parents.items()
    }
    for run in runs.values():
        run.communicate(timeout=120)
    assert {run.returncode for run in runs.values()} == {-signal.SIGKILL}
    return {moment: only(parent) for moment, parent in parents.items()}


@pytest.mark.parametrize("moment", MOMENTS)
def test_killed_at_any_moment_and_resumed(moment: str, killed: dict[str, Path], here: Command) -> None:
    path = killed[moment]
    lines = (path / "samples.jsonl").read_bytes()
    before = load_run(path)
    assert before.manifest.status == "running"
    assert {sample.phase for sample in before.samples} == MOMENTS[moment]
    resumed = here("--resume", path)
    assert (resumed.code, resumed.err) == (0, "")
    assert (path / "samples.jsonl").read_bytes().startswith(lines)
    after = load_run(path)
    _assert_resumed(before, after)
    assert len({process.pid for process in after.manifest.processes}) == 2


def test_cut_off_and_resumed_in_sequence_begins_the_order_again(
    tmp_path: Path, here: Command, tiny: Options, only: Only
) -> None:
    options = tiny(tmp_path, "--order", "sequential", network="faulty")
    assert here(*options, fault="SIGINT self forward 20").code == 130
    path = only(tmp_path)
    lines = (path / "samples.jsonl").read_bytes()
    assert here("--resume", path).code == 0
    run = load_run(path)
    assert (path / "samples.jsonl").read_bytes().startswith(lines)
    assert [process.first_round for process in run.manifest.processes] == [0, 0]
    again = [sample.classes for sample in run.samples if sample.process == 1 and sample.phase == "timed"]
    assert again == [1] * 6 + [16] * 6 + [1] * 6


def _ends(pid: int) -> bool:
    """Whether a process is gone, or is within ten seconds: the kernel closes its pipes before it takes the rest."""
    for _ in range(1000):
        if not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
            return True
        time.sleep(0.01)
    return False


def test_the_parent_of_a_measuring_process_is_killed(tmp_path: Path, apart: Command, tiny: Options, only: Only) -> None:
    killed = apart(*tiny(tmp_path, "--processes", 2, network="faulty"), fault="SIGKILL parent forward 24")
    assert killed.code == -signal.SIGKILL, killed.out  # and the child has let go of the pipes it inherited
    assert killed.err == ""
    run = load_run(only(tmp_path))
    (process,) = run.manifest.processes
    assert _ends(process.pid)
    assert run.manifest.status == "running"
    done = len(_timed_rounds(run))
    assert 0 < done < 6
    assert remaining_tasks(run.manifest, run.samples) == [
        [Task(setting=0, process=1, first_round=done)],
        [Task(setting=0, process=2, first_round=0)],
    ]


@pytest.mark.parametrize("moment", ["import 1", "forward 30"])
def test_a_measuring_process_is_killed(moment: str, tmp_path: Path, here: Command, tiny: Options, only: Only) -> None:
    died = here(*tiny(tmp_path, "--processes", 2, network="faulty"), fault=f"SIGKILL self {moment}")
    assert died.code == 3
    assert died.err == ""
    assert "a measuring process was killed (signal 9)" in died.out
    assert "incomplete: this is the table so far" in died.out
    run = load_run(only(tmp_path))
    assert run.manifest.status == "incomplete"
    assert [notice.kind for notice in run.manifest.notices] == ["process-died"]
    assert bool(_timed_rounds(run)) == (moment == "forward 30")


@pytest.mark.parametrize("moment", ["self build 1", "self forward 30", "parent import 1", "parent forward 30"])
def test_an_interrupt_prints_the_table_so_far(
    moment: str, tmp_path: Path, here: Command, tiny: Options, only: Only
) -> None:
    processes = ["--processes", 2] if moment.startswith("parent") else []
    stopped = here(*tiny(tmp_path, "--minibatches", 12, *processes, network="faulty"), fault=f"SIGINT {moment}")
    assert (stopped.code, stopped.err) == (130, "")
    assert "interrupted: this is the table so far" in stopped.out
    path = only(tmp_path)
    before = load_run(path)
    assert before.manifest.status == "interrupted"
    if "forward" in moment:
        assert _timed_rounds(before)
        assert (path / "table3.csv").exists()
    if moment == "self forward 30":
        assert here("--resume", path).code == 0
        _assert_resumed(before, load_run(path))


def test_an_interrupt_at_a_terminal_gives_the_cursor_back(tmp_path: Path, tiny: Options) -> None:
    arguments = [sys.executable, "-m", "bench", *tiny(tmp_path, "--minibatches", 1_000_000)]
    environment = {**os.environ, "PYTHONPATH": str(Path(bench.__file__).parents[1]), "TERM": "xterm-256color"}
    pid, terminal = pty.fork()
    if pid == 0:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # a shell's background job inherits that it is ignored
        os.chdir(Path(__file__).parents[1] / "factories")
        os.execve(sys.executable, arguments, environment)
    shown, interrupted = b"", False
    with contextlib.suppress(OSError):  # how Linux says that the last writer is gone
        while select.select([terminal], [], [], 60)[0] and (chunk := os.read(terminal, 4096)):
            shown += chunk
            if b"timing" in shown and not interrupted:
                interrupted = True
                os.write(terminal, b"\x03")
    os.close(terminal)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 130
    assert shown.count(b"\x1b[?25l") == shown.count(b"\x1b[?25h") == 1
    assert b"interrupted: this is the table so far" in shown
    assert b"Traceback" not in shown


# -- memory -----------------------------------------------------------------------------------------------------


def _points(ended: Ended) -> dict[int, dict[str, Any]]:
    return {row["classes"]: row for row in json.loads(ended.out)["rows"] if row["kind"] == "point"}


def test_out_of_memory_in_mid_sweep_loses_that_row_only(
    tmp_path: Path, here: Command, tiny: Options, only: Only
) -> None:
    options = tiny(tmp_path, "--minibatches", 12, "--json", "--quiet", network="hungry", counts="1,16,64,256")
    ended = here(*options)
    assert ended.code == 3
    rows = _points(ended)
    assert [rows[count]["status"] for count in (1, 16, 64, 256)] == ["ok", "ok", "out-of-memory", "ok"]
    assert re.search("can't allocate memory", rows[64]["reason"])
    assert [rows[count]["rounds_done"] for count in (1, 16, 256)] == [12, 12, 12]
    assert 0 < rows[64]["rounds_done"] < 12
    assert load_run(only(tmp_path)).manifest.status == "incomplete"


#: A limit on the process's address space, as `ulimit -v` sets it, that leaves it a gigabyte.
LIMITED = """
import resource, psutil, torch
import bench.cli.sweeping
size = psutil.Process().memory_info().vms + 2**30
resource.setrlimit(resource.RLIMIT_AS, (size, size))
bench.cli.main()
"""


def test_a_count_that_does_not_fit_is_a_row_with_the_reason(tmp_path: Path, apart: Command, tiny: Options) -> None:
    ended = apart(*tiny(tmp_path, "--json", "--quiet", counts="1,16,2**26,2**28"), script=LIMITED)
    assert ended.code == 3, ended.err
    rows = _points(ended)
    assert [rows[count]["status"] for count in (1, 16, 2**26, 2**28)] == ["ok", "ok", "out-of-memory", "out-of-memory"]
    assert re.fullmatch(r"67,108,864 classes need 3\.\d\d GB, [01]\.\d\d GB are free", rows[2**26]["reason"])
    assert "268,435,456 classes" in rows[2**28]["reason"]
    assert rows[16]["rounds_done"] == 6


def test_a_network_whose_single_logit_is_not_its_column_is_refused_with_the_reason(
    tmp_path: Path, here: Command, tiny: Options
) -> None:
    ended = here(*tiny(tmp_path, "--json", "--quiet", network="averaging", counts="1,16,64"))
    assert ended.code == 3
    rows = _points(ended)
    assert (rows[1]["status"], rows[1]["rounds_done"]) == ("ok", 6)
    assert rows[16]["status"] == rows[64]["status"] == "failed"
    assert "differs from its column of all logits" in rows[16]["reason"]
    assert rows[64]["reason"].startswith("not tried: 16 classes failed")


# -- two at once ------------------------------------------------------------------------------------------------


def test_two_runs_at_once_never_share_a_folder(tmp_path: Path, begin: Begin, tiny: Options) -> None:
    runs = [begin(*tiny(tmp_path, "--quiet")) for _ in range(2)]
    for run in runs:
        run.communicate(timeout=120)
    assert [run.returncode for run in runs] == [0, 0]
    folders = sorted(tmp_path.iterdir())
    assert len(folders) == 2
    for folder in folders:
        found = load_run(folder)
        assert found.manifest.status == "complete"
        assert _timed_rounds(found) == list(range(6))
    assert {load_run(folder).manifest.processes[0].pid for folder in folders} == {run.pid for run in runs}
