"""Runs made by hand, for tests that need one without measuring."""

from collections.abc import Callable, Sequence

import pytest
import torch

from bench.machine.fingerprint import Machine
from bench.run import Manifest, Point, Process, Sample
from bench.speed.settings import Protocol, Setting


def pytest_collection_modifyitems(items: Sequence[pytest.Item]) -> None:
    if torch.cuda.is_available():
        return
    skip = pytest.mark.skip(reason="needs a CUDA device, and there is none here")
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(skip)


@pytest.fixture
def setting() -> Setting:
    return Setting(arch="resnet50", input_shape=(3, 224, 224), device="cpu", threads=2)


@pytest.fixture
def make_manifest(setting: Setting) -> Callable[..., Manifest]:
    def make(
        settings: Sequence[Setting] = (setting,),
        classes: Sequence[int] = (1, 1024),
        minibatches: int = 4,
        processes: int = 1,
        **fields: object,
    ) -> Manifest:
        values: dict[str, object] = {
            "name": "resnet50",
            "created": "2026-01-02T03:04:05+00:00",
            "settings": tuple(settings),
            "protocol": Protocol(classes=tuple(classes), minibatches=minibatches, processes=processes),
            "machine": Machine(
                os="Linux", cpu="a processor", cores_physical=2, cores_logical=2, cores_usable=2, memory_bytes=2**34
            ),
            "versions": {"torch": "2.11.0"},
        }
        return Manifest(**{**values, **fields})  # type: ignore[arg-type]

    return make


@pytest.fixture
def make_round() -> Callable[..., list[Sample]]:
    """One timed round of A, A' and the other counts, each pass taking its class count in milliseconds."""

    def make(
        number: int, classes: Sequence[int] = (1, 1024), *, setting: int = 0, process: int = 0, **fields: object
    ) -> list[Sample]:
        slots = [(1, False), (1, True), *((count, False) for count in classes if count > 1)]
        values = {"phase": "timed", **fields}
        return [
            Sample(
                setting=setting,
                process=process,
                round=number,
                round_size=len(slots),
                position=position,
                classes=count,
                control=control,
                wall_s=count / 1e3,
                **values,  # type: ignore[arg-type]
            )
            for position, (count, control) in enumerate(slots)
        ]

    return make


@pytest.fixture
def make_process() -> Callable[..., Process]:
    def make(process: int = 0, setting: int = 0, **fields: object) -> Process:
        return Process(setting=setting, process=process, pid=1, started="2026-01-02T03:04:05+00:00", pool=4, **fields)  # type: ignore[arg-type]

    return make


@pytest.fixture
def make_point() -> Callable[..., Point]:
    def make(classes: int, *, setting: int = 0, process: int = 0, **fields: object) -> Point:
        return Point(setting=setting, process=process, classes=classes, operations=classes, bytes=classes, **fields)  # type: ignore[arg-type]

    return make
