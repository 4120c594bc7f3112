"""The published JSON Schemas of what a run leaves and of what --json prints, made from the models themselves.

    python -m bench.schemas docs/schema

writes them again after a model has changed; a test fails until that is done.
"""

import json
import sys
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveFloat

from bench.accuracy.records import DatasetFacts, Evaluation, Training
from bench.accuracy.records import Manifest as AccuracyManifest
from bench.accuracy.rows import Table1Row
from bench.accuracy.settings import Member, Recipe
from bench.deploy.records import DeploymentManifest
from bench.deploy.records import Sample as DeploymentSample
from bench.deploy.rows import DeploymentRow
from bench.folder import RunStatus, write_atomically
from bench.history.snapshot import Circumstances, Estimate, Measurement, OtherMachine, Place, Snapshot, Work
from bench.history.store import Baseline
from bench.history.verdict import Gate, SpeedupVerdict, TimeVerdict
from bench.machine.fingerprint import Machine
from bench.paper.claims import Claim
from bench.paper.record import PaperManifest, PartRecord
from bench.run import SCHEMA_VERSION, Manifest, Sample, Status
from bench.scaling.records import (
    CountSetting,
    Optimum,
    QuerySetting,
    StepCost,
    StudyManifest,
    StudyPoint,
    StudyTraining,
)
from bench.speed.device_rates import DeviceRates
from bench.speed.energy import Window
from bench.speed.energy_rows import EnergyRow
from bench.speed.model_sources import PredictedRow, SourceIdentity
from bench.speed.pools import RatesAre, SingleIs
from bench.speed.rows import Row
from bench.speed.settings import Setting

_DIALECT = "https://json-schema.org/draft/2020-12/schema"


class _Closed(BaseModel):
    model_config = ConfigDict(extra="forbid")


class RunSummary(_Closed):
    """Where the run is, and how it ended."""

    path: str = Field(description="folder of the run")
    name: str
    created: str = Field(description="UTC, ISO 8601")
    status: RunStatus


class RowsObject(_Closed):
    """What --json prints: one object, and nothing else on standard output. Times are seconds per example."""

    schema_: Literal["slc-bench/rows/1"] = Field(alias="schema")
    run: RunSummary
    rows: list[Row]
    energy: list[EnergyRow] = Field([], description="with --energy alone; `setting` counts the run's settings from 0")


class OutlookSummary(_Closed):
    """A run that was not made: what it would take, and the memory it would find."""

    path: None = Field(description="no folder was made")
    seconds: float = Field(description="of warm-up and timed rounds; building and first calls come on top")
    free_bytes: int = Field(description="memory that is free on the device")


class OutlookRow(Setting):
    """A point that was not measured: its setting, and what it is expected to need and take."""

    classes: int
    pass_s: float = Field(description="seconds for one minibatch")
    memory_bytes: int = Field(description="weights, inputs and logits; activations come on top")
    fits: bool = Field(description="whether that is free, with a reserve for the rest")


class OutlookObject(_Closed):
    """What --dry-run --json prints: one object, and nothing else on standard output."""

    schema_: Literal["slc-bench/outlook/1"] = Field(alias="schema")
    run: OutlookSummary
    rows: list[OutlookRow]


class SingleObject(_Closed):
    """What single --json prints: one object, and nothing else on standard output; a row is a line of the table."""

    schema_: Literal["slc-bench/single/1"] = Field(alias="schema")
    run: RunSummary
    rows: list[DeploymentRow]


class PredictionModel(SourceIdentity):
    """What a setting's predictions rest on; times are seconds an example."""

    pool: int = Field(description="index into pools, whose error is this model's")
    rates: RatesAre
    single: SingleIs = Field(description="where the time at one class is from")
    single_s: float
    operations_per_s: float
    bytes_per_s: float
    fresh_bytes_per_s: float | None = Field(description="of memory that the system hands out (CPU); none: no cost")
    slowdown: float = Field(description="median / least time of the single logit; multiplies what is added")
    largest_measured: int | None
    break_even: dict[str, int | None] = Field(description="speedup -> least class count; none beyond 2**40")


