"""What one class's score costs and is worth: time, memory and 1-AUPRC of a single logit and of all its rivals.

    table = rivals_table(speed_run, accuracy_run)
    rivals_markdown(table), rivals_frame(table).to_csv(...), print_rivals(table, console)

or `python -m reports.rivals SPEED_RUN --accuracy ACCURACY_RUN`. Times and memory are those of the speed run at one
class count, 1-AUPRC that of the accuracy run on its own data: what they share is the way to score a class, not the
network.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from archs.top_layer_kinds import NAMES, RIVALS
from bench.accuracy.rows import Spread, Table1Row, table1
from bench.accuracy.run import AccuracyRun
from bench.accuracy.run import load as load_accuracy
from bench.errors import UsageError
from bench.folder import write_atomically
from bench.run import Run, load_run
from bench.speed.rows import MODES, Row, rows
from reports import wording
from reports.accuracy import wording as accuracy_wording
from reports.tables import markdown_table

if TYPE_CHECKING:
    import pandas
    from rich.console import Console

FILES = ("rivals.csv", "rivals.md")

USAGE = 2

MEASURE = "one_minus_auprc"

HEADER = (
    "One class's score",
    "Time, ms/example",
    "Time / one logit",
    "Peak memory, MB",
    "Top layer reads, MB",
    "1-AUPRC",
)

#: Losses whose single logit stands in the row of the paper's principle: batch CE as in its Table 2, else the first.
_PREFERRED_ALIGNED = "batch-ce"

#: Further ways to train a full layer by some of its logits -> whether one logit is the score, or all of them.
_SAMPLED = {"nce": True, "negative-sampling": True, "importance-sampling": False}


@dataclass(frozen=True)
class RivalLine:
    """One way to score a class; a number that is missing has its reason in `missing`, by the name of the field."""

    arch: str
    """network and setting of the times; empty without a speed run"""
    name: str
    seconds: float | None
    """median of one example, whole network"""
    relative: float | None
    """over the single logit's, in the same rounds"""
    peak_memory_bytes: int | None
    bytes_read: int | None
    """by the top layer, for one minibatch"""
    one_minus_auprc: Spread | None
    missing: dict[str, str]


@dataclass(frozen=True)
class RivalsTable:
    """The lines of every setting, and what they were measured on."""

    classes: int | None
    """of the times; None without a speed run"""
    dataset: str | None
    """of 1-AUPRC; None without an accuracy run"""
    lines: tuple[RivalLine, ...]


def rivals_table(speed: Run | None, accuracy: AccuracyRun | None, classes: int | None = None) -> RivalsTable:
    """The table at one class count: the single logit (PoLS), a full softmax, losses that sample, every rival.

    `classes`: of the times; the largest that was measured if none is given. What was not measured is a cell that says
    how it would be. Raises UsageError if there is neither run, or none of the times has that class count.
    """
    if speed is None and accuracy is None:
        raise UsageError("a table of rivals needs a speed run, an accuracy run, or both")
    measured = [] if speed is None else rows(speed)
    trained = [] if accuracy is None else table1(accuracy)
    count = _count(measured, classes) if speed is not None else None
    groups: list[_Group | None] = [*dict.fromkeys(map(_group, measured))] or [None]
    labels = _labels(measured)
    lines: list[RivalLine] = []
    for group in groups:
        own = [row for row in measured if _group(row) == group and row.kind == "point"]
        find_time = _TimeFinder(own, count, labels.get(group, ""))
        lines += _lines(find_time, trained, is_trained=accuracy is not None)
    return RivalsTable(count, None if accuracy is None else accuracy.manifest.dataset.name, tuple(lines))


def has_rivals(run: Run) -> bool:
    """Whether a speed run timed a rival of the full top layer."""
    return any(setting.top_layer != "full" for setting in run.manifest.settings)


_Group = tuple[object, ...]


def _group(row: Row) -> _Group:
    """What rows must share to stand in one block: everything but work, top layer and class count."""
    modes = tuple(getattr(row, mode) for mode in MODES if mode not in ("work", "top_layer"))
    return row.arch, row.device, row.dtype, row.batch_size, row.compile, row.order, *modes


def _labels(measured: Sequence[Row]) -> dict[_Group | None, str]:
    """The network of each block, with what tells it from others of the same network."""
    firsts = {_group(row): row for row in reversed(measured)}
    plain = [row.model_copy(update={"work": "logits", "top_layer": "full"}) for row in firsts.values()]
    archs = [row.arch for row in plain]
    found = wording.distinguish(archs, [wording.row_traits(row) for row in plain])
    return {group: wording.named(arch, label) for group, arch, label in zip(firsts, archs, found, strict=True)}


def _count(measured: Sequence[Row], asked: int | None) -> int | None:
    counts = sorted({row.classes for row in measured if row.kind == "point" and not row.is_reference})
    if asked is not None and asked not in counts:
        raise UsageError(
            f"--classes {asked}: the speed run has {', '.join(map(str, counts)) or 'no count beyond one logit'}"
        )
    return asked if asked is not None else max(counts, default=None)


