import copy
import hashlib
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import Tensor, nn

from bench.accuracy import losses, networks, training
from bench.accuracy.batches import BatchOrder
from bench.accuracy.checkpoints import CheckpointFolder
from bench.accuracy.data import Dataset, from_arrays, load
from bench.accuracy.data.splits import MemorySplit
from bench.accuracy.events import Ended, Stepped
from bench.accuracy.models import model_of
from bench.accuracy.records import Training
from bench.accuracy.settings import LossSetting, Member, Recipe
from bench.accuracy.training import Work, curve_steps, first_not_finite, train, window
from bench.errors import UsageError

CLASSES, STEPS = 3, 24

Event = Stepped | Ended


class Stopped(Exception):
    """What a test raises out of `emit`."""


def toy() -> Dataset:
    """Three classes of noisy images, 8 x 8, told apart by where they are bright."""
    generator = torch.Generator().manual_seed(0)

    def drawn(count: int) -> tuple[Tensor, Tensor]:
        labels = torch.arange(count) % CLASSES
        images = torch.randn(count, 1, 8, 8, generator=generator)
        images[torch.arange(count), 0, labels] += 6
        return images, labels

    return from_arrays("toy", drawn(50), drawn(9), validation=drawn(20))


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    return toy()


def setting(key: str, **hyperparameters: Any) -> LossSetting:
    return losses.configured(key, classes=CLASSES, **hyperparameters).setting


def work(*members: tuple[str, float, int], settings: tuple[LossSetting, ...] = (), **fields: Any) -> Work:
    given = {one.key: one for one in settings}
    made = tuple(Member(loss=key, learning_rate=rate, seed=seed) for key, rate, seed in members)
    keys = dict.fromkeys(member.loss for member in made)
    recipe = Recipe(**{"network": "mlp", "steps": STEPS, "batch_size": 8, "curve_points": 4, **fields})
    return Work(members=made, recipe=recipe, losses=tuple(given.get(key) or setting(key) for key in keys))


def trained(asked: Work, dataset: Dataset, folder: Path | None, **options: Any) -> list[Training]:
    events: list[Event] = []
    train(asked, dataset, events.append, checkpoints=folder, **options)
    return [event.training for event in events if isinstance(event, Ended)]


def without_times(records: list[Training]) -> list[dict[str, Any]]:
    """Records as they must be equal: all but what a clock said."""
    cleared = []
    for record in records:
        content = record.model_dump()
        del content["seconds"], content["examples_per_s"]
        for point in content["curve"]:
            del point["seconds"]
        cleared.append(content)
    return cleared


def weights_in(folder: Path) -> dict[str, dict[str, Tensor]]:
    return {file.stem: load_file(file) for file in sorted(folder.glob("*.safetensors"))}


def assert_bit_equal(actual: Path, expected: Path) -> None:
    found, wanted = weights_in(actual), weights_in(expected)
    assert found.keys() == wanted.keys()
    for name in wanted:
        for key, tensor in wanted[name].items():
            assert torch.equal(found[name][key], tensor), (name, key)


