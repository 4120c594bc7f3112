"""Measure what one logit saves, and what it costs.

    from bench import sweep
    sweep("resnet50", classes=[1, 1024, 2**16]).to_frame()

Importing this package is quick: torch is imported once something is measured.
"""

from typing import TYPE_CHECKING, Any

from bench.errors import UsageError

if TYPE_CHECKING:
    from bench.run import load_run
    from bench.speed.sweep import Sweep, sweep

__all__ = ["Sweep", "UsageError", "load_run", "sweep"]


def __getattr__(name: str) -> Any:
    if name in ("sweep", "Sweep"):
        from bench.speed import sweep as speed_sweep

        return getattr(speed_sweep, name)
    if name == "load_run":
        from bench.run import load_run

        return load_run
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
