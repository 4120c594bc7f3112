"""How trainings are spread over a machine, and ranks over its GPUs."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.accuracy.ranks import Place
from bench.accuracy.spreading import LARGEST_STACK, own_device, spread
from bench.errors import UsageError

CPU = {"device": "cpu", "workers": None, "stack": None, "threads": None}
GPU = {**CPU, "device": "cuda:0"}


@pytest.mark.parametrize(
    ("trainings", "options", "expected"),
    [
        (28, {**CPU, "stackable": True, "cores": 2}, (2, 1, 1)),
        (28, {**CPU, "stackable": False, "cores": 8}, (8, 1, 1)),
        (3, {**CPU, "stackable": True, "cores": 8}, (3, 1, 2)),
        (1, {**CPU, "stackable": True, "cores": 2}, (1, 1, 2)),
        (28, {**CPU, "stackable": True, "cores": 4, "workers": 2}, (2, 1, 2)),
        (28, {**CPU, "stackable": True, "cores": 4, "workers": 1, "threads": 3}, (1, 1, 3)),
        (28, {**CPU, "stackable": True, "cores": 4, "stack": 14}, (2, 14, 2)),
        (28, {**GPU, "stackable": True, "cores": 16}, (1, 28, 16)),
        (1000, {**GPU, "stackable": True, "cores": 16}, (1, LARGEST_STACK, 16)),
        (28, {**GPU, "stackable": False, "cores": 16}, (1, 1, 16)),
        (28, {**GPU, "stackable": False, "cores": 16, "workers": 4}, (4, 1, 4)),
        (28, {**CPU, "stackable": False, "cores": 8, "room": 3}, (3, 1, 2)),
        (28, {**CPU, "stackable": True, "cores": 8, "stack": 2, "room": 5}, (2, 2, 4)),
        (28, {**GPU, "stackable": True, "cores": 16, "room": 9}, (1, 9, 16)),
    ],
)
def test_how_a_grid_is_spread(trainings: int, options: dict[str, Any], expected: tuple[int, int, int]) -> None:
    assert spread(trainings, **options) == expected


@given(
    st.integers(1, 500),
    st.sampled_from(["cpu", "cuda:0"]),
    st.booleans(),
    st.integers(1, 64),
    st.none() | st.integers(1, 50),
    st.none() | st.integers(1, 600),
)
def test_no_worker_is_idle_from_the_start(
    trainings: int, device: str, stackable: bool, cores: int, workers: int | None, stack: int | None
) -> None:
    stack = stack if stackable else None
    found, size, threads = spread(
        trainings, device=device, stackable=stackable, cores=cores, workers=workers, stack=stack, threads=None
    )
    assert 1 <= found <= -(-trainings // size)
    assert workers is None or found <= workers
    assert threads >= 1
    assert threads * found <= max(cores, found)


def test_each_rank_takes_the_gpu_of_its_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    place = Place(rank=5, size=6, local_rank=1)
    assert own_device("auto", place, 2) == own_device("cuda", place, 2) == "cuda:1"
    assert own_device("cpu", place, 2) == "cpu"
    assert own_device("cuda:0", Place(rank=0, size=1, local_rank=0), 1) == "cuda:0"
    with pytest.raises(UsageError, match=r"3 ranks on this machine and 2 GPUs.*--nproc-per-node 2"):
        own_device("auto", place, 3)
    with pytest.raises(UsageError, match="--device cuda:0: each rank takes the GPU of its own number"):
        own_device("cuda:0", place, 2)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert own_device("auto", place, 2) == "cpu"
