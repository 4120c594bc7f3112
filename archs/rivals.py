"""Top layers that spare most of a full softmax: the rivals of a single logit (the paper's Sect. 2).

    layer = make("hierarchical-huffman", features=2048, classes=370_727)
    layer.log_prob(x)                  # (n, d) -> (n, k): log P(class | x), summing to 1 over the classes
    layer.score(x, (417,))             # (n, d) -> (n, 1): that column alone, as cheaply as this kind can
    OneClass(layer, (417,))            # the same as a module, in the place of a network's top layer

| kind | one class's score reads |
|---|---|
| hierarchical-* | the rows on its path: about log2 k |
| adaptive | the head, and the cluster of that class |
| differentiated, low-rank | everything: the normaliser needs every logit |

None has a bias. Weights are a random tile repeated, as a ClassBank's, for timing; `reset_parameters` draws every one,
for training.
"""

import operator
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import SupportsIndex

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from archs.code_tree import CodeTree, balanced_lengths, huffman_lengths
from archs.top_layer import ClassBank
from archs.top_layer_kinds import KINDS, NAMES, RIVALS, TopLayerKind

__all__ = ["KINDS", "NAMES", "RIVALS", "OneClass", "RivalLayer", "TopLayerKind", "make"]

#: Where classes, by falling frequency, are cut into groups: powers of k. Few groups are best on any device (Grave et
#: al. 2017, Sect. 4.3), and under Zipf's law these three hold about 1/2, 1/4 and 1/4 of all occurrences.
CUT_POWERS = (0.5, 0.75)

#: Each tail cluster of the adaptive softmax has a quarter of the width of the one before: torch's and Grave's default.
ADAPTIVE_DIVISOR = 4.0

#: Shares of the features that the second and the third group of the differentiated softmax have; the first the rest.
TAIL_SHARES = (1 / 4, 1 / 8)

#: The rank of the low-rank layer, as a share of the features.
RANK_SHARE = 1 / 8


class RivalLayer(nn.Module, ABC):
    """A top layer of k classes on d features that gives normalised log-probabilities."""

    #: What decides its shape, for the record: name -> value.
    choices: dict[str, float | str]

    def __init__(self, features: int, classes: int, frequencies: npt.NDArray[np.float64]) -> None:
        super().__init__()
        self.features = features
        self.classes = classes
        self._frequencies = frequencies

    @property
    def parameter_bytes(self) -> int:
        """Bytes of all its weights."""
        return sum(parameter.numel() * parameter.element_size() for parameter in self.parameters())

    def forward(self, x: Tensor) -> Tensor:
        """The same as `log_prob`, so that the layer stands in the place of a linear one.

        Under autocast it computes in its weights' own type, as what is summed over thousands of classes needs.
        """
        if not torch.is_autocast_enabled(x.device.type):
            return self.log_prob(x)
        with torch.autocast(x.device.type, enabled=False):
            return self.log_prob(x.to(next(self.parameters()).dtype))

    def score(self, x: Tensor, asked: tuple[int, ...]) -> Tensor:
        """Log-probabilities of the classes asked for: (n, d) -> (n, len(asked)).

        Raises ValueError for no class, or one out of range; TypeError for one that is no whole number.
        """
        scored: Tensor = self.scorer(asked)(x)
        return scored

    def work(self, batch_size: int, asked: tuple[int, ...]) -> tuple[int, int]:
        """Floating-point operations and bytes of one `score` of so many examples.

        Of its matrix products, which are all but a few of its operations: weights and inputs read, products written.
        """
        shapes = self.products(self._checked(asked))
        weights = sum(rows * width for rows, width in shapes)
        activations = batch_size * sum(rows + width for rows, width in shapes)
        return 2 * batch_size * weights, (weights + activations) * next(self.parameters()).element_size()

    def typical(self, n: int) -> tuple[int, ...]:
        """The n classes whose cost is nearest to the mean cost over what is asked for, by the classes' frequencies.

        Raises ValueError for fewer than 1 or more than k.
        """
        if not 1 <= n <= self.classes:
            raise ValueError(f"{n} of {self.classes} classes: give 1 to {self.classes}")
        costs = self._costs()
        mean = float(np.average(costs, weights=self._frequencies))
        return tuple(np.argsort(np.abs(costs - mean), kind="stable")[:n].tolist())

    def reset_parameters(self) -> None:
        """Draw every weight from torch's global generator: normal, standard deviation 1/sqrt(inputs)."""
        with torch.no_grad():
            for parameter in self.parameters():
                nn.init.normal_(parameter, std=parameter.shape[1] ** -0.5)

    @abstractmethod
    def log_prob(self, x: Tensor) -> Tensor:
        """Log-probabilities of all classes: (n, d) -> (n, k)."""

    @abstractmethod
    def scorer(self, asked: tuple[int, ...]) -> nn.Module:
        """A module (n, d) -> (n, len(asked)) that has looked up what those classes need. Raises as `score` does."""

    @abstractmethod
    def products(self, asked: tuple[int, ...]) -> list[tuple[int, int]]:
        """(rows, width) of the weight of every matrix product in one `score`."""

    @abstractmethod
    def _costs(self) -> npt.NDArray[np.float64]:
        """Weights read for each class alone, (k,)."""

    def _checked(self, asked: tuple[int, ...]) -> tuple[int, ...]:
        if not asked:
            raise ValueError("no class is asked for: name one or more")
        numbers = tuple(map(_whole_number, asked))
        wrong = next((label for label in numbers if not 0 <= label < self.classes), None)
        if wrong is not None:
            raise ValueError(f"class {wrong} is asked for, and there are classes 0 to {self.classes - 1}")
        return numbers