class _TimeFinder:
    """Finds the row behind a cell, or the reason why there is none."""

    def __init__(self, measured: Sequence[Row], classes: int | None, arch: str) -> None:
        self._measured = measured
        self._classes = classes
        self.arch = arch

    def single(self) -> Row | str:
        """The logits asked for, computed alone, where all logits are the work."""
        found = [row for row in self._measured if row.is_reference]
        found.sort(key=lambda row: (row.work != "logits", row.top_layer != "full"))
        return self._checked(found, "one logit of a full layer")

    def full(self) -> Row | str:
        """All logits and their normaliser."""
        return self._at_count("full", "normalised", "--work normalised")

    def rival(self, kind: str) -> Row | str:
        """A rival's score of the classes asked for."""
        return self._at_count(kind, None, f"--top-layer {kind}")

    def _at_count(self, kind: str, work: str | None, option: str) -> Row | str:
        found = [
            row
            for row in self._measured
            if row.top_layer == kind
            and row.classes == self._classes
            and not row.is_reference
            and work in (None, row.work)
        ]
        return self._checked(sorted(found, key=lambda row: row.work != "logits"), option)

    def _checked(self, found: Sequence[Row], option: str) -> Row | str:
        if not self._measured:
            return "no speed run"
        if not found:
            return f"not measured: {option}"
        if found[0].status != "ok":
            return f"{found[0].status}: {' '.join(found[0].reason.split())}"
        return found[0] if found[0].median_s is not None else "not measured yet"


def _lines(times: _TimeFinder, trained: Sequence[Table1Row], *, is_trained: bool) -> list[RivalLine]:
    by_loss = {row.loss: row for row in trained}
    aligned = next(
        (row.loss for row in trained if row.loss == _PREFERRED_ALIGNED),
        next((row.loss for row in trained if row.aligned and row.loss not in (*RIVALS, *_SAMPLED)), _PREFERRED_ALIGNED),
    )

    def line(name: str, time: Row | str, loss: str, option: str, *, single: bool) -> RivalLine:
        quality = _quality(by_loss.get(loss), option, is_trained=is_trained, single=single)
        return _line(times.arch, name, time, quality)

    name = f"single logit, {by_loss[aligned].name}" if aligned in by_loss else "single logit"
    found = [
        line(f"{name} (PoLS)", times.single(), aligned, f"--losses {aligned}", single=True),
        line("full softmax, normalised: CE", times.full(), "ce", "--losses ce", single=False),
    ]
    for loss, single in _SAMPLED.items():
        if loss in by_loss:
            label = f"{'single logit' if single else 'full softmax, normalised'}: {by_loss[loss].name}"
            time = times.single() if single else times.full()
            found.append(line(label, time, loss, f"--losses {loss}", single=single))
    rivals = [line(NAMES[kind], times.rival(kind), kind, f"--top-layer {kind}", single=True) for kind in RIVALS]
    return [*found, *rivals]


def _quality(row: Table1Row | None, option: str, *, is_trained: bool, single: bool) -> Spread | str:
    """1-AUPRC of one loss or rival, or why there is none."""
    if not is_trained:
        return "no accuracy run"
    if row is None:
        return f"not trained: {option}"
    found = (row.measures if single else row.all_measures).get(MEASURE)
    return accuracy_wording.status(row) if found is None else found


def _line(arch: str, name: str, time: Row | str, quality: Spread | str) -> RivalLine:
    missing: dict[str, str] = {}
    row = None if isinstance(time, str) else time
    if isinstance(time, str):
        missing |= dict.fromkeys(("seconds", "relative", "peak_memory_bytes", "bytes_read"), time)
    elif time.peak_memory_bytes is None:
        missing["peak_memory_bytes"] = "not recorded"
    if row is not None and row.speedup is None:
        missing["relative"] = "one logit is missing in the same rounds"
    if isinstance(quality, str):
        missing["one_minus_auprc"] = quality
    return RivalLine(
        arch=arch,
        name=name,
        seconds=None if row is None else row.median_s,
        relative=None if row is None else row.speedup,
        peak_memory_bytes=None if row is None else row.peak_memory_bytes,
        bytes_read=None if row is None else row.bytes,
        one_minus_auprc=None if isinstance(quality, str) else quality,
        missing=missing,
    )


# --- as text, Markdown, CSV


def rivals_frame(table: RivalsTable) -> "pandas.DataFrame":
    """One line a way to score a class, to full precision; `missing` says why a cell is empty."""
    import pandas

    lines = [
        {
            "arch": line.arch,
            "classes": table.classes,
            "dataset": table.dataset,
            "name": line.name,
            "seconds": line.seconds,
            "relative": line.relative,
            "peak_memory_bytes": line.peak_memory_bytes,
            "bytes_read": line.bytes_read,
            "one_minus_auprc": None if line.one_minus_auprc is None else line.one_minus_auprc.mean,
            "one_minus_auprc_std": None if line.one_minus_auprc is None else line.one_minus_auprc.std,
            "missing": "; ".join(f"{name}: {reason}" for name, reason in line.missing.items()),
        }
        for line in table.lines
    ]
    whole = dict.fromkeys(("classes", "peak_memory_bytes", "bytes_read"), "Int64")
    return pandas.DataFrame(lines).astype(whole)


