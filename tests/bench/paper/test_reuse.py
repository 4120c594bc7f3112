"""Finished runs of parts, taken into the paper's run: which are, which are refused, and what is left of them."""

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from bench.accuracy.run import AccuracyRun
from bench.cli import reproducing
from bench.errors import UsageError
from bench.paper import edition, reuse
from bench.paper.budget import Demand
from bench.paper.edition import manifest_of, reopen, runs_of, start
from bench.paper.evidence import claims_of
from bench.paper.parts import PAPER, AccuracyPart, Options, Size, SpeedPart
from bench.paper.record import PaperManifest, PartRecord, load
from bench.run import Run
from bench.schemas import schemas

Part = SpeedPart | AccuracyPart
Alter = Callable[[dict[str, Any]], None]

CPU = Options(device="cpu", threads=1)


@pytest.fixture(scope="module")
def finished(
    tmp_path_factory: pytest.TempPathFactory, here: Callable[..., Any], tiny: Callable[..., list[str]]
) -> dict[str, Path]:
    """A sweep with a class count more than the part, and a grid with a loss, a learning rate and a seed more."""
    parent = tmp_path_factory.mktemp("measured")
    speed = tiny(parent / "speed", "--minibatches", 12, "--device", "cpu", counts="1,8,16")
    assert here(*speed).code == 0
    grid = ("--losses", "ce,batch-ce,self-norm,sigmoid-tanimoto", "--lr", "0.1,0.01", "--steps", 30, "--seeds", 2)
    where = ("--device", "cpu", "--workers", 1, "--threads", 1, "--output", parent / "accuracy")
    assert here("accuracy", "--dataset", "digits", *grid, *where).code == 0
    return {kind: next((parent / kind).iterdir()) for kind in ("speed", "accuracy")}


@pytest.fixture
def manifest(tiny_speed: SpeedPart, tiny_accuracy: AccuracyPart) -> PaperManifest:
    return manifest_of([tiny_speed, tiny_accuracy], CPU, None)


class Silent:
    """Keeps what it was told."""

    def __init__(self) -> None:
        self.told: list[tuple[str, str]] = []

    def expects(self, record: PartRecord) -> None:
        self.told.append(("expects", record.part.key))

    def begins(self, record: PartRecord) -> None:
        self.told.append(("begins", record.part.key))

    def advances(self, record: PartRecord, share: float) -> None:
        pass

    def ends(self, record: PartRecord, run: Run | AccuracyRun | None) -> None:
        self.told.append((record.state, record.part.key))


def _refuse_to_expect(part: Part, options: Options) -> Demand:
    raise AssertionError(f"{part.key} is not to be measured")


def _altered(source: Path, copy: Path, change: Alter) -> Path:
    shutil.copytree(source, copy)
    content = json.loads((copy / "run.json").read_text())
    change(content)
    (copy / "run.json").write_text(json.dumps(content))
    return copy


# -- what is taken ----------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("in_factories")
def test_what_is_reused_is_copied_and_not_measured(
    tmp_path: Path, finished: dict[str, Path], manifest: PaperManifest
) -> None:
    watch = Silent()
    found = reuse.find(list(finished.values()), manifest)
    begun = start(manifest, tmp_path, watch, _refuse_to_expect, found)
    assert edition.execute(begun) == "complete"
    assert watch.told == []
    kept = load(begun.path)
    speed, accuracy = kept.parts
    assert [(record.state, record.seconds, record.demand) for record in kept.parts] == [("done", 0.0, None)] * 2
    assert (speed.size, accuracy.size) == (Size(amount=12), Size(amount=30, learning_rates=(0.1, 0.01)))
    for record, path in zip(kept.parts, finished.values(), strict=True):
        own = json.loads((path / "run.json").read_text())
        assert record.reused is not None
        assert (record.reused.name, record.reused.created) == (own["name"], own["created"])
        names = {file.name for file in path.iterdir()}
        copied = {file.name for file in (begun.path / str(record.folder)).iterdir()}
        assert {".lock"} <= names
        assert copied == {name for name in names if not name.startswith(".") and name != "checkpoints"}
        assert (begun.path / str(record.folder) / "run.json").read_bytes() == (path / "run.json").read_bytes()
    assert (finished["accuracy"] / "checkpoints").is_dir()  # so that leaving it out is seen
    assert {path.name for path in begun.path.iterdir()} == {"run.json", ".lock", speed.folder, accuracy.folder}
    assert str(finished["speed"].parent) not in (begun.path / "run.json").read_text()


