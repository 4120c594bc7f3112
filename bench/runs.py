"""Runs of every kind, told apart by what their run.json says."""

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from bench.errors import UsageError
from bench.folder import COMMANDS, kind_in, read_content

if TYPE_CHECKING:
    from bench.accuracy.run import AccuracyRun
    from bench.run import Run

Kind = Literal["speed", "accuracy"]


def kind_of(path: Path) -> Kind:
    """What a run measured. Raises UsageError if the folder holds no run, or one of an unknown kind."""
    kind = kind_in(read_content(path))
    if kind in ("single", "scaling"):
        raise UsageError(
            f"{path / 'run.json'}: a run of {COMMANDS[kind]}, which is shown alone: python -m reports {path}"
        )
    if kind not in ("speed", "accuracy"):
        raise UsageError(f"{path / 'run.json'}: a run of kind {kind!r}, where speed and accuracy are known")
    return "speed" if kind == "speed" else "accuracy"


def is_of_the_paper(path: Path) -> bool:
    """Whether a folder holds a run of the whole paper, whose parts are runs. Raises UsageError if it holds no run."""
    return bool(kind_in(read_content(path)) == "paper")


def is_of_a_single_logit(path: Path) -> bool:
    """Whether a folder holds a run of `python -m bench single`. Raises UsageError if it holds no run."""
    return bool(kind_in(read_content(path)) == "single")


def is_of_a_study(path: Path) -> bool:
    """Whether a folder holds a run of `python -m bench scaling`. Raises UsageError if it holds no run."""
    return bool(kind_in(read_content(path)) == "scaling")


def load_any(path: Path) -> "Run | AccuracyRun":
    """Read a run of any kind. Raises UsageError as bench.run.load_run and bench.accuracy.run.load do."""
    if kind_of(path) == "speed":
        from bench.run import load_run

        return load_run(path)
    from bench.accuracy.run import load

    return load(path)
