from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.accuracy import losses
from bench.accuracy.data import Dataset, from_arrays
from bench.accuracy.plan import LARGEST_STACK, PAPER_IMAGENET, Request, plan, plan_of, spread
from bench.accuracy.settings import PAPER_RATES, Source
from bench.errors import UsageError


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
    monkeypatch.setattr("bench.accuracy.plan._refuse_unfit_network", lambda recipe, dataset: None)
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
    monkeypatch.setattr("bench.accuracy.plan._refuse_unfit_network", lambda recipe, dataset: None)
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
    "no steps": ({"steps": 0}, "--steps 0: it must be 1 or more"),
    "no seeds": ({"seeds": 0}, "--seeds 0: it must be 1 or more"),
    "too many seeds": ({"seeds": 10**12}, "--seeds 1000000000000: .* 10,000 or less"),
    "negative seed": ({"seed": -1}, "--seed -1: it must be 0 or more"),
    "huge seed": ({"seed": 2**63}, "--seed 9223372036854775808"),
    "batch of one": ({"batch_size": 1}, "--batch-size 1: batch norm and the batch losses"),
    "batch of none": ({"batch_size": 0}, "--batch-size 0"),
    "batch of all": ({"batch_size": 10**6}, "--batch-size 1000000: digits has 1,[0-9]+ examples"),
    "no workers": ({"workers": 0, "device": "cpu"}, "--workers 0: it must be 1 or more"),
    "no threads": ({"threads": 0}, "--threads 0: it must be 1 or more"),
    "all threads": ({"threads": 10**12}, "--threads 1000000000000: it must be 4096 or less"),
    "no stack": ({"stack": 0}, "--stack 0: it must be 1 or more"),
    "stack of cnns": ({"stack": 2, "network": "cnn"}, "--stack 2: only MLPs"),
    "stack of scaled": ({"stack": 2, "dtype": "float16"}, "--stack 2: only MLPs"),
    "momentum": ({"momentum": 1.5}, "momentum: "),
    "momentum of adam": ({"momentum": 0.5, "optimiser": "adam"}, "--momentum 0.5: adam has none .* sgd or rmsprop"),
    "endless decay": ({"weight_decay": float("inf")}, "weight_decay: "),
    "weight decay": ({"weight_decay": float("nan")}, "weight_decay: "),
    "network": ({"network": "resnet5O"}, "resnet5O"),
    "unfit network": ({"network": "resnet50"}, "'resnet50' cannot be trained on these data"),
    "unused": ({"losses": "ce", "hyperparameters": {"self-norm": {"alpha": 1.0}}}, "not trained: self-norm"),
    "unknown": ({"losses": "nce", "hyperparameters": {"nce": {"beta": 1.0}}}, "nce has no hyperparameter 'beta'"),
    "keyword": ({"losses": "ce", "hyperparameters": {"ce": {"classes": 3.0}}}, "no hyperparameter 'classes'"),
    "value": ({"losses": "self-norm", "hyperparameters": {"self-norm": {"alpha": -1.0}}}, "alpha = -1.0"),
    "word": ({"losses": "nce", "hyperparameters": {"nce": {"q": "zipf"}}}, "q = 'zipf'"),
    "smoothing": ({"losses": "max-margin", "label_smoothing": 0.1}, "not defined for max-margin"),
    "input size": ({"input_size": 32}, "digits has images of 8 x 8"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_done_is_refused(name: str) -> None:
    asked, words = REFUSED[name]
    with pytest.raises(UsageError, match=words) as refused:
        plan(Request(**asked))
    assert "\n" not in str(refused.value)


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


CPU = {"device": "cpu", "workers": None, "stack": None, "threads": None}
GPU = {**CPU, "device": "cuda:0"}


@pytest.mark.parametrize(
    ("trainings", "options", "expected"),
    [
        (28, {**CPU, "stackable": True, "cores": 2}, (2, 1, 1)),
        (28, {**CPU, "stackable": False, "cores": 8}, (8, 1, 1)),
        (3, {**CPU, "stackable": True, "cores": 8}, (3, 1, 2)),
        (1, {**CPU, "stackable": True, "cores": 2}, (1, 1, 2)),
        (28, {**CPU, "stackable": True, "cores": 4, "workers": 2}, (2, 1, 2)),
        (28, {**CPU, "stackable": True, "cores": 4, "workers": 1, "threads": 3}, (1, 1, 3)),
        (28, {**CPU, "stackable": True, "cores": 4, "stack": 14}, (2, 14, 2)),
        (28, {**GPU, "stackable": True, "cores": 16}, (1, 28, 16)),
        (1000, {**GPU, "stackable": True, "cores": 16}, (1, LARGEST_STACK, 16)),
        (28, {**GPU, "stackable": False, "cores": 16}, (1, 1, 16)),
        (28, {**GPU, "stackable": False, "cores": 16, "workers": 4}, (4, 1, 4)),
    ],
)
def test_how_a_grid_is_spread(trainings: int, options: dict[str, Any], expected: tuple[int, int, int]) -> None:
    assert spread(trainings, **options) == expected


@given(
    st.integers(1, 500),
    st.sampled_from(["cpu", "cuda:0"]),
    st.booleans(),
    st.integers(1, 64),
    st.none() | st.integers(1, 50),
    st.none() | st.integers(1, 600),
)
def test_no_worker_is_idle_from_the_start(
    trainings: int, device: str, stackable: bool, cores: int, workers: int | None, stack: int | None
) -> None:
    stack = stack if stackable else None
    found, size, threads = spread(
        trainings, device=device, stackable=stackable, cores=cores, workers=workers, stack=stack, threads=None
    )
    assert 1 <= found <= -(-trainings // size)
    assert workers is None or found <= workers
    assert threads >= 1
    assert threads * found <= max(cores, found)
