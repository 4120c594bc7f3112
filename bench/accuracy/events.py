"""What a training process tells the one that writes: plain records, the same in memory and over a pipe."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, PositiveInt

from bench.accuracy.records import Training
from bench.accuracy.settings import Member


class _Event(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Stepped(_Event):
    """How far trainings have come that step together; at most twice a second."""

    kind: Literal["stepped"] = "stepped"
    members: tuple[Member, ...]
    step: NonNegativeInt = Field(description="steps done")
    steps: PositiveInt = Field(description="steps asked for")
    training_losses: tuple[float | None, ...] = Field(
        description="of each member, mean over its latest window of steps; none before one, or if not finite"
    )
    validation_accuracies: tuple[float | None, ...] = Field(description="of each member, the latest; none before it")
    steps_per_s: float | None = Field(description="since the event before; none if nothing was done since")


class Ended(_Event):
    """A training ended: its record."""

    kind: Literal["ended"] = "ended"
    training: Training
