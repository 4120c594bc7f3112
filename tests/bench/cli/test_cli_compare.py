"""`python -m bench compare`: what goes in, what comes out, and with which exit code."""

import json
import random
import shutil
import stat
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from bench.cli import comparing
from bench.errors import UsageError
from bench.history.confirm import Facts
from bench.history.programs import Program
from bench.history.snapshot import snapshot
from bench.history.store import Store
from bench.machine.fingerprint import Machine
from bench.run import Manifest, Point, Run, RunWriter, Sample, load_run
from bench.schemas import schemas
from bench.speed.settings import Protocol, Setting

Command = Callable[..., Any]
WriteRun = Callable[..., Path]

QUICK = {1: 1e-3, 16: 2e-3}
SLOW = {1: 1.3e-3, 16: 2e-3}
PROCESSES = 5
ROUNDS = 30


@pytest.fixture
def write_run(tmp_path: Path, make_manifest: Callable[..., Manifest]) -> WriteRun:
    """A run's folder: five processes that hardly differ, each example taking the times given."""

    def write(name: str, times: Mapping[int, float], *, failed: Sequence[int] = (), seed: int = 0, **of: Any) -> Path:
        arch = of.pop("arch", "tiny_networks:small")
        setting = Setting(arch=arch, input_shape=(3, 8, 8), device="cpu", batch_size=2, threads=1)
        lost = {"status": "out-of-memory", "reason": "needs 3 GB"}
        points = [
            Point(process=n, classes=k, setting=0, operations=1, bytes=1, **(lost if k in failed else {}))
            for n in range(PROCESSES)
            for k in times
        ]
        protocol = Protocol(classes=tuple(times), minibatches=ROUNDS, processes=PROCESSES)
        manifest = make_manifest(
            settings=[setting], points=tuple(points), protocol=protocol, status="complete", name=name, **of
        )
        writer = RunWriter.create(tmp_path / name, manifest)
        slots = [(1, False), (1, True), *((k, False) for k in times if k > 1 and k not in failed)]
        draws = random.Random(seed)
        writer.append(
            Sample(
                setting=0,
                process=process,
                phase="timed",
                round=number,
                round_size=len(slots),
                position=position,
                classes=classes,
                control=control,
                wall_s=2 * times[classes] * draws.uniform(0.995, 1.005),
            )
            for process in range(PROCESSES)
            for number in range(ROUNDS)
            for position, (classes, control) in enumerate(slots)
        )
        writer.close()
        return writer.path

    return write


# -- exit codes ---------------------------------------------------------------------------------------------------


def test_equal_runs_are_nothing_worse(here: Command, write_run: WriteRun) -> None:
    ended = here("compare", write_run("base", QUICK), write_run("new", QUICK, seed=1))
    assert (ended.code, ended.err) == (0, "")
    assert ended.out.startswith("Nothing got worse at 1 point, to a margin of 3 %.\n")


def test_a_slower_single_logit_is_worse_and_its_cause_named(here: Command, write_run: WriteRun) -> None:
    ended = here("compare", write_run("base", QUICK), write_run("new", SLOW), "--confirm", "0")
    assert ended.code == 1
    assert ended.out.startswith("Worse: tiny_networks:small at 16 classes: time of the single logit +30 % (SLOWER)")
    assert "one logit is slower (+30 %), all logits are not: less worth it" in ended.out


def test_better_does_not_fail(here: Command, write_run: WriteRun) -> None:
    assert here("compare", write_run("base", SLOW), write_run("new", QUICK), "--confirm", "0").code == 0


@pytest.mark.parametrize(("gate", "code"), [("single", 1), ("both", 1), ("speedup", 0)])
def test_the_gate_says_what_turns_it_red(gate: str, code: int, here: Command, write_run: WriteRun) -> None:
    base, new = write_run("base", QUICK), write_run("new", {1: 1.3e-3, 16: 2.6e-3})
    assert here("compare", base, new, "--gate", gate, "--confirm", "0").code == code


def test_a_wide_margin_lets_it_pass(here: Command, write_run: WriteRun) -> None:
    assert here("compare", write_run("base", QUICK), write_run("new", SLOW), "--margin", "50%").code == 0


def test_a_failed_point_is_undecided(here: Command, write_run: WriteRun) -> None:
    times = {**QUICK, 64: 4e-3}
    ended = here("compare", write_run("base", times), write_run("new", times, failed=[64]))
    assert ended.code == 3
    assert "failed in NEW, not in BASE: tiny_networks:small at 64 classes: out-of-memory: needs 3 GB" in ended.out


