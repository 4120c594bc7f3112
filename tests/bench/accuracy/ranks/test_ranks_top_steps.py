"""Steps of ranks against those of one process, in float64: every way of stepping, several steps, micro-batches."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from archs import rivals
from bench.accuracy import losses
from bench.accuracy.batches import BatchOrder
from bench.accuracy.ranks import ALONE, own_noise, places_of_ranks, shares
from bench.accuracy.ranks.top_steps import form_over
from bench.accuracy.settings import LossSetting, Recipe
from bench.accuracy.steps import Learner, parted
from bench.errors import UsageError

CLASSES, BATCH, INPUTS, STEPS = 11, 14, 5, 4

IMAGES = torch.randn(40, INPUTS, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
LABELS = torch.randint(CLASSES, (40,), generator=torch.Generator().manual_seed(2))


def _made(normalised: bool) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        norm: list[nn.Module] = [nn.BatchNorm1d(6)] if normalised else []
        return nn.Sequential(nn.Linear(INPUTS, 6), *norm, nn.Tanh(), nn.Linear(6, CLASSES)).double()


#: Made once: ranks that are threads share torch's random state.
NETWORKS = {normalised: _made(normalised) for normalised in (False, True)}

SAMPLED = {
    "nce sampled": {"estimate": "sampled", "t": 4.0},
    "importance-sampling": {"t": 4.0},
    "negative-sampling": {"t": 4.0},
    "nce sampled, shared": {"estimate": "sampled", "t": 4.0, "negatives": "shared"},
    "nce sampled, uncorrected": {"estimate": "sampled", "t": 4.0, "correction": "none"},
    "importance-sampling shared, uncorrected": {"t": 4.0, "negatives": "shared", "correction": "none"},
    "negative-sampling shared, corrected": {"t": 4.0, "negatives": "shared", "correction": "log-q"},
}

#: How one process steps, and how ranks do that are to end alike.
WAYS = {
    "dense": {"top_layer_step": "dense"},
    "chunked": {"top_layer_step": "chunked"},
    "split, chunked": {"top_layer_step": "chunked", "shard_top_layer": True},
    "split, in place": {"top_layer_step": "in-place", "shard_top_layer": True},
}


def loss_of(name: str, smoothing: float = 0.0) -> losses.Configured:
    return losses.configured(
        name.split()[0],
        classes=CLASSES,
        class_frequencies=[float(1 + j % 4) for j in range(CLASSES)],
        generator=torch.Generator().manual_seed(7),
        label_smoothing=smoothing,
        **SAMPLED.get(name, {}),
    )


def recipe(**fields: Any) -> Recipe:
    return Recipe(**{"network": "mlp", "steps": STEPS, "batch_size": BATCH, "weight_decay": 0.01, **fields})


def of_rank_in(network: nn.Sequential, recipe: Recipe, ranks: Any) -> nn.Sequential:
    """A copy that has this rank's rows alone where the top layer is split."""
    made = copy.deepcopy(network)
    if recipe.shard_top_layer:
        rows = shares(CLASSES, ranks.size)[ranks.rank]
        made[-1].weight, made[-1].bias = (nn.Parameter(each.detach()[rows]) for each in made[-1].parameters())
    return made


def trained(ranks: Any, asked: Recipe, loss: Any, network: nn.Sequential) -> dict[str, Any]:
    """Losses, and weights with the rows of all ranks put together."""
    top = str(len(network) - 1)
    learner = Learner(
        [of_rank_in(network, asked, ranks)],
        [loss],
        [0.3],
        asked,
        top=top if parted(asked) else None,
        ranks=ranks,
        classes=CLASSES,
    )
    own = places_of_ranks(asked.batch_size, asked.accumulation, ranks.size)[ranks.rank]
    found = []
    for step, rows in enumerate(BatchOrder(len(LABELS), asked.batch_size, 0).window(0, STEPS)):
        learner.set_rates((1 + step) / STEPS)
        found.append(float(learner.step(IMAGES[rows[own]][None], LABELS[rows[own]][None])))
    weights = {name: tensor.clone() for name, tensor in learner.state_dicts()[0].items()}
    if learner.sharded is not None:
        assert f"{top}.weight" not in weights
        for name in ("weight", "bias"):
            weights[f"{top}.{name}"] = torch.cat(ranks.all_gather(getattr(learner.sharded, name).detach()))
    return {"losses": found, "weights": weights}


