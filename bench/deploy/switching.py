"""The time to switch to another class.

cold    map the file anew, drop it from the page cache             | select(class) |    row from the disk
warm    read the row through another mapping                      | select(class) |    row from the page cache
kept    select(class), select(another class)                      | select(class) |    row on the device already
                                                                  ^ clock         ^ clock
"""

import resource
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Protocol

from archs.rows_on_disk import weight_offset
from bench.deploy import page_cache
from bench.deploy.records import DeploymentSetting, Sample

#: Reads nanoseconds.
Now = Callable[[], int]


class Selecting(Protocol):
    """What has one class selected at a time, as archs.SingleLogit does."""

    def select(self, classes: int) -> None:
        """Have this class's row on the device."""


#: Opens the rows anew, with room for so many rows on the device.
Open = Callable[[int], Selecting]


def classes_in_turn(setting: DeploymentSetting) -> list[int]:
    """The classes that are switched to, at random and never the same twice in a row."""
    generator = Random(setting.seed)
    drawn: list[int] = []
    for _ in range(setting.switches):
        # One less than there are classes: whatever is drawn, it is not the one before.
        step = generator.randrange(1, setting.classes)
        drawn.append(((drawn[-1] if drawn else 0) + step) % setting.classes)
    return drawn


def timed(selecting: Selecting, index: int, synchronise: Callable[[], None], now: Now) -> tuple[float, int]:
    """Seconds of one switch, and how often the process waited for the disk meanwhile."""
    synchronise()
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_majflt
    start = now()
    selecting.select(index)
    synchronise()
    end = now()
    return (end - start) / 1e9, resource.getrusage(resource.RUSAGE_SELF).ru_majflt - faults


def cold(
    setting: DeploymentSetting,
    path: Path,
    row_bytes: int,
    open_rows: Open,
    synchronise: Callable[[], None],
    now: Now = time.perf_counter_ns,
) -> Iterator[Sample]:
    """Switches to rows that only the disk has; `row_bytes` is of the weight alone. Each says whether it was cold."""
    first = weight_offset(path)
    for number, index in enumerate(classes_in_turn(setting)):
        selecting = open_rows(1)  # the mapping of the switch before is gone with its object
        page_cache.drop(path)  # opening reads the header, and the kernel megabytes of rows ahead with it
        cached, pages = page_cache.cached_pages(path, first + index * row_bytes, row_bytes)
        seconds, faults = timed(selecting, index, synchronise, now)
        del selecting
        yield Sample(
            what="cold",
            number=number,
            index=index,
            wall_s=seconds,
            pages=pages,
            cached_pages=cached,
            major_faults=faults,
        )


def warm(
    setting: DeploymentSetting, open_rows: Open, synchronise: Callable[[], None], now: Now = time.perf_counter_ns
) -> Iterator[Sample]:
    """Switches to rows that are in the page cache and not on the device."""
    before, selecting = open_rows(1), open_rows(1)
    for number, index in enumerate(classes_in_turn(setting)):
        before.select(index)
        seconds, faults = timed(selecting, index, synchronise, now)
        yield Sample(what="warm", number=number, index=index, wall_s=seconds, major_faults=faults)


def kept(
    setting: DeploymentSetting, open_rows: Open, synchronise: Callable[[], None], now: Now = time.perf_counter_ns
) -> Iterator[Sample]:
    """Switches between two classes whose rows are both kept on the device."""
    selecting = open_rows(2)
    for number, index in enumerate(classes_in_turn(setting)):
        selecting.select(index)
        selecting.select((index + 1) % setting.classes)
        seconds, faults = timed(selecting, index, synchronise, now)
        yield Sample(what="kept", number=number, index=index, wall_s=seconds, major_faults=faults)
