from pathlib import Path

import pytest
from typer.testing import CliRunner

from reports.__main__ import app
from reports.page import document

MEASURED = Path(__file__).parents[3] / "docs" / "measured" / "amd-epyc-2-cores"


@pytest.fixture
def reports(monkeypatch, tmp_path):
    monkeypatch.setattr(document, "plotting_library", lambda: "/* plotly.js */")
    monkeypatch.chdir(tmp_path)

    def invoke(*arguments: object):
        return CliRunner().invoke(app, [str(argument) for argument in arguments])

    return invoke


def test_the_page_and_nothing_else_is_written(reports, write_run, tmp_path) -> None:
    folder = write_run(tmp_path / "runs", "resnet50")
    before = set(folder.iterdir())
    answer = reports(folder, "--html", tmp_path / "new" / "page.html")
    assert answer.exit_code == 0, answer.output
    assert "Wrote " in answer.output
    assert set(folder.iterdir()) == before
    assert "Fig. 1" in (tmp_path / "new" / "page.html").read_text()


def test_with_output_the_tables_are_drawn_too(reports, write_run, tmp_path) -> None:
    folder = write_run(tmp_path / "runs", "resnet50")
    answer = reports(folder, "--html", tmp_path / "page.html", "--output", tmp_path / "tables")
    assert answer.exit_code == 0, answer.output
    assert (tmp_path / "tables" / "table3.csv").exists()


def test_a_folder_of_runs_of_both_kinds_stands_for_all_in_it(reports, write_run, tmp_path) -> None:
    for arch in ("alexnet", "resnet50"):
        write_run(tmp_path / "runs", arch)
    (tmp_path / "runs" / "digits").symlink_to(MEASURED / "digits")
    answer = reports(tmp_path / "runs", "--html", "page.html")
    assert answer.exit_code == 0, answer.output
    page = (tmp_path / "page.html").read_text()
    assert all(text in page for text in ("alexnet", "resnet50", "Table 1:", "Table 2:", "Table 3:"))


def test_the_history_at_hand_is_shown(reports, write_run, history_folder, tmp_path) -> None:
    folder = write_run(tmp_path / "runs", "resnet50")
    assert reports(folder, "--html", "without.html").exit_code == 0
    assert 'id="runs"' not in (tmp_path / "without.html").read_text()
    (tmp_path / ".slc-bench").symlink_to(history_folder)
    assert reports(folder, "--html", "page.html").exit_code == 0
    assert 'id="runs"' in (tmp_path / "page.html").read_text()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--history", "h"], "say where to write that with --html"),
        (["--html", "page.html", "--history", "none"], "no history"),
        (["--html", "/proc/page.html"], "name another with --html"),
    ],
)
def test_what_cannot_be_is_refused(reports, write_run, tmp_path, arguments, says) -> None:
    answer = reports(write_run(tmp_path / "runs", "resnet50"), *arguments)
    assert answer.exit_code == 2
    assert says in answer.output
    assert not (tmp_path / "page.html").exists()


def test_a_folder_without_runs_is_refused(reports, tmp_path) -> None:
    answer = reports(tmp_path, "--html", "page.html")
    assert answer.exit_code == 2
    assert "is not a run" in answer.output
