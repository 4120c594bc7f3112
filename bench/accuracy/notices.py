"""What a grid's run warns of: what happened, why it matters, what to do."""

from collections.abc import Iterable, Sequence

from bench import folder
from bench.accuracy.records import Training
from bench.accuracy.run import AccuracyRun
from bench.accuracy.settings import Member
from bench.folder import Notice

#: Noticed in the middle of a run, and no longer true once it is continued.
MENDED_BY_RESUMING = ("not-written", "not-tested", "rank-lost")

#: Kinds of notices about trainings that have no result.
LOST = ("diverged", "failed")


def all_notices(run: AccuracyRun) -> list[Notice]:
    """What was noticed while training and while reading, and what the records say."""
    found = [*run.manifest.notices, *run.notices, *_lost(run.trainings)]
    edges = _edges(run)
    return [*found, _at_the_edge(edges)] if edges else found


def not_written(reason: str) -> Notice:
    """The disk refused in the middle of a run."""
    return folder.not_written(reason, "the grid ended here: trainings that cannot be kept are not run")


def not_tested(member: Member, reason: str) -> Notice:
    """A chosen model could not be tested."""
    return Notice(
        kind="not-tested",
        happened=f"{member.name} was chosen and could not be tested: {reason}",
        matters="its loss has a seed less in the tables, or none",
        remedy="mend what the reason names, then go on with --resume",
    )


def rank_lost(reason: str) -> Notice:
    """One of the processes that train together is gone."""
    return Notice(
        kind="rank-lost",
        happened=reason,
        matters="the grid ended here: what ended before is kept, and the training that was under way left checkpoints",
        remedy="start as many ranks again, with --resume",
    )


def other_commit(then: str | None, now: str | None) -> Notice:
    """A run is continued by another version of slc-bench's own code."""
    return Notice(
        kind="other-commit",
        happened=f"the run was begun by commit {then or 'unknown'} and is continued by {now or 'unknown'}",
        matters="if what lies between them changes a training, those of this run do not belong together",
        remedy="check out the first commit to continue it, or start a new run",
    )


def never_seen(numbers: Sequence[int], classes: int) -> Notice:
    """Classes without an example to train on."""
    return Notice(
        kind="class-never-seen",
        happened=f"{len(numbers):,} of {classes:,} classes have no example to train on: "
        f"{_some([str(number) for number in numbers])}",
        matters="their logits are trained as false ones alone, so that test examples of them count as errors; losses "
        "that draw classes draw them all alike, unless their q says otherwise",
        remedy="more training data, or leave these classes out",
    )


def stepped_in_place(why: str, optimiser: str) -> Notice:
    """Another optimiser for the top layer than the one that was asked for, since its state has no room."""
    return Notice(
        kind="stepped-in-place",
        happened=f"{why}, more than is free: the top layer is stepped in place by plain SGD",
        matters=f"it learns without momentum or {optimiser}'s state, at the same learning rates; the backbone has both",
        remedy="a machine with more memory, then --top-layer-step chunked; or name in-place, to say that it is meant",
    )


def normalised_by_micro_batch(batch_size: int, accumulation: int) -> Notice:
    """Batch norm sees a part of the minibatch."""
    return Notice(
        kind="normalised-by-micro-batch",
        happened=f"batch norm normalises by micro-batches of {batch_size // accumulation} of {batch_size} examples",
        matters="the loss is that of the whole minibatch, the normalisation is not: another training than without",
        remedy="leave --accumulate out, or compare only with runs of the same micro-batches",
    )


def fewer_workers(workers: int, cores: int) -> Notice:
    """Less side by side than there are cores for."""
    return Notice(
        kind="fewer-workers",
        happened=f"{workers} trainings at the same time, where there are cores for {cores}: memory holds no more",
        matters="the grid takes longer; its results do not depend on it",
        remedy="a machine with more memory, or a top layer that steps in place",
    )


def _lost(ended: Iterable[Training]) -> list[Notice]:
    """One notice for all trainings that diverged, one for all that failed."""
    every = tuple(ended)
    found = []
    for status, matters, remedy in (
        ("diverged", "it is never chosen; the other learning rates of its loss stand", "a lower learning rate"),
        (
            "failed",
            "its loss was chosen among fewer learning rates",
            "mend what the reason names, then go on with --resume, which tries it again",
        ),
    ):
        lost = [f"{each.member.name} ({each.reason})" for each in every if each.status == status]
        if lost:
            trainings = "1 training" if len(lost) == 1 else f"{len(lost)} trainings"
            happened = f"{trainings} {status}: {_some(lost)}"
            found.append(Notice(kind=status, happened=happened, matters=matters, remedy=remedy))
    return found


def _some(names: list[str], most: int = 4) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def _edges(run: AccuracyRun) -> list[str]:
    """Losses whose chosen rate is the highest or lowest that was tried, with every seed, of three rates or more."""
    rates = sorted(run.manifest.learning_rates)
    if len(rates) < 3:
        return []
    chosen: dict[str, set[float]] = {}
    for evaluation in run.evaluations:
        chosen.setdefault(evaluation.member.loss, set()).add(evaluation.member.learning_rate)
    return [
        f"{loss} ({found:g})"
        for loss, (found, *others) in chosen.items()
        if not others and found in (rates[0], rates[-1])
    ]


def _at_the_edge(losses: list[str]) -> Notice:
    return Notice(
        kind="rate-at-the-edge",
        happened=f"the best learning rate lies at the end of those tried: {_some(losses)}",
        matters="a better one may lie beyond it",
        remedy="give more rates with --lr",
    )
