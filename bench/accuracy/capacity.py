"""What a training needs of memory, and how its top layer steps: decided from sizes, before anything is asked for.

On a CPU asking for too much is not answered with an error: the kernel kills a process, perhaps another one.

    weight k x d      all three
    gradient k x d    dense, chunked
    optimiser k x d   dense, chunked: momentum, AdamW's two moments
    logits m x k      dense, in several copies

Several ranks have a share of the m examples each, and of a split layer a share of the k classes.
"""

import math
from dataclasses import dataclass
from typing import get_args

from bench.accuracy.settings import Optimiser, TopLayerStep
from bench.errors import UsageError
from bench.speed.capacity import RESERVE_BYTES

_STEPS: tuple[TopLayerStep, ...] = get_args(TopLayerStep)

_FLOAT_BYTES = 4

#: Logits of a dense step at its peak: themselves, what the loss keeps of them for its backward (two at most, as the
#: Tanimoto losses do), and their gradient.
LOGIT_COPIES = 4

#: A dense step whose logits and weight gradient take no more than this share of the memory there is stays dense: it is
#: the simplest, and on layers that small the fastest.
SMALL_SHARE = 0.05

#: Logits, or weights, of a chunk and what is made of them; twice what bench.accuracy.chunked takes on a GPU.
CHUNK_BYTES = 2**27

#: Features of all ranks' examples, where the top layer is split: themselves, their gradient, and as messages are made.
GATHERED_COPIES = 4

#: While a checkpoint is written its weights and states stand in memory three times: in use, copied apart, as a file's
#: bytes.
CHECKPOINT_COPIES = 3


@dataclass(frozen=True)
class Demand:
    """The sizes that a training's memory follows from, activations of the backbone apart.

    examples: of a step, m. classes: k. features: d. states: numbers that the optimiser keeps of each weight.
    in_host_memory: whether it trains on a CPU, whose memory checkpoints are made in too. ranks: that carry it out; the
    demand is that of one of them. sharded: whether the classes are split over them.
    """

    examples: int
    classes: int
    features: int
    backbone_parameters: int
    states: int
    in_host_memory: bool = True
    ranks: int = 1
    sharded: bool = False

    @property
    def weight_bytes(self) -> int:
        """Of the top layer's rows that a rank holds, their bias included."""
        own = math.ceil(self.classes / self.ranks) if self.sharded else self.classes
        return _FLOAT_BYTES * own * (self.features + 1)

    @property
    def logit_bytes(self) -> int:
        """Of all logits of a dense step of a rank's examples, in all their copies."""
        return _FLOAT_BYTES * LOGIT_COPIES * math.ceil(self.examples / self.ranks) * self.classes

    @property
    def possible(self) -> tuple[TopLayerStep, ...]:
        """The steps that its ranks can make together.

        A layer that all hold cannot step before its gradients are summed, and of a split one no rank has all logits.
        """
        if self.ranks == 1:
            return _STEPS
        return ("chunked", "in-place") if self.sharded else ("dense", "chunked")

    def needed(self, step: TopLayerStep) -> int:
        """Bytes at the peak, of steps or of a checkpoint."""
        states = 0 if step == "in-place" else self.states
        backbone = _FLOAT_BYTES * self.backbone_parameters
        kept = (1 + states) * self.weight_bytes + (1 + self.states) * backbone
        gradient = backbone + (0 if step == "in-place" else self.weight_bytes)
        logits = self.logit_bytes if step == "dense" else min(CHUNK_BYTES, self.logit_bytes)
        while_stepping = kept + gradient + logits
        if self.sharded:
            return self._of_a_split_layer(kept, while_stepping)
        return max(while_stepping, CHECKPOINT_COPIES * kept) if self.in_host_memory else while_stepping

    def _of_a_split_layer(self, kept: int, while_stepping: int) -> int:
        """Its rows go to a checkpoint straight from where they are; one is read beside the rows that it replaces."""
        while_stepping += _FLOAT_BYTES * GATHERED_COPIES * self.examples * self.features
        if not self.in_host_memory:
            return while_stepping
        backbone = _FLOAT_BYTES * self.backbone_parameters
        saving = kept + (CHECKPOINT_COPIES - 1) * (1 + self.states) * backbone
        return max(while_stepping, saving + self.weight_bytes)

    def words(self, step: TopLayerStep) -> str:
        """What it needs, in a refusal's words."""
        each = f" on each of {self.ranks} ranks" if self.ranks > 1 else ""
        return (
            f"{self.classes:,} classes of {self.features:,} features need {self.needed(step) / 1e9:.2f} GB to train "
            f"{_WORDS[step]}{each} (a weight of {self.weight_bytes / 1e9:.2f} GB)"
        )


_WORDS: dict[TopLayerStep, str] = {
    "dense": "through all logits",
    "chunked": "over chunks of classes",
    "in-place": "in place",
}


def states_of(optimiser: Optimiser, momentum: float) -> int:
    """Numbers that an optimiser keeps of each weight."""
    if optimiser in ("adam", "adamw"):
        return 2
    return int(momentum > 0) + int(optimiser == "rmsprop")


def choose_step(asked: str | None, demand: Demand, free_bytes: int) -> TopLayerStep:
    """How a top layer steps: as asked for; else densely where that takes little, over chunks of classes where not.

    Where not even that fits because of what the optimiser keeps, in place. Of several ranks only what they can do.
    free_bytes: of one rank. Raises UsageError for a way that is none, and where nothing fits.
    """
    if asked is not None:
        found = next((step for step in _STEPS if step == asked), None)
        if found is None:
            raise UsageError(f"--top-layer-step {asked!r}: must be one of {', '.join(_STEPS)}")
        _refuse_shortage(found, demand, free_bytes)
        return found
    small = demand.logit_bytes + demand.weight_bytes <= SMALL_SHARE * free_bytes
    if small and "dense" in demand.possible and _fits("dense", demand, free_bytes):
        return "dense"
    if _fits("chunked", demand, free_bytes):
        return "chunked"
    last = demand.possible[-1]
    _refuse_shortage(last, demand, free_bytes)
    return last


def side_by_side(step: TopLayerStep, demand: Demand, free_bytes: int) -> int:
    """Trainings that memory holds at the same time; at least 1, since one alone was found to fit."""
    return max(1, (free_bytes - RESERVE_BYTES) // max(1, demand.needed(step)))


def _fits(step: TopLayerStep, demand: Demand, free_bytes: int) -> bool:
    return demand.needed(step) + RESERVE_BYTES <= free_bytes


def _refuse_shortage(step: TopLayerStep, demand: Demand, free_bytes: int) -> None:
    if _fits(step, demand, free_bytes):
        return
    smaller = [each for each in _STEPS[_STEPS.index(step) + 1 :] if each in demand.possible]
    fitting = next((each for each in smaller if _fits(each, demand, free_bytes)), None)
    remedy = (
        f"--top-layer-step {fitting} needs {demand.needed(fitting) / 1e9:.2f} GB"
        if fitting is not None
        else "take fewer classes, fewer features, or a machine with more memory"
        + (", or add --shard-top-layer" if demand.ranks > 1 and not demand.sharded else "")
    )
    raise UsageError(
        f"{demand.words(step)}, and {max(0, free_bytes - RESERVE_BYTES) / 1e9:.2f} GB are free for it; {remedy}"
    )
