import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from bench.errors import UsageError
from bench.folder import Notice, RunNotWritten
from bench.history import in_turn
from bench.history.confirm import MeasuringFailed, Side
from bench.history.snapshot import snapshot
from bench.run import Manifest, Run, RunWriter, load_run

ROOT = Path(__file__).parents[3]

NOTICE = Notice(kind="busy", happened="h", matters="m", remedy="r")


@pytest.fixture
def make_run(
    make_manifest: Callable[..., Manifest],
    make_round: Callable[..., list],
    make_point: Callable,
    make_process: Callable,
) -> Callable[..., Run]:
    def make(side: Side, turn: int, **fields: object) -> Run:
        manifest = make_manifest(
            points=[make_point(1), make_point(1024)], processes=1, minibatches=2, **{"status": "complete", **fields}
        )
        manifest = manifest.model_copy(update={"processes": (make_process(),)})
        samples = [sample for number in range(2) for sample in make_round(number)]
        slower = 1 + turn / 10 + (side == "new")
        return Run(manifest, [each.model_copy(update={"wall_s": each.wall_s * slower}) for each in samples])

    return make


def test_each_turn_is_a_process_of_both_sides_with_one_seed(make_run: Callable[..., Run]) -> None:
    calls: list[tuple[Side, tuple[str, ...]]] = []
    told: list[str] = []

    def measure(side: Side, given: tuple[str, ...]) -> Run:
        calls.append((side, given))
        return make_run(side, len(calls) // 2)

    found = in_turn.in_turn(measure, ["--arch", "x"], turns=2, say=told.append)
    assert found.cut_short is None
    runs = found.runs
    assert calls == [(side, ("--seed", seed, "--arch", "x")) for seed in "01" for side in ("base", "new")]
    assert told[0] == "measuring base, 1 of 2"
    assert len(told) == 4
    for run in runs.values():
        assert {sample.process for sample in run.samples} == {0, 1}
        assert run.manifest.protocol.processes == 2
        assert [each.process for each in run.manifest.processes] == [0, 1]
        assert run.manifest.status == "complete"
    assert len(snapshot(runs["new"]).points[0].replicates) == 2


def test_warnings_and_the_worst_status_are_kept(make_run: Callable[..., Run]) -> None:
    fields = iter([{}, {}, {"status": "incomplete", "notices": (NOTICE,)}, {}])
    runs = in_turn.in_turn(lambda side, given: make_run(side, 0, **next(fields)), ["--arch", "x"], turns=2).runs
    assert (runs["base"].manifest.status, runs["base"].manifest.notices) == ("incomplete", (NOTICE,))
    assert (runs["new"].manifest.status, runs["new"].manifest.notices) == ("complete", ())


def test_what_is_written_is_read_back(make_run: Callable[..., Run], tmp_path: Path) -> None:
    run = in_turn.in_turn(lambda side, given: make_run(side, 0), ["--arch", "x"], turns=2).runs["base"]
    path = in_turn.write(run, tmp_path / "base")
    found = load_run(path)
    assert found.manifest == run.manifest
    assert list(found.samples) == list(run.samples)
    assert path.parent == tmp_path / "base"


@pytest.mark.parametrize(
    "words", [["--processes", "3"], ["--output=there"], ["--resume", "run"], ["--json"], ["--seed=3"]]
)
def test_what_a_turn_decides_itself_is_refused(words: list[str]) -> None:
    with pytest.raises(UsageError, match=f"leave out {words[0].partition('=')[0]}"):
        in_turn.in_turn(lambda side, given: pytest.fail("it measured"), ["--arch", "x", *words])


def test_no_turn_is_refused() -> None:
    with pytest.raises(UsageError, match="--turns 0: must be 1 or more"):
        in_turn.in_turn(lambda side, given: pytest.fail("it measured"), ["--arch", "x"], turns=0)


def test_a_process_that_fails_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def measure(side: Side, given: tuple[str, ...]) -> Run:
        raise MeasuringFailed("the process was killed (signal 9)")

    monkeypatch.setattr(in_turn, "in_fresh_processes", lambda programs: measure)
    code = in_turn.main(["--base-dir", str(tmp_path), "--output", str(tmp_path / "out"), "--", "--arch", "x"])
    assert code == 3
    assert "error: base, process 1 of 5: the process was killed (signal 9)" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("ends", "status", "code"),
    [(MeasuringFailed("it was killed"), "incomplete", 3), (KeyboardInterrupt(), "interrupted", 130)],
)
def test_what_was_measured_before_the_end_is_written(
    ends: BaseException,
    status: str,
    code: int,
    make_run: Callable[..., Run],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    calls: list[Side] = []

    def measure(side: Side, given: tuple[str, ...]) -> Run:
        calls.append(side)
        if len(calls) == 4:
            raise ends
        return make_run(side, 0)

    monkeypatch.setattr(in_turn, "in_fresh_processes", lambda programs: measure)
    words = ["--base-dir", str(tmp_path), "--output", str(tmp_path / "out"), "--", "--arch", "x"]
    assert in_turn.main(words) == code
    told = capsys.readouterr()
    paths = dict(line.split(": ") for line in told.out.splitlines())
    runs = {side: load_run(Path(path)).manifest for side, path in paths.items()}
    assert {side: (run.status, run.protocol.processes) for side, run in runs.items()} == {
        "base": (status, 2),
        "new": (status, 1),
    }
    assert "new, process 2 of 5" in told.err.splitlines()[-1]


def test_a_disk_that_refuses_is_one_line(
    make_run: Callable[..., Run], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(self: RunWriter, samples: object) -> None:
        raise RunNotWritten("cannot write samples.jsonl: No space left on device")

    monkeypatch.setattr(in_turn, "in_fresh_processes", lambda programs: lambda side, given: make_run(side, 0))
    monkeypatch.setattr(RunWriter, "append", refuse)
    words = ["--base-dir", str(tmp_path), "--output", str(tmp_path / "out"), "--", "--arch", "x"]
    assert in_turn.main(words) == 3
    assert capsys.readouterr().err.splitlines()[-1] == "error: cannot write samples.jsonl: No space left on device"


TINY = "--arch tiny_networks:small --classes 1,16 --minibatches 10 --batch-size 2 --threads 1 --device cpu"


def begin(folder: Path, base_python: str, turns: int) -> "subprocess.Popen[str]":
    """The real thing, with a tiny network; it obeys SIGINT though a shell's background job is told to ignore it."""
    command = [sys.executable, "-m", "bench.history.in_turn", "--base-python", base_python, "--turns", str(turns)]
    python_path = os.pathsep.join(map(str, (ROOT, ROOT / "tests" / "factories")))
    return subprocess.Popen(
        [*command, "--output", str(folder / "out"), "--", *TINY.split()],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": python_path, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        start_new_session=True,
    )


def script(folder: Path, text: str) -> str:
    file = folder / "python"
    file.write_text(f"#!/bin/sh\n{text}\n")
    file.chmod(0o755)
    return str(file)


def left(folder: Path) -> dict[str, tuple[str, int, int]]:
    """Status, processes and processes with samples of each side's run."""
    runs = {path.parent.name: load_run(path) for path in (folder / "out").glob("*/*")}
    return {
        side: (run.manifest.status, run.manifest.protocol.processes, len({each.process for each in run.samples}))
        for side, run in runs.items()
    }


@pytest.mark.slow
def test_a_process_that_is_killed_leaves_the_turns_before_it(tmp_path: Path) -> None:
    """Base's Python is a script that kills itself when it is started for the second time."""
    kills = f'[ -e "{tmp_path}/second" ] && kill -9 $$; touch "{tmp_path}/second"; exec "{sys.executable}" "$@"'
    started = begin(tmp_path, script(tmp_path, kills), turns=3)
    _, err = started.communicate(timeout=120)
    assert started.returncode == 3
    assert "error: base, process 2 of 3: the process was killed (signal 9)" in err
    assert left(tmp_path) == {"base": ("incomplete", 1, 1), "new": ("incomplete", 1, 1)}


def test_an_interrupt_leaves_the_turns_before_it(tmp_path: Path) -> None:
    """Base's Python is a script that measures once and then sleeps, so that the interrupt meets it."""
    sleeps = f'[ -e "{tmp_path}/second" ] && exec sleep 60; touch "{tmp_path}/second"; exec "{sys.executable}" "$@"'
    started = begin(tmp_path, script(tmp_path, sleeps), turns=3)
    assert started.stderr is not None
    for line in started.stderr:
        if line.startswith("measuring base, 2 of 3"):
            break
    os.kill(started.pid, signal.SIGINT)
    _, err = started.communicate(timeout=120)
    assert started.returncode == 130
    assert err.splitlines() == ["interrupted at base, process 2 of 3"]
    assert left(tmp_path) == {"base": ("interrupted", 1, 1), "new": ("interrupted", 1, 1)}


def test_exit_codes_and_what_is_printed(
    monkeypatch: pytest.MonkeyPatch, make_run: Callable[..., Run], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status = {"base": "complete", "new": "complete"}
    monkeypatch.setattr(
        in_turn, "in_fresh_processes", lambda programs: lambda side, given: make_run(side, 0, status=status[side])
    )
    words = ["--base-dir", str(tmp_path), "--turns", "1", "--output", str(tmp_path / "out"), "--", "--arch", "x"]
    assert in_turn.main(words) == 0
    paths = dict(line.split(": ") for line in capsys.readouterr().out.splitlines())
    assert {side: load_run(Path(path)).manifest.status for side, path in paths.items()} == status
    status["new"] = "incomplete"
    assert in_turn.main(words) == 0, "points that failed are rows, which compare judges"
    assert load_run(Path(capsys.readouterr().out.splitlines()[1].removeprefix("new: "))).manifest.status == "incomplete"
    assert in_turn.main(["--base-dir", ".", "--", "--arch", "x"]) == 2
    assert in_turn.main(["--", "--arch", "x"]) == 2
    assert in_turn.main(["--base-dir", str(tmp_path / "none"), "--", "--arch", "x"]) == 2
    assert in_turn.main(["--base-python", str(tmp_path / "none"), "--", "--arch", "x"]) == 2
