"""The paper's own numbers, as data.

Keren, Sabato, Schuller: Analysis of loss functions for fast single-class classification (2019).
Table 1: one minus each measure of single logit classification, by loss. Table 2: the same beside all logits.
Table 3: TensorFlow on one NVIDIA Maxwell Titan X, forward-pass seconds per example averaged over 100 minibatches of 32
examples.
"""

import csv
import functools
import importlib.resources
from dataclasses import dataclass

#: The paper's names of its networks -> ours.
ARCHITECTURES = {
    "Alexnet": "alexnet",
    "VGG-16": "vgg16",
    "Inception-v3": "inception_v3",
    "Resnet-50": "resnet50",
    "Resnet-101": "resnet101",
}

#: The paper's names of its data sets -> ours.
DATASETS = {
    "MNIST": "mnist",
    "SVHN": "svhn",
    "CIFAR-10": "cifar10",
    "CIFAR-100": "cifar100",
    "Imagenet": "imagenet",
}

#: Our names of the paper's measures -> their columns in the data of Tables 1 and 2.
MEASURES = {
    "one_minus_auprc": "1-auprc",
    "one_minus_precision_at_90": "1-precision@0.9",
    "one_minus_precision_at_99": "1-precision@0.99",
}

#: The rows of Table 2, as its data name them -> as the paper prints them.
METHODS = {
    "mean PoLS-aligned, SLC": "Mean PoLS methods",
    "batch CE, SLC": "batch CE",
    "CE, all logits": "CE with all logits",
}


@dataclass(frozen=True)
class PublishedLoss:
    """One line of the paper's Table 1."""

    dataset: str
    name: str
    """the loss, as the paper calls it"""
    aligned: bool
    """printed under the dashed line: follows the Principle of Logit Separation"""
    measures: dict[str, float]
    """of the single logit, by our names; the smaller, the better"""


@dataclass(frozen=True)
class PublishedMethod:
    """One line of the paper's Table 2."""

    dataset: str
    name: str
    """the method, as the paper calls it"""
    measures: dict[str, float]


@dataclass(frozen=True)
class PublishedPoint:
    """One line of the paper's Table 3."""

    arch: str
    classes: int
    seconds: float
    """seconds per example"""
    speedup: float
    """time at this count / time of the single logit, as printed; 1 for the single logit, where the paper prints none"""


@functools.cache
def table1() -> tuple[PublishedLoss, ...]:
    """Table 1 in the paper's order: by data set, the losses that are not aligned first."""
    return tuple(
        PublishedLoss(DATASETS[line["dataset"]], line["loss"], line["pols_aligned"] == "yes", _measures(line))
        for line in _lines("published_table1.csv")
    )


@functools.cache
def table1_improvement() -> dict[str, dict[str, float]]:
    """Data set -> measure -> mean relative improvement of the aligned losses over the others, as a share."""
    return {
        DATASETS[line["dataset"]]: {ours: float(line[f"{theirs} %"]) / 100 for ours, theirs in MEASURES.items()}
        for line in _lines("published_table1_improvement.csv")
    }


@functools.cache
def table2() -> tuple[PublishedMethod, ...]:
    """Table 2 in the paper's order."""
    return tuple(
        PublishedMethod(DATASETS[line["dataset"]], METHODS[line["method"]], _measures(line))
        for line in _lines("published_table2.csv")
    )


@functools.cache
def table3() -> tuple[PublishedPoint, ...]:
    """Table 3 in the paper's order: by network, then by ascending class count."""
    return tuple(
        PublishedPoint(
            arch=ARCHITECTURES[line["architecture"]],
            classes=int(line["classes"]),
            seconds=float(line["seconds_per_example"]),
            speedup=float(line["slc_speedup"] or 1.0),
        )
        for line in _lines("published_table3.csv")
    )


def published(arch: str) -> tuple[PublishedPoint, ...]:
    """The paper's points of one network, ascending by class count; empty if it measured no such network.

    `torchvision/resnet50` is the same network as `resnet50`.
    """
    return tuple(point for point in table3() if point.arch == arch.removeprefix("torchvision/"))


def published_losses(dataset: str) -> dict[str, PublishedLoss]:
    """The paper's lines of one data set by the name of the loss; empty if it has none."""
    return {line.name: line for line in table1() if line.dataset == dataset}


def published_methods(dataset: str) -> dict[str, PublishedMethod]:
    """The paper's lines of Table 2 of one data set, by the name of the method; empty if it has none."""
    return {line.name: line for line in table2() if line.dataset == dataset}


def _measures(line: dict[str, str]) -> dict[str, float]:
    return {ours: float(line[theirs]) for ours, theirs in MEASURES.items()}


def _lines(name: str) -> list[dict[str, str]]:
    text = (importlib.resources.files("reports") / name).read_text(encoding="utf-8")
    return list(csv.DictReader(text.splitlines()))
