import json
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from bench.deploy.records import DeploymentManifest, DeploymentSetting, DeploymentWriter
from bench.deploy.records import Sample as DeploymentSample
from reports import results
from reports.__main__ import app


@pytest.fixture
def reports():
    def invoke(*arguments: object):
        return CliRunner().invoke(app, [str(argument) for argument in arguments])

    return invoke


def test_one_run_is_drawn_again_in_its_own_folder(reports, write_run, tmp_path) -> None:
    folder = write_run(tmp_path, "resnet50")
    answer = reports(folder)
    assert answer.exit_code == 0, answer.output
    assert {path.name for path in folder.iterdir()} >= set(results.FILES)
    assert "beside the paper" in answer.output
    assert "out-of-memory" in answer.output


@pytest.mark.parametrize("status", ["incomplete", "interrupted"])
def test_a_run_that_is_not_whole_is_drawn_and_ends_with_3(reports, write_run, tmp_path, status) -> None:
    folder = write_run(tmp_path, "resnet50")
    manifest = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps(manifest | {"status": status}))
    answer = reports(folder)
    assert answer.exit_code == 3, answer.output
    assert status in answer.output
    assert {path.name for path in folder.iterdir()} >= set(results.FILES)


def test_drawing_twice_leaves_the_same_bytes(reports, write_run, tmp_path) -> None:
    folder = write_run(tmp_path, "resnet50")
    reports(folder)
    first = {name: (folder / name).read_bytes() for name in results.FILES}
    reports(folder)
    assert {name: (folder / name).read_bytes() for name in results.FILES} == first


def test_several_runs_are_drawn_together(reports, write_run, tmp_path) -> None:
    runs = [write_run(tmp_path, arch) for arch in ("alexnet", "resnet50")]
    answer = reports(*runs, "--output", tmp_path / "new" / "together")
    assert answer.exit_code == 0, answer.output
    assert {path.name for path in (tmp_path / "new" / "together").iterdir()} == set(results.FILES)
    assert not (runs[0] / "table3.csv").exists()
    assert answer.output.count("one logit against up to 370,727 classes") == 2, "each run says what it measured on what"


