"""The generator behind `synthetic:K`: a Gaussian mixture seen through a bijection, whose posterior is known.

    class j          drawn with probability p_j in proportion to (j + 1) ** -zipf
    prototype mu_j = centre of group (j mod groups) + own offset      (d,), normal, of the sizes that near and far say
    latent       u = mu_j + standard normal noise                      (d,)
    observed     x = (x1, x2),  x2 = u2 + f(u1),  x1 = u1 + g(x2)      halves of d; f, g fixed random two-layer nets

The two couplings are those of L. Dinh, D. Krueger and Y. Bengio, NICE (2015), Sect. 3: undone by subtraction, and
they keep volumes, so that p(j | x) = p(j | u) with u recomputed from x. In u the log joint, mu_j . u - |mu_j|**2 / 2 +
log p_j, is linear; in x it is not, and a linear layer on x cannot express it. Two hidden layers of ReLU can: 2 d
units carry x along and d / 2 evaluate g, then f. At d = 128 these are 320 of the paper's 500 (Sect. 6.1).

Everything lies on a grid of 2**-18: products with the nets' weights, +-1, are then sums without rounding, and float32
holds x below 64, which it is, without rounding. So an example is bit by bit the same alone and in any minibatch, on
every device, and u is recomputed from x without error. (But for a normal number whose last bit in float64 differs
between two machines' logarithms or cosines: one in 10**10 of these is rounded to the next point of the grid.) Beside
noise of size 1 the grid is nothing.
"""

import copy
import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from bench.accuracy.data.philox import Key, key, normals, uniforms, words
from bench.accuracy.data.synthetic_spec import Spec

_GRID = 2.0**18

#: What random numbers are for; each has a key of its own.
_CENTRES, _OFFSETS, _NETS, _LABELS, _NOISE = range(5)

#: Prototypes that take up to this as float32 are kept once they are needed; more are made again chunk by chunk.
CACHE_BYTES = 256 * 10**6

#: Numbers of a block of examples x classes, or of examples x dimensions, in float64: 64 MB.
BLOCK_NUMBERS = 2**23


#: Examples at a time while all classes are gone through.
ROWS = 4096


@dataclass(frozen=True)
class Evidence:
    """All classes of examples in brief: the log joint of the likeliest, and log-sum-exp of the others, each (n,)."""

    largest: Tensor
    largest_class: Tensor
    others: Tensor

    @property
    def log_density(self) -> Tensor:
        """log-sum-exp over all classes, (n,)."""
        return torch.logaddexp(self.largest, self.others)


class _Net:
    """f or g: round(scale * second @ relu(first @ inputs + offsets)), on the grid. Weights are +-1."""

    def __init__(self, of: Key, inputs: int, outputs: int, units: int) -> None:
        drawn = words(of, torch.arange(inputs + outputs), units) & 1
        signs = (2 * drawn - 1).double()
        self._first, self._second = signs[:inputs], signs[inputs:].t().contiguous()
        offsets = normals(of, torch.tensor([inputs + outputs]), units)[0]
        self._offsets = _on_grid(offsets * math.sqrt(inputs))
        # Outputs about as large as the inputs: a unit's mean square is about half of `inputs`.
        self._scale = 1 / math.sqrt(units * inputs / 2)

    def __call__(self, inputs: Tensor) -> Tensor:
        """(n, inputs) on the grid -> (n, outputs) on the grid."""
        hidden = (inputs @ self._first).add_(self._offsets).relu_()
        return _on_grid((hidden @ self._second).mul_(self._scale))

    def on(self, device: torch.device) -> "_Net":
        """The same on another device."""
        moved = copy.copy(self)
        for name in ("_first", "_second", "_offsets"):
            setattr(moved, name, getattr(self, name).to(device))
        return moved


