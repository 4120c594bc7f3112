"""`synthetic:K` as a data set: the same wherever it is made, its queries, and that no score beats its posterior."""

import resource
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.metrics import average_precision_score

from bench.accuracy import data, networks
from bench.accuracy.data import synthetic
from bench.accuracy.data.synthetic import Queries, SyntheticDataset
from bench.errors import UsageError

#: Prints the digest of its first examples in a process of its own, and the memory it took beyond torch's.
APART = """
import resource, sys, time
import numpy, torch
from bench.accuracy.data import mixture, synthetic
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
start = time.process_time()
dataset = synthetic.load(sys.argv[1])
print(dataset.facts.checksums["first training examples"])
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before, time.process_time() - start)
"""


@pytest.fixture(scope="module")
def hundred() -> SyntheticDataset:
    return synthetic.load("synthetic:100,zipf=0,examples=2000")


def apart(name: str) -> tuple[str, float, float]:
    found = subprocess.run([sys.executable, "-c", APART, name], check=True, capture_output=True, text=True).stdout
    digest, numbers = found.splitlines()
    kilobytes, seconds = map(float, numbers.split())
    return digest, kilobytes * 1024, seconds


def test_an_example_is_the_same_alone_in_a_batch_in_any_order_and_again(hundred: SyntheticDataset) -> None:
    order = torch.randperm(2000, generator=torch.Generator().manual_seed(0))
    batch = hundred.train.images(order)
    assert batch.shape == (2000, 128)
    assert batch.dtype is torch.float32
    whole = hundred.train.images(range(2000))
    assert torch.equal(batch, whole[order])
    for index in (0, 77, 1999):
        assert torch.equal(hundred.train.images([index])[0], whole[index])
    again = synthetic.load("synthetic:100,zipf=0,examples=2000").train
    assert torch.equal(again.images(order), batch)
    assert torch.equal(again.labels, hundred.train.labels)
    grouped = order[:12].view(3, 4)
    assert torch.equal(hundred.train.images(grouped), whole[grouped])


def test_another_process_makes_the_same() -> None:
    name = "synthetic:50,d=9,seed=4"
    assert apart(name)[0] == synthetic.load(name).facts.checksums["first training examples"]


def test_more_examples_leave_the_first_as_they_are(hundred: SyntheticDataset) -> None:
    more = synthetic.load("synthetic:100,zipf=0,examples=5000").train
    assert torch.equal(more.labels[:2000], hundred.train.labels)
    assert torch.equal(more.images(range(50)), hundred.train.images(range(50)))


def test_seeds_and_splits_are_other_examples(hundred: SyntheticDataset) -> None:
    other = synthetic.load("synthetic:100,zipf=0,examples=2000,seed=1")
    splits = [hundred.train, hundred.validation, hundred.test, other.train]
    for left in range(4):
        for right in range(left):
            assert not torch.equal(splits[left].labels[:2000], splits[right].labels[:2000])
            assert not (splits[left].images(range(5)) == splits[right].images(range(5))).any()


def test_the_facts_name_what_it_is() -> None:
    lines: list[str] = []
    dataset = data.load("synthetic:1000,examples=1k,zipf=1", split_seed=3, say=lines.append)
    facts = dataset.facts
    assert (facts.name, facts.classes, facts.input_shape) == ("synthetic:1000,examples=1000", 1000, (128,))
    assert (facts.train, facts.validation, facts.test, facts.split_seed) == (1000, 10_000, 10_000, 3)
    assert "groups are typically 5 standard deviations apart within a group, 8 across" in facts.notes[0]
    unseen = 1000 - len(set(dataset.train.labels.tolist()))
    assert f"{unseen} of 1,000 classes have not one example to train on" in facts.notes
    assert lines == [
        f"notice: synthetic:1000,examples=1000: {unseen} of 1,000 classes have not one example to train on; "
        "more examples= or a smaller zipf= reach them"
    ]
    with pytest.raises(UsageError, match="has no images; an input size is for"):
        data.load("synthetic:10", input_size=32)


def test_the_test_split_can_be_uniform() -> None:
    trained, even = (synthetic.load(f"synthetic:20,examples=2000,test={kind}") for kind in ("trained", "uniform"))
    counts = np.bincount(even.test.labels.numpy(), minlength=20)
    assert stats.chisquare(counts).pvalue > 0.001
    skewed = np.bincount(trained.test.labels.numpy(), minlength=20)
    prior = 1 / np.arange(1, 21)
    assert stats.chisquare(skewed, len(trained.test) * prior / prior.sum()).pvalue > 0.001


def test_an_index_beyond_the_split_is_refused(hundred: SyntheticDataset) -> None:
    for index in (2000, -1):
        with pytest.raises(IndexError, match="of a split with 2000"):
            hundred.train.images([index])


def asked_of(classes: int, zipf: float = 0) -> Queries:
    return synthetic.load(f"synthetic:{classes},zipf={zipf},examples=100").queries(30, positives=4, negatives=500)


@pytest.mark.parametrize("zipf", [0, 1])
@pytest.mark.parametrize("classes", [2, 10, 30, 1000])
def test_every_query_has_the_same_number_of_positives_and_negatives(classes: int, zipf: float) -> None:
    queries = asked_of(classes, zipf)
    assert len(queries.classes) == min(classes, 30)
    assert len(set(queries.classes.tolist())) == len(queries.classes)
    for query, asked in enumerate(queries.classes):
        positive, negative = queries.positives_of(query), queries.negatives_of(query)
        assert (queries.split.labels[positive] == asked).all()
        assert (queries.split.labels[negative] != asked).all()
        assert (len(set(positive.tolist())), len(set(negative.tolist()))) == (4, 500)
    assert len(queries.pool_labels) < 500 * 4  # the shortest pool that has them, not a pool for each query


