"""--json: one object on standard output and nothing else there."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from bench.run import SCHEMA_VERSION

if TYPE_CHECKING:
    from bench.accuracy.outlook import Outlook as AccuracyOutlook
    from bench.accuracy.rows import Table1Row
    from bench.accuracy.run import AccuracyRun
    from bench.folder import RunManifest
    from bench.run import Run
    from bench.speed.energy_rows import EnergyRow
    from bench.speed.outlook import Outlook
    from bench.speed.rows import Row

#: Name and version of the rows' schema; docs/schema/rows.schema.json describes the object.
ROWS_SCHEMA = f"slc-bench/rows/{SCHEMA_VERSION}"
ACCURACY_ROWS_SCHEMA = "slc-bench/accuracy-rows/1"
ACCURACY_OUTLOOK_SCHEMA = "slc-bench/accuracy-outlook/1"
OUTLOOK_SCHEMA = f"slc-bench/outlook/{SCHEMA_VERSION}"


def run_summary(path: Path | None, manifest: "RunManifest") -> dict[str, object]:
    """Where a run is and how it ended: bench.schemas.RunSummary."""
    return {"path": str(path), "name": manifest.name, "created": manifest.created, "status": manifest.status}


def run_object(run: "Run", rows: "Sequence[Row]", energy: "Sequence[EnergyRow]" = ()) -> dict[str, object]:
    """{schema, run, rows}: where the run is and how it ended, and its rows as in table3.csv.

    And {energy}, as in energy.csv, if it was measured.
    """
    joules = {"energy": [row.model_dump() for row in energy]} if energy else {}
    return {
        "schema": ROWS_SCHEMA,
        "run": run_summary(run.path, run.manifest),
        "rows": [row.model_dump() for row in rows],
        **joules,
    }


def outlook_object(outlook: "Outlook") -> dict[str, object]:
    """{schema, run, rows} of a run that was not made: what each point would need and take."""
    return {
        "schema": OUTLOOK_SCHEMA,
        "run": {"path": None, "seconds": outlook.seconds, "free_bytes": outlook.free_bytes},
        "rows": [
            {**point.setting.model_dump(), **_without_setting(dataclasses.asdict(point))} for point in outlook.points
        ],
    }


def accuracy_object(run: "AccuracyRun", rows: "Sequence[Table1Row]") -> dict[str, object]:
    """{schema, run, rows}: where the run is and how it ended, and Table 1 as plain values."""
    return {
        "schema": ACCURACY_ROWS_SCHEMA,
        "run": run_summary(run.path, run.manifest),
        "rows": [dataclasses.asdict(row) for row in rows],
    }


def accuracy_outlook_object(outlook: "AccuracyOutlook") -> dict[str, object]:
    """{schema, run, rows} of a grid that was not trained: one row a training."""
    return {
        "schema": ACCURACY_OUTLOOK_SCHEMA,
        "run": {
            "path": None,
            "seconds": outlook.seconds,
            "dataset": outlook.dataset.model_dump(mode="json"),
            "recipe": outlook.recipe.model_dump(mode="json"),
        },
        "rows": [
            {"loss": loss, "learning_rate": rate, "seed": seed}
            for seed in outlook.seeds
            for loss in outlook.losses
            for rate in outlook.learning_rates
        ],
    }


def print_object(content: dict[str, object]) -> None:
    """Print an object, as JSON that every reader takes (no NaN), to its end.

    Raises BrokenPipeError if the reader has left.
    """
    print(json.dumps(content, indent=1, allow_nan=False), flush=True)


def _without_setting(fields: dict[str, object]) -> dict[str, object]:
    return {name: value for name, value in fields.items() if name != "setting"}
