"""Measures straight from a layer: as of the whole array of logits, to the last bit where sums are exact."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score
from torch import Tensor

from bench.accuracy import metrics
from bench.accuracy.metrics import ByClass, ColumnChunks, LayerLogits, Measures, RowChunks, measure, streams
from bench.machine.memory import peak_rss, reset_peak_rss

Layer = tuple[Tensor, Tensor, Tensor, NDArray[np.int64]]

SCORES: tuple[metrics.Score, ...] = ("single", "all")


def whole_numbers(examples: int, classes: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Layer:
    """A layer of small whole numbers: every sum is exact, in whatever order it is taken; and there are many ties."""
    generator = torch.Generator().manual_seed(seed)
    features, weight = (torch.randint(-2, 3, (rows, 6), generator=generator) for rows in (examples, classes))
    bias = torch.randint(-1, 2, (classes,), generator=generator)
    labels = torch.randint(classes, (examples,), generator=generator).numpy()
    return features.to(dtype), weight.to(dtype), bias.to(dtype), labels


def real_numbers(examples: int, classes: int, dtype: torch.dtype = torch.float64) -> Layer:
    """The same of normal numbers, with the true logits higher."""
    generator = torch.Generator().manual_seed(1)
    weight = torch.randn(classes, 16, generator=generator, dtype=dtype)
    labels = torch.randint(classes, (examples,), generator=generator)
    features = torch.randn(examples, 16, generator=generator, dtype=dtype) + 0.3 * weight[labels]
    return features, weight, torch.randn(classes, generator=generator, dtype=dtype), labels.numpy()


def product(features: Tensor, weight: Tensor, bias: Tensor) -> NDArray[Any]:
    return (features @ weight.T + bias).numpy()


def assert_equal(found: Measures, expected: Measures, tolerance: float = 0) -> None:
    """Each class's measures and the means."""
    for name in ("auprc", "auprc_trapezoid", "precision_at_90", "precision_at_99"):
        for of_found, of_expected in ((found, expected), (found.by_class, expected.by_class)):
            np.testing.assert_allclose(getattr(of_found, name), getattr(of_expected, name), rtol=0, atol=tolerance)
    assert found.classes_without_positives == expected.classes_without_positives
    assert (found.examples, found.classes, found.queried) == (expected.examples, expected.classes, expected.queried)


class Counting(LayerLogits):
    """Notes which classes are computed."""

    computed: list[int]

    def _product(self, columns: slice, logits: Tensor) -> None:
        self.computed.extend(np.arange(self.shape[1])[columns] if self._numbers is None else self._numbers[columns])
        super()._product(columns, logits)


