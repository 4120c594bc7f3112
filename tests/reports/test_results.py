import csv
import json
from dataclasses import replace

import pandas
import pytest

from bench.run import load_run
from bench.speed.rows import MODES, Row, rows
from reports import energy, results, surface


def test_a_run_is_written_from_its_samples_alone(write_run, tmp_path) -> None:
    run = load_run(write_run(tmp_path, "resnet50"))
    paths = results.write_all(tmp_path, run)
    assert [path.name for path in paths] == list(results.FILES)
    assert all(path.stat().st_size > 0 for path in paths)
    with open(paths[0], newline="") as file:
        lines = list(csv.DictReader(file))
    assert list(lines[0]) == [name for name in Row.model_fields if name not in MODES]
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


def two_batch_sizes(run, make_run):
    """A run read back, as if its settings were one network at batch 1 and at 32."""
    settings = make_run("resnet50", "resnet50").manifest.settings
    settings = tuple(
        setting.model_copy(update={"batch_size": size}) for setting, size in zip(settings, (1, 32), strict=True)
    )
    return replace(run, manifest=run.manifest.model_copy(update={"settings": settings}))


def test_a_run_with_two_batch_sizes_has_fig_3_and_another_has_not(write_run, make_run, tmp_path) -> None:
    run = load_run(write_run(tmp_path, "resnet50", "resnet50"))
    run = two_batch_sizes(run, make_run)
    paths = results.write_all(tmp_path, run)
    assert [path.name for path in paths] == [*results.FILES, *surface.FILES]
    assert pandas.read_csv(tmp_path / "surface.csv")["batch_size"].tolist() == [1, 1, 32, 32]


def test_maps_of_several_runs_stand_together_and_say_whose_they_are(write_run, make_run, tmp_path) -> None:
    folders = [write_run(tmp_path / name, "resnet50", "resnet50") for name in ("one", "other")]
    found = [results.Result.of(two_batch_sizes(load_run(folder), make_run)) for folder in folders]
    results.write_together(tmp_path, found)
    names = pandas.read_csv(tmp_path / "surface.csv")["network"].unique().tolist()
    assert names == [f"resnet50, {folder}" for folder in folders]


def test_energy_is_among_the_reports_of_a_run_that_measured_it(write_run, tmp_path) -> None:
    folder = write_run(tmp_path, "resnet50")
    counter = {"seconds": 5.0, "period_s": 0.02, "resolution_j": 0.001, "started": "2026-01-02T03:04:05+00:00"}
    lines = [
        {"kind": "work" if classes else "idle", "classes": classes, "cycle": cycle, "joules": joules}
        | {"setting": 0, "process": 0, "offset_s": 21.0 * cycle, "images": 100 if classes else 0, "others": 0}
        | counter
        for cycle in range(6)
        for classes, joules in ((None, 250.0), (1, 1000.0), (1024, 2000.0))
    ]
    (folder / "energy.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    result = results.Result.of(load_run(folder))
    assert [row.verdict for row in result.energy.rows] == [None, "less"]
    paths = results.write_together(tmp_path, [result])
    assert [path.name for path in paths] == [*results.FILES, *energy.FILES]
