"""A decision threshold for one class at a chosen recall, and how sure that recall is.

Of n calibration scores of examples of the class, in ascending order s_1 <= ... <= s_n, the threshold is s_i, and an
example is taken for the class if its score is s_i or more. For examples drawn as the calibration data were, the recall
R at s_i is random through those data, and

    P(R >= r) >= P(Beta(i, n - i + 1) <= 1 - r) = P(Binomial(n, 1 - r) >= i),

with equality if no two scores are equal, whatever the scores' distribution (Wilks, Determination of sample sizes for
setting tolerance limits, Annals of Mathematical Statistics 12, 1941). The highest rank i whose probability reaches the
confidence asked for lets through the fewest examples of other classes. Even i = 1 needs 1 - r**n >= confidence: at
recall 0.99 and confidence 0.95 that is 299 examples of the class.
"""

import json
import math
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from scipy import stats

from archs.whole_files import replacing

Floats = npt.NDArray[np.floating]

#: First line of defence against another program's JSON.
FORMAT = "slc-bench/thresholds/1"


class TooFewPositives(ValueError):
    """No order statistic reaches the confidence asked for: one line that says how many examples it takes."""


class UnusableThresholds(ValueError):
    """A file of thresholds that cannot be read, or thresholds of another row or backbone: one line with what to do."""


class Threshold(BaseModel):
    """A decision threshold and what is known of it: a score of `value` or more is taken for the class."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    value: float
    recall: float = Field(gt=0, lt=1, description="recall asked for")
    confidence: float = Field(ge=0, le=1, description="probability, over calibration data, that the recall is reached")
    asked_confidence: float | None = Field(None, description="none: the order statistic nearest to the recall")
    positives: int = Field(ge=1, description="calibration examples of the class")
    rank: int = Field(ge=1, description="of the threshold among their scores, 1 being the lowest")
    negatives: int = Field(0, ge=0, description="calibration examples of other classes")
    false_positives: int = Field(0, ge=0, description="of those, how many reach the threshold")
    dtype: str = Field("", description="dtype of the scores; empty if not known")
    row_sha256: str = Field("", description="of the row and bias that made the scores; empty if not known")
    backbone_sha256: str = Field(
        "", description="archs.backbone.values_sha256 of the backbone that made the scores; empty if not known"
    )


def confidence_of(rank: int, positives: int, recall: float) -> float:
    """Probability that the recall at the rank-th lowest of `positives` scores is at least `recall`.

    Raises ValueError for a rank that is not between 1 and `positives`.
    """
    if not 1 <= rank <= positives:
        raise ValueError(f"rank {rank} is not between 1 and {positives}")
    return float(stats.beta.cdf(1 - recall, rank, positives - rank + 1))


def positives_needed(recall: float, confidence: float) -> int:
    """The fewest examples of the class with which any order statistic reaches the confidence."""
    needed = max(1, math.ceil(math.log1p(-confidence) / math.log(recall)))
    while needed > 1 and 1 - recall ** (needed - 1) >= confidence:  # the logarithms are rounded
        needed -= 1
    return needed


def rank_for(positives: int, recall: float, confidence: float | None) -> int:
    """The highest rank with which the recall is reached with this confidence.

    Without a confidence, the highest with which it is reached on the calibration data themselves.
    Raises TooFewPositives if there is none, ValueError for a recall or confidence that is not between 0 and 1.
    """
    _check(recall, confidence)
    if positives < 1:
        raise TooFewPositives("no example of the class is among the calibration data; a threshold needs some")
    if confidence is None:
        # Exact: 10 * (1 - 0.9) is a little less than 1 in floating point, and would cost a rank.
        # Of a Python float: numpy's own repr, np.float64(0.9), is no number.
        return positives - math.ceil(Fraction(repr(float(recall))) * positives) + 1
    ranks = np.arange(1, positives + 1)
    reached = np.asarray(stats.beta.cdf(1 - recall, ranks, positives - ranks + 1)) >= confidence
    if not reached[0]:
        raise TooFewPositives(
            f"{positives} examples of the class are too few for recall {recall:g} with confidence {confidence:g}: it "
            f"takes {positives_needed(recall, confidence)}; confidence=None takes the nearest order statistic and says "
            "how sure it is"
        )
    return int(np.count_nonzero(reached))  # it falls with the rank


def fit(scores: Floats, is_class: npt.NDArray[np.bool_], *, recall: float, confidence: float | None) -> Threshold:
    """The threshold of one class from its calibration scores.

    scores: shape (n,), of any examples; is_class: shape (n,), whether each is of the class.
    Raises TooFewPositives; ValueError for other shapes, scores that are not finite, a recall or confidence outside
    of 0 to 1.
    """
    if scores.ndim != 1 or scores.shape != is_class.shape or is_class.dtype != np.bool_:
        raise ValueError(
            f"a threshold takes scores of shape (n,) and as many truth values, not shape {scores.shape} and "
            f"{is_class.dtype} of shape {is_class.shape}"
        )
    if not np.isfinite(scores).all():
        raise ValueError("calibration scores are not all finite: no order statistic stands for them")
    own, others = np.sort(scores[is_class]), scores[~is_class]
    rank = rank_for(len(own), recall, confidence)
    value = float(own[rank - 1])
    return Threshold(
        value=value,
        recall=float(recall),  # a number of numpy's is as good
        confidence=confidence_of(rank, len(own), recall),
        asked_confidence=None if confidence is None else float(confidence),
        positives=len(own),
        rank=rank,
        negatives=len(others),
        false_positives=int(np.count_nonzero(others >= value)),
    )


def _check(recall: float, confidence: float | None) -> None:
    for name, value in (("recall", recall), ("confidence", confidence)):
        if value is not None and not 0 < value < 1:
            raise ValueError(f"{name} {value} is not between 0 and 1")


def read(path: Path) -> dict[int, Threshold]:
    """Class -> threshold; nothing for a file that is not there. Raises UnusableThresholds for other content."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError) as error:
        raise UnusableThresholds(f"{path} cannot be read: {error}") from None
    return parsed(text, str(path))


def parsed(text: str, where: str) -> dict[int, Threshold]:
    """Thresholds from JSON. Raises UnusableThresholds, naming `where` they stand."""
    try:
        content = json.loads(text)
        if content["format"] != FORMAT:
            raise ValueError(f"its format is {content['format']!r}, not {FORMAT!r}")
        return {int(index): Threshold.model_validate(each) for index, each in content["classes"].items()}
    except (ValidationError, ValueError, KeyError, TypeError, AttributeError) as error:
        reason = " ".join(str(error).split())
        raise UnusableThresholds(
            f"{where} does not hold thresholds ({reason}): remove them and fit them again"
        ) from None


def as_json(thresholds: Mapping[int, Threshold]) -> str:
    """Thresholds as the JSON that `parsed` reads."""
    classes = {str(index): thresholds[index].model_dump() for index in sorted(thresholds)}
    return json.dumps({"format": FORMAT, "classes": classes}, indent=1) + "\n"


def write(path: Path, thresholds: Mapping[int, Threshold]) -> None:
    """Write thresholds so that a reader finds the old file or the new one, never half of one. Raises OSError."""
    with replacing(path) as file:
        file.write(as_json(thresholds).encode())
