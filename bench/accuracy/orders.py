"""What is left to do in a grid, and the words a worker and its parent exchange.

    losses x learning rates x seeds  ->  units, each one training or a stack of them
    all rates of a loss and seed ended  ->  the best by validation accuracy  ->  its test

Every decision here is pure: what was asked for and what has ended go in, the next order comes out.
"""

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, TypeAdapter

from bench.accuracy.choice import choose
from bench.accuracy.events import Ended, Stepped
from bench.accuracy.records import Evaluation, Manifest, Training
from bench.accuracy.settings import LossSetting, Member, Recipe, Source
from bench.folder import Record


class Start(Record):
    """What a worker is told first."""

    parent: int = Field(description="process id of the one that gives orders")
    source: Source
    recipe: Recipe
    losses: tuple[LossSetting, ...]
    folder: Path


class ToTrain(Record):
    """Train one member, or several as a stack."""

    kind: Literal["train"] = "train"
    members: tuple[Member, ...]


class ToTest(Record):
    """Test one trained model."""

    kind: Literal["test"] = "test"
    member: Member


Order = ToTrain | ToTest


class Evaluated(Record):
    """A chosen model has met the test data; its influences are on disk."""

    kind: Literal["evaluated"] = "evaluated"
    evaluation: Evaluation


class Failed(Record):
    """An order could not be carried out."""

    kind: Literal["failed"] = "failed"
    reason: str
    cause: Literal["work", "usage", "disk"] = Field(
        description="work: this order alone is lost; usage, disk: the run cannot go on as it is"
    )


class Done(Record):
    """An order was carried out; the worker waits for the next."""

    kind: Literal["done"] = "done"


Event = Stepped | Ended | Evaluated | Failed | Done
EVENT: TypeAdapter[Event] = TypeAdapter(Annotated[Event, Field(discriminator="kind")])
ORDER: TypeAdapter[Order] = TypeAdapter(Annotated[Order, Field(discriminator="kind")])


def units(manifest: Manifest) -> list[tuple[Member, ...]]:
    """All trainings, stack by stack; the same for a run that is resumed, since a stack is checkpointed as one."""
    members, size = manifest.members, manifest.recipe.stack
    return [members[start : start + size] for start in range(0, len(members), size)]


def orders_left(
    manifest: Manifest,
    trainings: Collection[Training],
    evaluations: Collection[Evaluation],
    given: Collection[Order] = (),
) -> Iterator[Order]:
    """What is still to be done, in the order to do it; `given` is being done, or was tried in vain.

    Tests come first: a table that fills in early shows early what is wrong.
    """
    for member in _to_test(manifest, trainings, evaluations):
        if ToTest(member=member) not in given:
            yield ToTest(member=member)
    ended = {training.member for training in trainings}
    for unit in units(manifest):
        if not ended.issuperset(unit) and ToTrain(members=unit) not in given:
            yield ToTrain(members=unit)


def _to_test(
    manifest: Manifest, trainings: Collection[Training], evaluations: Collection[Evaluation]
) -> Iterator[Member]:
    """The chosen model of each loss and seed whose rates have all ended, unless it was tested."""
    by_member = {training.member: training for training in trainings}
    tested = {evaluation.member for evaluation in evaluations}
    for seed in manifest.seeds:
        for loss in manifest.losses:
            rates = [Member(loss=loss.key, learning_rate=rate, seed=seed) for rate in manifest.learning_rates]
            if not by_member.keys() >= set(rates):
                continue
            best = choose(by_member[member] for member in rates)
            if best is not None and best.member not in tested:
                yield best.member


def failed_trainings(unit: Collection[Member], ended: Collection[Training], reason: str) -> list[Training]:
    """A record for each member of a unit that was lost before it ended."""
    gone = {training.member for training in ended}
    return [
        Training(member=member, status="failed", reason=reason, steps=0, seconds=0.0)
        for member in unit
        if member not in gone
    ]
