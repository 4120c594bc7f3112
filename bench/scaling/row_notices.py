"""What a reader of a study's rows has to know beside them: warnings, and rows named in few words."""

from collections.abc import Sequence

from bench.folder import Notice
from bench.scaling.records import REFERENCE
from bench.scaling.rows import STEADY_STEPS, ScalingRow
from bench.scaling.run import StudyRun


def notices(run: StudyRun, found: Sequence[ScalingRow]) -> list[Notice]:
    """What a reader of the rows has to know beside them."""
    told = [_not_converged(found), _control(found), _one_seed(found), _unsteady(found), _several_settings(run)]
    return [each for each in told if each is not None]


def _not_converged(found: Sequence[ScalingRow]) -> Notice | None:
    trained = [row for row in found if row.seeds]
    states = {state: [row for row in trained if row.convergence.converged is state] for state in (False, None)}
    told = [f"{words}: {by_count(rows)}" for (_, rows), words in zip(states.items(), _STATES, strict=True) if rows]
    if not told:
        return None
    return Notice(
        kind="not-converged",
        happened=f"{sum(map(len, states.values()))} of {len(trained)} points have not been shown to have converged: "
        + "; ".join(told),
        matters="an error that still changes says how long was trained, not what a loss can reach; these points count "
        "neither for nor against one logit, unless it is worse and more steps make it worse still",
        remedy="train longer (--steps); where it cannot be told, the errors are of few examples: ask for more queries "
        "or positive examples; the ratios are in scaling.csv",
    )


#: What is said of rows that have not converged, and of those of which that cannot be told.
_STATES = ("not converged", "cannot be told")


def by_count(found: Sequence[ScalingRow]) -> str:
    """Rows in brief, each once: CE and NCE at 10 and 100 classes; CE at 1,000."""
    losses: dict[int, tuple[str, ...]] = {}
    for row in found:
        losses[row.classes] = (*losses.get(row.classes, ()), row.name)
    counts: dict[tuple[str, ...], list[str]] = {}
    for classes, names in losses.items():
        counts.setdefault(names, []).append(f"{classes:,}")
    return "; ".join(f"{listed(names)} at {listed(where)} classes" for names, where in counts.items())


def listed(texts: Sequence[str]) -> str:
    """Some words in a sentence: a, b and c."""
    return texts[0] if len(texts) == 1 else f"{', '.join(texts[:-1])} and {texts[-1]}"


def _unsteady(found: Sequence[ScalingRow]) -> Notice | None:
    """Steps that did not take as long as one another were timed on a machine that did other work."""
    timed = [row for row in found if row.cost is not None and row.cost.seconds is not None]
    where = [row for row in timed if row.cost is not None and not row.cost.is_steady]
    if not where:
        return None
    return Notice(
        kind="unsteady-steps",
        happened=f"{len(where)} of {len(timed)} times of a training step are unsteady: of {by_count(where)} the upper "
        f"quartile of the timed steps is more than {STEADY_STEPS:g} times the lower",
        matters="something else took the processor, so that the time says more of that than of the loss",
        remedy="end other work, take the lines of these out of costs.jsonl, and go on with --resume",
    )


def _control(found: Sequence[ScalingRow]) -> Notice | None:
    """Cross-entropy's own single logit, which the paper found worse, is the negative control."""
    passed = [row.classes for row in found if row.loss == REFERENCE and row.as_good == "yes"]
    if not passed:
        return None
    return Notice(
        kind="control-passed",
        happened=f"one logit of cross-entropy is as good as all of them at {', '.join(f'{k:,}' for k in passed)} "
        "classes",
        matters="it is the negative control: where even it is as good, that another loss's logit is says little of "
        "that loss",
        remedy="take the answer from class counts where the control is worse",
    )


def _one_seed(found: Sequence[ScalingRow]) -> Notice | None:
    where = [row for row in found if len(row.seeds) == 1]
    if not where:
        return None
    every = len(where) == sum(bool(row.seeds) for row in found)
    named = "all points" if every else by_count(where)
    return Notice(
        kind="one-seed",
        happened=f"one seed was trained of {named}",
        matters="their intervals say how far other queries would move an error, and nothing of the spread between "
        "trainings",
        remedy="train more seeds (--seeds)",
    )


def _several_settings(run: StudyRun) -> Notice | None:
    if run.speed is None or len(run.speed.manifest.settings) < 2:
        return None
    return Notice(
        kind="several-speed-settings",
        happened=f"the speed run has {len(run.speed.manifest.settings)} settings",
        matters="a class count has one speedup here: that of the first of them",
        remedy=f"see the table of the speed run itself: python -m reports {run.speed.path or 'its folder'}",
    )
