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
def single_run(tmp_path, make_run):
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
        machine=make_run().manifest.machine,
        versions={},
    )
    writer = DeploymentWriter.create(tmp_path, manifest)
    writer.append([DeploymentSample(what="one", number=0, wall_s=0.064)])
    writer.close()
    return writer.path


def test_a_run_of_a_single_logit_is_shown_again(reports, single_run) -> None:
    answer = reports(single_run)
    assert answer.exit_code == 0, answer.output
    assert answer.output.startswith("resnet50: one row of a top layer of 64 x 2048, the others left on disk")
    assert "2.00 ms" in answer.output  # 64 ms for 32 images


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