@pytest.mark.usefixtures("in_factories")
def test_the_budget_goes_to_the_rest(
    tmp_path: Path, finished: dict[str, Path], tiny_speed: SpeedPart, tiny_accuracy: AccuracyPart
) -> None:
    other = tiny_speed.model_copy(update={"arch": "tiny_networks:convolutional"})
    manifest = manifest_of([tiny_speed, other, tiny_accuracy], CPU, 12.0)
    manifest = reuse.marked(manifest, reuse.find([finished["accuracy"], finished["speed"]], manifest), {})
    look = edition.Edition(manifest, None, Silent(), lambda *_: Demand(fixed_s=0, unit_s=1), clock=lambda: 0.0)
    look.look_ahead()
    assert look.record(other.key).size == Size(amount=12)  # all twelve seconds: both halves, and none for the others
    assert look.record(tiny_speed.key).size == Size(amount=12)


@pytest.mark.usefixtures("in_factories")
def test_claims_use_the_papers_losses_and_the_parts_counts_and_every_seed(
    tmp_path: Path, finished: dict[str, Path], manifest: PaperManifest
) -> None:
    begun = start(manifest, tmp_path, Silent(), _refuse_to_expect, reuse.find(list(finished.values()), manifest))
    claims = {claim.key: claim for claim in claims_of(begun.manifest.parts, runs_of(begun.manifest, begun.path))}
    subjects = [detail.subject for detail in claims["no-degradation"].details]
    assert subjects == ["digits, batch CE", "digits, self-norm"] or subjects == [
        "digits, self-norm",
        "digits, batch CE",
    ]
    assert "2 seeds" in claims["improvement"].details[0].rests_on
    assert [detail.quantity for detail in claims["little-speedup"].details] == ["speedup at 16 classes"]
    of_accuracy = [detail.rests_on for detail in claims["improvement"].details + claims["no-degradation"].details]
    assert all("reused: run accuracy-digits of 20" in words for words in of_accuracy)
    of_speed = [detail.rests_on for detail in claims["independent"].details + claims["little-speedup"].details]
    assert all("12 minibatches of 2" in words and "reused: run tiny_networks" in words for words in of_speed)


@pytest.mark.usefixtures("in_factories")
def test_a_run_that_goes_on_takes_what_has_not_begun_and_nothing_else(
    tmp_path: Path, finished: dict[str, Path], manifest: PaperManifest
) -> None:
    begun = start(
        manifest.model_copy(update={"budget_s": 1e-3}), tmp_path, Silent(), lambda *_: Demand(fixed_s=9, unit_s=9)
    )
    assert edition.execute(begun) == "incomplete"
    assert {record.state for record in load(begun.path).parts} == {"left-out"}
    (begun.path / ".reused-1").mkdir()  # as a kill leaves it
    again = reopen(begun.path, None, Silent(), _refuse_to_expect, [finished["speed"]])
    assert [record.state for record in again.manifest.parts] == ["done", "waiting"]
    again.end("incomplete")
    before = (begun.path / "run.json").read_text()
    with pytest.raises(UsageError, match="speed of tiny_networks:small has begun already"):
        reopen(begun.path, None, Silent(), _refuse_to_expect, [finished["accuracy"], finished["speed"]])
    assert (begun.path / "run.json").read_text() == before
    last = reopen(begun.path, None, Silent(), _refuse_to_expect, [finished["accuracy"]])
    assert edition.execute(last) == "complete"
    assert len([path for path in begun.path.iterdir() if path.is_dir()]) == 2


@pytest.mark.usefixtures("in_factories")
def test_two_runs_in_folders_of_one_name_have_two(
    tmp_path: Path, finished: dict[str, Path], manifest: PaperManifest
) -> None:
    paths = [tmp_path / kind / "run" for kind in finished]
    for path, source in zip(paths, finished.values(), strict=True):
        shutil.copytree(source, path)
    begun = start(manifest, tmp_path / "results", Silent(), _refuse_to_expect, reuse.find(paths, manifest))
    assert [record.folder for record in begun.manifest.parts] == ["run", "run-2"]
    assert set(runs_of(begun.manifest, begun.path)) == {part.part.key for part in manifest.parts}


