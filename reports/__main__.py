"""`python -m reports RUN...`: draw tables and figures again, from the samples alone."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bench.errors import UsageError

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
        _draw(runs, output)
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
    view = terminal.QuietView(sys.stdout)
    for each in found[:-1]:
        view.finish(each.run, each.rows, each.notices, each.break_evens, ())
    last = found[-1]
    view.finish(last.run, last.rows, last.notices, last.break_evens, paths)
    header, lines = tables.beside_published_cells([row for each in found for row in each.rows])
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
