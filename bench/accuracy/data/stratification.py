"""Which examples are held out: the same share of every class, by a seed."""

import hashlib

import numpy as np
from numpy.typing import NDArray

Indices = NDArray[np.int64]


def stratified(labels: NDArray[np.int64], share: float, seed: int) -> tuple[Indices, Indices]:
    """Indices kept and indices held out, both ascending: of every class, `share` of its examples, rounded.

    A class with two examples or more gives at least one and keeps at least one; a class with one keeps it.
    `labels` is (n,), not negative.
    """
    if not len(labels):
        return np.empty(0, np.int64), np.empty(0, np.int64)
    counts = np.bincount(labels)
    held_out = np.where(counts >= 2, np.clip(np.floor(share * counts + 0.5), 1, np.maximum(counts - 1, 1)), 0)
    shuffled = np.random.default_rng(seed).permutation(len(labels))
    by_class = shuffled[np.argsort(labels[shuffled], kind="stable")]
    rank = np.arange(len(labels)) - np.repeat(np.cumsum(counts) - counts, counts)
    out = rank < np.repeat(held_out, counts)
    return np.sort(by_class[~out]).astype(np.int64), np.sort(by_class[out]).astype(np.int64)


def fingerprint(indices: Indices) -> str:
    """The first 16 hex digits of the SHA-256 of indices as little-endian int64: tells one split from another."""
    return hashlib.sha256(np.ascontiguousarray(indices, "<i8").tobytes()).hexdigest()[:16]