def _whole_number(label: SupportsIndex) -> int:
    if isinstance(label, bool):  # True would be class 1
        raise TypeError("a class is asked for by a whole number, not a bool")
    try:
        return operator.index(label)
    except TypeError:
        raise TypeError(f"a class is asked for by a whole number, not a {type(label).__name__}") from None


class OneClass(nn.Module):
    """One or several classes of a rival as a top layer: (n, d) -> (n, len(asked)).

    What a pass reads was looked up beforehand, as it would be where a class is asked for many times. It is a snapshot:
    weights that are trained on afterwards are not seen in it.
    """

    def __init__(self, layer: RivalLayer, asked: tuple[int, ...]) -> None:
        """Raises as `score` does."""
        super().__init__()
        self.in_features = layer.features
        self.out_features = len(asked)
        with torch.no_grad():
            self.scorer = layer.scorer(asked)
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        """`layer.score(x, asked)`."""
        scored: Tensor = self.scorer(x)
        return scored


# --- hierarchical softmax


class Hierarchical(RivalLayer):
    """Hierarchical softmax (Morin and Bengio 2005; with a Huffman tree Mikolov et al. 2013, Eq. 3).

    log P(class | x) is the sum of log sigmoid(+-w x) over the inner nodes on its path, + where it goes left. There are
    k - 1 of these nodes, each with d weights.
    """

    def __init__(self, features: int, frequencies: npt.NDArray[np.float64], tree: CodeTree, weight: Tensor) -> None:
        super().__init__(features, len(tree.lengths), frequencies)
        self.tree = tree
        self.weight = nn.Parameter(weight)
        self.choices = {
            "greatest depth": float(tree.lengths.max()),
            "mean depth": float(np.average(tree.lengths, weights=frequencies)),
        }
        self.register_buffer("place", _inverse(tree.order, weight.device), persistent=False)
        self.place: Tensor

    def log_prob(self, x: Tensor) -> Tensor:
        """Level by level from the root: (n, d) -> (n, k)."""
        scores = F.linear(x, self.weight)
        inner = scores.new_zeros(len(scores), 1)
        leaves = []
        for level in self.tree.levels:
            turned = scores[:, level.first_parent : level.first_parent + level.parents]
            children = torch.stack([inner + F.logsigmoid(turned), inner + F.logsigmoid(-turned)], -1).flatten(1)
            leaves.append(children[:, : level.classes])
            inner = children[:, level.classes :]
        return torch.cat(leaves, 1).index_select(1, self.place)

    def scorer(self, asked: tuple[int, ...]) -> nn.Module:
        """Holds a copy of the rows on the paths, each once."""
        paths = [self.tree.path(label) for label in self._checked(asked)]
        nodes = _nodes(paths)
        rows = self.weight.index_select(0, torch.tensor(nodes, device=self.weight.device))
        return _PathScore(rows, nodes, paths)

    def products(self, asked: tuple[int, ...]) -> list[tuple[int, int]]:
        """One product with the rows on the paths."""
        return [(len(_nodes([self.tree.path(label) for label in asked])), self.features)]

    def _costs(self) -> npt.NDArray[np.float64]:
        return (self.tree.lengths * self.features).astype(np.float64)


