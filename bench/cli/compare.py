"""`python -m bench compare`: is a speedup still what it was?"""

from pathlib import Path
from typing import Annotated

import typer

from bench.cli.exits import exits

VERDICT = "What counts as worse"
AGAIN = "Measuring again"
OUT = "Output"

#: bench.history.store.DEFAULT, which is not imported for a help text.
DEFAULT = Path(".slc-bench")

Base = Annotated[
    str,
    typer.Argument(
        metavar="BASE",
        show_default=False,
        help="What it was: a run's folder, a named baseline of the history, or a pytest-benchmark file.",
    ),
]
New = Annotated[str, typer.Argument(metavar="NEW", show_default=False, help="What it is now: the same.")]
Gate = Annotated[
    str,
    typer.Option(
        metavar="WHAT", rich_help_panel=VERDICT, help="What turns it red: speedup, single (the one logit's time), both."
    ),
]
Margin = Annotated[
    str, typer.Option(metavar="PERCENT", rich_help_panel=VERDICT, help="Changes below this are none: 3% or 0.03.")
]
Confirm = Annotated[
    int,
    typer.Option(
        metavar="N",
        min=0,
        rich_help_panel=AGAIN,
        help="Measure what looks worse again in N fresh processes a side before it counts; 0 leaves that out.",
    ),
]
BasePython = Annotated[
    str | None,
    typer.Option(
        metavar="PATH",
        rich_help_panel=AGAIN,
        help="Python of the environment BASE was measured in: base and new are then measured in turn.",
        show_default="this Python, if --base-dir is given; otherwise BASE stays as it was kept",
    ),
]
BaseDir = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR",
        rich_help_panel=AGAIN,
        help="Working tree BASE was measured in, such as a second checkout.",
        show_default="this folder, if --base-python is given",
    ),
]
Format = Annotated[
    str,
    typer.Option(
        "--format",
        metavar="NAME",
        rich_help_panel=OUT,
        help="text, markdown, json, github (annotations, and the job's summary).",
    ),
]
StorePath = Annotated[Path, typer.Option("--store", metavar="DIR", rich_help_panel=OUT, help="Folder of the history.")]
Quiet = Annotated[bool, typer.Option("--quiet", rich_help_panel=OUT, help="No progress of measuring again.")]


@exits
def compare(
    base: Base,
    new: New,
    gate: Gate = "both",
    margin: Margin = "3%",
    confirm: Confirm = 5,
    base_python: BasePython = None,
    base_dir: BaseDir = None,
    format_: Format = "text",
    store: StorePath = DEFAULT,
    quiet: Quiet = False,
) -> int:
    """Is one logit still worth it as it was? Compares two speed runs, point by point.

    Exit codes: 0 nothing worse (ambiguous points are warnings), 1 something worse, 2 bad usage or input, 3 nothing
    could be decided, another machine, or a point of BASE failed in NEW.
    """
    from bench.cli import comparing

    return comparing.run(
        base,
        new,
        gate=comparing.gate_of(gate),
        margin=comparing.margin_of(margin),
        turns=confirm,
        programs=comparing.programs_of(base_python, base_dir, confirm),
        form=comparing.form_of(format_),
        store=store,
        quiet=quiet,
    )
