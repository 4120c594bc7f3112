import tracemalloc
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch

from bench.accuracy import metrics
from bench.accuracy.metrics import partition, reading
from bench.accuracy.metrics.streams import ColumnChunks, RowChunks, Stream, arrays, as_stream

#: A panel of this size keeps what a test allocates small beside what an (n, k) array would take.
PANEL = 2**14


class Given:
    """A stream of blocks that are given."""

    def __init__(self, shape: tuple[int, int], *blocks: tuple[slice, slice, Any]) -> None:
        self.shape = shape
        self._blocks = blocks

    def blocks(self) -> Iterator[tuple[slice, slice, Any]]:
        return iter(self._blocks)


def test_what_has_a_shape_and_blocks_is_a_stream() -> None:
    assert isinstance(Given((1, 1)), Stream)
    assert isinstance(RowChunks(np.ones, (1, 1)), Stream)  # type: ignore[arg-type]
    assert not isinstance(np.ones((2, 2)), Stream)
    assert not isinstance(torch.ones(2, 2), Stream)


def test_a_stream_is_read_anew_each_time() -> None:
    stream = as_stream([[1, 2], [3, 4], [5, 6]])
    for _ in range(2):
        ((rows, columns, values),) = arrays(stream)
        assert (rows, columns) == (slice(0, 3), slice(0, 2))
        np.testing.assert_array_equal(values, [[1.0, 2], [3, 4], [5, 6]])


def test_rectangles_of_any_order_and_open_slices() -> None:
    matrix = np.random.default_rng(0).standard_normal((5, 4))
    labels = [3, 0, 1, 3, 0]
    bottom = (slice(2, None), slice(None), torch.from_numpy(matrix[2:]))
    right, left = (slice(0, 2), slice(1, None), matrix[:2, 1:]), (slice(0, 2), slice(0, 1), matrix[:2, :1])
    stream = Given((5, 4), bottom, right, left)
    np.testing.assert_allclose(metrics.log_odds(stream), metrics.log_odds(matrix), rtol=1e-14)
    assert metrics.measure(stream, labels).record() == metrics.measure(matrix, labels).record()


@pytest.mark.parametrize(
    ("blocks", "message"),
    [
        ([(slice(0, 2), slice(0, 3), np.ones((2, 3)))], r"gave 6 logits, not 4 x 3 = 12"),
        ([(slice(0, 4), slice(0, 3), np.ones((4, 3)))] * 2, r"gave 24 logits, not 4 x 3 = 12"),
        ([(slice(0, 4), slice(0, 3), np.ones((3, 4)))], r"block 0 of the logits has shape \(3, 4\).* \(4, 3\)"),
        ([(slice(0, 4), slice(0, 2), np.ones((4, 3)))], r"block 0 of the logits has shape \(4, 3\).* \(4, 2\)"),
    ],
)
def test_a_stream_that_leaves_out_or_repeats_logits_is_refused(blocks: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        metrics.measure(Given((4, 3), *blocks), [0, 1, 2, 0])


def peak_bytes(work: Callable[[], object]) -> int:
    """The most memory that was in use at once, beyond what was in use before."""
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def noise_in_chunks(examples: int, classes: int, along: str, size: int = 2**15) -> Stream:
    """Logits of any shape, made from a few: reading a chunk costs its own size and no more."""
    some = np.random.default_rng(0).standard_normal((64, 61)).astype(np.float32) + 1

    def read(rows: slice, columns: slice) -> Any:
        return some[np.ix_(np.arange(rows.start, rows.stop) % 64, np.arange(columns.start, columns.stop) % 61)]

    shape = (examples, classes)
    if along == "rows":
        return RowChunks(lambda rows: read(rows, slice(0, classes)), shape, size // classes)
    return ColumnChunks(lambda columns: read(slice(0, examples), columns), shape, size // examples)


@pytest.fixture
def small_panels(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Panels far smaller than the logits, one at a time, so that the peak is the same each time."""
    monkeypatch.setattr(reading, "PANEL", PANEL)
    monkeypatch.setattr(partition, "STEP", PANEL)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


MEASURES: list[Callable[[Any, Any], object]] = [
    lambda logits, labels: metrics.measure(logits, labels),
    lambda logits, labels: metrics.measure(logits, labels, score="all"),
    lambda logits, labels: metrics.influence(logits, labels, score="single"),
    lambda logits, labels: metrics.separation(logits, labels),
    lambda logits, labels: metrics.separation(logits, labels, exact=True),
]


@pytest.mark.parametrize("along", ["rows", "columns"])
@pytest.mark.parametrize("work", MEASURES, ids=["single", "all", "influence", "separation", "exact separation"])
@pytest.mark.usefixtures("small_panels")
def test_memory_grows_with_examples_plus_classes(work: Callable[[Any, Any], object], along: str) -> None:
    """Four times as many classes: four times the logits, and no more memory than the classes' own few numbers."""
    examples = 1000
    labels = np.arange(examples) % 250
    peaks = []
    for classes in (250, 1000):
        stream = noise_in_chunks(examples, classes, along)
        peaks.append(peak_bytes(lambda stream=stream: work(stream, labels)))  # type: ignore[misc]
    of_every_logit = 4 * examples * (1000 - 250)
    assert peaks[1] - peaks[0] < of_every_logit / 5


@pytest.mark.usefixtures("small_panels")
def test_no_table_of_classes_by_the_largest_class() -> None:
    """Half of all examples in one class, the others alone in theirs: padded, the thresholds would take 32 MB."""
    examples, classes = 4000, 2001
    labels = np.concatenate([np.zeros(2000, int), np.arange(1, 2001)])
    stream = noise_in_chunks(examples, classes, "columns")
    assert peak_bytes(lambda: metrics.measure(stream, labels)) < 8 * 2000 * classes / 8
