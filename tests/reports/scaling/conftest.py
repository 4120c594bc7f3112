"""Studies made by hand: errors that grow with the classes as trained models' do, without training."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench.accuracy.records import CurvePoint, Training
from bench.accuracy.settings import LossSetting, Member, Recipe
from bench.folder import Notice
from bench.machine.fingerprint import Machine
from bench.run import Manifest, Point, Process, Run, RunWriter, Sample
from bench.scaling.records import (
    CountSetting,
    Optimum,
    QueryMeasure,
    QuerySetting,
    StepCost,
    StudyManifest,
    StudyPoint,
    StudyTraining,
)
from bench.scaling.run import (
    COSTS,
    OPTIMA,
    POINTS,
    TRAININGS,
    QueryErrors,
    StudyRun,
    StudyWriter,
    optimum_name,
    write_queries,
)
from bench.speed.settings import Protocol, Setting

#: key -> name, aligned, what one logit and all logits err above the optimum at 1,000 classes.
LOSSES = {
    "ce": ("CE", False, 0.120, 0.010),
    "self-norm": ("self-norm", True, 0.014, 0.011),
    "nce": ("NCE", True, 0.060, 0.050),
    "binary-ce": ("binary CE", True, 0.022, 0.020),
    "batch-ce": ("batch CE", True, 0.012, 0.010),
}
COUNTS = (10, 100, 1000, 10_000)
LEFT_OUT = 100_000
MACHINE = Machine(
    os="Linux",
    cpu="Imaginary CPU @ 2.0GHz",
    cores_physical=2,
    cores_logical=2,
    cores_usable=2,
    memory_bytes=16 << 30,
)


def optimum_error(classes: int) -> float:
    return 0.004 + 0.02 * (np.log10(classes) - 1)


def query_errors(name: str, classes: int, single: float, every: float) -> QueryErrors:
    """Of at most 400 queries, that differ in difficulty alike for all models."""
    asked = min(classes, 400)
    hardness = np.random.default_rng(classes).gamma(4, 0.25, asked)
    draws = np.random.default_rng([ord(letter) for letter in name])
    scores = [np.clip(mean * hardness * draws.lognormal(0, 0.15, asked), 0, 1) for mean in (single, every)]
    return QueryErrors(np.arange(asked), *scores)


def measure(errors: np.ndarray) -> QueryMeasure:
    return QueryMeasure(error=float(errors.mean()), standard_error=float(errors.std(ddof=1) / len(errors) ** 0.5))


def member_training(classes: int, stage: str, loss: str, seed: int, **fields: Any) -> StudyTraining:
    """At the chosen rate; or with `rate` and `accuracy` of one that is not."""
    rate, accuracy = fields.pop("rate", 0.1), fields.pop("accuracy", 0.9)
    member = Member(loss=loss, learning_rate=rate, seed=seed)
    end = CurvePoint(step=2000, training_loss=1.0, validation_loss=1.0, validation_accuracy=accuracy, seconds=1.0)
    training = Training(**{"member": member, "status": "ok", "steps": 2000, "seconds": 1.0, "curve": (end,), **fields})
    return StudyTraining(classes=classes, stage=stage, training=training)


@pytest.fixture
def make_study() -> Callable[..., StudyRun]:
    """`slow`: (loss, count) -> how often the error, at half of the steps; `without`: what has no point."""

    def make(
        losses: Sequence[str] = tuple(LOSSES),
        counts: Sequence[int] = COUNTS,
        *,
        seeds: Sequence[int] = (0, 1, 2),
        speed: Run | None = None,
        costs: bool = True,
        optima: bool = True,
        slow: Mapping[tuple[str, int], float] | float = 1.02,
        without: Sequence[tuple[str, int]] = (),
        left_out: Sequence[int] = (LEFT_OUT,),
        status: str = "complete",
        notices: Sequence[Notice] = (),
    ) -> StudyRun:
        queries: dict[str, QueryErrors] = {}
        points, trainings = [], []
        for classes in counts:
            queries[optimum_name(classes)] = query_errors("o", classes, optimum_error(classes), 0.1)
            queries[optimum_name(classes)] = queries[optimum_name(classes)]._replace(
                all=queries[optimum_name(classes)].single
            )
            for loss in losses:
                if (loss, classes) in without:
                    continue
                growth = np.log10(classes) / 3
                trainings.append(member_training(classes, "search", loss, seeds[0], rate=0.3, accuracy=0.5))
                for stage, seed in (("search", seeds[0]), *(("full", seed) for seed in seeds)):
                    half = slow if isinstance(slow, float) else slow.get((loss, classes), 1.02)
                    factor = (half if stage == "search" else 1.0) * (1 + 0.02 * seed)
                    errors = [factor * (optimum_error(classes) + growth * above) for above in LOSSES[loss][2:]]
                    point = StudyPoint(
                        classes=classes,
                        stage=stage,
                        loss=loss,
                        learning_rate=0.1,
                        seed=seed,
                        steps=1000 if stage == "search" else 2000,
                        queries=min(classes, 400),
                        single=QueryMeasure(error=0.1, standard_error=0.01),
                        all=QueryMeasure(error=0.1, standard_error=0.01),
                        validation_accuracy=0.9,
                        seconds=10.0,
                    )
                    found = query_errors(f"{loss}{seed}", classes, *errors)
                    queries[point.name] = found
                    points.append(point.model_copy(update={"single": measure(found.single), "all": measure(found.all)}))
                    trainings.append(member_training(classes, stage, loss, seed))
        manifest = StudyManifest(
            name="scaling-mlp",
            created="2026-11-23T09:15:02+00:00",
            status=status,
            family="zipf=0",
            counts=tuple(_count(classes, losses) for classes in counts)
            + tuple(CountSetting(classes=each, left_out="needs a GPU") for each in left_out),
            queries=QuerySetting(classes=400),
            losses=tuple(losses),
            learning_rates=(0.3, 0.1),
            seeds=tuple(seeds),
            machine=MACHINE,
            versions={"torch": "2.13.0"},
            notices=tuple(notices),
        )
        step_costs = [
            StepCost(
                classes=classes,
                loss=loss,
                step="dense",
                batch_size=256,
                threads=1,
                seconds=[1e-3 * (1 + classes / 500 * (1 + 0.1 * index)) * wobble for wobble in (0.9, 1.0, 1.3)],
                peak_bytes=2_000_000 + 4000 * classes * (1 + (loss == "ce")),
            )
            for classes in counts
            for index, loss in enumerate(losses)
        ]
        optimum_records = [
            Optimum(
                classes=classes,
                queries=min(classes, 400),
                measure=measure(queries[optimum_name(classes)].single),
                seconds=1.0,
            )
            for classes in counts
        ]
        return StudyRun(
            manifest=manifest,
            trainings=tuple(trainings),
            optima=tuple(optimum_records) if optima else (),
            points=tuple(points),
            costs=tuple(step_costs) if costs else (),
            queries=queries,
            speed=speed,
        )

    return make


def _count(classes: int, losses: Sequence[str]) -> CountSetting:
    return CountSetting(
        classes=classes,
        dataset=f"synthetic:{classes},zipf=0",
        recipe=Recipe(network="mlp", steps=2000, batch_size=256),
        losses=tuple(LossSetting(key=key, name=LOSSES[key][0], aligned=LOSSES[key][1]) for key in losses),
    )


@pytest.fixture
def make_speed() -> Callable[..., Run]:
    """A speed run of the same network: a millisecond for one logit, and more in proportion to the classes."""

    def make(counts: Sequence[int] = (*COUNTS, LEFT_OUT), *, failed: Sequence[int] = (), rounds: int = 30) -> Run:
        setting = Setting(arch="mlp", input_shape=(128,), device="cpu", threads=2, batch_size=32)
        common = {"setting": 0, "process": 0, "operations": 64, "bytes": 64}
        lost = {"status": "out-of-memory", "reason": "needs 3.04 GB, 2.10 GB are free"}
        points = [Point(classes=each, **(lost if each in failed else {}), **common) for each in (1, *counts)]
        slots = [(1, False), (1, True), *((each, False) for each in counts if each not in failed)]
        draws = np.random.default_rng(0)
        samples = [
            Sample(
                setting=0,
                process=0,
                phase="timed",
                round=turn,
                round_size=len(slots),
                position=position,
                classes=classes,
                control=control,
                wall_s=1e-3 * (1 + classes / 2000) * draws.uniform(0.98, 1.02),
            )
            for turn in range(rounds)
            for position, (classes, control) in enumerate(slots)
        ]
        created = "2026-11-23T09:30:00+00:00"
        process = Process(setting=0, process=0, pid=1, started=created, pool=8, stop_reason="minibatches")
        manifest = Manifest(
            name="mlp",
            created=created,
            status="complete",
            settings=(setting,),
            protocol=Protocol(classes=(1, *counts), minibatches=rounds),
            machine=MACHINE,
            versions={"torch": "2.13.0"},
            points=tuple(points),
            processes=(process,),
        )
        return Run(manifest, samples)

    return make


@pytest.fixture
def write_study(make_study: Callable[..., StudyRun]) -> Callable[..., Path]:
    """The same on disk."""

    def write(folder: Path, **options: Any) -> Path:
        run = make_study(**options)
        writer = StudyWriter.create(folder, run.manifest)
        for name, records in (
            (TRAININGS, run.trainings),
            (OPTIMA, run.optima),
            (POINTS, run.points),
            (COSTS, run.costs),
        ):
            writer.append_to(name, records)
        for name, errors in run.queries.items():
            write_queries(writer.path, name, errors)
        if run.speed is not None:
            speed = RunWriter.create(writer.path / "speed", run.speed.manifest)
            speed.append(run.speed.samples)
            speed.close()
        writer.close()
        return writer.path

    return write
