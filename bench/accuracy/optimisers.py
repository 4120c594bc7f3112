"""Optimisers and schedules of the learning rate.

Trainings that step together each have a learning rate of their own: one parameter group for all that share a rate.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from bench.accuracy.settings import Recipe
from bench.errors import UsageError


def rate_factor(recipe: Recipe, step: int) -> float:
    """What the learning rate is multiplied with at a step, counted from 0.

    constant: 1. cosine: from 1 to 0 over all steps, (1 + cos(pi step / steps)) / 2 (Loshchilov and Hutter, 2017).
    exponential: decay_rate ** floor(step / decay_steps), the staircase of TensorFlow's Inception.
    """
    if recipe.schedule == "cosine":
        return (1 + math.cos(math.pi * step / recipe.steps)) / 2
    if recipe.schedule == "exponential":
        if recipe.decay_steps is None or recipe.decay_rate is None:
            raise UsageError("the exponential schedule needs decay steps and a decay rate; give both")
        return float(recipe.decay_rate ** (step // recipe.decay_steps))
    return 1.0


def capturable(recipe: Recipe) -> bool:
    """Whether a step of the optimiser can be captured in a CUDA graph: timm's RMSProp takes its rate as a number."""
    return recipe.optimiser != "rmsprop"


def make(
    recipe: Recipe, parameters: Sequence[Sequence[nn.Parameter]], rates: Sequence[float], *, capture: bool = False
) -> torch.optim.Optimizer:
    """An optimiser of the parameters of each training with its learning rate.

    SGD, Adam and AdamW are torch's, fused where they can be; RMSProp is as in TensorFlow (timm's RMSpropTF: the mean
    square starts at one, epsilon is inside the root), which is what the paper's Inception-v3 was trained with. Weight
    decay is that of the weights of linear layers and convolutions, as there: not of biases and batch norm. A group's
    `initial_lr` is its rate at step 0. With `capture` the rates are tensors on the parameters' device, and the step can
    be captured in a CUDA graph. Without parameters (a top layer alone, stepped in place) it has one empty group.
    """
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for own, rate in zip(parameters, rates, strict=True):
        for parameter in own:
            decay = recipe.weight_decay if parameter.dim() > 1 else 0.0
            groups.setdefault((rate, decay), []).append(parameter)
    made = [
        {"params": shared, "lr": rate, "initial_lr": rate, "weight_decay": decay}
        for (rate, decay), shared in (groups or {(rates[0], 0.0): []}).items()
    ]
    optimiser = _of_kind(recipe, made, capture=capture)
    if capture:
        _rates_as_tensors(optimiser)
    return optimiser


def restore(optimiser: torch.optim.Optimizer, state: dict[str, Any], *, capture: bool = False) -> None:
    """Go on from a state dict of an optimiser that was made in the same way."""
    optimiser.load_state_dict(state)
    if capture:
        _rates_as_tensors(optimiser)


def _rates_as_tensors(optimiser: torch.optim.Optimizer) -> None:
    for group in optimiser.param_groups:
        group["lr"] = torch.tensor(group["initial_lr"], device=group["params"][0].device)


def _of_kind(recipe: Recipe, groups: list[dict[str, Any]], *, capture: bool) -> torch.optim.Optimizer:
    epsilon: dict[str, Any] = {} if recipe.epsilon is None else {"eps": recipe.epsilon}
    if recipe.optimiser == "sgd":
        # Skipping an overflowed first step, fused SGD would keep momentum buffers that nothing was written into.
        return torch.optim.SGD(groups, momentum=recipe.momentum, fused=recipe.dtype != "float16")
    if recipe.optimiser == "adam":
        return torch.optim.Adam(groups, fused=True, capturable=capture, **epsilon)
    if recipe.optimiser == "adamw":
        return torch.optim.AdamW(groups, fused=True, capturable=capture, **epsilon)
    from timm.optim.rmsprop_tf import RMSpropTF

    optimiser: torch.optim.Optimizer = RMSpropTF(groups, alpha=recipe.square_decay, momentum=recipe.momentum, **epsilon)
    return optimiser


def set_rates(optimiser: torch.optim.Optimizer, factor: float) -> None:
    """Set the learning rate of every group to its initial one times `factor`; for rates that are numbers."""
    for group in optimiser.param_groups:
        group["lr"] = group["initial_lr"] * factor
