"""What a run leaves beside its samples: Table 3 and Fig. 1; Fig. 3 and energy where there are such.

table3.csv .md .tex, fig1.png .svg      always
fig3.png .svg .pdf, surface.csv         with two batch sizes or more (reports.surface)
energy.csv .md                          with --energy (reports.energy)
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bench.folder import Notice, write_atomically
from bench.run import Run
from bench.speed import rows as estimates
from bench.speed.notices import all_notices
from bench.speed.rows import BreakEven, Row
from reports import energy as joules
from reports import figures, tables
from reports.energy import Energy
from reports.series import Series, series_of

FILES = ("table3.csv", "table3.md", "table3.tex", "fig1.png", "fig1.svg")


@dataclass(frozen=True)
class Result:
    """A run and what was estimated from its samples."""

    run: Run
    rows: Sequence[Row]
    break_evens: Sequence[BreakEven] = ()
    notices: Sequence[Notice] = ()
    energy: Energy = field(default_factory=lambda: Energy(()))

    @classmethod
    def of(cls, run: Run) -> "Result":
        """Estimate everything again from the samples alone.

        A setting of which nothing but the single logit was measured has no break-even counts.
        """
        rows = estimates.rows(run)
        compared = {each.setting for each in series_of(run, rows) if each.is_compared}
        settings = run.manifest.settings
        break_evens = [each for each in estimates.break_evens(run) if settings[each.setting] in compared]
        energy = Energy.of(run)
        return cls(run, rows, break_evens, [*all_notices(run), *energy.notices], energy)

    @property
    def series(self) -> list[Series]:
        """The rows as one series a setting."""
        return series_of(self.run, self.rows)


def write_all(folder: Path, run: Run) -> list[Path]:
    """Write the tables and figures of one run, estimated from its samples; their paths, those of FILES first.

    Raises ValueError if there is no row to write, and OSError; a file is then as it was, or complete.
    """
    return write_together(folder, [Result.of(run)])


def write_together(folder: Path, results: Sequence[Result]) -> list[Path]:
    """Write the same for results at hand; several runs share each table, and their series the figure.

    The CSV of several has a first column more, `run`. Returns the paths of FILES, and of Fig. 3 and energy where a run
    has them.

    Raises ValueError if there is no row to write, and OSError; a file is then as it was, or complete.
    """
    series = [series for result in results for series in result.series]
    if not series:
        raise ValueError("nothing to write: no run has a row")
    paths = [folder / name for name in FILES]
    csv, markdown, latex, png, svg = paths
    tables.write_csv(csv, [row for result in results for row in result.rows], runs=_runs_of_rows(results))
    write_atomically(markdown, markdown_of(results))
    write_atomically(latex, tables.latex_of(series))
    figures.save(figures.draw(series, note=figures.note([result.run.manifest for result in results])), png, svg)
    return [
        *paths,
        *_surface(folder, results),
        *joules.write(folder, [each.energy for each in results], _names(results)),
    ]


def _surface(folder: Path, results: Sequence[Result]) -> list[Path]:
    """Fig. 3 of the runs with two batch sizes or more, and the paths; drawn by a module that others need not load."""
    if all(len({setting.batch_size for setting in result.run.manifest.settings}) < 2 for result in results):
        return []
    from reports import surface

    return surface.draw_surfaces(folder, [(result.run, result.rows) for result in results], _names(results))


def markdown_of(results: Sequence[Result]) -> str:
    """The Markdown of one run or several, one after the other, and all of them beside the paper's numbers."""
    sections = [
        tables.to_markdown(
            result.rows, notices=result.notices, break_evens=result.break_evens, manifest=result.run.manifest
        )
        for result in results
    ]
    sections.append(tables.beside_published_markdown([series for result in results for series in result.series]))
    return "\n".join(section for section in sections if section)


def _runs_of_rows(results: Sequence[Result]) -> list[str]:
    """The run of each row of several results: its folder's name, or its path where two have one name.

    Empty for a single result, whose rows need none.
    """
    return [name for name, result in zip(_names(results), results, strict=False) for _ in result.rows]


def _names(results: Sequence[Result]) -> list[str]:
    """What tells several runs apart; empty for a single one."""
    if len(results) == 1:
        return []
    folders = [result.run.path for result in results]
    names = [
        result.run.manifest.name if path is None else path.resolve().name
        for path, result in zip(folders, results, strict=True)
    ]
    if len(set(names)) < len(names):
        names = [name if path is None else str(path) for path, name in zip(folders, names, strict=True)]
    return names
