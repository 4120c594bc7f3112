"""What measures each side of a comparison: a Python in a folder, named on the command line."""

import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from bench.errors import UsageError

Side = Literal["base", "new"]


@dataclass(frozen=True)
class Program:
    """What can measure: a Python, and the folder it is started in, whose own `bench` and networks it finds first."""

    python: str
    folder: Path


def programs_of(base_python: str | None, base_dir: Path | None) -> dict[Side, Program]:
    """What measures each side: NEW this Python in this folder; no `base` if neither its Python nor folder is given.

    Raises UsageError for a Python that cannot be started, a folder that is none, and for both being those of NEW.
    """
    new = Program(sys.executable, Path.cwd())
    if base_python is None and base_dir is None:
        return {"new": new}
    if base_dir is not None and not base_dir.expanduser().is_dir():
        raise UsageError(f"--base-dir {str(base_dir)!r} is no folder")
    python = new.python if base_python is None else _executable(base_python)
    base = Program(python, new.folder if base_dir is None else base_dir.expanduser().absolute())
    if _same_program(base, new):
        raise UsageError(
            "--base-dir and --base-python lead to this folder and this Python, which measure NEW: give the working "
            "tree, or the environment, that BASE is measured in"
        )
    return {"new": new, "base": base}


def _executable(text: str) -> str:
    found = shutil.which(os.path.expanduser(text))  # a Path would drop the ./ of ./python
    if found is None:
        raise UsageError(f"--base-python {text!r} is no program that can be started; give an environment's bin/python")
    return os.path.abspath(found)  # a link is not followed: an environment is known by where its link lies


def _same_program(base: Program, new: Program) -> bool:
    return base.folder.resolve() == new.folder.resolve() and _environment(base.python) == _environment(new.python)


def _environment(python: str) -> tuple[Path, Path]:
    """`python` and `python3` of one environment are one; two environments' are links to one file in two folders."""
    path = Path(os.path.abspath(python))
    return path.parent.resolve(), path.resolve()
