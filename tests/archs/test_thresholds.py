"""Thresholds against sums worked by hand, and their promise by simulation."""

import json
import math
import os
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from archs import thresholds
from archs.thresholds import Threshold, TooFewPositives, UnusableThresholds


def exact(rank: int, positives: int, recall: Fraction) -> Fraction:
    """P(Binomial(n, 1 - r) >= rank), in whole numbers."""
    miss = 1 - recall
    return sum(
        (math.comb(positives, k) * miss**k * recall ** (positives - k) for k in range(rank, positives + 1)),
        start=Fraction(0),
    )


def test_the_lowest_of_a_few_by_hand() -> None:
    # The lowest of 3 keeps a recall of 1/2 unless all three lie in the upper half: 1 - 1/8.
    assert thresholds.confidence_of(1, 3, 0.5) == pytest.approx(7 / 8, abs=1e-15)
    # The second lowest: at least 2 of 3 in the lower half, 3/8 + 1/8.
    assert thresholds.confidence_of(2, 3, 0.5) == pytest.approx(1 / 2, abs=1e-15)
    assert thresholds.confidence_of(3, 3, 0.5) == pytest.approx(1 / 8, abs=1e-15)


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 60), st.data(), st.sampled_from([(1, 2), (9, 10), (19, 20), (99, 100)]))
def test_the_beta_distribution_gives_the_binomial_sum(positives: int, data: st.DataObject, of: tuple[int, int]) -> None:
    rank = data.draw(st.integers(1, positives))
    truth = exact(rank, positives, Fraction(*of))
    assert thresholds.confidence_of(rank, positives, of[0] / of[1]) == pytest.approx(float(truth), rel=1e-9, abs=1e-300)


@pytest.mark.parametrize(
    ("recall", "confidence", "needed"), [(0.95, 0.95, 59), (0.99, 0.95, 299), (0.9, 0.9, 22), (0.5, 0.75, 2)]
)
def test_the_known_least_numbers(recall: float, confidence: float, needed: int) -> None:
    assert thresholds.positives_needed(recall, confidence) == needed
    assert thresholds.rank_for(needed, recall, confidence) == 1
    with pytest.raises(TooFewPositives, match=rf"{needed - 1} examples .* it takes {needed};"):
        thresholds.rank_for(needed - 1, recall, confidence)


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 100), st.sampled_from([0.5, 0.9, 0.95]), st.sampled_from([0.5, 0.8, 0.95]))
def test_the_rank_is_the_highest_that_is_sure_enough(positives: int, recall: float, confidence: float) -> None:
    of = Fraction(str(recall))
    sure = [rank for rank in range(1, positives + 1) if exact(rank, positives, of) >= Fraction(str(confidence))]
    if not sure:
        with pytest.raises(TooFewPositives):
            thresholds.rank_for(positives, recall, confidence)
        return
    found = thresholds.rank_for(positives, recall, confidence)
    border = exact(max(sure), positives, of)
    assert found == max(sure) or float(border) == pytest.approx(confidence, abs=1e-12)


@pytest.mark.parametrize(("positives", "recall", "rank"), [(10, 0.9, 2), (100, 0.99, 2), (99, 0.99, 1), (1, 0.5, 1)])
def test_without_a_confidence_the_calibration_data_decide(positives: int, recall: float, rank: int) -> None:
    assert thresholds.rank_for(positives, recall, None) == rank
    assert Fraction(positives - rank + 1, positives) >= Fraction(str(recall))


@pytest.mark.parametrize("kind", [np.float64, np.float32, float])
def test_a_recall_of_numpys_is_a_recall(kind: type[float]) -> None:
    """3/4 is a number of every kind, so all of them have the rank worked by hand: 3 of 4 scores reach the second."""
    assert thresholds.rank_for(4, kind(0.75), None) == 2
    found = thresholds.fit(np.arange(100.0), np.ones(100, dtype=bool), recall=kind(0.75), confidence=kind(0.5))
    assert type(found.recall) is type(found.asked_confidence) is float
    assert thresholds.parsed(thresholds.as_json({1: found}), "a") == {1: found}


def test_a_threshold_of_known_scores() -> None:
    scores = np.array([5.0, 1.0, 4.0, 2.0, 3.0, 2.5, 0.5])
    is_class = np.array([True, True, True, True, True, False, False])
    found = thresholds.fit(scores, is_class, recall=0.8, confidence=None)
    assert (found.value, found.rank, found.positives, found.negatives, found.false_positives) == (2.0, 2, 5, 2, 1)
    assert found.asked_confidence is None
    assert found.confidence == pytest.approx(float(exact(2, 5, Fraction(4, 5))))


