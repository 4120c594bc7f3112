"""The options that several commands have, the same everywhere."""

from pathlib import Path
from typing import Annotated

import typer

from bench.cli.defaults import with_default

WHERE = "Where it runs"
OUT = "Output"

Device = Annotated[str, typer.Option(rich_help_panel=WHERE, metavar="NAME", help="auto, cpu, cuda, cuda:N.")]
DataDir = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR",
        rich_help_panel=WHERE,
        help=with_default("Where data sets lie, or are downloaded to.", "~/.cache/slc-bench/data"),
    ),
]
Workers = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        rich_help_panel=WHERE,
        help=with_default("Processes that train side by side.", "one a core; on a GPU 1"),
    ),
]
WorkerThreads = Annotated[
    int | None,
    typer.Option(metavar="N", rich_help_panel=WHERE, help=with_default("CPU threads of a worker.", "cores / workers")),
]
Output = Annotated[Path, typer.Option(metavar="DIR", rich_help_panel=OUT, help="Parent of the run's folder.")]
Resume = Annotated[
    Path | None,
    typer.Option(metavar="RUN", rich_help_panel=OUT, help="Continue a run that was cut off, with its own settings."),
]
Json = Annotated[
    bool,
    typer.Option("--json", rich_help_panel=OUT, help="One JSON object {schema, run, rows} on standard output."),
]
Quiet = Annotated[bool, typer.Option("--quiet", rich_help_panel=OUT, help="No progress.")]
