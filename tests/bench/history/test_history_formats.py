"""What other tools read, checked by those tools or their documented schema, and what pytest-benchmark wrote."""

import csv
import io
import json
import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from pytest_benchmark.stats import Stats

from bench.errors import UsageError
from bench.history.formats import (
    ALL_MEASURE,
    SINGLE_MEASURE,
    from_pytest_benchmark,
    to_bencher,
    to_csv,
    to_github_action_benchmark,
    to_pytest_benchmark,
)
from bench.history.labels import point_label, setting_label
from bench.history.pytest_benchmark import ERROR_FROM_QUARTILES, EXTRA_INFO, extra_info, summarise
from bench.history.snapshot import Estimate, OtherMachine, Point, Snapshot, Work, snapshot
from bench.history.store import digest
from bench.run import Manifest, Run, Sample
from bench.run import Point as RunPoint
from bench.speed.settings import Setting

RECORDED = Path(__file__).parents[3] / "docs" / "measured" / "amd-epyc-2-cores"

MakeManifest = Callable[..., Manifest]
MakeRound = Callable[..., list[Sample]]
MakePoint = Callable[..., RunPoint]

#: Of benchmark-action/github-action-benchmark's README, "Custom benchmarks", and BenchmarkResult in its src/extract.ts.
GITHUB_SCHEMA = {
    "type": "array",
    "minItems": 1,
    "items": {
        "type": "object",
        "required": ["name", "unit", "value"],
        "additionalProperties": False,
        "properties": {
            "name": {"type": "string", "minLength": 1},
            "unit": {"type": "string"},
            "value": {"type": "number"},
            "range": {"type": "string", "pattern": "^± [0-9.e+-]+$"},
            "extra": {"type": "string"},
        },
    },
}

#: https://bencher.dev/docs/reference/bencher-metric-format, with the lengths that it gives for names and slugs.
BENCHER_SCHEMA = {
    "type": "object",
    "minProperties": 1,
    "propertyNames": {"maxLength": 1024},
    "patternProperties": {
        ".+": {
            "type": "object",
            "propertyNames": {"maxLength": 64, "pattern": "^[a-z0-9-]+$"},
            "patternProperties": {
                ".+": {
                    "type": "object",
                    "properties": {
                        "value": {"type": "number"},
                        "lower_value": {"type": "number"},
                        "upper_value": {"type": "number"},
                    },
                    "additionalProperties": False,
                    "required": ["value"],
                }
            },
        }
    },
}


@pytest.fixture
def run(make_manifest: MakeManifest, make_round: MakeRound, make_point: MakePoint, setting: Setting) -> Run:
    """Two settings, two processes of twelve rounds; of the first setting one count failed in the middle."""
    other = setting.model_copy(update={"batch_size": 8, "channels_last": True})
    counts = {0: (1, 64, 1024, 2**18), 1: (1, 64)}
    points = [
        make_point(count, setting=index, process=process)
        if count not in (1024, 2**18)
        else make_point(count, setting=index, process=process, status="out-of-memory", reason="needs 6 GB")
        for index, own in counts.items()
        for process in range(2)
        for count in own
    ]
    samples = []
    for index in counts:
        for process in range(2):
            for number in range(12):
                for sample in make_round(number, (1, 64), setting=index, process=process):
                    noise = 1 + 0.02 * math.sin(7.3 * number + sample.position + 3 * process)
                    samples.append(sample.model_copy(update={"wall_s": sample.wall_s * noise}))
    manifest = make_manifest([setting, other], (1, 64, 1024, 2**18), points=tuple(points), commit="a" * 40)
    return Run(manifest, samples)


@pytest.fixture
def brief(run: Run) -> Snapshot:
    return snapshot(run)


def saved(folder: Path, content: dict[str, Any]) -> Path:
    path = folder / "0001_run.json"
    path.write_text(json.dumps(content))
    return path


# -- pytest-benchmark, written ----------------------------------------------------------------------------------------


