import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score
from torch import nn

from bench.accuracy import evaluation, metrics
from bench.accuracy.data import Dataset, from_arrays
from bench.accuracy.evaluation import (
    HeldLogits,
    ModelLogits,
    evaluate,
    histograms,
    logits_of,
    most_frequent,
)
from bench.accuracy.metrics import LayerLogits

Make = Callable[..., Any]

CLASSES = 3
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    """Three blobs of pixels that overlap; the test split has 50 examples, class 2 most of them."""
    rng = np.random.default_rng(0)

    def part(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        images = rng.normal(0, 1, (len(labels), 1, 2, 2)).astype(np.float32)
        images[np.arange(len(labels)), 0, labels // 2, labels % 2] += 1.5
        return images, labels

    return from_arrays("blobs", part(np.arange(60) % CLASSES), part(np.repeat([0, 1, 2], [12, 16, 22])))


@pytest.fixture(scope="module")
def model() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = nn.Sequential(
            nn.Flatten(), nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.ReLU(), nn.Linear(8, CLASSES)
        )
    return network.eval()


@pytest.fixture(scope="module")
def logits(dataset: Dataset, model: nn.Module) -> np.ndarray:
    with torch.no_grad():
        return model(dataset.test.images(range(50))).numpy()


def test_an_evaluation_is_what_scikit_learn_says(
    dataset: Dataset, model: nn.Module, logits: np.ndarray, make_member: Make
) -> None:
    labels = dataset.test.labels.numpy()
    found, influence = evaluate(make_member(), model, dataset, CPU)
    truth = [average_precision_score(labels == each, logits[:, each]) for each in range(CLASSES)]
    assert found.single.by_class.auprc == pytest.approx(truth, abs=1e-12)
    assert found.single.auprc == pytest.approx(np.mean(truth), abs=1e-12)
    doubled = logits.astype(np.float64)
    odds = np.stack(
        [
            doubled[:, each] - np.log(np.exp(np.delete(doubled, each, axis=1)).sum(axis=1))
            for each in range(CLASSES)
        ],
        axis=1,
    )  # fmt: skip
    truth = [average_precision_score(labels == each, odds[:, each]) for each in range(CLASSES)]
    assert found.all.by_class.auprc == pytest.approx(truth, abs=1e-12)
    assert found.accuracy == np.mean(logits.argmax(axis=1) == labels)
    assert found.member == make_member()
    assert influence.single.shape == influence.all.shape == (50,)
    assert influence.single.sum() == pytest.approx(0, abs=1e-12)


def test_separation_is_told_of_both_splits(
    dataset: Dataset, model: nn.Module, logits: np.ndarray, make_member: Make
) -> None:
    labels = dataset.test.labels.numpy()
    found, _ = evaluate(make_member(), model, dataset, CPU)
    is_true = labels[:, None] == np.arange(CLASSES)
    assert found.separation_test.lowest_true == pytest.approx(logits[is_true].min())
    assert found.separation_test.highest_false == pytest.approx(logits[~is_true].max())
    assert not found.separation_test.holds
    with torch.no_grad():
        of_train = model(dataset.train.images(range(len(dataset.train)))).numpy()
    is_true = dataset.train.labels.numpy()[:, None] == np.arange(CLASSES)
    assert found.separation_train.lowest_true == pytest.approx(of_train[is_true].min())


def test_the_shown_class_is_the_most_frequent(dataset: Dataset, model: nn.Module, make_member: Make) -> None:
    found, _ = evaluate(make_member(), model, dataset, CPU)
    assert found.shown_class == 2
    assert sum(found.histogram_of_class.true) == 22
    assert sum(found.histogram_of_class.false) == 28
    assert sum(found.histogram_pooled.true) == 50
    assert sum(found.histogram_pooled.false) == 100
    assert most_frequent(np.array([1, 1, 0, 0, 2])) == 0, "the first of several"


def test_streamed_is_held(
    dataset: Dataset, model: nn.Module, make_member: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The model runs again for every pass over its logits, in chunks that do not divide the examples."""
    held, influence = evaluate(make_member(), model, dataset, CPU)
    assert isinstance(logits_of(model, dataset.test, CLASSES, CPU), HeldLogits)
    monkeypatch.setattr(evaluation, "HELD_BYTES", 0)
    monkeypatch.setattr(evaluation, "CHUNK", 50)
    assert isinstance(logits_of(model, dataset.test, CLASSES, CPU), ModelLogits)
    streamed, influence_streamed = evaluate(make_member(), model, dataset, CPU)
    assert streamed.model_copy(update={"seconds": held.seconds}) == held
    np.testing.assert_array_equal(influence_streamed, influence)
    monkeypatch.setattr(evaluation, "CHUNK", 7)
    chunked, _ = evaluate(make_member(), model, dataset, CPU)
    # Another chunk is another matrix product, whose sums may differ in their last bits.
    assert chunked.single.auprc == pytest.approx(held.single.auprc, abs=1e-2)
    assert chunked.separation_test.lowest_true == pytest.approx(held.separation_test.lowest_true, rel=1e-5)
    assert sum(chunked.histogram_pooled.false) == 100


def test_from_features_and_layer_it_is_what_the_model_says(
    dataset: Dataset, model: nn.Module, make_member: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Blocks of columns in place of rows: every part of the record is the same but for a product's last bits."""
    held, influence = evaluate(make_member(), model, dataset, CPU)
    monkeypatch.setattr(evaluation, "HELD_BYTES", 0)
    monkeypatch.setattr(evaluation, "CHUNK", 7)
    assert isinstance(logits_of(model, dataset.test, CLASSES, CPU, lambda: "5"), LayerLogits)
    found, influence_found = evaluate(make_member(), model, dataset, CPU, lambda: "5")
    assert found.accuracy == held.accuracy
    assert found.shown_class == held.shown_class
    for score in ("single", "all"):
        assert getattr(found, score).by_class.auprc == pytest.approx(getattr(held, score).by_class.auprc, abs=1e-6)
        np.testing.assert_allclose(getattr(influence_found, score), getattr(influence, score), atol=1e-6)
    for split in ("separation_train", "separation_test"):
        assert getattr(found, split).model_dump() == pytest.approx(getattr(held, split).model_dump(), rel=1e-5)
    for histogram in ("histogram_of_class", "histogram_pooled"):
        one, other = getattr(found, histogram), getattr(held, histogram)
        assert one.edges == pytest.approx(other.edges, rel=1e-5)
        assert (sum(one.true), sum(one.false)) == (sum(other.true), sum(other.false))


def test_features_that_do_not_fit_are_computed_anew(
    dataset: Dataset, model: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    """50 examples of 8 features are 1,600 bytes, and half of the free memory is theirs."""
    monkeypatch.setattr(evaluation, "HELD_BYTES", 0)
    for free, kind in ((3200, LayerLogits), (3199, ModelLogits)):
        monkeypatch.setattr(evaluation, "free_bytes", lambda device, free=free: free)
        assert isinstance(logits_of(model, dataset.test, CLASSES, CPU, lambda: "5"), kind)


def test_a_top_layer_that_is_none_is_not_taken_apart(
    dataset: Dataset, model: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluation, "HELD_BYTES", 0)
    assert isinstance(logits_of(model, dataset.test, CLASSES, CPU, lambda: "4"), ModelLogits)  # a ReLU
    assert isinstance(logits_of(model, dataset.test, CLASSES, CPU, lambda: None), ModelLogits)


def test_the_model_is_left_as_it_is_and_in_evaluation_mode(
    dataset: Dataset, model: nn.Module, make_member: Make
) -> None:
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    first, _ = evaluate(make_member(), model, dataset, CPU)
    second, _ = evaluate(make_member(), model, dataset, CPU)
    assert first.single == second.single
    assert not model.training
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name])


@pytest.mark.parametrize("wrong", [math.nan, math.inf])
def test_a_model_whose_logits_are_not_finite_is_refused(dataset: Dataset, make_member: Make, wrong: float) -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(4, CLASSES))
    nn.init.constant_(network[1].bias, wrong)
    with pytest.raises(ValueError, match=r"finite|NaN|infin"):
        evaluate(make_member(), network.eval(), dataset, CPU)


class Blocks:
    """Logits in blocks of so many rows."""

    def __init__(self, values: np.ndarray, size: int) -> None:
        self.shape = values.shape
        self._values, self._size = values, size

    def blocks(self) -> Iterator[tuple[slice, slice, np.ndarray]]:
        for start in range(0, len(self._values), self._size):
            stop = min(start + self._size, len(self._values))
            yield slice(start, stop), slice(0, self.shape[1]), self._values[start:stop]


@given(
    st.integers(1, 40).flatmap(
        lambda examples: st.tuples(
            st.lists(st.floats(-1e4, 1e4, width=32), min_size=2 * examples, max_size=2 * examples),
            st.lists(st.integers(0, 1), min_size=examples, max_size=examples),
            st.integers(1, 9),
        )
    )
)
def test_every_logit_is_counted_once(drawn: tuple[list[float], list[int], int]) -> None:
    values = np.array(drawn[0], dtype=np.float32).reshape(-1, 2)
    labels = np.array(drawn[1])
    of_class, pooled = histograms(Blocks(values, drawn[2]), labels, shown=1, bins=5)
    assert sum(of_class.true) == np.count_nonzero(labels == 1)
    assert sum(of_class.false) == np.count_nonzero(labels == 0)
    assert sum(pooled.true) == sum(pooled.false) == len(labels)
    assert len(pooled.edges) == 6
    assert list(pooled.edges) == sorted(pooled.edges)
    assert pooled.edges[0] <= values.min()
    assert values.max() <= pooled.edges[-1]
    is_true = labels[:, None] == np.arange(2)
    whole = np.histogram(values[is_true], 5, (values.min(), values.max()))[0]
    assert list(pooled.true) == whole.tolist(), "whatever the blocks"


@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 4))
def test_blocks_of_columns_are_counted_as_blocks_of_rows(rows: int, columns: int, shown: int) -> None:
    rng = np.random.default_rng(rows + 10 * columns)
    values, labels = rng.normal(size=(11, 5)).astype(np.float32), rng.integers(0, 5, 11)
    by_columns = metrics.ColumnChunks(lambda part: values[:, part], (11, 5), columns)
    assert histograms(by_columns, labels, shown) == histograms(Blocks(values, rows), labels, shown)


def test_bins_worked_by_hand() -> None:
    values = np.array([[0.0, 4.0], [1.0, 2.0], [3.9, 0.5]], dtype=np.float32)
    of_class, pooled = histograms(Blocks(values, 2), np.array([1, 0, 0]), shown=0, bins=2)
    assert pooled.edges == (0, 2, 4)
    assert (pooled.true, pooled.false) == ((1, 2), (2, 1))
    assert of_class.edges == pytest.approx((0, 1.95, 3.9))
    assert (of_class.true, of_class.false) == ((1, 1), (1, 0))


def test_a_models_logits_are_a_stream_for_the_measures(dataset: Dataset, model: nn.Module, logits: np.ndarray) -> None:
    labels = dataset.test.labels.numpy()
    stream = ModelLogits(model, dataset.test, CLASSES, CPU)
    assert metrics.measure(stream, labels).auprc == pytest.approx(metrics.measure(logits, labels).auprc, abs=1e-12)