class PaperStep(_Closed):
    """The last step of the paper's Table 3 beside the line through its smaller counts; seconds an example."""

    model: int = Field(description="index into models")
    arch: str
    single_s: float = Field(description="at one class")
    from_s: float = Field(description="at 2**18")
    to_s: float = Field(description="at 2**18.5")
    step_s: float = Field(description="to_s - from_s")
    line_step_s: float = Field(description="the same step on the line through one class and 2**18")
    step_here_s: float = Field(description="the same step as predicted for this device")


class PredictionPool(_Closed):
    """How far models alike are off, by all their points; added_ratio: measured / predicted, of what is added.

    Alike: equal in machine, versions of what computes, and setting but for network, batch size and seed.
    """

    stated: bool = Field(description="by a file of rates, not by points at hand")
    judged_points: int = Field(description="measured points from 2**16 classes on")
    judged_within_10_percent: int
    judged_runs: int
    judged_networks: int
    added_ratio_low: float | None = Field(description="of the judged points that tell; none: no range")
    added_ratio_high: float | None
    added_ratio_points: int
    added_ratio_runs: int | None = Field(description="none: not known")
    added_ratio_networks: int | None = Field(description="none: not known")


class PredictionSummary(_Closed):
    """The runs predicted from, what is known of the error, and the models."""

    paths: list[str]
    pools: list[PredictionPool]
    models: list[PredictionModel]
    paper: list[PaperStep]


class PredictionsObject(_Closed):
    """What predict --json prints: one object, and nothing else on standard output; a row is a class count."""

    schema_: Literal["slc-bench/predictions/1"] = Field(alias="schema")
    run: PredictionSummary
    rows: list[PredictedRow]


class AccuracyRowsObject(_Closed):
    """What accuracy --json prints: one object, and nothing else on standard output; a row is a loss of Table 1."""

    schema_: Literal["slc-bench/accuracy-rows/1"] = Field(alias="schema")
    run: RunSummary
    rows: list[Table1Row]


class AccuracyOutlookSummary(_Closed):
    """A grid that was not trained: on what, how, and at least how long it would take."""

    path: None = Field(description="no folder was made")
    seconds: float = Field(description="a lower bound: operations at the rate of large matrix products")
    dataset: DatasetFacts
    recipe: Recipe


class AccuracyOutlookObject(_Closed):
    """What accuracy --dry-run --json prints: one object, and nothing else on standard output; a row is a training."""

    schema_: Literal["slc-bench/accuracy-outlook/1"] = Field(alias="schema")
    run: AccuracyOutlookSummary
    rows: list[Member]


class PaperSummary(RunSummary):
    """Where the run of the whole paper is, how it ended, and what became of its parts."""

    budget_s: float | None = Field(description="seconds for all parts together; none for no limit")
    parts: list[PartRecord]


class ClaimsObject(_Closed):
    """What paper --json prints: one object, and nothing else on standard output; a row is a claim with its cases."""

    schema_: Literal["slc-bench/claims/1"] = Field(alias="schema")
    run: PaperSummary
    rows: list[Claim]


class PaperOutlookSummary(_Closed):
    """The whole paper, not measured: what it would take."""

    path: None = Field(description="no folder was made")
    budget_s: float | None = Field(description="seconds for all parts together; none for no limit")
    seconds: float = Field(description="of all parts that would be measured")


class PaperOutlookRow(PartRecord):
    """A part that was not measured, with the size that would fit."""

    expected_s: float | None = Field(description="seconds; none if it is not known, or the part is left out or reused")


class PaperOutlookObject(_Closed):
    """What paper --dry-run --json prints: one object, and nothing else on standard output; a row is a part."""

    schema_: Literal["slc-bench/paper-outlook/1"] = Field(alias="schema")
    run: PaperOutlookSummary
    rows: list[PaperOutlookRow]


