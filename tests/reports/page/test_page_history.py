import pytest

from bench.errors import UsageError
from reports.page import history


def test_a_step_is_drawn_and_told_with_its_commits(history_folder) -> None:
    found = history.read(history_folder)
    assert found.runs == 36
    assert found.figure is not None
    assert found.steps is not None
    (view,) = found.figure.views
    runs, steps = view.traces
    assert len(runs["x"]) == 36
    assert steps["x"][:2] == [20, 21], "after twenty runs, counted from 1"
    speedups = [line for line in found.steps.lines if line.cells[1].text == "speedup"]
    assert len(speedups) == 1
    assert speedups[0].cells[3].text.startswith("-")
    assert -0.12 < speedups[0].cells[3].key - 1 < -0.08
    assert all("&lt;script&gt;" not in line.cells[0].text for line in found.steps.lines), "escaped by the page, once"


def test_many_runs_are_thinned_but_for_the_ends_of_steps(history_folder, monkeypatch) -> None:
    monkeypatch.setattr(history, "RUNS_OF_A_SERIES", 9)
    monkeypatch.setattr(history, "FEWEST_RUNS", 9)
    (view,) = history.read(history_folder).figure.views
    assert view.traces[0]["x"] == [1, 5, 9, 13, 17, 20, 21, 25, 29, 33]
    assert "36 runs, drawn is every 4th and each end of a step" in view.note


def test_no_history_is_a_clear_error(tmp_path) -> None:
    with pytest.raises(UsageError, match="no history"):
        history.read(tmp_path)


def test_a_broken_file_is_told_and_the_rest_is_shown(history_folder, tmp_path) -> None:
    folder = tmp_path / "history"
    folder.mkdir()
    for file in (history_folder / "history").iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    (folder / "torn.json").write_text("{")
    found = history.read(tmp_path)
    assert found.runs == 36
    assert any("torn.json" in problem for problem in found.problems)
