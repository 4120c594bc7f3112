"""Each loss from its true logits and row statistics, against the loss of all logits."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from bench.accuracy import losses
from bench.accuracy.chunked.forms import form_of
from bench.accuracy.losses import Configured, registry
from bench.accuracy.settings import LossSetting
from bench.errors import UsageError

CLASSES = 5
COUNTS = torch.tensor([1.0, 20, 3, 7, 9])
VARIANTS: tuple[tuple[str, dict[str, Any]], ...] = (
    *((key, {}) for key in registry()),
    *((key, {"label_smoothing": 0.1}) for key, entry in registry().items() if entry.smoothable),
    ("max-margin", {"gamma": 0.3}),
    ("batch-max-margin", {"gamma": 2.5}),
    ("self-norm", {"alpha": 0.7}),
    ("softmax-tanimoto", {"squared": 1}),
    ("sigmoid-tanimoto", {"squared": 1}),
    ("nce", {"t": 3}),
    ("nce", {"q": "class frequencies", "class_frequencies": COUNTS}),
)


def by_definition(z: Tensor, labels: Tensor, weights: Tensor, shifts: Tensor) -> tuple[Tensor, dict[Any, Tensor]]:
    false = z.masked_fill(torch.nn.functional.one_hot(labels, z.shape[1]).bool(), -torch.inf)
    rows = torch.arange(len(z))
    return z[rows, labels] - shifts[labels], {
        "lse": z.logsumexp(1),
        "lse_doubled": (2 * z).logsumexp(1),
        "lse_doubled_logsigmoid": z.sigmoid().square().sum(1).log(),
        "softplus": (weights * torch.log1p((z - shifts).exp())).sum(1),
        "largest_false": false.amax(1),
        "mean": z.mean(1),
    }


@pytest.mark.parametrize(("key", "more"), VARIANTS, ids=lambda value: str(value)[:40])
def test_the_form_is_the_loss(key: str, more: dict[str, Any], make_loss: Callable[..., Configured]) -> None:
    loss = make_loss(key, CLASSES, **more)
    form = form_of(loss, CLASSES)
    source = torch.Generator().manual_seed(0)
    z = 2 * torch.randn(6, CLASSES, generator=source, dtype=torch.float64)
    labels = torch.randint(CLASSES, (6,), generator=source)
    weights = torch.ones(CLASSES, dtype=torch.float64) if form.class_weights is None else form.class_weights
    shifts = torch.zeros(CLASSES, dtype=torch.float64) if form.class_shifts is None else form.class_shifts
    true, every = by_definition(z, labels, weights, shifts)
    given = {name: every[name] for name in form.statistics}  # and no other
    torch.testing.assert_close(form.value(true, given), loss(z, labels), rtol=1e-12, atol=1e-14)


def test_every_loss_of_the_paper_has_a_form_and_no_more_statistics_than_it_needs(
    make_loss: Callable[..., Configured],
) -> None:
    found = {key: form_of(make_loss(key, CLASSES), CLASSES).statistics for key in registry()}
    assert found == {
        "ce": ("lse",),
        "max-margin": ("largest_false",),
        "softmax-cauchy-schwarz": ("lse_doubled",),
        "sigmoid-cauchy-schwarz": ("lse_doubled_logsigmoid",),
        "softmax-tanimoto": ("lse", "lse_doubled"),
        "self-norm": ("lse",),
        "nce": ("softplus",),
        "binary-ce": ("softplus",),
        "sigmoid-tanimoto": ("lse_doubled_logsigmoid",),
        "batch-ce": ("lse",),
        "batch-max-margin": ("largest_false",),
    }


def test_noise_of_rate_one_reads_no_weights(make_loss: Callable[..., Configured]) -> None:
    assert form_of(make_loss("nce", CLASSES), CLASSES).class_weights is None
    uniform = form_of(make_loss("nce", CLASSES, t=2), CLASSES)
    assert uniform.class_weights is not None
    assert uniform.class_weights.untyped_storage().nbytes() == 8  # one number, not k
    assert uniform.class_weights.tolist() == [0.4] * CLASSES


@pytest.mark.parametrize(
    ("loss", "classes", "reason"),
    [
        (losses.configured("nce", classes=20_000), 20_000, "estimate='exact'"),
        (losses.configured("importance-sampling", classes=5), 5, "chunked.sampled"),
        (losses.of_rival(LossSetting(key="adaptive", name="adaptive", aligned=True)), 5, "no form"),
        (losses.configured("ce", classes=2), 1, "at least 2"),
        (losses.configured("nce", classes=5, q="class frequencies", class_frequencies=COUNTS), 6, "each of 6 classes"),
        (Configured(LossSetting(key="ce", name="CE", aligned=False), losses.cross_entropy), 5, "losses.configured"),
    ],
)
def test_what_has_no_form_is_refused(loss: Configured, classes: int, reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        form_of(loss, classes)
