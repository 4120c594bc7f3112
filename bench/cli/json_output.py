"""--json: one object on standard output and nothing else there."""

import dataclasses
import json
from collections.abc import Sequence

from bench.run import SCHEMA_VERSION, Run
from bench.speed.outlook import Outlook
from bench.speed.rows import Row

#: Name and version of the rows' schema; docs/schema/rows.schema.json describes the object.
ROWS_SCHEMA = f"slc-bench/rows/{SCHEMA_VERSION}"
OUTLOOK_SCHEMA = f"slc-bench/outlook/{SCHEMA_VERSION}"


def run_object(run: Run, rows: Sequence[Row]) -> dict[str, object]:
    """{schema, run, rows}: where the run is and how it ended, and its rows as in table3.csv."""
    manifest = run.manifest
    return {
        "schema": ROWS_SCHEMA,
        "run": {"path": str(run.path), "name": manifest.name, "created": manifest.created, "status": manifest.status},
        "rows": [row.model_dump() for row in rows],
    }


def outlook_object(outlook: Outlook) -> dict[str, object]:
    """{schema, run, rows} of a run that was not made: what each point would need and take."""
    return {
        "schema": OUTLOOK_SCHEMA,
        "run": {"path": None, "seconds": outlook.seconds, "free_bytes": outlook.free_bytes},
        "rows": [
            {**point.setting.model_dump(), **_without_setting(dataclasses.asdict(point))} for point in outlook.points
        ],
    }


def print_object(content: dict[str, object]) -> None:
    """Print an object, as JSON that every reader takes (no NaN), to its end.

    Raises BrokenPipeError if the reader has left.
    """
    print(json.dumps(content, indent=1, allow_nan=False), flush=True)


def _without_setting(fields: dict[str, object]) -> dict[str, object]:
    return {name: value for name, value in fields.items() if name != "setting"}
