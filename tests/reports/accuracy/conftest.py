"""Accuracy runs made by hand: errors and distributions as trained models have them, without training."""

import math
import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench.accuracy.records import (
    ClassMeasures,
    CurvePoint,
    DatasetFacts,
    Evaluation,
    Histogram,
    Manifest,
    ScoreMeasures,
    Separation,
    Training,
)
from bench.accuracy.run import (
    EVALUATIONS,
    TRAININGS,
    AccuracyRun,
    AccuracyWriter,
    Influence,
    write_influence,
)
from bench.accuracy.settings import PAPER_LOSSES, LossSetting, Member, Recipe
from bench.machine.fingerprint import Machine

CLASSES = 10
TEST_EXAMPLES = 400

#: key -> the paper's name, aligned, and by how much one logit and all logits err.
LOSSES = {
    "ce": ("CE", False, 0.0107, 0.0016),
    "max-margin": ("max-margin", False, 0.0462, 0.0022),
    "softmax-cauchy-schwarz": ("Softmax Cauchy-Schwarz divergence", False, 0.0158, 0.0016),
    "sigmoid-cauchy-schwarz": ("Sigmoid Cauchy-Schwarz divergence", False, 0.0065, 0.0018),
    "softmax-tanimoto": ("Softmax Tanimoto loss", False, 0.0085, 0.0023),
    "self-norm": ("self-norm", True, 0.0022, 0.0014),
    "nce": ("NCE", True, 0.0024, 0.0014),
    "binary-ce": ("binary CE", True, 0.0016, 0.0014),
    "sigmoid-tanimoto": ("Sigmoid Tanimoto loss", True, 0.0025, 0.0019),
    "batch-ce": ("batch CE", True, 0.0023, 0.0016),
    "batch-max-margin": ("batch max-margin", True, 0.0034, 0.0017),
}

STEPS = 4000


def _scores(error: float, by_class: float) -> ScoreMeasures:
    shares = [1 - error, 1 - 1.1 * error, 1 - 0.9 * error, max(0.0, 1 - 12 * error)]
    return ScoreMeasures(
        auprc=shares[0],
        auprc_trapezoid=shares[2],
        precision_at_90=shares[1],
        precision_at_99=shares[3],
        by_class=ClassMeasures(
            auprc=(1 - by_class,) * CLASSES, precision_at_90=(0.9,) * CLASSES, precision_at_99=(0.8,) * CLASSES
        ),
    )


def _separation(aligned: bool, split: str) -> Separation:
    highest, ordered = (4.2, 0.9991) if aligned else (21.5, 0.981)
    holds = aligned and split == "train"
    return Separation(
        holds=holds,
        lowest_true=5.0 if holds else -1.5,
        highest_false=highest,
        ordered_low=1.0 if holds else ordered,
        ordered_high=1.0 if holds else ordered + 2e-6,
        log_partition_mean=9.0,
        log_partition_std=0.4 if aligned else 3.9,
    )


def _histogram(aligned: bool, true: int, false: int, seed: int) -> Histogram:
    """As Fig. 2 has it: logits that share an offset of the example, large where the loss leaves it free."""
    draws = np.random.default_rng(seed)
    offset = 0.6 if aligned else 4.0
    sides = [draws.normal(12, 1.5, true) + draws.normal(0, offset, true)]
    sides.append(draws.normal(0, 2.0, false) + draws.normal(0, offset, false))
    edges = np.histogram_bin_edges(np.concatenate(sides), 80)
    true_counts, false_counts = (tuple(np.histogram(side, edges)[0].tolist()) for side in sides)
    return Histogram(edges=tuple(edges.tolist()), true=true_counts, false=false_counts)


def _evaluation(member: Member) -> Evaluation:
    _, aligned, single, every = LOSSES[member.loss]
    wobble = 1 + 0.05 * member.seed
    return Evaluation(
        member=member,
        accuracy=0.985,
        single=_scores(single * wobble, single),
        all=_scores(every * wobble, every),
        separation_train=_separation(aligned, "train"),
        separation_test=_separation(aligned, "test"),
        shown_class=1,
        histogram_of_class=_histogram(aligned, 1135, 8865, member.seed),
        histogram_pooled=_histogram(aligned, 10_000, 90_000, member.seed),
        seconds=1.0,
    )


