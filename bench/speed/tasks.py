"""What is left to measure, and in which process: the same rule for a new run and for one that was cut off.

A replicate is `minibatches` rounds of one setting. One process measures a replicate; if it is cut off, the next
process warms up again and takes the rounds that are left. The sequential order cannot be joined in the middle
(its class counts would have been measured at different times): there a replicate starts again.

Energy, where it is asked for, is measured once a setting: by the first process that gets to it, after its rounds, or,
if that was cut off or refused, by a process that has no round left to take.
"""

from collections.abc import Collection, Iterable, Sequence

from pydantic import BaseModel, ConfigDict, Field, PositiveInt

from bench.run import Manifest, Point, Process, Sample
from bench.speed.energy import Window, is_complete
from bench.speed.settings import Protocol, Setting


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Task(_Frozen):
    """Rounds `first_round` to `minibatches` - 1 of one setting (an index), for one process (a number)."""

    setting: int
    process: int
    first_round: int


class Assignment(_Frozen):
    """A task with all that a process must know to do it: the setting, and the points to try, ascending.

    `backbone_bytes` are those of the network's weights without the top layer.
    """

    task: Task
    setting: Setting
    backbone_bytes: int
    points: tuple[Point, ...]
    features: PositiveInt = Field(description="of the top layer's widest matrix product, which rates are calibrated on")
    positions: PositiveInt = Field(1, description="how often that product is taken of one example")
    energy: bool = Field(False, description="whether this process measures the setting's energy too")


class WorkOrder(_Frozen):
    """What one process does: its assignments, one after the other."""

    protocol: Protocol
    assignments: tuple[Assignment, ...]


def remaining_tasks(manifest: Manifest, samples: Iterable[Sample]) -> list[list[Task]]:
    """One list for each process still to start; empty if the run is complete.

    Processes are numbered from the first number that no process of the run has had. `samples` holds complete
    rounds only (bench.run.complete_rounds).
    """
    rounds_done = _rounds_done(samples)
    starts = [_starts(manifest, setting, rounds_done) for setting in range(len(manifest.settings))]
    first_process = 1 + max((process.process for process in manifest.processes), default=-1)
    return [
        [
            Task(setting=setting, process=first_process + nth, first_round=left[nth])
            for setting, left in enumerate(starts)
            if nth < len(left)
        ]
        for nth in range(max(map(len, starts), default=0))
    ]


def without_energy(manifest: Manifest, windows: Collection[Window]) -> list[int]:
    """The settings whose energy was asked for and is not measured to its end, though their reference has times."""
    if not manifest.protocol.energy:
        return []
    failed = {(point.setting, point.classes) for point in manifest.points if point.status != "ok"}
    return [
        index
        for index, setting in enumerate(manifest.settings)
        if (index, setting.subset) not in failed and not is_complete(windows, index)
    ]


def energy_tasks(manifest: Manifest, settings: Sequence[int]) -> list[Task]:
    """For one process more, with no round left to take: the energy of these settings."""
    process = 1 + max((process.process for process in manifest.processes), default=-1)
    return [Task(setting=index, process=process, first_round=manifest.protocol.minibatches) for index in settings]


def abandoned(manifest: Manifest, process: Process) -> bool:
    """Whether a process's samples must stay out of the estimates: a sequential order that was begun again."""
    return (
        manifest.settings[process.setting].order == "sequential"
        and process.stop_reason is None
        and any(other.setting == process.setting and other.process > process.process for other in manifest.processes)
    )


def _starts(manifest: Manifest, setting: int, rounds_done: dict[tuple[int, int], int]) -> list[int]:
    """The first round of every replicate of a setting that is still to be measured or to be ended."""
    finished, open_rounds = 0, 0
    for process in sorted(manifest.processes, key=lambda process: process.process):
        if process.setting != setting:
            continue
        if process.stop_reason == "no points left":
            return []
        reached = process.first_round + rounds_done.get((setting, process.process), 0)
        if manifest.settings[setting].order == "sequential" and process.stop_reason is None:
            reached = 0
        if process.stop_reason is not None or reached >= manifest.protocol.minibatches:
            finished, open_rounds = finished + 1, 0
        else:
            open_rounds = reached
    left = manifest.protocol.processes - finished
    return [open_rounds, *[0] * (left - 1)] if left > 0 else []


def _rounds_done(samples: Iterable[Sample]) -> dict[tuple[int, int], int]:
    rounds: dict[tuple[int, int], set[int]] = {}
    for sample in samples:
        if sample.phase == "timed":
            rounds.setdefault((sample.setting, sample.process), set()).add(sample.round)
    return {key: len(found) for key, found in rounds.items()}
