import copy
import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench.accuracy import capacity, losses
from bench.accuracy.data import Dataset, from_arrays
from bench.accuracy.networks import Outline
from bench.accuracy.plan import plan, plan_of
from bench.accuracy.ranks import Place
from bench.accuracy.request import PAPER_IMAGENET, Request
from bench.accuracy.settings import PAPER_RATES, Source
from bench.errors import UsageError

#: Of a network that is not built.
OUTLINE = Outline(path="fc", features=2048, bias=True, backbone_parameters=10**6, normalises=True)


def planned_manifest(request: Request) -> Any:
    return plan(request).manifest(created="2026-01-02T03:04:05+00:00", command=("a", "test"))


@pytest.fixture(scope="module")
def tiny() -> Dataset:
    rng = np.random.default_rng(0)
    labels = np.arange(60) % 3
    return from_arrays("tiny", (rng.normal(size=(60, 1, 8, 8)), labels), (rng.normal(size=(9, 1, 8, 8)), labels[:9]))


def test_the_defaults_are_the_papers_on_digits() -> None:
    planned = plan(Request(device="cpu"))
    assert planned.dataset.name == "digits"
    assert planned.source == Source(name="digits")
    assert tuple(loss.key for loss in planned.losses) == losses.PAPER
    assert planned.learning_rates == PAPER_RATES == (1.0, 0.1, 0.01, 0.001)
    assert planned.seeds == (0,)
    recipe = planned.recipe
    assert (recipe.network, recipe.steps, recipe.batch_size) == ("mlp", 2000, 128)
    assert (recipe.optimiser, recipe.momentum, recipe.schedule, recipe.weight_decay) == ("sgd", 0.9, "constant", 0.0)
    assert (recipe.device, recipe.dtype, recipe.compile, recipe.stack) == ("cpu", "float32", "none", 1)


def test_quick_fills_in_what_was_not_given() -> None:
    planned = plan(Request(device="cpu", quick=True))
    assert (planned.recipe.steps, planned.learning_rates) == (300, (0.1, 0.01))
    planned = plan(Request(device="cpu", quick=True, steps=40, learning_rates=[0.5]))
    assert (planned.recipe.steps, planned.learning_rates) == (40, (0.5,))


