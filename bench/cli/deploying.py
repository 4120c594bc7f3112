"""What `python -m bench single` does once its options are read: plan, measure, report."""

import sys
from pathlib import Path
from typing import Any

from bench.cli import json_output
from bench.cli.endings import exit_code
from bench.cli.progress import telling
from bench.deploy.deployment import execute
from bench.deploy.plan import DeploymentRequest, plan
from bench.deploy.records import SCHEMA_VERSION, Deployment
from bench.deploy.rows import DeploymentRow, notices, rows
from reports import single as report
from reports.pipes import while_read
from reports.terminal import console_for, notice_text

#: Name and version of the rows' schema.
SINGLE_SCHEMA = f"slc-bench/single/{SCHEMA_VERSION}"


def single(*, output: Path, json: bool, quiet: bool, **options: Any) -> int:
    """Measure and show it."""
    command = ["python", "-m", "bench", *sys.argv[1:]]
    run = execute(plan(DeploymentRequest(**options)), output, command=command, say=telling(quiet=quiet))
    table = rows(run)
    if json:
        for notice in notices(run):
            with while_read(sys.stderr):
                console_for(sys.stderr).print(notice_text(notice), soft_wrap=True)
        with while_read(sys.stdout):
            json_output.print_object(single_object(run, table))
    else:
        report.print_deployment(run, table, sys.stdout)
    return exit_code(run.manifest.status)


def single_object(run: Deployment, table: list[DeploymentRow]) -> dict[str, object]:
    """{schema, run, rows}: where the run is and how it ended, and its table as plain values."""
    return {
        "schema": SINGLE_SCHEMA,
        "run": json_output.run_summary(run.path, run.manifest),
        "rows": [row.model_dump() for row in table],
    }
