"""Arrays beside a run's records: .npz files, written whole or not at all, and checked when they are read."""

import io
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bench.errors import UsageError
from bench.folder import write_atomically

Arrays = tuple[npt.NDArray[Any], ...]


def write_arrays(file: Path, **arrays: npt.NDArray[Any]) -> None:
    """Write named arrays, whole or not at all; the folder is made if it is not there. Raises OSError."""
    file.parent.mkdir(exist_ok=True)
    content = io.BytesIO()
    np.savez(content, **arrays)  # type: ignore[arg-type]
    write_atomically(file, content.getvalue())


def read_arrays(file: Path, names: Sequence[str], what: str, refuse: Callable[[Arrays], None]) -> Arrays:
    """Read the arrays of these names again; nothing in the file is executed.

    what: what the file holds, in a message. refuse: raises ValueError, saying why, for arrays that are not that. Raises
    UsageError, naming the file, for that and for what cannot be read.
    """
    try:
        content = io.BytesIO(file.read_bytes())
        if not zipfile.is_zipfile(content):
            raise ValueError("no archive, or cut short")
        content.seek(0)
        with np.load(content, allow_pickle=False) as stored:
            arrays = tuple(stored[name] for name in names)
        refuse(arrays)
        return arrays
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise UsageError(f"{file}: not {what} ({error}); restore it, or start a new run") from None
