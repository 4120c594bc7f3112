"""What an accuracy run writes: its manifest, one record a training, one record a test.

results/2026-11-23T09-15-02-accuracy-mnist/
    run.json             what was trained, on what, and how it ended (Manifest)
    trainings.jsonl      one line a training as soon as it ends (Training); of one tried again, the last line stands
    evaluations.jsonl    one line a model that was chosen and met the test data (Evaluation)
    influences/          one .npz a tested model: each test example's pull on its measures
    checkpoints/         weights and optimiser state, and the weights each training ended with
    table1.csv ...       drawn from the above, and can be drawn again
"""

from typing import Literal

from pydantic import Field, NonNegativeInt, PositiveInt

from bench.accuracy.settings import Engine, LossSetting, Member, Recipe, Source
from bench.folder import Record, RunManifest
from bench.machine.fingerprint import Machine

TrainingStatus = Literal["ok", "diverged", "failed"]


class DatasetFacts(Record):
    """The data of a run: enough to tell whether another run saw the same."""

    name: str
    classes: PositiveInt
    input_shape: tuple[PositiveInt, ...] = Field(
        description="of one example: channels, height, width; or its number of features"
    )
    train: PositiveInt = Field(description="examples that were trained on")
    validation: PositiveInt = Field(description="examples held out of the training split to choose the learning rate")
    test: PositiveInt
    split_seed: NonNegativeInt = Field(description="of the stratified validation split")
    checksums: dict[str, str] = Field({}, description="file -> digest, as verified; empty for bundled data")
    notes: tuple[str, ...] = Field((), description="what was done to the published data: classes left out, resizing")


class Manifest(RunManifest):
    """run.json of an accuracy run."""

    kind: Literal["accuracy"] = "accuracy"
    schema_version: Literal[1] = 1
    command: tuple[str, ...] = Field((), description="the command line, or the API call, that made the run")
    dataset: DatasetFacts
    class_names: tuple[str, ...] = Field(
        (), description="in the order of the classes; they tell no data apart, so a run without them goes on as it is"
    )
    source: Source | None = Field(None, description="where the data lie; none for data in hand")
    engine: Engine = Field(Engine(), description="who carries the trainings out; decides none of their results")
    recipe: Recipe
    losses: tuple[LossSetting, ...]
    learning_rates: tuple[float, ...]
    seeds: tuple[NonNegativeInt, ...]
    machine: Machine
    versions: dict[str, str]
    commit: str | None = Field(None, description="of the working tree slc-bench was started from, if it is one")

    @property
    def members(self) -> tuple[Member, ...]:
        """Every training asked for, seed by seed, loss by loss."""
        return tuple(
            Member(loss=loss.key, learning_rate=rate, seed=seed)
            for seed in self.seeds
            for loss in self.losses
            for rate in self.learning_rates
        )


class CurvePoint(Record):
    """Where a training stood after so many steps."""

    step: PositiveInt
    training_loss: float | None = Field(description="mean over the steps since the point before; none if not finite")
    validation_loss: float | None = Field(
        description="mean over minibatches of the training's size; none if not finite"
    )
    validation_accuracy: float = Field(ge=0, le=1, description="share whose largest logit is the true one")
    seconds: float = Field(ge=0, description="since the training began, interruptions left out")


class Training(Record):
    """One training as it ended; never written for one that was cut off."""

    member: Member
    status: TrainingStatus
    reason: str = Field("", description="why the status is not ok; empty otherwise")
    steps: NonNegativeInt = Field(description="steps done")
    diverged_at: PositiveInt | None = Field(None, description="first step whose loss was not finite")
    curve: tuple[CurvePoint, ...] = ()
    seconds: float = Field(ge=0, description="time in steps and validations, interruptions left out")
    examples_per_s: float | None = Field(None, description="of the steps alone; in a stack, this training's share")

    @property
    def validation_accuracy(self) -> float | None:
        """At the end; none for a training that did not get there."""
        return self.curve[-1].validation_accuracy if self.status == "ok" and self.curve else None

    @property
    def validation_loss(self) -> float | None:
        """At the end; none for a training that did not get there."""
        return self.curve[-1].validation_loss if self.status == "ok" and self.curve else None


class ClassMeasures(Record):
    """Measures by class, in the order of the classes; none where the test data have no example of it."""

    auprc: tuple[float | None, ...]
    precision_at_90: tuple[float | None, ...]
    precision_at_99: tuple[float | None, ...]


class ScoreMeasures(Record):
    """The paper's measures of one score, means over the classes that occur (see bench.accuracy.metrics)."""

    auprc: float
    auprc_trapezoid: float
    precision_at_90: float
    precision_at_99: float
    classes_without_positives: tuple[NonNegativeInt, ...] = ()
    by_class: ClassMeasures


class Separation(Record):
    """The PoLS numbers of one split (Definition 1)."""

    holds: bool = Field(description="every true logit above every false one")
    lowest_true: float
    highest_false: float
    ordered_low: float = Field(description="share of (true, false) pairs in order, lower bound")
    ordered_high: float = Field(description="the same, upper bound")
    log_partition_mean: float = Field(description="mean over examples of the log of the sum of the exponentials")
    log_partition_std: float


class Histogram(Record):
    """Counts of true and of false logits in the same bins."""

    edges: tuple[float, ...] = Field(description="ascending; one more than there are bins")
    true: tuple[NonNegativeInt, ...]
    false: tuple[NonNegativeInt, ...]


class Evaluation(Record):
    """What the test data said of one chosen model."""

    member: Member
    accuracy: float = Field(ge=0, le=1, description="share of test examples whose largest logit is the true one")
    single: ScoreMeasures = Field(description="of the single logit (SLC)")
    all: ScoreMeasures = Field(description="of the log-odds from all logits")
    separation_train: Separation
    separation_test: Separation
    shown_class: NonNegativeInt = Field(description="the class of `histogram_of_class`")
    histogram_of_class: Histogram = Field(description="that class's logits on the test data: Fig. 2")
    histogram_pooled: Histogram = Field(description="all logits on the test data")
    seconds: float = Field(ge=0)