# -- what is refused --------------------------------------------------------------------------------------------

OF_SPEED: Mapping[str, Alter] = {
    "the run is interrupted; let it end first: python -m bench --resume": lambda run: run.update(status="interrupted"),
    "the run is cut off": lambda run: run.update(status="running"),
    "says that it is complete, but records are missing": lambda run: run["protocol"].update(minibatches=13),
    "speed of another is no part": lambda run: run["settings"][0].update(arch="another"),
    "2 settings": lambda run: run["settings"].append({**run["settings"][0], "batch_size": 4}),
    "batch_size is 4 where the part has 2": lambda run: run["settings"][0].update(batch_size=4),
    "dtype is bfloat16": lambda run: run["settings"][0].update(dtype="bfloat16"),
    "order is sequential": lambda run: run["settings"][0].update(order="sequential"),
    "3 CPU threads, and this run has 1": lambda run: run["settings"][0].update(threads=3),
    "where the part has .3, 8, 8.": lambda run: run["settings"][0].update(input_shape=[3, 9, 9]),
    "cpu$": lambda run: run["machine"].update(cpu="Another CPU"),
    "torch .0.1 then": lambda run: run["versions"].update(torch="0.1"),
    "schema version 9": lambda run: run.update(schema_version=9),
    "of kind 'paper'": lambda run: run.update(kind="paper"),
}


@pytest.mark.usefixtures("in_factories")
@pytest.mark.parametrize("words", OF_SPEED)
def test_a_sweep_that_is_not_the_part_is_refused(
    words: str, tmp_path: Path, finished: dict[str, Path], manifest: PaperManifest
) -> None:
    path = _altered(finished["speed"], tmp_path / "run", OF_SPEED[words])
    with pytest.raises(UsageError, match=words) as refused:
        reuse.find([path], manifest)
    assert "\n" not in str(refused.value)


OF_ACCURACY: Mapping[str, Alter] = {
    "the run is incomplete; let it end first: python -m bench accuracy --resume": lambda run: run.update(
        status="incomplete"
    ),
    "records are missing": lambda run: run.update(seeds=[0, 1, 2]),
    "accuracy on mnist is no part": lambda run: run["source"].update(name="mnist"),
    r"data in hand \(digits\)": lambda run: run.update(source=None),
    "input_size is 9": lambda run: run["source"].update(input_size=9),
    "network is cnn where the part has mlp": lambda run: run["recipe"].update(network="cnn"),
    "momentum is 0.5": lambda run: run["recipe"].update(momentum=0.5),
    "schedule is cosine": lambda run: run["recipe"].update(schedule="cosine"),
    "label_smoothing is 0.1": lambda run: run["recipe"].update(label_smoothing=0.1),
    "device is cuda:0": lambda run: run["recipe"].update(device="cuda:0"),
    "3 CPU threads": lambda run: run["recipe"].update(threads=3),
    "4 steps, and the least that is worth the name is 5": lambda run: run["recipe"].update(steps=4),
    "self-norm with {'alpha': 0.2}, and the part with {'alpha': 0.1}": lambda run: next(
        loss for loss in run["losses"] if loss["key"] == "self-norm"
    ).update(hyperparameters={"alpha": 0.2}),
    "memory_bytes": lambda run: run["machine"].update(memory_bytes=1 << 20),
}


@pytest.mark.parametrize("words", OF_ACCURACY)
def test_a_grid_that_is_not_the_part_is_refused(words: str, tmp_path: Path, finished: dict[str, Path]) -> None:
    part = AccuracyPart(dataset="digits", losses="ce,batch-ce,self-norm", full=30, least=5, learning_rates=(0.1, 0.01))
    path = _altered(finished["accuracy"], tmp_path / "run", OF_ACCURACY[words])
    with pytest.raises(UsageError, match=words) as refused:
        reuse.find([path], manifest_of([part], CPU, None))
    assert "\n" not in str(refused.value)


