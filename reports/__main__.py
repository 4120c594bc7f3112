"""`python -m reports RUN...`: draw tables, figures and the page again, from the samples alone.

An entrance, which nothing imports: it ends as every command does, by bench.cli.exits.
"""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bench.cli.exits import DONE, INCOMPLETE, exits
from bench.errors import UsageError

if TYPE_CHECKING:
    from bench.accuracy.run import AccuracyRun
    from bench.run import Run
    from reports import results as speed_results
    from reports.accuracy import results as accuracy_results

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
@exits
def draw(
    runs: Annotated[
        list[Path], typer.Argument(metavar="RUN...", help="Folders of runs, or of many runs.", show_default=False)
    ],
    output: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Where to write.", show_default="the run's own folder, if there is one run"),
    ] = None,
    html: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write a page to look at, one file; without --output nothing else."),
    ] = None,
    history: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="The history shown on the page.", show_default=".slc-bench, where there is one"
        ),
    ] = None,
) -> int:
    """Draw tables and figures again from what runs have on disk, one run or several together.

    Of speed runs Table 3 and Fig. 1, of accuracy runs Tables 1 and 2, Fig. 2 and learning curves, of a run of the whole
    paper all of these and its claims. Of a speed and an accuracy run with rivals (--top-layer) their table, too; of a
    run of `bench single` its table, which is written nowhere; of one of `bench scaling` Fig. 4 and its table.
    Prints the table, and what was measured beside what the paper published.

    With --html, a page that holds all of it with every sample and the history, and opens without a network.
    """
    if history is not None and html is None:
        raise UsageError("--history is shown on the page: say where to write that with --html FILE")
    folders = _with_runs_inside(runs)
    if html is not None:
        _write_page(folders, html, history)
    return DONE if html is not None and output is None else _draw(folders, output)


def _with_runs_inside(folders: Sequence[Path]) -> list[Path]:
    """The runs among these folders, and those inside a folder that is none itself, by name: oldest first.

    Raises UsageError for a folder that neither is a run nor holds any.
    """
    found: list[Path] = []
    for folder in folders:
        inside = [] if (folder / "run.json").exists() else sorted(file.parent for file in folder.glob("*/run.json"))
        found += inside or [folder]
    return list(dict.fromkeys(found))


def _write_page(folders: Sequence[Path], file: Path, history: Path | None) -> None:
    from bench.folder import write_atomically
    from bench.history.store import DEFAULT
    from reports.page import document

    speed, accuracy = _load(folders)
    if history is None and (DEFAULT / "history").is_dir():
        history = DEFAULT
    page = document.build(*_estimated(speed, accuracy), history)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(file, page)
    except OSError as error:
        raise UsageError(f"cannot write {str(file)!r}: {error.strerror or error}; name another with --html") from None
    print(f"Wrote {file} ({len(page.encode()) / 1e6:.1f} MB): open it in a browser.")


def _estimated(
    speed: "Sequence[Run]", accuracy: "Sequence[AccuracyRun]"
) -> "tuple[list[speed_results.Result], list[accuracy_results.Result]]":
    from reports import results as speed_results
    from reports.accuracy import results as accuracy_results

    return [speed_results.Result.of(run) for run in speed], [accuracy_results.Result.of(run) for run in accuracy]


def _load(folders: Sequence[Path]) -> "tuple[list[Run], list[AccuracyRun]]":
    """Runs of both kinds, each with something to draw. Raises UsageError."""
    from bench.run import Run

    runs = [run for path in folders for run in _runs_of(path)]
    speed = [run for run in runs if isinstance(run, Run)]
    accuracy = [run for run in runs if not isinstance(run, Run)]
    for run in speed:
        _refuse_without("point", run.manifest.points, run.path)
    for each in accuracy:
        _refuse_without("training", each.trainings, each.path)
    return speed, accuracy


def _runs_of(path: Path) -> "list[Run | AccuracyRun]":
    """A run, or the parts of a run of the whole paper."""
    from bench.runs import is_of_the_paper, load_any

    if not is_of_the_paper(path):
        return [load_any(path)]
    from bench.paper.edition import runs_of
    from bench.paper.record import load

    return list(runs_of(load(path), path).values())


def _draw(folders: list[Path], output: Path | None) -> int:
    """Write and show the reports; the exit code, which says whether every run is whole."""
    from bench.runs import is_of_a_single_logit, is_of_a_study, is_of_the_paper

    if len(folders) > 1 and output is None:
        raise UsageError("several runs together belong to none of their folders; say where to write with --output DIR")
    if any(is_of_a_single_logit(path) for path in folders):
        return _show_single(folders, output)
    if any(is_of_a_study(path) for path in folders):
        return _draw_study(folders, output)
    folder = folders[0] if output is None else output
    if any(is_of_the_paper(path) for path in folders):
        if len(folders) > 1:
            raise UsageError("a run of the whole paper is drawn alone; name it, or its parts' folders")
        _draw_paper(folders[0], folder)
        return DONE
    speed, accuracy = _load(folders)
    shows = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if speed:
            shows.append(_write_speed(speed, folder))
        if accuracy:
            shows.append(_write_accuracy(accuracy, folder))
        if speed and accuracy:
            shows.append(_write_rivals(speed, accuracy, folder))
    except OSError as error:
        raise _not_writable(folder, error) from None
    for show in shows:
        show()
    statuses = {run.manifest.status for run in speed} | {run.manifest.status for run in accuracy}
    return DONE if statuses == {"complete"} else INCOMPLETE


