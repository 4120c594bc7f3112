"""Losses and gradients of the global minibatch, of which each rank, and each accumulation step, has some examples.

    rank 0   x_0, y_0   -> true logits and row statistics (m_0,)   |                  |   slopes (m_0,) -> own backward
    rank 1   x_1, y_1   ->                                (m_1,)   | joined (m,) ->   |   slopes (m_1,) -> own backward
    rank 2   x_2, y_2   ->                                (m_2,)   | the loss         |   slopes (m_2,) -> own backward

The loss is a function of m true logits and row statistics (bench.accuracy.chunked.forms), so these few numbers an
example are all that ranks tell each other. Losses are never averaged over ranks: batch cross-entropy and batch
max-margin would then be other losses (Keren, Sabato and Schuller 2019, Sect. 5), and with uneven shares so would all.
Each rank's gradient is its part of the global one: the parts are summed (`sum_gradients`), not averaged.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from bench.accuracy.chunked import Coefficients, Form, RowStatistics, SampledForm, Statistic, coefficients
from bench.accuracy.chunked.statistics import ClassTerms, of_chunk
from bench.accuracy.ranks.process_group import Ranks, shares
from bench.errors import UsageError

#: Gradients are put together into messages of this size, which is torch's for DistributedDataParallel.
BUCKET_BYTES = 25 * 2**20


def own_rows(examples: int, ranks: Ranks) -> slice:
    """Which of a global minibatch's examples are this rank's. Raises UsageError for fewer examples than ranks."""
    if examples < ranks.size:
        raise UsageError(
            f"a minibatch of {examples} examples over {ranks.size} ranks: each rank needs one; start fewer ranks, or "
            "give a larger batch size"
        )
    return shares(examples, ranks.size)[ranks.rank]


def places_of_ranks(examples: int, micro_batches: int, size: int) -> list[Tensor]:
    """Which of a global minibatch's examples are each rank's, where a step is cut into micro-batches: int64, (m_r,).

    Of each micro-batch every rank has its share, and its own micro-batches are these shares: what the ranks see
    together at a time, and normalise by, is then what one process sees. `micro_batches` divides `examples`. Raises
    UsageError for a micro-batch of fewer examples than ranks.
    """
    each = examples // micro_batches
    if each < size:
        what = "minibatch" if micro_batches == 1 else "micro-batch"
        raise UsageError(
            f"a {what} of {each} examples over {size} ranks: each rank needs one; start fewer ranks, or "
            "give a larger batch size"
        )
    whole = torch.arange(micro_batches * each).view(micro_batches, each)
    return [whole[:, own].reshape(-1) for own in shares(each, size)]


# --- from row statistics: of a chunked layer, or of logits


def global_coefficients(
    form: Form, steps: Sequence[RowStatistics], ranks: Ranks
) -> tuple[Tensor, tuple[Coefficients, ...]]:
    """The loss of the global minibatch, a scalar and the same on all ranks, and the coefficients of each own step.

    steps: row statistics over all classes of this rank's accumulation steps, one or more; other ranks may have other
    numbers of them. For `backward` of bench.accuracy.chunked, step by step.
    """
    own = RowStatistics.joined(steps)
    everyone = gathered(own, ranks)
    value, found = coefficients(form, RowStatistics.joined(everyone))
    first = sum(len(part.true) for part in everyone[: ranks.rank])
    of_steps = []
    for step in steps:
        of_steps.append(found.of(slice(first, first + len(step.true))))
        first += len(step.true)
    return value, tuple(of_steps)


def gathered(own: RowStatistics, ranks: Ranks) -> list[RowStatistics]:
    """Row statistics of every rank, in the order of ranks."""
    names = list(own.statistics)
    numbers = torch.stack([own.true, *own.statistics.values()], 1).detach()
    lengths = [int(length) for length in ranks.gather_objects(len(numbers))]
    columns = [part.unbind(1) for part in ranks.all_gather(numbers, lengths)]
    places: list[tuple[Tensor | None, Tensor | None]] = [(None, None)] * ranks.size
    if own.largest is not None and own.ties is not None:
        found = ranks.all_gather(torch.stack([own.largest, own.ties], 1), lengths)
        places = [(part[:, 0], part[:, 1]) for part in found]
    return [
        RowStatistics(true, dict(zip(names, statistics, strict=True)), *tied)
        for (true, *statistics), tied in zip(columns, places, strict=True)
    ]


# --- from logits that are there


def global_loss(logits: Tensor, labels: Tensor, form: Form, ranks: Ranks) -> Tensor:
    """The loss of the global minibatch from this rank's logits (m_r, k) and labels (m_r,): the same on all ranks.

    Differentiable for this rank's logits, once: its gradient is this rank's part of the global one. float32 or float64.
    """
    own = statistics_of_logits(logits, labels, form)
    value, (found,) = global_coefficients(form, [detached(own)], ranks)
    return with_slopes(value, own, found)


def statistics_of_logits(logits: Tensor, labels: Tensor, form: Form) -> RowStatistics:
    """True logits and row statistics of logits (m, k) and labels (m,), under autograd; in float32 or float64.

    Largest false logits that tie share their gradient evenly, so no class of theirs is kept. Raises UsageError for
    logits of another number of classes.
    """
    if logits.dim() != 2 or logits.shape[1] != form.classes or labels.shape != logits.shape[:1]:
        raise UsageError(
            f"logits of shape {tuple(logits.shape)} and labels of shape {tuple(labels.shape)} for a loss over "
            f"{form.classes} classes: give (m, {form.classes}) and (m,)"
        )
    values = logits.float() if logits.element_size() < 4 else logits
    place = labels.long()[:, None]
    weights, shifts = (None if terms is None else terms.to(values) for terms in (form.class_weights, form.class_shifts))
    true = values.gather(1, place)[:, 0]
    if shifts is not None:
        true = true - shifts[place[:, 0]]
    terms = ClassTerms(weights, shifts, form.classes)
    statistics: dict[Statistic, Tensor] = {}
    for name in form.statistics:
        if name == "largest_false":
            statistics[name] = values.scatter(1, place, -torch.inf).amax(1)
        else:
            statistics[name] = of_chunk(name, values, terms)
    return RowStatistics(true, statistics)


def detached(rows: RowStatistics) -> RowStatistics:
    """Without their history."""
    statistics = {name: values.detach() for name, values in rows.statistics.items()}
    return RowStatistics(rows.true.detach(), statistics, rows.largest, rows.ties)


def with_slopes(value: Tensor, own: RowStatistics, of: Coefficients) -> Tensor:
    """The global loss `value` as a scalar whose backward moves with this rank's statistics as `of` says.

    own: statistics of one accumulation step under autograd; of: the coefficients of that step.
    """
    names = list(of.statistics)
    slopes = [of.true, *(of.statistics[name] for name in names)]
    placed: Tensor = _WithSlopes.apply(value, slopes, own.true, *(own.statistics[name] for name in names))
    return placed


class _WithSlopes(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor, slopes: Sequence[Tensor], *inputs: Tensor) -> Tensor:
        ctx.save_for_backward(*slopes)
        return value.clone()

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor | None, ...]:
        return None, None, *(slope * own for own in ctx.saved_tensors)


# --- losses that are means over examples, and know nothing of the others


def global_mean(loss: Tensor, examples: int, ranks: Ranks) -> tuple[Tensor, Tensor]:
    """A mean over this step's examples as its part of the global mean: the value, and what to back-propagate.

    loss: the mean over `examples` examples of this rank, of a loss that is a mean over examples: one that draws
    classes, or a rival's own. The parts add up to the global mean, the gradients of the parts to its gradient.
    """
    total = ranks.all_reduce(torch.tensor([float(examples)], dtype=torch.float64, device=loss.device))
    part = loss * (examples / float(total))
    return ranks.all_reduce(part.detach().clone()), part


def own_noise(form: SampledForm, examples: int, ranks: Ranks, places: Tensor | None = None) -> Tensor:
    """Noise classes of this rank's examples, from one draw for all `examples` of the global minibatch.

    Every rank draws it anew with a generator in the same state, so nothing is sent, and it is what one process draws:
    (t,) where shared, else (m_r, t). places: which of the examples are this rank's, (m_r,), if not `own_rows`.
    """
    drawn = form.draw(examples)
    if form.shared:
        return drawn
    return drawn[own_rows(examples, ranks)] if places is None else drawn[places.to(drawn.device)]


def refuse_own_draws(generator: torch.Generator | None, ranks: Ranks) -> None:
    """Raise UsageError on all ranks unless they draw the same: a generator that is given, in the same state."""
    state = None if generator is None else bytes(generator.get_state().cpu().numpy().tobytes())
    states = ranks.gather_objects(state)
    if ranks.size > 1 and (state is None or len(set(states)) > 1):
        raise UsageError(
            "ranks would draw different noise classes: give the loss a generator, seeded with the same number on "
            "every rank"
        )


# --- gradients of what every rank has


def sum_gradients(parameters: Iterable[Tensor], ranks: Ranks) -> None:
    """Put the sum over ranks in place of every parameter's gradient; in buckets, one message for many small ones.

    A gradient that only some ranks have counts as 0 on the others. Sparse ones stay sparse: their rows are put one
    behind another.
    """
    if ranks.size == 1:
        return
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    if not trained:
        return
    kinds = torch.tensor([_kind(parameter.grad) for parameter in trained], device=trained[0].device)
    dense: list[Tensor] = []
    for parameter, kind in zip(trained, ranks.all_reduce(kinds, "max").tolist(), strict=True):
        if kind == _NONE:
            continue
        if parameter.grad is None:
            parameter.grad = _no_rows(parameter) if kind == _SPARSE else torch.zeros_like(parameter)
        if kind == _SPARSE:
            parameter.grad = _sum_of_rows(parameter.grad, ranks)
        else:
            dense.append(parameter.grad)
    for bucket in _buckets(dense):
        _sum_together(bucket, ranks)


#: What a parameter has for a gradient.
_NONE, _DENSE, _SPARSE = range(3)


def _kind(gradient: Tensor | None) -> int:
    if gradient is None:
        return _NONE
    return _SPARSE if gradient.is_sparse else _DENSE


def _buckets(gradients: Sequence[Tensor]) -> list[list[Tensor]]:
    """Neighbours of one type and device, at most BUCKET_BYTES together; one that is larger is alone, and not copied."""
    buckets: list[list[Tensor]] = []
    room = 0
    for gradient in gradients:
        alike = buckets and (buckets[-1][0].dtype, buckets[-1][0].device) == (gradient.dtype, gradient.device)
        if not alike or gradient.nbytes > room:
            buckets.append([])
            room = BUCKET_BYTES
        buckets[-1].append(gradient)
        room -= gradient.nbytes
    return buckets


def _sum_together(bucket: Sequence[Tensor], ranks: Ranks) -> None:
    if len(bucket) == 1:
        ranks.all_reduce(bucket[0])
        return
    whole = ranks.all_reduce(torch.cat([gradient.reshape(-1) for gradient in bucket]))
    for gradient, part in zip(bucket, torch.split(whole, [gradient.numel() for gradient in bucket]), strict=True):
        gradient.copy_(part.view_as(gradient))


def _no_rows(parameter: Tensor) -> Tensor:
    """A sparse gradient of no row."""
    rows = torch.empty((1, 0), dtype=torch.int64, device=parameter.device)
    values = parameter.new_empty((0, *parameter.shape[1:]))
    return torch.sparse_coo_tensor(rows, values, parameter.shape, check_invariants=False)


def _sum_of_rows(gradient: Tensor, ranks: Ranks) -> Tensor:
    if gradient.sparse_dim() != 1:
        raise ValueError(f"a sparse gradient of {gradient.sparse_dim()} sparse axes: only rows can be put together")
    own = gradient.coalesce()
    indices = ranks.all_gather(own.indices().t())
    lengths = [len(part) for part in indices]
    values = ranks.all_gather(own.values(), lengths)
    return torch.sparse_coo_tensor(
        torch.cat(indices).t(), torch.cat(values), gradient.shape, check_invariants=False
    ).coalesce()