def _nodes(paths: Sequence[tuple[list[int], list[bool]]]) -> list[int]:
    """The inner nodes on some paths, each once, in the order of the first that has them."""
    return list(dict.fromkeys(node for nodes, _ in paths for node in nodes))


class _PathScore(nn.Module):
    """Sums of log sigmoid along paths; of several, the shorter are filled up with nodes that do not count."""

    rows: Tensor
    signs: Tensor
    places: Tensor
    counts: Tensor

    def __init__(self, rows: Tensor, nodes: Sequence[int], paths: Sequence[tuple[list[int], list[bool]]]) -> None:
        super().__init__()
        where = {node: place for place, node in enumerate(nodes)}
        longest = max(len(path) for path, _ in paths)
        signs = torch.ones(len(paths), longest, dtype=rows.dtype)
        places = torch.zeros(len(paths), longest, dtype=torch.int64)
        counts = torch.zeros_like(signs)
        for index, (path, turns) in enumerate(paths):
            signs[index, : len(path)] = torch.tensor([-1.0 if right else 1.0 for right in turns], dtype=rows.dtype)
            places[index, : len(path)] = torch.tensor([where[node] for node in path])
            counts[index, : len(path)] = 1
        self._alone = len(paths) == 1
        self.register_buffer("rows", rows)
        self.register_buffer("signs", signs.to(rows.device))
        self.register_buffer("places", places.to(rows.device))
        self.register_buffer("counts", counts.to(rows.device))

    def forward(self, x: Tensor) -> Tensor:
        """(n, d) -> (n, paths)."""
        scores = F.linear(x, self.rows)
        if self._alone:
            return F.logsigmoid(scores * self.signs).sum(1, keepdim=True)
        return (F.logsigmoid(scores[:, self.places] * self.signs) * self.counts).sum(2)


# --- classes by frequency: adaptive and differentiated softmax


class Adaptive(RivalLayer):
    """Adaptive softmax (Grave et al. 2017), torch's: a head of frequent classes, and tail clusters of the others.

    Cut at k^(1/2) and k^(3/4) classes by falling frequency; a cluster's score is that of the cluster in the head plus
    that of the class within it, on features projected to a quarter, a sixteenth.
    """

    def __init__(
        self,
        features: int,
        frequencies: npt.NDArray[np.float64],
        softmax: nn.AdaptiveLogSoftmaxWithLoss,
    ) -> None:
        super().__init__(features, len(frequencies), frequencies)
        self.softmax = softmax
        cutoffs = softmax.cutoffs
        self.choices = {"cut at": " ".join(map(str, cutoffs[:-1])), "divisor": float(softmax.div_value)}
        self._rank = _ranks(frequencies)
        device = softmax.head.weight.device
        self.register_buffer("rank", torch.from_numpy(self._rank).to(device), persistent=False)
        self.rank: Tensor

    def log_prob(self, x: Tensor) -> Tensor:
        """torch's, its columns in the order of the classes: (n, d) -> (n, k)."""
        return self.softmax.log_prob(x).index_select(1, self.rank)

    def scorer(self, asked: tuple[int, ...]) -> nn.Module:
        """Shares the weights of the head and of the clusters of those classes."""
        ranks = [int(self._rank[label]) for label in self._checked(asked)]
        return _ClusterScore(self.softmax, ranks, [_group(self.softmax.cutoffs, rank) for rank in ranks])

    def products(self, asked: tuple[int, ...]) -> list[tuple[int, int]]:
        """The head, and two products for each cluster that is needed."""
        softmax = self.softmax
        shapes = [_shape(softmax.head)]
        for group in sorted({_group(softmax.cutoffs, int(self._rank[label])) for label in asked} - {0}):
            shapes += [_shape(layer) for layer in _cluster(softmax, group)]
        return shapes

    def _costs(self) -> npt.NDArray[np.float64]:
        clusters = [_cluster(self.softmax, group) for group in range(1, len(self.softmax.cutoffs))]
        read = [0.0, *(float(sum(layer.weight.numel() for layer in cluster)) for cluster in clusters)]
        groups = np.searchsorted(self.softmax.cutoffs, self._rank, side="right")
        return np.array(read)[groups] + self.softmax.head.weight.numel()