def assert_trained_alike(
    as_threads: Callable[..., list[Any]],
    size: int,
    loss: Callable[[], Any],
    network: nn.Sequential,
    one: dict[str, Any],
    several: dict[str, Any],
    exact: float = 1e-11,
) -> None:
    expected = trained(ALONE, recipe(**one), loss(), network)
    found = as_threads(size, lambda ranks: trained(ranks, recipe(**several, ranks=size), loss(), network))
    for each in found:
        assert not isinstance(each, Exception), each
        assert each["losses"] == found[0]["losses"], "the same bits on all ranks"
        assert each["losses"] == pytest.approx(expected["losses"], rel=exact)
        for name, tensor in expected["weights"].items():
            torch.testing.assert_close(each["weights"][name], tensor, rtol=exact, atol=exact)
            assert torch.equal(each["weights"][name], found[0]["weights"][name]), name


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", [*losses.registry(), *SAMPLED])
def test_steps_of_three_ranks_are_those_of_one_process(
    as_threads: Callable[..., list[Any]], name: str, way: str
) -> None:
    fields = WAYS[way]
    one = {"top_layer_step": fields["top_layer_step"]}
    assert_trained_alike(as_threads, 3, lambda: loss_of(name), NETWORKS[False], one, fields)


@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", ["batch-ce", "batch-max-margin", "nce sampled"])
def test_micro_batches_are_normalised_over_ranks_as_in_one_process(
    as_threads: Callable[..., list[Any]], name: str, way: str, size: int
) -> None:
    """Of 14 examples in two micro-batches each rank has 3 or 4, or 2 or 3, of each: noise and batch norm show it."""
    fields = {**WAYS[way], "accumulation": 2}
    one = {"top_layer_step": fields["top_layer_step"], "accumulation": 2}
    assert_trained_alike(as_threads, size, lambda: loss_of(name), NETWORKS[True], one, fields)


@pytest.mark.parametrize("way", ["dense", "chunked", "split, chunked"])
@pytest.mark.parametrize(
    "optimiser", [{"optimiser": "adamw"}, {"optimiser": "rmsprop", "epsilon": 1.0}, {"momentum": 0.0}]
)
def test_every_optimiser_steps_over_ranks(
    as_threads: Callable[..., list[Any]], optimiser: dict[str, Any], way: str
) -> None:
    """Without batch norm, before which a bias has a gradient of 0: AdamW would scale up its rounding."""
    one = {"top_layer_step": WAYS[way]["top_layer_step"], **optimiser}
    fields = {**WAYS[way], **optimiser}
    assert_trained_alike(as_threads, 2, lambda: loss_of("self-norm"), NETWORKS[False], one, fields, exact=1e-10)


@pytest.mark.parametrize("way", WAYS)
def test_smoothed_labels_are_smoothed_over_ranks(as_threads: Callable[..., list[Any]], way: str) -> None:
    one = {"top_layer_step": WAYS[way]["top_layer_step"]}
    assert_trained_alike(as_threads, 2, lambda: loss_of("batch-ce", 0.1), NETWORKS[False], one, WAYS[way])


@pytest.mark.parametrize("accumulation", [1, 2])
def test_a_rival_is_trained_over_ranks(as_threads: Callable[..., list[Any]], accumulation: int) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        rival = rivals.make("adaptive", 6, CLASSES, frequencies=torch.arange(CLASSES, 0, -1).float())
        rival.reset_parameters()
    network = nn.Sequential(*list(NETWORKS[True].children())[:3], rival.double())
    loss = losses.of_rival(LossSetting(key="adaptive", name="adaptive", aligned=True))
    fields = {"accumulation": accumulation}
    assert_trained_alike(as_threads, 3, lambda: loss, network, fields, fields)


def test_scaled_gradients_are_summed_before_it_is_seen_whether_they_overflow(
    as_threads: Callable[..., list[Any]],
) -> None:
    """One rank's examples alone overflow: every rank passes over that step, and halves its scale."""

    def of_rank(ranks: Any) -> Any:
        network = copy.deepcopy(NETWORKS[False]).float()
        before = copy.deepcopy(network.state_dict())
        asked = recipe(dtype="float16", ranks=2, top_layer_step="chunked")
        learner = Learner([network], [loss_of("ce")], [0.3], asked, top="2", ranks=ranks, classes=CLASSES)
        images = IMAGES[:7].float() * (1e4 if ranks.rank else 1.0)
        network.get_parameter("0.weight").register_hook(lambda slope: slope * (float("inf") if ranks.rank else 1.0))
        learner.step(images[None], LABELS[None, :7])
        assert learner.scaler is not None
        same = all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
        return same, learner.scaler.get_scale()

    assert as_threads(2, of_rank) == [(True, 2.0**15)] * 2


