"""The generator and its posterior, against the mixture's density written out, in float64."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.special import logsumexp

from bench.accuracy.data import mixture as room
from bench.accuracy.data.mixture import Mixture
from bench.accuracy.data.synthetic_spec import Spec


def drawn(mixture: Mixture, count: int, stream: int = 9) -> tuple[torch.Tensor, torch.Tensor]:
    labels = mixture.labels(count, stream)
    return mixture.features(labels, torch.arange(count), stream), labels


def brute_force(mixture: Mixture, features: torch.Tensor) -> np.ndarray:
    """log p(j | x) for every class: (n, K), from scipy's normal density and Bayes' rule."""
    spec = mixture.spec
    latent = mixture.latent(features).numpy()
    prior = np.arange(1, spec.classes + 1) ** -spec.zipf
    prototypes = mixture.prototypes(torch.arange(spec.classes)).numpy()
    joint = np.stack(
        [
            np.log(prior[j] / prior.sum()) + stats.norm.logpdf(latent, loc=prototypes[j]).sum(1)
            for j in range(spec.classes)
        ],
        axis=1,
    )
    return joint - logsumexp(joint, axis=1, keepdims=True)


@settings(max_examples=20, deadline=None)
@given(
    st.integers(2, 40),
    st.integers(2, 9),
    st.floats(0, 3),
    st.integers(1, 6),
    st.floats(0, 4),
    st.integers(0, 2**63 - 1),
)
def test_the_posterior_is_bayes_rule_on_the_density(classes, d, zipf, groups, near, seed) -> None:
    mixture = Mixture(Spec(classes=classes, d=d, zipf=zipf, groups=groups, near=near, far=8, seed=seed))
    features, _ = drawn(mixture, 50)
    every = torch.arange(classes)
    expected = brute_force(mixture, features)
    np.testing.assert_allclose(mixture.log_posterior(features, every).numpy(), expected, rtol=1e-11, atol=1e-11)
    others = np.stack([logsumexp(np.delete(expected, j, axis=1), axis=1) for j in range(classes)], axis=1)
    odds = mixture.posterior_log_odds(features, every).numpy()
    np.testing.assert_allclose(odds, expected - others, rtol=1e-10, atol=1e-10)


def test_log_odds_keep_their_digits_where_one_class_is_all_but_certain() -> None:
    mixture = Mixture(Spec(classes=6, near=30, far=60))
    features, labels = drawn(mixture, 200)
    expected = brute_force(mixture, features)
    rows = np.arange(200)
    others = np.stack([logsumexp(np.delete(expected[i], label)) for i, label in enumerate(labels.tolist())])
    odds = mixture.posterior_log_odds(features, labels[:, None]).numpy()[:, 0]
    assert (odds > 100).any()  # where 1 - p is 0 in float64
    np.testing.assert_allclose(odds, expected[rows, labels.numpy()] - others, rtol=1e-10)


def test_chunks_make_no_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    mixture = Mixture(Spec(classes=37, d=6, near=2, far=3))
    features, labels = drawn(mixture, 23)
    every, own = torch.arange(37), torch.stack((labels, (labels + 1) % 37), dim=1)
    whole, paired = mixture.posterior_log_odds(features, every), mixture.posterior_log_odds(features, own)
    torch.testing.assert_close(paired, whole.gather(1, own), rtol=1e-12, atol=1e-12)
    for numbers, rows in ((1, 5), (7 * 23, 4096), (60, 22)):
        monkeypatch.setattr(room, "BLOCK_NUMBERS", numbers)
        monkeypatch.setattr(room, "ROWS", rows)
        torch.testing.assert_close(mixture.posterior_log_odds(features, every), whole, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(mixture.posterior_log_odds(features, own), paired, rtol=1e-12, atol=1e-12)
        again, _ = drawn(mixture, 23)
        assert torch.equal(again, features)


def test_prototypes_that_are_not_kept_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = Spec(classes=50, d=8)
    kept = Mixture(spec)
    first, again = kept.prototypes(torch.arange(50)), kept.prototypes(torch.arange(50))
    monkeypatch.setattr(room, "CACHE_BYTES", 0)
    never = Mixture(spec)
    assert torch.equal(never.prototypes(torch.tensor([41, 3])), first[[41, 3]])
    assert torch.equal(first, again)
    assert kept._prototypes is not None
    assert never._prototypes is None


def test_classes_of_a_smaller_set_are_the_first_of_a_larger() -> None:
    small, large = Mixture(Spec(classes=10)), Mixture(Spec(classes=2**24))
    some = torch.arange(10)
    assert torch.equal(small.prototypes(some), large.prototypes(some))
    places = torch.arange(10)
    assert torch.equal(small.features(some, places, 0), large.features(some, places, 0))


@pytest.mark.parametrize("d", [2, 3, 7, 128, 301])
def test_the_map_is_undone_without_error_from_float32(d: int) -> None:
    mixture = Mixture(Spec(classes=20, d=d))
    labels, places = torch.arange(20).repeat(10), torch.arange(200)
    features = mixture.features(labels, places, 0)
    assert features.dtype is torch.float32
    latent = mixture.latent(features)
    assert torch.equal(mixture.observed(latent).float(), features)
    noise = latent - mixture.prototypes(labels)
    assert stats.kstest(noise.numpy().ravel(), "norm").pvalue > 0.001
    assert torch.equal(latent, (latent * 2**18).round() / 2**18)


def test_the_map_keeps_volumes() -> None:
    """The determinant of the couplings' Jacobian is 1 or -1: densities of x and u are the same."""
    mixture = Mixture(Spec(classes=3, d=6))
    latent = mixture.latent(drawn(mixture, 5)[0])
    step = 2.0**-6  # many steps of the grid; the map is linear between its folds
    for point in latent:
        sides = [mixture.observed((point + step * way)[None])[0] for way in torch.eye(6, dtype=torch.float64)]
        jacobian = (torch.stack(sides) - mixture.observed(point[None])) / step
        assert abs(torch.linalg.det(jacobian)) == pytest.approx(1, abs=2e-2)


