"""Records of accuracy runs made by hand; nothing is trained."""

from collections.abc import Callable, Iterable, Sequence
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
from bench.accuracy.run import AccuracyRun, Influence
from bench.accuracy.settings import LossSetting, Member, Recipe
from bench.machine.fingerprint import Machine

#: key -> the paper's name, and whether it is aligned.
NAMES = {
    "ce": ("CE", False),
    "max-margin": ("max-margin", False),
    "softmax-cauchy-schwarz": ("Softmax Cauchy-Schwarz divergence", False),
    "self-norm": ("self-norm", True),
    "nce": ("NCE", True),
    "binary-ce": ("binary CE", True),
    "sigmoid-tanimoto": ("Sigmoid Tanimoto loss", True),
    "batch-ce": ("batch CE", True),
    "batch-max-margin": ("batch max-margin", True),
}

MACHINE = Machine(
    os="Linux", cpu="Imaginary CPU", cores_physical=2, cores_logical=2, cores_usable=2, memory_bytes=16 << 30
)


def member_of(loss: str = "ce", learning_rate: float = 0.1, seed: int = 0) -> Member:
    return Member(loss=loss, learning_rate=learning_rate, seed=seed)


def training_of(
    member: Member, accuracy: float = 0.9, loss: float | None = 0.3, status: str = "ok", **fields: Any
) -> Training:
    """A training of one curve point; one that is not ok has its status as the reason."""
    point = CurvePoint(step=10, training_loss=loss, validation_loss=loss, validation_accuracy=accuracy, seconds=1.0)
    lost = {} if status == "ok" else {"reason": f"it {status}", "steps": 3}
    return Training(
        **{"member": member, "status": status, "steps": 10, "curve": (point,), "seconds": 1.0, **lost, **fields}
    )


def scores_of(errors: Sequence[float]) -> ScoreMeasures:
    """From 1-AUPRC, 1-Precision@0.9 and 1-Precision@0.99."""
    auprc, at_90, at_99 = (1 - error for error in errors)
    return ScoreMeasures(
        auprc=auprc,
        auprc_trapezoid=auprc,
        precision_at_90=at_90,
        precision_at_99=at_99,
        by_class=ClassMeasures(auprc=(auprc, None), precision_at_90=(at_90, None), precision_at_99=(at_99, None)),
    )


def evaluation_of(
    member: Member,
    single: Sequence[float] = (0.02, 0.03, 0.2),
    every: Sequence[float] = (0.01, 0.01, 0.1),
    *,
    holds: bool = False,
) -> Evaluation:
    separation = Separation(
        holds=holds,
        lowest_true=1.0 if holds else -1.0,
        highest_false=0.0,
        ordered_low=0.9,
        ordered_high=0.91,
        log_partition_mean=0.1,
        log_partition_std=0.2,
    )
    histogram = Histogram(edges=(-1.0, 0.0, 1.0), true=(1, 2), false=(3, 0))
    return Evaluation(
        member=member,
        accuracy=0.95,
        single=scores_of(single),
        all=scores_of(every),
        separation_train=separation,
        separation_test=separation,
        shown_class=0,
        histogram_of_class=histogram,
        histogram_pooled=histogram,
        seconds=0.5,
    )


def influence_of(size: float = 1e-4, examples: int = 50) -> Influence:
    pulls = np.random.default_rng(0).normal(0, size, (2, examples))
    return Influence(pulls[0], pulls[1])


def manifest_of(
    losses: Sequence[str] = ("ce", "batch-ce"),
    learning_rates: Sequence[float] = (0.1, 0.01),
    seeds: Sequence[int] = (0,),
    recipe: dict[str, Any] | None = None,
    **fields: Any,
) -> Manifest:
    facts = DatasetFacts(
        name="digits", classes=2, input_shape=(1, 8, 8), train=100, validation=10, test=50, split_seed=0
    )
    return Manifest(
        **{
            "name": "accuracy-digits",
            "created": "2026-01-02T03:04:05+00:00",
            "dataset": facts,
            "recipe": Recipe(**{"network": "mlp", "steps": 10, **(recipe or {})}),
            "losses": tuple(LossSetting(key=key, name=NAMES[key][0], aligned=NAMES[key][1]) for key in losses),
            "learning_rates": tuple(learning_rates),
            "seeds": tuple(seeds),
            "machine": MACHINE,
            "versions": {"torch": "2.15.0"},
            **fields,
        }
    )


def run_of(
    manifest: Manifest,
    trainings: Iterable[Training] = (),
    evaluations: Iterable[Evaluation] = (),
    path: Path | None = None,
    **fields: Any,
) -> AccuracyRun:
    tested = tuple(evaluations)
    influences = {each.member.name: influence_of() for each in tested}
    return AccuracyRun(manifest, tuple(trainings), tested, influences, path, **fields)


@pytest.fixture(scope="session")
def make_member() -> Callable[..., Member]:
    return member_of


@pytest.fixture(scope="session")
def make_training() -> Callable[..., Training]:
    return training_of


@pytest.fixture(scope="session")
def make_evaluation() -> Callable[..., Evaluation]:
    return evaluation_of


@pytest.fixture(scope="session")
def make_influence() -> Callable[..., Influence]:
    return influence_of


@pytest.fixture(scope="session")
def make_grid_manifest() -> Callable[..., Manifest]:
    return manifest_of


@pytest.fixture(scope="session")
def make_run() -> Callable[..., AccuracyRun]:
    return run_of