@pytest.fixture
def short_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows of a few steps, and progress after each."""
    monkeypatch.setattr(training, "window", lambda step_s, longest: min(3, longest))
    monkeypatch.setattr(training, "PROGRESS_EVERY_S", 0.0)


@given(st.integers(1, 5000), st.integers(1, 60))
def test_the_curve_is_even_and_ends_at_the_end(steps: int, points: int) -> None:
    found = curve_steps(steps, points)
    assert found[-1] == steps
    assert len(found) == min(steps, points)
    gaps = [after - before for before, after in zip((0, *found), found, strict=False)]
    assert min(gaps) >= 1
    assert max(gaps) - min(gaps) <= 1


def test_windows_by_hand() -> None:
    assert window(None, 1000) == training.FIRST_WINDOW
    assert window(0.002, 1000) == 100
    assert window(0.002, 7) == 7
    assert window(5.0, 1000) == 1
    assert window(0.0, 10**6) == training.LONGEST_WINDOW


def test_the_first_loss_that_is_not_finite() -> None:
    assert first_not_finite([1.0, 2.0]) is None
    assert first_not_finite([1.0, float("inf"), float("nan")]) == 1


def test_a_training_learns_and_says_so(dataset: Dataset, tmp_path: Path, short_windows: None) -> None:
    events: list[Event] = []
    train(work(("batch-ce", 0.1, 0)), dataset, events.append, checkpoints=tmp_path)
    *steps, last = events
    assert isinstance(last, Ended)
    record = last.training
    assert (record.status, record.steps, record.diverged_at) == ("ok", STEPS, None)
    assert [point.step for point in record.curve] == [6, 12, 18, 24]
    assert record.validation_accuracy is not None
    assert record.validation_accuracy > 0.8
    first, end = record.curve[0].training_loss, record.curve[-1].training_loss
    assert first is not None
    assert end is not None
    assert end < first
    assert record.examples_per_s is not None
    told = [event.step for event in steps if isinstance(event, Stepped)]
    assert told == [0, 3, 6, 9, 12, 15, 18, 21, 24]
    assert [path.name for path in tmp_path.iterdir()] == ["batch-ce-lr0.1-seed0.safetensors"]


def test_the_curve_is_that_of_the_steps(dataset: Dataset) -> None:
    """The training loss of a point is the mean over its steps: a curve of every step says what they were."""
    (coarse,) = trained(work(("ce", 0.1, 1)), dataset, None)
    (fine,) = trained(work(("ce", 0.1, 1), curve_points=STEPS), dataset, None)
    steps = [point.training_loss for point in fine.curve]
    assert len(steps) == STEPS
    for number, point in enumerate(coarse.curve):
        own = [loss for loss in steps[6 * number : 6 * number + 6] if loss is not None]
        assert point.training_loss == pytest.approx(sum(own) / 6, rel=1e-9)
        same = fine.curve[point.step - 1]
        assert (point.validation_loss, point.validation_accuracy) == (same.validation_loss, same.validation_accuracy)


def test_where_windows_end_changes_nothing(dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = work(("self-norm", 0.1, 0))
    records = []
    for length in (1, 5, 1000):
        monkeypatch.setattr(training, "window", lambda step_s, longest, length=length: min(length, longest))
        records.append(without_times(trained(asked, dataset, tmp_path / str(length))))
    assert records[0] == records[1] == records[2]
    assert_bit_equal(tmp_path / "5", tmp_path / "1")
    assert_bit_equal(tmp_path / "1000", tmp_path / "1")


def test_every_loss_and_rate_of_a_seed_begins_alike(dataset: Dataset, tmp_path: Path) -> None:
    """At rates too small to change anything, the final weights are the initial ones."""
    for member in (("ce", 1e-30, 4), ("batch-ce", 1e-29, 4)):
        trained(work(member), dataset, tmp_path)
    first, second = weights_in(tmp_path).values()
    assert torch.equal(first["1.weight"], second["1.weight"])
    assert torch.equal(first["2.running_mean"], second["2.running_mean"])  # the same minibatches


SAMPLED = setting("nce", estimate="sampled", t=2, q="uniform")
CASES: dict[str, tuple[Callable[[], Work], int]] = {
    "sgd": (lambda: work(("batch-ce", 0.1, 0)), 12),
    "adam, cosine": (lambda: work(("ce", 0.01, 0), optimiser="adam", schedule="cosine"), 9),
    "adamw, exponential": (
        lambda: work(
            ("ce", 0.01, 0),
            optimiser="adamw",
            weight_decay=0.01,
            schedule="exponential",
            decay_steps=5,
            decay_rate=0.5,
        ),
        6,
    ),
    "rmsprop": (lambda: work(("ce", 0.01, 0), optimiser="rmsprop"), 15),
    "sampled nce": (lambda: work(("nce", 0.1, 0), settings=(SAMPLED,)), 9),
    "bfloat16": (lambda: work(("ce", 0.1, 0), dtype="bfloat16"), 9),
    "float16": (lambda: work(("ce", 0.1, 0), dtype="float16"), 9),
    "stack": (
        lambda: work(
            ("ce", 0.1, 0), ("nce", 0.01, 0), ("nce", 0.1, 1), ("batch-max-margin", 1.0, 1), settings=(SAMPLED,)
        ),
        12,
    ),
    "cnn": (lambda: work(("batch-ce", 0.1, 0), network="cnn", steps=7, curve_points=2), 6),
    "dropout": (lambda: work(("ce", 0.1, 0)), 12),
    "chunked": (lambda: work(("batch-ce", 0.01, 0), optimiser="adamw", top_layer_step="chunked"), 9),
    "in place": (lambda: work(("batch-max-margin", 0.1, 0), top_layer_step="in-place", schedule="cosine"), 9),
    "in place, sampled nce": (lambda: work(("nce", 0.1, 0), settings=(SAMPLED,), top_layer_step="in-place"), 9),
    "micro-batches": (lambda: work(("batch-ce", 0.1, 0), accumulation=4), 9),
    "many classes": (
        lambda: work(
            ("batch-ce", 0.1, 0), top_layer_step="in-place", accumulation=2, batch_size=16, steps=12, curve_points=2
        ),
        9,
    ),
}


def data_of(case: str) -> Dataset:
    """2,000 classes for the case of many, else the toy."""
    return load("synthetic:2000,d=16,examples=4000") if case == "many classes" else toy()


def with_dropout(name: str, input_shape: Sequence[int], classes: int, *, seed: int, **options: object) -> nn.Module:
    """In place of networks.build: dropout draws from torch's global generator at every step."""
    return nn.Sequential(nn.Dropout(0.5), *networks.build("mlp", input_shape, classes, seed=seed).children()).train()


