"""`torchrun -m bench accuracy`: real processes over gloo, started as torchrun does or by torchrun itself."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from archs.registry import Network
from archs.single_logit import SingleLogit
from archs.small import mlp
from bench.accuracy.rows import table1
from bench.accuracy.run import load

Command = Callable[..., Any]
Begin = Callable[..., "subprocess.Popen[str]"]
Only = Callable[[Path], Path]

#: Two trainings and a test on the bundled digits.
TINY = (
    "accuracy", "--losses", "batch-ce", "--lr", "0.1,0.01", "--steps", 40, "--device", "cpu", "--threads", 1,
)  # fmt: skip

PATIENCE_S = 240

#: The command line with a fault on rank 1: one that is killed amidst the messages of its steps, or whose first training
#: finds no memory. Every window of steps leaves a checkpoint.
FAULTY = """
import os, signal, sys
from bench.accuracy import training, worker
from bench.accuracy.ranks.process_group import ProcessGroup
from bench.cli import main

fault, on_rank_1 = os.environ.get("FAULT"), os.environ["RANK"] == "1"
worker.CHECKPOINT_EVERY_S = 0.0
calls, train = 0, training.train

def counted(self, collective, together=ProcessGroup._together):
    global calls
    calls += 1
    if calls == 1000:
        os.kill(os.getpid(), signal.SIGKILL)
    together(self, collective)

def failing(work, *arguments, **options):
    if work.members[0].learning_rate == 0.1:
        raise MemoryError("no room for 3 GB")
    train(work, *arguments, **options)

if fault == "killed" and on_rank_1:
    ProcessGroup._together = counted
if fault == "failing" and on_rank_1:
    training.train = failing