class TestAsOfTheWholeArray:
    @settings(max_examples=60, deadline=None)
    @given(
        st.integers(1, 40),
        st.integers(2, 30),
        st.integers(1, 31),
        st.sampled_from([torch.float32, torch.float64]),
        st.sampled_from(SCORES),
    )
    def test_to_the_last_bit_where_sums_are_exact(
        self, examples: int, classes: int, chunk: int, dtype: torch.dtype, score: metrics.Score
    ) -> None:
        """Log-odds are sums of exponentials taken chunk by chunk: the order decides their last bits, and ties."""
        features, weight, bias, labels = whole_numbers(examples, classes, dtype, seed=examples + classes)
        layer = LayerLogits(features, weight, bias, chunk=chunk)
        logits = product(features, weight, bias)
        whole = RowChunks(lambda rows: logits[rows], logits.shape) if score == "single" else layer_as_array(layer)
        assert_equal(measure(layer, labels, score=score), measure(whole, labels, score=score))

    @pytest.mark.parametrize("score", SCORES)
    def test_to_rounding_where_they_are_not(self, score: metrics.Score) -> None:
        features, weight, bias, labels = real_numbers(500, 71)
        layer = LayerLogits(features, weight, bias, chunk=17)
        assert_equal(
            measure(layer, labels, score=score), measure(product(features, weight, bias), labels, score=score), 1e-12
        )

    def test_scikit_learn_agrees(self) -> None:
        features, weight, bias, labels = whole_numbers(200, 90)
        logits = product(features, weight, bias)
        found = measure(LayerLogits(features, weight, bias, chunk=7), labels)
        expected = np.full(90, np.nan)
        for number in np.unique(labels):
            expected[number] = average_precision_score(labels == number, logits[:, number])
        np.testing.assert_allclose(found.by_class.auprc, expected, rtol=0, atol=1e-12)
        assert found.classes_without_positives == tuple(np.setdiff1d(np.arange(90), labels))
        assert len(found.classes_without_positives) > 3

    def test_the_other_measures(self) -> None:
        features, weight, bias, labels = real_numbers(300, 41)
        layer, logits = LayerLogits(features, weight, bias, chunk=9), product(features, weight, bias)
        for exact in (False, True):
            found, expected = (metrics.separation(what, labels, exact=exact).model_dump() for what in (layer, logits))
            assert found == pytest.approx(expected, abs=1e-12)
        assert metrics.accuracy(layer, labels) == np.mean(logits.argmax(axis=1) == labels)
        np.testing.assert_allclose(metrics.log_odds(layer), metrics.log_odds(logits), atol=1e-11)
        for score in SCORES:
            of_layer, of_array = (metrics.influence(what, labels, score=score) for what in (layer, logits))
            np.testing.assert_allclose(of_layer, of_array, atol=1e-12)

    def test_without_a_bias(self) -> None:
        features, weight, _, labels = whole_numbers(50, 20)
        assert_equal(measure(LayerLogits(features, weight), labels), measure((features @ weight.T).numpy(), labels))


def layer_as_array(layer: LayerLogits) -> ColumnChunks:
    """The same logits in the same chunks, held in an array."""
    held = np.empty(layer.shape, np.float64)
    for _, columns, values in layer.blocks():
        held[:, columns] = values.numpy()  # type: ignore[union-attr]
    return ColumnChunks(lambda columns: held[:, columns], layer.shape, layer.chunk)


class TestWhatIsComputed:
    def test_single_logits_take_one_product_of_the_classes_that_have_positives(self) -> None:
        features, weight, bias, labels = whole_numbers(30, 100)
        layer = Counting(features, weight, bias, chunk=9)
        layer.computed = []
        measure(layer, labels)
        assert layer.computed == np.unique(labels).tolist()

    def test_log_odds_take_all_classes_and_then_those(self) -> None:
        features, weight, bias, labels = whole_numbers(30, 100)
        layer = Counting(features, weight, bias, chunk=9)
        layer.computed = []
        measure(layer, labels, score="all")
        assert layer.computed == [*range(100), *np.unique(labels).tolist()]

    def test_of_some_classes_those(self) -> None:
        features, weight, bias, labels = whole_numbers(30, 100)
        layer = Counting(features, weight, bias, chunk=9)
        layer.computed = []
        queried = [*np.unique(labels)[::3].tolist(), int(np.setdiff1d(np.arange(100), labels)[0])]
        measure(layer, labels, classes=queried)
        assert layer.computed == queried[:-1]

    def test_whole_columns_are_read_once(self) -> None:
        features, weight, bias, labels = whole_numbers(30, 10)
        logits, read = product(features, weight, bias), []

        def some(columns: slice) -> NDArray[Any]:
            read.append(columns.start)
            return logits[:, columns]

        assert_equal(measure(ColumnChunks(some, (30, 10), 4), labels), measure(logits, labels))
        assert read == [0, 4, 8]

    def test_a_block_that_is_no_whole_column_is_refused(self) -> None:
        class Halves(ColumnChunks):
            def blocks(self) -> Any:
                for half in (slice(0, 2), slice(2, 4)):
                    yield half, slice(0, 3), np.ones((2, 3))

        with pytest.raises(ValueError, match=r"whole columns holds examples 0 \.\. 1 alone, of 4"):
            measure(Halves(lambda columns: np.ones((4, 3)), (4, 3)), [0, 1, 2, 0])

    def test_fewer_examples_than_a_chunk_has_room_for_make_it_wide(self) -> None:
        features, weight, *_ = whole_numbers(10, 5)
        assert LayerLogits(features, weight).chunk == streams.CHUNK // 10
        assert LayerLogits(features.expand(10, 6), weight, chunk=3).chunk == 3


