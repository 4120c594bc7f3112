"""Base and new measured in turn on one machine: a run a side, each of several fresh processes.

    turn 1:  base  new        each one fresh process: python -m bench ARGUMENTS
    turn 2:  base  new
    ...

    python -m bench.history.in_turn --base-dir ../base --output results -- --arch resnet50 --classes 1,2**14
    python -m bench compare results/base/* results/new/* --base-dir ../base

One side after the other would take the drift of the machine in between for a change; in turn both sides meet it.

Exit codes: 0 every turn was measured, points that failed among them (`compare` judges those); 2 bad usage; 3 a process
left no run, or the disk refused; 130 interrupted. With 3 and 130 the runs hold the turns until then and say so.
"""

import argparse
import contextlib
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.errors import UsageError
from bench.exit_codes import DONE, INCOMPLETE, INTERRUPTED, USAGE
from bench.folder import RunNotWritten, RunStatus
from bench.history.confirm import TURNS, Measure, MeasuringFailed, in_fresh_processes, merged
from bench.history.programs import Program, Side, programs_of
from bench.refusals import positive
from bench.run import Run, RunWriter

SIDES: tuple[Side, ...] = ("base", "new")

#: What the turns decide themselves.
_OURS = ("--processes", "--seed", "--output", "--resume", "--json", "--dry-run")


@dataclass(frozen=True)
class Turns:
    """What the turns left: a run a side, none for a side without a process that ended well.

    cut_short: "incomplete" if a process left no run and "interrupted" after an interrupt, as both runs then say too.
    """

    runs: Mapping[Side, Run]
    cut_short: RunStatus | None = None
    reason: str = ""


def in_turn(
    measure: Measure, given: Sequence[str], *, turns: int = TURNS, say: Callable[[str], None] = lambda line: None
) -> Turns:
    """A run a side, of one process a turn; each turn has a seed of its own, the same for both sides.

    given: arguments of `python -m bench`. say: takes a line before each process. A process that leaves no run, and an
    interrupt, end the turns; what was measured before is kept. Raises UsageError for arguments that the turns decide.
    """
    for option in _OURS:
        if any(text == option or text.startswith(option + "=") for text in given):
            raise UsageError(
                f"leave out {option}: a turn is one process a side with a seed of its own, and its run goes to --output"
            )
    positive("--turns", turns)
    runs: dict[Side, list[Run]] = {side: [] for side in SIDES}
    cut_short: RunStatus | None = None
    doing = reason = ""
    try:
        for turn in range(turns):
            for side in SIDES:
                doing = f"{side}, process {turn + 1} of {turns}"
                say(f"measuring {side}, {turn + 1} of {turns}")
                runs[side].append(measure(side, ("--seed", str(turn), *given)))
    except MeasuringFailed as failure:
        cut_short, reason = "incomplete", f"{doing}: {failure}"
    except KeyboardInterrupt:
        cut_short, reason = "interrupted", f"interrupted at {doing}"
    return Turns({side: _as_one(found, cut_short) for side, found in runs.items() if found}, cut_short, reason)


def _as_one(runs: Sequence[Run], cut_short: RunStatus | None) -> Run:
    """Runs of one process each as one, with the warnings of all and the status of the worst."""
    whole = merged(runs)
    notices = dict.fromkeys(notice for run in runs for notice in (*run.manifest.notices, *run.notices))
    worst = next((run.manifest.status for run in runs if run.manifest.status != "complete"), "complete")
    update = {"notices": tuple(notices), "status": cut_short or worst}
    return Run(whole.manifest.model_copy(update=update), whole.samples)


def write(run: Run, parent: Path) -> Path:
    """Write a run into a new folder under `parent`; the folder.

    Raises UsageError if it cannot be made, RunNotWritten if the disk refuses.
    """
    writer = RunWriter.create(parent, run.manifest.model_copy(update={"status": "running"}))
    with contextlib.closing(writer):
        writer.append(run.samples)
        writer.replace(run.manifest)  # last: a run that says it is complete has its samples
    return writer.path


def programs(base_python: str | None, base_dir: Path | None) -> Mapping[Side, Program]:
    """What measures each side. Raises UsageError as `programs_of` does, and where base is not said."""
    if base_python is None and base_dir is None:
        raise UsageError("say where base is: --base-dir DIR (a working tree), --base-python PATH, or both")
    return programs_of(base_python, base_dir)


def parser() -> argparse.ArgumentParser:
    """The command line; what `python -m bench` is given comes after `--`, and is its own to read."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.history.in_turn", description="Measure base and new in turn."
    )
    parser.add_argument("--base-python", metavar="PATH", help="Python of base's environment (default: this one)")
    parser.add_argument("--base-dir", metavar="DIR", type=Path, help="base's working tree (default: this folder)")
    parser.add_argument("--turns", metavar="N", type=int, default=TURNS, help="processes a side (default: %(default)s)")
    parser.add_argument(
        "--output", metavar="DIR", type=Path, default=Path("results"), help="its base/ and new/ get a run"
    )
    parser.add_argument("given", metavar="ARGUMENTS", nargs="+", help="after --: what `python -m bench` is given")
    return parser


def main(words: Sequence[str] | None = None) -> int:
    """Measure, write the runs, and tell where they are; the exit code."""
    options = parser().parse_args(words)
    try:
        measure = in_fresh_processes(programs(options.base_python, options.base_dir))
        found = in_turn(measure, options.given, turns=options.turns, say=_tell)
        for side, run in found.runs.items():
            print(f"{side}: {write(run, options.output / side)}", flush=True)
    except UsageError as error:
        _tell(f"error: {error}")
        return USAGE
    except RunNotWritten as error:
        _tell(f"error: {error}")
        return INCOMPLETE
    except KeyboardInterrupt:
        _tell("interrupted")
        return INTERRUPTED
    return _ended(found)


def _ended(found: Turns) -> int:
    if found.cut_short is None:
        return DONE
    _tell(f"error: {found.reason}" if found.cut_short == "incomplete" else found.reason)
    return INCOMPLETE if found.cut_short == "incomplete" else INTERRUPTED


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
