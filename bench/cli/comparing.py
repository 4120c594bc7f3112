"""What `python -m bench compare` does once its options are read: compare, measure suspected points again, tell."""

import math
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Literal, get_args

from bench.cli.exits import DONE, INCOMPLETE, WORSE
from bench.cli.progress import telling
from bench.errors import UsageError
from bench.history.compare import Comparison, Gate, compare
from bench.history.confirm import (
    NOT_ASKED,
    Confirmed,
    Facts,
    confirm,
    facts_of,
    hindrance,
    in_fresh_processes,
    not_checked,
    other_software,
)
from bench.history.operands import snapshot_of
from bench.history.programs import Program, Side
from bench.history.programs import programs_of as every_program_of
from bench.history.snapshot import Snapshot
from reports import comparison as report
from reports.pipes import while_read

Form = Literal["text", "markdown", "json", "github"]

_EXIT_CODES = {"nothing worse": DONE, "worse": WORSE, "undecided": INCOMPLETE}


def run(
    base: str,
    new: str,
    *,
    gate: Gate,
    margin: float,
    turns: int,
    programs: Mapping[Side, Program],
    form: Form,
    store: Path,
    quiet: bool,
) -> int:
    """Compare two operands, show the outcome, and give its exit code. Raises UsageError for what cannot be compared."""
    first = compare(snapshot_of(base, store), snapshot_of(new, store), margin=margin, gate=gate)
    unchecked: tuple[str, ...] = ()
    if turns and "base" in programs:  # also when nothing is suspected: another base is wrong every time
        unchecked = _unchecked("BASE", first.base, _facts_of_base(first.base, programs["base"]))
    confirmed = _confirmed(first, turns, programs, unchecked, telling(quiet=quiet))
    with while_read(sys.stdout):
        _show(confirmed, form)
    return _EXIT_CODES[confirmed.outcome]


def _confirmed(
    first: Comparison,
    turns: int,
    programs: Mapping[Side, Program],
    unchecked: tuple[str, ...],
    say: Callable[[str], None],
) -> Confirmed:
    if not first.worse:
        return Confirmed(first)
    if not turns:
        return Confirmed(first, hindrance=NOT_ASKED)
    try:
        here = facts_of(programs["new"], _device(first.new))
        reason = hindrance(first.new, here)
    except UsageError as error:  # such as a device that is not here
        reason = str(error)
    if reason:
        return Confirmed(first, hindrance=reason)
    confirmed = confirm(first, in_fresh_processes(programs), turns=turns, base_again="base" in programs, say=say)
    return replace(confirmed, unchecked=(*unchecked, *_unchecked("NEW", first.new, here)))


def _facts_of_base(base: Snapshot, program: Program) -> Facts:
    """What would measure BASE again. Raises UsageError if that is other software than BASE was measured with."""
    facts = facts_of(program, _device(base))
    if differing := other_software(base, facts):
        raise UsageError(
            f"--base-python and --base-dir lead to something else than BASE was measured with: {'; '.join(differing)}"
        )
    return facts


def _unchecked(side: str, then: Snapshot, now: Facts) -> tuple[str, ...]:
    reason = not_checked(then, now)
    return (f"not checked that this is the code of {side}: {reason}",) if reason else ()


def _device(snapshot: Snapshot) -> str:
    return "cuda" if any(point.work.device == "cuda" for point in snapshot.points) else "cpu"


def _show(confirmed: Confirmed, form: Form) -> None:
    if form == "text":
        report.print_comparison(confirmed)
    elif form == "markdown":
        print(report.to_markdown(confirmed), end="", flush=True)
    elif form == "json":
        from bench.cli import json_output  # imports torch, which nothing else here needs

        json_output.print_object(report.to_object(confirmed))
    else:
        print("\n".join(report.to_annotations(confirmed)), flush=True)
        _append_summary(report.to_markdown(confirmed))


def _append_summary(text: str) -> None:
    """GitHub shows this file's content on the page of the job; elsewhere there is none."""
    file = os.environ.get("GITHUB_STEP_SUMMARY")
    if not file:
        return
    try:
        with open(file, "a", encoding="utf-8") as summary:
            summary.write(text + "\n")
    except OSError as error:
        print(f"warning: cannot write the job's summary: {error}", file=sys.stderr)


# -- options ------------------------------------------------------------------------------------------------------


def gate_of(text: str) -> Gate:
    """--gate. Raises UsageError for anything but its three values."""
    for gate in get_args(Gate):
        if text == gate:
            return gate  # type: ignore[no-any-return]  # get_args knows no types
    raise UsageError(f"--gate {text!r}: must be one of {', '.join(get_args(Gate))}")


def form_of(text: str) -> Form:
    """--format. Raises UsageError for anything but its four values."""
    for form in get_args(Form):
        if text == form:
            return form  # type: ignore[no-any-return]
    raise UsageError(f"--format {text!r}: must be one of {', '.join(get_args(Form))}")


def margin_of(text: str) -> float:
    """--margin as a share: 3% or 0.03. Raises UsageError for anything else, and outside 0 to 100 %."""
    number, percent, rest = text.strip().partition("%")
    try:
        margin = float(number) / (100 if percent else 1)
    except ValueError:
        margin = math.nan
    if rest.strip() or math.isnan(margin):
        raise UsageError(f"--margin {text!r} is no share: give 3% or 0.03")
    if not 0 < margin < 1:
        raise UsageError(f"--margin {text!r}: must be more than 0 and less than 100 %, such as 3% or 0.03")
    return margin


def programs_of(base_python: str | None, base_dir: Path | None, turns: int) -> dict[Side, Program]:
    """What measures each side again. Raises UsageError as `bench.history.programs` does, and beside --confirm 0."""
    if not turns and (base_python is not None or base_dir is not None):
        raise UsageError("--base-python and --base-dir say how BASE is measured again; leave out --confirm 0, or them")
    return every_program_of(base_python, base_dir)
