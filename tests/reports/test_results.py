import csv

import pytest

from bench.run import load_run
from bench.speed.rows import Row, rows
from reports import results


def test_a_run_is_written_from_its_samples_alone(write_run, tmp_path) -> None:
    run = load_run(write_run(tmp_path, "resnet50"))
    paths = results.write_all(tmp_path, run)
    assert [path.name for path in paths] == list(results.FILES)
    assert all(path.stat().st_size > 0 for path in paths)
    with open(paths[0], newline="") as file:
        lines = list(csv.DictReader(file))
    assert list(lines[0]) == list(Row.model_fields)
    assert [float(line["median_s"]) for line in lines if line["median_s"]] == [
        row.median_s for row in rows(run) if row.median_s is not None
    ]


def test_runs_together_share_each_table(write_run, tmp_path) -> None:
    found = [results.Result.of(load_run(write_run(tmp_path, arch))) for arch in ("alexnet", "resnet50")]
    paths = results.write_together(tmp_path, found)
    text = paths[1].read_text()
    assert "| alexnet | 1,024 |" in text
    assert "| resnet50 | 1,024 |" in text
    assert len(paths[0].read_text().splitlines()) == 1 + sum(len(result.rows) for result in found)
    assert b">alexnet</text>" in paths[4].read_bytes()


def _runs(csv_file) -> list[str]:
    with open(csv_file, newline="") as file:
        return [line["run"] for line in csv.DictReader(file)]


def test_runs_together_are_named_in_the_csv(write_run, tmp_path) -> None:
    found = [results.Result.of(load_run(write_run(tmp_path, arch))) for arch in ("alexnet", "resnet50")]
    csv_file, *_ = results.write_together(tmp_path, found)
    assert _runs(csv_file) == [result.run.path.name for result in found for _ in result.rows]


def test_runs_of_one_name_are_told_apart_by_their_paths(write_run, tmp_path) -> None:
    folders = [write_run(tmp_path / machine, "resnet50") for machine in ("one", "other")]
    assert folders[0].name == folders[1].name
    csv_file, *_ = results.write_together(tmp_path, [results.Result.of(load_run(folder)) for folder in folders])
    assert list(dict.fromkeys(_runs(csv_file))) == [str(folder) for folder in folders]


def test_break_even_counts_need_a_second_count(write_run, make_run, make_point, tmp_path) -> None:
    assert len(results.Result.of(load_run(write_run(tmp_path, "resnet50"))).break_evens) == 4
    run = make_run(points=[make_point(1), make_point(1024, status="failed")])
    assert results.Result.of(run).break_evens == []


def test_markdown_holds_the_warnings_of_samples_and_manifest(write_run, tmp_path) -> None:
    result = results.Result.of(load_run(write_run(tmp_path, "resnet50")))
    assert any("370,727" in notice.happened or "out-of-memory" in notice.happened for notice in result.notices)
    assert all(notice.happened[:20] in results.markdown_of([result]) for notice in result.notices)


def test_nothing_to_write_is_refused(tmp_path) -> None:
    with pytest.raises(ValueError, match="no run has a row"):
        results.write_together(tmp_path, [])