def test_a_reader_who_has_left_is_no_error(write_run, tmp_path) -> None:
    folder = write_run(tmp_path, "resnet50")
    command = [sys.executable, "-m", "reports", str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as drawing:
        assert drawing.stdout is not None
        assert drawing.stderr is not None
        drawing.stdout.close()
        assert b"BrokenPipe" not in drawing.stderr.read()
    assert drawing.returncode == 0
    assert (folder / "fig1.svg").exists()


def test_several_runs_need_a_folder(reports, tmp_path) -> None:
    answer = reports(tmp_path / "a", tmp_path / "b")
    assert answer.exit_code == 2
    assert "--output" in answer.stderr


def test_what_is_no_run_is_one_line(reports, tmp_path) -> None:
    answer = reports(tmp_path)
    assert answer.exit_code == 2
    assert len(answer.stderr.splitlines()) == 1
    assert "is not a run" in answer.stderr


def test_a_folder_that_cannot_be_written_is_one_line(reports, write_run, tmp_path) -> None:
    (tmp_path / "file").write_text("")
    answer = reports(write_run(tmp_path, "resnet50"), "--output", tmp_path / "file" / "inside")
    assert answer.exit_code == 2
    assert len(answer.stderr.splitlines()) == 1
    assert "--output" in answer.stderr


def test_no_run_at_all_is_refused(reports) -> None:
    assert reports().exit_code == 2


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys, runpy; sys.argv = ['reports', '--help']\n"
        "try: runpy.run_module('reports', run_name='__main__')\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'pandas', 'matplotlib', 'scipy', 'numpy'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stderr
    assert "--output" in answer.stdout


@pytest.fixture
def write_single(tmp_path, make_run):
    """A run of `bench single` on disk: one switch of each kind and one minibatch, or the samples given."""

    def write(status="complete", samples=WHOLE):
        return _write_single(tmp_path, make_run().manifest.machine, status, samples)

    return write


WHOLE = (
    DeploymentSample(what="cold", number=0, wall_s=0.02, pages=1, cached_pages=0),
    DeploymentSample(what="warm", number=0, wall_s=0.001),
    DeploymentSample(what="kept", number=0, wall_s=0.0001),
    DeploymentSample(what="one", number=0, wall_s=0.064),
    DeploymentSample(what="all", number=0, wall_s=0.64),
)


def _write_single(folder, machine, status, samples):
    setting = DeploymentSetting(
        arch="resnet50", input_shape=(3, 8, 8), device="cpu", threads=1, classes=64, switches=1, minibatches=1
    )
    manifest = DeploymentManifest(
        name="single-resnet50",
        created="2026-01-02T03:04:05+00:00",
        setting=setting,
        features=2048,
        row_bytes=8192,
        layer_bytes=64 * 8192,
        backbone_bytes=1,
        machine=machine,
        versions={},
        status=status,
    )
    writer = DeploymentWriter.create(folder, manifest)
    writer.append(samples)
    writer.close()
    return writer.path


@pytest.fixture
def single_run(write_single):
    return write_single()


def test_a_run_of_a_single_logit_is_shown_again(reports, single_run) -> None:
    answer = reports(single_run)
    assert answer.exit_code == 0, answer.output
    assert answer.output.startswith("resnet50: one row of a top layer of 64 x 2048, the others left on disk")
    assert "2.00 ms" in answer.output  # 64 ms for 32 images
    assert "incomplete" not in answer.output
    assert "warning" not in answer.output


@pytest.mark.parametrize(
    ("status", "said"),
    [
        ("running", "running: not everything was measured as it was asked for"),
        ("interrupted", "interrupted: not everything"),
        ("incomplete", "incomplete: not everything"),
        ("complete", "incomplete: not everything"),
    ],
)
def test_a_run_of_a_single_logit_that_is_not_whole_says_so(reports, write_single, status, said) -> None:
    answer = reports(write_single(status, WHOLE[:-1]))
    assert answer.exit_code == 3, answer.output
    assert said in answer.output
    assert "there are 0 of 1 samples of 'one image, all logits'" in answer.output
    assert "run the command again: python -m bench single has no --resume" in answer.output


def test_a_torn_run_of_a_single_logit_is_not_told_to_resume(reports, single_run) -> None:
    samples = single_run / "samples.jsonl"
    samples.write_bytes(samples.read_bytes()[:-5])
    answer = reports(single_run)
    assert answer.exit_code == 3
    assert "line 5, the last, was cut off in the middle" in answer.output
    assert "--resume measures" not in answer.output


def test_a_crash_ends_as_everywhere(reports, single_run, monkeypatch) -> None:
    def crash(*_: object) -> None:
        raise ZeroDivisionError("nobody thought of this")

    monkeypatch.setattr("reports.single.print_deployment", crash)
    answer = reports(single_run)
    assert answer.exit_code == 70
    assert len(answer.stderr.splitlines()) == 1
    assert answer.stderr.startswith("error: ZeroDivisionError: nobody thought of this: this is a fault of slc-bench")


def test_a_run_of_a_single_logit_is_shown_alone(reports, single_run, write_run, tmp_path) -> None:
    other = write_run(tmp_path / "speed", "resnet50")
    for runs in ((single_run, other), (single_run,)):
        arguments = (*runs, "--output", tmp_path / "new")
        answer = reports(*arguments)
        assert answer.exit_code == 2
        assert "a run of python -m bench single is shown alone" in answer.stderr
    page = reports(single_run, "--html", tmp_path / "page.html")
    assert page.exit_code == 2
    assert f"shown alone: python -m reports {single_run}" in page.stderr
