import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from bench.history.snapshot import Estimate, Snapshot, Work, measured, snapshot, work_of
from bench.run import Run, load_run
from bench.speed.rows import rows as rows_of
from bench.speed.settings import Setting

PUBLISHED = Path(__file__).parents[3] / "docs" / "measured" / "amd-epyc-2-cores"
WORK = Work(arch="small", classes=16)


@pytest.fixture(scope="module")
def published() -> Run:
    return load_run(PUBLISHED / "vgg16")


def test_a_run_in_brief_tells_what_its_rows_tell(published: Run):
    found = snapshot(published, resamples=50)
    rows = {row.classes: row for row in rows_of(published) if row.kind == "point"}
    assert [point.work.classes for point in found.points] == [classes for classes in sorted(rows) if classes > 1]
    for point in found.points:
        row = rows[point.work.classes or 0]
        assert point.single is not None
        assert point.all is not None
        assert point.speedup is not None
        assert point.single.value == pytest.approx(rows[1].median_s)
        assert point.all.value == pytest.approx(row.median_s)
        assert point.speedup.value == pytest.approx(row.speedup)
        assert (point.rounds, len(point.replicates)) == (row.rounds_done, 1)
        assert point.replicates[0].all_s / point.replicates[0].single_s == pytest.approx(point.speedup.value)


def test_a_brief_survives_being_written(published: Run):
    found = snapshot(published, resamples=2)
    assert Snapshot.model_validate_json(found.model_dump_json()) == found


def test_the_machine_and_versions_are_kept(published: Run):
    found = snapshot(published, resamples=2)
    assert (found.machine, found.versions) == (published.manifest.machine, published.manifest.versions)
    assert found.tool == "slc-bench"


def test_the_commit_is_that_of_the_tree_the_run_was_started_in(published: Run):
    def commit_of(**commits: str | None) -> str | None:
        return snapshot(Run(published.manifest.model_copy(update=commits), published.samples), resamples=2).commit

    assert commit_of(commit="a", tree_commit="b") == "b"
    assert commit_of(commit="a", tree_commit=None) == "a", "a run from before it was recorded"
    assert commit_of(commit=None, tree_commit=None) is None


def test_a_failed_count_keeps_its_status_and_reason(published: Run):
    last = published.manifest.points[-1]
    points = (
        *published.manifest.points[:-1],
        last.model_copy(update={"status": "out-of-memory", "reason": "too large"}),
    )
    run = Run(published.manifest.model_copy(update={"points": points}), published.samples)
    found = next(point for point in snapshot(run, resamples=2).points if point.work.classes == last.classes)
    assert (found.status, found.reason, found.all) == ("out-of-memory", "too large", None)


def test_a_run_without_samples_has_points_without_figures(published: Run):
    found = snapshot(Run(published.manifest, []))
    assert found.points
    assert {(point.status, point.single, point.all, point.speedup, point.rounds) for point in found.points} == {
        ("ok", None, None, None, 0)
    }


def test_seed_threads_and_device_number_are_no_part_of_the_work():
    given: dict[str, Any] = {"arch": "small", "input_shape": (3, 8, 8), "batch_size": 2}
    works = {
        work_of(Setting(**given, device=device, threads=threads, seed=seed), 16)
        for device, threads, seed in (("cuda:0", 1, 0), ("cuda:1", 2, 7))
    }
    assert len(works) == 1
    assert work_of(Setting(**given, device="cpu", threads=1), 16) not in works


def test_what_counts_as_the_work_is_part_of_it():
    setting = Setting(arch="small", input_shape=(3, 8, 8), device="cpu", threads=1)
    kinds = [{}, {"work": "normalised"}, {"work": "end-to-end"}, {"subset": 2}, {"top_layer": "adaptive"}]
    assert len({work_of(setting.model_copy(update=kind), 16) for kind in kinds}) == len(kinds)
    kept = work_of(setting, 16).model_dump(exclude={"work", "subset", "top_layer"})
    assert Work.model_validate(kept) == work_of(setting, 16), (
        "points of an older history are points of the paper's work"
    )


def test_several_logits_are_the_reference_where_several_are_asked_for(published: Run):
    """The published run as if its single logit had been two, of two classes asked for at a time."""
    two = {"classes": 2}
    settings = tuple(setting.model_copy(update={"subset": 2}) for setting in published.manifest.settings)
    points = tuple(one.model_copy(update=two) if one.classes == 1 else one for one in published.manifest.points)
    samples = [one.model_copy(update=two) if one.classes == 1 else one for one in published.samples]
    run = Run(published.manifest.model_copy(update={"settings": settings, "points": points}), samples)
    found, usual = snapshot(run, resamples=2), snapshot(published, resamples=2)
    assert [point.work.classes for point in found.points] == [point.work.classes for point in usual.points]
    assert [(point.single, point.speedup, point.marked) for point in found.points] == [
        (point.single, point.speedup, point.marked) for point in usual.points
    ]
    assert {point.work.subset for point in found.points} == {2}


def test_medians_by_hand():
    single = np.array([[1.0, 3.0], [2.0, 2.0], [9.0, 1.0]])
    every = np.array([[4.0], [6.0], [5.0]])
    found = measured(WORK, single, every, np.array([0, 0, 1]), resamples=10)
    assert [estimate and estimate.value for estimate in (found.single, found.all, found.speedup)] == [2.0, 5.0, 2.5]
    assert [(each.rounds, each.single_s, each.all_s) for each in found.replicates] == [(2, 2.0, 5.0), (1, 5.0, 5.0)]
    assert found.rounds == 3


def test_whole_processes_give_the_error_by_their_own_spread():
    generator = np.random.default_rng(0)
    processes = np.repeat(np.arange(4), 12)
    times = np.exp(0.01 * generator.standard_normal((48, 3)))
    found = measured(WORK, times[:, :2], 2 * times[:, 2:], processes)
    logs = [np.log(each.all_s / each.single_s) for each in found.replicates]
    assert found.speedup is not None
    assert found.speedup.error == pytest.approx(np.std(logs, ddof=1) / 2)
    assert found.speedup.degrees == 3


def test_one_round_has_no_error():
    found = measured(WORK, np.array([[1.0, 1.0]]), np.array([[2.0]]), np.array([0]))
    assert found.speedup == Estimate(value=2.0)
    assert found.speedup.interval() is None


def test_missing_times_are_left_out_and_none_at_all_is_no_figure():
    nan = np.nan
    single, every = np.array([[1.0, nan], [nan, nan], [3.0, 2.0]]), np.array([[4.0], [5.0], [nan]])
    found = measured(WORK, single, every, np.zeros(3, dtype=int), resamples=5)
    assert found.all is not None
    assert (found.all.value, found.rounds) == (4.5, 1)
    empty = measured(WORK, single, np.full((3, 1), nan), np.zeros(3, dtype=int))
    assert (empty.status, empty.all, empty.rounds) == ("ok", None, 0)


def test_an_interval_is_that_of_the_logarithm():
    low, high = Estimate(value=2.0, error=0.1, degrees=1e6).interval(0.95) or (0, 0)
    assert low * high == pytest.approx(4.0)
    assert np.log(high / 2) == pytest.approx(0.196, abs=1e-3)


@pytest.mark.parametrize("value", ["NaN", "0", "-1", "null"])
def test_what_is_no_time_is_refused_when_read(value: str):
    content = json.dumps({"value": 1.0}).replace("1.0", value)
    with pytest.raises(ValidationError):
        Estimate.model_validate_json(content)
