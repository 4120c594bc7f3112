from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.metrics import auc, average_precision_score, precision_recall_curve

from bench.accuracy.metrics import ColumnChunks, RowChunks, log_odds, measure, reading, search

Array = NDArray[Any]
Labelled = tuple[Array, NDArray[np.int64]]

MACRO = ("auprc", "auprc_trapezoid", "precision_at_90", "precision_at_99")

# Column 0 is the one that is worked by hand; column 1 belongs to the other examples.
NO_TIE = (np.array([[3.0, 0], [2, 0], [1, 0]]), np.array([0, 1, 0]))
ALL_TIED = (np.array([[3.0, 0], [3, 0], [3, 0]]), np.array([0, 1, 0]))
FALSE_FIRST = (np.array([[1.0, 0], [2, 0]]), np.array([0, 1]))


@st.composite
def labelled(draw: st.DrawFn) -> Labelled:
    """Up to 30 examples and 6 classes, some without positives; few different logits, so many ties. None in [0, 1]."""
    examples, classes = draw(st.integers(1, 30)), draw(st.integers(1, 6))
    different = draw(st.sampled_from([2, 4, 1000]))
    numbers = st.lists(st.integers(0, different), min_size=examples * classes, max_size=examples * classes)
    spacing = draw(st.sampled_from([1.0, 0.1, 1e-7, 1e4]))
    logits = 2 + spacing * np.array(draw(numbers), np.float64).reshape(examples, classes)
    labels = draw(st.lists(st.integers(0, classes - 1), min_size=examples, max_size=examples))
    return logits.astype(draw(st.sampled_from([np.float32, np.float64]))), np.array(labels)


