"""Steps that would not be what a recipe says: refused before the first, each in one line."""

from collections.abc import Sequence

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from bench.accuracy.models import top_layer_of
from bench.accuracy.settings import Member, Recipe
from bench.accuracy.stacking import stackable
from bench.accuracy.steps import parted
from bench.errors import UsageError


def refuse_unfit_members(members: Sequence[Member], recipe: Recipe) -> None:
    """Raise UsageError for trainings that cannot step together, or not as the recipe says."""
    rival = next((kind for kind in map(top_layer_of, members) if kind != "full"), None)
    if recipe.shard_top_layer and rival is not None:
        raise UsageError(f"a top layer of {rival} cannot be split over ranks; leave it, or --shard-top-layer, out")
    if len(members) > 1 and recipe.ranks > 1:
        raise UsageError("trainings over several ranks cannot be stacked; use stacks of 1")
    if len(members) > 1 and rival is not None:
        raise UsageError(f"trainings with a top layer of {rival} cannot be stacked; use stacks of 1")
    if len(members) > 1 and not stackable(recipe.network, recipe.dtype):
        raise UsageError(
            f"trainings of {recipe.network} in {recipe.dtype} cannot be stacked: only the MLP can, "
            "in float32 or bfloat16; use stacks of 1"
        )
    if len(members) > 1 and parted(recipe):
        raise UsageError(
            "trainings whose top layer goes over chunks of classes, or in micro-batches, cannot be stacked; use stacks "
            "of 1"
        )


def refuse_unfit_step(recipe: Recipe, ranks: int = 1) -> None:
    """Raise UsageError for a step that would be done otherwise than the recipe says. ranks: how many are there."""
    if recipe.ranks != ranks:
        start = f"start {recipe.ranks} with torchrun" if recipe.ranks > 1 else "start it without torchrun"
        raise UsageError(
            f"this is a training of {_count(recipe.ranks)}, whose steps no other number makes bit for bit, and "
            f"{_count(ranks)} would carry it out: {start}"
        )
    _refuse_unfit_ranks(recipe)
    if recipe.auxiliary_weight and parted(recipe):
        raise UsageError(
            f"{recipe.network} has an auxiliary head, which learns from all its logits of a whole minibatch: "
            "give --top-layer-step dense, and leave --accumulate out"
        )
    if recipe.dtype == "float16" and recipe.top_layer_step == "in-place":
        raise UsageError(
            "--dtype float16 passes over steps whose scaled gradients overflow, and a top layer that steps in place "
            "would not: give bfloat16, or --top-layer-step chunked"
        )
    if recipe.compile != "none" and recipe.accumulation > 1:
        raise UsageError(
            f"--compile {recipe.compile}: compiled, the two passes over a micro-batch may draw different dropout; "
            "leave it out, or --accumulate"
        )
    if recipe.batch_size % recipe.accumulation:
        raise UsageError(
            f"--accumulate {recipe.accumulation}: micro-batches of one size cannot be made of {recipe.batch_size} "
            "examples; give a number that divides them"
        )


def _refuse_unfit_ranks(recipe: Recipe) -> None:
    """Raise UsageError for a step that several ranks cannot make together."""
    if recipe.shard_top_layer and recipe.ranks == 1:
        raise UsageError(
            "--shard-top-layer splits the classes over ranks, and there is one: start several with torchrun "
            "--nproc-per-node N, or leave it out"
        )
    if recipe.ranks == 1:
        return
    if recipe.shard_top_layer and recipe.top_layer_step == "dense":
        raise UsageError(
            "--shard-top-layer: no rank has all logits of an example, as a dense step needs; give --top-layer-step "
            "in-place, or chunked"
        )
    if not recipe.shard_top_layer and recipe.top_layer_step == "in-place":
        raise UsageError(
            "--top-layer-step in-place: a top layer that every rank holds cannot step before its gradients are summed; "
            "add --shard-top-layer, or give chunked"
        )
    if recipe.shard_top_layer and recipe.dtype == "float16":
        raise UsageError(
            "--dtype float16 passes over steps whose scaled gradients overflow, which no rank knows of the others' "
            "rows: give bfloat16, or leave --shard-top-layer out"
        )
    if recipe.compile != "none":
        raise UsageError(
            f"--compile {recipe.compile}: compiled code does not keep the ranks' messages in one order; leave it out"
        )
    if recipe.batch_size // recipe.accumulation < recipe.ranks:
        what = "minibatches" if recipe.accumulation == 1 else "micro-batches"
        raise UsageError(
            f"{what} of {recipe.batch_size // recipe.accumulation} examples over {recipe.ranks} ranks: each rank needs "
            "one; start fewer ranks, or give a larger batch size"
        )


def refuse_more_ranks_than_classes(recipe: Recipe, classes: int) -> None:
    """Raise UsageError for a layer that is split over more ranks than it has classes."""
    if recipe.shard_top_layer and classes < recipe.ranks:
        raise UsageError(f"{classes} classes over {recipe.ranks} ranks: each rank needs one; start fewer ranks")


def refuse_lone_example(recipe: Recipe, network: nn.Module) -> None:
    """Raise UsageError for a network that would normalise by one example alone."""
    lone = recipe.batch_size == recipe.accumulation
    if lone and any(isinstance(part, _BatchNorm) for part in network.modules()):
        what = "minibatch" if recipe.accumulation == 1 else "micro-batch"
        raise UsageError(f"{recipe.network} normalises by its {what}, and one example has no variance; give 2 or more")


def _count(ranks: int) -> str:
    return "1 rank" if ranks == 1 else f"{ranks} ranks"
