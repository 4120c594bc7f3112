"""`python -m bench export`: what it writes where, and its exit codes. What is in a format: test_history_formats.py."""

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bench.history.formats import from_pytest_benchmark
from bench.history.snapshot import snapshot
from bench.history.store import Store, digest
from bench.run import Manifest, RunWriter, Sample, load_run
from bench.run import Point as RunPoint

Command = Callable[..., Any]
MakeRun = Callable[..., Path]


@pytest.fixture
def make_run(
    tmp_path: Path,
    make_manifest: Callable[..., Manifest],
    make_round: Callable[..., list[Sample]],
    make_point: Callable[..., RunPoint],
) -> MakeRun:
    """A run on disk of 12 rounds; `failed`: a larger class count that had no memory."""

    def make(failed: bool = False) -> Path:
        points = [make_point(1), make_point(1024)]
        if failed:
            points.append(make_point(2**18, status="out-of-memory", reason="needs 6 GB"))
        writer = RunWriter.create(tmp_path / "results", make_manifest(points=tuple(points)))
        for number in range(12):
            writer.append(make_round(number))
        writer.close()
        return writer.path

    return make


def test_help_is_quick_because_it_imports_nothing_heavy(help_of: Command) -> None:
    ended = help_of("export")
    assert (ended.code, ended.err) == (0, "")
    assert "imported: []" in ended.out
    for word in ("pytest-benchmark", "github-action-benchmark", "bencher", "csv", "customBiggerIsBetter"):
        assert word in ended.out


@pytest.mark.parametrize(
    "options",
    [
        ("--format", "pytest-benchmark"),
        ("--format", "github-action-benchmark", "--quantity", "times"),
        ("--format", "github-action-benchmark", "--quantity", "speedups"),
        ("--format", "bencher"),
        ("--format", "csv"),
    ],
    ids=lambda options: "-".join(options[1::2]),
)
def test_a_format_goes_to_standard_output_or_a_file(
    here: Command, make_run: MakeRun, tmp_path: Path, options: tuple[str, ...]
) -> None:
    run = make_run()
    ended = here("export", run, *options)
    assert (ended.code, ended.err) == (0, "")
    if "csv" in options:
        assert len(list(csv.DictReader(io.StringIO(ended.out)))) == 1
    else:
        assert json.loads(ended.out)
    file = tmp_path / "new" / "folder" / "out"
    written = here("export", run, *options, "--output", file)
    assert (written.code, written.out, written.err) == (0, f"written to {file}\n", "")
    assert file.read_text() == ended.out


def test_an_exported_run_can_be_compared_with_as_a_file(here: Command, make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run()
    file = tmp_path / "out.json"
    assert here("export", run, "--format", "pytest-benchmark", "--output", file).code == 0
    assert from_pytest_benchmark(file) == snapshot(load_run(run))


def test_points_that_failed_are_told_and_the_exit_code_is_3(here: Command, make_run: MakeRun) -> None:
    ended = here("export", make_run(failed=True), "--format", "bencher")
    assert ended.code == 3
    assert len(json.loads(ended.out)) == 1
    assert ended.err == (
        "warning: no numbers of resnet50, cpu, float32, batch 32, 3x224x224, 2 threads, 262144 classes "
        "(out-of-memory: needs 6 GB)\n"
    )


def test_what_a_run_says_is_told_on_one_line(here: Command, make_run: MakeRun, tmp_path: Path) -> None:
    manifest = make_run(failed=True) / "run.json"
    content = json.loads(manifest.read_text())
    for each in content["points"]:
        each["reason"] = each["reason"] and "x\n::error::evil\x1b[31m"
    manifest.write_text(json.dumps(content))
    ended = here("export", manifest.parent, "--format", "csv", "--output", tmp_path / "run.csv")
    assert ended.code == 3
    (line,) = ended.err.splitlines()
    assert "x ::error::evil\ufffd[31m" in line


def test_entries_and_baselines_are_exported_without_samples(here: Command, make_run: MakeRun, tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    brief = snapshot(load_run(make_run()))
    store.add(brief)
    store.set_baseline("main", brief)
    for name in ("main", digest(brief)):
        ended = here("export", name, "--format", "csv", "--store", store.path)
        assert (ended.code, ended.err) == (0, "")
        assert "resnet50" in ended.out
        refused = here("export", name, "--format", "pytest-benchmark", "--store", store.path)
        assert refused.code == 2
        assert "needs its samples; give the folder" in refused.err


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--format", "xml"), "--format 'xml' is not known; one of pytest-benchmark, github-action-benchmark"),
        (
            ("--format", "github-action-benchmark"),
            "--quantity times (for its tool: 'customSmallerIsBetter') or speedups",
        ),
        (("--format", "github-action-benchmark", "--quantity", "both"), "--quantity times"),
        (("--format", "csv", "--quantity", "times"), "--quantity belongs to github-action-benchmark"),
        (("--format", "csv", "--output", "/dev/null/x"), "cannot write '/dev/null/x'"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line(
    here: Command, make_run: MakeRun, options: tuple[str, ...], said: str
) -> None:
    ended = here("export", make_run(), *options)
    assert (ended.code, ended.out) == (2, "")
    assert said in ended.err
    assert ended.err.count("\n") == 1


def test_a_run_that_is_not_there_is_said(here: Command, tmp_path: Path) -> None:
    for form in ("csv", "pytest-benchmark"):
        ended = here("export", tmp_path / "missing", "--format", form, "--store", tmp_path / "store")
        assert ended.code == 2
        assert "missing" in ended.err


def test_a_run_without_a_number_is_said(here: Command, tmp_path: Path, make_manifest: Callable[..., Manifest]) -> None:
    writer = RunWriter.create(tmp_path / "results", make_manifest())
    writer.close()
    for form in ("bencher", "pytest-benchmark"):
        ended = here("export", writer.path, "--format", form)
        assert (ended.code, ended.out) == (2, "")
        assert "no point was measured" in ended.err
