"""The order of passes, decided before any of them runs.

Interleaved (the default), for counts 1, k1, k2; A and A' are the two slots of the single logit (of the reference,
where that is several logits):

    round 0:  k2  A'  k1  A        every round visits every slot once, in its own random order,
    round 1:  A   k1  k2  A'       all with the same minibatch: drift of the machine hits all alike
    ...

Sequential (the paper's literal order):

    A A A ...  k1 k1 k1 ...  k2 k2 k2 ...  A' A' A' ...
"""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Slot:
    """A place in every round: a class count, or the control (the reference's second slot)."""

    classes: int
    control: bool = False


@dataclass(frozen=True)
class PlannedPass:
    """One pass to run: which slot, in which round, and whether it only prepares the next one (`kept_out`)."""

    slot: Slot
    round: int
    kept_out: bool = False


def slots_of(classes: Sequence[int], reference: int = 1) -> tuple[Slot, ...]:
    """A, the other counts in ascending order, and A' last: the sequential order. A is at `reference` classes."""
    others = sorted(set(classes) - {reference})
    return (Slot(reference), *(Slot(count) for count in others), Slot(reference, control=True))


def interleaved(slots: Sequence[Slot], *, seed: int, process: int, round: int, block: int = 1) -> list[PlannedPass]:
    """One round: every slot once, in random order seeded by (seed, process, round).

    With `block` > 1 a visit makes that many passes; the first, which follows another count, is kept out.
    """
    order = list(slots)
    random.Random(f"{seed}/{process}/{round}").shuffle(order)
    return [
        PlannedPass(slot, round, kept_out=block > 1 and nth == 0)  #
        for slot in order
        for nth in range(block)
    ]


def sequential(slots: Sequence[Slot], rounds: range) -> Iterator[PlannedPass]:
    """The paper's order: all passes of one slot, then all of the next; A first, A' last."""
    for slot in slots:
        for round in rounds:
            yield PlannedPass(slot, round)