def _cluster(softmax: nn.AdaptiveLogSoftmaxWithLoss, group: int) -> tuple[nn.Linear, nn.Linear]:
    """The projection and the classes of a tail cluster; group 0 is the head."""
    down, up = softmax.tail[group - 1].children()
    assert isinstance(down, nn.Linear)
    assert isinstance(up, nn.Linear)
    return down, up


def _shape(layer: nn.Linear) -> tuple[int, int]:
    return layer.out_features, layer.in_features


class _ClusterScore(nn.Module):
    """Log-probabilities of some classes of an adaptive softmax: each cluster that is needed is computed once."""

    order: Tensor

    def __init__(self, softmax: nn.AdaptiveLogSoftmaxWithLoss, ranks: Sequence[int], groups: Sequence[int]) -> None:
        super().__init__()
        starts = [0, *softmax.cutoffs]
        needed = sorted(set(groups) - {0})
        members = [[index for index, own in enumerate(groups) if own == group] for group in (0, *needed)]
        columns = [[ranks[index] - starts[groups[index]] for index in own] for own in members]
        self._frequent = len(columns[0])
        self.head = _NormalisedColumns(
            softmax.head, [*columns[0], *(softmax.shortlist_size + group - 1 for group in needed)]
        )
        self.clusters = nn.ModuleList(
            _NormalisedColumns(softmax.tail[group - 1], own) for group, own in zip(needed, columns[1:], strict=True)
        )
        order = np.argsort(np.array([index for own in members for index in own]))
        self._in_order = order.tolist() == list(range(len(ranks)))
        self.register_buffer("order", torch.from_numpy(order).to(softmax.head.weight.device))

    def forward(self, x: Tensor) -> Tensor:
        """(n, d) -> (n, classes asked for)."""
        head = self.head(x)
        parts = [head[:, : self._frequent]]
        for place, cluster in enumerate(self.clusters, start=self._frequent):
            parts.append(head[:, place : place + 1] + cluster(x))
        together = torch.cat(parts, 1)
        return together if self._in_order else together.index_select(1, self.order)


class _NormalisedColumns(nn.Module):
    """Some columns of a log-softmax, without the others: (n, d) -> (n, columns)."""

    columns: Tensor

    def __init__(self, logits: nn.Module, columns: Sequence[int]) -> None:
        super().__init__()
        self.logits = logits
        device = next(logits.parameters()).device
        self.register_buffer("columns", torch.tensor(list(columns), dtype=torch.int64, device=device))

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.logits(x)
        return logits.index_select(1, self.columns) - torch.logsumexp(logits, 1, keepdim=True)


class Differentiated(RivalLayer):
    """Differentiated softmax (Chen, Grangier and Auli 2016, Sect. 3.2): frequent classes see more of the features.

    Classes by falling frequency are cut at k^(1/2) and k^(3/4); each group has a slice of the features of its own,
    5/8, 1/4 and 1/8 of them. A normalised score needs all logits. One raw logit (`logit`) reads one short row, and is
    enough where the loss follows the Principle of Logit Separation.
    """

    def __init__(self, features: int, frequencies: npt.NDArray[np.float64], slices: "_Slices") -> None:
        super().__init__(features, len(frequencies), frequencies)
        self.slices = slices
        self.choices = {
            "classes of groups": " ".join(str(len(weight)) for weight in slices.weights),
            "features of groups": " ".join(str(weight.shape[1]) for weight in slices.weights),
        }
        self._rank = _ranks(frequencies)
        self.register_buffer("rank", torch.from_numpy(self._rank).to(slices.weights[0].device), persistent=False)
        self.rank: Tensor

    def log_prob(self, x: Tensor) -> Tensor:
        """(n, d) -> (n, k)."""
        return F.log_softmax(self.slices(x), 1).index_select(1, self.rank)

    def logit(self, x: Tensor, asked: tuple[int, ...]) -> Tensor:
        """Raw logits of the classes asked for, one row each: (n, d) -> (n, len(asked)). Raises as `score` does."""
        ranks = [int(self._rank[label]) for label in self._checked(asked)]
        return torch.cat([self.slices.column(x, rank) for rank in ranks], 1)

    def scorer(self, asked: tuple[int, ...]) -> nn.Module:
        """Shares all weights."""
        return _NormalisedColumns(self.slices, [int(self._rank[label]) for label in self._checked(asked)])

    def products(self, asked: tuple[int, ...]) -> list[tuple[int, int]]:
        """One for each group, whatever is asked for."""
        return [(int(weight.shape[0]), int(weight.shape[1])) for weight in self.slices.weights]

    def _costs(self) -> npt.NDArray[np.float64]:
        return np.full(self.classes, float(sum(weight.numel() for weight in self.slices.weights)))


