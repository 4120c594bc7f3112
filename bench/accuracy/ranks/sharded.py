"""A top layer whose classes are split over ranks: each holds, reads and changes its own rows alone.

    features, labels of every rank's examples   --all-gather-->   X (m, d), y (m,) on each rank
    rank r: rows [start, stop)                   row statistics of its classes (m,)   --all-gather, merged exactly-->
    the loss and its m slopes, on each rank      --> second pass over its own rows: SGD in place, or a gradient
    its share of the features' gradient (m, d)   --all-reduce-->  each rank keeps that of its own examples

Messages of a step: m (d + a few) numbers there and m d back, whatever the number of classes. Statistics are put
together in the order of ranks on each of them, so that all ranks have the same loss to the last bit.

    layer = ShardedTopLayer(weight[rows], bias[rows], form, ranks)         # rows = shares(k, ranks.size)[ranks.rank]
    step = layer.in_place_step(features, labels, lr=0.1)
    backbone_output.backward(step.features)                                # then sum_gradients of the backbone
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from bench.accuracy.chunked import (
    Form,
    Gradients,
    PlainSGD,
    RowStatistics,
    SampledForm,
    Step,
    backward,
    coefficients,
    row_statistics,
)
from bench.accuracy.chunked.shards import check_layer, computed_in
from bench.accuracy.chunked.updates import update_rows
from bench.accuracy.metrics.sharding import covered
from bench.accuracy.ranks.global_batch import gathered as gathered_statistics
from bench.accuracy.ranks.global_batch import refuse_own_draws
from bench.accuracy.ranks.held_rows import Held, HeldColumns, HeldEntries, RowGradients
from bench.accuracy.ranks.process_group import Ranks, on_all, shares
from bench.errors import UsageError


@dataclass(frozen=True, eq=False)
class GlobalMinibatch:
    """All ranks' examples, in the order of ranks: features (m, d), labels (m,), and which of them are this rank's."""

    features: Tensor
    labels: Tensor
    own: slice


class ShardedTopLayer:
    """A linear layer over k classes and its loss; this rank's part of both."""

    def __init__(
        self,
        weight: Tensor,
        bias: Tensor | None,
        form: Form | SampledForm,
        ranks: Ranks,
        *,
        first_class: int | None = None,
        chunk: int | None = None,
    ) -> None:
        """weight (k_local, d), bias (k_local,) or none: this rank's rows, which an update in place changes.

        first_class: where they begin, by default where `shares` puts them. chunk: classes at a time, by default what
        suits the device. Raises UsageError on all ranks unless the shards hold each of the form's classes once, and
        unless the ranks would draw the same noise, where the form draws any.
        """
        if isinstance(form, SampledForm):
            refuse_own_draws(form.generator, ranks)
        held = shares(form.classes, ranks.size)[ranks.rank]
        self.first_class = held.start if first_class is None else first_class
        self.weight, self.bias, self.form, self.chunk = weight, bias, form, chunk
        self._ranks = ranks
        extents = ranks.gather_objects(
            (self.first_class, len(weight), tuple(weight.shape[1:]), weight.dtype, bias is None)
        )
        _refuse_gaps([(first, count) for first, count, *_ in extents], form.classes)
        if len({tuple(of_layer) for _, _, *of_layer in extents}) > 1:
            shown = "; ".join(f"{shape} of {dtype}, bias {not none}" for _, _, shape, dtype, none in extents)
            raise UsageError(
                f"shards of one layer have rows of different kinds: {shown}; give each rank the same layer"
            )

    @classmethod
    def of_layer(
        cls, layer: nn.Linear, form: Form | SampledForm, ranks: Ranks, *, chunk: int | None = None
    ) -> "ShardedTopLayer":
        """This rank's rows of a layer that every rank holds, copied, so that the layer itself can go."""
        held = shares(form.classes, ranks.size)[ranks.rank]
        bias = None if layer.bias is None else layer.bias.detach()[held].clone()
        return cls(layer.weight.detach()[held].clone(), bias, form, ranks, chunk=chunk)

    @property
    def classes(self) -> slice:
        """The classes whose rows are here."""
        return slice(self.first_class, self.first_class + len(self.weight))

    def in_place_step(
        self, features: Tensor, labels: Tensor, lr: float, *, weight_decay: float = 0.0, places: Tensor | None = None
    ) -> Step:
        """One step of plain SGD on this rank's rows, without their gradient ever being held.

        features (m_r, d), labels (m_r,): this rank's examples, of all its accumulation steps together. Gives the loss
        of the global minibatch before the step, and its gradient for these features, (m_r, d), in their type. Raises
        UsageError on all ranks where anything does not fit on one.
        """
        loss, found = self.backward(features, labels, update=PlainSGD(lr, weight_decay), places=places)
        return Step(loss, found.features)

    def backward(
        self, features: Tensor, labels: Tensor, *, update: PlainSGD | None = None, places: Tensor | None = None
    ) -> tuple[Tensor, Gradients]:
        """The loss of the global minibatch, and gradients: for this rank's features, and for its rows of the layer.

        As `in_place_step`; without `update` the layer's gradient is returned, of all its rows or of some
        (Gradients.rows, counted from the shard's first; `dense(k_local)` makes it whole). places: where in the global
        minibatch the examples of rank 0, then those of rank 1 and so on, stand, (m,), if not one after the other: only
        noise, which each example draws for itself, depends on it.
        """
        minibatch = self.gather(features, labels)
        if isinstance(self.form, Form):
            loss, found = self._of_all(minibatch, update)
        else:
            loss, found = self._of_drawn(minibatch, update, places)
        total = self._ranks.all_reduce(found.features)
        return loss, Gradients(total[minibatch.own].to(features.dtype), found.weight, found.bias, found.rows)

    @torch.no_grad()
    def loss(self, features: Tensor, labels: Tensor) -> Tensor:
        """The loss of the global minibatch alone, as a validation needs it: a scalar."""
        minibatch = self.gather(features, labels)
        return self.loss_of(minibatch.features, minibatch.labels)

    @torch.no_grad()
    def loss_of(self, features: Tensor, labels: Tensor) -> Tensor:
        """The loss of examples that every rank has: features (m, d), labels (m,), the same on all -> a scalar."""
        if isinstance(self.form, Form):
            return coefficients(self.form, self.statistics(features, labels, self.form))[0]
        return self._of_drawn(GlobalMinibatch(features, labels.long(), slice(0, len(labels))), None)[0]

    @torch.no_grad()
    def statistics(self, features: Tensor, labels: Tensor, form: Form) -> RowStatistics:
        """True logits and row statistics over all classes, of examples that every rank has; the same bits on all."""
        own = row_statistics(
            features, self.weight, self.bias, labels, form, first_class=self.first_class, chunk=self.chunk
        )
        return RowStatistics.merged(gathered_statistics(own, self._ranks))

    def gather(self, features: Tensor, labels: Tensor) -> GlobalMinibatch:
        """All ranks' examples. Raises UsageError on all ranks where those of one do not fit the layer."""
        lengths = on_all(self._ranks, lambda: self._checked(features, labels))
        first = sum(lengths[: self._ranks.rank])
        return GlobalMinibatch(
            torch.cat(self._ranks.all_gather(features.detach(), lengths)),
            torch.cat(self._ranks.all_gather(labels.long(), lengths)),
            slice(first, first + len(labels)),
        )

    def _checked(self, features: Tensor, labels: Tensor) -> int:
        check_layer(features, self.weight, self.bias, labels, self.form.classes)
        return len(labels)

    # --- losses of all classes

    def _of_all(self, minibatch: GlobalMinibatch, update: PlainSGD | None) -> tuple[Tensor, Gradients]:
        assert isinstance(self.form, Form)
        loss, found = coefficients(self.form, self.statistics(minibatch.features, minibatch.labels, self.form))
        gradients = backward(
            minibatch.features,
            self.weight,
            self.bias,
            minibatch.labels,
            self.form,
            found,
            first_class=self.first_class,
            chunk=self.chunk,
            update=update,
        )
        return loss, gradients

    # --- losses that draw classes: every rank draws the same, and computes those it holds

    @torch.no_grad()
    def _of_drawn(
        self, minibatch: GlobalMinibatch, update: PlainSGD | None, places: Tensor | None = None
    ) -> tuple[Tensor, Gradients]:
        form = self.form
        assert isinstance(form, SampledForm)
        labels = minibatch.labels
        drawn = form.draw(len(labels))
        if places is not None and not form.shared:
            drawn = drawn[places.to(drawn.device)]
        drawn = drawn.to(labels.device)
        features = minibatch.features.to(computed_in(minibatch.features, self.weight))
        of_noise: Held = (HeldColumns if form.shared else HeldEntries).of(drawn, self.classes)
        tables: tuple[Held, Held] = (HeldEntries.of(labels[:, None], self.classes), of_noise)
        logits = torch.cat([table.logits(features, self.weight, self.bias) for table in tables], 1)
        self._ranks.all_reduce(logits)  # each is one rank's, and 0 on the others
        loss, slopes = _slopes(form, logits, labels, drawn)
        parts = [
            table.gradients(features, self.weight, of_table)
            for table, of_table in zip(tables, (slopes[:, :1], slopes[:, 1:]), strict=True)
        ]
        return loss, self._of_rows(parts, update)

    def _of_rows(self, parts: Sequence[RowGradients], update: PlainSGD | None) -> Gradients:
        features = sum((part.features for part in parts[1:]), parts[0].features)
        rows, weight, bias = (torch.cat([getattr(part, name) for part in parts]) for name in ("rows", "weight", "bias"))
        if update is None:
            return Gradients(features, weight, None if self.bias is None else bias, rows)
        update_rows(self.weight, self.bias, rows, weight, bias, update)
        return Gradients(features)


def _slopes(form: SampledForm, logits: Tensor, labels: Tensor, drawn: Tensor) -> tuple[Tensor, Tensor]:
    """The loss, and its derivative for the true and the drawn logits: logits (m, 1 + t) -> scalar, (m, 1 + t)."""
    with torch.enable_grad():
        leaves = logits.requires_grad_()
        loss = form.value(leaves[:, 0], leaves[:, 1:], labels, drawn)
    (slopes,) = torch.autograd.grad(loss, leaves)
    return loss.detach(), slopes


def _refuse_gaps(extents: Sequence[tuple[int, int]], classes: int) -> None:
    """Raise UsageError unless shards of (first class, classes) hold 0 .. classes - 1 once each, in any order."""
    end, misplaced = covered(extents)
    if misplaced is not None:
        raise UsageError(f"{misplaced}: each is to be held once")
    if end != classes:
        raise UsageError(f"shards of {end} classes for a loss over {classes}: configure the loss for the layer")