class ScalingObject(_Closed):
    """What scaling --json prints: one object, and nothing else on standard output; a row met the queries."""

    schema_: Literal["slc-bench/scaling/1"] = Field(alias="schema")
    run: RunSummary
    rows: list[StudyPoint]
    optima: list[Optimum]
    costs: list[StepCost]


class ScalingOutlookSummary(_Closed):
    """A study that was not made: what all class counts share."""

    path: None = Field(description="no folder was made")
    family: str = Field(description="options of synthetic:K that all class counts share")
    queries: QuerySetting
    losses: list[str]
    learning_rates: list[float]
    seeds: list[int]


class ScalingOutlookObject(_Closed):
    """What scaling --dry-run --json prints: one object, and nothing else on standard output; a row is a class count."""

    schema_: Literal["slc-bench/scaling-outlook/1"] = Field(alias="schema")
    run: ScalingOutlookSummary
    rows: list[CountSetting]


class EntryPoint(Place):
    """A point of an entry, without its processes."""

    status: Status
    single: Estimate | None
    all: Estimate | None
    speedup: Estimate | None


class EntryRow(_Closed):
    """An entry of the history."""

    file: str
    name: str
    created: str = Field(description="UTC, ISO 8601")
    commit: str | None
    status: RunStatus
    tool: str
    machine: Machine | OtherMachine
    points: list[EntryPoint]


class StoreSummary(_Closed):
    """Where the history is, and a line about each file of it that cannot be read."""

    path: str
    problems: list[str]


class EntriesObject(_Closed):
    """What history list --json prints: one object, and nothing else on standard output; a row is a run."""

    schema_: Literal["slc-bench/history/1"] = Field(alias="schema")
    store: StoreSummary
    rows: list[EntryRow]


class Judgement(_Closed):
    """A change, new / base, and its verdict."""

    ratio: PositiveFloat = Field(description="new / base")
    low: float | None = Field(description="lower end of the simultaneous interval of `ratio`")
    high: float | None
    error: float | None = Field(description="standard error of the logarithm of `ratio`")
    degrees: float | None = Field(description="degrees of freedom of `error`")
    smallest: float | None = Field(description="smallest relative change that would have been found 4 times out of 5")
    verdict: TimeVerdict | SpeedupVerdict | None = Field(description="none between unequal machines")


class Changes(_Closed):
    """The three changes of a point; none where a side lacks the quantity."""

    single: Judgement | None
    all: Judgement | None
    speedup: Judgement | None


class MeasuredAgain(_Closed):
    """What fresh processes found, which is what counts."""

    base: Measurement
    new: Measurement
    changes: Changes
    cause: str


class ComparisonRow(Work):
    """A point. Those of the kind `compared` have what stands from `changes` on, no other has."""

    kind: Literal["compared", "only base", "only new", "failed", "failed on both"]
    threads: int | None
    base: Measurement | None
    new: Measurement | None
    changes: Changes | None = None
    cause: str | None = None
    again: MeasuredAgain | None = None
    not_measured_again: str | None = Field(None, description="why it could not be, if it looked worse")
    worse: bool | None = None
    undecided: bool | None = None


class FindingObject(_Closed):
    """One thing to know beside the figures."""

    severity: Literal["error", "warning", "note"]
    title: str
    text: str


class Confirmation(_Closed):
    """How what looked worse was measured again."""

    processes: int = Field(description="fresh processes a side; 0 if nothing was measured again")
    base_again: bool = Field(description="whether base was measured again too, in turn with new")
    hindrance: str | None = Field(description="why nothing was measured again, if something looked worse")


class ComparisonObject(_Closed):
    """What compare --format json prints: one object, and nothing else on standard output; a row is a point."""

    schema_: Literal["slc-bench/comparison/1"] = Field(alias="schema")
    outcome: Literal["worse", "undecided", "nothing worse"]
    answer: str
    gate: Gate
    margin: float
    tests: int = Field(description="changes that share the chance of a false alarm")
    hardware: list[str] = Field(description="fields of the machine that differ")
    versions: list[str] = Field(description="software that differs, in words")
    base: Circumstances
    new: Circumstances
    confirmation: Confirmation
    worse: int
    undecided: int
    findings: list[FindingObject]
    rows: list[ComparisonRow]


