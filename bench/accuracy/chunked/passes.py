"""Two passes over the classes of a linear layer, a chunk at a time: row statistics, then gradients.

    features (m, d)       weight (k, d)
         |              +--------------+
         +------------> |  c classes   | -> logits (m, c) -> what the chunk adds to each statistic      first pass
         |              +--------------+
         +------------> |  c classes   | -> logits again -> their gradient G (m, c)                     second pass
         |              +--------------+        features' gradient += G W_c
         |                                      W_c -= lr G^T X,  or  weight's gradient_c = G^T X

Between the passes stands the loss, a function of vectors (m,) (bench.accuracy.chunked.forms). Neither m x k logits nor,
with plain SGD applied inside the chunk, a second k x d is held: logits are computed twice instead. A margin loss has a
gradient in at most 2m rows and needs no second pass, unless largest false logits tie.

Logits and statistics are float32, or float64 if features or weight are, whatever the type of the weight; a chunk of
half-precision weights is converted when it is read. No value is read back to the host between chunks, so that a GPU is
handed one after the other; there a label out of range is a device-side assertion of torch.
"""

import math

import torch
from torch import Tensor

from bench.accuracy.chunked.coefficients import Coefficients, RowStatistics, coefficients, largest_of_parts
from bench.accuracy.chunked.forms import Form
from bench.accuracy.chunked.shards import Chunk, Shard, shard_of
from bench.accuracy.chunked.sparse import any_tied, sparse_backward
from bench.accuracy.chunked.statistics import Statistic, combined, into_derivative, largest, neutral, of_chunk
from bench.accuracy.chunked.updates import Gradients, PlainSGD

__all__ = ["Coefficients", "Gradients", "PlainSGD", "RowStatistics", "backward", "coefficients", "row_statistics"]


def _exactly(device: torch.device) -> torch.autocast:
    """Autocast would round logits that the statistics need in full."""
    return torch.autocast(device.type, enabled=False)


# --- the first pass


@torch.no_grad()
def row_statistics(
    features: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    labels: Tensor,
    form: Form,
    *,
    first_class: int = 0,
    chunk: int | None = None,
) -> RowStatistics:
    """What a loss needs to know of each example's logits over these classes, without ever holding them all.

    features (m, d), weight (k_local, d), bias (k_local,) or none, labels (m,) of all classes. The layer has classes
    first_class .. first_class + k_local - 1 of the form's; of shards, take RowStatistics.merged. k_local may be 0.
    chunk: classes at a time, by default what suits the device. Raises UsageError for shapes, types or labels that do
    not fit.
    """
    shard = shard_of(features, weight, bias, labels, form, first_class, chunk)
    wants_largest = "largest_false" in form.statistics
    parts, true, places, ties = _parts(shard)
    with _exactly(features.device):
        for each in shard:
            torch.gather(each.padded, 1, each.place, out=true[each.number].unsqueeze(1))
            for name in form.statistics:
                if name != "largest_false":
                    parts[name][each.number] = of_chunk(name, each.logits, shard.terms.of(each.columns))
            if wants_largest:  # last: it overwrites the true logits
                each.padded.scatter_(1, each.place, -math.inf)
                found = largest(each.logits)
                parts["largest_false"][each.number] = found[0]
                places[each.number] = found[1] + (shard.first_class + each.columns.start)
                ties[each.number] = found[2]
    statistics = {name: combined(name, values) for name, values in parts.items()}
    own = _own_true(shard, true)
    if not wants_largest:
        return RowStatistics(own, statistics)
    return RowStatistics(own, statistics, *largest_of_parts(parts["largest_false"], places, ties))


def _parts(shard: Shard) -> tuple[dict[Statistic, Tensor], Tensor, Tensor, Tensor]:
    """Room for what each chunk finds: statistics, true logits, largest classes and ties, (chunks, m) each.

    Without classes there is one part, in which nothing was found.
    """
    shape = (max(1, math.ceil(shard.classes / shard.size)), len(shard.features))
    parts = {name: shard.features.new_full(shape, neutral(name)) for name in shard.form.statistics}
    places = shard.labels.new_full(shape, -1)
    return parts, shard.features.new_zeros(shape), places, torch.zeros_like(places)