@contextmanager
def ways(panel: int, by_class: int, few: int, compared: int) -> Iterator[None]:
    """Cut into panels of this size and search by the ways that larger inputs take."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reading, "PANEL", panel)
        patch.setattr(reading, "BY_CLASS", by_class)
        patch.setattr(search, "FEW", few)
        patch.setattr(reading, "COMPARED", compared)
        yield


some_ways = st.tuples(
    st.sampled_from([1, 20, 2**20]),
    st.sampled_from([0, 2, 10**9]),
    st.sampled_from([0, 10**9]),
    st.sampled_from([0, 16]),
)


def literal_precision_at(scores: Array, positive: NDArray[np.bool_], percent: int) -> float:
    """The paper's: the threshold that gives this recall, then the precision there."""
    needed = -(-percent * int(positive.sum()) // 100)
    threshold = np.sort(scores[positive])[::-1][needed - 1]
    return float(positive[scores >= threshold].mean())


def literal_trapezoid(scores: Array, positive: NDArray[np.bool_]) -> float:
    """Points at every distinct score from the highest down to the first of full recall, after (0, 1)."""
    recalls, precisions = [0.0], [1.0]
    for threshold in np.unique(scores)[::-1]:
        yes = scores >= threshold
        recalls.append(float((yes & positive).sum() / positive.sum()))
        precisions.append(float(positive[yes].mean()))
        if recalls[-1] == 1:
            break
    return float(np.trapezoid(precisions, recalls))


def by_scikit_learn(scores: Array, labels: Array) -> dict[str, Array]:
    """Each measure of each class, column by column; NaN without positives."""
    found = {name: np.full(scores.shape[1], np.nan) for name in MACRO}
    for column in np.unique(labels):
        positive, values = labels == column, scores[:, column]
        precision, recall, _ = precision_recall_curve(positive, values)
        found["auprc"][column] = average_precision_score(positive, values)
        found["auprc_trapezoid"][column] = auc(recall, precision)
        found["precision_at_90"][column] = literal_precision_at(values, positive, 90)
        found["precision_at_99"][column] = literal_precision_at(values, positive, 99)
    return found


def assert_equal(found: Any, expected: dict[str, Array]) -> None:
    for name in MACRO:
        np.testing.assert_allclose(getattr(found.by_class, name), expected[name], rtol=0, atol=1e-12, err_msg=name)
        assert getattr(found, name) == pytest.approx(np.nanmean(expected[name]), abs=1e-12)


class TestByHand:
    def test_average_precision_is_the_mean_over_positives(self) -> None:
        assert measure(*NO_TIE).by_class.auprc[0] == pytest.approx((1 + 2 / 3) / 2, abs=1e-15)
        assert measure(*ALL_TIED).by_class.auprc[0] == pytest.approx(2 / 3, abs=1e-15)
        assert measure(*FALSE_FIRST).by_class.auprc[0] == 0.5

    def test_a_trapezoid_lies_below_a_step_without_ties_and_above_it_with_them(self) -> None:
        # (0, 1) -> (1/2, 1) -> (1/2, 1/2) -> (1, 2/3)
        assert measure(*NO_TIE).by_class.auprc_trapezoid[0] == pytest.approx(19 / 24, abs=1e-15)
        # (0, 1) -> (1, 2/3)
        assert measure(*ALL_TIED).by_class.auprc_trapezoid[0] == pytest.approx(5 / 6, abs=1e-15)
        # (0, 1) -> (0, 0) -> (1, 1/2)
        assert measure(*FALSE_FIRST).by_class.auprc_trapezoid[0] == 0.25

    @pytest.mark.parametrize(("positives", "at_90", "at_99"), [(9, 9, 9), (10, 9, 10), (100, 90, 99), (101, 91, 100)])
    def test_the_threshold_of_a_recall_is_the_ceiling_of_its_share(
        self, positives: int, at_90: int, at_99: int
    ) -> None:
        """A positive first, then a negative and a positive in turn: t - 1 negatives above the t-th positive."""
        labels = np.arange(2 * positives) % 2
        found = measure(np.stack([-np.arange(len(labels)), labels], axis=1), labels).by_class
        assert found.precision_at_90[0] == at_90 / (2 * at_90 - 1)
        assert found.precision_at_99[0] == at_99 / (2 * at_99 - 1)

    def test_perfect_separation_is_1(self) -> None:
        labels = np.arange(30) % 3
        found = measure(5 * np.eye(3)[labels], labels)
        assert [getattr(found, name) for name in MACRO] == [1.0] * 4

    def test_a_class_without_positives_is_named_and_left_out_of_the_mean(self) -> None:
        found = measure(np.array([[3.0, 1, 2, 0], [2, 4, 1, 0], [1, 0, 5, 0]]), [0, 2, 0])
        assert found.classes_without_positives == (1, 3)
        assert np.isnan(found.by_class.auprc[[1, 3]]).all()
        assert found.auprc == pytest.approx(found.by_class.auprc[[0, 2]].mean())
        assert (found.examples, found.classes) == (3, 4)

    def test_a_single_class_is_always_found(self) -> None:
        assert measure(np.array([[1.0], [-4.0]]), [0, 0]).auprc == 1.0


class TestExactness:
    @settings(max_examples=100, deadline=None)
    @given(labelled(), some_ways)
    def test_single_logits_as_scikit_learn_column_by_column(
        self, given: Labelled, way: tuple[int, int, int, int]
    ) -> None:
        logits, labels = given
        with ways(*way):
            found = measure(logits, labels)
        assert_equal(found, by_scikit_learn(logits, labels))
        assert found.classes_without_positives == tuple(sorted(set(range(logits.shape[1])) - set(labels.tolist())))

    @settings(max_examples=60, deadline=None)
    @given(labelled().filter(lambda given: given[0].shape[1] > 1), some_ways)
    def test_all_logits_as_scikit_learn_on_the_log_odds(self, given: Labelled, way: tuple[int, int, int, int]) -> None:
        with ways(*way):
            assert_equal(measure(*given, score="all"), by_scikit_learn(log_odds(given[0]), given[1]))

    @settings(max_examples=100, deadline=None)
    @given(labelled())
    def test_the_trapezoid_as_its_definition(self, given: Labelled) -> None:
        logits, labels = given
        found = measure(logits, labels).by_class.auprc_trapezoid
        for column in np.unique(labels):
            assert found[column] == pytest.approx(literal_trapezoid(logits[:, column], labels == column), abs=1e-12)

    @pytest.mark.parametrize("dtype", [np.float32, np.float64])
    def test_enough_examples_for_every_way_of_searching(self, dtype: Any) -> None:
        random = np.random.default_rng(0)
        labels = random.choice(40, 6000, p=random.dirichlet(np.full(40, 0.3)))
        logits = (random.standard_normal((6000, 40)) + 2 * np.eye(40)[labels]).round(2).astype(dtype)
        assert_equal(measure(logits, labels), by_scikit_learn(logits, labels))

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
    def test_a_tensor_of_any_floating_type_as_the_array_of_its_values(self, dtype: torch.dtype) -> None:
        generator = torch.Generator().manual_seed(0)
        logits = torch.randn(200, 5, generator=generator).to(dtype).requires_grad_()
        labels = torch.randint(5, (200,), generator=generator)
        assert_equal(measure(logits, labels), by_scikit_learn(logits.detach().double().numpy(), labels.numpy()))

    @pytest.mark.gpu
    def test_tensors_on_a_device_as_the_same_on_the_cpu(self) -> None:
        logits, labels = torch.randn(200, 5), torch.randint(5, (200,))
        assert measure(logits.cuda(), labels.cuda()).record() == measure(logits, labels).record()


class TestInvariances:
    @settings(max_examples=50, deadline=None)
    @given(labelled(), st.randoms(use_true_random=False))
    def test_a_growing_map_of_a_column_changes_nothing_of_a_single_logit(self, given: Labelled, random: Any) -> None:
        logits, labels = given
        ranks = np.stack([np.unique(column, return_inverse=True)[1] for column in logits.T], axis=1)
        moved = random.uniform(-9, 9) + np.exp(ranks / 100) * random.uniform(1, 9) - 1000
        assert measure(moved, labels).record() == measure(logits, labels).record()

    @settings(max_examples=50, deadline=None)
    @given(labelled(), st.randoms(use_true_random=False), st.sampled_from(["single", "all"]))
    def test_the_order_of_the_examples_changes_nothing(self, given: Labelled, random: Any, score: Any) -> None:
        logits, labels = given
        if logits.shape[1] == 1:
            score = "single"
        order = random.sample(range(len(labels)), len(labels))
        found, expected = measure(logits[order], labels[order], score=score), measure(logits, labels, score=score)
        assert found.record() == expected.record()

    @settings(max_examples=100, deadline=None)
    @given(st.integers(0, 2**32 - 1))
    def test_a_constant_added_to_a_row_changes_nothing_of_all_logits(self, seed: int) -> None:
        random = np.random.default_rng(seed)
        logits = random.integers(-50, 50, (20, 4)) / 8
        labels = random.integers(0, 4, 20)
        shifted = logits + random.integers(-1000, 1000, (20, 1))
        assert measure(shifted, labels, score="all").record() == measure(logits, labels, score="all").record()
        rows = np.random.default_rng(0).standard_normal((500, 4)) + 3 * np.eye(4)[np.arange(500) % 4]
        offsets = 30 * np.random.default_rng(1).standard_normal((500, 1))
        assert measure(rows + offsets, np.arange(500) % 4).auprc < measure(rows, np.arange(500) % 4).auprc - 0.2


class TestStreams:
    @settings(max_examples=60, deadline=None)
    @given(labelled(), st.integers(1, 8), st.sampled_from(["rows", "columns"]), some_ways)
    def test_chunks_of_any_size_as_the_whole(
        self, given: Labelled, size: int, along: str, way: tuple[int, int, int, int]
    ) -> None:
        logits, labels = given
        shape = (logits.shape[0], logits.shape[1])
        rows = RowChunks(lambda part: logits[part], shape, size)
        columns = ColumnChunks(lambda part: logits[:, part], shape, size)
        stream = rows if along == "rows" else columns
        with ways(*way):
            assert measure(stream, labels).record() == measure(logits, labels).record()

    def test_a_true_logit_that_is_computed_anew_counts_by_its_first_value_alone(self) -> None:
        """Logits that move by a last bit from pass to pass: the true one must not become a false one above itself."""
        random = np.random.default_rng(0)
        logits = random.standard_normal((300, 4)).astype(np.float32)
        labels = np.arange(300) % 4
        passes = 0

        def read(rows: slice) -> Array:
            nonlocal passes
            passes += rows.start == 0
            moved = logits.copy()
            if passes > 1:
                moved[np.arange(300), labels] = np.nextafter(moved[np.arange(300), labels], np.float32(np.inf))
            return moved[rows]

        assert measure(RowChunks(read, (300, 4), 100), labels).record() == measure(logits, labels).record()
        assert passes == 2

    def test_blocks_of_different_types_keep_every_number(self) -> None:
        """A threshold in float64 that float32 would round up to a false logit's value."""
        labels = np.array([0, 1, 1, 0])
        double = np.array([[1.0 + 2**-30, 0], [0, 5]])
        single = np.array([[1.0, 5], [1.0, 0]], np.float32)
        parts = {0: double, 2: single}
        found = measure(RowChunks(lambda rows: parts[rows.start], (4, 2), 2), labels)
        assert_equal(found, by_scikit_learn(np.concatenate([double, single.astype(float)]), labels))


class TestRefusals:
    @pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
    @pytest.mark.parametrize("score", ["single", "all"])
    def test_what_is_not_finite_is_counted(self, bad: float, score: Any) -> None:
        logits = np.ones((10, 3))
        logits[[2, 5], [0, 1]] = bad
        with pytest.raises(ValueError, match="2 of 30 logits are NaN or infinite"):
            measure(logits, np.zeros(10, int), score=score)

    @pytest.mark.parametrize("size", [1, 4, None])
    def test_probabilities(self, size: int | None) -> None:
        logits = torch.randn(50, 4, generator=torch.Generator().manual_seed(0))
        probabilities = logits.softmax(dim=1)
        stream = ColumnChunks(lambda columns: probabilities[:, columns], (50, 4), size)
        labels = np.zeros(50, int)
        for refused in (probabilities, probabilities.half(), probabilities.bfloat16(), stream):
            with pytest.raises(ValueError, match="these are probabilities"):
                measure(refused, labels)
        assert measure(logits.sigmoid(), labels).examples == 50, "within [0, 1], and the rows sum to anything"
        assert measure(probabilities.log(), labels).examples == 50
        assert measure(np.ones((50, 1)), labels).examples == 50, "a single logit that is 1"

    @pytest.mark.parametrize(
        ("labels", "message"),
        [
            ([0, 1, 3, 7], r"2 of 4 labels lie outside 0 .. 2; the first is 3, of example 2"),
            ([0, -1, 0, 0], "1 of 4 labels"),
            ([0, 1, 2], r"labels of shape \(3,\): logits of 4 examples need \(4,\)"),
            ([[0], [1], [2], [0]], r"labels of shape \(4, 1\)"),
            ([0.0, 1.0, 2.0, 0.0], "labels of type float64"),
            ([True, False, True, False], "labels of type bool"),
        ],
    )
    def test_labels_that_do_not_fit(self, labels: Any, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            measure(np.arange(12.0).reshape(4, 3), labels)

    @pytest.mark.parametrize(
        ("logits", "message"),
        [
            (np.empty((0, 3)), r"shape \(0, 3\): there is nothing to measure"),
            (np.empty((4, 0)), "there is nothing to measure"),
            (np.ones(4), "must be \\(examples, classes\\)"),
            (np.ones((4, 3), complex), "must be real numbers"),
            (np.ones((4, 3), bool), "must be real numbers"),
        ],
    )
    def test_logits_that_are_none(self, logits: Any, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            measure(logits, np.zeros(len(logits), int))

    def test_all_logits_of_a_single_class(self) -> None:
        with pytest.raises(ValueError, match="there is a single class"):
            measure(np.ones((4, 1)), np.zeros(4, int), score="all")

    def test_a_score_that_is_not_known(self) -> None:
        with pytest.raises(ValueError, match="score 'softmax': it is 'single'"):
            measure(np.ones((4, 2)), np.zeros(4, int), score="softmax")  # type: ignore[arg-type]


def test_the_record_says_none_for_nan_and_can_be_read_back() -> None:
    record = measure(np.array([[3.0, 1, 2], [2, 4, 1]]), [0, 2]).record()
    assert record.by_class.auprc == (1.0, None, 0.5)
    assert record.classes_without_positives == (1,)
    assert type(record).model_validate_json(record.model_dump_json()) == record