def _show_single(folders: Sequence[Path], output: Path | None) -> int:
    """Print the table of a run of `bench single` again; the exit code, which says whether the run is whole."""
    from bench.deploy.records import load
    from bench.deploy.rows import ended_complete, rows
    from reports.single import print_deployment

    if len(folders) > 1 or output is not None:
        raise UsageError(
            "a run of python -m bench single is shown alone and written nowhere: name it, without --output"
        )
    run = load(folders[0])
    print_deployment(run, rows(run), sys.stdout)
    return DONE if ended_complete(run) else INCOMPLETE


def _draw_study(folders: Sequence[Path], output: Path | None) -> int:
    """Draw a study over class counts again; the exit code, which says whether the run is whole."""
    from bench.scaling.run import load
    from reports.scaling.results import Result, write_result
    from reports.scaling.terminal import print_result

    if len(folders) > 1:
        raise UsageError("a run of python -m bench scaling is drawn alone; name it by itself")
    folder = folders[0] if output is None else output
    result = Result.of(load(folders[0]))
    _refuse_without("model", [1] * result.has_figure, folders[0])
    try:
        folder.mkdir(parents=True, exist_ok=True)
        paths = write_result(folder, result)
    except OSError as error:
        raise _not_writable(folder, error) from None
    print_result(result, sys.stdout, paths)
    return DONE if result.run.manifest.status == "complete" else INCOMPLETE


def _draw_paper(path: Path, folder: Path) -> None:
    from bench.paper.edition import runs_of
    from bench.paper.evidence import claims_of
    from bench.paper.record import load
    from reports import paper
    from reports.whole import write_together

    manifest = load(path)
    runs = runs_of(manifest, path)
    claims = claims_of(manifest.parts, runs)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        paths = write_together(folder, manifest, claims, runs)
    except OSError as error:
        raise _not_writable(folder, error) from None
    paper.print_notices(manifest, sys.stdout)
    paper.print_claims(claims, manifest, paths, sys.stdout)


def _not_writable(folder: Path, error: OSError) -> UsageError:
    reason = error.strerror or error
    return UsageError(f"cannot write to {str(folder)!r}: {reason}; name another folder with --output")


def _refuse_without(what: str, found: Sequence[object], path: Path | None) -> None:
    if not found:
        raise UsageError(f"{str(path)!r} holds no {what} yet: nothing to draw; continue it with --resume")


def _write_speed(runs: "list[Run]", folder: Path) -> Callable[[], None]:
    """Write the reports of speed runs; what shows them. Raises OSError."""
    from reports import results, tables, terminal

    found = [results.Result.of(run) for run in runs]
    paths = results.write_together(folder, found)

    def show() -> None:
        for each in found:
            # A view for each, as each has its own heading and warnings.
            view = terminal.QuietView(sys.stdout)
            view.finish(each.run, each.rows, each.notices, each.break_evens, paths if each is found[-1] else ())
            terminal.print_lines(each.energy.lines)
        header, lines = tables.beside_published_cells([series for each in found for series in each.series])
        if lines:
            terminal.print_beside(header, lines)

    return show


def _write_accuracy(runs: "list[AccuracyRun]", folder: Path) -> Callable[[], None]:
    """Write the reports of accuracy runs; what shows them. Raises OSError."""
    from reports.accuracy import results, terminal

    found = [results.Result.of(run) for run in runs]
    paths = results.write_together(folder, found)

    def show() -> None:
        for each in found:
            view = terminal.QuietView(sys.stdout)
            view.finish(each.run, each.rows, each.notices, paths if each is found[-1] else ())
        terminal.print_beside([row for each in found for row in each.rows])

    return show


def _write_rivals(speed: "Sequence[Run]", accuracy: "Sequence[AccuracyRun]", folder: Path) -> Callable[[], None]:
    """Write the table of rivals, where times and 1-AUPRC of such are at hand; what shows it. Raises OSError."""
    from reports import rivals, terminal

    timed = [run for run in speed if rivals.has_rivals(run)]
    if not timed:
        return lambda: None
    if len(timed) > 1 or len(accuracy) > 1:
        reason = "the table of rivals is of one speed run and one accuracy run; name one of each for it"
        return lambda: terminal.print_lines([reason])
    table = rivals.rivals_table(timed[0], accuracy[0])
    paths = rivals.write_rivals(folder, table)

    def show() -> None:
        console = terminal.console_for(sys.stdout)
        console.print()
        rivals.print_rivals(table, console)
        names = ", ".join(path.name for path in paths)
        console.print(f"\nwritten to {folder}: {names}", soft_wrap=True)

    return show


if __name__ == "__main__":
    app(prog_name="python -m reports")
