"""What the measurement runs on: fingerprint, free memory, contention, GPU counters."""

from pathlib import Path


def read_text(path: Path) -> str | None:
    """The text of one of the kernel's files; None where it cannot be read (another kernel, no permission)."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
