"""What one class's score costs and is worth: time, memory and 1-AUPRC of a single logit and of all its rivals.

    table = rivals_table(speed_run, accuracy_run)
    rivals_markdown(table), rivals_frame(table).to_csv(...), print_rivals(table, console)

or `python -m reports.rivals SPEED_RUN --accuracy ACCURACY_RUN`. Times and memory are those of the speed run at one
class count, 1-AUPRC that of the accuracy run on its own data: what they share is the way to score a class, not the
network. Times on the device and times from host memory to host memory (`--work end-to-end`) stand in tables of their
own.
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
from reports.pipes import while_read
from reports.tables import markdown_table
from reports.terminal import console_for

if TYPE_CHECKING:
    import pandas
    from rich.console import Console
    from rich.table import Table

FILES = ("rivals.csv", "rivals.md")

USAGE = 2

MEASURE = "one_minus_auprc"

HEADER = (
    "One class's score",
    "Work",
    "Time, ms",
    "One logit, ms",
    "Ratio of times",
    "Peak memory, MB",
    "Top layer reads, MB",
    "1-AUPRC",
)

#: Columns of words; the others hold numbers, aligned to the right.
LEFT = (0, 1)

#: Characters to which the first column is folded at most; where even these are not there, there is no table.
NAME_WIDTH = 20

#: Whether input and score are copied from and to the host's memory -> what a table's heading says of its times.
_WHERE = {False: "on the device", True: "end to end"}

#: Losses whose single logit stands in the row of the paper's principle: batch CE as in its Table 2, else the first.
_PREFERRED_ALIGNED = "batch-ce"

#: Further ways to train a full layer by some of its logits -> whether one logit is the score, or all of them.
_SAMPLED = {"nce": True, "negative-sampling": True, "importance-sampling": False}

#: Fields of a line that are missing where its time is.
_OF_TIME = ("work", "seconds", "single_seconds", "relative", "peak_memory_bytes", "bytes_read")


@dataclass(frozen=True)
class RivalLine:
    """One way to score a class; a number that is missing has its reason in `missing`, by the name of the field."""

    arch: str
    """network and setting of the times; empty without a speed run"""
    name: str
    end_to_end: bool
    """whether the times of its table are from the host's memory and back"""
    work: str | None
    """the --work that the time was measured under"""
    seconds: float | None
    """median of one example, whole network"""
    single_seconds: float | None
    """the single logit's median, in the same rounds"""
    relative: float | None
    """the first over the second"""
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
    groups: dict[_Group | None, list[Row]] = {} if measured else {None: []}
    for row in measured:
        groups.setdefault(_group(row), []).append(row)
    labels = _labels(measured)
    lines: list[RivalLine] = []
    for group, own in groups.items():
        points = [row for row in own if row.kind == "point"]
        find_time = _TimeFinder(points, count, labels.get(group, ""))
        lines += _lines(find_time, trained, is_trained=accuracy is not None)
    return RivalsTable(count, None if accuracy is None else accuracy.manifest.dataset.name, tuple(lines))


def has_rivals(run: Run) -> bool:
    """Whether a speed run timed a rival of the full top layer."""
    return any(setting.top_layer != "full" for setting in run.manifest.settings)


_Group = tuple[object, ...]


def _group(row: Row) -> _Group:
    """What rows must share to stand in one table: everything but top layer and class count.

    Of the work, whether copies from and to the host's memory are in it: a single logit needs no normaliser and a
    rival's score has one, so that these are compared to a full layer with its normaliser.
    """
    modes = tuple(getattr(row, mode) for mode in MODES if mode not in ("work", "top_layer"))
    return row.arch, row.device, row.dtype, row.batch_size, row.compile, row.order, *modes, _is_end_to_end(row)


def _is_end_to_end(row: Row) -> bool:
    return row.work == "end-to-end"


