"""What a study leaves beside its records: Fig. 4 and its tables.

scaling.csv .md             always
fig4.png .svg .pdf          once a model or an optimum has met the queries, or a speedup was measured
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.folder import Notice, write_atomically
from bench.scaling import answers, row_notices
from bench.scaling import rows as scaling_rows
from bench.scaling.answers import Answer
from bench.scaling.judgements import Speed
from bench.scaling.rows import Estimate, ScalingRow
from bench.scaling.run import StudyRun
from bench.speed.notices import all_notices
from reports.scaling import wording

TABLES = ("scaling.csv", "scaling.md")
FIGURES = ("fig4.png", "fig4.svg", "fig4.pdf")
FILES = TABLES + FIGURES

#: Kinds of notices of a study that tables and terminal have lines for: where nothing was trained, what has no model.
TOLD = ("left-out", "no-point")


@dataclass(frozen=True)
class Result:
    """A study and what was estimated from its records."""

    run: StudyRun
    rows: Sequence[ScalingRow]
    answers: Sequence[Answer]
    optima: Sequence[tuple[int, Estimate]]
    """(class count, 1-AUPRC by the posterior log-odds), ascending"""
    speeds: Sequence[tuple[int, Speed]]
    """(class count, speedup), ascending"""
    notices: Sequence[Notice]
    """of the study, of its speed run, and what the rows say"""

    @classmethod
    def of(cls, run: StudyRun) -> "Result":
        """Estimate everything again from the records alone. Raises UsageError as bench.scaling.rows.rows."""
        rows = scaling_rows.rows(run)
        speed = () if run.speed is None else all_notices(run.speed)
        own = (notice for notice in run.manifest.notices if notice.kind not in TOLD)
        notices = (*own, *run.notices, *row_notices.notices(run, rows), *speed)
        return cls(
            run,
            rows,
            answers.answers(rows),
            scaling_rows.optima_reached(run),
            scaling_rows.speed_reached(rows),
            tuple(dict.fromkeys(notices)),
        )

    @property
    def answer_lines(self) -> list[str]:
        """A line for the losses with the same answer."""
        return wording.answer_lines(self.answers, self.rows)

    @property
    def has_figure(self) -> bool:
        """Whether there is anything to draw."""
        has_speedup = any(each.speedup is not None for _, each in self.speeds)
        return bool(self.optima) or has_speedup or any(row.seeds for row in self.rows)


def write(folder: Path, run: StudyRun) -> list[Path]:
    """Write the tables and the figure of a study; the paths that were written, in the order of FILES.

    Raises OSError; a file is then as it was, or complete. And UsageError as `Result.of`.
    """
    return write_result(folder, Result.of(run))


def write_result(folder: Path, result: Result) -> list[Path]:
    """The same of a result at hand. A figure that cannot be drawn is left out, and an old one of that name removed."""
    from reports.scaling import figures, tables

    paths = [folder / name for name in FILES]
    csv, markdown, *drawn = paths
    tables.write_csv(csv, result.rows)
    write_atomically(markdown, tables.markdown(result))
    if not result.has_figure:
        for old in drawn:
            old.unlink(missing_ok=True)
        return [csv, markdown]
    figures.save(figures.draw(result), *drawn)
    return paths
