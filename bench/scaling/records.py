"""What a run of `python -m bench scaling` leaves on disk.

results/2026-11-23T09-15-02-scaling-mlp/
    run.json            what was trained on what, which class counts were left out, and how it ended (StudyManifest)
    trainings.jsonl     one line a training as soon as it ends (StudyTraining)
    optima.jsonl        one line a class count: the queries' measure by the posterior log-odds (Optimum)
    points.jsonl        one line a trained model that met the queries (StudyPoint)
    costs.jsonl         one line a loss and class count: time and memory of a step (StepCost)
    queries/            one .npz a point and one an optimum: 1-AUPRC query by query
    speed/              a speed run of the same network at the same class counts, as `python -m bench` leaves it
    checkpoints/        of trainings on their way, and the weights they ended with
    fig4.png ...        drawn from the above, and can be drawn again

A query is one class asked of its own positive and negative examples (bench.accuracy.data.synthetic.Queries).
"""

from typing import Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from bench.accuracy.records import Training
from bench.accuracy.settings import LossSetting, Recipe, TopLayerStep
from bench.folder import Record, RunManifest
from bench.machine.fingerprint import Machine

#: search: the first seed at half of the steps, at every learning rate, which is where the rate is chosen and what
#: convergence is judged by; full: all steps at the chosen rate, every seed.
Stage = Literal["search", "full"]

#: The loss whose models' logits, all of them, are what one logit is judged against.
REFERENCE = "ce"


class QuerySetting(Record):
    """The queries, alike at every class count."""

    classes: PositiveInt = Field(2000, description="that are asked for at most: min(classes, this)")
    positives: PositiveInt = Field(20, description="examples of the class, of each query")
    negatives: PositiveInt = Field(10_000, description="examples of others, of each query")
    seed: NonNegativeInt = Field(0, description="of the classes asked for and their examples")


class CountSetting(Record):
    """What is done at one class count; its data differ from the others' in the number of classes alone."""

    classes: PositiveInt
    dataset: str | None = Field(None, description="synthetic:K,... that is trained on; none where nothing is trained")
    recipe: Recipe | None = Field(None, description="of a full training; none where nothing is trained")
    losses: tuple[LossSetting, ...] = Field((), description="as they are used at this count; none where none is")
    left_out: str = Field("", description="why nothing is trained here; empty where something is")


class StudyManifest(RunManifest):
    """run.json: what was asked for, on what machine, and how it ended."""

    schema_version: Literal[1] = 1
    kind: Literal["scaling"] = "scaling"
    command: tuple[str, ...] = Field((), description="the command line, or the API call, that made the run")
    family: str = Field(description="options of synthetic:K that all class counts share, as they are written there")
    counts: tuple[CountSetting, ...] = Field(description="ascending; those left out too")
    queries: QuerySetting = QuerySetting()
    losses: tuple[str, ...] = Field(description="keys in bench.accuracy.losses")
    learning_rates: tuple[PositiveFloat, ...]
    seeds: tuple[NonNegativeInt, ...]
    recipe: Recipe | None = Field(
        None,
        description="what trainings and timed steps have in common at every class count; steps, and how the top layer "
        "steps, are each count's own",
    )
    top_layer_step: TopLayerStep | None = Field(
        None, description="as it was asked for; none: by the layer's size and the memory that is free"
    )
    speed_minibatches: NonNegativeInt = Field(0, description="rounds of the speed run; 0: none was asked for")
    machine: Machine
    versions: dict[str, str]
    commit: str | None = Field(None, description="of the working tree slc-bench was started from, if it is one")

    @property
    def trained(self) -> tuple[CountSetting, ...]:
        """The class counts at which something is trained."""
        return tuple(each for each in self.counts if not each.left_out)


class StudyTraining(Record):
    """A training of the study as it ended."""

    classes: PositiveInt
    stage: Stage
    training: Training


class QueryMeasure(Record):
    """1-AUPRC of one score over the queries."""

    error: float = Field(ge=0, le=1, description="mean of 1-AUPRC over the queries")
    standard_error: NonNegativeFloat | None = Field(
        description="of that mean, over the queries; none where there is one query"
    )


class Optimum(Record):
    """The queries by the posterior log-odds: no score can be expected to do better (Neyman and Pearson)."""

    classes: PositiveInt
    queries: PositiveInt
    measure: QueryMeasure
    seconds: NonNegativeFloat


class StudyPoint(Record):
    """A trained model that met the queries."""

    classes: PositiveInt
    stage: Stage
    loss: str = Field(description="key in bench.accuracy.losses")
    learning_rate: PositiveFloat
    seed: NonNegativeInt
    steps: PositiveInt
    queries: PositiveInt
    single: QueryMeasure = Field(description="by the logit of the class that is asked for, alone")
    all: QueryMeasure = Field(description="by the log-odds of that class, from all logits")
    validation_accuracy: float = Field(ge=0, le=1)
    seconds: NonNegativeFloat = Field(description="of the training, validations included")

    @property
    def name(self) -> str:
        """Name of its file in queries/: 1000-ce-seed0, and 1000-ce-seed0-search of one at half of the steps."""
        return f"{self.classes}-{self.loss}-seed{self.seed}{'-search' if self.stage == 'search' else ''}"


class StepCost(Record):
    """Time and memory of a training step, measured alone in a process of its own."""

    classes: PositiveInt
    loss: str
    step: TopLayerStep
    batch_size: PositiveInt
    threads: PositiveInt = Field(description="intra-op threads of torch")
    seconds: tuple[NonNegativeFloat, ...] = Field(description="of each timed step, in order; synchronised wall clock")
    peak_bytes: int | None = Field(
        None,
        description="most memory in use during the steps, beyond what the process held before the network was made; "
        "none where the system does not say",
    )
    reason: str = Field("", description="why it was not measured; empty where it was")
