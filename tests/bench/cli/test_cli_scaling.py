"""`python -m bench scaling`: what it prints where, what it refuses, and a run that is killed and goes on."""

import json
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from jsonschema import Draft202012Validator

from bench.accuracy.events import Stepped
from bench.cli import studying
from bench.cli.study_view import LiveView, PlainView, shown
from bench.scaling import study
from bench.scaling.cost import CostOrder
from bench.scaling.family import DEFAULT_FAMILY, DEFAULT_STEPS, MOST_DEFAULT_STEPS
from bench.scaling.plan import DEFAULT_CLASSES, DEFAULT_LOSSES
from bench.scaling.recorder import Progress
from bench.scaling.records import StepCost
from bench.scaling.run import StudyRun, load
from bench.scaling.study import execute, reopen
from bench.schemas import schemas

Command = Callable[..., Any]
Only = Callable[[Path], Path]

TINY = (
    "scaling", "--classes", "5,7", "--losses", "ce,nce", "--steps", 20, "--seeds", 1, "--lr", "0.01",
    "--batch-size", 32, "--queries", 30, "--positives", 5, "--negatives", 100, "--family", "d=8", "--network", "linear",
    "--device", "cpu", "--workers", 1, "--threads", 1, "--no-speed",
)  # fmt: skip


def at_once(order: CostOrder) -> StepCost:
    """In the place of a child that would take seconds."""
    return order.refused("").model_copy(update={"seconds": (0.5,) * 5, "peak_bytes": 1000})


@pytest.fixture(scope="module", autouse=True)
def quick_costs() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(study, "in_fresh_process", at_once)
        yield


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory, here: Command) -> tuple[Any, Path]:
    parent = tmp_path_factory.mktemp("plain")
    return here(*TINY, "--output", parent), parent


def test_help_is_quick_because_it_imports_nothing_heavy(help_of: Command) -> None:
    ended = help_of("scaling")
    assert (ended.code, ended.err) == (0, "")
    assert "imported: []" in ended.out
    for words in (
        DEFAULT_CLASSES,
        DEFAULT_LOSSES,
        DEFAULT_FAMILY,
        "--train-all",
        "--no-speed",
        "--dry-run",
        "--resume",
        "0.003,0.001",
    ):
        assert words in ended.out
    for steps in (*(each for _, each in DEFAULT_STEPS), MOST_DEFAULT_STEPS):
        assert f"{steps:,} " in ended.out


def test_not_a_terminal_gets_plain_lines_and_the_table(plain: tuple[Any, Path], only: Only) -> None:
    ended, parent = plain
    assert (ended.code, ended.err) == (0, "")
    assert "\x1b" not in ended.out
    for words in (
        "synthetic data of 5 and 7 classes",
        "5 classes: the optimum",
        "7 classes: search",
        "5 classes, search: ce-lr0.01-seed0: 10 steps",
        "7 classes, full: nce-lr0.01-seed0: 20 steps",
        "5 classes: the cost of a step of nce",
        f"written to {only(parent)}",
    ):
        assert words in ended.out


def test_a_study_leaves_its_files_and_they_are_valid(plain: tuple[Any, Path], only: Only) -> None:
    path = only(plain[1])
    assert path.name.endswith("-scaling-linear")
    names = {each.name for each in path.iterdir()}
    assert names >= {
        "run.json",
        "trainings.jsonl",
        "optima.jsonl",
        "points.jsonl",
        "costs.jsonl",
        "queries",
        "fig4.png",
    }
    Draft202012Validator(schemas()["scaling-run.schema.json"]).validate(json.loads((path / "run.json").read_text()))
    for file, schema in (
        ("trainings", "training"), ("optima", "optimum"), ("points", "point"), ("costs", "cost"),
    ):  # fmt: skip
        lines = (path / f"{file}.jsonl").read_text().splitlines()
        assert lines
        for line in lines:
            Draft202012Validator(schemas()[f"scaling-{schema}.schema.json"]).validate(json.loads(line))


def test_json_is_one_object_and_the_rest_goes_to_standard_error(tmp_path: Path, here: Command) -> None:
    ended = here(*TINY, "--output", tmp_path, "--json")
    assert ended.code == 0
    found = json.loads(ended.out)
    Draft202012Validator(schemas()["scaling.schema.json"]).validate(found)
    assert len(found["rows"]) == 8
    assert "5 classes, full: ce-lr0.01-seed0" in ended.err


def test_quiet_says_nothing_but_the_table(tmp_path: Path, here: Command) -> None:
    ended = here(*TINY, "--output", tmp_path, "--quiet")
    assert (ended.code, ended.err) == (0, "")
    assert "5 classes: search" not in ended.out