def test_negatives_are_drawn_as_the_data_are() -> None:
    dataset = synthetic.load("synthetic:6,examples=100")
    queries = dataset.queries(6, positives=1, negatives=20_000)
    prior = dataset.mixture.log_prior(torch.arange(6)).exp().numpy()
    for query in range(6):
        counts = np.bincount(queries.split.labels[queries.negatives_of(query)].numpy(), minlength=6)
        others = np.delete(prior, query)
        assert stats.chisquare(np.delete(counts, query), 20_000 * others / others.sum()).pvalue > 0.001


def test_queries_follow_from_their_seed_alone(hundred: SyntheticDataset) -> None:
    first, again, other = (hundred.queries(10, 3, 50, seed=seed) for seed in (0, 0, 1))
    rows = torch.arange(len(first.split))
    assert torch.equal(first.classes, again.classes)
    assert torch.equal(first.split.images(rows), again.split.images(rows))
    assert not torch.equal(first.classes, other.classes)
    images = first.split.images(rows)
    assert len(torch.unique(images, dim=0)) == len(rows)
    counts = Counter(int(label) for seed in range(40) for label in hundred.queries(25, 1, 10, seed=seed).classes)
    assert stats.chisquare([counts[label] for label in range(100)]).pvalue > 0.001


def test_queries_that_cannot_be_are_refused(hundred: SyntheticDataset) -> None:
    for wrong in ((0, 1, 1), (1, 0, 1), (1, 1, 0)):
        with pytest.raises(ValueError, match="1 or more"):
            hundred.queries(*wrong)
    with pytest.raises(UsageError, match="nearly all examples are of one class"):
        synthetic.load("synthetic:3,zipf=30,examples=100").queries(3, 1, 100)


def errors(queries: Queries, scores: torch.Tensor) -> list[float]:
    """1 - AUPRC of each query; scores (n, q) of the examples of `queries.split`."""
    found = []
    for query in range(len(queries.classes)):
        rows = torch.cat((queries.positives_of(query), queries.negatives_of(query)))
        is_true = np.arange(len(rows)) < queries.positives
        found.append(1 - average_precision_score(is_true, scores[rows, query].numpy()))
    return found


def test_no_other_score_ranks_better_than_the_posterior() -> None:
    """The log likelihood is what one logit can be at best without the others; the rest are what a network may learn."""
    dataset = synthetic.load("synthetic:40,zipf=0.5,near=3,far=4,d=16,examples=100")
    queries = dataset.queries(40, positives=50, negatives=2000)
    features = queries.split.images(range(len(queries.split)))
    best = errors(queries, dataset.posterior_log_odds(features, queries.classes))
    joint = dataset.mixture.log_joint(features, queries.classes)
    prototypes = dataset.mixture.prototypes(queries.classes)
    rivals = {
        "log joint": joint,
        "distance in x": -torch.cdist(features.double(), dataset.mixture.observed(prototypes)),
        "distance in u": -torch.cdist(dataset.mixture.latent(features), prototypes),
        "noisy": dataset.posterior_log_odds(features, queries.classes)
        + torch.randn(joint.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64),
    }
    assert 0.01 < np.mean(best) < 0.9
    for name, scores in rivals.items():
        others = errors(queries, scores)
        assert np.mean(others) > np.mean(best) + 2 * stats.sem(np.subtract(others, best)), name
    posterior = dataset.log_posterior(features, queries.classes)
    odds = dataset.posterior_log_odds(features, queries.classes)
    torch.testing.assert_close(odds, posterior - torch.log1p(-posterior.exp()), rtol=1e-6, atol=1e-6)


def test_370727_classes_open_quickly_and_take_little_memory() -> None:
    """Beside torch: labels of 10 million examples (80 MB), and what drawing them takes on the way."""
    _, memory, seconds = apart("synthetic:370727")
    assert memory < 400e6
    assert seconds < 15  # of processor time; 2 on a machine with nothing else to do


def test_the_largest_set_makes_an_example_without_its_prototypes() -> None:
    dataset = synthetic.load("synthetic:2**24,zipf=0,examples=1000")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert dataset.train.images(range(100)).shape == (100, 128)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # kilobytes; prototypes are 8 GB
    assert int(dataset.train.labels.max()) > 2**23


def test_networks_take_its_examples(hundred: SyntheticDataset) -> None:
    for name in ("mlp", "linear"):
        network = networks.build(name, hundred.facts.input_shape, 100, seed=0)
        assert network(hundred.train.images(range(4))).shape == (4, 100)
    with pytest.raises(UsageError, match="takes channels, height and width"):
        networks.build("cnn", hundred.facts.input_shape, 100, seed=0)


@pytest.mark.gpu
def test_examples_are_the_same_on_a_gpu(hundred: SyntheticDataset) -> None:
    moved = hundred.on("cuda")
    assert isinstance(moved, SyntheticDataset)
    images = moved.train.images(torch.arange(500))
    assert images.device.type == "cuda"
    assert torch.equal(images.cpu(), hundred.train.images(torch.arange(500)))
    odds = hundred.posterior_log_odds(images, torch.arange(100))
    torch.testing.assert_close(odds.cpu(), hundred.posterior_log_odds(images.cpu(), torch.arange(100)))