@pytest.mark.gpu
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", ["batch-ce", "batch-max-margin", "nce sampled"])
def test_ranks_step_on_a_gpu_as_one_process_does_there(
    as_threads: Callable[..., list[Any]], name: str, way: str
) -> None:
    """Ranks that are threads share the device; what NCCL sends is what they hand each other."""

    def on_gpu() -> Any:
        configured = loss_of(name)
        generator = torch.Generator("cuda:0").manual_seed(7)
        given = {**configured.setting.hyperparameters}
        frequencies = [float(1 + j % 4) for j in range(CLASSES)]
        return losses.configured(
            name.split()[0], classes=CLASSES, class_frequencies=frequencies, generator=generator, **given
        )

    def stepped(ranks: Any, fields: dict[str, Any]) -> dict[str, Tensor]:
        asked = recipe(device="cuda:0", accumulation=2, **fields)
        top = "2" if parted(asked) else None
        network = of_rank_in(NETWORKS[False], asked, ranks)
        learner = Learner([network], [on_gpu()], [0.3], asked, top=top, ranks=ranks, classes=CLASSES)
        own = places_of_ranks(BATCH, 2, ranks.size)[ranks.rank]
        for _ in range(STEPS):
            learner.step(IMAGES[own][None].cuda(), LABELS[own][None].cuda())
        weights = {key: tensor.cpu() for key, tensor in learner.state_dicts()[0].items()}
        if learner.sharded is not None:
            for part in ("weight", "bias"):
                rows = ranks.all_gather(getattr(learner.sharded, part).detach())
                weights[f"2.{part}"] = torch.cat(rows).cpu()
        return weights

    expected = stepped(ALONE, {"top_layer_step": WAYS[way]["top_layer_step"]})
    for found in as_threads(2, lambda ranks: stepped(ranks, {**WAYS[way], "ranks": 2})):
        assert not isinstance(found, Exception), found
        for key, tensor in expected.items():
            torch.testing.assert_close(found[key], tensor, rtol=1e-10, atol=1e-10)


def test_every_place_is_one_ranks() -> None:
    found = places_of_ranks(14, 2, 3)
    assert [each.tolist() for each in found] == [[0, 1, 2, 7, 8, 9], [3, 4, 10, 11], [5, 6, 12, 13]]
    assert places_of_ranks(5, 1, 1)[0].tolist() == list(range(5))
    with pytest.raises(UsageError, match="a micro-batch of 2 examples over 3 ranks"):
        places_of_ranks(4, 2, 3)


def test_noise_is_drawn_for_all_and_kept_by_place(as_threads: Callable[..., list[Any]]) -> None:
    places = places_of_ranks(14, 2, 3)

    def of_rank(ranks: Any) -> Tensor:
        form = form_over(loss_of("importance-sampling"), CLASSES, rival=False)
        return own_noise(form, 14, ranks, places[ranks.rank])

    whole = form_over(loss_of("importance-sampling"), CLASSES, rival=False).draw(14)
    for own, found in zip(places, as_threads(3, of_rank), strict=True):
        assert torch.equal(found, whole[own])


def test_what_ranks_cannot_share_is_refused() -> None:
    class Two:
        rank, size = 0, 2

    network = NETWORKS[False]
    for words, count, loss, fields in (
        ("that of one network", 2, loss_of("ce"), {}),
        ("share a loss of bench", 1, losses.cross_entropy, {}),
        ("cannot step in place", 1, loss_of("ce"), {"top_layer_step": "in-place"}),
        ("as float16 needs", 1, loss_of("ce"), {**WAYS["split, chunked"], "dtype": "float16"}),
    ):
        made = [copy.deepcopy(network) for _ in range(count)]
        with pytest.raises(ValueError, match=words):
            Learner(made, [loss] * count, [0.1] * count, recipe(**fields), top="2", ranks=Two(), classes=CLASSES)  # type: ignore[arg-type]