def test_a_dry_run_says_what_would_be_trained_and_makes_no_folder(tmp_path: Path, here: Command) -> None:
    ended = here(*TINY, "--classes", "5,10**5", "--output", tmp_path / "none", "--dry-run")
    assert ended.code == 0
    for words in (
        "5 classes: 2 trainings of 10 steps",
        "2 of 20, 32 examples a step",
        "100,000 classes: nothing is trained",
        "10**5 classes and more need a GPU to train",
        "Nothing was trained.",
    ):
        assert words in ended.out
    assert not (tmp_path / "none").exists()
    as_json = here(*TINY, "--dry-run", "--json")
    Draft202012Validator(schemas()["scaling-outlook.schema.json"]).validate(json.loads(as_json.out))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--losses", "cee"), "unknown loss 'cee'; did you mean ce?"),
        (("--classes", "1"), "one class leaves nothing to tell apart"),
        (("--classes", "ten"), "'ten' is not a class count"),
        (("--steps", "5=x"), "--steps 'x'"),
        (("--steps", "9=20"), "9 classes are not studied"),
        (("--family", "size=3"), "no option 'size'"),
        (("--negatives", "0"), "--negatives 0"),
        (("--lr", "fast"), "--lr: 'fast' is no number"),
        (("--lr", "0"), "--lr 0"),
        (("--resume", "nowhere"), "leave out"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(
    tmp_path: Path, here: Command, options: tuple[str, ...], words: str
) -> None:
    ended = here(*TINY, "--output", tmp_path / "none", *options)
    assert ended.code == 2
    assert words in ended.err
    assert ended.err.startswith("error: ")
    assert len(ended.err.splitlines()) == 1
    assert not (tmp_path / "none").exists()


def test_another_kind_of_run_is_not_resumed(tmp_path: Path, here: Command) -> None:
    (tmp_path / "run.json").write_text('{"kind": "accuracy", "schema_version": 1}')
    ended = here("scaling", "--resume", tmp_path)
    assert ended.code == 2
    assert "its command is python -m bench accuracy" in ended.err


def test_a_study_that_lacks_something_ends_with_3(
    tmp_path: Path, here: Command, monkeypatch: pytest.MonkeyPatch, only: Only
) -> None:
    monkeypatch.setattr(study, "in_fresh_process", lambda order: order.refused("no memory"))
    assert here(*TINY, "--output", tmp_path).code == 3
    monkeypatch.setattr(study, "in_fresh_process", at_once)
    assert here("scaling", "--resume", only(tmp_path)).code == 0


def test_an_interrupt_ends_with_130_and_the_study_goes_on(
    plain: tuple[Any, Path], tmp_path: Path, here: Command, monkeypatch: pytest.MonkeyPatch, only: Only
) -> None:
    def interrupted(order: CostOrder) -> StepCost:
        raise KeyboardInterrupt

    monkeypatch.setattr(study, "in_fresh_process", interrupted)
    assert here(*TINY, "--output", tmp_path).code == 130
    monkeypatch.setattr(study, "in_fresh_process", at_once)
    assert here("scaling", "--resume", only(tmp_path)).code == 0
    assert_equal(load(only(tmp_path)), load(only(plain[1])))


def test_a_command_that_is_killed_goes_on_to_equal_points(
    plain: tuple[Any, Path], tmp_path: Path, begin: Callable[..., "subprocess.Popen[str]"], only: Only
) -> None:
    with begin(*TINY, "--output", tmp_path) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("7 classes, search"):
                break
        os.kill(process.pid, signal.SIGKILL)
    assert load(only(tmp_path)).manifest.status == "running"
    resumed = execute(reopen(only(tmp_path)))
    assert resumed.manifest.status == "complete"
    assert_equal(resumed, load(only(plain[1])))


def test_a_terminal_is_redrawn_and_told_what_ended(plain: tuple[Any, Path], only: Only) -> None:
    import io

    from rich.console import Console

    run = load(only(plain[1]))
    for form in (PlainView, LiveView):
        stream = io.StringIO()
        view = form(stream, console=Console(file=stream, force_terminal=form is LiveView, width=100))
        view.start(StudyRun(run.manifest))
        view.update(run, Progress("5 classes: search", 8, 8))
        view.stop()
        view.update(run, Progress("5 classes: search", 8, 8))
        assert "5 classes, search: ce-lr0.01-seed0: 10 steps" in stream.getvalue()
        assert "5 classes: search" in stream.getvalue()
    assert shown(Progress("x", 1, 2)).trainings_done == 1


def test_a_log_is_told_how_far_trainings_are_only_while_there_are_any(plain: tuple[Any, Path], only: Only) -> None:
    import io

    from rich.console import Console

    run = load(only(plain[1]))
    stream, times = io.StringIO(), iter(range(0, 10_000, 1000))
    view = PlainView(stream, console=Console(file=stream, width=100), clock=lambda: next(times))
    view.start(run)
    under_way = Stepped(
        members=(run.trainings[0].training.member,),
        step=5,
        steps=20,
        training_losses=(0.7,),
        validation_accuracies=(None,),
        steps_per_s=2.0,
    )
    began = len(stream.getvalue())
    view.update(run, Progress("5 classes: training", 3, 8, (under_way,)))
    view.update(run, Progress("5 classes: the cost of a step of ce", 8, 8))
    view.update(run, Progress("5 classes: the cost of a step of ce", 8, 8))
    lines = stream.getvalue()[began:].splitlines()
    assert lines[0] == "5 classes: training"
    assert lines[1].startswith("3 of 8 trainings")
    assert lines[2:] == ["5 classes: the cost of a step of ce"]


def test_the_object_of_a_study_without_points_is_valid(plain: tuple[Any, Path], only: Only) -> None:
    run = StudyRun(load(only(plain[1])).manifest)
    Draft202012Validator(schemas()["scaling.schema.json"]).validate(studying.study_object(run))


def assert_equal(found: StudyRun, expected: StudyRun) -> None:
    ours, theirs = (
        sorted((point.model_copy(update={"seconds": 0.0}) for point in run.points), key=lambda point: point.name)
        for run in (found, expected)
    )
    assert ours == theirs
    assert found.queries.keys() == expected.queries.keys()
    for name, errors in expected.queries.items():
        for mine, other in zip(found.queries[name], errors, strict=True):
            np.testing.assert_array_equal(mine, other)
