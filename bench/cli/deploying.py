"""What `python -m bench single` does once its options are read: plan, measure, report."""

import sys
from pathlib import Path
from typing import Any

from bench.cli import json_output
from bench.cli.endings import exit_code
from bench.deploy.deployment import execute
from bench.deploy.plan import DeploymentRequest, plan
from bench.deploy.records import SCHEMA_VERSION, Deployment
from bench.deploy.rows import DeploymentRow, notices, rows
from reports import single as report
from reports.pipes import WhileRead, while_read
from reports.terminal import console_for, notice_text

#: Name and version of the rows' schema.
SINGLE_SCHEMA = f"slc-bench/single/{SCHEMA_VERSION}"


def single(*, output: Path, json: bool, quiet: bool, **options: Any) -> int:
    """Measure and show it."""
    show = WhileRead(sys.stderr)

    def say(doing: str) -> None:
        if not quiet:
            show(lambda: print(doing, file=sys.stderr, flush=True))

    run = execute(plan(DeploymentRequest(**options)), output, command=["python", "-m", "bench", *sys.argv[1:]], say=say)
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
    manifest = run.manifest
    return {
        "schema": SINGLE_SCHEMA,
        "run": {"path": str(run.path), "name": manifest.name, "created": manifest.created, "status": manifest.status},
        "rows": [row.model_dump() for row in table],
    }