def test_two_hidden_layers_of_relu_express_the_log_joint() -> None:
    """As the module says: 2 d units carry x along, d / 2 evaluate g, then f. Its grid is all that is left out."""
    mixture = Mixture(Spec(classes=5, d=8))
    features, _ = drawn(mixture, 300)
    x = features.double()
    net_f, net_g, half = mixture._f, mixture._g, 4

    carried = torch.cat((x, -x, x[:, half:] @ net_g._first + net_g._offsets), dim=1).relu()
    assert carried.shape[1] == 2 * 8 + 8 // 2
    undo_g = net_g._scale * net_g._second
    x_again = carried[:, :8] - carried[:, 8:16]
    first = x_again[:, :half] - carried[:, 16:] @ undo_g
    after = torch.cat((first, x_again[:, half:]), dim=1)
    carried = torch.cat((after, -after, first @ net_f._first + net_f._offsets), dim=1).relu()
    after = carried[:, :8] - carried[:, 8:16]
    latent = torch.cat((after[:, :half], after[:, half:] - carried[:, 16:] @ (net_f._scale * net_f._second)), dim=1)

    prototypes = mixture.prototypes(torch.arange(5))
    logits = latent @ prototypes.t() - prototypes.square().sum(1) / 2 + mixture.log_prior(torch.arange(5))
    expected = mixture.log_joint(features, torch.arange(5))
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-3)


def test_the_map_is_not_linear() -> None:
    mixture = Mixture(Spec(classes=2))
    features, _ = drawn(mixture, 4000)
    latent, ones = mixture.latent(features), torch.ones(4000, 1, dtype=torch.float64)
    observed = torch.cat((features.double(), ones), dim=1)
    fitted = observed @ torch.linalg.lstsq(observed, latent).solution
    left = (fitted - latent).var(0) / latent.var(0)
    assert float(left.min()) > 0.05


def test_prototypes_are_as_far_apart_as_asked() -> None:
    mixture = Mixture(Spec(classes=400, d=256, groups=4, near=3, far=7))
    distances = torch.cdist(mixture.prototypes(torch.arange(400)), mixture.prototypes(torch.arange(400)))
    group = torch.arange(400) % 4
    same = (group[:, None] == group) & ~torch.eye(400, dtype=torch.bool)
    assert float(distances[same].square().mean().sqrt()) == pytest.approx(3, rel=0.05)
    assert float(distances[group[:, None] != group].square().mean().sqrt()) == pytest.approx(7, rel=0.1)


@pytest.mark.parametrize("zipf", [0.0, 0.5, 1.0, 2.0])
def test_class_frequencies_are_zipfs(zipf: float) -> None:
    mixture = Mixture(Spec(classes=200, zipf=zipf))
    prior = np.arange(1, 201) ** -zipf
    np.testing.assert_allclose(mixture.log_prior(torch.arange(200)).exp().numpy(), prior / prior.sum(), rtol=1e-12)
    counts = np.bincount(mixture.labels(200_000, 0).numpy(), minlength=200)
    assert stats.chisquare(counts, 200_000 * prior / prior.sum()).pvalue > 0.001
    even = np.bincount(mixture.labels(200_000, 0, uniform=True).numpy(), minlength=200)
    assert stats.chisquare(even).pvalue > 0.001


@pytest.mark.gpu
def test_examples_and_posterior_are_the_same_on_a_gpu() -> None:
    mixture = Mixture(Spec(classes=1000))
    features, labels = drawn(mixture, 500)
    there = mixture.on("cuda")
    assert mixture.on("cuda") is there
    assert torch.equal(there.features(labels, torch.arange(500), 9).cpu(), features)
    asked = torch.arange(1000)
    odds = there.posterior_log_odds(features.cuda(), asked)
    torch.testing.assert_close(odds.cpu(), mixture.posterior_log_odds(features, asked), rtol=1e-9, atol=1e-9)
