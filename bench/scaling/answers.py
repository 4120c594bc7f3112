"""At which class counts is one logit both faster than all of them and as good? Rows in, an answer a loss out."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from bench.scaling.judgements import Judgement
from bench.scaling.rows import ScalingRow


@dataclass(frozen=True)
class Answer:
    """Where one logit of a loss is both faster and as good, over the class counts at which something was trained."""

    loss: str
    name: str
    kind: Literal["from", "some", "nowhere", "undecided"]
    """from: at `yes[0]` and every larger count, `since` the first of these; some: at these, and not at the largest;
    nowhere: at every count shown not to be; undecided: at no count shown to be, and not shown at all not to be"""
    since: int | None
    yes: tuple[int, ...]
    no: tuple[tuple[int, str], ...]
    """class counts and reasons, in a few words"""
    undecided: tuple[tuple[int, str], ...]


def answers(found: Sequence[ScalingRow]) -> list[Answer]:
    """One answer a loss, in the order of the rows; a loss that was trained nowhere has none."""
    trained = [row for row in found if row.status != "left-out"]
    return [
        _answer([row for row in trained if row.loss == loss]) for loss in dict.fromkeys(row.loss for row in trained)
    ]


def _answer(found: Sequence[ScalingRow]) -> Answer:
    """Of one loss; rows ascending in classes."""
    yes = tuple(row.classes for row in found if row.both == "yes")
    no, undecided = (tuple((row.classes, row.brief) for row in found if row.both == kind) for kind in _OPEN)
    last_other = max((index for index, row in enumerate(found) if row.both != "yes"), default=-1)
    since = found[last_other + 1].classes if last_other + 1 < len(found) else None
    if since is not None:
        kind: Literal["from", "some", "nowhere", "undecided"] = "from"
    elif yes:
        kind = "some"
    else:
        kind = "undecided" if undecided else "nowhere"
    return Answer(found[0].loss, found[0].name, kind, since, yes, no, undecided)


_OPEN: tuple[Judgement, Judgement] = ("no", "undecided")
