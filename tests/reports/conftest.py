import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from bench.machine.fingerprint import Machine
from bench.run import Manifest, Point, Process, Run, RunWriter, Sample
from bench.speed.rows import Row
from bench.speed.settings import PAPER_CLASSES, Protocol, Setting

COMMON: dict[str, Any] = {
    "kind": "point",
    "status": "ok",
    "reason": "",
    "device": "cpu",
    "dtype": "float32",
    "batch_size": 32,
    "compile": "none",
    "order": "interleaved",
    "minibatches": 100,
    "rounds_done": 100,
    "operations": 2 * 32 * 2048,
    "bytes": 4 * 2048,
    "marked_samples": 0,
}


@pytest.fixture
def make_row() -> Callable[..., Row]:
    def make(arch: str = "resnet50", classes: int = 1, **fields: Any) -> Row:
        return Row(**{**COMMON, "arch": arch, "classes": classes, **fields})

    return make


@pytest.fixture
def make_rows() -> Callable[..., list[Row]]:
    """Rows of one setting: `single_s` and `slope_s` a class, with a spread and a slightly wrong prediction."""

    def make(
        arch: str = "resnet50",
        single_s: float = 0.030,
        slope_s: float = 5e-8,
        classes: Sequence[int] = PAPER_CLASSES,
        failed: Sequence[int] = (),
        noise: float = 0.01,
        **fields: Any,
    ) -> list[Row]:
        draws = random.Random(f"{arch} {fields}")
        rows = []
        for count in classes:
            shared = {**COMMON, "arch": arch, "classes": count, **fields}
            if count in failed:
                lost = {"status": "out-of-memory", "reason": "needs 3.04 GB, 2.10 GB are free", "rounds_done": 0}
                rows.append(Row(**{**shared, **lost}))
                continue
            median = single_s + slope_s * (count - 1) * (1 + noise * draws.uniform(-2, 2))
            ratio = median / single_s
            rows.append(
                Row(
                    **shared,
                    mean_s=median * 1.004,
                    median_s=median,
                    p5_s=median * (1 - 2 * noise),
                    p95_s=median * (1 + 5 * noise),
                    p99_s=median * (1 + 9 * noise),
                    speedup=ratio,
                    speedup_low=ratio * (1 - noise / 2) if count > 1 else 1.0,
                    speedup_high=ratio * (1 + noise / 2) if count > 1 else 1.0,
                    speedup_of_means=ratio * 1.001 if count > 1 else 1.0,
                    speedup_unmarked=ratio,
                    predicted_s=single_s + slope_s * 0.93 * (count - 1),
                    peak_memory_bytes=400_000_000 + 8192 * count,
                )
            )
            if count == 1:
                control = {"kind": "control", "speedup": 1.001, "speedup_low": 0.998, "speedup_high": 1.004}
                rows.append(rows[-1].model_copy(update=control))
        return rows

    return make


@pytest.fixture
def make_run() -> Callable[..., Run]:
    def make(
        *archs: str,
        status: str = "complete",
        created: str = "2026-03-01T09:15:02+00:00",
        points: Sequence[Point] = (),
        **setting: Any,
    ) -> Run:
        settings = tuple(
            Setting(**{"arch": arch, "input_shape": (3, 224, 224), "device": "cpu", "threads": 2, **setting})
            for arch in archs or ("resnet50",)
        )
        manifest = Manifest(
            name="-".join(setting.arch for setting in settings),
            created=created,
            status=status,  # type: ignore[arg-type]
            settings=settings,
            protocol=Protocol(classes=PAPER_CLASSES),
            machine=Machine(
                os="Linux",
                cpu="Imaginary CPU @ 2.0GHz",
                cores_physical=2,
                cores_logical=2,
                cores_usable=2,
                memory_bytes=16 << 30,
            ),
            versions={"torch": "2.15.0"},
            points=tuple(points),
        )
        return Run(manifest, ())

    return make


@pytest.fixture
def make_point() -> Callable[..., Point]:
    def make(classes: int, *, setting: int = 0, **fields: Any) -> Point:
        return Point(**{"setting": setting, "process": 0, "classes": classes, "operations": 64, "bytes": 64, **fields})

    return make


@pytest.fixture
def write_run(make_run: Callable[..., Run]) -> Callable[..., Path]:
    """A run on disk: of each network 12 rounds over 1, 1 (control) and 1,024 classes, and a count that did not fit."""

    def write(folder: Path, *archs: str, **fields: Any) -> Path:
        run = make_run(*archs, **fields)
        common = {"process": 0, "operations": 64, "bytes": 64}
        numbers = range(len(run.manifest.settings))
        points = [Point(setting=number, classes=count, **common) for number in numbers for count in (1, 1024)]
        lost = {"status": "out-of-memory", "reason": "needs 3.04 GB, 2.10 GB are free"}
        points += [Point(setting=number, classes=370_727, **lost, **common) for number in numbers]
        processes = [
            Process(setting=number, process=0, pid=1, started=run.manifest.created, pool=8, stop_reason="minibatches")
            for number in numbers
        ]
        update = {"points": tuple(points), "processes": tuple(processes)}
        writer = RunWriter.create(folder, run.manifest.model_copy(update=update))
        draws = random.Random(0)
        for number in numbers:
            for turn in range(12):
                writer.append(
                    Sample(
                        setting=number,
                        process=0,
                        phase="timed",
                        round=turn,
                        round_size=3,
                        position=position,
                        classes=classes,
                        control=control,
                        wall_s=(1.2 if classes > 1 else 1.0) * draws.uniform(0.99, 1.01),
                    )
                    for position, (classes, control) in enumerate(((1, False), (1024, False), (1, True)))
                )
        writer.close()
        return writer.path

    return write