@pytest.mark.parametrize("case", [case for case in CASES if case != "many classes"])
def test_cut_off_and_resumed_it_ends_bit_equal(
    case: str, dataset: Dataset, tmp_path: Path, short_windows: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    make, stop_at = CASES[case]
    asked = make()
    if case == "dropout":
        monkeypatch.setattr("bench.accuracy.models.networks", SimpleNamespace(build=with_dropout))
    through = trained(asked, dataset, tmp_path / "through")

    def stop(event: Event) -> None:
        if isinstance(event, Stepped) and event.step >= stop_at:
            raise Stopped

    with pytest.raises(Stopped):
        train(asked, dataset, stop, checkpoints=tmp_path / "cut", checkpoint_every_s=0.0)
    assert not list((tmp_path / "cut").glob("*.safetensors"))
    events: list[Event] = []
    train(asked, dataset, events.append, checkpoints=tmp_path / "cut")
    assert isinstance(events[0], Stepped)
    assert 0 < events[0].step < stop_at  # it went on from a checkpoint, and did not begin anew
    resumed = [event.training for event in events if isinstance(event, Ended)]
    assert without_times(resumed) == without_times(through)
    assert_bit_equal(tmp_path / "cut", tmp_path / "through")
    assert len(weights_in(tmp_path / "cut")) == len(asked.members)


@pytest.mark.parametrize("case", ["sampled nce", "stack"])
def test_compiled_it_draws_the_same_noise_and_ends_alike(
    case: str, dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a backend that needs no C++ compiler; it sees the network alone, and the noise is drawn outside."""
    torch._dynamo.reset()
    compile_, compiled = torch.compile, []

    def without_compiler(module: nn.Module, *, mode: str, dynamic: bool) -> Callable[..., Any]:
        compiled.append(mode)
        return compile_(module, backend="aot_eager", dynamic=dynamic)

    monkeypatch.setattr(torch, "compile", without_compiler)
    plain = CASES[case][0]()
    asked = plain.model_copy(update={"recipe": plain.recipe.model_copy(update={"compile": "default"})})
    expected, records = trained(plain, dataset, tmp_path / "plain"), trained(asked, dataset, tmp_path / "compiled")
    assert compiled == ["default"]
    for record, other in zip(records, expected, strict=True):
        assert record.status == other.status == "ok"
        curve, expected_curve = ([point.training_loss for point in each.curve] for each in (record, other))
        assert curve == pytest.approx(expected_curve, rel=1e-3), "other noise would change it by a tenth and more"


KILLED_WHILE_IT_SAVES = """
import importlib.util, os, signal, sys
from pathlib import Path
spec = importlib.util.spec_from_file_location("cases", sys.argv[1])
cases = importlib.util.module_from_spec(spec)
sys.modules["cases"] = cases
spec.loader.exec_module(cases)
from bench.accuracy import checkpoints, training
real, written = checkpoints.write_atomically, []
def write(path, content):
    written.append(path.name)
    if written.count("state.pt") == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    real(path, content)
checkpoints.write_atomically = write
training.window = lambda step_s, longest: min(3, longest)
asked, data = cases.CASES[sys.argv[3]][0](), cases.data_of(sys.argv[3])
training.train(asked, data, lambda event: None, checkpoints=Path(sys.argv[2]), checkpoint_every_s=0.0)
"""


@pytest.mark.parametrize("case", ["stack", "many classes"])
def test_killed_while_it_saves_and_resumed_it_ends_bit_equal(case: str, tmp_path: Path) -> None:
    asked, dataset = CASES[case][0](), data_of(case)
    through = trained(asked, dataset, tmp_path / "through")
    cut = tmp_path / "cut"
    child = subprocess.run(
        [sys.executable, "-c", KILLED_WHILE_IT_SAVES, __file__, str(cut), case],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(training.__file__).parents[2],
    )
    assert child.returncode == -9, child.stderr
    torn, *whole = sorted(path.name for path in (cut / asked.name).iterdir())
    assert torn.startswith(".step-000000009")
    assert whole == ["step-000000003", "step-000000006"]
    assert without_times(trained(asked, dataset, cut)) == without_times(through)
    assert_bit_equal(cut, tmp_path / "through")
    assert not (cut / asked.name).exists()


def spoilt(dataset: Dataset) -> Dataset:
    """The same data, but one image of the sixth minibatch of seed 0 has no numbers."""
    indices = BatchOrder(len(dataset.train), 8, 0).window(5, 1)[0]
    split = copy.copy(dataset.train)
    assert isinstance(split, MemorySplit)
    split._pixels = split._pixels.clone()
    split._pixels[indices[0]] = float("nan")
    return replace(dataset, train=split)


def test_a_training_that_diverges_says_at_which_step(dataset: Dataset, tmp_path: Path, short_windows: None) -> None:
    (record,) = trained(work(("ce", 0.1, 0), curve_points=12), spoilt(dataset), tmp_path)
    assert (record.status, record.diverged_at, record.steps) == ("diverged", 6, 6)
    assert [point.step for point in record.curve] == [2, 4]
    assert f"step 6 of {STEPS}" in record.reason
    assert record.validation_accuracy is None
    assert list(tmp_path.iterdir()) == []  # no weights, no checkpoints


def test_a_member_that_diverges_changes_nothing_for_its_neighbours(dataset: Dataset, tmp_path: Path) -> None:
    """A rate so large that the weights overflow, beside two sound ones."""
    sound = [("batch-ce", 0.1, 0), ("self-norm", 0.01, 0)]
    beside = trained(work(("self-norm", 1e30, 1), *sound), dataset, tmp_path / "beside")
    calm = trained(work(("self-norm", 1e-3, 1), *sound), dataset, tmp_path / "calm")
    assert beside[0].status == "diverged"
    assert [record.status for record in beside[1:]] == ["ok", "ok"]
    assert without_times(beside[1:]) == without_times(calm[1:])
    for key, rate, seed in sound:
        name = Member(loss=key, learning_rate=rate, seed=seed).name
        one, other = (load_file(tmp_path / folder / f"{name}.safetensors") for folder in ("beside", "calm"))
        assert all(torch.equal(one[key], other[key]) for key in other)
    assert len(weights_in(tmp_path / "beside")) == 2


def test_weights_that_the_last_step_spoils_are_a_divergence(dataset: Dataset, tmp_path: Path) -> None:
    (record,) = trained(work(("ce", 1e38, 0), steps=1, optimiser="sgd", weight_decay=1e3), dataset, tmp_path)
    assert (record.status, record.diverged_at) == ("diverged", 1)
    assert list(tmp_path.iterdir()) == []


def test_a_stack_learns_what_its_members_learn_alone(dataset: Dataset) -> None:
    members = [("ce", 0.1, 0), ("batch-ce", 0.1, 1), ("binary-ce", 0.01, 0)]
    together = trained(work(*members, steps=6), dataset, None)
    for member, record in zip(members, together, strict=True):
        (alone,) = trained(work(member, steps=6), dataset, None)
        assert record.member == alone.member
        for one, other in zip(record.curve, alone.curve, strict=True):
            assert one.training_loss == pytest.approx(other.training_loss, rel=1e-3)
            assert one.validation_loss == pytest.approx(other.validation_loss, rel=1e-2)


def test_the_model_comes_back_as_it_ended(dataset: Dataset, tmp_path: Path) -> None:
    asked = work(("batch-ce", 0.1, 0))
    (record,) = trained(asked, dataset, tmp_path)
    model = model_of(asked.members[0], asked.recipe, dataset.facts, tmp_path)
    assert not model.training
    with torch.no_grad():
        logits = model(dataset.validation.images(torch.arange(len(dataset.validation))))
    accuracy = float((logits.argmax(1) == dataset.validation.labels).double().mean())
    assert accuracy == pytest.approx(record.validation_accuracy)


def test_weights_of_another_network_are_refused(dataset: Dataset, tmp_path: Path) -> None:
    asked = work(("ce", 0.1, 0), steps=1)
    trained(asked, dataset, tmp_path)
    other = asked.recipe.model_copy(update={"network": "cnn"})
    with pytest.raises(UsageError, match="another network than cnn"):
        model_of(asked.members[0], other, dataset.facts, tmp_path)


def stopped_at_six(asked: Work, dataset: Dataset, folder: Path) -> None:
    def stop(event: Event) -> None:
        if isinstance(event, Stepped) and event.step >= 6:
            raise Stopped

    with pytest.raises(Stopped):
        train(asked, dataset, stop, checkpoints=folder, checkpoint_every_s=0.0)


def test_a_checkpoint_of_another_recipe_is_refused(dataset: Dataset, tmp_path: Path, short_windows: None) -> None:
    stopped_at_six(work(("ce", 0.1, 0)), dataset, tmp_path)
    with pytest.raises(UsageError, match="other trainings, data or settings"):
        trained(work(("ce", 0.1, 0), momentum=0.5), dataset, tmp_path)
    (record,) = trained(work(("ce", 0.1, 0), workers=2), dataset, tmp_path)  # who does it does not matter
    assert record.status == "ok"


def test_an_altered_checkpoint_is_refused_and_nothing_is_lost(
    dataset: Dataset, tmp_path: Path, short_windows: None
) -> None:
    asked = work(("ce", 0.1, 0))
    stopped_at_six(asked, dataset, tmp_path)
    (state,) = tmp_path.glob("*/step-*/state.pt")
    content = state.read_bytes()
    state.write_bytes(content[:-100])
    with pytest.raises(UsageError, match=r"state\.pt was cut short"):
        trained(asked, dataset, tmp_path)
    state.write_bytes(content)
    assert trained(asked, dataset, tmp_path)[0].status == "ok"


def test_a_full_disk_is_an_error_of_the_disk(
    dataset: Dataset, tmp_path: Path, short_windows: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(folder: CheckpointFolder, *_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(CheckpointFolder, "save", full)
    with pytest.raises(OSError, match="No space left"):
        trained(work(("ce", 0.1, 0)), dataset, tmp_path, checkpoint_every_s=0.0)


def test_the_callers_threads_and_random_state_stay(dataset: Dataset) -> None:
    threads, state = torch.get_num_threads(), torch.get_rng_state()
    trained(work(("ce", 0.1, 0), steps=1, threads=threads + 1), dataset, None)
    assert torch.get_num_threads() == threads
    assert torch.equal(torch.get_rng_state(), state)


def test_one_example_has_no_variance(dataset: Dataset) -> None:
    for fields in ({"batch_size": 1}, {"batch_size": 4, "accumulation": 4}):
        with pytest.raises(UsageError, match="give 2 or more"):
            trained(work(("batch-ce", 0.1, 0), **fields), dataset, None)


def test_a_step_that_is_not_what_the_recipe_says_is_refused(dataset: Dataset) -> None:
    with pytest.raises(UsageError, match="1 rank would carry it out"):
        trained(work(("ce", 0.1, 0), ranks=2), dataset, None)
    with pytest.raises(UsageError, match="cannot be stacked"):
        trained(work(("ce", 0.1, 0), ("ce", 0.01, 0), network="cnn"), dataset, None)


@pytest.mark.parametrize("key", ["ce", "nce"])
def test_losses_that_say_so_start_at_the_prior(key: str, dataset: Dataset, tmp_path: Path) -> None:
    """At a rate too small to change anything; 3 classes give each a half of the odds of all others."""
    at_prior = setting(key).model_copy(update={"prior_bias": key == "nce"})
    trained(work((key, 1e-30, 0), steps=1, settings=(at_prior,), prior_bias="auto"), dataset, tmp_path)
    (weights,) = weights_in(tmp_path).values()
    assert bool((weights["7.bias"] == losses.prior_bias(CLASSES)).all()) == (key == "nce")


#: The work of ("ce", 0.1, 0) as it was written before recipes had a way of stepping, without workers and threads.
FORMER_WORK = (
    '{"members":[{"loss":"ce","learning_rate":0.1,"seed":0}],"recipe":{"network":"mlp","steps":24,"batch_size":8,'
    '"optimiser":"sgd","momentum":0.9,"weight_decay":0.0,"square_decay":0.99,"epsilon":null,"schedule":"constant",'
    '"decay_steps":null,"decay_rate":null,"label_smoothing":0.0,"auxiliary_weight":0.0,"prior_bias":false,'
    '"dtype":"float32","compile":"none","device":"cpu","stack":1,"curve_points":4},"losses":[{"key":"ce","name":"CE",'
    '"aligned":false,"hyperparameters":{}}]}'
)


def test_checkpoints_of_former_versions_are_still_those_of_their_trainings(dataset: Dataset) -> None:
    facts = dataset.facts
    former = hashlib.sha256(f"{FORMER_WORK}\n{facts.model_dump_json()}".encode()).hexdigest()
    assert training._digest(work(("ce", 0.1, 0)), facts) == former
    for fields in ({"accumulation": 2}, {"top_layer_step": "chunked"}, {"prior_bias": "auto"}, {"ranks": 2}):
        assert training._digest(work(("ce", 0.1, 0), **fields), facts) != former


#: As SAMPLED was recorded before records said whose noise classes are, and how they are corrected.
FORMER_SAMPLED = LossSetting(
    key="nce", name="NCE", aligned=True, hyperparameters={"t": 25.0, "q": "class frequencies", "estimate": "sampled"}
)


def test_a_training_of_a_former_version_goes_on_by_its_own_record(
    dataset: Dataset, tmp_path: Path, short_windows: None
) -> None:
    """Its checkpoint is not refused, and it ends as one of today does."""
    now = setting("nce", estimate="sampled", class_frequencies=[1.0] * CLASSES)
    former, asked = (work(("nce", 0.1, 0), settings=(one,)) for one in (FORMER_SAMPLED, now))
    assert now.hyperparameters == FORMER_SAMPLED.hyperparameters | {"negatives": "own", "correction": "log-q"}
    stopped_at_six(former, dataset, tmp_path / "former")
    (cut_off,) = trained(former, dataset, tmp_path / "former")
    (whole,) = trained(asked, dataset, tmp_path / "now")
    assert_bit_equal(tmp_path / "former", tmp_path / "now")
    assert whole.validation_loss == cut_off.validation_loss


def test_how_classes_are_drawn_decides_the_training(dataset: Dataset, tmp_path: Path) -> None:
    ended = {}
    for how in ({}, {"negatives": "shared"}, {"correction": "none"}):
        one = setting("nce", estimate="sampled", class_frequencies=[1.0] * CLASSES, **how)
        asked = work(("nce", 0.1, 0), settings=(one,), steps=4)
        folder = tmp_path / "-".join(["as usual", *how])
        trained(asked, dataset, folder)
        (weights,) = weights_in(folder).values()
        ended[training._digest(asked, dataset.facts)] = weights["7.weight"]
    first, shared, uncorrected = ended.values()
    assert not torch.equal(first, shared)
    assert not torch.equal(first, uncorrected)


def test_a_work_is_consistent() -> None:
    asked = work(("ce", 0.1, 0))
    with pytest.raises(ValueError, match="stands twice"):
        Work(members=asked.members * 2, recipe=asked.recipe, losses=asked.losses)
    with pytest.raises(ValueError, match="no setting"):
        Work(members=asked.members, recipe=asked.recipe, losses=())
    assert asked.name == "ce-lr0.1-seed0"
    assert work(("ce", 0.1, 0), ("ce", 0.1, 1)).name.startswith("stack-")
    assert Work.model_validate_json(asked.model_dump_json()) == asked


@pytest.mark.gpu
def test_a_training_on_a_gpu_learns_and_can_be_resumed(dataset: Dataset, tmp_path: Path, short_windows: None) -> None:
    members = [("ce", 0.1, 0), ("batch-ce", 0.1, 0), ("nce", 0.1, 1)]
    asked = work(*members, settings=(SAMPLED,), device="cuda:0", steps=60)
    stopped_at_six(asked, dataset, tmp_path)
    for record in trained(asked, dataset, tmp_path):
        assert record.validation_accuracy is not None
        assert record.validation_accuracy > 0.8
