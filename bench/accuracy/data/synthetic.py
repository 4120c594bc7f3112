"""`synthetic:K`: any number of classes, made as they are asked for; nothing but the labels is held.

    dataset = synthetic.load("synthetic:370727,zipf=0")
    asked = dataset.queries(2000, positives=20, negatives=10_000)
    ceiling = dataset.posterior_log_odds(asked.split.images(rows), asked.classes)

Example i of a split follows from (seed, split, i) alone; see bench.accuracy.data.mixture for how.
"""

import copy
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from bench.accuracy.data.catalogue import Say
from bench.accuracy.data.mixture import Mixture
from bench.accuracy.data.philox import key, uniforms
from bench.accuracy.data.splits import Dataset, Split
from bench.accuracy.data.synthetic_spec import Spec, parse
from bench.accuracy.records import DatasetFacts
from bench.errors import UsageError

#: Examples of the validation and of the test split; the latter 10 a class within these.
VALIDATION = 10_000
TEST_RANGE = (10_000, 100_000)

#: Streams of examples; one of queries has its seed as a second number.
_TRAIN, _VALIDATION, _TEST, _QUERIES, _QUERY_NEGATIVES, _QUERIED_CLASSES = range(6)

#: Of the training split, whose digest tells whether another machine or version makes the same.
_DIGESTED = 16

#: A class with more than this share of all examples has too few others to be told from.
MOST_OF_ONE_CLASS = 0.999

#: A query's positive example has the place class * 2**32 + its number in their stream, a negative this + its number.
_NEGATIVES_FROM = 2**62


class SyntheticSplit(Split):
    """A split whose examples are made when they are asked for, on the split's device; never augmented."""

    def __init__(self, mixture: Mixture, labels: Tensor, stream: Sequence[int], places: Tensor | None = None) -> None:
        """`labels` (n,) int64; `places` (n,) of the examples in their stream, their indices if None."""
        self.labels = labels
        self.input_shape = (mixture.spec.d,)
        self._mixture = mixture
        self._stream = tuple(stream)
        self._places = places

    def images(self, indices: Tensor | Sequence[int], *, seed: int | None = None) -> Tensor:
        """As Split.images: (m,) -> (m, d), (g, m) -> (g, m, d); `seed` changes nothing. IndexError beyond the split."""
        indices = torch.as_tensor(indices, dtype=torch.int64, device="cpu")
        asked = indices.reshape(-1)
        if len(asked) and not 0 <= int(asked.min()) <= int(asked.max()) < len(self):
            raise IndexError(f"examples {int(asked.min())} to {int(asked.max())} of a split with {len(self)}")
        places = asked if self._places is None else self._places[asked]
        made = self._mixture.features(self.labels[asked], places, *self._stream)
        return made.view(*indices.shape, *self.input_shape)

    def on(self, device: torch.device | str) -> Self:
        """As Split.on: examples are made there, and are bit by bit the same."""
        moved = copy.copy(self)
        moved._mixture = self._mixture.on(device)
        return moved


@dataclass(frozen=True)
class Queries:
    """Test data of a number of classes, for each the same number of positive and of negative examples.

    `split` holds the positive examples of `classes[0]`, of `classes[1]` and so on, then a pool of negative ones that
    the queries share, drawn by the class frequencies of the data. Negative for a query are the first of the pool that
    are not of its class.
    """

    classes: Tensor
    """(q,) int64, ascending"""
    split: SyntheticSplit
    positives: int
    """of each query"""
    negatives: int
    """of each query"""

    def positives_of(self, query: int) -> Tensor:
        """Indices into `split` of the positive examples of `classes[query]`: (positives,) int64."""
        return torch.arange(query * self.positives, (query + 1) * self.positives)

    def negatives_of(self, query: int) -> Tensor:
        """Indices into `split` of the negative examples of `classes[query]`: (negatives,) int64."""
        return (self.pool_labels != self.classes[query]).nonzero().flatten()[: self.negatives] + self.pool_start

    @property
    def pool_start(self) -> int:
        """Index into `split` of the first example of the pool."""
        return len(self.classes) * self.positives

    @property
    def pool_labels(self) -> Tensor:
        """Classes of the pool's examples."""
        return self.split.labels[self.pool_start :]