class _Slices(nn.Module):
    """Logits of groups of classes, each from its slice of the features: (n, d) -> (n, k), by falling frequency."""

    def __init__(self, weights: Sequence[Tensor]) -> None:
        """weights: of each group, (its classes, its features)."""
        super().__init__()
        self.weights = nn.ParameterList(nn.Parameter(weight) for weight in weights)
        widths = [weight.shape[1] for weight in weights]
        self._starts = [sum(widths[:group]) for group in range(len(widths))]
        self._cutoffs = np.cumsum([len(weight) for weight in weights]).tolist()

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([F.linear(self._slice(x, group), weight) for group, weight in enumerate(self.weights)], 1)

    def column(self, x: Tensor, rank: int) -> Tensor:
        """One class's logit, (n, 1)."""
        group = _group(self._cutoffs, rank)
        row = rank - [0, *self._cutoffs][group]
        return F.linear(self._slice(x, group), self.weights[group][row : row + 1])

    def _slice(self, x: Tensor, group: int) -> Tensor:
        start = self._starts[group]
        return x[:, start : start + self.weights[group].shape[1]]


# --- low rank


class LowRank(RivalLayer):
    """A softmax whose weight is a product of d x r and r x k (Sainath et al. 2013), r an eighth of d.

    A normalised score needs all logits. One raw logit (`logit`) reads the projection and one row of r, and is enough
    where the loss follows the Principle of Logit Separation.
    """

    def __init__(self, frequencies: npt.NDArray[np.float64], down: Tensor, up: Tensor) -> None:
        super().__init__(down.shape[1], len(frequencies), frequencies)
        self.factors = nn.Sequential(_linear(down), _linear(up))
        self.choices = {"rank": float(len(down))}

    def log_prob(self, x: Tensor) -> Tensor:
        """(n, d) -> (n, k)."""
        return F.log_softmax(self.factors(x), 1)

    def logit(self, x: Tensor, asked: tuple[int, ...]) -> Tensor:
        """Raw logits of the classes asked for: (n, d) -> (n, len(asked)). Raises as `score` does."""
        down, up = self._weights()
        rows = up.index_select(0, torch.tensor(self._checked(asked), device=up.device))
        return F.linear(F.linear(x, down), rows)

    def scorer(self, asked: tuple[int, ...]) -> nn.Module:
        """Shares all weights."""
        return _NormalisedColumns(self.factors, self._checked(asked))

    def products(self, asked: tuple[int, ...]) -> list[tuple[int, int]]:
        """Two, whatever is asked for."""
        return [(int(weight.shape[0]), int(weight.shape[1])) for weight in self._weights()]

    def _costs(self) -> npt.NDArray[np.float64]:
        return np.full(self.classes, float(sum(weight.numel() for weight in self._weights())))

    def _weights(self) -> tuple[Tensor, Tensor]:
        down, up = (layer.weight for layer in self.factors.children())
        assert isinstance(down, Tensor)
        assert isinstance(up, Tensor)
        return down, up


# --- making them


