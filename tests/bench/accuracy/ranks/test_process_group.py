"""Where the ranks meet, what they send each other, and what the others say when one is gone."""

import datetime
import errno
import itertools
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bench.accuracy.ranks import Alone, Place, RankLost, first_alone, joined, on_all, place_in, process_group, shares
from bench.accuracy.ranks.process_group import ProcessGroup, lost
from bench.accuracy.worker import failure
from bench.errors import UsageError

Outcomes = list[dict[str, Any]]

TORCHRUN = {
    "RANK": "1",
    "WORLD_SIZE": "3",
    "LOCAL_RANK": "0",
    "MASTER_ADDR": "127.0.0.1",
    "MASTER_PORT": "29500",
}


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(total=st.integers(0, 400_000), parts=st.integers(1, 300))
def test_shares_hold_everything_once_and_are_even(total: int, parts: int) -> None:
    found = shares(total, parts)
    assert len(found) == parts
    assert found[0].start == 0
    assert found[-1].stop == total
    assert all(one.stop == next_one.start for one, next_one in itertools.pairwise(found))
    lengths = [part.stop - part.start for part in found]
    assert max(lengths) - min(lengths) <= 1
    assert lengths == sorted(lengths, reverse=True)


def test_shares_by_hand() -> None:
    assert [(part.start, part.stop) for part in shares(7, 3)] == [(0, 3), (3, 5), (5, 7)]


# --- where torchrun puts a process


def test_the_place_that_torchrun_gives() -> None:
    assert place_in(TORCHRUN) == Place(rank=1, size=3, local_rank=0)
    assert place_in({"MASTER_PORT": "1"}) is None


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"RANK": "3"}, "RANK=3 of WORLD_SIZE=3"),
        ({"RANK": "-1"}, "RANK='-1' is no number"),
        ({"WORLD_SIZE": ""}, "WORLD_SIZE='' is no number"),
        ({"MASTER_ADDR": ""}, "WORLD_SIZE=3 without MASTER_ADDR"),
    ],
)
def test_half_of_torchrun_is_refused(change: dict[str, str], reason: str) -> None:
    with pytest.raises(UsageError, match=f"{reason}.*start the ranks with torchrun"):
        place_in({**TORCHRUN, **change})


def test_one_process_needs_no_torch_distributed() -> None:
    with joined({}) as ranks:
        assert isinstance(ranks, Alone)
    with joined({**TORCHRUN, "RANK": "0", "WORLD_SIZE": "1"}) as ranks:
        assert isinstance(ranks, Alone)
        own = torch.ones(2)
        assert ranks.all_reduce(own) is own
        assert ranks.all_gather(own)[0] is own
        assert ranks.gather_objects("a") == ["a"]
        assert ranks.broadcast("a") == "a"
        ranks.barrier()
    assert not torch.distributed.is_initialized()


# --- what they send


def test_gathered_in_the_order_of_ranks(outcomes: Outcomes) -> None:
    size = len(outcomes)
    for each in (outcome["collectives"] for outcome in outcomes):
        for rank, part in enumerate(each["unequal"]):
            expected = torch.arange(3 * rank, dtype=torch.float32).view(-1, 3) + 10 * rank
            assert torch.equal(part, expected)
        assert [part.tolist() for part in each["half"]] == [[1.5 + rank] * 2 for rank in range(size)]
        assert all(part.dtype == torch.bfloat16 for part in each["half"])
        assert [part.tolist() for part in each["truth"]] == [[rank == 0] for rank in range(size)]
        assert [tuple(part.shape) for part in each["empty"]] == [(0, 4)] * size
        assert each["objects"] == [f"rank {rank}" for rank in range(size)]