main()
"""


@dataclass(frozen=True)
class Ended:
    """How a rank ended."""

    code: int
    out: str
    err: str


def free_port() -> str:
    with socket.socket() as asked:
        asked.bind(("127.0.0.1", 0))
        return str(asked.getsockname()[1])


def ended(processes: Sequence["subprocess.Popen[str]"]) -> list[Ended]:
    found = []
    for process in processes:
        try:
            out, err = process.communicate(timeout=PATIENCE_S)
        except subprocess.TimeoutExpired:
            for each in processes:
                each.kill()
            raise
        found.append(Ended(process.returncode, out, err))
    return found


@pytest.fixture(scope="module")
def start(begin: Begin) -> Callable[..., list["subprocess.Popen[str]"]]:
    """Starts two ranks, each with its own arguments if they are given for each; what torchrun sets is set."""

    def started(
        *arguments: object, second: Sequence[object] = (), environment: Mapping[str, str] | None = None, **options: Any
    ) -> list["subprocess.Popen[str]"]:
        processes = []
        port = free_port()
        for rank in range(2):
            variables = {
                "RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": "2",
                "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1",
            }  # fmt: skip
            with pytest.MonkeyPatch.context() as patch:
                for name, value in {**variables, **(environment or {})}.items():
                    patch.setenv(name, value)
                processes.append(begin(*arguments, *(second if rank else ()), **options))
        return processes

    return started


def torchrun(*arguments: object, **environment: str) -> Ended:
    """torchrun with two processes on this machine, to its end."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    repository = str(Path(__file__).parents[3])
    done = subprocess.run(
        [*command, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        env={
            **os.environ,
            "PYTHONPATH": repository,
            "OMP_NUM_THREADS": "1",
            "GLOO_SOCKET_IFNAME": "lo",
            **environment,
        },
        check=False,
    )
    return Ended(done.returncode, done.stdout, done.stderr)


def assert_same_tables(path: Path, other: Path) -> None:
    """The same choices, and the same measures but for the rounding of float32 in another order of sums."""
    one, two = load(path), load(other)
    assert [each.member for each in one.evaluations] == [each.member for each in two.evaluations]
    for row, expected in zip(table1(one), table1(two), strict=True):
        assert (row.status, row.learning_rate) == (expected.status, expected.learning_rate)
        for name, measured in expected.measures.items():
            assert row.measures[name].mean == pytest.approx(measured.mean, abs=2e-3)
    for found, truth in zip(one.evaluations, two.evaluations, strict=True):
        assert found.accuracy == pytest.approx(truth.accuracy, abs=5e-3)
        assert found.separation_train.lowest_true == pytest.approx(truth.separation_train.lowest_true, abs=5e-3)
    for name, influence in two.influences.items():
        np.testing.assert_allclose(one.influences[name].single, influence.single, atol=2e-3)


def files_of(path: Path) -> set[str]:
    return {str(each.relative_to(path)) for each in path.rglob("*")}


@pytest.fixture(scope="module")
def one(here: Command, only: Only, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one process."""
    parent = tmp_path_factory.mktemp("one")
    assert here(*TINY, "--workers", 1, "--output", parent).code == 0
    return only(parent)


def test_two_ranks_leave_what_one_process_does(start: Any, one: Path, only: Only, tmp_path: Path) -> None:
    first, second = ended(start(*TINY, "--output", tmp_path))
    assert (first.code, first.err) == (0, "")
    assert (second.code, second.out, second.err) == (0, "", "")
    assert "2 ranks a training" in first.out
    path = only(tmp_path)
    assert files_of(path) == files_of(one)
    manifest = load(path).manifest
    assert (manifest.status, manifest.recipe.ranks, manifest.recipe.workers) == ("complete", 2, 1)
    assert_same_tables(path, one)
    assert "batch CE" in (path / "table1.md").read_text()


@pytest.mark.slow
def test_a_rank_with_other_settings_ends_all_before_anything_is_written(start: Any, tmp_path: Path) -> None:
    first, second = ended(start(*TINY, "--output", tmp_path, second=("--steps", 41)))
    assert (first.code, first.out) == (2, "")
    assert first.err.startswith("error: the ranks run different things: request.steps is 40 on rank 0 and 41 on rank 1")
    assert first.err.count("\n") == 1
    assert (second.code, second.out, second.err) == (2, "", "")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_rank_that_is_to_do_something_else_ends_all_at_once(start: Any, tmp_path: Path) -> None:
    """On a second machine, say, where the command line was typed again: they would wait for each other in vain."""
    began = time.monotonic()
    first, second = ended(start(*TINY, "--output", tmp_path, second=("--dry-run",)))
    assert (first.code, first.out) == (2, "")
    assert first.err.startswith(
        'error: the ranks run different things: what is asked for is "a new run" on rank 0 and "--dry-run" on rank 1'
    )
    assert first.err.count("\n") == 1
    assert (second.code, second.out, second.err) == (2, "", "")
    assert time.monotonic() - began < PATIENCE_S / 2, "by no time-out"


@pytest.mark.slow
def test_what_rank_0_cannot_plan_is_told_once(start: Any, tmp_path: Path) -> None:
    first, second = ended(start(*TINY, "--workers", 2, "--output", tmp_path))
    assert (first.code, first.out) == (2, "")
    assert first.err == "error: --workers 2: 2 ranks carry out one training at a time; leave it out\n"
    assert (second.code, second.out, second.err) == (2, "", "")


# -- refused without a second process ----------------------------------------------------------------------------------


def test_a_layer_is_not_split_over_one_process(here: Command, tmp_path: Path) -> None:
    refused = here(*TINY, "--shard-top-layer", "--output", tmp_path)
    assert refused.code == 2
    assert "--shard-top-layer" in refused.err
    assert "torchrun" in refused.err
    assert list(tmp_path.iterdir()) == []


def test_half_of_torchrun_is_refused(here: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    refused = here(*TINY, "--output", tmp_path)
    assert (refused.code, refused.err) == (2, "error: RANK='' is no number of a rank: start the ranks with torchrun\n")


# -- what goes wrong ---------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_killed_rank_ends_the_run_and_resume_completes_it(
    start: Any, one: Path, here: Command, only: Only, tmp_path: Path
) -> None:
    first, killed = ended(start(*TINY, "--output", tmp_path, script=FAULTY, environment={"FAULT": "killed"}))
    assert killed.code == -signal.SIGKILL
    assert (first.code, first.err) == (3, "")
    assert "rank 0 cannot go on: no answer from rank 1 of 2, killed, hanging or cut off" in first.out
    path = only(tmp_path)
    run = load(path)
    assert (run.manifest.status, [each.kind for each in run.manifest.notices]) == ("incomplete", ["rank-lost"])

    alone = here("accuracy", "--resume", path)
    assert alone.code == 2
    assert "2 ranks" in alone.err
    assert "torchrun --nproc-per-node 2" in alone.err
    assert load(path).manifest == run.manifest

    first, second = ended(start("accuracy", "--resume", path))
    assert (first.code, second.code, second.out, second.err) == (0, 0, "", ""), first.err + second.err
    assert load(path).manifest.status == "complete"
    assert load(path).manifest.notices == ()
    assert_same_tables(path, one)


@pytest.mark.slow
def test_a_training_that_fails_on_one_rank_fails_alone(start: Any, only: Only, tmp_path: Path) -> None:
    options = (*TINY, "--output", tmp_path)
    first, second = ended(start(*options, script=FAULTY, environment={"FAULT": "failing"}))
    assert (first.code, first.err) == (3, "")
    assert (second.code, second.out, second.err) == (0, "", "")
    run = load(only(tmp_path))
    assert [(each.status, each.reason) for each in run.trainings] == [
        ("failed", "rank 1: MemoryError: no room for 3 GB"),
        ("ok", ""),
    ]
    assert len(run.evaluations) == 1, "the ranks met again"
    first, _ = ended(start("accuracy", "--resume", only(tmp_path)))
    assert first.code == 0
    assert [each.status for each in load(only(tmp_path)).trainings] == ["ok", "ok"]


@pytest.mark.slow
@pytest.mark.parametrize("told", [signal.SIGINT, signal.SIGTERM], ids=["Ctrl-C", "terminated"])
def test_an_interrupt_ends_all_ranks(start: Any, only: Only, tmp_path: Path, told: signal.Signals) -> None:
    """torchrun terminates the ranks that are left when one has died."""
    processes = start(*TINY, "--steps", 100_000, "--output", tmp_path)
    while "at step" not in (line := processes[0].stdout.readline()):
        assert line, "it ended before it trained"
    for process in processes:
        process.send_signal(told)
    first, second = ended(processes)
    assert (first.code, second.code) == (130, 130), first.err + second.err
    assert (second.out, second.err) == ("", "")
    assert load(only(tmp_path)).manifest.status == "interrupted"


# -- torchrun itself ---------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_torchrun_splits_the_top_layer(only: Only, tmp_path: Path) -> None:
    options = ("--dataset", "synthetic:41", "--losses", "ce", "--lr", "0.1", "--steps", 40, "--device", "cpu")
    done = torchrun("-m", "bench", "accuracy", *options, "--shard-top-layer", "--quiet", "--output", tmp_path)
    assert done.code == 0, done.err
    path = only(tmp_path)
    run = load(path)
    assert (run.manifest.status, run.manifest.recipe.shard_top_layer) == ("complete", True)
    assert run.manifest.command[:4] == ("torchrun", "--nproc-per-node", "2", "-m")
    index = path / "checkpoints" / f"{run.evaluations[0].member.name}.sharded" / "top-layer.safetensors.index.json"
    shape = run.manifest.dataset.input_shape
    network = Network("mlp", shape, lambda: mlp(shape, 41).eval())
    with SingleLogit.from_checkpoint(index, arch=network) as query:
        assert query(torch.zeros(2, *shape), 40).isfinite().all(), "the last row of the second shard"
    reports = subprocess.run(
        [sys.executable, "-m", "reports", str(path)], capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )
    assert reports.returncode == 0, reports.stderr


@pytest.mark.slow
def test_under_torchrun_a_killed_rank_leaves_a_run_to_resume(one: Path, only: Only, tmp_path: Path) -> None:
    script = tmp_path / "faulty.py"
    script.write_text(FAULTY)
    done = torchrun(script, *TINY, "--output", tmp_path / "results", FAULT="killed")
    assert done.code != 0
    assert "SIGKILL" in done.err
    path = only(tmp_path / "results")
    assert load(path).manifest.status in ("interrupted", "incomplete"), "rank 0 lost the other, or was terminated first"
    done = torchrun("-m", "bench", "accuracy", "--resume", path)
    assert done.code == 0, done.err
    assert load(path).manifest.status == "complete"
    assert_same_tables(path, one)