def _labels(measured: Sequence[Row]) -> dict[_Group | None, str]:
    """The network of each table, with what tells it from others of the same network; the work is told elsewhere."""
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
        self.end_to_end = any(map(_is_end_to_end, measured))

    def single(self) -> Row | str:
        """The logits asked for, computed alone, where all logits are the work."""
        found = [row for row in self._measured if row.is_reference]
        found.sort(key=lambda row: (row.work != "logits", row.top_layer != "full"))
        return self._checked(found, "one logit of a full layer")

    def single_beside(self, time: Row) -> Row | None:
        """The single logit of the same rounds, where it has a time."""
        setting = (time.work, time.top_layer)
        found = (row for row in self._measured if row.is_reference and (row.work, row.top_layer) == setting)
        return next((row for row in found if row.status == "ok" and row.median_s is not None), None)

    def full(self) -> Row | str:
        """All logits and their normaliser; end to end all logits, whose normaliser is left to the host."""
        if self.end_to_end:
            return self._at_count("full", "end-to-end", "--top-layer full with --work end-to-end")
        return self._at_count("full", "normalised", "--work normalised")

    def rival(self, kind: str) -> Row | str:
        """A rival's score of the classes asked for."""
        return self._at_count(kind, None, f"--top-layer {kind}")

    def _at_count(self, kind: str, work: str | None, option: str) -> Row | str:
        if self._measured and self._classes is None:
            return "not measured: --classes with a count above that of the one logit"
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
        return _line(times, name, time, quality)

    full = "full softmax, all logits" if times.end_to_end else "full softmax, normalised"
    name = f"single logit, {by_loss[aligned].name}" if aligned in by_loss else "single logit"
    found = [
        line(f"{name} (PoLS)", times.single(), aligned, f"--losses {aligned}", single=True),
        line(f"{full}: CE", times.full(), "ce", "--losses ce", single=False),
    ]
    for loss, single in _SAMPLED.items():
        if loss in by_loss:
            label = f"{'single logit' if single else full}: {by_loss[loss].name}"
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


