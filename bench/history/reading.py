"""JSON files that anybody may have written or edited: what is wrong with one, in one line that names it."""

import json
import math
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from bench.errors import UsageError
from bench.folder import Record, first_problem

R = TypeVar("R", bound=Record)


def read_json(file: Path) -> dict[str, Any]:
    """The object in a file. Raises UsageError if it cannot be read, is cut short, or holds anything else."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{file}: cannot be read ({error})") from None
    except (json.JSONDecodeError, RecursionError) as error:
        raise UsageError(f"{file}: cut short or edited, it is not JSON ({error}); restore it, or delete it") from None
    if not isinstance(content, dict):
        raise UsageError(f"{file}: not a JSON object, and so not a file of slc-bench or pytest-benchmark")
    if (path := _not_finite(content)) is not None:
        raise UsageError(f"{file}: {path} is no finite number; measure again, or restore the file")
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


def _not_finite(content: Any, path: str = "") -> str | None:
    """Where a NaN or an infinite number stands; None if nowhere."""
    if isinstance(content, float):
        return None if math.isfinite(content) else path or "the whole"
    items = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    for key, each in items:
        if (found := _not_finite(each, f"{path}.{key}" if path else str(key))) is not None:
            return found
    return None