def test_another_machine_is_undecided(here: Command, write_run: WriteRun) -> None:
    machine = Machine(os="Linux", cpu="another", cores_physical=2, cores_logical=2, cores_usable=2, memory_bytes=2**34)
    ended = here("compare", write_run("base", QUICK), write_run("new", SLOW, machine=machine))
    assert ended.code == 3
    assert "warning: the two machines differ (cpu), so there are figures without verdicts" in ended.out


# -- what is measured again ---------------------------------------------------------------------------------------


@pytest.fixture
def at_home(monkeypatch: pytest.MonkeyPatch, write_run: WriteRun) -> None:
    """This machine and its software are those of the runs made by hand."""
    manifest = load_run(write_run("home", QUICK)).manifest
    facts = Facts(versions=manifest.versions, commit=None, machine=manifest.machine)
    monkeypatch.setattr(comparing, "facts_of", lambda program, device: facts)


def replayed(monkeypatch: pytest.MonkeyPatch, **runs: Path) -> list[tuple[str, Program]]:
    """Each fresh process of a side leaves the same run, of which the processes are one; which were started."""
    started: list[tuple[str, Program]] = []

    def in_fresh_processes(programs: Mapping[str, Program]) -> Callable[..., Run]:
        def measure(side: str, given: tuple[str, ...]) -> Run:
            started.append((side, programs[side]))
            run = load_run(runs[side])
            manifest = run.manifest.model_copy(update={"points": run.manifest.points[: len(QUICK)]})
            return Run(manifest, [sample for sample in run.samples if sample.process == len(started) % PROCESSES])

        return measure

    monkeypatch.setattr(comparing, "in_fresh_processes", in_fresh_processes)
    return started


