"""The paper's own numbers, as data.

Keren, Sabato, Schuller: Analysis of loss functions for fast single-class classification (2019), Table 3: TensorFlow on
one NVIDIA Maxwell Titan X, forward-pass seconds per example averaged over 100 minibatches of 32 examples.
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
def table3() -> tuple[PublishedPoint, ...]:
    """Table 3 in the paper's order: by network, then by ascending class count."""
    text = (importlib.resources.files("reports") / "published_table3.csv").read_text(encoding="utf-8")
    return tuple(
        PublishedPoint(
            arch=ARCHITECTURES[line["architecture"]],
            classes=int(line["classes"]),
            seconds=float(line["seconds_per_example"]),
            speedup=float(line["slc_speedup"] or 1.0),
        )
        for line in csv.DictReader(text.splitlines())
    )


def published(arch: str) -> tuple[PublishedPoint, ...]:
    """The paper's points of one network, ascending by class count; empty if it measured no such network.

    `torchvision/resnet50` is the same network as `resnet50`.
    """
    return tuple(point for point in table3() if point.arch == arch.removeprefix("torchvision/"))
