"""`python -m bench export`: a run in the words of other tools."""

from pathlib import Path
from typing import Annotated

import typer

from bench.cli.exits import exits

Run = Annotated[
    str,
    typer.Argument(
        metavar="RUN",
        help="Run folder; or, for all formats but pytest-benchmark, a file of pytest-benchmark, a baseline, or an "
        "entry of the history.",
        show_default=False,
    ),
]
Format = Annotated[
    str,
    typer.Option(
        "--format",
        metavar="FORMAT",
        help="pytest-benchmark, github-action-benchmark, bencher, csv.",
        show_default=False,
    ),
]
Quantity = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="Of github-action-benchmark: times (its tool customSmallerIsBetter) or speedups (customBiggerIsBetter).",
        show_default=False,
    ),
]
Output = Annotated[Path | None, typer.Option(metavar="FILE", help="Where to write.", show_default="standard output")]
Store = Annotated[Path, typer.Option(metavar="DIR", help="Folder of the history.")]

#: bench.history.store.DEFAULT, which is not imported for a help text.
DEFAULT = Path(".slc-bench")


@exits
def export(
    run: Run,
    form: Format,
    quantity: Quantity = None,
    output: Output = None,
    store: Store = DEFAULT,
) -> int:
    """Write a run so that another tool can read it: names stay the same from run to run."""
    from bench.cli import exporting

    return exporting.export(run, form, quantity, output, store)
