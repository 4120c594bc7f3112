"""What an accuracy run leaves beside its records: Tables 1 and 2, Fig. 2, learning curves."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.accuracy import rows as estimates
from bench.accuracy.notices import LOST, all_notices
from bench.accuracy.rows import Table1Row, Table2Row
from bench.accuracy.run import AccuracyRun
from bench.folder import Notice, write_atomically
from reports.accuracy import figures, latex, tables, wording
from reports.figures import save

TABLES = ("table1.csv", "table1.md", "table1.tex", "table2.csv", "table2.md", "table2.tex")
FIGURES = ("fig2.png", "fig2.svg", "curves.png", "curves.svg")
FILES = TABLES + FIGURES


@dataclass(frozen=True)
class Result:
    """A run and what was estimated from its records."""

    run: AccuracyRun
    rows: Sequence[Table1Row]
    methods: Sequence[Table2Row]
    improvements: Mapping[str, Mapping[str, float | None]]
    """which losses ("paper", "all") -> measure -> share"""
    notices: Sequence[Notice] = ()

    @classmethod
    def of(cls, run: AccuracyRun) -> "Result":
        """Estimate everything again from the records alone."""
        rows = estimates.table1(run)
        notices = [notice for notice in all_notices(run) if notice.kind not in LOST]  # the table has rows for those
        return cls(run, rows, estimates.table2(run), estimates.improvements(rows), notices)

    @property
    def told_improvements(self) -> dict[str, Mapping[str, float | None]]:
        """The improvements without those of which no number is known, as one of the two kinds of losses is missing."""
        return {
            losses: found
            for losses, found in self.improvements.items()
            if any(share is not None for share in found.values())
        }


def write_all(folder: Path, run: AccuracyRun) -> list[Path]:
    """Write the tables and figures of one run; the paths that were written, in the order of FILES.

    Raises OSError; a file is then as it was, or complete.
    """
    return write_together(folder, [Result.of(run)])


def write_together(folder: Path, results: Sequence[Result]) -> list[Path]:
    """Write the same for results at hand; several runs share each table, a block a run, and each figure.

    The CSV of several has a first column more, `run`. Fig. 2 needs a model that met the test data, learning curves a
    training that ended: a figure that cannot be drawn is left out of the paths, and an old one of that name removed.

    Raises ValueError if there is no run, and OSError; a file is then as it was, or complete.
    """
    if not results:
        raise ValueError("nothing to write: there is no run")
    blocks = list(zip(wording.dataset_labels([result.run for result in results]), results, strict=True))
    paths = {name: folder / name for name in FILES}
    tables.write_table1_csv(paths["table1.csv"], blocks)
    write_atomically(paths["table1.md"], tables.table1_markdown(blocks))
    write_atomically(paths["table1.tex"], latex.table1(blocks))
    tables.write_table2_csv(paths["table2.csv"], blocks)
    write_atomically(paths["table2.md"], tables.table2_markdown(blocks))
    write_atomically(paths["table2.tex"], latex.table2(blocks))
    drawn = [paths[name] for name in TABLES]
    note = figures.note([result.run for result in results])
    for name, is_possible, draw in (
        ("fig2", figures.has_fig2, figures.draw_fig2),
        ("curves", figures.has_curves, figures.draw_curves),
    ):
        png, svg = paths[f"{name}.png"], paths[f"{name}.svg"]
        shown = [(label, result.run) for label, result in blocks if is_possible(result.run)]
        if shown:
            save(draw(shown, note=note), png, svg)
            drawn += [png, svg]
        else:
            for old in (png, svg):
                old.unlink(missing_ok=True)
    return drawn