def test_reduced_in_place_whatever_the_layout(outcomes: Outcomes) -> None:
    size = len(outcomes)
    total = size * (size + 1) / 2
    for each in (outcome["collectives"] for outcome in outcomes):
        assert each["sum"].tolist() == [total]
        assert each["max"].tolist() == [size]
        assert torch.equal(each["turned"], total * torch.arange(6.0).view(2, 3).t())
        assert each["first"] == {"rank": 0}
        assert each["last"] == {"rank": size - 1}


def test_gradients_that_only_some_have(outcomes: Outcomes) -> None:
    size = len(outcomes)
    for everywhere, of_last, nowhere, of_rows in (outcome["collectives"]["gradients"] for outcome in outcomes):
        assert everywhere.tolist() == [size * (size + 1) / 2] * 3
        assert of_last.tolist() == [0, 1, 2]
        assert nowhere is None
        assert of_rows.tolist() == [[0, 0], [1, 1], [0, 0], [2, 2]]


# --- a rank that fails, and one that is gone


def test_an_error_on_one_rank_is_raised_by_all(as_threads: Callable[..., list[Any]]) -> None:
    def work(ranks: Any, error: Exception) -> Any:
        def own() -> int:
            if ranks.rank == 1:
                raise error
            return int(ranks.rank)

        return on_all(ranks, own)

    for error, kind, line in (
        (UsageError("a"), UsageError, "rank 1: a"),
        (FileNotFoundError("a"), OSError, "rank 1: a"),
        (MemoryError(), MemoryError, "rank 1"),
        (OverflowError("a"), ArithmeticError, "rank 1: a"),
        (ValueError("a"), ValueError, "rank 1: a"),
        (torch.OutOfMemoryError("a"), RuntimeError, "rank 1: a"),
        (KeyError("a"), RuntimeError, "rank 1: KeyError: 'a'"),
    ):
        found = as_threads(3, lambda ranks, error=error: work(ranks, error))
        assert [type(each) for each in found] == [kind] * 3
        assert {str(each) for each in found} == {line}
    assert as_threads(2, lambda ranks: on_all(ranks, lambda: ranks.rank)) == [[0, 1]] * 2


def test_one_process_raises_what_was_raised() -> None:
    error = MemoryError("no room")

    def work() -> None:
        raise error

    with pytest.raises(MemoryError) as raised:
        on_all(Alone(), work)
    assert raised.value is error


def test_a_full_disk_on_one_rank_is_one_for_all(as_threads: Callable[..., list[Any]], tmp_path: Path) -> None:
    """It ends the grid, as it does in one process: the next training would find no room either."""

    def work(ranks: Any) -> None:
        def own() -> None:
            if ranks.rank == 1:
                raise OSError(errno.ENOSPC, "No space left on device", str(tmp_path / "state.pt"))

        on_all(ranks, own)

    for found in as_threads(2, work):
        ending = failure(found, tmp_path)
        assert ending is not None
        assert (ending.cause, ending.reason) == (
            "disk",
            f"cannot write {tmp_path / 'state.pt'}: rank 1: No space left on device",
        )


def test_work_of_rank_0_alone(as_threads: Callable[..., list[Any]]) -> None:
    assert as_threads(3, lambda ranks: first_alone(ranks, lambda: ranks.rank + 7)) == [7, None, None]
    assert first_alone(Alone(), lambda: 7) == 7

    def refuse() -> None:
        raise UsageError("no such data")

    found = as_threads(2, lambda ranks: first_alone(ranks, refuse))
    assert [(type(each), str(each)) for each in found] == [(UsageError, "rank 0: no such data")] * 2
    assert str(found[0].__cause__) == "no such data"