@pytest.mark.usefixtures("in_factories")
def test_what_a_part_asks_for_and_a_run_has_not_is_named(tmp_path: Path, finished: dict[str, Path]) -> None:
    grid = AccuracyPart(
        dataset="digits", losses="ce,batch-ce", full=30, least=5, learning_rates=(0.1,), fewer_rates=(0.1,)
    )
    sweep = SpeedPart(arch="tiny_networks:small", classes=(1, 16), batch_size=2, full=12, least=10)
    wanting: dict[str, Part] = {
        "without binary-ce": grid.model_copy(update={"losses": "ce,binary-ce"}),
        "no trainings at learning rate 0.5": grid.model_copy(update={"fewer_rates": (0.1, 0.5)}),
        "it has 30 steps, and the least that is worth the name is 31": grid.model_copy(
            update={"full": 99, "least": 31}
        ),
        "no passes at 32 classes": sweep.model_copy(update={"classes": (1, 16, 32)}),
        "it has 12 minibatches, and the least": sweep.model_copy(update={"full": 99, "least": 13}),
    }
    for words, part in wanting.items():
        with pytest.raises(UsageError, match=words):
            reuse.find([finished[part.kind]], manifest_of([part], CPU, None))
    for part in (grid, sweep):
        assert len(reuse.find([finished[part.kind]], manifest_of([part], CPU, None))) == 1


@pytest.mark.usefixtures("in_factories")
def test_two_of_one_part_and_what_is_no_run_are_refused(
    tmp_path: Path, finished: dict[str, Path], manifest: PaperManifest
) -> None:
    with pytest.raises(UsageError, match="is the speed of tiny_networks:small too; give one of them"):
        reuse.find([finished["speed"], finished["accuracy"], finished["speed"]], manifest)
    with pytest.raises(UsageError, match="is not a run"):
        reuse.find([tmp_path], manifest)


def test_records_that_are_gone_make_a_complete_run_none(tmp_path: Path, finished: dict[str, Path]) -> None:
    path = tmp_path / "run"
    shutil.copytree(finished["accuracy"], path)
    lines = (path / "evaluations.jsonl").read_bytes().splitlines(keepends=True)
    (path / "evaluations.jsonl").write_bytes(b"".join(lines[:-1]))
    part = AccuracyPart(dataset="digits", losses="ce", full=30, least=5, learning_rates=(0.1,), fewer_rates=(0.1,))
    with pytest.raises(UsageError, match="records are missing"):
        reuse.find([path], manifest_of([part], CPU, None))