@dataclass(frozen=True)
class SyntheticDataset(Dataset):
    """A data set whose posterior is known."""

    mixture: Mixture

    def posterior_log_odds(self, features: Tensor, classes: Tensor) -> Tensor:
        """Mixture.posterior_log_odds on the device of `features` (n, d); `classes` (q,) or (n, q): (n, q) float64."""
        return self.mixture.on(features.device).posterior_log_odds(features, classes)

    def log_posterior(self, features: Tensor, classes: Tensor) -> Tensor:
        """Mixture.log_posterior on the device of `features` (n, d); `classes` (q,) or (n, q): (n, q) float64."""
        return self.mixture.on(features.device).log_posterior(features, classes)

    def queries(self, classes: int = 2000, positives: int = 20, negatives: int = 10_000, seed: int = 0) -> Queries:
        """Test data in which every one of min(K, `classes`) classes, drawn by the seed, is asked for equally often.

        The number of positive and of negative examples of a query, and so its prevalence, is the same at every K.
        Raises ValueError for numbers below 1, or positives of 2**32 or more.
        """
        if min(classes, positives, negatives) < 1 or positives >= 2**32 or seed < 0:
            raise ValueError("queries need 1 or more classes, positives and negatives, and a seed of 0 or more")
        spec = self.mixture.spec
        draw = uniforms(key(spec.seed, _QUERIED_CLASSES, seed), spec.classes)
        asked = draw.argsort(stable=True)[: min(classes, spec.classes)].sort().values
        pool = _pool(self.mixture, asked, negatives, seed)
        own = (asked[:, None] * 2**32 + torch.arange(positives)).flatten()
        places = torch.cat((own, _NEGATIVES_FROM + torch.arange(len(pool))))
        labels = torch.cat((asked.repeat_interleave(positives), pool))
        return Queries(asked, SyntheticSplit(self.mixture, labels, (_QUERIES, seed), places), positives, negatives)


def load(name: str, *, split_seed: int = 0, say: Say = lambda line: None) -> SyntheticDataset:
    """The data set of that name (see bench.accuracy.data.synthetic_spec); UsageError for one that is none.

    Its splits are streams of their own: `split_seed` is recorded, and nothing is held out by it.
    """
    return make(parse(name), split_seed=split_seed, say=say)


def make(spec: Spec, *, split_seed: int = 0, say: Say = lambda line: None) -> SyntheticDataset:
    """The data set of a specification; `say` is told of classes without a training example."""
    mixture = Mixture(spec)
    least, most = TEST_RANGE
    test = min(max(10 * spec.classes, least), most)
    train, validation, tested = (
        SyntheticSplit(mixture, mixture.labels(count, stream, uniform=uniform), (stream,))
        for stream, count, uniform in (
            (_TRAIN, spec.train, False),
            (_VALIDATION, VALIDATION, False),
            (_TEST, test, spec.test == "uniform"),
        )
    )
    unseen = int((torch.bincount(train.labels, minlength=spec.classes) == 0).sum())
    notes = _notes(spec)
    if unseen:
        notes += (f"{unseen:,} of {spec.classes:,} classes have not one example to train on",)
        say(f"notice: {spec.name}: {notes[-1]}; more examples= or a smaller zipf= reach them")
    facts = DatasetFacts(
        name=spec.name,
        classes=spec.classes,
        input_shape=(spec.d,),
        train=spec.train,
        validation=VALIDATION,
        test=test,
        split_seed=split_seed,
        checksums={"first training examples": _digest(train)},
        notes=notes,
    )
    # Classes have numbers and no names: names for 2**24 of them would be most of a run.
    return SyntheticDataset(spec.name, facts, (), train, validation, tested, mixture)


def _notes(spec: Spec) -> tuple[str, ...]:
    return (
        f"made by the generator of bench.accuracy.data.mixture, seed {spec.seed}: {spec.d} dimensions; class j has a "
        f"frequency in proportion to (j + 1) ** -{spec.zipf:g}; prototypes in {spec.groups:,} groups are typically "
        f"{spec.near:g} standard deviations apart within a group, {spec.far:g} across",
        "validation and test: streams of their own, nothing is held out; class frequencies of the test split: "
        + ("uniform" if spec.test == "uniform" else "those trained on"),
    )


def _digest(split: SyntheticSplit) -> str:
    first = torch.arange(min(_DIGESTED, len(split)))
    digest = hashlib.sha256(split.labels[first].numpy().astype("<i8").tobytes())
    digest.update(split.images(first).numpy().astype("<f4").tobytes())
    return f"sha256:{digest.hexdigest()}"


def _pool(mixture: Mixture, asked: Tensor, negatives: int, seed: int) -> Tensor:
    """Labels of the shortest pool in which every class asked for has `negatives` examples of others.

    Raises UsageError where one class leaves hardly any.
    """
    most = float(mixture.log_prior(asked).exp().max())
    if most > MOST_OF_ONE_CLASS:
        raise UsageError(
            f"{mixture.spec.name}: nearly all examples are of one class, which leaves none to tell it from: lower zipf="
        )
    size = negatives
    labels = mixture.labels(int(1.1 * negatives / (1 - most)) + 1000, _QUERY_NEGATIVES, seed)  # likely enough
    while True:
        counts = torch.bincount(labels[:size], minlength=mixture.spec.classes)[asked]
        if size - int(counts.max()) >= negatives:
            return labels[:size].clone()
        others = (labels != asked[counts.argmax()]).nonzero().flatten()
        if len(others) < negatives:
            labels = mixture.labels(2 * len(labels), _QUERY_NEGATIVES, seed)
        else:
            size = int(others[negatives - 1]) + 1