def test_rank_0_leaves_last(monkeypatch: pytest.MonkeyPatch) -> None:
    """The others may still ask the store, which may be in its process; not for long, and not where one is lost."""
    store, timeout = torch.distributed.HashStore(), datetime.timedelta(seconds=1)
    first, second = (ProcessGroup(Place(rank, 2, rank), store, timeout) for rank in range(2))
    monkeypatch.setattr(ProcessGroup, "close", lambda self: None)
    waits: list[float] = []

    def sleep(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 3:
            second.part(wait=True)

    monkeypatch.setattr(process_group.time, "sleep", sleep)
    first.part(wait=False)
    assert waits == []
    first.part(wait=True)
    assert len(waits) == 3
    monkeypatch.setattr(process_group, "ROLL_CALL_S", 0.0)
    alone = ProcessGroup(Place(0, 2, 0), torch.distributed.HashStore(), timeout)
    alone.part(wait=True)
    assert len(waits) == 3, "rank 1 never came"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("TypeError: a mistake", "rank 0 of 2 has ended (TypeError: a mistake)"),
        ("", "rank 0 of 2 has ended (it cannot go on either)"),
    ],
)
def test_nobody_waits_for_a_rank_0_that_has_ended(words: str, told: str) -> None:
    """Where the store outlives it, as torchrun's does."""
    store, timeout = torch.distributed.HashStore(), datetime.timedelta(seconds=1)
    first, second = (ProcessGroup(Place(rank, 2, rank), store, timeout) for rank in range(2))
    first.say(words)
    with pytest.raises(RankLost) as raised:
        second.wait_for_first()
    assert str(raised.value) == f"rank 1 cannot go on: {told}: start the ranks again with --resume"


@pytest.mark.parametrize(
    "where", ["objects", pytest.param("reduce", marks=pytest.mark.slow), pytest.param("gather", marks=pytest.mark.slow)]
)
def test_a_killed_rank_is_named_by_the_others(
    tmp_path: Path, as_processes: Callable[..., list[Any]], where: str
) -> None:
    first, gone, last = as_processes(3, "killed", tmp_path, where=where)
    assert gone == -9
    for rank, found in ((0, first), (2, last)):
        assert found["error"] == RankLost.__name__
        assert found["line"].startswith(f"rank {rank} cannot go on: no answer from rank 1 of 3")
        assert "--resume" in found["line"]
        assert "\n" not in found["line"]


def test_the_last_words_of_a_rank_are_passed_on(tmp_path: Path, as_processes: Callable[..., list[Any]]) -> None:
    first, last = as_processes(2, "failing", tmp_path)
    assert last["error"] == "MemoryError"
    assert first["error"] == RankLost.__name__
    assert "rank 1 of 2 has ended (MemoryError: no room for 3 GB on this machine)" in first["line"]


@pytest.mark.parametrize(
    ("answers", "line"),
    [
        ({1: None, 2: ""}, "rank 0 cannot go on: no answer from rank 1 of 3, killed, hanging or cut off"),
        ({1: None, 2: None}, "rank 0 cannot go on: no answer from ranks 1, 2 of 3, killed, hanging or cut off"),
        ({1: "ValueError: x", 2: None}, "rank 0 cannot go on: rank 1 of 3 has ended (ValueError: x)"),
        ({1: "", 2: ""}, "rank 0 cannot go on: all 3 ranks live, and their exchange failed (an error)"),
    ],
)
def test_what_is_known_of_the_others(answers: dict[int, str | None], line: str) -> None:
    assert lost(0, 3, answers, "an error") == f"{line}: start the ranks again with --resume"


def test_ranks_that_do_not_meet(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {**TORCHRUN, "MASTER_PORT": "1"}.items():
        monkeypatch.setenv(name, value)
    with (
        pytest.raises(RankLost, match=r"rank 1 of 3 did not meet the others at 127\.0\.0\.1:1 within 0\.2 s"),
        joined(timeout_s=0.2),
    ):
        pass


@pytest.mark.slow
def test_torchrun_starts_them(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(
        "from bench.accuracy.ranks import joined\n"
        "with joined() as ranks:\n"
        "    assert ranks.gather_objects(ranks.rank) == [0, 1]\n"
        f"    open(r'{tmp_path}/' + str(ranks.rank), 'w').close()\n"
    )
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(program)]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[4]), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "0").exists()
    assert (tmp_path / "1").exists()
