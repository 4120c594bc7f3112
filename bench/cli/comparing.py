"""What `python -m bench compare` does once its options are read: compare, measure suspected points again, tell."""

import math
import os
import shutil
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal, get_args

from bench.cli.exits import DONE, INCOMPLETE, WORSE
from bench.errors import UsageError
from bench.history.compare import Comparison, Gate, compare
from bench.history.confirm import (
    NOT_ASKED,
    Confirmed,
    Program,
    Side,
    confirm,
    facts_of,
    hindrance,
    in_fresh_processes,
    other_software,
)
from bench.history.operands import snapshot_of
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
    if turns and "base" in programs:
        _refuse_other_base(first.base, programs["base"])  # also when nothing is suspected: it is wrong every time
    confirmed = _confirmed(first, turns, programs, _say(quiet))
    with while_read(sys.stdout):
        _show(confirmed, form)
    return _EXIT_CODES[confirmed.outcome]


def _confirmed(
    first: Comparison, turns: int, programs: Mapping[Side, Program], say: Callable[[str], None]
) -> Confirmed:
    if not first.worse:
        return Confirmed(first)
    if not turns:
        return Confirmed(first, hindrance=NOT_ASKED)
    if reason := _hindrance(first.new, programs["new"]):
        return Confirmed(first, hindrance=reason)
    return confirm(first, in_fresh_processes(programs), turns=turns, base_again="base" in programs, say=say)


def _hindrance(new: Snapshot, program: Program) -> str:
    """Why NEW cannot be measured again here; empty if it can."""
    try:
        return hindrance(new, facts_of(program, _device(new)))
    except UsageError as error:  # such as a device that is not here
        return str(error)


def _refuse_other_base(base: Snapshot, program: Program) -> None:
    if differing := other_software(base, facts_of(program, _device(base))):
        raise UsageError(
            f"--base-python and --base-dir lead to something else than BASE was measured with: {'; '.join(differing)}"
        )


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


def _say(quiet: bool) -> Callable[[str], None]:
    """Progress, on standard error whatever the format."""

    def say(line: str) -> None:
        if not quiet:
            with while_read(sys.stderr):
                print(line, file=sys.stderr, flush=True)

    return say


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
    """What measures each side again; no `base` if neither its Python nor its folder is given.

    Raises UsageError for a Python that cannot be started, a folder that is none, and for either beside --confirm 0.
    """
    here = Path.cwd()
    programs: dict[Side, Program] = {"new": Program(sys.executable, here)}
    if base_python is None and base_dir is None:
        return programs
    if not turns:
        raise UsageError("--base-python and --base-dir say how BASE is measured again; leave out --confirm 0, or them")
    if base_dir is not None and not base_dir.is_dir():
        raise UsageError(f"--base-dir {str(base_dir)!r} is no folder")
    python = sys.executable if base_python is None else _executable(base_python)
    return {**programs, "base": Program(python, here if base_dir is None else base_dir.absolute())}


def _executable(text: str) -> str:
    found = shutil.which(Path(text).expanduser())
    if found is None:
        raise UsageError(f"--base-python {text!r} is no program that can be started; give an environment's bin/python")
    return os.path.abspath(found)  # a link is not followed: an environment is known by where its link lies