@pytest.mark.usefixtures("in_factories")
@pytest.mark.parametrize("fault", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_copy_that_fails_leaves_nothing_behind(
    fault: BaseException,
    tmp_path: Path,
    finished: dict[str, Path],
    manifest: PaperManifest,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    begun = start(
        manifest.model_copy(update={"budget_s": 1e-3}),
        tmp_path / "old",
        Silent(),
        lambda *_: Demand(fixed_s=9, unit_s=9),
    )
    edition.execute(begun)
    before = {path.name for path in begun.path.iterdir()}
    found = reuse.find(list(finished.values()), manifest)
    copytree = shutil.copytree
    copies = iter([copytree])

    def second_fails(*arguments: Any, **options: Any) -> Any:
        copy = next(copies, None)
        if copy is None:
            raise fault
        return copy(*arguments, **options)

    monkeypatch.setattr(shutil, "copytree", second_fails)
    with pytest.raises(
        (UsageError, KeyboardInterrupt), match=None if isinstance(fault, KeyboardInterrupt) else "No space left"
    ):
        start(manifest, tmp_path / "new", Silent(), _refuse_to_expect, found)
    assert list((tmp_path / "new").iterdir()) == []
    copies = iter([copytree])
    with pytest.raises((UsageError, KeyboardInterrupt)):
        reopen(begun.path, None, Silent(), _refuse_to_expect, list(finished.values()))
    assert {path.name for path in begun.path.iterdir()} == before
    assert all(record.folder is None for record in load(begun.path).parts)


# -- the parts of the paper and the command line ----------------------------------------------------------------


def test_recipe_and_losses_of_a_part_are_those_its_own_command_would_plan() -> None:
    from bench.accuracy.plan import plan
    from bench.paper.parts import full_size
    from bench.paper.requests import accuracy_request

    part = AccuracyPart(dataset="digits", full=30)
    planned = plan(accuracy_request(part, full_size(part), CPU))
    wanted = reuse.wanted_recipe(part, "cpu")
    of_concern = set(type(wanted).model_fields) - reuse.OF_NO_CONCERN
    assert wanted.model_dump(include=of_concern) == planned.recipe.model_dump(include=of_concern)
    assert reuse.wanted_losses(part) == tuple(loss.key for loss in planned.losses)
    imagenet = PAPER[-1]
    assert isinstance(imagenet, AccuracyPart)
    assert reuse.wanted_losses(imagenet) == ("ce", "batch-ce")
    recipe = reuse.wanted_recipe(imagenet, "cpu")
    assert (recipe.network, recipe.optimiser, recipe.batch_size) == ("inception_v3", "rmsprop", 32)


@pytest.mark.usefixtures("in_factories")
def test_everything_says_that_it_is_reused(
    tmp_path: Path, finished: dict[str, Path], manifest: PaperManifest, only: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = list(finished.values())
    words = [
        "speed of tiny_networks:small: reused: run tiny_networks",
        "accuracy on digits: reused: run accuracy-digits",
    ]
    assert reproducing.outlook(manifest, json=False, expect=_refuse_to_expect, reuse=paths) == 0
    shown = capsys.readouterr().out
    assert all(line in shown for line in words)
    assert list(tmp_path.iterdir()) == []
    assert reproducing.new(manifest, tmp_path, json=False, quiet=False, expect=_refuse_to_expect, reuse=paths) == 0
    shown = capsys.readouterr().out
    assert all(shown.count(line) == 2 for line in words)  # when it begins, and under the claims
    claims = (only(tmp_path) / "claims.md").read_text()
    assert "| speed of tiny\\_networks:small | 12 minibatches | 12 |  | reused: run" in claims.replace("_", "\\_")
    assert reproducing.outlook(manifest, json=True, expect=_refuse_to_expect, reuse=paths) == 0
    found = json.loads(capsys.readouterr().out)
    Draft202012Validator(schemas()["paper-outlook.schema.json"]).validate(found)
    assert [row["reused"]["name"] for row in found["rows"]] == ["tiny_networks:small", "accuracy-digits"]


@pytest.mark.usefixtures("in_factories")
def test_another_commit_is_noticed(tmp_path: Path, finished: dict[str, Path], manifest: PaperManifest) -> None:
    path = _altered(finished["speed"], tmp_path / "run", lambda run: run.update(commit="0" * 40))
    (notice,) = reuse.marked(manifest, reuse.find([path], manifest), {}).notices
    assert notice.happened.endswith(": tiny_networks:small by 000000000000")
    own = _altered(finished["speed"], tmp_path / "own", lambda run: run.update(commit=manifest.commit))
    assert reuse.marked(manifest, reuse.find([own], manifest), {}).notices == ()


def test_a_command_line_keeps_no_places() -> None:
    words = ["paper", "--reuse", "/somewhere/of/mine/alexnet", "--reuse=/elsewhere/vgg16/", "--budget", "1m"]
    assert reproducing.without_places(words) == ["paper", "--reuse", "alexnet", "--reuse=vgg16", "--budget", "1m"]


def test_a_refusal_is_one_line_and_exit_code_2(tmp_path: Path, here: Callable[..., Any]) -> None:
    ended = here("paper", "--reuse", "nowhere", "--output", tmp_path / "results")
    assert (ended.code, ended.out) == (2, "")
    assert ended.err.splitlines() == [ended.err.strip()]
    assert "'nowhere' is not a run" in ended.err
    assert list(tmp_path.iterdir()) == []


def test_a_paper_of_before_is_still_read(tmp_path: Path, manifest: PaperManifest) -> None:
    begun = start(manifest, tmp_path, Silent(), _refuse_to_expect)
    begun.end("incomplete")
    content = json.loads((begun.path / "run.json").read_text())
    for part in content["parts"]:
        del part["reused"]
    (begun.path / "run.json").write_text(json.dumps(content))
    assert [record.reused for record in load(begun.path).parts] == [None, None]
