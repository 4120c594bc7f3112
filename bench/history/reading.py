"""JSON files that anybody may have written or edited: what is wrong with one, in one line that names it."""

import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from bench.errors import UsageError
from bench.folder import Record, first_problem
from bench.history.snapshot import Estimate, Point, Snapshot

#: Seconds that an example can take: light crosses no atom in the least of them, the most are 32 years. Beyond them,
#: and beyond the other limits, arithmetic on squares and powers leaves the range of floats.
TIMES = (1e-15, 1e9)
SPEEDUPS = (1e-12, 1e12)
ERRORS = (0.0, 100.0)
DEGREES = (0.1, 1e15)

_HALF_A_CHARACTER = re.compile("[\ud800-\udfff]")

R = TypeVar("R", bound=Record)


def read_json(file: Path) -> dict[str, Any]:
    """The object in a file. Raises UsageError if it cannot be read, is cut short, or holds anything else."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{file}: cannot be read ({error})") from None
    except (ValueError, RecursionError) as error:  # beside what is no JSON, an integer of thousands of digits
        raise UsageError(f"{file}: cut short or edited, it is not JSON ({error}); restore it, or delete it") from None
    if not isinstance(content, dict):
        raise UsageError(f"{file}: not a JSON object, and so not a file of slc-bench or pytest-benchmark")
    if (problem := _problem(content)) is not None:
        raise UsageError(f"{file}: {problem}; measure again, or restore the file")
    return content


def as_record(file: Path, content: Any, form: type[R], *, newest: int) -> R:
    """What a file holds as `form`, whose schema versions end at `newest`.

    Raises UsageError, naming the file, for a newer version or other content.
    """
    version = content.get("schema_version") if isinstance(content, dict) else None
    if isinstance(version, int) and version > newest:
        raise UsageError(
            f"{file}: schema version {version}, where 1 to {newest} can be read; a newer slc-bench reads it"
        )
    try:
        return form.model_validate(content)
    except ValidationError as error:
        raise UsageError(f"{file}: not a record of slc-bench, or edited ({first_problem(error)}); restore it") from None


def plausible(source: Path, snapshot: Snapshot) -> Snapshot:
    """The run in brief, if its numbers can have been measured.

    Raises UsageError, naming `source`, for a time or a speedup that nothing can have, and for an error or degrees of
    freedom that no measurement gives.
    """
    for point in snapshot.points:
        for name, number, (least, most) in _numbers(point):
            if not least <= number <= most:
                raise UsageError(
                    f"{source}: {name} of {point.work.arch!r} is {number:g}, where {least:g} to {most:g} can be; "
                    "measure it again"
                )
    return snapshot


def _numbers(point: Point) -> Iterator[tuple[str, float, tuple[float, float]]]:
    """All numbers of a point, with a name and the least and the most that each can be."""
    for name, estimate, limits in (("single", point.single, TIMES), ("all", point.all, TIMES)):
        yield from _numbers_of(f"the time ({name})", estimate, limits)
    yield from _numbers_of("the speedup", point.speedup, SPEEDUPS)
    for each in point.replicates:
        yield "a process's time (single)", each.single_s, TIMES
        yield "a process's time (all)", each.all_s, TIMES


def _numbers_of(
    name: str, estimate: Estimate | None, limits: tuple[float, float]
) -> Iterator[tuple[str, float, tuple[float, float]]]:
    if estimate is None:
        return
    yield name, estimate.value, limits
    if estimate.error is not None:
        yield f"the error of {name}", estimate.error, ERRORS
    if estimate.degrees is not None:
        yield f"the degrees of freedom of {name}", estimate.degrees, DEGREES


def _problem(content: Any, path: str = "") -> str | None:
    """What is wrong with a number or a text, and where it stands; None if nothing is."""
    where = path or "the whole"
    if isinstance(content, int | float):
        return None if _is_finite(content) else f"{where} is no finite number"
    if isinstance(content, str):
        return f"{where} holds half a character" if _HALF_A_CHARACTER.search(content) else None
    items = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    for key, each in items:
        found = _problem(str(key), "a name") or _problem(each, f"{path}.{key}" if path else str(key))
        if found is not None:
            return found
    return None


def _is_finite(number: float) -> bool:
    try:
        return math.isfinite(number)
    except OverflowError:  # an integer that no float can hold
        return False
