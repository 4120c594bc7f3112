"""A piece of work that fails on one rank: the others learn of it at once, and all meet again."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bench.accuracy.ranks import Alone

REPOSITORY = Path(__file__).parents[4]

PATIENCE_S = 120

#: Rank 1 fails twice, amidst a sum and amidst waiting for rank 0; then everything goes well.
PROGRAM = """
import torch
from bench.accuracy.ranks import RankFailed, joined

with joined() as ranks:
    for attempt in range(3):
        try:
            if ranks.rank == 1 and attempt < 2:
                raise MemoryError("no room")
            if attempt == 1:
                ranks.barrier() if ranks.rank == 0 else ranks.wait_for_first()
            assert ranks.all_reduce(torch.ones(3)).tolist() == [ranks.size] * 3
            ranks.wait_for_first()
            print("done")
        except MemoryError as error:
            ranks.leave(f"MemoryError: {error}")
            ranks.meet_again()
            print("left")
        except RankFailed as error:
            ranks.meet_again()
            print(error)
        assert ranks.gather_objects((attempt, ranks.rank)) == [(attempt, rank) for rank in range(ranks.size)]
"""


def run(size: int, port: Callable[[], int]) -> list[list[str]]:
    """What each rank prints, line by line."""
    number = str(port())
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={
                **os.environ,
                "PYTHONPATH": str(REPOSITORY),
                "RANK": str(rank),
                "WORLD_SIZE": str(size),
                "LOCAL_RANK": str(rank),
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": number,
                "GLOO_SOCKET_IFNAME": "lo",
                "OMP_NUM_THREADS": "1",
            },
        )
        for rank in range(size)
    ]
    found = []
    for process in processes:
        out, err = process.communicate(timeout=PATIENCE_S)
        assert process.returncode == 0, err
        found.append(out.splitlines())
    return found


def test_all_meet_again_and_go_on(port: Callable[[], int]) -> None:
    first, left, third = run(3, port)
    assert left == ["left", "left", "done"]
    assert first == third == ["rank 1: MemoryError: no room"] * 2 + ["done"]


def test_one_process_has_nobody_to_wait_for_or_meet() -> None:
    alone: Any = Alone()
    assert (alone.wait_for_first(), alone.leave("a reason"), alone.meet_again()) == (None, None, None)
    assert alone.gather_objects(1) == [1]


@pytest.fixture
def port() -> Callable[[], int]:
    import socket

    def free() -> int:
        with socket.socket() as asked:
            asked.bind(("127.0.0.1", 0))
            return int(asked.getsockname()[1])

    return free
