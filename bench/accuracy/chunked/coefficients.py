"""What passes between the two passes over the classes: row statistics, and how the loss moves with them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from bench.accuracy.chunked.forms import Form
from bench.accuracy.chunked.statistics import Statistic, combined


@dataclass(frozen=True, eq=False)
class RowStatistics:
    """True logits and statistics of m examples over all classes, or over a shard of them.

    true: (m,), less the class's shift where the form has one; 0 where the true class is in another shard. statistics:
    (m,) each. largest: a class that has the largest false logit, (m,), and ties: how many have it, (m,); both are none
    where the form does not ask for it, and largest is -1 in a shard without classes.
    """

    true: Tensor
    statistics: Mapping[Statistic, Tensor]
    largest: Tensor | None = None
    ties: Tensor | None = None

    @staticmethod
    def merged(parts: Sequence["RowStatistics"]) -> "RowStatistics":
        """Over all classes, from the same examples over each shard of them; exact, ties included."""
        first = parts[0]
        each = {name: torch.stack([part.statistics[name] for part in parts]) for name in first.statistics}
        statistics = {name: combined(name, values) for name, values in each.items()}
        true = torch.stack([part.true for part in parts]).sum(0)
        if first.largest is None:
            return RowStatistics(true, statistics)
        places, counts = (torch.stack([part._tied(name) for part in parts]) for name in ("largest", "ties"))
        largest, ties = largest_of_parts(each["largest_false"], places, counts)
        return RowStatistics(true, statistics, largest, ties)

    @staticmethod
    def joined(parts: Sequence["RowStatistics"]) -> "RowStatistics":
        """Of more examples, from those of several ranks or accumulation steps over the same classes, in their order."""
        first = parts[0]
        statistics = {name: torch.cat([part.statistics[name] for part in parts]) for name in first.statistics}
        true = torch.cat([part.true for part in parts])
        if first.largest is None:
            return RowStatistics(true, statistics)
        largest, ties = (torch.cat([part._tied(name) for part in parts]) for name in ("largest", "ties"))
        return RowStatistics(true, statistics, largest, ties)

    def of(self, rows: slice) -> "RowStatistics":
        """Those of some of the examples."""
        largest, ties = (None if values is None else values[rows] for values in (self.largest, self.ties))
        statistics = {name: values[rows] for name, values in self.statistics.items()}
        return RowStatistics(self.true[rows], statistics, largest, ties)

    def _tied(self, name: str) -> Tensor:
        values = self.largest if name == "largest" else self.ties
        assert values is not None, "parts of one whole have the same statistics"
        return values


def largest_of_parts(values: Tensor, places: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
    """A class that has the largest value, and how many have it: (parts, m) each -> (m,), (m,)."""
    top, part = values.max(0)
    return places.gather(0, part[None])[0], (counts * (values == top)).sum(0)


@dataclass(frozen=True, eq=False)
class Coefficients:
    """How a loss moves with each example's true logit and statistics, (m,) each; and the statistics themselves."""

    rows: RowStatistics
    true: Tensor
    statistics: Mapping[Statistic, Tensor]

    def of(self, rows: slice) -> "Coefficients":
        """Those of some of the examples: of one rank's, or of one accumulation step's."""
        statistics = {name: values[rows] for name, values in self.statistics.items()}
        return Coefficients(self.rows.of(rows), self.true[rows], statistics)

    def times(self, factor: Tensor | float) -> "Coefficients":
        """Of `factor` times the loss."""
        statistics = {name: values * factor for name, values in self.statistics.items()}
        return Coefficients(self.rows, self.true * factor, statistics)


def coefficients(form: Form, rows: RowStatistics) -> tuple[Tensor, Coefficients]:
    """The loss of a whole minibatch, a scalar, and its coefficients, from row statistics over all classes."""
    with torch.enable_grad():
        true = rows.true.detach().requires_grad_()
        statistics = {name: rows.statistics[name].detach().requires_grad_() for name in form.statistics}
        value = form.value(true, statistics)
        slopes = torch.autograd.grad(value, [true, *statistics.values()], allow_unused=True, materialize_grads=True)
    return value.detach(), Coefficients(rows, slopes[0], dict(zip(statistics, slopes[1:], strict=True)))
