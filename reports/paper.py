"""The paper's claims beside what was measured: claims.md, claims.csv, and what a terminal shows on the way."""

import csv
import io
import re
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TextIO

from rich import box
from rich.table import Table
from rich.text import Text

from bench.folder import write_atomically
from bench.paper.budget import seconds_of
from bench.paper.claims import Claim, Detail, Interval
from bench.paper.record import PaperManifest, PartRecord, name_of, reused_words, size_words, without_home
from reports.tables import markdown_table
from reports.terminal import console_for, is_terminal, notice_text
from reports.wording import duration, hardware

FILES = ("claims.md", "claims.csv")

#: Columns that a terminal is sure to have; a log is read in one, too.
WIDTH = 100

#: A log says how far a part is this often; a terminal's line is rewritten more often.
PLAIN_S = 60.0
REDRAW_S = 0.5

_STYLES = {"yes": "green", "no": "red", "undecided": "yellow", "not measured": "dim"}

_COLUMNS = (
    "claim",
    "statement",
    "subject",
    "quantity",
    "estimate",
    "low",
    "high",
    "holds",
    "rests_on",
    "falls_short",
)


def write(folder: Path, claims: Sequence[Claim], manifest: PaperManifest) -> list[Path]:
    """Write claims.md and claims.csv; their paths. Raises OSError; a file is then as it was, or complete."""
    markdown, table = (folder / name for name in FILES)
    write_atomically(markdown, claims_markdown(claims, manifest))
    write_atomically(table, claims_csv(claims))
    return [markdown, table]


def claims_csv(claims: Sequence[Claim]) -> str:
    """A line a claim, whose subject is empty, followed by one a case, to full precision."""
    lines = io.StringIO()
    writer = csv.DictWriter(lines, _COLUMNS, lineterminator="\n")
    writer.writeheader()
    for claim in claims:
        writer.writerow({"claim": claim.key, "statement": claim.statement, "holds": claim.holds})
        writer.writerows(_csv_line(claim, detail) for detail in claim.details)
    return lines.getvalue()


def _csv_line(claim: Claim, detail: Detail) -> dict[str, object]:
    found = detail.found or Interval(float("nan"))
    return {
        "claim": claim.key,
        "subject": detail.subject,
        "quantity": detail.quantity,
        "estimate": found.estimate if detail.found else "",
        "low": found.low,
        "high": found.high,
        "holds": detail.holds,
        "rests_on": detail.rests_on,
        "falls_short": detail.falls_short,
    }