@pytest.mark.usefixtures("at_home")
def test_noise_is_cleared_before_it_turns_red(
    here: Command, write_run: WriteRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, noisy, calm = write_run("base", QUICK), write_run("new", SLOW), write_run("calm", QUICK, seed=3)
    started = replayed(monkeypatch, new=calm)
    ended = here("compare", base, noisy)
    assert ended.code == 0
    assert [side for side, _ in started] == ["new"] * 5
    assert ended.out.startswith("Nothing got worse at 1 point, to a margin of 3 %; 1 point looked worse at first.")
    assert ended.err.splitlines()[0] == "measuring again: tiny_networks:small, 16 classes, new, 1 of 5"
    assert "cleared: tiny_networks:small at 16 classes" in ended.out


@pytest.mark.usefixtures("at_home")
def test_what_stays_ambiguous_is_named_and_not_green(
    here: Command, write_run: WriteRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, new = write_run("base", QUICK), write_run("new", SLOW)
    unsteady = [load_run(write_run(f"took {single}", {**QUICK, 1: single})) for single in (0.9e-3, 1.1e-3, 1.3e-3)]
    turns = iter(unsteady)

    def measure(side: str, given: tuple[str, ...]) -> Run:
        run = next(turns)
        manifest = run.manifest.model_copy(update={"points": run.manifest.points[: len(QUICK)]})
        return Run(manifest, [sample for sample in run.samples if sample.process == 0])

    monkeypatch.setattr(comparing, "in_fresh_processes", lambda programs: measure)
    ended = here("compare", base, new, "--confirm", 3)
    assert ended.code == 3
    assert ended.out.startswith("Undecided: 1 point looked worse and ambiguous when measured again.")
    assert "not cleared: tiny_networks:small at 16 classes" in ended.out
    assert "; cleared:" not in ended.out


def facts_at(monkeypatch: pytest.MonkeyPatch, run: Path, *, here: str | None, there: str | None) -> None:
    """This machine and its software, at the commit of the current folder and at that of any other."""
    manifest = load_run(run).manifest

    def facts_of(program: Program, device: str) -> Facts:
        commit = here if program.folder == Path.cwd() else there
        return Facts(versions=manifest.versions, commit=commit, machine=manifest.machine)

    monkeypatch.setattr(comparing, "facts_of", facts_of)


def test_the_tree_of_base_is_not_measured_in_the_place_of_new(
    here: Command, write_run: WriteRun, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Installed, slc-bench has no commit of its own: the trees that the runs were started in tell."""
    base = write_run("base", QUICK, commit=None, tree_commit="a" * 40)
    new = write_run("new", SLOW, commit=None, tree_commit="b" * 40)
    started = replayed(monkeypatch, base=base, new=base)
    facts_at(monkeypatch, base, here="a" * 40, there="b" * 40)
    alone = here("compare", base, new)
    assert (alone.code, started) == (1, []), "the first verdict stands"
    assert "commit bbbbbbbbbbbb then, aaaaaaaaaaaa now" in alone.out
    swapped = here("compare", base, new, "--base-dir", tmp_path)
    assert (swapped.code, started) == (2, [])
    assert "something else than BASE was measured with: commit aaaaaaaaaaaa then, bbbbbbbbbbbb now" in swapped.err
    facts_at(monkeypatch, base, here="b" * 40, there="a" * 40)
    right = here("compare", base, new, "--base-dir", tmp_path)
    assert right.code == 0
    assert "not checked" not in right.out


def test_unknown_commits_are_warned_of(
    here: Command, write_run: WriteRun, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    base, new = write_run("base", QUICK, commit=None), write_run("new", SLOW, commit=None)
    facts_at(monkeypatch, base, here="b" * 40, there=None)
    replayed(monkeypatch, base=base, new=new)
    ended = here("compare", base, new, "--base-dir", tmp_path)
    assert ended.code == 1
    for side in ("BASE", "NEW"):
        assert f"warning: not checked that this is the code of {side}: the commit it was measured at" in ended.out


@pytest.mark.usefixtures("at_home")
def test_base_is_measured_in_turn_where_it_can_be(
    here: Command, write_run: WriteRun, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    base, new = write_run("base", QUICK), write_run("new", SLOW)
    started = replayed(monkeypatch, base=base, new=new)
    ended = here("compare", base, new, "--confirm", 2, "--base-dir", tmp_path, "--quiet")
    assert (ended.code, ended.err) == (1, "")
    assert [side for side, _ in started] == ["base", "new", "base", "new"]
    assert started[0][1] == Program(sys.executable, tmp_path)
    assert started[1][1].folder != tmp_path


@pytest.mark.usefixtures("at_home")
def test_nothing_is_measured_where_nothing_is_suspected(
    here: Command, write_run: WriteRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    started = replayed(monkeypatch)
    assert here("compare", write_run("base", QUICK), write_run("new", QUICK)).code == 0
    assert started == []


def test_a_run_of_other_software_is_judged_as_it_is(here: Command, write_run: WriteRun) -> None:
    """The runs made by hand say torch 2.11.0 and a processor of no name."""
    ended = here("compare", write_run("base", QUICK), write_run("new", SLOW))
    assert ended.code == 1
    assert "was not measured again: NEW was not measured on this machine" in ended.out


@pytest.mark.slow
def test_a_slowdown_that_is_not_there_is_not_confirmed(
    here: Command, tiny: Callable[..., list[str]], only: Callable[[Path], Path], tmp_path: Path
) -> None:
    """The real thing: a tiny network's sweep, its samples altered, and both sides measured again, base by a script
    that starts this Python and so is another program."""
    assert here(*tiny(tmp_path / "runs", "--minibatches", 30, "--quiet")).code == 0
    run = only(tmp_path / "runs")
    lines = [json.loads(line) for line in (run / "samples.jsonl").read_text().splitlines()]
    altered = [{**line, "wall_s": line["wall_s"] * (100 if line["classes"] == 1 else 1)} for line in lines]
    shutil.copytree(run, tmp_path / "slow")
    (tmp_path / "slow" / "samples.jsonl").write_text("".join(json.dumps(line) + "\n" for line in altered))
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    options = ["--confirm", 1, "--gate", "single", "--base-python", python]
    ended = here("compare", run, tmp_path / "slow", *options)
    assert ended.code in (0, 3), "cleared or ambiguous, but never worse: both sides are the same network"
    assert "1 point measured again, base and new in turn, in 1 fresh process a side" in ended.out
    assert ("; cleared: " in ended.out) == (ended.code == 0)


# -- formats ------------------------------------------------------------------------------------------------------


def test_json_is_one_object(here: Command, write_run: WriteRun) -> None:
    ended = here("compare", write_run("base", QUICK), write_run("new", SLOW), "--confirm", "0", "--format", "json")
    content = json.loads(ended.out)
    Draft202012Validator(schemas()["comparison.schema.json"]).validate(content)
    assert (ended.code, content["schema"], content["outcome"]) == (1, "slc-bench/comparison/1", "worse")
    assert [row["classes"] for row in content["rows"]] == [16]


def test_markdown_is_for_a_pull_request(here: Command, write_run: WriteRun) -> None:
    ended = here("compare", write_run("base", QUICK), write_run("new", QUICK, seed=1), "--format", "markdown")
    assert ended.out.startswith("## Nothing got worse at 1 point")
    assert "| 16 | single |" in ended.out


def test_github_gets_commands_and_a_summary(
    here: Command, write_run: WriteRun, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    base, new, summary = write_run("base", QUICK), write_run("new", SLOW), tmp_path / "summary.md"
    summary.write_text("what was there before\n")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    ended = here("compare", base, new, "--confirm", "0", "--format", "github")
    assert (ended.code, ended.err) == (1, "")
    assert all(line.startswith("::") for line in ended.out.splitlines())
    assert ended.out.startswith("::error title=tiny_networks%3Asmall at 16 classes got worse::")
    assert summary.read_text().startswith("what was there before\n## Worse: ")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "nowhere" / "summary.md"))
    unwritten = here("compare", base, new, "--confirm", "0", "--format", "github")
    assert (unwritten.code, unwritten.out) == (1, ended.out)
    assert unwritten.err.startswith("warning: cannot write the job's summary")
    monkeypatch.delenv("GITHUB_STEP_SUMMARY")
    assert here("compare", base, new, "--confirm", "0", "--format", "github").out == ended.out


def test_a_baseline_is_compared_with(here: Command, write_run: WriteRun, tmp_path: Path) -> None:
    base = write_run("base", QUICK)
    Store(tmp_path / "store").set_baseline("main", snapshot(load_run(base)))
    assert here("compare", "main", base, "--store", tmp_path / "store").code == 0


# -- wrong input --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--gate", "all"], "--gate 'all': must be one of speedup, single, both"),
        (["--format", "xml"], "--format 'xml': must be one of text, markdown, json, github"),
        (["--margin", "0"], "--margin '0': must be more than 0 and less than 100 %"),
        (["--margin", "3"], "--margin '3': must be more than 0 and less than 100 %, such as 3% or 0.03"),
        (["--margin", "abc"], "--margin 'abc' is no share: give 3% or 0.03"),
        (["--margin", "nan%"], "--margin 'nan%' is no share"),
        (["--base-python", "/dev/null"], "--base-python '/dev/null' is no program that can be started"),
        (["--base-python", "no-such-python"], "--base-python 'no-such-python' is no program that can be started"),
        (["--base-dir", "no-such-folder"], "--base-dir 'no-such-folder' is no folder"),
        (["--base-dir", ".", "--confirm", "0"], "leave out --confirm 0"),
        (["--base-dir", "."], "lead to this folder and this Python, which measure NEW"),
    ],
)
def test_wrong_options_are_one_line(options: list[str], says: str, here: Command, write_run: WriteRun) -> None:
    run = write_run("base", QUICK)
    ended = here("compare", run, run, *options)
    assert (ended.code, ended.out) == (2, "")
    assert ended.err.startswith("error: ")
    assert says in ended.err
    assert ended.err.count("\n") == 1


def test_wrong_operands_are_one_line(here: Command, write_run: WriteRun, tmp_path: Path) -> None:
    run, store = write_run("base", QUICK), tmp_path / "store"
    Store(store).set_baseline("main", snapshot(load_run(run)))
    (tmp_path / "accuracy").mkdir()
    (tmp_path / "accuracy" / "run.json").write_text('{"kind": "accuracy"}')
    (tmp_path / "cut.json").write_text('{"benchmarks": [')
    for operand, says in (
        ("mian", "there is main"),
        (tmp_path, "is not a run"),
        (tmp_path / "accuracy", "is an accuracy run"),
        (tmp_path / "cut.json", "cut.json"),
        (write_run("other", {1: 1e-3, 64: 4e-3}), "no point in common"),
        (write_run("another", QUICK, arch="tiny_networks:deciding"), "different work"),
    ):
        ended = here("compare", operand, run, "--store", store)
        assert (ended.code, ended.out) == (2, "")
        assert says in ended.err
        assert ended.err.count("\n") == 1


def test_a_base_python_without_slc_bench_is_refused_before_anything_is_measured(
    here: Command, write_run: WriteRun, tmp_path: Path
) -> None:
    run, python = write_run("base", QUICK), tmp_path / "python"
    python.write_text("#!/bin/sh\necho 'No module named bench' >&2\nexit 1\n")
    python.chmod(python.stat().st_mode | stat.S_IXUSR)
    ended = here("compare", run, run, "--base-python", python)
    assert ended.code == 2
    assert "No module named bench" in ended.err


@pytest.mark.usefixtures("at_home")
def test_a_base_program_of_other_software_is_refused(here: Command, write_run: WriteRun) -> None:
    base = write_run("base", QUICK, versions={"torch": "2.12.0"})
    ended = here("compare", base, write_run("new", QUICK), "--base-dir", base)
    assert ended.code == 2
    assert "something else than BASE was measured with: torch 2.12.0 then, 2.11.0 now" in ended.err


@pytest.mark.parametrize(("text", "share"), [("3%", 0.03), (" 3 % ", 0.03), ("0.03", 0.03), ("0.5%", 0.005)])
def test_a_margin_is_a_share(text: str, share: float) -> None:
    assert comparing.margin_of(text) == pytest.approx(share)


@pytest.mark.parametrize("text", ["", "%", "3%%", "3 percent", "-1%", "100%", "inf"])
def test_what_is_no_margin_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="--margin"):
        comparing.margin_of(text)
