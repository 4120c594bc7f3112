"""Data sets: read as published, checked, split, and served as normalised minibatches.

    from bench.accuracy import data
    digits = data.load("digits")
    digits.train.images(torch.arange(128))     # (128, 1, 8, 8) float32, normalised
    many = data.load("synthetic:100000")
    many.train.images(torch.arange(128))       # (128, 128) float32

Importing this package is quick: torch is imported once a data set is loaded.
"""

from typing import TYPE_CHECKING, Any

from bench.accuracy.data.catalogue import NAMES, default_data_dir, default_network, default_steps, load

if TYPE_CHECKING:
    from bench.accuracy.data.assembly import from_arrays
    from bench.accuracy.data.splits import Dataset, Split

__all__ = ["NAMES", "Dataset", "Split", "default_data_dir", "default_network", "default_steps", "from_arrays", "load"]


def __getattr__(name: str) -> Any:
    if name in ("Dataset", "Split"):
        from bench.accuracy.data import splits

        return getattr(splits, name)
    if name == "from_arrays":
        from bench.accuracy.data.assembly import from_arrays

        return from_arrays
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