@pytest.mark.parametrize("shape", ["uniform", "exponential", "in steps"])
def test_the_recall_is_reached_as_often_as_promised(shape: str) -> None:
    """2,000 calibrations of 120 scores: the recall at each threshold is known from the distribution."""
    generator = np.random.default_rng(5)
    scores = generator.random((2000, 120))
    scores = {"uniform": scores, "exponential": -np.log(scores), "in steps": np.floor(scores * 40)}[shape]
    recall = {
        "uniform": lambda value: 1 - value,
        "exponential": lambda value: np.exp(-value),
        "in steps": lambda value: 1 - value / 40,  # of scores 0 to 39, equally likely
    }[shape]
    own = np.ones(120, dtype=bool)
    fitted = [thresholds.fit(row, own, recall=0.9, confidence=0.9) for row in scores]
    reached = np.mean([recall(each.value) >= 0.9 for each in fitted])
    promised = fitted[0].confidence
    assert promised >= 0.9
    error = math.sqrt(promised * (1 - promised) / len(fitted))
    if shape == "in steps":  # ties can only help
        assert reached >= promised - 4 * error
    else:
        assert reached == pytest.approx(promised, abs=4 * error)


def test_no_positives_at_all() -> None:
    with pytest.raises(TooFewPositives, match="no example of the class"):
        thresholds.fit(np.ones(3), np.zeros(3, dtype=bool), recall=0.9, confidence=None)


@pytest.mark.parametrize(("name", "value"), [("recall", 0.0), ("recall", 1.0), ("confidence", 1.0), ("recall", 1.5)])
def test_what_is_no_probability_is_refused(name: str, value: float) -> None:
    asked = {"recall": 0.9, "confidence": 0.9, name: value}
    with pytest.raises(ValueError, match=f"{name} {value} is not between 0 and 1"):
        thresholds.fit(np.ones(3), np.ones(3, dtype=bool), **asked)


def test_a_rank_that_does_not_exist() -> None:
    with pytest.raises(ValueError, match="rank 4 is not between 1 and 3"):
        thresholds.confidence_of(4, 3, 0.5)


def test_scores_that_are_no_numbers_or_do_not_fit() -> None:
    with pytest.raises(ValueError, match="not all finite"):
        thresholds.fit(np.array([1.0, np.nan]), np.ones(2, dtype=bool), recall=0.5, confidence=None)
    with pytest.raises(ValueError, match=r"int64 of shape \(2,\)"):
        thresholds.fit(np.ones(2), np.ones(2, dtype=np.int64), recall=0.5, confidence=None)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"shape \(3,\)"):
        thresholds.fit(np.ones(3), np.ones(2, dtype=bool), recall=0.5, confidence=None)


# -- on disk ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def fitted() -> Threshold:
    generator = np.random.default_rng(0)
    return thresholds.fit(generator.random(50), np.ones(50, dtype=bool), recall=0.9, confidence=0.9)


def test_they_are_read_as_they_were_written(tmp_path: Path, fitted: Threshold) -> None:
    file = tmp_path / "a.thresholds.json"
    assert thresholds.read(file) == {}
    thresholds.write(file, {417: fitted, 3: fitted})
    assert thresholds.read(file) == {3: fitted, 417: fitted}
    assert os.listdir(tmp_path) == [file.name]


def test_a_file_from_before_backbones_had_a_digest_is_read(tmp_path: Path, fitted: Threshold) -> None:
    file = tmp_path / "a.thresholds.json"
    content = json.loads(thresholds.as_json({417: fitted}))
    del content["classes"]["417"]["backbone_sha256"]
    file.write_text(json.dumps(content))
    assert thresholds.read(file) == {417: fitted}
    assert fitted.backbone_sha256 == ""


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"format": "x", "classes": {}}', '{"format": 3}', "\xff"])
def test_other_content_is_named(tmp_path: Path, content: str) -> None:
    file = tmp_path / "a.thresholds.json"
    file.write_text(content, encoding="latin-1")
    with pytest.raises(UnusableThresholds, match=r"a\.thresholds\.json"):
        thresholds.read(file)


def test_an_altered_threshold_is_named(tmp_path: Path, fitted: Threshold) -> None:
    file = tmp_path / "a.thresholds.json"
    content = json.loads(thresholds.as_json({417: fitted}))
    content["classes"]["417"]["recall"] = 2
    file.write_text(json.dumps(content))
    with pytest.raises(UnusableThresholds, match="recall"):
        thresholds.read(file)


def test_a_disk_that_refuses_leaves_the_old_file(
    tmp_path: Path, fitted: Threshold, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "a.thresholds.json"
    thresholds.write(file, {3: fitted})

    def refuse(_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(OSError, match="No space left"):
        thresholds.write(file, {3: fitted, 4: fitted})
    monkeypatch.undo()
    assert thresholds.read(file) == {3: fitted}
    assert os.listdir(tmp_path) == [file.name]
