"""Trainings that each rank carries out: run as `__rank__` in a process of its own, or called with ALONE."""

import os
import runpy
import signal
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from archs.linear_rows import MakeTop
from bench.accuracy import losses, networks, training
from bench.accuracy.data import Dataset, from_arrays
from bench.accuracy.events import Ended, Stepped
from bench.accuracy.ranks import Ranks, process_group
from bench.accuracy.settings import Member, Recipe
from bench.accuracy.steps import Learner
from bench.accuracy.training import Work, train
from bench.errors import UsageError

CLASSES, STEPS, BATCH = 11, 12, 14

#: Loss with its hyperparameters, and the recipe; what ranks add to it stands apart.
CASES: dict[str, tuple[str, dict[str, Any], dict[str, Any], dict[str, Any]]] = {
    "dense": ("ce", {}, {}, {}),
    "dense, micro-batches": ("batch-ce", {}, {"accumulation": 2}, {}),
    "chunked": ("batch-max-margin", {}, {"top_layer_step": "chunked"}, {}),
    "sampled": ("nce", {"estimate": "sampled", "t": 4}, {}, {}),
    "split, chunked": (
        "batch-ce",
        {},
        {"top_layer_step": "chunked", "accumulation": 2},
        {"shard_top_layer": True},
    ),
    "split, in place": ("ce", {}, {"top_layer_step": "in-place", "schedule": "cosine"}, {"shard_top_layer": True}),
    "split, sampled": (
        "nce",
        {"estimate": "sampled", "t": 4},
        {"top_layer_step": "in-place"},
        {"shard_top_layer": True},
    ),
    "bfloat16": ("self-norm", {}, {"top_layer_step": "chunked", "dtype": "bfloat16"}, {}),
}


def toy() -> Dataset:
    source = torch.Generator().manual_seed(0)

    def drawn(count: int) -> tuple[Tensor, Tensor]:
        labels = torch.arange(count) % CLASSES
        images = torch.randn(count, 1, 4, 4, generator=source)
        images[torch.arange(count), 0, labels % 4, labels // 4] += 4
        return images, labels

    return from_arrays("toy", drawn(61), drawn(CLASSES), validation=drawn(31))


def work(case: str, size: int, **more: Any) -> Work:
    """The same training by one process (size 1) or by ranks."""
    key, hyperparameters, fields, of_ranks = CASES[case]
    asked = {**fields, **({"ranks": size, **of_ranks} if size > 1 else {})}
    made = losses.configured(key, classes=CLASSES, **hyperparameters)
    recipe = Recipe(**{"network": "mlp", "steps": STEPS, "batch_size": BATCH, "curve_points": 3, **asked, **more})
    return Work(members=(Member(loss=key, learning_rate=0.05, seed=3),), recipe=recipe, losses=(made.setting,))


def carried_out(ranks: Ranks, asked: Work, path: Path | None) -> dict[str, Any]:
    """Events as they came: steps told, and the record."""
    events: list[Stepped | Ended] = []
    train(asked, toy(), events.append, checkpoints=path, ranks=ranks)
    told = [event.model_dump_json() for event in events]
    (record,) = [event.training for event in events if isinstance(event, Ended)]
    return {"told": told, "record": record.model_dump()}


def all_cases(ranks: Ranks, path: str) -> dict[str, Any]:
    found = {case: carried_out(ranks, work(case, ranks.size), Path(path) / case) for case in CASES}
    for case in ("dense", "split, in place"):
        found[f"{case} diverges"] = diverging(ranks, case, Path(path) / "diverging")
    found["split, in place ends not finite"] = spoilt_at_the_end(ranks, "split, in place", Path(path) / "diverging")
    try:
        found["drift"] = spoilt_at_the_end(ranks, "dense", Path(path) / "diverging")
    except UsageError as error:
        found["drift"] = str(error)
    return found


def diverging(ranks: Ranks, case: str, path: Path) -> dict[str, Any]:
    """At a rate whose first step leaves hardly a number; the loss before it is as ever."""
    asked = work(case, ranks.size, weight_decay=3.0)
    member = asked.members[0].model_copy(update={"learning_rate": 1e38})
    return carried_out(ranks, asked.model_copy(update={"members": (member,)}), path)


def spoilt_at_the_end(ranks: Ranks, case: str, path: Path) -> dict[str, Any]:
    """The last step leaves one weight without a number, and on one rank alone."""
    whole = Learner.step

    def step(self: Learner, images: Tensor, labels: Tensor) -> Tensor:
        losses = whole(self, images, labels)
        held = self.module.get_parameter("1.weight") if self.sharded is None else self.sharded.weight
        if ranks.rank == ranks.size - 1:
            held.data[0, 0] = float("inf")
        return losses

    Learner.step = step  # type: ignore[method-assign]
    try:
        return carried_out(ranks, work(case, ranks.size, steps=1, curve_points=1), path)
    finally:
        Learner.step = whole  # type: ignore[method-assign]


# --- cut off, and gone on


def dropping(shape: Any, classes: int, make_top: MakeTop) -> nn.Sequential:
    """Its masks are drawn from each rank's own generator, so that it shows whether that one went on."""
    parts = (nn.Linear(16, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.ReLU(), make_top(8, classes))
    return nn.Sequential(nn.Flatten(), *parts)


def with_short_windows() -> None:
    networks.SMALL["mlp"] = dropping  # type: ignore[index]
    training.window = lambda step_s, longest: min(2, longest)
    training.PROGRESS_EVERY_S = 0.0


CUT_OFF = ("dense", "sampled", "split, chunked", "split, in place")


def cut_off(ranks: Ranks, path: str, case: str, who: int, at: int) -> str:
    """One rank is killed after step `at`, when checkpoints of that step and one before are there."""
    with_short_windows()
    process_group.ROLL_CALL_S = 0.5  # the dead do not answer

    def emit(event: Stepped | Ended) -> None:
        if ranks.rank == who and isinstance(event, Stepped) and event.step > at:
            os.kill(os.getpid(), signal.SIGKILL)

    train(work(case, ranks.size), toy(), emit, checkpoints=Path(path), checkpoint_every_s=0.0, ranks=ranks)
    return "went on"


def through_and_on(ranks: Ranks, through: str, cut: str) -> dict[str, Any]:
    """Every case unbroken, and gone on with from where it was cut off."""
    with_short_windows()
    found = {}
    for case in CUT_OFF:
        whole = carried_out(ranks, work(case, ranks.size), Path(through) / case)
        rest = carried_out(ranks, work(case, ranks.size), Path(cut) / case)
        found[case] = {"whole": whole, "rest": rest, "masks": masks_of(ranks)}
    return found


def masks_of(ranks: Ranks) -> list[bytes]:
    """The state at which each rank's dropout would begin."""
    seed = training._dropout_seed(work("dense", ranks.size), ranks)
    return ranks.gather_objects(torch.Generator().manual_seed(seed).get_state().numpy().tobytes())


if __name__ == "__rank__":
    runpy.run_path(str(Path(__file__).with_name("rank_programs.py")))["main"](globals()["GIVEN"], globals())
