"""Ranks: as processes over gloo, one start of them for all cases of a number of ranks, or as threads."""

import multiprocessing
import runpy
import socket
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from bench.accuracy.ranks import Alone

PROGRAMS = Path(__file__).with_name("rank_programs.py")

#: Long enough for any work here on a busy machine; a rank that takes longer waits for one that will never come.
PATIENCE_S = 120

#: Relative, of float64.
EXACT = 1e-12


class ThreadRanks:
    """One of several ranks that are threads of this process."""

    def __init__(self, rank: int, barrier: threading.Barrier, objects: list[Any]) -> None:
        self.rank, self.size = rank, len(objects)
        self._barrier, self._objects = barrier, objects

    def gather_objects(self, own: object, /) -> list[Any]:
        self._objects[self.rank] = own
        self._barrier.wait()
        found = list(self._objects)
        self._barrier.wait()
        return found

    def all_gather(self, tensor: Tensor, lengths: Sequence[int] | None = None) -> list[Tensor]:
        return self.gather_objects(tensor.clone())

    def all_reduce(self, tensor: Tensor, reduction: str = "sum") -> Tensor:
        parts = torch.stack(self.gather_objects(tensor.clone()))
        return tensor.copy_(parts.sum(0) if reduction == "sum" else parts.amax(0))

    def broadcast(self, value: Any, source: int = 0) -> Any:
        return self.gather_objects(value)[source]

    def barrier(self) -> None:
        self.gather_objects(None)

    def wait_for_first(self) -> None:
        self.barrier()


def run_as_threads(size: int, work: Callable[[Any], Any]) -> list[Any]:
    """What each rank returns, or the exception that it raises."""
    barrier, objects = threading.Barrier(size, timeout=PATIENCE_S), [None] * size

    def of_rank(rank: int) -> Any:
        try:
            return work(ThreadRanks(rank, barrier, objects))
        except Exception as error:
            return error

    with ThreadPoolExecutor(size) as threads:
        return list(threads.map(of_rank, range(size)))


def free_port() -> int:
    with socket.socket() as asked:
        asked.bind(("127.0.0.1", 0))
        return int(asked.getsockname()[1])


def run_as_processes(
    size: int, program: str, folder: Path, *, programs: Path = PROGRAMS, **arguments: Any
) -> list[Any]:
    """What a function of `programs` returns on each of `size` ranks; of one that was killed, its exit code."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["bench.accuracy.training"])
    folder.mkdir(parents=True, exist_ok=True)
    port = str(free_port())
    started = []
    for rank in range(size):
        environment = {
            "RANK": str(rank),
            "WORLD_SIZE": str(size),
            "LOCAL_RANK": str(rank),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": port,
            "GLOO_SOCKET_IFNAME": "lo",
            "OMP_NUM_THREADS": "1",
        }
        given = {"program": program, "environment": environment, "folder": str(folder), "arguments": arguments}
        process = context.Process(target=runpy.run_path, args=(str(programs), {"GIVEN": given}, "__rank__"))
        process.start()
        started.append(process)
    for process in started:
        process.join(PATIENCE_S)
        if process.is_alive():
            process.kill()
            process.join()
    files = [folder / f"{program}-{rank}.pt" for rank in range(size)]
    return [
        torch.load(file, weights_only=False) if file.exists() else process.exitcode
        for file, process in zip(files, started, strict=True)
    ]


@pytest.fixture(scope="session")
def as_threads() -> Callable[..., list[Any]]:
    return run_as_threads


@pytest.fixture(scope="session")
def as_processes() -> Callable[..., list[Any]]:
    return run_as_processes


@pytest.fixture(scope="session", params=[1, 2, 3], ids=["1 rank", "2 ranks", "3 ranks"])
def outcomes(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """All cases of rank_programs.everything, from each rank of 1, 2 or 3."""
    size: int = request.param
    if size == 1:
        return [runpy.run_path(str(PROGRAMS))["everything"](Alone())]
    found = run_as_processes(size, "everything", tmp_path_factory.mktemp(f"ranks-{size}"))
    assert all(isinstance(each, dict) and "error" not in each for each in found), found
    return found


@pytest.fixture(scope="session")
def cases() -> dict[str, Any]:
    """What rank_programs.py defines, for the truth of one process."""
    return runpy.run_path(str(PROGRAMS))


def assert_close(found: Tensor, expected: Tensor, exact: float = EXACT) -> None:
    """Within `exact` of the largest entry: sums have an error relative to their terms."""
    assert found.shape == expected.shape
    assert found.dtype == expected.dtype
    scale = float(expected.abs().max()) if expected.numel() else 0.0
    torch.testing.assert_close(found, expected, rtol=exact, atol=exact * max(scale, 1e-300))


@pytest.fixture(scope="session")
def close() -> Callable[..., None]:
    return assert_close