def _training(member: Member, diverged_at: int | None) -> Training:
    draws = random.Random(member.name)
    best = 0.984 - 0.004 * abs(math.log10(member.learning_rate) + 1) + draws.uniform(-2e-3, 2e-3)
    ends = range(STEPS // 20, STEPS + 1, STEPS // 20)
    curve = tuple(
        CurvePoint(
            step=step,
            training_loss=2.3 * math.exp(-step / 800),
            validation_loss=2.3 * math.exp(-step / 900),
            validation_accuracy=best - 0.12 * math.exp(-step / 600) + draws.uniform(-1e-3, 1e-3),
            seconds=step / 300,
        )
        for step in ends
        if diverged_at is None or step < diverged_at
    )
    common: dict[str, Any] = {"member": member, "curve": curve, "seconds": 12.0, "examples_per_s": 40_000.0}
    if diverged_at is None:
        return Training(status="ok", steps=STEPS, **common)
    reason = f"the loss was not finite at step {diverged_at}"
    return Training(status="diverged", reason=reason, steps=diverged_at, diverged_at=diverged_at, **common)


@pytest.fixture
def make_accuracy_run() -> Callable[..., AccuracyRun]:
    """Of each loss the model at rate 0.1 met the test data, unless the loss is in `missing`.

    `diverged`: (loss, rate) -> the step at which every seed of it diverged; at rate 0.1, nothing was tested.
    """

    def make(
        losses: Sequence[str] = PAPER_LOSSES,
        *,
        dataset: str = "mnist",
        rates: Sequence[float] = (0.1, 0.01),
        seeds: Sequence[int] = (0,),
        missing: Sequence[str] = (),
        diverged: Mapping[tuple[str, float], int] = {},
        status: str = "complete",
        **fields: Any,
    ) -> AccuracyRun:
        manifest = Manifest(
            **{
                "name": f"accuracy-{dataset}",
                "created": "2026-03-01T09:15:02+00:00",
                "status": status,
                "dataset": DatasetFacts(
                    name=dataset,
                    classes=CLASSES,
                    input_shape=(1, 28, 28),
                    train=54_000,
                    validation=6_000,
                    test=10_000,
                    split_seed=0,
                ),
                "recipe": Recipe(network="mlp", steps=STEPS, threads=2),
                "losses": tuple(LossSetting(key=key, name=LOSSES[key][0], aligned=LOSSES[key][1]) for key in losses),
                "learning_rates": tuple(rates),
                "seeds": tuple(seeds),
                "machine": Machine(
                    os="Linux",
                    cpu="Imaginary CPU @ 2.0GHz",
                    cores_physical=2,
                    cores_logical=2,
                    cores_usable=2,
                    memory_bytes=16 << 30,
                ),
                "versions": {"torch": "2.15.0"},
                **fields,
            }
        )
        ended = [member for member in manifest.members if member.loss not in missing]
        trainings = [_training(each, diverged.get((each.loss, each.learning_rate))) for each in ended]
        tested = [each.member for each in trainings if each.status == "ok" and each.member.learning_rate == rates[0]]
        return AccuracyRun(
            manifest=manifest,
            trainings=tuple(trainings),
            evaluations=tuple(_evaluation(member) for member in tested),
            influences={member.name: _influence(member) for member in tested},
        )

    return make


def _influence(member: Member) -> Influence:
    """With pulls that fit errors of that size: a few examples pull at the measure, most do not."""
    _, _, single, every = LOSSES[member.loss]
    pulls = np.random.default_rng(7).exponential(1.0, TEST_EXAMPLES) - 1
    return Influence(pulls * single * 0.05 / math.sqrt(TEST_EXAMPLES), pulls * every * 0.05 / math.sqrt(TEST_EXAMPLES))


@pytest.fixture
def write_accuracy_run(make_accuracy_run: Callable[..., AccuracyRun]) -> Callable[..., Path]:
    def write(folder: Path, *arguments: Any, **fields: Any) -> Path:
        run = make_accuracy_run(*arguments, **fields)
        writer = AccuracyWriter.create(folder, run.manifest)
        writer.append_to(TRAININGS, run.trainings)
        writer.append_to(EVALUATIONS, run.evaluations)
        for evaluation in run.evaluations:
            write_influence(writer.path, evaluation.member, run.influences[evaluation.member.name])
        writer.close()
        return writer.path

    return write