def test_the_preset_is_what_tensorflow_did_and_gives_way(tiny: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    """On data that Inception-v3 does not take, so that it is not built."""
    monkeypatch.setattr("bench.accuracy.plan._outline", lambda *_: OUTLINE)
    planned = plan(Request(dataset=tiny, device="cpu", preset="paper-imagenet", steps=10))
    recipe = planned.recipe
    assert tuple(loss.key for loss in planned.losses) == ("ce", "batch-ce")
    assert planned.learning_rates == (0.1,)
    assert (recipe.batch_size, recipe.optimiser, recipe.momentum) == (32, "rmsprop", 0.9)
    assert (recipe.square_decay, recipe.epsilon, recipe.weight_decay) == (0.9, 1.0, 4e-5)
    assert (recipe.schedule, recipe.decay_steps, recipe.decay_rate) == ("exponential", 40_036 * 30, 0.16)
    assert (recipe.label_smoothing, recipe.auxiliary_weight) == (0.1, 0.4)
    asked = Request(
        dataset=tiny, device="cpu", preset="paper-imagenet", steps=10,
        losses="self-norm", learning_rates=[0.5], optimiser="adam", schedule="cosine", batch_size=8,
    )  # fmt: skip
    planned = plan(asked)
    assert [loss.key for loss in planned.losses] == ["self-norm"]
    assert planned.learning_rates == (0.5,)
    assert (planned.recipe.optimiser, planned.recipe.schedule, planned.recipe.batch_size) == ("adam", "cosine", 8)
    assert planned.recipe.epsilon is None, "RMSProp's epsilon of 1 would stop Adam"


@pytest.mark.parametrize(
    ("asked", "dataset", "network"),
    [
        ({"preset": "paper-imagenet"}, "imagenet", "inception_v3"),
        ({"preset": "paper-imagenet", "dataset": "mnist"}, "mnist", "inception_v3"),
        ({}, "digits", "mlp"),
    ],
)
def test_a_preset_chooses_its_data_set_unless_one_is_named(
    asked: dict[str, Any], dataset: str, network: str, tiny: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With other data in the place of those it loads."""
    loaded: list[str] = []

    def load(name: str, **_: object) -> Dataset:
        loaded.append(name)
        return tiny

    monkeypatch.setattr("bench.accuracy.plan.data.load", load)
    monkeypatch.setattr("bench.accuracy.plan._outline", lambda *_: OUTLINE)
    planned = plan(Request(device="cpu", batch_size=8, **asked))
    assert loaded == [dataset]
    assert planned.source == Source(name=dataset)
    assert planned.recipe.network == network
    assert planned.recipe.steps == {"imagenet": 6_000_000, "mnist": 100_000, "digits": 2_000}[dataset]


def test_the_preset_is_complete() -> None:
    assert PAPER_IMAGENET["decay_steps"] == 1_281_167 // 32 * 30


@pytest.mark.parametrize(
    ("asked", "keys"),
    [
        ("paper", losses.PAPER),
        ("all", tuple(losses.registry())),
        ("batch CE, ce,CE", ("batch-ce", "ce")),
        (["Sigmoid Tanimoto loss", "paper"], ("sigmoid-tanimoto", *losses.PAPER)),
    ],
)
def test_losses_by_name(asked: Any, keys: tuple[str, ...]) -> None:
    assert tuple(loss.key for loss in plan(Request(losses=asked, device="cpu")).losses) == keys


def test_hyperparameters_are_recorded_with_the_defaults() -> None:
    planned = plan(Request(losses="self-norm,max-margin", hyperparameters={"self-norm": {"alpha": 0.25}}))
    assert [loss.hyperparameters for loss in planned.losses] == [{"alpha": 0.25}, {"gamma": 1.0}]


def test_seeds_count_from_the_first() -> None:
    assert plan(Request(seed=5, seeds=3)).seeds == (5, 6, 7)


def test_a_data_folder_is_found_from_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    source = plan(Request(data_dir=Path("here"))).source
    assert source is not None
    assert source.data_dir == tmp_path / "here"


def test_a_data_set_in_hand_stays_in_this_process(tiny: Dataset) -> None:
    planned = plan(Request(dataset=tiny, device="cpu", steps=7, batch_size=8))
    assert planned.source is None
    assert planned.recipe.workers == 1
    assert planned.recipe.network == "cnn"
    assert planned.dataset is tiny


#: What is asked for, and what the refusal must say.
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "data set": ({"dataset": "mnits"}, "'mnits'.*did you mean mnist"),
    "loss": ({"losses": "ce,batch-cee"}, "unknown loss 'batch-cee'; did you mean batch-ce"),
    "no loss": ({"losses": ","}, "no loss: give paper, all"),
    "preset": ({"preset": "paper"}, "unknown preset 'paper': paper-imagenet"),
    "optimiser": ({"optimiser": "lion"}, "--optimiser 'lion': must be one of sgd, adam, adamw, rmsprop"),
    "schedule": ({"schedule": "warm"}, "--schedule 'warm': must be one of constant, cosine"),
    "decay": ({"schedule": "exponential"}, "--schedule exponential.*preset.*constant or cosine"),
    "dtype": ({"dtype": "int8"}, "--dtype 'int8': must be one of float32"),
    "compile": ({"compile": "max"}, "--compile 'max': must be one of none"),
    "graphs on cpu": ({"compile": "reduce-overhead", "device": "cpu"}, "reduce-overhead needs a CUDA device"),
    "device": ({"device": "tpu"}, "unknown device 'tpu'"),
    "rate of 0": ({"learning_rates": [0.1, 0.0]}, "--lr 0: a learning rate is a number above 0"),
    "negative rate": ({"learning_rates": [-0.1]}, "--lr -0.1"),
    "rate nan": ({"learning_rates": [float("nan")]}, "--lr nan"),
    "rate inf": ({"learning_rates": [float("inf")]}, "--lr inf"),
    "no rate": ({"learning_rates": []}, "--lr: no learning rate is given"),
    "rates alike": ({"learning_rates": [0.1, 0.10000001]}, "--lr: two learning rates are 0.1 to six digits"),
    "no steps": ({"steps": 0}, "--steps 0: must be 1 or more"),
    "no seeds": ({"seeds": 0}, "--seeds 0: must be 1 or more"),
    "too many seeds": ({"seeds": 10**12}, "--seeds 1000000000000: .* 10,000 or less"),
    "negative seed": ({"seed": -1}, "--seed -1: it must be 0 or more"),
    "huge seed": ({"seed": 2**63}, "--seed 9223372036854775808"),
    "batch of one": ({"batch_size": 1}, "--batch-size 1: batch norm and the batch losses"),
    "batch of none": ({"batch_size": 0}, "--batch-size 0"),
    "batch of all": ({"batch_size": 10**6}, "--batch-size 1000000: digits has 1,[0-9]+ examples"),
    "no workers": ({"workers": 0, "device": "cpu"}, "--workers 0: must be 1 or more"),
    "no threads": ({"threads": 0}, "--threads 0: must be 1 or more"),
    "all threads": ({"threads": 10**12}, "--threads 1000000000000: must be 4096 or less"),
    "no stack": ({"stack": 0}, "--stack 0: must be 1 or more"),
    "stack of cnns": ({"stack": 2, "network": "cnn"}, "--stack 2: only MLPs"),
    "stack of scaled": ({"stack": 2, "dtype": "float16"}, "--stack 2: only MLPs"),
    "momentum": ({"momentum": 1.5}, "momentum: "),
    "momentum of adam": ({"momentum": 0.5, "optimiser": "adam"}, "--momentum 0.5: adam has none .* sgd or rmsprop"),
    "endless decay": ({"weight_decay": float("inf")}, "weight_decay: "),
    "weight decay": ({"weight_decay": float("nan")}, "weight_decay: "),
    "network": ({"network": "resnet5O"}, "resnet5O"),
    "unfit network": ({"network": "resnet50"}, "'resnet50' cannot be used with these data"),
    "unused": ({"losses": "ce", "hyperparameters": {"self-norm": {"alpha": 1.0}}}, "not trained: self-norm"),
    "unknown": ({"losses": "nce", "hyperparameters": {"nce": {"beta": 1.0}}}, "nce has no hyperparameter 'beta'"),
    "keyword": ({"losses": "ce", "hyperparameters": {"ce": {"classes": 3.0}}}, "no hyperparameter 'classes'"),
    "value": ({"losses": "self-norm", "hyperparameters": {"self-norm": {"alpha": -1.0}}}, "alpha = -1.0"),
    "drawn of exact": ({"losses": "nce", "hyperparameters": {"nce": {"negatives": "shared"}}}, "no classes are drawn"),
    "correction": (
        {"losses": "importance-sampling", "hyperparameters": {"importance-sampling": {"correction": "maybe"}}},
        "correction = 'maybe': give 'log-q', 'none' or 'auto'",
    ),
    "word": ({"losses": "nce", "hyperparameters": {"nce": {"q": "zipf"}}}, "q = 'zipf'"),
    "smoothing": ({"losses": "max-margin", "label_smoothing": 0.1}, "not defined for max-margin"),
    "input size": ({"input_size": 32}, "digits has images of 8 x 8"),
    "top layer step": ({"top_layer_step": "sparse"}, "--top-layer-step 'sparse': must be one of dense, chunked"),
    "chunks of rivals": ({"top_layers": "adaptive", "top_layer_step": "chunked"}, "those of a full top layer"),
    "stack of chunks": ({"stack": 2, "top_layer_step": "chunked"}, "--stack 2: only MLPs"),
    "micro-batches": ({"accumulate": 3}, "--accumulate 3: .* 128 examples; give a number that divides"),
    "no micro-batch": ({"accumulate": 0}, "--accumulate 0: must be 1 or more"),
    "lone examples": ({"batch_size": 8, "accumulate": 8}, "--accumulate 8: mlp normalises by its micro-batch"),
    "compiled": ({"accumulate": 2, "compile": "default"}, "--compile default: .*dropout"),
    "scaled in place": ({"top_layer_step": "in-place", "dtype": "float16"}, "--dtype float16 .* give bfloat16"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_done_is_refused(name: str) -> None:
    asked, words = REFUSED[name]
    with pytest.raises(UsageError, match=words) as refused:
        plan(Request(**asked))
    assert "\n" not in str(refused.value)


def many_classes(classes: int, *, unseen: int = 0) -> Dataset:
    """Two training examples of each class but the last `unseen`."""
    rng = np.random.default_rng(0)
    labels = np.arange(2 * (classes - unseen)) % (classes - unseen)
    part = (rng.normal(size=(len(labels), 1, 2, 2)), labels)
    few = (rng.normal(size=(4, 1, 2, 2)), np.arange(4))
    names = [str(number) for number in range(classes)]
    return from_arrays("many", part, few, validation=few, class_names=names)


def test_from_1000_classes_on_the_losses_that_need_it_start_at_the_prior() -> None:
    asked: dict[str, Any] = {"losses": "all", "steps": 1, "batch_size": 8, "device": "cpu", "network": "linear"}
    below, many = many_classes(999), many_classes(1000)
    assert plan(Request(dataset=below, **asked)).recipe.prior_bias is False
    planned = plan(Request(dataset=many, **asked))
    assert planned.recipe.prior_bias == "auto"
    assert {loss.key for loss in planned.losses if loss.prior_bias} == {"self-norm", "nce", "binary-ce"}
    for wish in (True, False):
        planned = plan(Request(dataset=many, **asked, prior_bias=wish))
        assert planned.recipe.prior_bias is wish
        assert all(loss.prior_bias is None for loss in planned.losses)
    assert plan(Request(dataset=many, **{**asked, "losses": "ce,batch-ce"})).recipe.prior_bias is False


@pytest.mark.parametrize(
    ("key", "given", "of_recipe", "of_loss"),
    [
        ("nce", {"estimate": "sampled"}, "auto", True),
        ("nce", {"estimate": "sampled", "correction": "none"}, False, None),
        ("negative-sampling", {}, False, None),
        ("negative-sampling", {"correction": "log-q"}, "auto", True),
        ("importance-sampling", {"correction": "none"}, False, None),
    ],
)
def test_the_correction_decides_whether_a_loss_that_draws_starts_at_the_prior(
    key: str, given: dict[str, Any], of_recipe: Any, of_loss: bool | None
) -> None:
    asked: dict[str, Any] = {"losses": key, "steps": 1, "batch_size": 8, "device": "cpu", "network": "linear"}
    planned = plan(Request(dataset=many_classes(1000), hyperparameters={key: given} if given else {}, **asked))
    assert planned.recipe.prior_bias == of_recipe
    assert [loss.prior_bias for loss in planned.losses] == [of_loss]


def test_a_rival_has_no_bias_and_needs_none() -> None:
    planned = plan(
        Request(
            dataset=many_classes(1000), losses="nce", top_layers="full,low-rank", steps=1, batch_size=8, device="cpu",
            network="linear",
        )
    )  # fmt: skip
    assert [(loss.key, loss.prior_bias) for loss in planned.losses] == [("nce", True), ("low-rank", None)]


@pytest.mark.parametrize(
    ("free", "asked", "step"),
    [
        (10**9, None, "dense"),
        (5 * 10**8, None, "chunked"),
        (5 * 10**8, "in-place", "in-place"),
        (10**9, "chunked", "chunked"),
    ],
)
def test_how_the_top_layer_steps_is_decided_and_recorded(
    free: int, asked: str | None, step: str, tiny: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A layer of 4,000 classes and 2,048 features: 32.8 MB and, of 8 examples, 0.5 MB of logits."""
    monkeypatch.setattr("bench.accuracy.plan._outline", lambda *_: OUTLINE)
    monkeypatch.setattr("bench.accuracy.plan.free_bytes", lambda device: free)
    request = Request(
        dataset=many_classes(4000), losses="ce", steps=1, batch_size=8, device="cpu", top_layer_step=asked
    )
    planned = plan(request)
    assert planned.recipe.top_layer_step == step
    assert [notice.kind for notice in planned.notices] == []


def test_an_optimiser_without_room_leaves_the_top_layer_to_plain_sgd_and_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("bench.accuracy.plan._outline", lambda *_: OUTLINE)
    free = 192 * 2**20 + 3 * (4 * 1000 * 2049 + 3 * 4 * 10**6) + 1
    monkeypatch.setattr("bench.accuracy.plan.free_bytes", lambda device: free)
    asked: dict[str, Any] = {"dataset": many_classes(1000), "losses": "ce", "steps": 1, "batch_size": 8}
    planned = plan(Request(**asked, device="cpu", optimiser="adamw"))
    assert planned.recipe.top_layer_step == "in-place"
    (notice,) = planned.notices
    assert notice.kind == "stepped-in-place"
    assert "1,000 classes of 2,048 features need" in notice.happened
    assert "plain SGD" in notice.happened
    monkeypatch.setattr("bench.accuracy.plan.free_bytes", lambda device: free - 2)
    with pytest.raises(UsageError, match=r"1,000 classes of 2,048 features need .* GB .* in place .* are free for it"):
        plan(Request(**asked, device="cpu", optimiser="adamw"))


def test_fewer_trainings_run_side_by_side_where_memory_holds_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.accuracy.spreading.cores", lambda: 8)
    monkeypatch.setattr("bench.accuracy.plan.free_bytes", lambda device: 192 * 2**20 + 3 * 10**7)
    asked: dict[str, Any] = {"losses": "paper", "steps": 1, "network": "mlp", "device": "cpu"}
    planned = plan(Request(**asked))  # 0.29 million weights and their momenta, three times while one is written
    assert 1 < planned.recipe.workers < 8
    assert [notice.kind for notice in planned.notices] == ["fewer-workers"]
    with pytest.raises(UsageError, match=r"8 workers with 1 trainings each: memory holds \d at the same time"):
        plan(Request(**asked, workers=8, top_layer_step="dense"))


def test_a_class_that_is_never_seen_is_noticed() -> None:
    planned = plan(Request(dataset=many_classes(7, unseen=2), losses="ce", steps=1, batch_size=8, device="cpu"))
    (notice,) = planned.notices
    assert notice.kind == "class-never-seen"
    assert "2 of 7 classes have no example to train on: 5, 6" in notice.happened
    assert planned.manifest(created="2026-01-02T03:04:05+00:00", command=()).notices == (notice,)


def test_noise_is_uniform_where_frequencies_would_never_draw_a_class() -> None:
    asked: dict[str, Any] = {"losses": "nce,negative-sampling", "steps": 1, "batch_size": 8, "device": "cpu"}
    sampled: dict[str, Any] = {"nce": {"estimate": "sampled"}}
    for unseen, q in ((0, "class frequencies"), (2, "uniform")):
        planned = plan(Request(dataset=many_classes(7, unseen=unseen), hyperparameters=sampled, **asked))
        assert [loss.hyperparameters["q"] for loss in planned.losses] == [q, q]
    by_frequency = {"nce": {"estimate": "sampled", "q": "class frequencies"}}
    with pytest.raises(UsageError, match="class 5 has frequency 0"):
        plan(Request(dataset=many_classes(7, unseen=2), hyperparameters=by_frequency, **asked))


def test_batch_norm_by_micro_batches_is_noticed(tiny: Dataset) -> None:
    asked: dict[str, Any] = {"dataset": tiny, "losses": "ce", "steps": 1, "batch_size": 8, "device": "cpu"}
    planned = plan(Request(**asked, accumulate=4))
    assert planned.recipe.accumulation == 4
    (notice,) = planned.notices
    assert "micro-batches of 2 of 8 examples" in notice.happened
    assert plan(Request(**asked, accumulate=4, network="linear")).notices == ()


@pytest.mark.parametrize("label", [-1, 3])
@pytest.mark.parametrize("part", ["train", "validation", "test"])
def test_a_label_out_of_range_is_refused(part: str, label: int, tiny: Dataset) -> None:
    split = copy.copy(getattr(tiny, part))
    split.labels = split.labels.clone()
    split.labels[1] = label
    with pytest.raises(UsageError, match=rf"a label of {label}, and its 3 classes are 0 \.\. 2"):
        plan(Request(dataset=dataclasses.replace(tiny, **{part: split}), losses="ce", steps=1, batch_size=8))


def test_a_data_set_in_hand_cannot_be_sent(tiny: Dataset) -> None:
    with pytest.raises(UsageError, match="cannot be sent to workers"):
        plan(Request(dataset=tiny, steps=1, batch_size=8, workers=2))


def test_the_plan_of_a_run_is_the_plan_that_made_it(tmp_path: Path) -> None:
    request = Request(losses="ce", learning_rates=[0.1], steps=5, device="cpu")
    manifest = planned_manifest(request)
    again = plan_of(manifest, tmp_path)
    assert again.manifest(created=manifest.created, command=manifest.command) == manifest


def test_other_data_are_refused_with_the_difference(tmp_path: Path, tiny: Dataset) -> None:
    manifest = planned_manifest(Request(losses="ce", steps=5))
    others = manifest.dataset.model_copy(update={"train": 7, "checksums": {"a": "b"}})
    with pytest.raises(UsageError, match=r"digits is not what it was: train: 7 then, 1,?\d+ now, checksums"):
        plan_of(manifest.model_copy(update={"dataset": others}), tmp_path)
    in_hand = planned_manifest(Request(dataset=tiny, steps=5, batch_size=8))
    with pytest.raises(UsageError, match="only the program that has it can go on"):
        plan_of(in_hand, tmp_path)


# -- several ranks ----------------------------------------------------------------------------------------------


def of_ranks(size: int = 2, rank: int = 0, **fields: Any) -> Request:
    place = Place(rank=rank, size=size, local_rank=rank)
    return Request(**{"device": "cpu", "losses": "ce", "place": place, "local_ranks": size, **fields})


def test_ranks_train_one_network_at_a_time_with_their_share_of_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.accuracy.spreading.cores", lambda: 7)
    recipe = plan(of_ranks(3)).recipe
    assert (recipe.ranks, recipe.workers, recipe.stack, recipe.threads) == (3, 1, 1, 2)
    assert (recipe.shard_top_layer, recipe.top_layer_step) == (False, "dense")
    assert plan(of_ranks(3, threads=5)).recipe.threads == 5


def test_a_layer_that_is_split_goes_over_chunks() -> None:
    recipe = plan(of_ranks(shard_top_layer=True)).recipe
    assert (recipe.shard_top_layer, recipe.top_layer_step) == (True, "chunked")
    assert plan(of_ranks(shard_top_layer=True, top_layer_step="in-place")).recipe.top_layer_step == "in-place"


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        (Request(device="cpu", losses="ce", shard_top_layer=True), ("--shard-top-layer", "torchrun")),
        (of_ranks(shard_top_layer=True, top_layer_step="dense"), ("--shard-top-layer", "dense")),
        (of_ranks(top_layer_step="in-place"), ("in-place", "--shard-top-layer")),
        (of_ranks(shard_top_layer=True, top_layers="full,low-rank"), ("--shard-top-layer", "low-rank")),
        (of_ranks(workers=2), ("--workers 2", "2 ranks")),
        (of_ranks(stack=4), ("--stack 4", "2 ranks")),
        (of_ranks(engine="ray"), ("--engine ray", "ranks")),
        (of_ranks(size=11), ("digits has 10 classes", "11 ranks")),
        (of_ranks(size=3, batch_size=2), ("2 examples over 3 ranks",)),
    ],
    ids=str,
)
def test_what_does_not_go_with_ranks_is_refused(request_: Request, words: tuple[str, ...]) -> None:
    with pytest.raises(UsageError) as refused:
        plan(request_)
    for word in words:
        assert word in str(refused.value)


