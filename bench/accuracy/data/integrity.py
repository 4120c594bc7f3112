"""Is a file the one that was published? Refused by name if not."""

import hashlib
from collections.abc import Iterable
from pathlib import Path

from bench.errors import UsageError


def verified(path: Path, algorithm: str, expected: str) -> str:
    """The digest of a file, as "md5:..."; raises UsageError if the file is missing or is not the published one."""
    found = file_digest(path, algorithm)
    if found != expected:
        raise UsageError(
            f"{path} is truncated or altered: its {algorithm.upper()} is {found}, that of the published file is "
            f"{expected}; put the published file in its place"
        )
    return f"{algorithm}:{found}"


def file_digest(path: Path, algorithm: str) -> str:
    """Hexadecimal digest of a file; UsageError if it is missing or unreadable."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, lambda: hashlib.new(algorithm, usedforsecurity=False)).hexdigest()
    except FileNotFoundError:
        raise UsageError(f"{path} is missing; the other files of its data set are there") from None
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from error


def tree_digest(files: Iterable[tuple[str, bytes]]) -> str:
    """One SHA-256, as "sha256:...", of many (relative path, content), in the order given."""
    digest = hashlib.sha256()
    for path, content in files:
        digest.update(f"{path}\0{len(content)}\0".encode(errors="surrogateescape"))
        digest.update(content)
    return f"sha256:{digest.hexdigest()}"