def _own_true(shard: Shard, found: Tensor) -> Tensor:
    """Each row's true logit, less its shift, from the chunk it lies in; 0 if that is in another shard."""
    if not shard.classes:
        return found[0]
    local = shard.local
    at = local.clamp(0, shard.classes - 1)
    true = found.gather(0, at[None] // shard.size)[0]
    if shard.terms.shifts is not None:
        true = true - shard.terms.shifts[at]
    return torch.where(local == at, true, 0)


# --- the second pass


@torch.no_grad()
def backward(
    features: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    labels: Tensor,
    form: Form,
    coefficients: Coefficients,
    *,
    first_class: int = 0,
    chunk: int | None = None,
    update: PlainSGD | None = None,
) -> Gradients:
    """Gradients of the loss for features and layer; with `update` the layer's are applied and not returned.

    Arguments as of `row_statistics`; give the chunk that was given there, so that the logits are the same to the last
    bit. coefficients: of these m examples, from statistics over all classes; they may be part of a larger minibatch's.
    The margin losses have gradients of some rows only (Gradients.rows), unless largest false logits tie. Raises
    UsageError as there.
    """
    shard = shard_of(features, weight, bias, labels, form, first_class, chunk)
    with _exactly(features.device):
        if "largest_false" in form.statistics and not any_tied(coefficients):
            return sparse_backward(shard, coefficients, update)
        return _dense_backward(shard, coefficients, update)


def _dense_backward(shard: Shard, of: Coefficients, update: PlainSGD | None) -> Gradients:
    features = torch.zeros_like(shard.features)
    weight = torch.empty_like(shard.weight) if update is None else None
    bias = torch.empty_like(shard.bias) if update is None and shard.bias is not None else None
    for each in shard:
        slopes = _logit_gradient(each, shard, of)
        features.addmm_(slopes, each.weight)
        if weight is not None:
            _store(weight[each.columns], slopes, shard)
        elif update is not None:
            _step(each, slopes, shard, update)
        if shard.bias is not None:
            total = slopes.sum(0)
            if bias is not None:
                bias[each.columns] = total.to(bias.dtype)
            elif update is not None:
                shard.bias[each.columns].sub_(total, alpha=update.lr)
    return Gradients(features, weight, bias)


def _logit_gradient(each: Chunk, shard: Shard, of: Coefficients) -> Tensor:
    """Turn a chunk's logits, in place, into the loss's derivative for each of them: (m, c)."""
    tied = "largest_false" in shard.form.statistics
    slopes = _tied_gradient(each, shard, of) if tied else _gradient_of_sums(each, shard, of)
    each.padded.scatter_add_(1, each.place, of.true[:, None])
    return slopes


def _gradient_of_sums(each: Chunk, shard: Shard, of: Coefficients) -> Tensor:
    first, *others = [name for name in shard.form.statistics if name != "mean"]
    copies = [each.logits.clone() for _ in others]
    terms = shard.terms.of(each.columns)
    slopes = into_derivative(first, each.logits, of.rows.statistics[first], of.statistics[first], terms)
    for name, copy in zip(others, copies, strict=True):
        slopes += into_derivative(name, copy, of.rows.statistics[name], of.statistics[name], terms)
    if "mean" in of.statistics:
        slopes += (of.statistics["mean"] / terms.classes)[:, None]
    return slopes


def _tied_gradient(each: Chunk, shard: Shard, of: Coefficients) -> Tensor:
    """An even share for every logit that ties for the largest false one of its row, as amax gives.

    The tied logits, which may be all of them, are found by their value: the products are those of the first pass, and
    give the same bits. A row without ties goes by the class that was kept.
    """
    rows, slope = of.rows, of.statistics["largest_false"]
    assert rows.largest is not None
    assert rows.ties is not None
    each.padded.scatter_(1, each.place, -math.inf)
    share = torch.where(rows.ties > 1, slope / rows.ties.clamp(min=1), 0)
    terms = shard.terms.of(each.columns)
    slopes = into_derivative("largest_false", each.logits, rows.statistics["largest_false"], share, terms)
    place = shard.place(rows.largest, each.columns)
    each.padded.scatter_add_(1, place, torch.where(rows.ties > 1, 0, slope)[:, None])
    return slopes


def _store(into: Tensor, slopes: Tensor, shard: Shard) -> None:
    """The chunk's weight gradient, where it belongs."""
    if into.dtype == shard.dtype:
        torch.mm(slopes.t(), shard.features, out=into)
    else:
        into.copy_(slopes.t() @ shard.features)


def _step(each: Chunk, slopes: Tensor, shard: Shard, update: PlainSGD) -> None:
    """Plain SGD on the chunk's weights; those of half precision are rounded once."""
    each.weight.addmm_(slopes.t(), shard.features, beta=update.kept, alpha=-update.lr)
    if each.weight.dtype != shard.weight.dtype:
        shard.weight[each.columns] = each.weight.to(shard.weight.dtype)