def rivals_markdown(table: RivalsTable) -> str:
    """The table with its heading and what a reader must know; a block of lines a network and setting."""
    parts = [f"## One class's score: a single logit and its rivals\n\n{note(table)}"]
    for arch in dict.fromkeys(line.arch for line in table.lines):
        cells = [_cells(line, reasons(table)) for line in table.lines if line.arch == arch]
        parts.append((f"### {arch}\n\n" if arch else "") + markdown_table(HEADER, cells, left=(0,)))
    if reasons(table):
        parts.append("  \n".join(f"({number}) {reason}" for number, reason in enumerate(reasons(table), start=1)))
    return "\n\n".join(parts) + "\n"


def print_rivals(table: RivalsTable, console: "Console") -> None:
    """The same for a terminal, without the heading."""
    from rich import box
    from rich.table import Table

    for arch in dict.fromkeys(line.arch for line in table.lines):
        shown = Table(title=arch or None, title_justify="left", box=box.ASCII2, header_style="")
        for index, column in enumerate(HEADER):
            shown.add_column(column, justify="left" if index == 0 else "right", min_width=24 if index == 0 else None)
        for line in table.lines:
            if line.arch == arch:
                shown.add_row(*_cells(line, reasons(table)))
        console.print(shown)
    for number, reason in enumerate(reasons(table), start=1):
        console.print(f"({number}) {reason}", highlight=False, markup=False)
    console.print(note(table), highlight=False)


def note(table: RivalsTable) -> str:
    """What the numbers are of."""
    parts = []
    if table.classes is not None:
        parts.append(
            f"Times are medians of the whole network at {wording.count(table.classes)} classes, for a class that costs "
            "what an average request costs; a rival that normalises (differentiated, low-rank) computes all its logits."
        )
    if table.dataset is not None:
        parts.append(
            f"1-AUPRC is on {accuracy_wording.dataset(table.dataset)}, mean over classes, lower is better: of one raw "
            "logit, of the log-odds from all logits, and of a rival's log-probability of the class."
        )
    return " ".join(parts)


def reasons(table: RivalsTable) -> list[str]:
    """Why cells are missing, each reason once: a missing cell holds the number of its reason, counted from 1."""
    return list(dict.fromkeys(reason for line in table.lines for reason in line.missing.values()))


def _cells(line: RivalLine, why: Sequence[str]) -> list[str]:
    numbers: list[tuple[str, float | None, Callable[[float], str]]] = [
        ("seconds", line.seconds, wording.milliseconds),
        ("relative", line.relative, wording.speedup),
        ("peak_memory_bytes", line.peak_memory_bytes, _megabytes),
        ("bytes_read", line.bytes_read, _megabytes),
    ]
    cells = [_note_of(line, name, why) if value is None else form(value) for name, value, form in numbers]
    quality = line.one_minus_auprc
    cells.append(_note_of(line, "one_minus_auprc", why) if quality is None else accuracy_wording.spread(quality))
    return [line.name, *cells]


def _note_of(line: RivalLine, name: str, why: Sequence[str]) -> str:
    return f"({why.index(line.missing[name]) + 1})"


def _megabytes(size: float) -> str:
    return wording.significant(size / 1e6)


def write_rivals(folder: Path, table: RivalsTable) -> list[Path]:
    """Write rivals.csv and rivals.md; their paths. Raises OSError; a file is then as it was, or complete."""
    csv, markdown = (folder / name for name in FILES)
    write_atomically(csv, rivals_frame(table).to_csv(index=False, lineterminator="\n"))
    write_atomically(markdown, rivals_markdown(table))
    return [csv, markdown]


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table of two runs, and write it where asked; the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m reports.rivals", description="Time, memory and 1-AUPRC of one class's score."
    )
    parser.add_argument("speed", nargs="?", type=Path, help="a speed run with --top-layer")
    parser.add_argument("--accuracy", type=Path, help="an accuracy run with --top-layer")
    parser.add_argument("--classes", type=int, help="class count of the times (the largest)")
    parser.add_argument("--output", type=Path, help=f"folder for {' and '.join(FILES)}")
    given = parser.parse_args(arguments)
    try:
        speed = None if given.speed is None else load_run(given.speed)
        accuracy = None if given.accuracy is None else load_accuracy(given.accuracy)
        table = rivals_table(speed, accuracy, given.classes)
        if given.output is not None:
            _write_where_asked(given.output, table)
    except UsageError as error:
        print(f"error: {error}", file=sys.stderr)
        return USAGE
    from rich.console import Console

    print_rivals(table, Console())
    return 0


def _write_where_asked(folder: Path, table: RivalsTable) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_rivals(folder, table)
    except OSError as error:
        raise UsageError(f"--output {folder}: cannot be written ({error.strerror}); name another folder") from None


if __name__ == "__main__":
    sys.exit(main())
