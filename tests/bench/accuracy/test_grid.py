"""Real grids on the bundled digits, so small that a training takes a fraction of a second."""

import contextlib
import dataclasses
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from safetensors.torch import load_file

import bench
from bench.accuracy import grid, pool, training, worker
from bench.accuracy.data import from_arrays
from bench.accuracy.events import Ended, Stepped
from bench.accuracy.grid import Grid, Progress, train_and_test
from bench.accuracy.notices import all_notices
from bench.accuracy.orders import Done, Event, Failed, ToTest, ToTrain
from bench.accuracy.plan import plan
from bench.accuracy.request import Request
from bench.accuracy.rows import table1, table2
from bench.accuracy.run import AccuracyRun, AccuracyWriter, load
from bench.accuracy.settings import Source
from bench.errors import UsageError
from bench.folder import RunNotWritten

Make = Callable[..., Any]

REPOSITORY = str(Path(bench.__file__).parents[1])

#: Four trainings and two tests. A training of twelve steps is validated after each.
ASKED = Request(
    losses="ce,batch-ce", learning_rates=[0.1, 0.01], steps=12, batch_size=64, device="cpu", workers=1, threads=1
)
MEMBERS = ["ce-lr0.1-seed0", "ce-lr0.01-seed0", "batch-ce-lr0.1-seed0", "batch-ce-lr0.01-seed0"]


def untimed(record: Any) -> dict[str, Any]:
    """A record without what the clock decides."""
    content = json.loads(record.model_dump_json())
    for timed in (content, *content.get("curve", ())):
        for name in ("seconds", "examples_per_s"):
            timed.pop(name, None)
    return content


def assert_same_results(found: AccuracyRun, expected: AccuracyRun) -> None:
    """Bit for bit: records, influences, final weights and tables."""

    def by_name(run: AccuracyRun) -> dict[str, Any]:
        records = {f"training {each.member.name}": untimed(each) for each in run.trainings}
        assert len(records) == len(run.trainings), "a training stands there twice"
        return records | {f"test {each.member.name}": untimed(each) for each in run.evaluations}

    assert by_name(found) == by_name(expected)
    assert found.influences.keys() == expected.influences.keys()
    for name, influence in expected.influences.items():
        np.testing.assert_array_equal(found.influences[name], influence)
    assert found.path is not None
    assert expected.path is not None
    assert weights_of(found.path) == weights_of(expected.path)
    assert table1(found) == table1(expected)
    assert table2(found) == table2(expected)


def weights_of(path: Path) -> dict[str, dict[str, bytes]]:
    """Final weights by file and name; in a file, what describes them stands in any order."""
    return {
        file.name: {name: tensor.numpy().tobytes() for name, tensor in load_file(file).items()}
        for file in (path / "checkpoints").glob("*.safetensors")
    }


def own_workers() -> list[int]:
    """Numbers of the workers of this process that are alive."""
    found = []
    for each in psutil.Process().children():
        with contextlib.suppress(psutil.Error):
            if "bench.accuracy.worker" in each.cmdline() and each.status() != psutil.STATUS_ZOMBIE:
                found.append(each.pid)
    return found


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> AccuracyRun:
    """The grid from end to end in this process."""
    return train_and_test(ASKED, tmp_path_factory.mktemp("whole"))