class Mixture:
    """The generator of one data set, on one device. Latent and observed examples are (n, d), labels (n,) int64."""

    def __init__(self, spec: Spec) -> None:
        """On the CPU; see `on`."""
        self.spec = spec
        self.device = torch.device("cpu")
        self._log_total = _log_total(spec)
        self._half = spec.d // 2
        rest, units = spec.d - self._half, self._half
        self._f = _Net(key(spec.seed, _NETS, 0), self._half, rest, units)
        self._g = _Net(key(spec.seed, _NETS, 1), rest, self._half, units)
        self._prototypes: Tensor | None = None
        self._prototypes_made = 0
        self._elsewhere = {self.device: self}

    def on(self, device: torch.device | str) -> "Mixture":
        """The same generator on another device; asked again, the same object, with what it keeps."""
        device = torch.empty(0, device=device).device  # cuda is cuda:0, or whichever is current
        if device not in self._elsewhere:
            moved = copy.copy(self)
            moved.device = device
            moved._f, moved._g = self._f.on(device), self._g.on(device)
            moved._prototypes = None if self._prototypes is None else self._prototypes.to(device)
            self._elsewhere[device] = moved  # one dictionary for all devices
        return self._elsewhere[device]

    def labels(self, count: int, *stream: int, uniform: bool = False) -> Tensor:
        """The classes of examples 0 to `count` - 1 of a stream: (count,) int64 on the CPU, by p_j or all alike."""
        numbers = uniforms(key(self.spec.seed, _LABELS, *stream), count)
        classes = self.spec.classes
        if uniform or self.spec.zipf == 0:
            return (numbers * classes).long()  # below K: the largest number is 1 - 2**-53
        cumulated = torch.from_numpy(np.cumsum(np.exp(self.log_prior(torch.arange(classes)).numpy())))
        labels = torch.empty(count, dtype=torch.int64)
        for rows in _slices(count, BLOCK_NUMBERS // 8):
            found = torch.searchsorted(cumulated, numbers[rows] * cumulated[-1], right=True)
            labels[rows] = found.clamp_(max=classes - 1)
        return labels

    def features(self, labels: Tensor, indices: Tensor, *stream: int) -> Tensor:
        """Observed examples of these classes: (n,), and (n,) places in a stream -> (n, d) float32, on the device."""
        labels, indices = labels.to(self.device), indices.to(self.device)
        of = key(self.spec.seed, _NOISE, *stream)
        made = torch.empty(len(labels), self.spec.d, device=self.device)
        for rows in _slices(len(labels), BLOCK_NUMBERS // self.spec.d):
            noise = _on_grid(normals(of, indices[rows], self.spec.d))
            made[rows] = self.observed(self.prototypes(labels[rows]) + noise).float()
        return made

    def observed(self, latent: Tensor) -> Tensor:
        """The map from u to x, float64 on the grid."""
        first, second = self._halves(latent)
        second = second + self._f(first)
        return torch.cat((first + self._g(second), second), dim=1)

    def latent(self, observed: Tensor) -> Tensor:
        """The map back from x to u, float64; of observed examples that are on the grid it is exact."""
        first, second = self._halves(observed.to(self.device, torch.float64))
        first = first - self._g(second)
        return torch.cat((first, second - self._f(first)), dim=1)

    def prototypes(self, classes: Tensor) -> Tensor:
        """Prototypes of these classes: (q,) int64 on the device -> (q, d) float64.

        Kept, if they fit, once as many have been made as there are: a few examples do not pay for all classes.
        """
        fit = self.spec.classes * self.spec.d * torch.float32.itemsize <= CACHE_BYTES
        self._prototypes_made += len(classes)
        if not fit or self._prototypes_made < self.spec.classes:
            return self._made(classes)
        if self._prototypes is None:
            every = torch.empty(self.spec.classes, self.spec.d, device=self.device)
            for rows in _slices(self.spec.classes, BLOCK_NUMBERS // self.spec.d):
                every[rows] = self._made(torch.arange(rows.start, rows.stop, device=self.device)).float()
            self._prototypes = every
        return self._prototypes.index_select(0, classes).double()

    def log_prior(self, classes: Tensor) -> Tensor:
        """log p_j: int64 -> float64 of the same shape."""
        return (classes + 1).double().log_().mul_(-self.spec.zipf).sub_(self._log_total)

    def log_joint(self, features: Tensor, classes: Tensor) -> Tensor:
        """log p(x, j) up to a number that an example has in common for all classes, float64 on the device.

        `features` (n, d). `classes` (q,): (n, q); or (n, q), each example's own: the same shape.
        """
        latent, classes = self.latent(features), classes.to(self.device)
        if classes.dim() == 1:
            parts = torch.split(classes, self._classes_at_once(latent))
            return torch.cat([self._of_latent(latent, part) for part in parts], dim=1)
        found = torch.empty(classes.shape, dtype=torch.float64, device=self.device)
        for rows in _slices(len(latent), max(1, BLOCK_NUMBERS // (self.spec.d * classes.shape[1]))):
            prototypes = self.prototypes(classes[rows].flatten()).view(*classes[rows].shape, -1)
            products = (prototypes @ latent[rows, :, None]).squeeze(2)
            found[rows] = products - prototypes.square().sum(2) / 2 + self.log_prior(classes[rows])
        return found

    def evidence(self, features: Tensor) -> Evidence:
        """What all K classes say of examples (n, d), in chunks of classes: never n x K at once."""
        parts = [self._evidence_of(self.latent(part)) for part in torch.split(features, ROWS)]
        return Evidence(
            torch.cat([part.largest for part in parts]),
            torch.cat([part.largest_class for part in parts]),
            torch.cat([part.others for part in parts]),
        )

    def log_posterior(self, features: Tensor, classes: Tensor, evidence: Evidence | None = None) -> Tensor:
        """log p(j | x), float64: shapes as of `log_joint`. `evidence` of these features, if it is known already."""
        evidence = evidence or self.evidence(features)
        return self.log_joint(features, classes) - evidence.log_density[:, None]

    def posterior_log_odds(self, features: Tensor, classes: Tensor, evidence: Evidence | None = None) -> Tensor:
        """log p(j | x) - log(1 - p(j | x)), float64: shapes as of `log_joint`.

        Of all scores of x it ranks the examples of a class best among others drawn by p_j (J. Neyman and E. Pearson,
        On the problem of the most efficient tests of statistical hypotheses, 1933), so its AUPRC is the ceiling.
        """
        evidence = evidence or self.evidence(features)
        joint, whole = self.log_joint(features, classes), evidence.log_density[:, None]
        classes = classes.to(self.device)
        of_largest = (classes if classes.dim() == 2 else classes[None]) == evidence.largest_class[:, None]
        # 1 - p cancels for the likeliest class alone, of which the others were summed up apart.
        below = (joint - whole).clamp_(max=math.log(0.5))
        others = torch.where(of_largest, evidence.others[:, None], whole + torch.log1p(-below.exp()))
        return joint - others

    def _evidence_of(self, latent: Tensor) -> Evidence:
        largest = torch.full((len(latent),), -math.inf, dtype=torch.float64, device=self.device)
        others, largest_class = largest.clone(), torch.zeros(len(latent), dtype=torch.int64, device=self.device)
        for columns in _slices(self.spec.classes, self._classes_at_once(latent)):
            joint = self._of_latent(latent, torch.arange(columns.start, columns.stop, device=self.device))
            top, place = joint.max(dim=1)
            rest = joint.scatter_(1, place[:, None], -math.inf).logsumexp(dim=1)
            others = torch.logaddexp(torch.logaddexp(others, rest), torch.minimum(largest, top))
            largest_class = torch.where(top > largest, place + columns.start, largest_class)
            largest = torch.maximum(largest, top)
        return Evidence(largest, largest_class, others)

    def _halves(self, examples: Tensor) -> tuple[Tensor, Tensor]:
        return examples[:, : self._half], examples[:, self._half :]

    def _of_latent(self, latent: Tensor, classes: Tensor) -> Tensor:
        prototypes = self.prototypes(classes)
        constants = self.log_prior(classes) - prototypes.square().sum(1) / 2
        return torch.addmm(constants, latent, prototypes.t())

    def _classes_at_once(self, latent: Tensor) -> int:
        return max(1, BLOCK_NUMBERS // max(len(latent), self.spec.d))

    def _made(self, classes: Tensor) -> Tensor:
        spec = self.spec
        offset = spec.near / math.sqrt(2 * spec.d)
        centre = math.sqrt((spec.far**2 - spec.near**2) / (2 * spec.d))
        groups, of_class = torch.unique(classes % spec.groups, return_inverse=True)
        centres = normals(key(spec.seed, _CENTRES), groups, spec.d).mul_(centre)
        offsets = normals(key(spec.seed, _OFFSETS), classes, spec.d).mul_(offset)
        return _on_grid(centres[of_class] + offsets)


def _log_total(spec: Spec) -> float:
    """Log of the sum of (j + 1) ** -zipf over all classes."""
    total = math.fsum(
        float(((torch.arange(rows.start, rows.stop) + 1).double() ** -spec.zipf).sum())
        for rows in _slices(spec.classes, BLOCK_NUMBERS)
    )
    return math.log(total)


def _on_grid(values: Tensor) -> Tensor:
    return values.mul_(_GRID).round_().mul_(1 / _GRID)


def _slices(count: int, size: int) -> Iterator[slice]:
    size = max(1, size)
    return (slice(start, min(start + size, count)) for start in range(0, count, size))
