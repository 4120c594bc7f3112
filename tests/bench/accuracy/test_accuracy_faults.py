"""What can go wrong with a grid, caused and looked at: one clear line, an exit code, nothing lost."""

import contextlib
import errno
import json
import os
import resource
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from bench.accuracy import training, worker
from bench.accuracy.grid import Grid
from bench.accuracy.orders import Event
from bench.accuracy.rows import table1
from bench.accuracy.run import AccuracyRun, load

#: How a command ended: code, out, err.
Ended = Any
Command = Callable[..., Ended]
Only = Callable[[Path], Path]

#: Four trainings and two tests, in this process.
TINY = (
    "accuracy", "--losses", "ce,batch-ce", "--lr", "0.1,0.01", "--steps", 12, "--batch-size", 64, "--device", "cpu",
    "--workers", 1, "--threads", 1,
)  # fmt: skip


def assert_one_clear_line(ended: Ended, *words: str) -> None:
    assert ended.code == 2, ended.err
    assert ended.out == ""
    *read_before, line = ended.err.splitlines()  # a folder's images are listed before one is found wanting
    assert all(earlier.startswith(("listing ", "taking ")) for earlier in read_before)
    assert line.startswith("error: ")
    for word in words:
        assert word in line


@pytest.fixture(autouse=True)
def undrawn(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """No tables and figures on disk, but where that is what is looked at."""
    if "small_disk" not in request.fixturenames:
        monkeypatch.setattr("bench.cli.training.results.write_together", lambda folder, results: [])


@pytest.fixture
def at_every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every step is followed by its event and its checkpoint."""
    monkeypatch.setattr(training, "PROGRESS_EVERY_S", 0.0)
    monkeypatch.setattr(training, "WINDOW_S", 0.0)
    monkeypatch.setattr(worker, "CHECKPOINT_EVERY_S", 0.0)


# -- what is refused before anything is trained -----------------------------------------------------------------

#: Options, and what the line must name: what is wrong, and what would be right.
REFUSED: dict[str, tuple[list[str], list[str]]] = {
    "data set": (["--dataset", "mnits"], ["'mnits'", "did you mean mnist"]),
    "folder": (["--dataset", "folder:nowhere"], ["nowhere"]),
    "no folder": (["--dataset", "folder:"], ["names no folder"]),
    "loss": (["--losses", "ce,batch-cee"], ["'batch-cee'", "did you mean batch-ce"]),
    "no loss": (["--losses", ","], ["no loss", "paper, all"]),
    "optimiser": (["--optimiser", "lion"], ["--optimiser 'lion'", "sgd, adam, adamw, rmsprop"]),
    "schedule": (["--schedule", "warm"], ["--schedule 'warm'", "constant, cosine"]),
    "exponential": (["--schedule", "exponential"], ["--schedule exponential", "paper-imagenet"]),
    "batch of one": (["--batch-size", "1"], ["--batch-size 1", "2 or more"]),
    "rate of 0": (["--lr", "0.1,0"], ["--lr 0", "above 0"]),
    "rate nan": (["--lr", "nan"], ["--lr nan", "above 0"]),
    "rate abc": (["--lr", "0.1,abc"], ["--lr", "'abc' is no number"]),
    "no rate": (["--lr", ","], ["--lr", "no learning rate"]),
    "no steps": (["--steps", "0"], ["--steps 0", "1 or more"]),
    "negative seed": (["--seed=-1"], ["--seed -1", "0 or more"]),
    "no seeds": (["--seeds", "0"], ["--seeds 0", "1 or more"]),
    "no workers": (["--workers", "0"], ["--workers 0", "1 or more"]),
    "stack": (["--network", "cnn", "--stack", "2"], ["--stack 2", "leave it out"]),
    "device": (["--device", "tpu"], ["'tpu'", "auto, cpu, cuda"]),
    "network": (["--network", "resnet50"], ["'resnet50'", "use mlp or cnn"]),
    "preset": (["--preset", "paper"], ["'paper'", "paper-imagenet"]),
    "preset of images": (["--preset", "paper-imagenet", "--dataset", "digits"], ["inception_v3", "299 pixels"]),
    "preset without its data": (["--preset", "paper-imagenet", "--data-dir", "nowhere"], ["imagenet", "nowhere"]),
    "no equals": (["--hyperparameter", "self-norm"], ["'self-norm'", "LOSS.NAME=VALUE"]),
    "no value": (["--hyperparameter", "self-norm.alpha="], ["LOSS.NAME=VALUE"]),
    "its loss": (["--hyperparameter", "self-nrm.alpha=1"], ["'self-nrm'", "did you mean self-norm"]),
    "its name": (["--hyperparameter", "self-norm.beta=1"], ["'beta'", "it has alpha"]),
    "its value": (["--hyperparameter", "self-norm.alpha=abc"], ["'abc'", "above 0"]),
    "not trained": (["--losses", "ce", "--hyperparameter", "self-norm.alpha=1"], ["not trained", "self-norm"]),
    "resume and more": (["--resume", "x", "--steps", "5", "--dry-run"], ["--dry-run, --steps", "leave out"]),
    "resume of nothing": (["--resume", "nowhere"], ["'nowhere' is not a run"]),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_done_is_one_clear_line(name: str, tmp_path: Path, here: Command) -> None:
    options, words = REFUSED[name]
    output = [] if "--resume" in options else ["--output", tmp_path / "results"]
    assert_one_clear_line(here("accuracy", *output, *options), *words)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("options", [["--minibatches", "5"], ["--batch-size", "5", "--quick"], ["--json"]])
def test_the_sweeps_options_do_not_stand_before_the_command(options: list[str], here: Command) -> None:
    names = ", ".join(sorted(option for option in options if option.startswith("--")))
    assert_one_clear_line(here(*options, "accuracy"), names, "'accuracy'", "leave them out")


def _folder(path: Path, classes: list[str]) -> Path:
    rng = np.random.default_rng(0)
    for part in ("train", "test"):
        for name in classes:
            (path / part / name).mkdir(parents=True)
            for number in range(10):
                pixels = rng.integers(0, 255, (32, 32, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(path / part / name / f"{number}.png")
    return path


def test_one_class_leaves_nothing_to_tell_apart(tmp_path: Path, here: Command) -> None:
    images = _folder(tmp_path / "images", ["cats"])
    ended = here("accuracy", "--dataset", f"folder:{images}", "--output", tmp_path / "results")
    assert_one_clear_line(ended, "1 class", "two or more")
    assert not (tmp_path / "results").exists()


def test_a_batch_of_more_than_there_is(tmp_path: Path, here: Command) -> None:
    images = _folder(tmp_path / "images", ["cats", "dogs"])
    ended = here("accuracy", "--dataset", f"folder:{images}", "--output", tmp_path / "results")
    assert_one_clear_line(ended, "--batch-size 128", "18 examples")


def test_a_file_in_place_of_the_output_folder_is_left_alone(tmp_path: Path, here: Command) -> None:
    (tmp_path / "results").write_text("precious")
    assert_one_clear_line(here(*TINY, "--output", tmp_path / "results"), str(tmp_path / "results"), "--output")
    assert (tmp_path / "results").read_text() == "precious"


# -- interrupts -------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def interrupted_at(kind: str, nth: int) -> Iterator[None]:
    """Inside, an interrupt comes once the nth event of a kind was taken in."""
    take, seen = Grid.take, 0

    def take_until(self: Grid, order: Any, event: Event) -> None:
        nonlocal seen
        take(self, order, event)
        seen += event.kind == kind
        if event.kind == kind and seen == nth:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Grid, "take", take_until)
        yield


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, here: Command, only: Only) -> AccuracyRun:
    parent = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("bench.cli.training.results.write_together", lambda folder, results: [])
        assert here(*TINY, "--output", parent).code == 0
    return load(only(parent))


def _assert_resumed(path: Path, before: AccuracyRun, whole: AccuracyRun) -> None:
    """It is complete, keeps what had ended, and ends as the run that was never cut off."""
    run = load(path)
    assert run.manifest.status == "complete"
    assert run.manifest.notices == ()
    assert run.trainings[: len(before.trainings)] == before.trainings
    assert table1(run) == table1(whole)


def test_an_interrupt_prints_the_table_so_far(tmp_path: Path, here: Command, only: Only, whole: AccuracyRun) -> None:
    with interrupted_at("evaluated", 1):
        stopped = here(*TINY, "--output", tmp_path)
    assert (stopped.code, stopped.err) == (130, "")
    assert "the run is interrupted: 2 of 4 trainings ended: this is the table so far" in stopped.out
    assert "batch CE" in stopped.out
    path = only(tmp_path)
    before = load(path)
    assert before.manifest.status == "interrupted"
    assert here("accuracy", "--resume", path).code == 0
    _assert_resumed(path, before, whole)


def test_an_interrupt_before_anything_ended(
    tmp_path: Path, here: Command, only: Only, whole: AccuracyRun, at_every_step: None
) -> None:
    with interrupted_at("stepped", 5):
        stopped = here(*TINY, "--output", tmp_path, "--json", "--quiet")
    assert stopped.code == 130
    content = json.loads(stopped.out)
    assert content["run"]["status"] == "interrupted"
    assert [row["status"] for row in content["rows"]] == ["missing", "missing"]
    path = only(tmp_path)
    before = load(path)
    assert here("accuracy", "--resume", path).code == 0
    _assert_resumed(path, before, whole)


# -- checkpoints and data that were altered ---------------------------------------------------------------------


@pytest.fixture
def cut_off(tmp_path: Path, here: Command, only: Only, at_every_step: None) -> Path:
    """A run that was interrupted in the middle of its second training."""
    with interrupted_at("stepped", 20):
        assert here(*TINY, "--output", tmp_path / "results").code == 130
    return only(tmp_path / "results")


def _files(path: Path) -> dict[str, bytes]:
    """Everything that was measured; run.json says how the last attempt ended."""
    return {
        str(file.relative_to(path)): file.read_bytes()
        for file in path.rglob("*")
        if file.is_file() and file.name not in ("run.json", ".lock")
    }


def _newest(path: Path) -> Path:
    *_, newest = sorted((path / "checkpoints").glob("*/step-*"))
    return newest


class Hostile:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("fault", ["cut short", "altered", "code", "missing", "another's"])
def test_an_altered_checkpoint_is_refused_by_name(
    fault: str, cut_off: Path, tmp_path: Path, here: Command, whole: AccuracyRun
) -> None:
    checkpoint = _newest(cut_off)
    state, weights = checkpoint / "state.pt", checkpoint / "weights.safetensors"
    if fault == "cut short":
        weights.write_bytes(weights.read_bytes()[:-100])
    elif fault == "altered":
        content = bytearray(weights.read_bytes())
        content[-1] ^= 1
        weights.write_bytes(bytes(content))
    elif fault == "code":
        torch.save(Hostile(tmp_path / "executed"), state)
    elif fault == "missing":
        state.unlink()
    else:
        contents = json.loads((checkpoint / "checkpoint.json").read_text())
        (checkpoint / "checkpoint.json").write_text(json.dumps({**contents, "work": "another"}))
    before = _files(cut_off)
    refused = here("accuracy", "--resume", cut_off)
    assert refused.code == 2
    (line,) = refused.err.splitlines()
    assert line.startswith("error: ")
    assert checkpoint.name in line
    assert "Traceback" not in refused.out
    assert not (tmp_path / "executed").exists()
    assert _files(cut_off) == before, "nothing was overwritten"
    assert load(cut_off).manifest.status == "incomplete"
    for file in checkpoint.iterdir():  # as the line says
        file.unlink()
    checkpoint.rmdir()
    assert here("accuracy", "--resume", cut_off).code == 0
    assert table1(load(cut_off)) == table1(whole)


def _edit(path: Path, **change: Any) -> str:
    content = json.loads((path / "run.json").read_text())
    for name, value in change.items():
        content[name] = {**content[name], **value} if isinstance(value, dict) else value
    (path / "run.json").write_text(json.dumps(content))
    return (path / "run.json").read_text()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"dataset": {"train": 9}}, ["digits is not what it was", "train: 9 then"]),
        ({"source": {"name": "mnits"}}, ["'mnits'"]),
        ({"source": None}, ["only the program that has it"]),
        ({"machine": {"cpu": "Zilog Z80"}}, ["cannot be continued here", "cpu"]),
        ({"versions": {"torch": "0.4.1"}}, ["cannot be continued here", "torch (0.4.1 then"]),
        ({"schema_version": 99}, ["run.json", "schema version 99"]),
        ({"kind": "speed"}, ["run.json", "kind 'speed'", "'accuracy' is needed", "its command is python -m bench"]),
        ({"kind": [1]}, ["run.json", "kind [1]", "'accuracy' is needed"]),
        ({"seeds": [-1]}, ["run.json", "seeds"]),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_other_data_machines_versions_or_runs_are_refused(
    cut_off: Path, here: Command, change: dict[str, Any], words: list[str]
) -> None:
    manifest, before = _edit(cut_off, **change), _files(cut_off)
    assert_one_clear_line(here("accuracy", "--resume", cut_off), *words)
    assert (cut_off / "run.json").read_text() == manifest
    assert _files(cut_off) == before


def test_a_speed_run_is_not_resumed_as_a_grid(cut_off: Path, here: Command) -> None:
    assert_one_clear_line(here("--resume", cut_off), "run.json", "'accuracy'", "'speed'", "python -m bench accuracy")


def test_rubbish_in_the_middle_of_the_trainings_is_named_and_left_as_it_is(cut_off: Path, here: Command) -> None:
    trainings = cut_off / "trainings.jsonl"
    trainings.write_bytes(b"rubbish\n" + trainings.read_bytes())
    before = _files(cut_off)
    assert_one_clear_line(here("accuracy", "--resume", cut_off), f"{trainings}, line 1", "start a new run")
    assert _files(cut_off) == before


def test_a_torn_last_line_is_dropped_with_a_warning_and_trained_again(
    cut_off: Path, here: Command, whole: AccuracyRun
) -> None:
    trainings = cut_off / "trainings.jsonl"
    trainings.write_bytes(trainings.read_bytes()[:-20])
    resumed = here("accuracy", "--resume", cut_off)
    assert (resumed.code, resumed.err) == (0, "")
    assert "the last, was cut off in the middle and is dropped" in resumed.out
    assert table1(load(cut_off)) == table1(whole)


# -- a full disk ------------------------------------------------------------------------------------------------


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


def test_a_disk_full_before_the_first_training(tmp_path: Path, here: Command) -> None:
    with _files_limited_to(100):
        ended = here(*TINY, "--output", tmp_path)
    assert_one_clear_line(ended, os.strerror(errno.EFBIG), str(tmp_path), "--output")
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_takes_the_manifest_but_no_weights(tmp_path: Path, here: Command) -> None:
    with _files_limited_to(100_000):
        ended = here(*TINY, "--output", tmp_path, "--quiet")
    assert_one_clear_line(ended, os.strerror(errno.EFBIG), str(tmp_path), "no training ended", "--output")


def _assert_so_far(ended: Ended, path: Path) -> AccuracyRun:
    assert ended.code == 3
    assert "this is the table so far" in ended.out
    assert "cannot write" in ended.out
    assert "go on with --resume" in ended.out
    assert "Traceback" not in ended.out + ended.err
    run = load(path)  # run.json is whole
    assert run.notices == ()  # and so is the last line of the records
    assert not [name for name in os.listdir(path) if name.startswith(".run.json")]
    assert 0 < len(run.trainings) < 4
    return run


def test_a_disk_that_fills_up_in_mid_grid(
    tmp_path: Path, here: Command, only: Only, whole: AccuracyRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the first training that ended on, no file may grow beyond a size that the weights have."""
    add = Grid._add
    with contextlib.ExitStack() as stack, monkeypatch.context() as patch:

        def add_and_fill(self: Grid, training: Any) -> None:
            add(self, training)
            stack.enter_context(_files_limited_to(100_000))

        patch.setattr(Grid, "_add", add_and_fill)
        ended = here(*TINY, "--output", tmp_path)
    path = only(tmp_path)
    before = _assert_so_far(ended, path)
    assert os.strerror(errno.EFBIG) in ended.out
    assert here("accuracy", "--resume", path).code == 0
    _assert_resumed(path, before, whole)


@pytest.fixture
def small_disk() -> Iterator[Path]:
    """A file system of 3 MB: the weights of two trainings, and not of a third."""
    folder = Path(tempfile.mkdtemp())
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", folder], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        folder.rmdir()
        pytest.skip(f"needs the right to mount a small file system: {mounted.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)  # this process may still hold a file there
        folder.rmdir()


def test_a_small_disk_that_fills_up_and_is_enlarged(
    small_disk: Path, here: Command, only: Only, whole: AccuracyRun
) -> None:
    ended = here(*TINY, "--output", small_disk / "results")
    path = only(small_disk / "results")
    before = _assert_so_far(ended, path)
    assert os.strerror(errno.ENOSPC) in ended.out
    subprocess.run(["mount", "-o", "remount,size=64m", small_disk], check=True)
    assert here("accuracy", "--resume", path).code == 0
    _assert_resumed(path, before, whole)
    assert (path / "table1.md").exists()


def test_a_run_on_a_full_disk_is_not_continued(cut_off: Path, here: Command) -> None:
    before = _files(cut_off)
    manifest = (cut_off / "run.json").read_text()
    with _files_limited_to(100):
        refused = here("accuracy", "--resume", cut_off)
    assert refused.code == 2
    (line,) = refused.err.splitlines()
    assert os.strerror(errno.EFBIG) in line
    assert (cut_off / "run.json").read_text() == manifest
    assert _files(cut_off) == before
