"""What a measuring process tells the one that writes: plain records, the same in memory and over a pipe."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from bench.folder import Notice
from bench.run import Point, Process, Sample
from bench.speed.energy import Window


class _Event(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Doing(_Event):
    """What comes next, for whoever watches."""

    event: Literal["doing"] = "doing"
    text: str


class PointFound(_Event):
    """A class count was looked at: it can be timed, or the reason why not. Later events replace earlier ones."""

    event: Literal["point"] = "point"
    point: Point


class PassesDone(_Event):
    """Passes to write together: a round, a first call, or one pass of the sequential order."""

    event: Literal["passes"] = "passes"
    samples: tuple[Sample, ...]


class WindowDone(_Event):
    """A window of energy to write."""

    event: Literal["window"] = "window"
    window: Window


class ProcessState(_Event):
    """A process began, or ended, its work on a setting."""

    event: Literal["process"] = "process"
    process: Process


class Noticed(_Event):
    """Something the user should know, not to be derived from the samples."""

    event: Literal["notice"] = "notice"
    notice: Notice


Event = Annotated[Doing | PointFound | PassesDone | WindowDone | ProcessState | Noticed, Field(discriminator="event")]
EVENT: TypeAdapter[Event] = TypeAdapter(Event)
