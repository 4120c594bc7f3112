import pytest
from typer.testing import CliRunner

from reports import results as speed_results
from reports import rivals
from reports.__main__ import app
from reports.accuracy import results


@pytest.fixture
def reports():
    def invoke(*arguments: object):
        return CliRunner().invoke(app, [str(argument) for argument in arguments])

    return invoke


def test_an_accuracy_run_is_drawn_again_in_its_own_folder(reports, write_accuracy_run, tmp_path) -> None:
    folder = write_accuracy_run(tmp_path, ("ce", "batch-ce"))
    answer = reports(folder)
    assert answer.exit_code == 0, answer.output
    assert {path.name for path in folder.iterdir()} >= set(results.FILES)
    assert "batch CE, one logit against all logits of CE: " in answer.output
    assert "beside the paper's Table 1" in answer.output


def test_drawing_twice_leaves_the_same_bytes(reports, write_accuracy_run, tmp_path) -> None:
    folder = write_accuracy_run(tmp_path, ("ce", "batch-ce"))
    reports(folder)
    first = {name: (folder / name).read_bytes() for name in results.FILES}
    reports(folder)
    assert {name: (folder / name).read_bytes() for name in results.FILES} == first


def test_runs_of_both_kinds_are_drawn_into_one_folder(reports, write_run, write_accuracy_run, tmp_path) -> None:
    runs = [write_run(tmp_path, "resnet50"), write_accuracy_run(tmp_path, ("ce", "batch-ce"))]
    answer = reports(*runs, "--output", tmp_path / "together")
    assert answer.exit_code == 0, answer.output
    written = {path.name for path in (tmp_path / "together").iterdir()}
    assert written == {*speed_results.FILES, *results.FILES}


def test_a_run_without_a_training_is_one_line(reports, write_accuracy_run, tmp_path) -> None:
    answer = reports(write_accuracy_run(tmp_path, ("ce",), missing=["ce"]))
    assert answer.exit_code == 2
    assert len(answer.stderr.splitlines()) == 1
    assert "holds no training yet" in answer.stderr


def test_a_speed_run_with_rivals_and_an_accuracy_run_have_the_rivals_table(
    reports, write_run, write_accuracy_run, tmp_path
) -> None:
    speed = write_run(tmp_path, "resnet50", top_layer="low-rank")
    accuracy = write_accuracy_run(tmp_path, ("ce", "batch-ce"))
    answer = reports(speed, accuracy, "--output", tmp_path / "both")
    assert answer.exit_code == 0, answer.output
    assert {path.name for path in (tmp_path / "both").iterdir()} >= set(rivals.FILES)
    assert "rivals.csv, rivals.md" in answer.output
    several = reports(speed, accuracy, write_run(tmp_path, "alexnet", top_layer="adaptive"), "--output", tmp_path / "n")
    assert several.exit_code == 0, several.output
    assert "name one of each for it" in several.output
    assert not (tmp_path / "n" / "rivals.md").exists()
