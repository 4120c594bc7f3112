"""Gradients of a loss of true and largest false logits: of a few rows of the layer, found without a second pass."""

import torch
from torch import Tensor

from bench.accuracy.chunked.coefficients import Coefficients
from bench.accuracy.chunked.shards import Shard
from bench.accuracy.chunked.updates import Gradients, PlainSGD, update_rows


def sparse_backward(shard: Shard, of: Coefficients, update: PlainSGD | None) -> Gradients:
    """Of a loss of true and largest false logits, where none that matters ties: one row for each of these."""
    rows, examples, slopes = _entries(shard, of)
    gathered = shard.weight[rows].to(shard.dtype)
    features = torch.zeros_like(shard.features).index_add_(0, examples, gathered * slopes[:, None])
    gradient = shard.features[examples] * slopes[:, None]
    if update is not None:
        update_rows(shard.weight, shard.bias, rows, gradient, slopes, update)
        return Gradients(features)
    bias = None if shard.bias is None else slopes.to(shard.bias.dtype)
    return Gradients(features, gradient.to(shard.weight.dtype), bias, rows)


def any_tied(of: Coefficients) -> bool:
    """Whether a largest false logit that the loss moves with is not alone; reads one value back from a GPU."""
    assert of.rows.ties is not None
    return bool(((of.rows.ties > 1) & (of.statistics["largest_false"] != 0)).any())


def _entries(shard: Shard, of: Coefficients) -> tuple[Tensor, Tensor, Tensor]:
    """Entries of the logits' gradient (m, k_local) that are not 0: class, example and value, (r,) each.

    A class of another shard stands here as class 0 with a gradient of 0, so that nothing has to be counted.
    """
    empty = shard.labels[:0]
    if not shard.classes:
        return empty, empty, shard.features[:0, 0]
    assert of.rows.largest is not None
    examples = torch.arange(len(shard.features), device=shard.features.device)
    found = [
        _own(shard, shard.labels, examples, of.true),
        _own(shard, of.rows.largest, examples, of.statistics["largest_false"]),
    ]
    rows, owners, slopes = (torch.cat(columns) for columns in zip(*found, strict=True))
    return rows, owners, slopes


def _own(shard: Shard, classes: Tensor, examples: Tensor, slopes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    local = classes - shard.first_class
    at = local.clamp(0, shard.classes - 1)
    return at, examples, torch.where(local == at, slopes, 0)
