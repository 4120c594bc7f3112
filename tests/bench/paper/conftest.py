"""Parts of the paper small enough for a test, and runs of them made by hand."""

import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pytest

from bench.accuracy.records import (
    ClassMeasures,
    DatasetFacts,
    Evaluation,
    Histogram,
    ScoreMeasures,
    Separation,
    Training,
)
from bench.accuracy.records import Manifest as AccuracyManifest
from bench.accuracy.run import AccuracyRun, Influence
from bench.accuracy.settings import LossSetting, Member, Recipe
from bench.machine.fingerprint import Machine
from bench.paper.parts import AccuracyPart, SpeedPart
from bench.run import Manifest, Point, Process, Run, Sample
from bench.speed.rounds import slots_of
from bench.speed.settings import Protocol, Setting

MACHINE = Machine(
    os="Linux", cpu="Imaginary CPU", cores_physical=2, cores_logical=2, cores_usable=2, memory_bytes=16 << 30
)

CREATED = "2026-03-01T09:15:02+00:00"


@pytest.fixture
def tiny_speed() -> SpeedPart:
    return SpeedPart(arch="tiny_networks:small", classes=(1, 16), batch_size=2, full=12, least=10)


@pytest.fixture
def tiny_accuracy() -> AccuracyPart:
    return AccuracyPart(
        dataset="digits",
        losses="ce,batch-ce",
        full=30,
        least=5,
        learning_rates=(0.1, 0.01),
        fewer_rates=(0.1,),
    )


@pytest.fixture
def make_speed_run() -> Callable[..., Run]:
    """A sweep in which a pass at k classes takes `base_s` times its speedup, but for 1 % of noise.

    `after_larger`: how many times as long a single logit takes after a larger count.
    """

    def make(
        speedups: Mapping[int, float],
        *,
        rounds: int = 60,
        base_s: float = 1e-3,
        after_larger: float = 1.0,
        second_slot: float = 1.0,
        status: str = "complete",
    ) -> Run:
        classes = (1, *speedups)
        setting = Setting(arch="inception_v3", input_shape=(3, 8, 8), device="cpu", threads=1)
        draws = random.Random(0)
        samples: list[Sample] = []
        before: int | None = None
        for turn in range(rounds):
            slots = list(slots_of(classes))
            draws.shuffle(slots)
            for position, slot in enumerate(slots):
                factor = speedups.get(slot.classes, 1.0) * (second_slot if slot.control else 1.0)
                if slot.classes == 1 and before is not None and before > 1:
                    factor *= after_larger
                samples.append(
                    Sample(
                        setting=0,
                        process=0,
                        phase="timed",
                        round=turn,
                        round_size=len(slots),
                        position=position,
                        classes=slot.classes,
                        control=slot.control,
                        predecessor=before,
                        wall_s=base_s * factor * draws.uniform(0.99, 1.01),
                    )
                )
                before = slot.classes
        common: dict[str, Any] = {"setting": 0, "process": 0}
        manifest = Manifest(
            name="inception_v3",
            created=CREATED,
            status=status,  # type: ignore[arg-type]
            settings=(setting,),
            protocol=Protocol(classes=classes, minibatches=rounds),
            machine=MACHINE,
            versions={},
            points=tuple(Point(classes=count, operations=1, bytes=1, **common) for count in classes),
            processes=(Process(pid=1, started=CREATED, pool=1, stop_reason="minibatches", **common),),
        )
        return Run(manifest, samples)

    return make


def _scores(errors: Sequence[float]) -> ScoreMeasures:
    values = tuple(1 - error for error in errors)
    mean = sum(values) / len(values)
    return ScoreMeasures(
        auprc=mean,
        auprc_trapezoid=mean,
        precision_at_90=mean,
        precision_at_99=mean,
        by_class=ClassMeasures(auprc=values, precision_at_90=values, precision_at_99=values),
    )


@pytest.fixture
def make_accuracy_run() -> Callable[..., AccuracyRun]:
    """Of each loss one model a seed, with the errors by class that are given for one logit and for all."""

    def make(
        single: Mapping[str, Sequence[float]],
        every: Mapping[str, Sequence[float]],
        *,
        aligned: Sequence[str] = ("batch-ce", "self-norm"),
        seeds: Sequence[int] = (0,),
        steps: int = 100_000,
        rates: Sequence[float] = (1.0, 0.1, 0.01, 0.001),
        untested: Sequence[str] = (),
        pull: float = 1e-5,
    ) -> AccuracyRun:
        losses = tuple(LossSetting(key=key, name=key, aligned=key in aligned) for key in single)
        classes = len(next(iter(single.values())))
        manifest = AccuracyManifest(
            name="accuracy-mnist",
            created=CREATED,
            status="complete",
            dataset=DatasetFacts(
                name="mnist", classes=classes, input_shape=(1, 4, 4), train=90, validation=10, test=50, split_seed=0
            ),
            recipe=Recipe(network="mlp", steps=steps),
            losses=losses,
            learning_rates=tuple(rates),
            seeds=tuple(seeds),
            machine=MACHINE,
            versions={},
        )
        members = [
            Member(loss=loss.key, learning_rate=rates[0], seed=seed)
            for seed in seeds
            for loss in losses
            if loss.key not in untested
        ]
        separation = Separation(
            holds=False,
            lowest_true=0,
            highest_false=1,
            ordered_low=0.9,
            ordered_high=0.9,
            log_partition_mean=0,
            log_partition_std=1,
        )
        histogram = Histogram(edges=(0.0, 1.0), true=(1,), false=(1,))
        evaluations = tuple(
            Evaluation(
                member=member,
                accuracy=0.9,
                single=_scores(single[member.loss]),
                all=_scores(every[member.loss]),
                separation_train=separation,
                separation_test=separation,
                shown_class=0,
                histogram_of_class=histogram,
                histogram_pooled=histogram,
                seconds=1,
            )
            for member in members
        )
        influences = np.random.default_rng(0).normal(0, pull, (2, 50))
        return AccuracyRun(
            manifest,
            tuple(Training(member=member, status="ok", steps=steps, seconds=1) for member in members),
            evaluations,
            {member.name: Influence(influences[0], influences[1]) for member in members},
        )

    return make


@pytest.fixture
def clock() -> Callable[[], float]:
    """Every look at it is a second later."""
    seconds = iter(range(10**9))
    return lambda: float(next(seconds))