def claims_markdown(claims: Sequence[Claim], manifest: PaperManifest) -> str:
    """The claims for people: the verdicts, what they rest on case by case, the parts and what was left out."""
    sections = (_section(claim) for claim in claims)
    parts = [_heading(manifest), _verdicts(claims), *sections, _parts(manifest), _noticed(manifest)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _heading(manifest: PaperManifest) -> str:
    budget = "no limit of time" if manifest.budget_s is None else f"{duration(manifest.budget_s)} for all parts"
    state = "" if manifest.status == "complete" else f"; the run is {manifest.status}"
    device = "cpu" if manifest.machine.gpu is None else "cuda:0"
    lines = [
        f"{hardware(manifest.machine, device)}; torch {manifest.versions.get('torch', 'of unknown version')}",
        f"Budget: {budget}{state}",
    ]
    return f"# The paper's claims, {manifest.created[:10]}\n\n" + "  \n".join(_text(line) for line in lines)


def _verdicts(claims: Sequence[Claim]) -> str:
    lines = [[f"{claim.statement} ({claim.source})", measured_words(claim), claim.holds] for claim in claims]
    return markdown_table(["claim of the paper", "measured here", "holds?"], lines, left=(0, 1, 2))


def measured_words(claim: Claim) -> str:
    """What was found for a claim, in a line; nothing of what was not measured."""
    measured = [detail for detail in claim.details if detail.found is not None]
    if not measured:
        missing = {detail.falls_short for detail in claim.details if detail.falls_short}
        return "not measured" + (f": {missing.pop()}" if len(missing) == 1 else "")
    if claim.key == "tenfold":
        return "; ".join(f"{detail.subject} {interval_words(detail)}" for detail in measured)
    counts = {holds: sum(detail.holds == holds for detail in claim.details) for holds in _STYLES}
    told = ", ".join(f"{count} {holds}" for holds, count in counts.items() if count)
    extremes = sorted(measured, key=lambda detail: detail.found.estimate if detail.found else 0.0)
    lowest, highest = extremes[0], extremes[-1]
    ends = f"from {interval_words(lowest)} ({lowest.subject}) to {interval_words(highest)} ({highest.subject})"
    return f"{told}; {ends if len(measured) > 1 else f'{interval_words(lowest)} ({lowest.subject})'}"


def interval_words(detail: Detail) -> str:
    """An estimate and its 95 % interval; an improvement as a percentage."""
    found = detail.found
    if found is None:
        return ""
    form: Callable[[float], str] = _percent if detail.quantity.startswith("improvement") else _ratio
    if found.low is None or found.high is None:
        return f"{form(found.estimate)} (no interval)"
    return f"{form(found.estimate)} ({form(found.low)} to {form(found.high)})"


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _ratio(value: float) -> str:
    return f"{value:.3f}" if value < 2 else f"{value:.2f}"


def _section(claim: Claim) -> str:
    header = ["", "", "estimate (95 % interval)", "holds?", "rests on", "falls short of the paper"]
    lines = [
        [
            detail.subject,
            detail.quantity,
            interval_words(detail),
            detail.holds,
            detail.rests_on,
            detail.falls_short,
        ]
        for detail in claim.details
    ]
    table = markdown_table(header, lines, left=range(len(header)))
    return f"## {_text(claim.statement)}: {claim.holds}\n\nHolds if {_text(claim.rule)}.\n\n{table}"


def _parts(manifest: PaperManifest) -> str:
    header = ["part", "size", "of the paper's", "took", "state"]
    lines = [
        [
            name_of(record.part),
            "" if record.size is None else size_words(record.part, record.size),
            f"{record.part.full:,}",
            duration(record.seconds) if record.seconds else "",
            reused_words(record) or record.state,
        ]
        for record in manifest.parts
    ]
    reasons = [
        f"* {_text(name_of(record.part))}: {_text(_without_places(state_words(record), manifest))}"
        for record in manifest.parts
        if record.reason
    ]
    return "\n\n".join(
        filter(None, ["## The parts", markdown_table(header, lines, left=(0, 1, 4)), "\n".join(reasons)])
    )


def _noticed(manifest: PaperManifest) -> str:
    """What to know before the numbers are used, of the run as a whole."""
    lines = [f"* {_text(f'{each.happened}: {each.matters}; {each.remedy}')}" for each in manifest.notices]
    return "\n\n".join(["## Noticed", "\n".join(lines)]) if lines else ""


def _without_places(text: str, manifest: PaperManifest) -> str:
    """A reason for people elsewhere: the folders of this machine are none of theirs."""
    if manifest.options.data_dir:
        text = text.replace(manifest.options.data_dir, "DATA_DIR")
    return without_home(text)


def state_words(record: PartRecord) -> str:
    """What became of a part, and why."""
    if record.reused is not None:
        return reused_words(record)
    return record.state + (f": {' '.join(record.reason.split())}" if record.reason else "")


def _text(text: str) -> str:
    """Text that Markdown prints as it is."""
    return re.sub(r"([\\|*`<>\[\]])", r"\\\1", " ".join(text.split()))


# -- on a terminal ----------------------------------------------------------------------------------------------


def expected_part_s(record: PartRecord) -> float | None:
    """Seconds a part is expected to take in all; None if it is not known, or nothing of it is done."""
    if record.demand is None or record.size is None:
        return None
    return seconds_of(record.demand, record.size)


def expected_s(manifest: PaperManifest) -> float:
    """Seconds that all parts with a size are expected to take."""
    return sum(expected_part_s(record) or 0.0 for record in manifest.parts)


def print_parts(manifest: PaperManifest, stream: TextIO) -> None:
    """Show the parts, their sizes, what they are expected to take and what would be left out."""
    console = console_for(stream)
    table = Table(box=box.MARKDOWN)
    for column in ("part", "size", "paper's", "expected", "state"):
        table.add_column(column, overflow="fold")
    for record in manifest.parts:
        expected = expected_part_s(record)
        table.add_row(
            name_of(record.part),
            "" if record.size is None else size_words(record.part, record.size),
            f"{record.part.full:,}",
            "" if expected is None else duration(expected),
            Text("reused" if record.reused else record.state, style="" if record.size else "yellow"),
        )
    console.print(table, width=min(WIDTH, console.width))
    _print_reasons(manifest, stream, lambda record: bool(record.reason or record.reused))
    budget = "no limit of time" if manifest.budget_s is None else f"a budget of {duration(manifest.budget_s)}"
    console.print(f"expected: {duration(expected_s(manifest))}, for {budget}", soft_wrap=True)


def _print_reasons(manifest: PaperManifest, stream: TextIO, tells: Callable[[PartRecord], bool]) -> None:
    """A line each for some parts: what became of them, and why; in a table it would be as wide as its longest."""
    for record in filter(tells, manifest.parts):
        style = "" if record.reused else "yellow"
        console_for(stream).print(Text(f"{name_of(record.part)}: {state_words(record)}", style=style), soft_wrap=True)


def print_beginning(manifest: PaperManifest, folder: Path, stream: TextIO) -> None:
    """Say what is begun, and how it is continued once it is cut off."""
    budget = "no limit of time" if manifest.budget_s is None else duration(manifest.budget_s)
    console = console_for(stream)
    console.print(Text(f"the paper in {len(manifest.parts)} parts, {budget}", style="bold"), soft_wrap=True)
    _print_reasons(manifest, stream, lambda record: record.reused is not None)
    console.print(f"if it is cut off: python -m bench paper --resume {folder}", soft_wrap=True)


def print_notices(manifest: PaperManifest, stream: TextIO) -> None:
    """Show what was noticed of the run as a whole; the parts have shown their own."""
    for notice in manifest.notices:
        console_for(stream).print(notice_text(notice))


def print_claims(claims: Sequence[Claim], manifest: PaperManifest, paths: Sequence[Path], stream: TextIO) -> None:
    """Show each claim with what was measured and whether it holds, then what is missing."""
    console = console_for(stream)
    console.print()
    table = Table(box=box.MARKDOWN, leading=1, width=min(WIDTH, console.width))
    for column, share in (("claim of the paper", 2), ("measured here", 3)):
        table.add_column(column, overflow="fold", ratio=share)
    table.add_column("holds?", min_width=max(len(verdict) for verdict in _STYLES))
    for claim in claims:
        table.add_row(claim.statement, measured_words(claim), Text(claim.holds, style=_STYLES[claim.holds]))
    console.print(table)
    _print_reasons(manifest, stream, lambda record: record.state != "done" or record.reused is not None)
    if paths:
        names = ", ".join(path.name for path in paths)
        console.print(f"\nwritten to {paths[0].parent}: {names}", soft_wrap=True)


class Progress:
    """Which part is being done and how far it is: one line that is rewritten on a terminal, few lines elsewhere."""

    def __init__(self, stream: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        """`clock` is in seconds."""
        self._stream = stream
        self._clock = clock
        self._console = console_for(stream)
        self._rewrites = is_terminal(stream)
        self._shown = -PLAIN_S
        self._began = 0.0
        self._began_at: float | None = None
        self._is_open = False

    def expects(self, record: PartRecord) -> None:
        """Say of which part it is being found out what it would take."""
        self._line(f"{name_of(record.part)}: how long would it take?")

    def begins(self, record: PartRecord) -> None:
        """Say which part begins, how large it is, and what it is expected to take."""
        size = "" if record.size is None else f", {size_words(record.part, record.size)}"
        expected = expected_part_s(record)
        words = "" if expected is None else f", about {duration(expected)}"
        self._line(f"{name_of(record.part)}{size}{words}")
        self._began, self._began_at, self._shown = self._clock(), None, self._clock()

    def advances(self, record: PartRecord, share: float) -> None:
        """Say how far it is, if that was long enough ago."""
        if self._began_at is None:  # a part that goes on begins with what it had
            self._began_at = share
        if self._clock() - self._shown < (REDRAW_S if self._rewrites else PLAIN_S):
            return
        self._shown = self._clock()
        done = share - self._began_at
        left = (self._clock() - self._began) / done * (1 - share) if done > 0.01 else None
        words = "" if left is None else f", about {duration(left)} left"
        line = f"{name_of(record.part)}: {100 * share:.0f} %{words}"
        if not self._rewrites:
            self._line(line)
            return
        self._stream.write(f"\r\x1b[2K{line}")
        self._stream.flush()
        self._is_open = True

    def ends(self, record: PartRecord) -> None:
        """Say what became of it."""
        took = f" after {duration(record.seconds)}" if record.seconds else ""
        self._line(f"{name_of(record.part)}: {state_words(record)}{took}")

    def _line(self, text: str) -> None:
        if self._is_open:
            self._stream.write("\r\x1b[2K")
            self._is_open = False
        self._console.print(text, soft_wrap=True)
