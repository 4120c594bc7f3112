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


def test_markdown_holds_the_warnings_of_samples_and_manifest(write_run, tmp_path) -> None:
    result = results.Result.of(load_run(write_run(tmp_path, "resnet50")))
    assert any("370,727" in notice.happened or "out-of-memory" in notice.happened for notice in result.notices)
    assert all(notice.happened[:20] in results.markdown_of([result]) for notice in result.notices)


def test_nothing_to_write_is_refused(tmp_path) -> None:
    with pytest.raises(ValueError, match="no run has a row"):
        results.write_together(tmp_path, [])
