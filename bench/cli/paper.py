"""`python -m bench paper`: the whole paper in one command."""

from pathlib import Path
from typing import Annotated

import typer

from bench.cli.defaults import with_default
from bench.cli.exits import exits
from bench.cli.given import given, refuse_beside_resume
from bench.cli.shared_options import OUT, WHERE, DataDir, Device, Json, Output

EFFORT = "How much is measured"

Budget = Annotated[
    str | None,
    typer.Option(
        metavar="TIME",
        rich_help_panel=EFFORT,
        help=with_default(
            "Time for all parts together: 90m, 2h, 1h30m, 3600s, 2d; none for the paper's full size.", "2h"
        ),
    ),
]
DryRun = Annotated[
    bool,
    typer.Option(
        "--dry-run",
        rich_help_panel=EFFORT,
        help="Show the parts, their sizes, what they would take and what would be left out; keep nothing.",
    ),
]
Threads = Annotated[
    int | None,
    typer.Option(metavar="N", rich_help_panel=WHERE, help=with_default("CPU threads in all.", "every core")),
]
Seed = Annotated[
    int, typer.Option(metavar="N", min=0, rich_help_panel=WHERE, help="Of weights, inputs, order and data.")
]
Resume = Annotated[
    Path | None,
    typer.Option(
        metavar="RUN",
        rich_help_panel=OUT,
        help="Continue a run that was cut off; --budget may give it more time, --reuse runs of what has not begun.",
    ),
]
Reuse = Annotated[
    list[Path] | None,
    typer.Option(
        metavar="RUN",
        rich_help_panel=EFFORT,
        help="A finished run of one part, measured on this machine: taken as it is instead of measured again. "
        "Several: once for each.",
    ),
]
Quiet = Annotated[bool, typer.Option("--quiet", rich_help_panel=OUT, help="No progress, and no tables of the parts.")]


@exits
def reproduce(
    ctx: typer.Context,
    budget: Budget = None,
    dry_run: DryRun = False,
    reuse: Reuse = None,
    device: Device = "auto",
    threads: Threads = None,
    seed: Seed = 0,
    data_dir: DataDir = None,
    output: Output = Path("results"),
    resume: Resume = None,
    json: Json = False,
    quiet: Quiet = False,
) -> int:
    """Does the paper hold here? Tables 1 to 3, Figs. 1 and 2, as far as data and time allow.

    Leaves the tables and figures of Keren, Sabato and Schuller (2019), each of their claims beside what was measured,
    and the name of everything that was left out.
    """
    if resume is not None:
        refuse_beside_resume(given(ctx) - {"budget", "reuse"})
        from bench.cli import reproducing

        return reproducing.resume(resume, budget, json=json, quiet=quiet, reuse=reuse or ())
    from bench.cli import reproducing

    request = reproducing.request(
        "2h" if budget is None else budget, device=device, threads=threads, seed=seed, data_dir=data_dir
    )
    if dry_run:
        return reproducing.outlook(request, json=json, quiet=quiet, reuse=reuse or ())
    return reproducing.new(request, output, json=json, quiet=quiet, reuse=reuse or ())