@pytest.fixture
def at_every_window(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every step is a window, followed by its event and its checkpoint."""
    monkeypatch.setattr(training, "PROGRESS_EVERY_S", 0.0)
    monkeypatch.setattr(training, "WINDOW_S", 0.0)
    monkeypatch.setattr(worker, "CHECKPOINT_EVERY_S", 0.0)


# -- from end to end --------------------------------------------------------------------------------------------


def test_every_training_ends_and_the_chosen_ones_are_tested(whole: AccuracyRun) -> None:
    assert whole.manifest.status == "complete"
    assert whole.manifest.notices == whole.notices == ()
    assert [training.member.name for training in whole.trainings] == MEMBERS
    assert {training.status for training in whole.trainings} == {"ok"}
    for loss, evaluation in zip(("ce", "batch-ce"), whole.evaluations, strict=True):
        rivals = [each for each in whole.trainings if each.member.loss == loss]
        (own,) = [each for each in rivals if each.member == evaluation.member]
        assert own.validation_accuracy == max(each.validation_accuracy for each in rivals)
    assert [row.status for row in table1(whole)] == ["ok", "ok"]


def test_what_was_trained_can_tell_digits_apart(whole: AccuracyRun) -> None:
    for evaluation in whole.evaluations:
        assert evaluation.accuracy > 0.6, "a tenth would be chance"
        assert evaluation.all.auprc > 0.6
        assert len(whole.influences[evaluation.member.name].single) == whole.manifest.dataset.test


def test_the_folder_holds_what_is_in_memory(whole: AccuracyRun) -> None:
    assert whole.path is not None
    again = load(whole.path)
    assert again.manifest == whole.manifest
    assert (again.trainings, again.evaluations) == (whole.trainings, whole.evaluations)
    assert set(weights_of(whole.path)) == {f"{name}.safetensors" for name in MEMBERS}
    assert [path for path in (whole.path / "checkpoints").iterdir() if path.is_dir()] == [], "those under way are gone"
    assert whole.manifest.command[0] == "train_and_test"


def test_threads_and_random_state_of_the_caller_stay(tmp_path: Path) -> None:
    threads, state = torch.get_num_threads(), torch.get_rng_state()
    train_and_test(Request(losses="ce", learning_rates=[0.1], steps=2, device="cpu", workers=1, threads=1), tmp_path)
    assert torch.get_num_threads() == threads
    assert torch.equal(torch.get_rng_state(), state)


def test_it_is_said_again_and_again_how_far_it_is(tmp_path: Path, at_every_window: None) -> None:
    told: list[tuple[int, Progress]] = []
    train_and_test(ASKED, tmp_path, lambda run, progress: told.append((len(run.evaluations), progress)))
    done = [progress.done for _, progress in told]
    assert done == sorted(done)
    assert {progress.total for _, progress in told} == {4}
    assert set(done) == {0, 1, 2, 3, 4}
    tests = [evaluations for evaluations, _ in told]
    assert tests[done.index(3)] == 1, "CE was tested before batch CE was trained"
    steps = [unit.step for _, progress in told for unit in progress.running]
    assert max(steps) == 12
    last = told[-1][1]
    assert (last.running, last.seconds_left) == ((), 0)
    assert last.examples_per_s is not None
    for _, progress in told:
        assert progress.seconds_left is None or progress.seconds_left >= 0


def test_a_training_that_diverges_is_a_record_and_the_grid_goes_on(tmp_path: Path) -> None:
    asked = Request(losses="self-norm", learning_rates=[1e6, 0.01], steps=12, device="cpu", workers=1, threads=1)
    run = train_and_test(asked, tmp_path)
    assert run.manifest.status == "complete"
    assert [each.status for each in run.trainings] == ["diverged", "ok"]
    assert run.trainings[0].diverged_at is not None
    assert "no longer finite" in run.trainings[0].reason
    assert [each.member.learning_rate for each in run.evaluations] == [0.01]
    (row,) = table1(run)
    assert (row.status, row.learning_rate) == ("ok", (0.01,))


def test_where_every_rate_diverges_the_loss_is_a_row_with_the_reason(tmp_path: Path) -> None:
    asked = Request(losses="self-norm", learning_rates=[1e6], steps=12, device="cpu", workers=1, threads=1)
    run = train_and_test(asked, tmp_path)
    assert (run.manifest.status, run.evaluations) == ("complete", ())
    (row,) = table1(run)
    assert row.status == "diverged"
    assert "no longer finite" in row.reason


def test_a_stack_is_trained_and_recorded_training_by_training(tmp_path: Path, whole: AccuracyRun) -> None:
    run = train_and_test(dataclasses.replace(ASKED, stack=4), tmp_path)
    assert run.manifest.status == "complete"
    assert [training.member.name for training in run.trainings] == MEMBERS
    for one, other in zip(run.trainings, whole.trainings, strict=True):
        assert one.validation_accuracy == pytest.approx(other.validation_accuracy, abs=0.02)
    assert [each.member for each in run.evaluations] == [each.member for each in whole.evaluations]


def test_data_in_hand_are_trained_on(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    labels = np.arange(90) % 3
    images = rng.normal(0, 0.3, (90, 1, 8, 8)) + labels[:, None, None, None]
    dataset = from_arrays("levels", (images, labels), (images[:30], labels[:30]))
    asked = Request(
        dataset=dataset, network="mlp", losses="ce", learning_rates=[0.1], steps=20, batch_size=16, device="cpu"
    )
    run = train_and_test(asked, tmp_path)
    assert run.manifest.status == "complete"
    assert run.evaluations[0].accuracy > 0.9
    assert "Split" not in run.manifest.command[1], "the data themselves are no part of a command"
    with pytest.raises(UsageError, match="only the program that has it can go on"):
        grid.reopen(run.path)  # type: ignore[arg-type]


# -- cut off and continued --------------------------------------------------------------------------------------


class Killed(BaseException):
    """Stands for a kill: nothing catches it, and nothing is tidied up but what the kernel would let go of."""


@contextlib.contextmanager
def killed_at(kind: str, nth: int, *, after: bool, error: type[BaseException]) -> Iterator[list[AccuracyWriter]]:
    """Inside, the nth event of a kind (of all grids) is the last thing that happens: before or after it was kept."""
    writers: list[AccuracyWriter] = []
    seen = 0
    take = Grid.take

    def take_until(self: Grid, order: Any, event: Event) -> None:
        nonlocal seen
        seen += event.kind == kind
        writers[:] = [self.writer]
        if event.kind == kind and seen == nth and not after:
            raise error
        take(self, order, event)
        if event.kind == kind and seen == nth and after:
            raise error

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Grid, "take", take_until)
        yield writers


def resumed(path: Path) -> AccuracyRun:
    planned, reopened = grid.reopen(path)
    return grid.execute(planned, reopened)


#: Kind of event, which one of its kind, and whether it is kept before the kill.
MOMENTS = [
    ("stepped", 1, False),
    ("stepped", 3, False),
    ("stepped", 20, True),
    ("ended", 1, False),
    ("ended", 1, True),
    ("ended", 3, True),
    ("done", 2, True),
    ("evaluated", 1, False),
    ("evaluated", 1, True),
    ("evaluated", 2, True),
]


@pytest.mark.parametrize("moment", MOMENTS, ids=lambda moment: "-".join(map(str, moment)))
def test_cut_off_at_any_moment_it_ends_as_if_it_had_not_been(
    moment: tuple[str, int, bool], whole: AccuracyRun, tmp_path: Path, at_every_window: None
) -> None:
    kind, nth, after = moment
    with killed_at(kind, nth, after=after, error=Killed) as writers, pytest.raises(Killed):
        train_and_test(ASKED, tmp_path)
    (writer,) = writers
    writer.close()  # as the kernel does
    lines = (writer.path / "trainings.jsonl").read_bytes()
    before = load(writer.path)
    assert before.manifest.status == "running"
    run = resumed(writer.path)
    assert (writer.path / "trainings.jsonl").read_bytes().startswith(lines)
    assert run.trainings[: len(before.trainings)] == before.trainings
    assert run.manifest.status == "complete"
    assert_same_results(run, whole)
    assert_same_results(load(writer.path), whole)


def test_a_stack_that_is_cut_off_is_trained_on_as_one_unit(tmp_path: Path, at_every_window: None) -> None:
    asked = dataclasses.replace(ASKED, stack=3)
    straight = train_and_test(asked, tmp_path / "straight")
    for kind, nth in (("stepped", 3), ("ended", 2)):
        with killed_at(kind, nth, after=True, error=Killed) as writers, pytest.raises(Killed):
            train_and_test(asked, tmp_path / f"{kind}")
        writers[0].close()
        assert_same_results(resumed(writers[0].path), straight)


def test_an_interrupt_ends_it_early_and_it_goes_on_twice(tmp_path: Path, whole: AccuracyRun) -> None:
    with killed_at("ended", 1, after=True, error=KeyboardInterrupt):
        run = train_and_test(ASKED, tmp_path)
    assert (run.manifest.status, len(run.trainings)) == ("interrupted", 1)
    assert run.path is not None
    with killed_at("evaluated", 1, after=False, error=KeyboardInterrupt):
        run = resumed(run.path)
    assert (run.manifest.status, len(run.trainings)) == ("interrupted", 2)
    assert load(run.path).manifest.status == "interrupted"  # type: ignore[arg-type]
    assert_same_results(resumed(run.path), whole)  # type: ignore[arg-type]


def test_a_complete_run_is_resumed_without_training(whole: AccuracyRun, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "train", lambda *_, **__: pytest.fail("it trained again"))
    assert whole.path is not None
    run = resumed(whole.path)
    assert_same_results(run, whole)
    assert run.manifest == whole.manifest


def test_a_test_that_failed_is_said_and_done_again(
    tmp_path: Path, whole: AccuracyRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("bench.accuracy.evaluation.evaluate", _no_memory)
        run = train_and_test(ASKED, tmp_path)
    assert run.manifest.status == "incomplete"
    assert [notice.kind for notice in run.manifest.notices] == ["not-tested", "not-tested"]
    assert "can't allocate memory" in run.manifest.notices[0].happened
    assert run.path is not None
    run = resumed(run.path)
    assert run.manifest.notices == ()
    assert_same_results(run, whole)


def _no_memory(*_: object) -> None:
    raise RuntimeError("can't allocate memory: you tried to allocate 1 EB\nwith more lines")


def test_another_machine_or_version_is_refused_and_nothing_is_changed(tmp_path: Path) -> None:
    with killed_at("stepped", 1, after=True, error=KeyboardInterrupt):
        run = train_and_test(ASKED, tmp_path)
    assert run.path is not None
    for name, other in (("machine", {"cpu": "Zilog Z80"}), ("versions", {"torch": "0.4.1"})):
        content = json.loads((run.path / "run.json").read_text())
        changed = json.dumps({**content, name: {**content[name], **other}})
        (run.path / "run.json").write_text(changed)
        with pytest.raises(UsageError, match="cannot be continued here"):
            grid.reopen(run.path)
        assert (run.path / "run.json").read_text() == changed
        (run.path / "run.json").write_text(json.dumps(content))
    _, reopened = grid.reopen(run.path)
    assert reopened.manifest.status == "running"
    reopened.writer.close()


# -- what an order can fail by ----------------------------------------------------------------------------------


def _workplace(tmp_path: Path) -> tuple[worker.Workplace, ToTrain]:
    planned = plan(ASKED)
    manifest = planned.manifest(created="2026-01-02T03:04:05+00:00", command=())
    return worker.Workplace(planned.dataset, planned.recipe, planned.losses, tmp_path), ToTrain(
        members=manifest.members[:1]
    )


@pytest.mark.parametrize(
    ("error", "cause", "reason"),
    [
        (UsageError("this is how"), "usage", "this is how"),
        (OSError(28, "No space left on device"), "disk", "No space left on device"),
        (OSError(27, "File too large", "weights"), "disk", "cannot write weights: File too large"),
        (OSError(24, "Too many open files"), "work", "Too many open files"),
        (RuntimeError("first line\nsecond line"), "work", "RuntimeError: first line"),
        (MemoryError(), "work", "MemoryError"),
        (FloatingPointError("overflow"), "work", "FloatingPointError: overflow"),
    ],
)
def test_an_order_that_fails_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, cause: str, reason: str
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(training, "train", fail)
    workplace, order = _workplace(tmp_path)
    events: list[Event] = []
    workplace.carry_out(order, events.append)
    (failed,) = events
    assert isinstance(failed, Failed)
    assert failed.cause == cause
    assert failed.reason.endswith(reason)


def test_a_mistake_in_the_program_is_not_taken_for_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise TypeError("a mistake")

    monkeypatch.setattr(training, "train", fail)
    workplace, order = _workplace(tmp_path)
    with pytest.raises(TypeError, match="a mistake"):
        workplace.carry_out(order, lambda event: None)


@pytest.mark.parametrize("error", [ValueError("of the watcher"), RunNotWritten("no space"), UsageError("a choice")])
def test_what_the_one_who_is_told_raises_is_no_failure_of_the_order(tmp_path: Path, error: Exception) -> None:
    workplace, order = _workplace(tmp_path)
    told: list[Event] = []

    def refuse(event: Event) -> None:
        told.append(event)
        raise error

    with pytest.raises(type(error), match=str(error)):
        workplace.carry_out(order, refuse)
    assert len(told) == 1


def test_a_model_whose_weights_are_gone_is_a_usage_error(tmp_path: Path) -> None:
    workplace, order = _workplace(tmp_path)
    events: list[Event] = []
    workplace.carry_out(ToTest(member=order.members[0]), events.append)
    (failed,) = events
    assert isinstance(failed, Failed)
    assert failed.cause == "usage"
    assert "ce-lr0.1-seed0.safetensors" in failed.reason


# -- a grid takes events in -------------------------------------------------------------------------------------


@pytest.fixture
def grid_of(tmp_path: Path, make_grid_manifest: Make) -> Iterator[Callable[..., Grid]]:
    made: list[Grid] = []

    def make(**fields: Any) -> Grid:
        manifest = make_grid_manifest(**fields)
        made.append(Grid(manifest, AccuracyWriter.create(tmp_path, manifest), lambda run, progress: None))
        return made[-1]

    yield make
    for each in made:
        each.writer.close()


def test_a_training_that_comes_again_is_kept_once(grid_of: Make, make_training: Make) -> None:
    taken = grid_of(recipe={"stack": 4})
    order = taken.next_order()
    for member in (*order.members[:2], *order.members):
        taken.take(order, Ended(training=make_training(member)))
    assert [training.member for training in taken.trainings] == list(order.members)
    taken.end("complete")
    assert len(load(taken.writer.path).trainings) == 4


def test_what_is_left_is_counted_training_by_training(grid_of: Make, make_training: Make) -> None:
    """Of a stack of four at step 5 of 10, one member has diverged: 3 x 5 of 40 steps are done of those under way."""
    taken = grid_of(recipe={"stack": 4})
    order = taken.next_order()

    def step(at: int) -> None:
        none = (None,) * 4
        taken.take(
            order,
            Stepped(
                members=order.members, step=at, steps=10, training_losses=none, validation_accuracies=none,
                steps_per_s=None,
            ),
        )  # fmt: skip

    step(0)
    assert taken.progress().seconds_left is None, "nothing is known of the speed"
    step(5)
    taken.take(order, Ended(training=make_training(order.members[0], status="diverged")))
    progress = taken.progress()
    assert progress.done == 1
    rate = progress.examples_per_s / taken.manifest.recipe.batch_size
    assert progress.seconds_left * rate == pytest.approx(3 * 10 - 3 * 5)
    for member in order.members[1:]:
        taken.take(order, Ended(training=make_training(member)))
    taken.take(order, Done())
    assert (taken.progress().running, taken.progress().seconds_left) == ((), 0)


def test_an_order_that_was_lost_leaves_a_record_of_each_of_its_trainings(grid_of: Make, make_training: Make) -> None:
    taken = grid_of(recipe={"stack": 2})
    order = taken.next_order()
    taken.take(order, Ended(training=make_training(order.members[0])))
    taken.take(order, Failed(reason="its worker was killed (signal 9)", cause="work"))
    assert [training.status for training in taken.trainings] == ["ok", "failed"]
    assert taken.trainings[1].reason == "its worker was killed (signal 9)"
    assert taken.next_order() != order


def test_a_disk_that_refuses_the_last_word_leaves_the_run_to_be_resumed(
    tmp_path: Path, whole: AccuracyRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace = AccuracyWriter.replace

    def refuse_the_end(self: AccuracyWriter, manifest: Any) -> None:
        if manifest.status == "complete":
            raise RunNotWritten("cannot write run.json: no space")
        replace(self, manifest)

    with monkeypatch.context() as patch:
        patch.setattr(AccuracyWriter, "replace", refuse_the_end)
        run = train_and_test(ASKED, tmp_path)
    assert run.manifest.status == "incomplete"
    assert [notice.kind for notice in run.manifest.notices] == ["not-written"]
    assert run.path is not None
    assert load(run.path).manifest.status == "running"
    assert_same_results(resumed(run.path), whole)


# -- in processes of their own ----------------------------------------------------------------------------------


#: A worker that is killed in the middle of one training, by itself, so that it is always the same moment.
MORTAL_WORKER = """
import os, signal
from bench.accuracy import training, worker
training.PROGRESS_EVERY_S = training.WINDOW_S = 0.0
train = training.train
def train_until(work, dataset, emit, **options):
    def tell(event):
        emit(event)
        if work.name == "batch-ce-lr0.1-seed0" and event.kind == "stepped" and event.step >= 6:
            os.kill(os.getpid(), signal.SIGKILL)
    train(work, dataset, tell, **options)
training.train = train_until
worker.main()
"""


def test_two_workers_find_the_same_and_a_killed_one_loses_its_unit_alone(
    tmp_path: Path, whole: AccuracyRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All else is bit for bit what one process found: steps of one thread are the same in any process."""
    monkeypatch.setattr(pool, "COMMAND", (sys.executable, "-c", MORTAL_WORKER))
    monkeypatch.setenv("PYTHONPATH", REPOSITORY)
    run = train_and_test(dataclasses.replace(ASKED, workers=2), tmp_path)
    assert run.manifest.status == "incomplete"
    assert run.manifest.recipe.workers == 2
    trainings = {each.member.name: each for each in run.trainings}
    lost = trainings.pop("batch-ce-lr0.1-seed0")
    assert (lost.status, lost.steps) == ("failed", 0)
    assert "its worker was killed (signal 9)" in lost.reason
    expected = {each.member.name: untimed(each) for each in whole.trainings if each.member != lost.member}
    assert {name: untimed(each) for name, each in trainings.items()} == expected
    tests = {each.member.name: untimed(each) for each in run.evaluations}
    ce = whole.evaluations[0]
    assert tests[ce.member.name] == untimed(ce)
    assert set(tests) == {ce.member.name, "batch-ce-lr0.01-seed0"}, "chosen among the rates that are left"
    assert [each.kind for each in all_notices(run)] == ["failed"]
    assert run.path is not None
    again = resumed(run.path)
    assert (again.manifest.status, len(again.trainings)) == ("incomplete", 4), "it was killed once more"
    assert len((run.path / "trainings.jsonl").read_text().splitlines()) == 5, "nothing written is taken back"
    monkeypatch.undo()
    assert_same_results(resumed(run.path), whole)
    assert_same_results(load(run.path), whole)
    assert all_notices(load(run.path)) == all_notices(whole)


def test_a_training_that_failed_is_tried_again_and_may_be_chosen_then(
    tmp_path: Path, whole: AccuracyRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The best rate of CE fails first: another is chosen and tested, and gives way once the best one has ended."""
    train, best = training.train, whole.evaluations[0].member

    def refuse_the_best(work: training.Work, *others: Any, **options: Any) -> None:
        if best in work.members:
            _no_memory()
        train(work, *others, **options)

    with monkeypatch.context() as patch:
        patch.setattr(training, "train", refuse_the_best)
        run = train_and_test(ASKED, tmp_path)
    assert run.path is not None
    assert run.manifest.status == "incomplete"
    (failed,) = (each for each in run.trainings if each.status == "failed")
    assert failed.member == best
    assert best not in {each.member for each in run.evaluations}
    (notice,) = all_notices(run)
    assert "--resume" in notice.remedy
    again = resumed(run.path)
    assert again.manifest.status == "complete"
    assert [each.loss for each in table1(again)] == ["ce", "batch-ce"]
    for found in (again, load(run.path)):
        assert_same_results(found, whole)
        assert all_notices(found) == all_notices(whole)


#: A grid that is killed before the nth event of a kind is taken in.
MORTAL_PARENT = """
import os, signal, sys
from bench.accuracy import grid, training, worker
from bench.accuracy.request import Request
training.PROGRESS_EVERY_S = training.WINDOW_S = worker.CHECKPOINT_EVERY_S = 0.0
output, kind, nth, workers = sys.argv[1:]
seen, take = 0, grid.Grid.take
def take_until(self, order, event):
    global seen
    seen += event.kind == kind
    if seen == int(nth):
        os.kill(os.getpid(), signal.SIGKILL)
    take(self, order, event)
grid.Grid.take = take_until
grid.train_and_test(
    Request(
        losses="ce,batch-ce", learning_rates=[0.1, 0.01], steps=12, batch_size=64, device="cpu",
        workers=int(workers), threads=1,
    ),
    output,
)
"""


def _killed(output: Path, kind: str, nth: int, workers: int) -> Path:
    """Kill a grid in a process of its own; its folder. Its pipes close once its workers are gone too."""
    ended = subprocess.run(
        [sys.executable, "-c", MORTAL_PARENT, str(output), kind, str(nth), str(workers)],
        env={**os.environ, "PYTHONPATH": REPOSITORY},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    assert ended.stderr == ""
    (path,) = output.iterdir()
    return path


def test_killed_and_resumed(tmp_path: Path, whole: AccuracyRun) -> None:
    path = _killed(tmp_path, "stepped", 20, workers=1)
    assert len(load(path).trainings) == 1
    assert list((path / "checkpoints").glob("*/step-*")), "it goes on from a checkpoint"
    assert_same_results(resumed(path), whole)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "nth", "workers"),
    [("stepped", 3, 2), ("ended", 2, 2), ("ended", 4, 2), ("evaluated", 1, 2), ("evaluated", 2, 1), ("done", 1, 1)],
)
def test_killed_at_other_moments_with_its_workers(
    kind: str, nth: int, workers: int, tmp_path: Path, whole: AccuracyRun
) -> None:
    """The same with workers, that die with their parent: whatever ended is kept, and two go on as they would have."""
    path = _killed(tmp_path, kind, nth, workers)
    before = load(path)
    run = resumed(path)
    assert run.trainings[: len(before.trainings)] == before.trainings
    assert_same_results(run, whole)


@pytest.mark.slow
def test_an_interrupt_ends_the_workers_first(tmp_path: Path, whole: AccuracyRun) -> None:
    with killed_at("ended", 1, after=True, error=KeyboardInterrupt):
        run = train_and_test(dataclasses.replace(ASKED, workers=2), tmp_path)
    assert run.manifest.status == "interrupted"
    assert not own_workers()
    assert_same_results(resumed(run.path), whole)  # type: ignore[arg-type]


@pytest.mark.slow
def test_data_that_are_gone_when_a_worker_looks_for_them_are_said_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    planned = plan(dataclasses.replace(ASKED, workers=2))
    elsewhere = Source(name="mnist", data_dir=tmp_path / "nowhere")
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    started = grid.start(dataclasses.replace(planned, source=elsewhere), tmp_path / "results", [], lambda run, _: None)
    with pytest.raises(UsageError, match="mnist"):
        grid.execute(dataclasses.replace(planned, source=elsewhere), started)
    (path,) = (tmp_path / "results").iterdir()
    assert (load(path).manifest.status, load(path).trainings) == ("incomplete", ())
