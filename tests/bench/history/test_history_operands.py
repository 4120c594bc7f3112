import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bench.errors import UsageError
from bench.history.operands import snapshot_of
from bench.history.snapshot import snapshot
from bench.history.store import Store
from bench.run import RunWriter, load_run


@pytest.fixture
def run(tmp_path: Path, make_manifest: Callable[..., Any], make_round: Callable[..., Any], make_point: Any) -> Path:
    """A run's folder, under `runs`."""
    manifest = make_manifest(points=(make_point(1), make_point(1024)), status="complete", minibatches=12)
    writer = RunWriter.create(tmp_path / "runs", manifest)
    draws = random.Random(0)
    for number in range(12):
        writer.append(
            each.model_copy(update={"wall_s": each.wall_s * draws.uniform(0.99, 1.01)}) for each in make_round(number)
        )
    writer.close()
    return writer.path


@pytest.fixture
def store(tmp_path: Path, run: Path) -> Path:
    """A history in which the run is a baseline called main."""
    folder = tmp_path / "history-of-ours"
    Store(folder).set_baseline("main", snapshot(load_run(run)))
    return folder


def test_a_run_folder_is_read(run: Path, store: Path) -> None:
    found = snapshot_of(str(run), store)
    assert found == snapshot(load_run(run))
    assert [point.work.classes for point in found.points] == [1024]


def test_a_baseline_is_found_by_its_name(run: Path, store: Path) -> None:
    assert snapshot_of("main", store) == snapshot(load_run(run))


def test_files_of_the_history_are_read_too(run: Path, store: Path) -> None:
    kept = Store(store).add(snapshot(load_run(run)))
    for file in (kept, store / "baselines" / "main.json"):
        assert snapshot_of(str(file), store / "elsewhere") == snapshot(load_run(run))


def test_a_file_of_pytest_benchmark_is_read(tmp_path: Path, store: Path) -> None:
    times = [0.010, 0.011, 0.010, 0.012, 0.011, 0.010, 0.011, 0.012]
    stats = {"min": 0.010, "max": 0.012, "mean": 0.0109, "stddev": 8e-4, "median": 0.011, "rounds": 8, "data": times}
    quartiles = {"iqr": 1e-3, "q1": 0.010, "q3": 0.0112, "ops": 90.0, "total": sum(times), "iterations": 1}
    benchmark = {"name": "test_it", "fullname": "tests/test_it.py::test_it", "stats": {**stats, **quartiles}}
    content = {
        "machine_info": {"cpu": {"brand_raw": "a processor", "count": 2}, "system": "Linux"},
        "commit_info": {"id": "a" * 40, "dirty": False},
        "benchmarks": [{**benchmark, "group": None, "params": None, "param": None, "extra_info": {}, "options": {}}],
        "datetime": "2026-01-02T03:04:05+00:00",
        "version": "5.1.0",
    }
    file = tmp_path / "0001_base.json"
    file.write_text(json.dumps(content))
    found = snapshot_of(str(file), store)
    assert found.tool == "pytest-benchmark"
    assert [point.all.value for point in found.points if point.all] == [pytest.approx(0.011)]


def test_a_baseline_that_does_not_exist_is_told_beside_those_that_do(store: Path) -> None:
    with pytest.raises(UsageError, match=r"no file or folder 'mian', and no baseline 'mian' in .*there is main"):
        snapshot_of("mian", store)


def test_without_a_history_it_says_how_to_begin_one(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="history baseline set main RUN"):
        snapshot_of("main", tmp_path / "nothing")


def test_a_path_that_does_not_exist_is_not_taken_for_a_baseline(store: Path) -> None:
    for text in ("./main", "results/main", "~/nothing-of-this-name"):
        with pytest.raises(UsageError, match=f"there is no '{text}': give a run's folder"):
            snapshot_of(text, store)


def test_a_name_that_is_both_is_refused_and_a_dot_decides(
    run: Path, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "main").mkdir()
    assert snapshot_of("main", store), "a folder that is no run is not meant"
    shutil.copytree(run, tmp_path / "main", dirs_exist_ok=True)
    with pytest.raises(UsageError, match=r"is a baseline of .* and a path; write \./main for the path"):
        snapshot_of("main", store)
    assert snapshot_of("./main", store) == snapshot(load_run(run))


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path, store: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match=r"is not a run: there is no run\.json in it$"):
        snapshot_of(str(tmp_path / "empty"), store)


def test_of_a_folder_of_runs_the_newest_is_named(run: Path, store: Path) -> None:
    renamed, unreadable = run.parent / "a-name-of-ours", run.parent / "z"
    shutil.copytree(run, renamed)
    content = json.loads((run / "run.json").read_text())
    (renamed / "run.json").write_text(json.dumps({**content, "created": "2030-01-02T03:04:05+00:00"}))
    unreadable.mkdir()
    (unreadable / "run.json").write_text("{")
    with pytest.raises(UsageError, match=f"the newest run below it is '{renamed}'"):
        snapshot_of(str(run.parent), store)


def test_an_accuracy_run_is_refused(tmp_path: Path, store: Path) -> None:
    (tmp_path / "run.json").write_text('{"schema_version": 1, "kind": "accuracy"}')
    with pytest.raises(UsageError, match="is an accuracy run; speed runs are read here"):
        snapshot_of(str(tmp_path), store)


def test_one_file_of_a_run_is_refused_by_naming_its_folder(run: Path, store: Path) -> None:
    with pytest.raises(UsageError, match=f"give its folder, '{run}'"):
        snapshot_of(str(run / "run.json"), store)


def test_a_file_cut_short_is_refused(tmp_path: Path, store: Path) -> None:
    file = tmp_path / "0001_base.json"
    file.write_text('{"machine_info": {"cpu"')
    with pytest.raises(UsageError, match=r"0001_base\.json"):
        snapshot_of(str(file), store)


def test_a_damaged_baseline_says_so(run: Path, store: Path) -> None:
    file = store / "baselines" / "main.json"
    file.write_text(file.read_text()[:200])
    with pytest.raises(UsageError, match=r"main\.json"):
        snapshot_of("main", store)


def test_a_path_does_not_stand_in_for_a_damaged_baseline(
    run: Path, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(run, tmp_path / "main")
    file = store / "baselines" / "main.json"
    file.write_text(file.read_text()[:200])
    with pytest.raises(UsageError, match=r"is a baseline of .* and a path"):
        snapshot_of("main", store)
    (tmp_path / "main" / "run.json").unlink()
    with pytest.raises(UsageError, match=r"main\.json: cut short"):
        snapshot_of("main", store)


def test_a_run_whose_times_nothing_can_have_is_refused(run: Path, store: Path) -> None:
    file = run / "samples.jsonl"
    samples = [json.loads(line) for line in file.read_text().splitlines()]
    file.write_text("".join(json.dumps({**each, "wall_s": each["wall_s"] * 1e20}) + "\n" for each in samples))
    with pytest.raises(UsageError, match=r"the time \(single\) of 'resnet50' is .*, where 1e-15 to 1e\+09 can be"):
        snapshot_of(str(run), store)