#: File name -> model, and a title.
_MODELS: dict[str, tuple[type[BaseModel], str]] = {
    "run.schema.json": (Manifest, "run.json of slc-bench"),
    "sample.schema.json": (Sample, "a line of samples.jsonl of slc-bench"),
    "energy.schema.json": (Window, "a line of energy.jsonl of slc-bench"),
    "rows.schema.json": (RowsObject, "what python -m bench --json prints"),
    "outlook.schema.json": (OutlookObject, "what python -m bench --dry-run --json prints"),
    "rates.schema.json": (DeviceRates, "a file of device rates of slc-bench"),
    "predictions.schema.json": (PredictionsObject, "what python -m bench predict --json prints"),
    "single-run.schema.json": (DeploymentManifest, "run.json of python -m bench single"),
    "single-sample.schema.json": (DeploymentSample, "a line of samples.jsonl of python -m bench single"),
    "single.schema.json": (SingleObject, "what python -m bench single --json prints"),
    "accuracy-run.schema.json": (AccuracyManifest, "run.json of an accuracy run of slc-bench"),
    "training.schema.json": (Training, "a line of trainings.jsonl of slc-bench"),
    "evaluation.schema.json": (Evaluation, "a line of evaluations.jsonl of slc-bench"),
    "accuracy-rows.schema.json": (AccuracyRowsObject, "what python -m bench accuracy --json prints"),
    "accuracy-outlook.schema.json": (AccuracyOutlookObject, "what python -m bench accuracy --dry-run --json prints"),
    "paper-run.schema.json": (PaperManifest, "run.json of the whole paper by slc-bench"),
    "claims.schema.json": (ClaimsObject, "what python -m bench paper --json prints"),
    "paper-outlook.schema.json": (PaperOutlookObject, "what python -m bench paper --dry-run --json prints"),
    "scaling-run.schema.json": (StudyManifest, "run.json of python -m bench scaling"),
    "scaling-training.schema.json": (StudyTraining, "a line of trainings.jsonl of python -m bench scaling"),
    "scaling-optimum.schema.json": (Optimum, "a line of optima.jsonl of python -m bench scaling"),
    "scaling-point.schema.json": (StudyPoint, "a line of points.jsonl of python -m bench scaling"),
    "scaling-cost.schema.json": (StepCost, "a line of costs.jsonl of python -m bench scaling"),
    "scaling.schema.json": (ScalingObject, "what python -m bench scaling --json prints"),
    "scaling-outlook.schema.json": (ScalingOutlookObject, "what python -m bench scaling --dry-run --json prints"),
    "entry.schema.json": (Snapshot, "a run in the history of slc-bench"),
    "baseline.schema.json": (Baseline, "a baseline of slc-bench"),
    "history.schema.json": (EntriesObject, "what python -m bench history list --json prints"),
    "comparison.schema.json": (ComparisonObject, "what python -m bench compare --format json prints"),
}


def schemas() -> dict[str, dict[str, Any]]:
    """File name -> JSON Schema (draft 2020-12)."""
    return {
        name: {"$schema": _DIALECT, **model.model_json_schema(), "title": f"{title}, version {SCHEMA_VERSION}"}
        for name, (model, title) in _MODELS.items()
    }


def text_of(schema: dict[str, Any]) -> str:
    """A schema as it is published."""
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"


def write(folder: Path) -> list[Path]:
    """Write all schemas into a folder; their paths. Raises OSError."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, schema in schemas().items():
        write_atomically(folder / name, text_of(schema))
        paths.append(folder / name)
    return paths


if __name__ == "__main__":
    for path in write(Path(sys.argv[1] if len(sys.argv) > 1 else "docs/schema")):
        print(path)
