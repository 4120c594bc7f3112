"""Which class counts fit into memory: decided before anything is asked for.

On a CPU asking for too much is not answered with an error: the kernel kills a process, perhaps another one.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

#: Left alone whatever is measured: other programs, allocators' rounding, the run's own records.
RESERVE_BYTES = 192 * 2**20


@dataclass(frozen=True)
class Demand:
    """What a class count needs beyond what is already in memory, in bytes."""

    row_bytes: int  # of one class in the top layer, bias included
    logit_bytes: int  # of one class's logits for a minibatch
    activation_bytes: int  # of the backbone while it runs
    logit_copies: int = 2  # they stand twice while they are compared with the single one

    def at(self, classes: int) -> int:
        """Bytes at a class count."""
        return self.beside(classes, classes * self.row_bytes)

    def beside(self, classes: int, weight_bytes: int) -> int:
        """Bytes at a class count beside weights of so many bytes."""
        return weight_bytes + classes * self.logit_copies * self.logit_bytes + self.activation_bytes


def shortage(what: str, needed_bytes: int, free_bytes: int) -> str | None:
    """Why something does not fit into `free_bytes` with the reserve left alone, or None if it does."""
    needed = needed_bytes + RESERVE_BYTES
    if needed <= free_bytes:
        return None
    return f"{what} need {needed / 1e9:.2f} GB, {free_bytes / 1e9:.2f} GB are free"


def refusal(classes: int, demand: Demand, free_bytes: int) -> str | None:
    """Why a class count does not fit into `free_bytes`, or None if it does."""
    return _refusal(classes, demand.at(classes), free_bytes)


def split_by_fit(classes: Sequence[int], demand: Demand, free_bytes: int) -> tuple[list[int], dict[int, str]]:
    """The counts that fit, ascending, and the reason for each that does not."""
    return split_by_need({count: demand.at(count) for count in classes}, free_bytes)


def split_by_need(needed_bytes: Mapping[int, int], free_bytes: int) -> tuple[list[int], dict[int, str]]:
    """The same for counts whose needs are known: class count -> bytes."""
    refused = {
        count: reason for count, needed in needed_bytes.items() if (reason := _refusal(count, needed, free_bytes))
    }
    return sorted(set(needed_bytes) - set(refused)), refused


def _refusal(classes: int, needed_bytes: int, free_bytes: int) -> str | None:
    return shortage(f"{classes:,} classes", needed_bytes, free_bytes)
