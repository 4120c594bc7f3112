"""What the paper measured, part by part, and how small each part may become where time is short.

A part is an ordinary run, of `python -m bench` or of `python -m bench accuracy`.
"""

from typing import Annotated, Literal

from pydantic import Field, PositiveInt

from bench.accuracy.settings import PAPER_RATES
from bench.folder import Record
from bench.speed.settings import PAPER_CLASSES

#: Fewer rounds give no interval worth the name (bench.speed.statistics: intervals rest on blocks of rounds).
LEAST_MINIBATCHES = 10

#: Fewer steps train none of the paper's networks: on MNIST they are 2.4 passes over the data.
LEAST_STEPS = 1_000

#: On MNIST the best rate of nearly every loss is one of these.
FEWER_RATES = (0.1, 0.01)


class SpeedPart(Record):
    """Sect. 6.3 for one network: Table 3's rows, and its line in Fig. 1."""

    kind: Literal["speed"] = "speed"
    arch: str
    classes: tuple[PositiveInt, ...] = PAPER_CLASSES
    batch_size: PositiveInt = 32
    full: PositiveInt = Field(100, description="minibatches in the paper")
    least: PositiveInt = Field(LEAST_MINIBATCHES, description="minibatches below which it is left out")

    @property
    def key(self) -> str:
        """What tells it from the other parts."""
        return f"speed-{self.arch}"

    @property
    def grids(self) -> tuple[tuple[float, ...], ...]:
        """There are no learning rates to choose from."""
        return ((),)


class AccuracyPart(Record):
    """Sect. 6.1 and 6.2 for one data set: its rows in Tables 1 and 2."""

    kind: Literal["accuracy"] = "accuracy"
    dataset: str
    losses: str = "paper"
    preset: str | None = None
    full: PositiveInt = Field(100_000, description="steps in the paper")
    least: PositiveInt = Field(LEAST_STEPS, description="steps below which it is left out")
    learning_rates: tuple[float, ...] = PAPER_RATES
    fewer_rates: tuple[float, ...] = FEWER_RATES

    @property
    def key(self) -> str:
        """What tells it from the other parts."""
        return f"accuracy-{self.dataset}"

    @property
    def grids(self) -> tuple[tuple[float, ...], ...]:
        """Learning rates to try: the paper's, and where time is short the fewer."""
        return tuple(dict.fromkeys((self.learning_rates, self.fewer_rates)))


Part = Annotated[SpeedPart | AccuracyPart, Field(discriminator="kind")]


class Size(Record):
    """How much of a part is done."""

    amount: PositiveInt = Field(description="minibatches, or steps of each training")
    learning_rates: tuple[float, ...] = Field((), description="none for a part of speed")


class Options(Record):
    """What all parts share."""

    device: str = "auto"
    threads: PositiveInt | None = Field(None, description="CPU threads in all; none for every core")
    seed: int = Field(0, ge=0)
    data_dir: str | None = Field(None, description="where data sets lie, or are downloaded to; none for the default")


#: Tables 1 to 3 and Figs. 1 and 2. The rate of the ImageNet recipe is its own (bench.accuracy.request.PAPER_IMAGENET).
PAPER: tuple[SpeedPart | AccuracyPart, ...] = (
    *(SpeedPart(arch=arch) for arch in ("alexnet", "vgg16", "inception_v3", "resnet50", "resnet101")),
    *(AccuracyPart(dataset=dataset) for dataset in ("mnist", "svhn", "cifar10", "cifar100")),
    AccuracyPart(
        dataset="imagenet",
        preset="paper-imagenet",
        full=6_000_000,
        learning_rates=(0.1,),
        fewer_rates=(0.1,),
    ),
)


def full_size(part: SpeedPart | AccuracyPart) -> Size:
    """As much as the paper did."""
    return Size(amount=part.full, learning_rates=part.grids[0])


def least_size(part: SpeedPart | AccuracyPart) -> Size:
    """The least that is worth doing."""
    return Size(amount=part.least, learning_rates=part.grids[-1])
