import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from bench.errors import UsageError
from bench.folder import Notice
from bench.history import in_turn
from bench.history.confirm import MeasuringFailed, Side
from bench.history.snapshot import snapshot
from bench.run import Manifest, Run, load_run

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

    runs = in_turn.in_turn(measure, ["--arch", "x"], turns=2, say=told.append)
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
    runs = in_turn.in_turn(lambda side, given: make_run(side, 0, **next(fields)), ["--arch", "x"], turns=2)
    assert (runs["base"].manifest.status, runs["base"].manifest.notices) == ("incomplete", (NOTICE,))
    assert (runs["new"].manifest.status, runs["new"].manifest.notices) == ("complete", ())


def test_what_is_written_is_read_back(make_run: Callable[..., Run], tmp_path: Path) -> None:
    run = in_turn.in_turn(lambda side, given: make_run(side, 0), ["--arch", "x"], turns=2)["base"]
    path = in_turn.write(run, tmp_path / "base")
    found = load_run(path)
    assert found.manifest == run.manifest
    assert list(found.samples) == list(run.samples)
    assert path.parent == tmp_path / "base"


@pytest.mark.parametrize("words", [["--processes", "3"], ["--output=there"], ["--resume", "run"], ["--json"]])
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
    assert in_turn.main(words) == 3
    assert in_turn.main(["--", "--arch", "x"]) == 2
    assert in_turn.main(["--base-dir", str(tmp_path / "none"), "--", "--arch", "x"]) == 2
    assert in_turn.main(["--base-python", str(tmp_path / "none"), "--", "--arch", "x"]) == 2


def test_programs_are_a_python_and_a_folder_a_side(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tree").mkdir()
    found = in_turn.programs(None, Path("tree"))
    assert (found["base"].python, found["base"].folder) == (sys.executable, tmp_path / "tree")
    assert (found["new"].python, found["new"].folder) == (sys.executable, tmp_path)
    link = tmp_path / "python"
    link.symlink_to(sys.executable)
    assert in_turn.programs("./python", None)["base"].python == str(link)  # an environment is where its link lies
