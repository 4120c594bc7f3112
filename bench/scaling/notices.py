"""What a study warns of: what happened, why it matters, what to do."""

from bench import folder
from bench.folder import Notice

#: Noticed in the middle of a study, and no longer true once it is continued.
MENDED_BY_RESUMING = ("not-written", "not-measured", "no-point")


def left_out(classes: int, why: str) -> Notice:
    """Nothing is trained at a class count."""
    return Notice(
        kind="left-out",
        happened=f"{classes:,} classes are not trained: {why}",
        matters="there is no accuracy at this count; the optimum, the cost of a step and the speed are measured",
        remedy="a machine that can; the other counts stand",
    )


def no_reference() -> Notice:
    """Cross-entropy is not among the losses."""
    return Notice(
        kind="no-reference",
        happened="cross-entropy (ce) is not among the losses",
        matters="one logit is judged against all logits of cross-entropy: without these nothing is said of as good",
        remedy="add ce to --losses",
    )


def no_point(classes: int, loss: str, why: str) -> Notice:
    """A loss has no model at a class count."""
    return Notice(
        kind="no-point",
        happened=f"{classes:,} classes, {loss}: no learning rate led to a model ({why})",
        matters="the loss has no point at this count",
        remedy="other rates with --lr; a training that failed is tried again by --resume",
    )


def lost_seed(classes: int, name: str, why: str) -> Notice:
    """A full training at the chosen rate has no model."""
    return Notice(
        kind="no-point",
        happened=f"{classes:,} classes, {name}: {why}",
        matters="its loss has a seed less at this count",
        remedy="a lower learning rate; a training that failed is tried again by --resume",
    )


def not_measured(what: str, why: str) -> Notice:
    """A piece of the study is missing."""
    return Notice(
        kind="not-measured",
        happened=f"{what}: {why}",
        matters="it is missing from the study, which is incomplete",
        remedy="mend what the reason names, then go on with --resume",
    )


def not_written(reason: str) -> Notice:
    """The disk refused in the middle of a study."""
    return folder.not_written(reason, "the study ended here: what cannot be kept is not measured")
