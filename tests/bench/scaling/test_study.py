"""A study from end to end on five and seven classes; cut off, resumed, and with what goes wrong."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench.accuracy.worker import CHECKPOINTS
from bench.errors import UsageError
from bench.runs import is_of_a_study, kind_of
from bench.scaling import study, tasks
from bench.scaling.cost import CostOrder
from bench.scaling.plan import StudyRequest, plan
from bench.scaling.recorder import Progress
from bench.scaling.records import StepCost
from bench.scaling.run import POINTS, QUERIES, TRAININGS, StudyRun, load, optimum_name
from bench.scaling.study import execute, reopen, start, study_scaling

TINY: dict[str, Any] = {
    "classes": "5,7",
    "losses": "ce,nce",
    "learning_rates": (0.01, 0.003),
    "steps": 20,
    "seeds": 2,
    "batch_size": 32,
    "queries": 6,
    "positives": 5,
    "negatives": 100,
    "family": "d=8",
    "device": "cpu",
    "workers": 1,
    "threads": 1,
    "network": "linear",
    "speed_minibatches": 0,
}

#: Two losses with two rates, and two losses with two seeds, at two class counts.
TRAININGS_OF_TINY = 16


def at_once(order: CostOrder) -> StepCost:
    """In the place of a child that would take seconds."""
    return order.refused("").model_copy(update={"seconds": (0.5,) * 5, "peak_bytes": 1000})


@pytest.fixture(autouse=True)
def quick_costs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(study, "in_fresh_process", at_once)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> StudyRun:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(study, "in_fresh_process", at_once)
        return study_scaling(StudyRequest(**TINY), tmp_path_factory.mktemp("whole"))


def timeless(run: StudyRun) -> list[Any]:
    """All points of a study but for the seconds they took."""
    return sorted((point.model_copy(update={"seconds": 0.0}) for point in run.points), key=lambda point: point.name)


def assert_equal(found: StudyRun, expected: StudyRun) -> None:
    assert timeless(found) == timeless(expected)
    assert [each.measure for each in found.optima] == [each.measure for each in expected.optima]
    assert found.queries.keys() == expected.queries.keys()
    for name, errors in expected.queries.items():
        for ours, theirs in zip(found.queries[name], errors, strict=True):
            np.testing.assert_array_equal(ours, theirs)


def test_a_study_has_all_that_was_asked_for(whole: StudyRun) -> None:
    assert whole.manifest.status == "complete"
    assert len(whole.trainings) == TRAININGS_OF_TINY
    assert [each.classes for each in whole.optima] == [5, 7]
    assert {(cost.classes, cost.loss) for cost in whole.costs} == {(5, "ce"), (5, "nce"), (7, "ce"), (7, "nce")}
    names = {f"{k}-{loss}-seed{seed}" for k in (5, 7) for loss in ("ce", "nce") for seed in (0, 1)}
    names |= {f"{k}-{loss}-seed0-search" for k in (5, 7) for loss in ("ce", "nce")}
    assert {point.name for point in whole.points} == names
    assert whole.queries.keys() == names | {optimum_name(5), optimum_name(7)}


def test_a_search_is_half_as_long_and_the_chosen_rate_is_that_of_the_full_trainings(whole: StudyRun) -> None:
    for point in whole.points:
        assert point.steps == (10 if point.stage == "search" else 20)
        search = next(each for each in whole.points if each.name == f"{point.classes}-{point.loss}-seed0-search")
        assert point.learning_rate == search.learning_rate


def test_the_optimum_is_at_least_as_good_as_anything_trained(whole: StudyRun) -> None:
    optima = {each.classes: each.measure.error for each in whole.optima}
    for point in whole.points:
        assert optima[point.classes] <= min(point.single.error, point.all.error) + 1e-12


def test_every_model_of_a_count_meets_the_same_queries(whole: StudyRun) -> None:
    for count, asked in ((5, 5), (7, 6)):
        reference = whole.queries[optimum_name(count)].classes
        assert len(reference) == asked
        for point in whole.points:
            if point.classes == count:
                np.testing.assert_array_equal(whole.queries[point.name].classes, reference)
                assert point.queries == asked
                assert point.single.error == pytest.approx(whole.queries[point.name].single.mean())
                assert point.all.error == pytest.approx(whole.queries[point.name].all.mean())


def test_a_run_is_read_as_it_was_written(whole: StudyRun) -> None:
    assert whole.path is not None
    again = load(whole.path)
    assert (again.manifest, again.trainings, again.optima) == (whole.manifest, whole.trainings, whole.optima)
    assert (again.costs, sorted(again.points, key=str)) == (whole.costs, sorted(whole.points, key=str))
    assert_equal(again, whole)


def test_a_study_is_told_apart_from_other_runs(whole: StudyRun) -> None:
    assert whole.path is not None
    assert is_of_a_study(whole.path)
    with pytest.raises(UsageError, match="python -m bench scaling, which is shown alone"):
        kind_of(whole.path)


def test_weights_of_full_trainings_are_kept_and_those_of_searches_are_not(whole: StudyRun) -> None:
    assert whole.path is not None
    assert {each.name for each in (whole.path / CHECKPOINTS).iterdir()} == {"5-full", "7-full"}


def test_a_complete_study_has_nothing_left_to_do(whole: StudyRun, tmp_path: Path) -> None:
    assert whole.path is not None
    folder = shutil.copytree(whole.path, tmp_path / "copy")
    before = {name: (folder / name).read_bytes() for name in (TRAININGS, POINTS)}
    assert execute(reopen(folder)).manifest.status == "complete"
    assert {name: (folder / name).read_bytes() for name in (TRAININGS, POINTS)} == before


class _Stop:
    """Interrupts a study once so many things were told."""

    def __init__(self, after: int) -> None:
        self.left = after

    def __call__(self, run: StudyRun, progress: Progress) -> None:
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt


@pytest.mark.parametrize("after", [1, 12, 40])
def test_a_study_that_is_interrupted_anywhere_ends_with_equal_points(
    whole: StudyRun, tmp_path: Path, after: int
) -> None:
    begun = start(plan(StudyRequest(**TINY)), tmp_path, ["test"])
    broken = execute(begun.watched(_Stop(after)))
    assert broken.manifest.status == "interrupted"
    assert broken.path is not None
    assert not tasks.is_whole(broken)
    resumed = execute(reopen(broken.path))
    assert resumed.manifest.status == "complete"
    assert_equal(resumed, whole)
    assert len((broken.path / TRAININGS).read_text().splitlines()) == TRAININGS_OF_TINY


def test_what_a_kill_tears_is_done_again(whole: StudyRun, tmp_path: Path) -> None:
    """A torn last line of each file, and queries on disk whose point is not."""
    assert whole.path is not None
    folder = shutil.copytree(whole.path, tmp_path / "copy")
    lines = (folder / POINTS).read_bytes().splitlines(keepends=True)
    (folder / POINTS).write_bytes(b"".join(lines[:-1]) + lines[-1][:20])
    broken = load(folder)
    assert [notice.kind for notice in broken.notices] == ["torn-line"]
    assert len(broken.points) == len(whole.points) - 1
    assert_equal(execute(reopen(folder)), whole)


def test_a_loss_whose_every_rate_diverges_has_no_point_and_a_notice(tmp_path: Path) -> None:
    asked = {**TINY, "classes": "5", "losses": "ce", "seeds": 1, "optimiser": "sgd", "learning_rates": (3e38,)}
    run = study_scaling(StudyRequest(**asked), tmp_path)
    assert [each.training.status for each in run.trainings] == ["diverged"]
    assert run.points == ()
    assert [notice.kind for notice in run.manifest.notices] == ["no-point"]
    assert "diverged" in run.manifest.notices[0].happened or "no longer finite" in run.manifest.notices[0].happened
    assert run.manifest.status == "complete"


def test_a_cost_that_is_refused_leaves_the_study_incomplete_and_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(study, "in_fresh_process", lambda order: order.refused("it was killed"))
    asked = {**TINY, "classes": "5", "losses": "ce", "seeds": 1}
    run = study_scaling(StudyRequest(**asked), tmp_path)
    assert run.manifest.status == "incomplete"
    assert [cost.reason for cost in run.costs] == ["it was killed"]
    monkeypatch.setattr(study, "in_fresh_process", at_once)
    assert run.path is not None
    resumed = execute(reopen(run.path))
    assert resumed.manifest.status == "complete"
    assert [cost.reason for cost in resumed.costs] == [""]


def test_a_model_that_cannot_be_measured_is_a_notice_and_the_rest_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: object) -> None:
        raise ValueError("a logit is not finite")

    asked = {**TINY, "classes": "5", "losses": "ce", "seeds": 1}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(study.queries, "of_model", refuse)
        run = study_scaling(StudyRequest(**asked), tmp_path)
    assert run.manifest.status == "incomplete"
    assert {notice.kind for notice in run.manifest.notices} == {"not-measured"}
    assert run.path is not None
    resumed = execute(reopen(run.path))
    assert (resumed.manifest.status, resumed.manifest.notices) == ("complete", ())
    assert len(resumed.points) == 2


def test_a_study_where_nothing_can_be_trained_still_has_optimum_and_costs(tmp_path: Path) -> None:
    planned = plan(StudyRequest(**{**TINY, "classes": "5", "losses": "nce"}))
    count = planned.counts[0].model_copy(update={"left_out": "x", "dataset": None, "recipe": None, "losses": ()})
    run = execute(start(replace(planned, counts=(count,)), tmp_path, ["test"]))
    assert run.manifest.status == "complete"
    assert (len(run.optima), len(run.costs), run.points, run.trainings) == (1, 1, (), ())


def test_a_failed_training_is_recorded_and_tried_again(
    whole: StudyRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the first try one training finds no memory."""
    real, tries = study.Workplace.carry_out, []

    def failing(self: Any, order: Any, emit: Callable[[Any], None]) -> None:
        tries.append(order)
        if len(tries) == 3:
            emit(study.Failed(reason="no memory", cause="work"))
            return
        real(self, order, emit)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(study.Workplace, "carry_out", failing)
        run = study_scaling(StudyRequest(**TINY), tmp_path)
    assert run.manifest.status == "incomplete"
    assert [each.training.reason for each in run.trainings if each.training.status == "failed"] == ["no memory"]
    assert run.path is not None
    assert_equal(execute(reopen(run.path)), whole)


