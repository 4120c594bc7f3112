"""Rivals of the full top layer in the grid: planned, trained, resumed, tested, and kept out of the paper's means."""

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch

from archs.rivals import KINDS, RIVALS, RivalLayer, TopLayerKind
from bench.accuracy import grid, losses, networks
from bench.accuracy.data import Dataset, from_arrays
from bench.accuracy.events import Ended, Stepped
from bench.accuracy.models import model_of, top_layer_of
from bench.accuracy.plan import plan
from bench.accuracy.records import Training
from bench.accuracy.request import Request
from bench.accuracy.rows import Spread, Table1Row, improvements, table1, table2
from bench.accuracy.run import load
from bench.accuracy.settings import LossSetting, Member, Recipe
from bench.accuracy.training import Work, train
from bench.errors import UsageError

CLASSES, STEPS = 6, 40
SHAPE = (1, 8, 8)


class Stopped(Exception):
    """What a test raises out of `emit`."""


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    """Six classes, the first of them often, told apart by where they are bright."""
    generator = torch.Generator().manual_seed(0)

    def drawn(count: int) -> tuple[torch.Tensor, torch.Tensor]:
        labels = torch.arange(count) % (CLASSES + 4)
        labels[labels >= CLASSES] = 0
        images = torch.randn(count, *SHAPE, generator=generator)
        images[torch.arange(count), 0, labels] += 6
        return images, labels

    return from_arrays("toy", drawn(200), drawn(60), validation=drawn(40))


def work(*kinds: str, **fields: Any) -> Work:
    members = tuple(Member(loss=kind, learning_rate=0.1, seed=0) for kind in kinds)
    settings = tuple(LossSetting(key=kind, name=kind, aligned=True) for kind in kinds)
    recipe = Recipe(**{"network": "mlp", "steps": STEPS, "batch_size": 16, "curve_points": 4, **fields})
    return Work(members=members, recipe=recipe, losses=settings)


def trained(asked: Work, dataset: Dataset, folder: Path | None, **options: Any) -> list[Training]:
    events: list[Stepped | Ended] = []
    train(asked, dataset, events.append, checkpoints=folder, **options)
    return [event.training for event in events if isinstance(event, Ended)]


def outcome(training: Training) -> list[tuple[int, float | None, float | None]]:
    return [(point.step, point.training_loss, point.validation_loss) for point in training.curve]


@pytest.mark.parametrize("kind", RIVALS)
def test_a_network_with_a_rival_differs_in_its_top_layer_alone(kind: TopLayerKind) -> None:
    full = networks.build("mlp", SHAPE, CLASSES, seed=4)
    rival, again = (networks.build("mlp", SHAPE, CLASSES, seed=4, top_layer=kind) for _ in range(2))
    layer = list(rival.children())[-1]
    assert isinstance(layer, RivalLayer)
    assert (layer.features, layer.classes) == (500, CLASSES)
    ours, theirs = rival.state_dict(), full.state_dict()
    shared = [name for name in theirs if not name.startswith("7.")]
    assert len(shared) > 8
    for name in shared:
        assert torch.equal(ours[name], theirs[name])
    assert all(torch.equal(tensor, again.state_dict()[name]) for name, tensor in ours.items())
    log_prob = rival.eval()(torch.randn(3, *SHAPE))
    torch.testing.assert_close(log_prob.exp().sum(1), torch.ones(3))


def test_a_rival_takes_the_place_of_any_networks_top_layer() -> None:
    network = networks.build("torchvision/resnet18", (3, 32, 32), 7, seed=0, top_layer="adaptive")
    assert isinstance(network.get_submodule("fc"), RivalLayer)
    assert network.eval()(torch.randn(2, 3, 32, 32)).shape == (2, 7)


def test_what_a_rival_cannot_have_is_refused() -> None:
    with pytest.raises(UsageError, match="prior bias, and a rival has no bias"):
        networks.build("mlp", SHAPE, CLASSES, seed=0, top_layer="adaptive", prior_bias=True)
    with pytest.raises(UsageError, match="auxiliary head"):
        networks.build("inception_v3", (3, 299, 299), CLASSES, seed=0, top_layer="adaptive", auxiliary=True)