@pytest.mark.parametrize(
    ("fields", "words", "never"),
    [
        ({}, "10 classes .* over chunks of classes on each of 2 ranks .*or add --shard-top-layer", "in-place"),
        ({"top_layer_step": "dense"}, "10 classes .* on each of 2 ranks .*or add --shard-top-layer", "in-place"),
        ({"shard_top_layer": True}, "10 classes .* in place on each of 2 ranks .*more memory$", "--shard"),
    ],
)
def test_a_rank_without_memory_is_told_of_what_ranks_can_do(
    monkeypatch: pytest.MonkeyPatch, fields: dict[str, Any], words: str, never: str
) -> None:
    monkeypatch.setattr("bench.accuracy.plan.free_bytes", lambda device: 0)
    with pytest.raises(UsageError, match=words) as refused:
        plan(of_ranks(**fields))
    assert never not in str(refused.value)


@pytest.mark.parametrize("sharded", [False, True])
def test_memory_is_asked_for_with_the_sizes_of_all_ranks(monkeypatch: pytest.MonkeyPatch, sharded: bool) -> None:
    """Shares are the demand's own to take: each rank of a split layer begins with all of it."""
    asked: list[capacity.Demand] = []

    def choose(step: str | None, demand: capacity.Demand, free_bytes: int) -> str:
        asked.append(demand)
        return capacity_choose_step(step, demand, free_bytes)

    capacity_choose_step = capacity.choose_step
    monkeypatch.setattr(capacity, "choose_step", choose)
    plan(of_ranks(shard_top_layer=sharded, batch_size=9))
    (demand,) = asked
    assert (demand.examples, demand.classes, demand.ranks, demand.sharded) == (9, 10, 2, sharded)


def test_data_in_hand_are_not_on_other_ranks(tiny: Dataset) -> None:
    with pytest.raises(UsageError, match="data set in hand"):
        plan(of_ranks(dataset=tiny))


def test_ranks_agree_on_what_decides_and_not_on_their_own_device_and_threads() -> None:
    one, other = plan(of_ranks(rank=0)), plan(of_ranks(rank=1, threads=1))
    assert one.decides() == other.decides()
    assert plan(of_ranks(steps=7)).decides() != one.decides()
    assert plan(of_ranks(losses="batch-ce")).decides() != one.decides()
    assert plan(of_ranks(seed=1)).decides() != one.decides()