class TestWhatIsGiven:
    """Types and places of features and weights; the numbers stay the same."""

    @pytest.mark.parametrize("score", SCORES)
    def test_bfloat16_is_widened_and_summed_in_float32(self, score: metrics.Score) -> None:
        features, weight, bias, labels = (part for part in real_numbers(200, 31, torch.float32))
        half = weight.bfloat16()
        layer = LayerLogits(features, half, bias, chunk=8)
        assert layer.dtype == torch.float32
        exact = features.double() @ half.double().T + bias.double()
        for _, columns, values in layer.blocks():
            # A product in bfloat16 would be 2**-8 off; sums of 16 float32 products are within 16 roundings.
            np.testing.assert_allclose(values, exact[:, columns], rtol=0, atol=16 * 2**-24 * 40)
        assert_equal(
            measure(layer, labels, score=score),
            measure(LayerLogits(features, half.float(), bias), labels, score=score),
            1e-12,
        )

    def test_float64_anywhere_makes_the_product_float64(self) -> None:
        features, weight, bias, _ = whole_numbers(5, 4)
        for layer in (
            LayerLogits(features.double(), weight.half()),
            LayerLogits(features, weight.double()),
            LayerLogits(features, weight, bias.double()),
        ):
            assert layer.dtype == torch.float64
        assert LayerLogits(features.half(), weight.half(), bias.half()).dtype == torch.float32

    @pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
    @pytest.mark.parametrize("score", SCORES)
    def test_on_disk(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: Any, score: metrics.Score) -> None:
        """Memory maps that must not be written to, read 16 examples at a time."""
        monkeypatch.setattr(metrics.layer, "ROWS", 16)
        features, weight, bias, labels = whole_numbers(100, 37)
        maps = {}
        for name, part in {"features": features, "weight": weight, "bias": bias}.items():
            np.save(tmp_path / f"{name}.npy", part.numpy().astype(dtype))
            maps[name] = np.load(tmp_path / f"{name}.npy", mmap_mode="r")
        found = measure(LayerLogits(**maps, chunk=10), labels, score=score)
        assert_equal(found, measure(product(features, weight, bias), labels, score=score), 1e-12)

    def test_from_a_function(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(metrics.layer, "ROWS", 16)
        features, weight, bias, labels = whole_numbers(100, 37)
        asked = []

        def some(rows: slice) -> Tensor:
            asked.append(rows.stop - rows.start)
            return features[rows]

        layer = LayerLogits(some, weight, bias, examples=100, chunk=20)
        assert_equal(measure(layer, labels), measure(product(features, weight, bias), labels))
        assert max(asked) == 16

    @pytest.mark.parametrize(
        ("make", "message"),
        [
            (lambda x, w, b: LayerLogits(x[:, :5], w), r"have shape \(1, 5\); the layer needs \(1, 6\)"),
            (lambda x, w, b: LayerLogits(x[:, 0], w), r"have shape \(1,\)"),
            (lambda x, w, b: LayerLogits(x, w[0]), r"weight of shape \(6,\)"),
            (lambda x, w, b: LayerLogits(x, w, b[:3]), r"bias of shape \(3,\)"),
            (lambda x, w, b: LayerLogits(lambda rows: x[rows], w), "how many examples"),
            (lambda x, w, b: LayerLogits(x, w, examples=7), "features of 5 examples, not 7"),
            (lambda x, w, b: LayerLogits(x.long(), w), "torch.int64"),
        ],
    )
    def test_what_does_not_fit_is_refused(self, make: Callable[..., LayerLogits], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            make(*whole_numbers(5, 4)[:3])

    def test_a_function_that_gives_too_few(self) -> None:
        features, weight, _, labels = whole_numbers(10, 4)
        layer = LayerLogits(lambda rows: features[rows][:3], weight, examples=10)
        with pytest.raises(ValueError, match=r"examples 0 \.\. 9 have shape \(3, 6\)"):
            measure(layer, labels)

    @pytest.mark.gpu
    @pytest.mark.parametrize("score", SCORES)
    @pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device, and there is none here")
    def test_on_a_gpu(self, score: metrics.Score) -> None:
        """Features and weight where they are, the product on the device: whole numbers, so exact even in TF32."""
        features, weight, bias, labels = whole_numbers(300, 101)
        expected = measure(product(features, weight, bias), labels, score=score)
        for layer in (
            LayerLogits(features, weight, bias, "cuda", chunk=20),
            LayerLogits(features.cuda(), weight.cuda(), bias.cuda(), chunk=20),
            LayerLogits(features.numpy(), weight.cuda().bfloat16(), bias, chunk=20),
        ):
            assert layer.device.type == "cuda"
            assert_equal(measure(layer, labels, score=score), expected, 1e-12)


@pytest.mark.skipif(not reset_peak_rss(), reason="this kernel does not let a process reset its peak memory")
@pytest.mark.parametrize("score", SCORES)
def test_all_logits_are_never_held(score: metrics.Score) -> None:
    examples, classes = 400, 60_000
    features, weight = torch.randn(examples, 4), torch.randn(classes, 4)
    labels = np.arange(examples) * (classes // examples)
    measure(LayerLogits(features, weight[:1000], chunk=100), labels % 1000, score=score)  # what libraries take for good
    reset_peak_rss()
    before = peak_rss()
    measure(LayerLogits(features, weight, chunk=1000), labels, score=score)
    assert peak_rss() - before < 4 * examples * classes / 3  # in float32


class TestRefusals:
    @pytest.mark.parametrize("score", SCORES)
    @pytest.mark.parametrize("bad", [np.nan, np.inf])
    def test_a_class_of_nobody_that_is_not_finite_is_named(self, score: metrics.Score, bad: float) -> None:
        features, weight, bias, _ = whole_numbers(20, 30)
        labels = np.arange(20) % 7
        weight[23, 2] = bad
        features[:, 2] = 1
        with pytest.raises(ValueError, match=r"20 of .* are NaN or infinite; the first is of example 0 and class 23"):
            measure(LayerLogits(features, weight, bias, chunk=4), labels, score=score)

    def test_the_chunk_is_named_among_those_that_are_computed(self) -> None:
        features, weight, bias, _ = whole_numbers(20, 30)
        labels = np.arange(20) % 5 * 3  # classes 0, 3, 6, 9, 12
        bias[9] = np.nan
        with pytest.raises(ValueError, match=r"20 of 40 logits, those of classes 6 \.\. 9, are NaN"):
            measure(LayerLogits(features, weight, bias, chunk=2), labels)

    def test_an_example_that_is_not_finite(self) -> None:
        features, weight, bias, labels = whole_numbers(20, 30)
        features[13, 1] = np.nan
        with pytest.raises(ValueError, match="of example 13 and class 0"):
            measure(LayerLogits(features, weight, bias), labels)

    def test_finite_weights_whose_logit_overflows(self) -> None:
        """Nothing in the layer is infinite, and class 2 is nobody's: only its bound betrays it."""
        features = torch.full((3, 2), 1e20)
        weight = torch.tensor([[1.0, 2], [2, 1], [1e19, 1e19]])
        with pytest.raises(ValueError, match="of example 0 and class 2"):
            measure(LayerLogits(features, weight), [0, 1, 0])

    def test_a_large_logit_that_does_not_overflow_is_fine(self) -> None:
        features = torch.tensor([[1e20, 0], [0, 1e20], [0, 1e20]])
        weight = torch.tensor([[1.0, 2], [2, 1], [2e18, -2e18]])
        layer = LayerLogits(features, weight)
        assert layer.surely_finite().tolist() == [True, True, False]
        assert_equal(measure(layer, [0, 1, 0]), measure((features @ weight.T).numpy(), [0, 1, 0]))

    @pytest.mark.parametrize("score", SCORES)
    def test_probabilities_even_if_most_classes_are_nobodys(self, score: metrics.Score) -> None:
        """Features that are unit vectors make the logits whatever the weight says."""
        probabilities = torch.randn(10, 12, generator=torch.Generator().manual_seed(0)).softmax(dim=1)
        labels = np.arange(10) % 2
        with pytest.raises(ValueError, match="these are probabilities"):
            measure(LayerLogits(torch.eye(10), probabilities.T, chunk=5), labels, score=score)
        assert measure(LayerLogits(torch.eye(10), probabilities.T / 2, chunk=5), labels, score=score).examples == 10

    def test_a_shard_is_no_whole_layer(self) -> None:
        features, weight, bias, labels = whole_numbers(20, 10)
        with pytest.raises(ValueError, match="sharded_measure"):
            measure(LayerLogits(features, weight, bias, first_class=10), labels)


class TestSomeClasses:
    def streams(self, features: Tensor, weight: Tensor, bias: Tensor) -> list[object]:
        logits = product(features, weight, bias)
        return [
            logits,
            torch.from_numpy(logits),
            RowChunks(lambda rows: logits[rows], logits.shape, 7),
            ColumnChunks(lambda columns: logits[:, columns], logits.shape, 7),
            LayerLogits(features, weight, bias, chunk=7),
        ]

    @pytest.mark.parametrize("score", SCORES)
    def test_as_those_of_all(self, score: metrics.Score) -> None:
        """Every example of another class is a negative; log-odds are against all classes."""
        features, weight, bias, labels = whole_numbers(60, 40)
        queried = np.array([39, 3, 17, 8, 25, 20, 0, 11])
        for stream in self.streams(features, weight, bias):
            whole, found = measure(stream, labels, score=score), measure(stream, labels, score=score, classes=queried)
            numbers = np.sort(queried)
            expected = whole.by_class.auprc[numbers]
            np.testing.assert_array_equal(found.by_class.auprc, expected)
            np.testing.assert_array_equal(found.by_class.precision_at_99, whole.by_class.precision_at_99[numbers])
            assert found.auprc == expected[~np.isnan(expected)].mean()
            assert found.queried == tuple(numbers)
            assert found.classes == 40
            assert found.classes_without_positives == tuple(np.setdiff1d(numbers, labels))

    @pytest.mark.parametrize(
        ("classes", "message"),
        [
            ([], "one class or several"),
            ([0.5], "one class or several"),
            ([[1]], "one class or several"),
            ([1, 2, 1], "1 of the 3 classes to measure are named twice"),
            ([0, 5], r"0 \.\. 5; the logits have 0 \.\. 4"),
            ([-1], r"-1 \.\. -1"),
            ([3], "none of the 1 classes to measure has an example"),
        ],
    )
    def test_what_is_no_class_is_refused(self, classes: Any, message: str) -> None:
        features, weight, bias, _ = whole_numbers(6, 5)
        for stream in self.streams(features, weight, bias):
            with pytest.raises(ValueError, match=message):
                measure(stream, [0, 1, 2, 0, 1, 2], classes=classes)

    def test_they_are_no_record_of_all(self) -> None:
        features, weight, bias, labels = whole_numbers(20, 5)
        with pytest.raises(ValueError, match="2 of 5 classes"):
            measure(LayerLogits(features, weight, bias), labels, classes=[labels[0], (labels[0] + 1) % 5]).record()


def test_by_class_parts_join_and_part_again() -> None:
    first, second = (ByClass(*np.random.default_rng(seed).random((4, size))) for seed, size in ((0, 3), (1, 2)))
    joined = ByClass.joined([first, second])
    np.testing.assert_array_equal(joined.of_classes(np.arange(3, 5)).precision_at_90, second.precision_at_90)
    unknown = ByClass.unknown(5)
    unknown.put(np.array([4, 0]), second)
    np.testing.assert_array_equal(unknown.auprc, [second.auprc[1], np.nan, np.nan, np.nan, second.auprc[0]])