def make(
    kind: TopLayerKind,
    features: int,
    classes: int,
    *,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    seed: int = 0,
    frequencies: Sequence[float] | Tensor | None = None,
) -> RivalLayer:
    """A rival of a linear top layer of `classes` classes on `features` features, its weights a repeated random tile.

    frequencies: how often each class occurs, in any unit, (k,); they decide its shape, and what `typical` means. If
    none are given, class j is taken to occur 1/(j + 1) times as often as class 0 (Zipf's law); `choices` says which.

    Raises ValueError for a kind that is no rival, sizes no rival can have, and frequencies that are none.
    """
    if kind not in RIVALS:
        raise ValueError(f"{kind!r} is no rival of the full layer; there are {', '.join(RIVALS)}")
    if features < 1 or classes < 2:
        raise ValueError(f"a {NAMES[kind]} of {classes} classes on {features} features: give 2 and 1 or more")
    rates = _rates(frequencies, classes)
    weights = _Tiles(dtype, device, seed)
    if kind == "hierarchical-balanced" or kind == "hierarchical-huffman":
        lengths = balanced_lengths(classes) if kind == "hierarchical-balanced" else huffman_lengths(rates)
        made: RivalLayer = Hierarchical(features, rates, CodeTree(lengths), weights(classes - 1, features))
    elif kind == "adaptive":
        made = Adaptive(features, rates, _adaptive(features, classes, weights))
    elif kind == "differentiated":
        shapes = slice_shapes(features, classes)
        made = Differentiated(features, rates, _Slices([weights(*shape) for shape in shapes]))
    else:
        rank = max(1, int(features * RANK_SHARE))
        made = LowRank(rates, weights(rank, features), weights(classes, rank))
    made.choices["frequencies"] = "Zipf" if frequencies is None else "given"
    return made


def cutoffs(classes: int) -> list[int]:
    """Where classes, by falling frequency, are cut into groups: at k^(1/2) and k^(3/4), each group at least one."""
    return sorted({min(max(1, int(classes**power)), classes - 1) for power in CUT_POWERS})


def slice_shapes(features: int, classes: int) -> list[tuple[int, int]]:
    """(classes, features) of each group of a differentiated softmax, the most frequent first.

    The slices make up all features; where there are fewer features than groups, there are as many groups as features.
    """
    cuts = cutoffs(classes)[: features - 1]
    tails = [max(1, int(features * share)) for share in TAIL_SHARES[: len(cuts)]]
    sizes = np.diff([0, *cuts, classes]).tolist()
    return list(zip(sizes, [features - sum(tails), *tails], strict=True))


def _rates(frequencies: Sequence[float] | Tensor | None, classes: int) -> npt.NDArray[np.float64]:
    if frequencies is None:
        return 1 / np.arange(1, classes + 1, dtype=np.float64)
    rates = torch.as_tensor(frequencies, dtype=torch.float64, device="cpu").numpy()
    if rates.shape != (classes,) or not np.isfinite(rates).all() or rates.min() < 0 or rates.sum() <= 0:
        raise ValueError(f"frequencies of shape {rates.shape}: give {classes}, none below 0 and not all 0")
    return rates


class _Tiles:
    """Weights as a ClassBank fills them; each has a seed of its own."""

    def __init__(self, dtype: torch.dtype, device: torch.device | str, seed: int) -> None:
        self._dtype, self._device, self._seed = dtype, device, seed

    def __call__(self, rows: int, width: int) -> Tensor:
        self._seed += 1
        bank = ClassBank(width, rows, bias=False, dtype=self._dtype, device=self._device, seed=self._seed - 1)
        return bank.weight


def _adaptive(features: int, classes: int, weights: _Tiles) -> nn.AdaptiveLogSoftmaxWithLoss:
    # Divided twice by 4, fewer than 16 features would leave a cluster none.
    divisor = ADAPTIVE_DIVISOR if features >= ADAPTIVE_DIVISOR ** len(CUT_POWERS) else 1.0
    softmax = nn.AdaptiveLogSoftmaxWithLoss(
        features, classes, cutoffs(classes), div_value=divisor, device=torch.device("meta")
    )
    for layer in softmax.modules():
        if isinstance(layer, nn.Linear):
            layer.weight = nn.Parameter(weights(*_shape(layer)))
    return softmax


def _linear(weight: Tensor) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
    layer.weight = nn.Parameter(weight)
    return layer


def _ranks(frequencies: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    """Rank of each class by falling frequency, the first of equals first: (k,)."""
    return _inverse_of(np.argsort(-frequencies, kind="stable"))


def _inverse_of(order: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    inverse = np.empty_like(order)
    inverse[order] = np.arange(len(order))
    return inverse


def _inverse(order: npt.NDArray[np.int64], device: torch.device) -> Tensor:
    return torch.from_numpy(_inverse_of(order)).to(device)


def _group(cuts: Sequence[int], rank: int) -> int:
    """Index of the group that a rank falls into; `cuts` are the groups' ends."""
    return int(np.searchsorted(cuts, rank, side="right"))