def _line(times: _TimeFinder, name: str, time: Row | str, quality: Spread | str) -> RivalLine:
    missing: dict[str, str] = {}
    row = None if isinstance(time, str) else time
    single = None if row is None else times.single_beside(row)
    if isinstance(time, str):
        missing |= dict.fromkeys(_OF_TIME, time)
    elif time.peak_memory_bytes is None:
        missing["peak_memory_bytes"] = "not recorded"
    if row is not None and (single is None or row.speedup is None):
        missing |= dict.fromkeys(("single_seconds", "relative"), "one logit is missing in the same rounds")
    if isinstance(quality, str):
        missing["one_minus_auprc"] = quality
    return RivalLine(
        arch=times.arch,
        name=name,
        end_to_end=times.end_to_end,
        work=None if row is None else row.work,
        seconds=None if row is None else row.median_s,
        single_seconds=None if single is None else single.median_s,
        relative=None if row is None or single is None else row.speedup,
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
            "work": line.work,
            "seconds": line.seconds,
            "single_seconds": line.single_seconds,
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
    """The tables with their heading and what a reader must know; one for each network, setting and kind of time."""
    parts = [f"## One class's score: a single logit and its rivals\n\n{note(table)}"]
    why = reasons(table)
    for title, lines in _tables(table):
        shown = markdown_table(HEADER, [_cells(line, why) for line in lines], left=LEFT)
        parts.append((f"### {title}\n\n" if title else "") + shown)
    if why:
        parts.append("  \n".join(f"({number}) {reason}" for number, reason in enumerate(why, start=1)))
    return "\n\n".join(parts) + "\n"


def print_rivals(table: RivalsTable, console: "Console") -> None:
    """The same for a terminal, without the heading; where a table is too wide, each line as a list of its cells."""
    from rich.text import Text

    why = reasons(table)
    for title, lines in _tables(table):
        if title:
            console.print(Text(title, style="bold"))
        cells = [_cells(line, why) for line in lines]
        widths = _column_widths(cells, console.width)
        console.print(_text_table(cells, widths) if widths else Text("\n".join(map(_as_list, cells))))
    for number, reason in enumerate(why, start=1):
        console.print(Text(f"({number}) {reason}"))
    console.print(Text(note(table)))


def _tables(table: RivalsTable) -> list[tuple[str, list[RivalLine]]]:
    """The lines that stand in one table, and its title: network, setting, and where its times begin and end."""
    found: dict[str, list[RivalLine]] = {}
    for line in table.lines:
        found.setdefault(f"{line.arch}, {_WHERE[line.end_to_end]}" if line.arch else "", []).append(line)
    return list(found.items())


def _column_widths(cells: Sequence[Sequence[str]], room: int) -> list[int] | None:
    """Widths of the columns of a table in so many characters; None where it does not fit.

    In a narrow room headings are folded at their words, and the names of the first column; a number never is.
    """
    columns = list(zip(HEADER, zip(*cells, strict=True), strict=True))
    whole = [max(len(heading), *map(len, column)) for heading, column in columns]
    frame = len("|  ") * len(columns) + len("|")
    if sum(whole) + frame <= room:
        return whole
    folded = [max(map(len, (*heading.split(), *column))) for heading, column in columns[1:]]
    names = min(whole[0], room - frame - sum(folded))
    return [names, *folded] if names >= min(whole[0], NAME_WIDTH) else None


def _text_table(cells: Sequence[Sequence[str]], widths: Sequence[int]) -> "Table":
    from rich import box
    from rich.table import Table

    shown = Table(box=box.ASCII2, header_style="")
    for index, (heading, width) in enumerate(zip(HEADER, widths, strict=True)):
        shown.add_column(heading, justify="left" if index in LEFT else "right", width=width)
    for line in cells:
        shown.add_row(*line)
    return shown


def _as_list(cells: Sequence[str]) -> str:
    """One line of the table as lines of text: its name, then each cell after its heading."""
    return "\n".join([cells[0], *(f"  {heading}: {cell}" for heading, cell in zip(HEADER[1:], cells[1:], strict=True))])


def note(table: RivalsTable) -> str:
    """What the numbers are of."""
    parts = []
    if any(line.arch for line in table.lines):
        count = "" if table.classes is None else f" at {wording.count(table.classes)} classes"
        parts.append(
            f"Times are medians of one example through the whole network{count}, for a class that costs what an "
            "average request costs; a rival that normalises (differentiated, low-rank) computes all its logits. "
            "Work: the --work that the time is of. Ratio of times: time / one logit, both of the same rounds; "
            "another line is of other rounds, in which the machine may have been faster or slower, so compare ratios "
            "between lines rather than times."
        )
    if any(line.end_to_end for line in table.lines):
        parts.append(
            "End to end: input from the host's memory, scores back there, copies included; of the full softmax that "
            "is all logits, and what their normaliser then costs the host is not in the time."
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
        ("single_seconds", line.single_seconds, wording.milliseconds),
        ("relative", line.relative, wording.speedup),
        ("peak_memory_bytes", line.peak_memory_bytes, _megabytes),
        ("bytes_read", line.bytes_read, _megabytes),
    ]
    cells = [_note_of(line, name, why) if value is None else form(value) for name, value, form in numbers]
    quality = line.one_minus_auprc
    cells.append(_note_of(line, "one_minus_auprc", why) if quality is None else accuracy_wording.spread(quality))
    work = _note_of(line, "work", why) if line.work is None else line.work
    return [line.name, work, *cells]


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
    with while_read(sys.stdout):
        print_rivals(table, console_for(sys.stdout))
        sys.stdout.flush()  # so that a reader who is gone is noticed here
    return 0


def _write_where_asked(folder: Path, table: RivalsTable) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_rivals(folder, table)
    except OSError as error:
        raise UsageError(f"--output {folder}: cannot be written ({error.strerror}); name another folder") from None


if __name__ == "__main__":
    sys.exit(main())
