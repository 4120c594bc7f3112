"""Do all ranks run the same thing? One that was started with other settings would spoil the numbers of all.

And do they still have the same weights? Gradients are the same bits everywhere, and so is every step, on machines of
one kind; where one rounds otherwise, the ranks' networks would drift apart unseen.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from bench.accuracy.ranks.process_group import Ranks
from bench.errors import UsageError

Facts = Mapping[str, object]

#: A value longer than this is compared by its digest and shown cut short.
SHOWN = 60


@dataclass(frozen=True)
class Difference:
    """A field, and what two ranks have there; none where a rank has no such field."""

    field: str
    ranks: tuple[int, int]
    values: tuple[str | None, str | None]

    def __str__(self) -> str:
        """One line."""
        one, other = (
            f"{'nothing' if value is None else _cut(value)} on rank {rank}"
            for rank, value in zip(self.ranks, self.values, strict=True)
        )
        return f"{self.field} is {one} and {other}"


def flattened(facts: Facts, before: str = "") -> dict[str, str]:
    """Field by field, in the order of their names: {"recipe": {"steps": 9}} -> {"recipe.steps": "9"}.

    facts: mappings of what JSON can hold. Numbers that differ at all differ here.
    """
    found: dict[str, str] = {}
    for name in sorted(facts):
        value, path = facts[name], f"{before}{name}"
        if isinstance(value, Mapping) and value:
            found |= flattened(value, f"{path}.")
        else:
            found[path] = json.dumps(value, sort_keys=True)
    return found


def first_difference(by_rank: Sequence[Mapping[str, str]]) -> Difference | None:
    """The first field, by name, in which a rank differs from rank 0; none where all agree."""
    first = by_rank[0]
    for field in sorted({field for fields in by_rank for field in fields}):
        for rank, fields in enumerate(by_rank):
            if fields.get(field) != first.get(field):
                return Difference(field, (0, rank), (first.get(field), fields.get(field)))
    return None


def agree(ranks: Ranks, facts: Facts) -> None:
    """Raise UsageError on all ranks unless they have the same facts.

    facts: what decides a result, such as recipe, losses, data set, versions, digests of weights; not what may differ,
    such as a device's number or a host's name. Digests go around first, the facts themselves only if these differ.
    """
    own = flattened(facts)
    digest = hashlib.sha256(json.dumps(own, sort_keys=True).encode()).hexdigest()
    if len(set(ranks.gather_objects(digest))) == 1:
        return
    difference = first_difference(ranks.gather_objects(own))
    assert difference is not None, "facts of other digests differ"
    raise UsageError(
        f"the ranks run different things: {difference}; start them all with one command line, on the same data and "
        "versions"
    )


def refuse_drift(ranks: Ranks, weights: Mapping[str, Tensor], step: int) -> None:
    """Raise UsageError on all ranks, naming the first tensor, unless every rank has the same bits in all of them.

    By sums of the bits, which cost one pass over the weights.
    """
    if ranks.size == 1:
        return
    sums = {name: _sum_of_bits(tensor) for name, tensor in weights.items()}
    everyone = ranks.gather_objects(sums)
    for rank, own in enumerate(everyone):
        for name, value in everyone[0].items():
            if own[name] != value:
                raise UsageError(
                    f"after step {step} {name} is not the same on ranks 0 and {rank}: their processors round "
                    "differently; start all ranks on machines of one kind"
                )


#: Integers of as many bytes as an element.
_OF_SIZE = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def _sum_of_bits(tensor: Tensor) -> int:
    return int(tensor.detach().view(_OF_SIZE[tensor.element_size()]).sum(dtype=torch.int64))


def _cut(value: str) -> str:
    return value if len(value) <= SHOWN else f"{value[: SHOWN - 3]}..."
