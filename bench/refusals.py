"""What every command refuses of the numbers it is given, before anything is built."""

from collections.abc import Mapping

from bench.errors import UsageError

#: More threads than any machine has cores; far above it, torch ends the process.
MOST_THREADS = 4096


def refuse_sizes(sizes: Mapping[str, int | None], *, threads: int | None, seed: int) -> None:
    """Raise UsageError for an option below 1, for more threads than there can be, and for a seed torch cannot take.

    sizes: options by their names, None where nothing was given.
    """
    for option, value in {**sizes, "--threads": threads}.items():
        if value is not None:
            positive(option, value)
    if threads is not None and threads > MOST_THREADS:
        raise UsageError(f"--threads {threads}: must be {MOST_THREADS} or less")
    if not 0 <= seed < 2**63:
        raise UsageError(f"--seed {seed}: must be 0 or more, and below 2**63")


def positive(option: str, value: int) -> int:
    """The value of an option that must be 1 or more. Raises UsageError if it is not."""
    if value < 1:
        raise UsageError(f"{option} {value}: must be 1 or more")
    return value