@pytest.mark.parametrize("kind", RIVALS)
def test_a_rival_learns_and_is_found_again(kind: TopLayerKind, dataset: Dataset, tmp_path: Path) -> None:
    asked = work(kind)
    (record,) = trained(asked, dataset, tmp_path)
    assert record.status == "ok"
    assert record.validation_accuracy is not None
    assert record.validation_accuracy > 0.8  # 0.5 are of the first class
    model = model_of(asked.members[0], asked.recipe, dataset.facts, tmp_path, dataset.class_frequencies())
    images = dataset.validation.images(torch.arange(len(dataset.validation)))
    with torch.inference_mode():
        log_prob = model(images)
    torch.testing.assert_close(log_prob.exp().sum(1), torch.ones(len(images)))
    hits = (log_prob.argmax(1) == dataset.validation.labels).double().mean()
    assert float(hits) == pytest.approx(record.validation_accuracy)


@pytest.mark.parametrize("kind", ["hierarchical-huffman", "adaptive"])
def test_a_rival_that_was_cut_off_ends_as_if_it_had_not_been(
    kind: TopLayerKind, dataset: Dataset, tmp_path: Path
) -> None:
    asked = work(kind)
    (whole,) = trained(asked, dataset, tmp_path / "whole")
    seen = itertools.count()

    def stop(event: Stepped | Ended) -> None:
        if isinstance(event, Ended) or next(seen) >= 2:
            raise Stopped

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("bench.accuracy.training.PROGRESS_EVERY_S", 0.0)
        with pytest.raises(Stopped):
            train(asked, dataset, stop, checkpoints=tmp_path / "cut", checkpoint_every_s=0.0)
    (resumed,) = trained(asked, dataset, tmp_path / "cut")
    assert outcome(resumed) == outcome(whole)


def test_under_autocast_log_probabilities_keep_their_precision(dataset: Dataset) -> None:
    (record,) = trained(work("hierarchical-balanced", dtype="bfloat16"), dataset, None)
    assert record.status == "ok"
    network = networks.build("mlp", SHAPE, CLASSES, seed=0, top_layer="hierarchical-balanced").eval()
    with torch.autocast("cpu", torch.bfloat16):
        log_prob = network(torch.randn(4, *SHAPE))
    assert log_prob.dtype == torch.float32
    torch.testing.assert_close(log_prob.exp().sum(1), torch.ones(4), rtol=1e-5, atol=1e-5)


def test_rivals_are_not_stacked(dataset: Dataset) -> None:
    with pytest.raises(UsageError, match="top layer of adaptive cannot be stacked"):
        train(work("adaptive", "low-rank"), dataset, lambda event: None, checkpoints=None)
    with pytest.raises(UsageError, match=r"--stack 2: only MLPs with a full top layer"):
        plan(
            Request(
                dataset=dataset, network="mlp", batch_size=8, steps=2, device="cpu", top_layers="full,adaptive", stack=2
            )
        )


def test_a_members_top_layer_is_told_by_its_key() -> None:
    keys = [*RIVALS, *losses.registry(), *losses.further()]
    kinds = [top_layer_of(Member(loss=key, learning_rate=1.0, seed=0)) for key in keys]
    assert kinds == [*RIVALS, *["full"] * (len(keys) - len(RIVALS))]


# --- the plan


def planned(dataset: Dataset, **fields: Any) -> Any:
    return plan(Request(dataset=dataset, network="mlp", batch_size=16, steps=STEPS, device="cpu", threads=1, **fields))


