"""Base and new measured in turn on one machine: a run a side, each of several fresh processes.

    turn 1:  base  new        each one fresh process: python -m bench ARGUMENTS
    turn 2:  base  new
    ...

    python -m bench.history.in_turn --base-dir ../base --output results -- --arch resnet50 --classes 1,2**14
    python -m bench compare results/base/* results/new/* --base-dir ../base

One side after the other would take the drift of the machine in between for a change; in turn both sides meet it.
"""

import argparse
import contextlib
import os
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from bench.errors import UsageError
from bench.history.confirm import TURNS, Measure, MeasuringFailed, Program, Side, in_fresh_processes, merged
from bench.run import Run, RunWriter

SIDES: tuple[Side, ...] = ("base", "new")

#: What a turn decides itself.
_OURS = ("--processes", "--output", "--resume", "--json", "--dry-run")

#: Exit codes, as everywhere: done, bad usage, finished but incomplete.
DONE, USAGE, INCOMPLETE, INTERRUPTED = 0, 2, 3, 130


def in_turn(
    measure: Measure, given: Sequence[str], *, turns: int = TURNS, say: Callable[[str], None] = lambda line: None
) -> dict[Side, Run]:
    """A run a side, of one process a turn; each turn has a seed of its own, the same for both sides.

    given: arguments of `python -m bench`. say: takes a line before each process. Raises UsageError for arguments
    that a turn decides itself, MeasuringFailed if a process left no run.
    """
    for option in _OURS:
        if any(text == option or text.startswith(option + "=") for text in given):
            raise UsageError(f"leave out {option}: each turn is one process a side, its run goes to --output")
    if turns < 1:
        raise UsageError(f"--turns {turns}: must be 1 or more")
    runs: dict[Side, list[Run]] = {side: [] for side in SIDES}
    for turn in range(turns):
        for side in SIDES:
            say(f"measuring {side}, {turn + 1} of {turns}")
            try:
                runs[side].append(measure(side, ("--seed", str(turn), *given)))
            except MeasuringFailed as failure:
                raise MeasuringFailed(f"{side}, process {turn + 1} of {turns}: {failure}") from None
    return {side: _as_one(found) for side, found in runs.items()}


def _as_one(runs: Sequence[Run]) -> Run:
    """Runs of one process each as one, with the warnings of all and the status of the worst."""
    whole = merged(runs)
    notices = dict.fromkeys(notice for run in runs for notice in (*run.manifest.notices, *run.notices))
    status = next((run.manifest.status for run in runs if run.manifest.status != "complete"), "complete")
    return Run(whole.manifest.model_copy(update={"notices": tuple(notices), "status": status}), whole.samples)


def write(run: Run, parent: Path) -> Path:
    """Write a run into a new folder under `parent`; the folder. Raises UsageError if it cannot be made."""
    writer = RunWriter.create(parent, run.manifest.model_copy(update={"status": "running"}))
    with contextlib.closing(writer):
        writer.append(run.samples)
        writer.replace(run.manifest)  # last: a run that says it is complete has its samples
    return writer.path


def programs(base_python: str | None, base_dir: Path | None) -> Mapping[Side, Program]:
    """What measures each side; new is this Python in this folder. Raises UsageError for what is not there."""
    here = Path.cwd()
    if base_python is None and base_dir is None:
        raise UsageError("say where base is: --base-dir DIR (a working tree), --base-python PATH, or both")
    if base_dir is not None and not base_dir.is_dir():
        raise UsageError(f"--base-dir {str(base_dir)!r} is no folder")
    python = sys.executable if base_python is None else shutil.which(base_python)
    if python is None:
        raise UsageError(f"--base-python {base_python!r} is no program that can be started")
    folder = here if base_dir is None else base_dir.absolute()
    return {"base": Program(os.path.abspath(python), folder), "new": Program(sys.executable, here)}


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
        runs = in_turn(measure, options.given, turns=options.turns, say=_tell)
        for side, run in runs.items():
            print(f"{side}: {write(run, options.output / side)}", flush=True)
    except UsageError as error:
        _tell(f"error: {error}")
        return USAGE
    except MeasuringFailed as error:
        _tell(f"error: {error}")
        return INCOMPLETE
    except KeyboardInterrupt:
        _tell("interrupted")
        return INTERRUPTED
    return DONE if all(run.manifest.status == "complete" for run in runs.values()) else INCOMPLETE


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
