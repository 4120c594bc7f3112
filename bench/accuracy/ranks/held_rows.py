"""Logits of classes that were asked for, and their gradients, from the rows of the layer that this rank holds.

    asked, a table of class numbers     rank 0: classes 0 .. 4     rank 1: classes 5 .. 9     all-reduced
    example 0:   3  7                        z_3   0                   0   z_7                z_3  z_7
    example 1:   8  2                         0   z_2                 z_8   0                 z_8  z_2

Of each example its own classes (HeldEntries: labels, noise of its own), or the same classes of all examples
(HeldColumns: shared noise, one matrix product).
"""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class RowGradients:
    """features: (m, d). rows: (r,) own rows, one maybe more than once; weight: (r, d); bias: (r,)."""

    features: Tensor
    rows: Tensor
    weight: Tensor
    bias: Tensor


class Held(Protocol):
    """Some asked classes' rows."""

    def logits(self, features: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """features (m, d), own weight (k_local, d), own bias (k_local,) -> (m, t), 0 where another rank has the row."""

    def gradients(self, features: Tensor, weight: Tensor, slopes: Tensor) -> RowGradients:
        """From the loss's derivative for each of the logits, (m, t)."""


@dataclass(frozen=True, eq=False)
class HeldEntries:
    """Of a table (m, t) of classes, those that are here: example, column and own row of each, (n,)."""

    examples: Tensor
    columns: Tensor
    rows: Tensor
    asked: int

    @staticmethod
    def of(classes: Tensor, here: slice) -> "HeldEntries":
        """classes (m, t), numbers of the whole layer; here: the classes that this rank holds."""
        examples, columns = ((classes >= here.start) & (classes < here.stop)).nonzero(as_tuple=True)
        return HeldEntries(examples, columns, classes[examples, columns] - here.start, classes.shape[1])

    def logits(self, features: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """See Held.logits."""
        found = (features[self.examples] * weight[self.rows].to(features.dtype)).sum(1)
        if bias is not None:
            found += bias[self.rows]
        return features.new_zeros((len(features), self.asked)).index_put_((self.examples, self.columns), found)

    def gradients(self, features: Tensor, weight: Tensor, slopes: Tensor) -> RowGradients:
        """See Held.gradients."""
        own = slopes[self.examples, self.columns]
        rows = weight[self.rows].to(features.dtype)
        of_features = torch.zeros_like(features).index_add_(0, self.examples, rows * own[:, None])
        return RowGradients(of_features, self.rows, features[self.examples] * own[:, None], own)


@dataclass(frozen=True, eq=False)
class HeldColumns:
    """Of t classes asked of every example, those that are here: column and own row of each, (n,)."""

    columns: Tensor
    rows: Tensor
    asked: int

    @staticmethod
    def of(classes: Tensor, here: slice) -> "HeldColumns":
        """classes (t,), numbers of the whole layer; here: the classes that this rank holds."""
        columns = ((classes >= here.start) & (classes < here.stop)).nonzero()[:, 0]
        return HeldColumns(columns, classes[columns] - here.start, len(classes))

    def logits(self, features: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """See Held.logits."""
        found = features @ weight[self.rows].to(features.dtype).t()
        if bias is not None:
            found += bias[self.rows]
        return features.new_zeros((len(features), self.asked)).index_copy_(1, self.columns, found)

    def gradients(self, features: Tensor, weight: Tensor, slopes: Tensor) -> RowGradients:
        """See Held.gradients."""
        own = slopes[:, self.columns]
        of_features = own @ weight[self.rows].to(features.dtype)
        return RowGradients(of_features, self.rows, own.t() @ features, own.sum(0))