def test_side_by_side_trainings_give_the_same_points(tmp_path: Path) -> None:
    asked = {**TINY, "classes": "5", "learning_rates": (0.01,), "seeds": 1}
    alone = study_scaling(StudyRequest(**asked), tmp_path / "alone")
    planned = plan(StudyRequest(**asked))
    count = planned.counts[0]
    assert count.recipe is not None
    two = count.model_copy(update={"recipe": count.recipe.model_copy(update={"workers": 2})})
    side_by_side = execute(start(replace(planned, counts=(two,)), tmp_path / "two", ["test"]))
    assert side_by_side.manifest.status == "complete"
    assert_equal(side_by_side, alone)


def _cut_off(planned: object, recorder: Any, watch: object) -> Any:
    """A sweep that is interrupted before its first pass."""
    recorder.end("interrupted")
    return recorder.run


def test_the_speed_run_is_part_of_a_study_and_done_again_if_it_was_cut_off(
    in_factories: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked = {**TINY, "classes": "5,7", "losses": "ce", "learning_rates": (0.01,), "seeds": 1, "speed_minibatches": 2}
    begun = start(plan(StudyRequest(**asked)), tmp_path, ["test"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(study.speed.sweep, "execute", _cut_off)
        assert execute(begun).manifest.status == "interrupted"
    run = execute(reopen(begun.writer.path))
    assert run.manifest.status == "complete"
    assert run.speed is not None
    assert run.speed.manifest.protocol.classes == (1, 5, 7)
    setting = run.speed.manifest.settings[0]
    assert (setting.arch, setting.input_shape, setting.block) == ("linear", (8,), 2)
    assert run.path is not None
    again = load(run.path)
    assert again.speed is not None
    assert again.speed.samples == run.speed.samples


@pytest.mark.parametrize("damage", ["missing", "text", "shape", "range"])
def test_queries_that_were_altered_are_refused(whole: StudyRun, tmp_path: Path, damage: str) -> None:
    assert whole.path is not None
    folder = shutil.copytree(whole.path, tmp_path / "copy")
    file = folder / QUERIES / "5-optimum.npz"
    arrays = {"classes": np.arange(5), "single": np.zeros(5), "all": np.zeros(5)}
    match damage:
        case "missing":
            file.unlink()
        case "text":
            file.write_text("text")
        case "shape":
            np.savez(file, **{**arrays, "all": np.zeros(4)})
        case "range":
            np.savez(file, **{**arrays, "all": np.full(5, 1.5)})
    with pytest.raises(UsageError, match=r"5-optimum\.npz: not the queries of a model"):
        load(folder)


def test_a_study_of_a_newer_version_is_refused(whole: StudyRun, tmp_path: Path) -> None:
    assert whole.path is not None
    folder = shutil.copytree(whole.path, tmp_path / "copy")
    content = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps({**content, "schema_version": 2}))
    with pytest.raises(UsageError, match="schema version 2"):
        load(folder)


def test_a_full_disk_ends_a_study_in_one_line_and_it_goes_on_later(
    whole: StudyRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, written = study.queries.of_model, []

    def full(*arguments: Any) -> Any:
        written.append(arguments)
        if len(written) == 3:
            raise OSError(28, "No space left on device")
        return real(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(study.queries, "of_model", full)
        run = study_scaling(StudyRequest(**TINY), tmp_path)
    assert run.manifest.status == "incomplete"
    assert [notice.kind for notice in run.manifest.notices] == ["not-written"]
    assert run.path is not None
    assert_equal(execute(reopen(run.path)), whole)