def compared(*arguments: object, folder: Path) -> str:
    """What pytest-benchmark's own command prints. Its storage is a folder of its own, so that nothing else is read."""
    ended = subprocess.run(
        [sys.executable, "-m", "pytest_benchmark", "--storage", str(folder / "none"), "compare", *map(str, arguments)],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ended.returncode == 0, ended.stderr
    assert "Failed to load" not in ended.stderr
    return ended.stdout


def test_pytest_benchmark_compares_an_exported_run(run: Run, tmp_path: Path) -> None:
    path = saved(tmp_path, to_pytest_benchmark(run))
    columns = "min,max,mean,stddev,median,iqr,outliers,ops,rounds,iterations"
    shown = compared(path, "--columns", columns, "--csv", tmp_path / "out.csv", folder=tmp_path)
    assert shown.count("resnet50[1]") == 2, "the single logit of each of two settings"
    assert shown.count("resnet50[64]") == 2
    with (tmp_path / "out.csv").open() as file:
        rows = {row["name"]: row for row in csv.DictReader(file)}
    assert len(rows) == 4
    brief = snapshot(run)
    first = brief.points[0]
    assert first.single is not None
    label = setting_label(first.work, first.threads)
    assert float(rows[f"{label}[1]"]["median"]) == pytest.approx(first.single.value)
    assert rows[f"{label}[64]"]["param:classes"] == "64"


def test_pytest_benchmark_compares_two_exported_runs(run: Run, tmp_path: Path) -> None:
    first = saved(tmp_path, to_pytest_benchmark(run))
    second = tmp_path / "0002_run.json"
    second.write_text(first.read_text())
    shown = compared(first, second, "--group-by", "fullname", folder=tmp_path)
    assert shown.count("benchmark 'resnet50, cpu") == 4, "names are the same in both"


def test_a_recorded_run_is_compared_too(tmp_path: Path) -> None:
    from bench.run import load_run

    run = load_run(RECORDED / "alexnet")
    path = saved(tmp_path, to_pytest_benchmark(run, snapshot(run, resamples=50)))
    assert "alexnet[370727]" in compared(path, folder=tmp_path)


@given(st.lists(st.floats(1e-6, 1e3), min_size=1, max_size=60))
@settings(max_examples=60, deadline=None)
def test_stats_are_those_that_pytest_benchmark_works_out(data: list[float]) -> None:
    theirs = Stats()
    for time in data:
        theirs.update(time)
    ours = summarise(data)
    for field, value in theirs.as_dict().items():
        if field == "outliers" or field.endswith("_outliers"):
            continue
        assert ours[field] == pytest.approx(value, rel=1e-9, abs=1e-12), field
    assert ours["data"] == data
    assert set(theirs.as_dict()) | {"data", "iterations"} == set(ours)


def test_outliers_by_hand() -> None:
    stats = summarise([1.0] * 9 + [10.0])
    assert (stats["stddev_outliers"], stats["iqr_outliers"], stats["outliers"]) == (1, 1, "1;1")


def test_the_data_are_the_samples_per_example(run: Run) -> None:
    written = to_pytest_benchmark(run)["benchmarks"]
    of_first = [sample.wall_s / 32 for sample in run.samples if sample.setting == 0 and sample.classes == 64]
    assert written[1]["stats"]["data"] == of_first
    single = [sample.wall_s / 32 for sample in run.samples if sample.setting == 0 and sample.classes == 1]
    assert sorted(written[0]["stats"]["data"]) == sorted(single), "A and A' pooled"


def test_nothing_measured_is_nothing_to_export(run: Run) -> None:
    with pytest.raises(UsageError, match="no point was measured"):
        to_pytest_benchmark(Run(run.manifest, []))


# -- pytest-benchmark, read -------------------------------------------------------------------------------------------


def test_an_exported_run_is_read_back_equal(run: Run, brief: Snapshot, tmp_path: Path) -> None:
    assert [point.status for point in brief.points] == ["ok", "out-of-memory", "out-of-memory", "ok"]
    assert from_pytest_benchmark(saved(tmp_path, to_pytest_benchmark(run))) == brief


def test_a_recorded_run_is_read_back_equal(tmp_path: Path) -> None:
    from bench.run import load_run

    run = load_run(RECORDED / "resnet50")
    brief = snapshot(run, resamples=50)
    assert from_pytest_benchmark(saved(tmp_path, to_pytest_benchmark(run, brief))) == brief


def benchmark(name: str = "tests/test_it.py::test_it", **stats: object) -> dict[str, Any]:
    values = {"median": 0.5, "rounds": 100, "iqr": 0.1349, **stats}
    return {"name": name, "fullname": name, "extra_info": {}, "stats": values}


def foreign(*benchmarks: dict[str, Any], **fields: object) -> dict[str, Any]:
    return {
        "machine_info": {
            "processor": "x86_64", "machine": "x86_64", "system": "Linux", "release": "6.1",
            "python_version": "3.12.1", "cpu": {"brand_raw": "a processor", "count": 4},
        },
        "commit_info": {"id": "b" * 40},
        "benchmarks": list(benchmarks),
        "datetime": "2026-01-02T03:04:05+00:00",
        "version": "5.1.0",
        **fields,
    }  # fmt: skip


def test_anybodys_benchmark_is_a_point_with_one_time(tmp_path: Path) -> None:
    found = from_pytest_benchmark(saved(tmp_path, foreign(benchmark("one"), benchmark("two", median=2.0))))
    assert (found.name, found.tool, found.commit) == ("0001_run", "pytest-benchmark", "b" * 40)
    assert found.machine == OtherMachine(cpu="a processor", cores=4, system="Linux 6.1 x86_64")
    assert found.versions == {"python": "3.12.1"}
    assert [point.work for point in found.points] == [Work(arch="one", classes=None), Work(arch="two", classes=None)]
    one = found.points[0]
    assert (one.single, one.speedup, one.rounds, one.status) == (None, None, 100, "ok")


def test_without_data_the_error_comes_from_the_quartiles_and_that_is_said(tmp_path: Path) -> None:
    found = from_pytest_benchmark(saved(tmp_path, foreign(benchmark())))
    estimate = found.points[0].all
    assert estimate is not None
    # sd = 0.1349 / 1.349 = 0.1; error of the mean 0.01, of the median 0.01253; of its logarithm, by 0.5: 0.02507.
    assert estimate.error == pytest.approx(0.0250663, rel=1e-5)
    assert (estimate.value, estimate.degrees) == (0.5, 99)
    assert found.notices == (ERROR_FROM_QUARTILES,)


def test_with_data_the_error_comes_from_the_bootstrap(tmp_path: Path) -> None:
    data = [0.5 * (1 + 0.02 * math.sin(7.7 * number)) for number in range(100)]
    found = from_pytest_benchmark(saved(tmp_path, foreign(benchmark(data=data))))
    estimate = found.points[0].all
    assert estimate is not None
    assert estimate.error is not None
    assert 0.0005 < estimate.error < 0.005
    assert estimate.degrees == 9
    assert found.notices == ()
    assert found == from_pytest_benchmark(tmp_path / "0001_run.json"), "the resamples are seeded"


@pytest.mark.parametrize("stats", [{"rounds": 1, "data": [0.5]}, {"rounds": 1}, {"iqr": None}])
def test_an_error_that_nobody_can_know_is_none(tmp_path: Path, stats: dict[str, Any]) -> None:
    (point,) = from_pytest_benchmark(saved(tmp_path, foreign(benchmark(**stats)))).points
    assert point.all == Estimate(value=0.5)


def test_benchmarks_of_a_test_suite_carry_their_own_runs(brief: Snapshot, tmp_path: Path) -> None:
    """As a fixture leaves them that measures in each test, beside anybody's."""
    ours = [
        {**benchmark(f"test_{number}"), "extra_info": extra_info(brief.model_copy(update={"points": (point,)}))}
        for number, point in enumerate(brief.points)
    ]
    found = from_pytest_benchmark(saved(tmp_path, foreign(*ours, benchmark("anybody's"))))
    assert found.points[:-1] == brief.points
    assert found.points[-1].work == Work(arch="anybody's", classes=None)
    assert found.machine == brief.machine


FAULTS: dict[str, tuple[Any, str]] = {
    "no rounds": (foreign(benchmark(rounds=0)), r"'tests/test_it.py::test_it' has 0 rounds"),
    "no median": (foreign(benchmark(median=None)), "has no `stats.median`"),
    "median 0": (foreign(benchmark(median=0)), "must be above 0"),
    "NaN": (foreign(benchmark(median=math.nan)), r"benchmarks\.0\.stats\.median is no finite number"),
    "infinite": (foreign(benchmark(data=[0.5, math.inf])), r"benchmarks\.0\.stats\.data\.1 is no finite number"),
    "negative time": (foreign(benchmark(data=[0.5, -0.5])), "a time that is no number from 1e-15"),
    "text for a time": (foreign(benchmark(data=[0.5, "x"])), "a time that is no number from 1e-15"),
    "endless time": (foreign(benchmark(data=[0.5, 1e300])), "a time that is no number from 1e-15"),
    "more digits than a float has": (foreign(benchmark(median=10**400)), r"stats\.median is no finite number"),
    "an endless time": (foreign(benchmark(median=1e300)), r"the time \(all\) of 'tests/.*' is 1e\+300, where"),
    "no time at all": (foreign(benchmark(median=1e-300)), r"the time \(all\) of 'tests/.*' is 1e-300, where"),
    "endless quartiles": (foreign(benchmark(iqr=1e200)), r"the error of the time \(all\) of 'tests/.*' is .*e\+199"),
    "half a character": (foreign(benchmark("\ud800")), r"benchmarks\.0\.\w+ holds half a character"),
    "no stats": (foreign({"fullname": "one"}), "'one' has no `stats.median`"),
    "no benchmark": (foreign(), "holds no benchmark"),
    "no benchmarks": ({"machine_info": {}}, "not a file of pytest-benchmark"),
    "benchmarks no list": ({"benchmarks": {"a": 1}}, "not a file of pytest-benchmark"),
    "no date": (foreign(benchmark(), datetime=None), "holds no `datetime`"),
    "the same twice": (foreign(benchmark(), benchmark()), "is in it twice"),
    "a list": ([1], "not a JSON object"),
    "ours, newer": (foreign({"extra_info": {EXTRA_INFO: {"schema_version": 9}}}), "a newer slc-bench reads it"),
    "ours, edited": (foreign({"extra_info": {EXTRA_INFO: {"name": 1}}}), "or edited"),
    "ours, no object": (foreign({"extra_info": {EXTRA_INFO: 7}}), "or edited"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_cannot_be_read_is_said_in_a_line_that_names_the_file(tmp_path: Path, fault: str) -> None:
    content, said = FAULTS[fault]
    path = saved(tmp_path, content)
    with pytest.raises(UsageError, match=said) as caught:
        from_pytest_benchmark(path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def test_an_integer_of_thousands_of_digits_is_said(tmp_path: Path) -> None:
    path = saved(tmp_path, foreign(benchmark()))
    path.write_text(f'{{"benchmarks": {"1" * 5000}}}')
    with pytest.raises(UsageError, match="it is not JSON"):
        from_pytest_benchmark(path)


def test_a_file_whose_name_is_no_text_is_read(tmp_path: Path) -> None:
    path = saved(tmp_path, foreign(benchmark())).rename(tmp_path / "a\udcff.json")
    digest(from_pytest_benchmark(path))  # which needs text


def test_a_file_cut_short_is_said(tmp_path: Path) -> None:
    path = saved(tmp_path, foreign(benchmark()))
    path.write_text(path.read_text()[:-20])
    with pytest.raises(UsageError, match="cut short"):
        from_pytest_benchmark(path)
    with pytest.raises(UsageError, match="cannot be read"):
        from_pytest_benchmark(tmp_path / "missing.json")


def test_a_sparse_machine_is_unknown_and_no_error(tmp_path: Path) -> None:
    found = from_pytest_benchmark(saved(tmp_path, foreign(benchmark(), machine_info=None, commit_info=None)))
    assert (found.machine, found.commit) == (OtherMachine(cpu="unknown"), None)


# -- github-action-benchmark ------------------------------------------------------------------------------------------


def test_github_action_benchmark_reads_times_and_speedups(brief: Snapshot) -> None:
    for quantity in ("times", "speedups"):
        entries = to_github_action_benchmark(brief, quantity)  # type: ignore[arg-type]
        Draft202012Validator(GITHUB_SCHEMA).validate(json.loads(json.dumps(entries)))
        assert len({entry["name"] for entry in entries}) == len(entries)
    times = to_github_action_benchmark(brief, "times")
    assert len(times) == 4, "single and all of two settings; what failed has no number"
    first = brief.points[0]
    assert first.single is not None
    assert times[0]["name"] == "resnet50, cpu, float32, batch 32, 3x224x224, 2 threads: single logit"
    assert times[0]["value"] == pytest.approx(1e3 * first.single.value)
    assert times[1]["name"] == "resnet50, cpu, float32, batch 32, 3x224x224, 2 threads, 64 classes: all logits"
    (low, high) = first.single.interval() or (0, 0)
    assert float(times[0]["range"].removeprefix("± ")) == pytest.approx(1e3 * (high - low) / 2, rel=1e-3)
    speedups = to_github_action_benchmark(brief, "speedups")
    assert [entry["unit"] for entry in speedups] == ["x", "x"]
    assert first.speedup is not None
    assert speedups[0]["value"] == pytest.approx(first.speedup.value)


def test_an_unknown_error_has_no_range(tmp_path: Path) -> None:
    found = from_pytest_benchmark(saved(tmp_path, foreign(benchmark("one", rounds=1))))
    (entry,) = to_github_action_benchmark(found, "times")
    assert (entry["name"], entry["value"], "range" in entry) == ("one", 500.0, False)
    with pytest.raises(UsageError, match="no speedups"):
        to_github_action_benchmark(found, "speedups")


def test_names_depend_on_the_work_alone(brief: Snapshot) -> None:
    """Another day, commit, version and result: the same names, for the tool follows them."""
    faster = tuple(
        point.model_copy(update={"all": Estimate(value=9.0)}) if point.all else point for point in brief.points
    )
    later = brief.model_copy(
        update={"created": "2027", "commit": None, "versions": {}, "name": "x", "points": faster[::-1]}
    )
    for quantity in ("times", "speedups"):
        names = {entry["name"] for entry in to_github_action_benchmark(brief, quantity)}  # type: ignore[arg-type]
        assert names == {entry["name"] for entry in to_github_action_benchmark(later, quantity)}  # type: ignore[arg-type]


CHANGES: dict[str, Any] = {
    "arch": "other", "classes": 2, "input_shape": (3, 32, 32), "device": "cuda", "dtype": "bfloat16", "batch_size": 1,
    "compile": "default", "cuda_graph": True, "channels_last": True, "tf32": True, "cudnn_benchmark": False,
    "order": "sequential", "block": 2, "work": "normalised", "subset": 2, "top_layer": "adaptive",
}  # fmt: skip


def test_different_work_has_different_names(brief: Snapshot) -> None:
    work = brief.points[0].work
    assert set(CHANGES) == set(Work.model_fields), "a new field of the work belongs into its name"
    labels = {point_label(work.model_copy(update={name: value}), 2) for name, value in CHANGES.items()}
    assert len({point_label(work, 2), point_label(work, 1), *labels}) == len(CHANGES) + 2


# -- Bencher and CSV --------------------------------------------------------------------------------------------------


def test_bencher_reads_its_metric_format(brief: Snapshot) -> None:
    found = to_bencher(brief)
    Draft202012Validator(BENCHER_SCHEMA).validate(json.loads(json.dumps(found)))
    first = brief.points[0]
    assert first.single is not None
    measures = found[point_label(first.work, first.threads)]
    assert measures[SINGLE_MEASURE]["value"] == pytest.approx(1e9 * first.single.value)
    for metric in measures.values():
        assert metric["lower_value"] < metric["value"] < metric["upper_value"]
    assert len(found) == 2
    failed = brief.model_copy(update={"points": brief.points[1:3]})
    with pytest.raises(UsageError, match="nothing to export"):
        to_bencher(failed)


def test_bencher_has_what_is_known_of_anybodys_benchmark(tmp_path: Path) -> None:
    found = to_bencher(from_pytest_benchmark(saved(tmp_path, foreign(benchmark("one", rounds=1)))))
    assert found == {"one": {ALL_MEASURE: {"value": 5e8}}}


def test_csv_has_a_row_a_point(brief: Snapshot) -> None:
    rows = list(csv.DictReader(io.StringIO(to_csv(brief))))
    assert [(row["arch"], row["classes"], row["status"]) for row in rows] == [
        ("resnet50", "64", "ok"),
        ("resnet50", "1024", "out-of-memory"),
        ("resnet50", "262144", "out-of-memory"),
        ("resnet50", "64", "ok"),
    ]
    first = brief.points[0]
    assert first.speedup is not None
    assert float(rows[0]["speedup"]) == first.speedup.value
    assert (float(rows[0]["speedup_low"]), float(rows[0]["speedup_high"])) == first.speedup.interval()
    assert rows[0]["input_shape"] == "3x224x224"
    assert rows[1]["single_s"] == "", "nothing stands where nothing was measured"
    assert rows[1]["reason"] == "needs 6 GB"
    assert rows[0]["commit"] == "a" * 40


@given(st.text(st.characters(exclude_categories=("Cs",)), max_size=40))
@settings(max_examples=40, deadline=None)
def test_a_name_of_any_text_survives_the_csv(name: str) -> None:
    snapshot = Snapshot(
        name=name,
        created="2026-01-02T03:04:05+00:00",
        machine=OtherMachine(cpu="x"),
        points=(Point(work=Work(arch=name, classes=2)),),
    )
    (row,) = csv.DictReader(io.StringIO(to_csv(snapshot), newline=""))
    assert (row["run"], row["arch"]) == (name, name)
