"""`python -m reports RUN...`: draw tables and figures again, from the samples alone."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bench.errors import UsageError
from reports.pipes import while_read

if TYPE_CHECKING:
    from bench.run import Run

USAGE = 2

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def draw(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Folders of runs.", show_default=False)],
    output: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Where to write.", show_default="the run's own folder, if there is one run"),
    ] = None,
) -> None:
    """Draw Table 3 and Fig. 1 again from the samples of one run, or of several together.

    Prints the table, and what was measured beside what the paper published.
    """
    try:
        with while_read(sys.stdout, sys.stderr):
            _draw(runs, output)
            print(end="", flush=True)  # so that a reader who is gone is noticed here
    except UsageError as error:
        print(f"error: {error}", file=sys.stderr)
        raise typer.Exit(USAGE) from None


def _draw(folders: list[Path], output: Path | None) -> None:
    if len(folders) > 1 and output is None:
        raise UsageError("several runs together belong to none of their folders; say where to write with --output DIR")
    folder = folders[0] if output is None else output

    from bench.run import load_run
    from reports import results, tables, terminal

    found = [results.Result.of(_with_samples(load_run(path))) for path in folders]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        paths = results.write_together(folder, found)
    except OSError as error:
        reason = error.strerror or error
        raise UsageError(f"cannot write to {str(folder)!r}: {reason}; name another folder with --output") from None
    for each in found:
        # A view for each, as each has its own heading and warnings.
        view = terminal.QuietView(sys.stdout)
        view.finish(each.run, each.rows, each.notices, each.break_evens, paths if each is found[-1] else ())
    header, lines = tables.beside_published_cells([series for each in found for series in each.series])
    if lines:
        terminal.print_beside(header, lines)


def _with_samples(run: "Run") -> "Run":
    """The run, if it has points to draw.

    Raises UsageError otherwise.
    """
    if not run.manifest.points:
        raise UsageError(f"{str(run.path)!r} holds no point yet: nothing to draw; continue it with --resume")
    return run


if __name__ == "__main__":
    app(prog_name="python -m reports")