def test_losses_are_of_the_full_layer_and_rivals_follow(dataset: Dataset) -> None:
    found = planned(dataset, losses="ce,importance-sampling", top_layers="hierarchical-huffman, full,full,low-rank")
    assert [loss.key for loss in found.losses] == ["ce", "importance-sampling", "hierarchical-huffman", "low-rank"]
    huffman, low_rank = found.losses[2:]
    assert low_rank.hyperparameters == {"rank": 62.0, "frequencies": "class frequencies"}
    # 100 of 200 examples are of class 0, 20 of each other: 20 + 20, 20 + 20, 20 + 40, 40 + 60, 100 + 100
    assert huffman.hyperparameters == {
        "greatest depth": 4.0,
        "mean depth": (100 * 1 + 20 * (4 + 4 + 3 + 3 + 3)) / 200,
        "frequencies": "class frequencies",
    }
    assert [loss.key for loss in planned(dataset, top_layers="all", losses="ce").losses] == ["ce", *KINDS[1:]]
    assert [loss.key for loss in planned(dataset, top_layers=["adaptive"]).losses] == ["adaptive"]


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"top_layers": "fulll"}, r"--top-layer 'fulll': give all, or some of full, hierarchical-balanced"),
        ({"top_layers": " , "}, "no top layer is given"),
        ({"top_layers": "adaptive", "losses": "ce"}, "add full to --top-layer"),
        ({"top_layers": "adaptive", "hyperparameters": {"nce": {"t": 5}}}, "add full to --top-layer"),
        ({"top_layers": "full,adaptive", "prior_bias": True}, "prior bias"),
    ],
)
def test_contradictions_are_refused(dataset: Dataset, fields: dict[str, Any], reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        planned(dataset, **fields)


# --- the grid


def test_a_grid_of_rivals_and_losses_from_end_to_end(dataset: Dataset, tmp_path: Path) -> None:
    asked = Request(
        dataset=dataset, losses="ce,batch-ce,negative-sampling",
        top_layers="full,hierarchical-huffman,differentiated",
        learning_rates=[0.1], network="mlp", steps=STEPS, batch_size=16, device="cpu", threads=1,
    )  # fmt: skip
    run = grid.train_and_test(asked, tmp_path)
    assert run.manifest.status == "complete"
    assert run.path is not None
    again = load(run.path)
    rows = table1(again)
    assert [row.loss for row in rows] == [
        *("ce", "batch-ce", "negative-sampling", "hierarchical-huffman", "differentiated")
    ]
    assert all(row.status == "ok" for row in rows)
    tree = next(each for each in again.evaluations if each.member.loss == "hierarchical-huffman")
    assert tree.accuracy > 0.8
    # log P and the log-odds of it have one order
    assert tree.single.auprc == pytest.approx(tree.all.auprc, abs=1e-6)
    assert [row.parity_with_own is None for row in rows] == [False, False, False, True, True]
    names = [row.name for row in table2(again)]
    assert names == [
        "Mean PoLS methods", "batch CE", "CE with all logits", "batch CE with all logits",
        "negative sampling with all logits", "hierarchical softmax, Huffman", "differentiated softmax",
    ]  # fmt: skip


def row(loss: str, error: float, *, aligned: bool) -> Table1Row:
    spread = {name: Spread.of([error]) for name in (
        "one_minus_auprc", "one_minus_precision_at_90", "one_minus_precision_at_99", "one_minus_auprc_trapezoid"
    )}  # fmt: skip
    return Table1Row(
        dataset="toy", loss=loss, name=loss, aligned=aligned, status="ok", reason="", learning_rate=(0.1,), seeds=(0,),
        measures=spread, all_measures=spread, accuracy=None, parity_with_ce=None, parity_with_own=None,
        separation_train_holds=0, separation_test_holds=0,
    )  # fmt: skip


def test_neither_rivals_nor_sampling_count_in_a_mean_of_the_papers() -> None:
    paper = [row("ce", 0.4, aligned=False), row("batch-ce", 0.1, aligned=True)]
    beyond = [
        row("importance-sampling", 0.9, aligned=False),
        *(row(key, 0.9, aligned=True) for key in ("negative-sampling", *RIVALS)),
    ]
    assert improvements([*paper, *beyond]) == improvements(paper)
    eleven = [*paper, row("sigmoid-tanimoto", 0.3, aligned=True)]
    assert improvements([*eleven, *beyond]) == improvements(eleven)
    assert improvements(eleven)["all"]["one_minus_auprc"] == pytest.approx(0.5)
