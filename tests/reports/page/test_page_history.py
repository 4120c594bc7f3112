import math
from collections.abc import Sequence
from pathlib import Path

import pytest

from bench.errors import UsageError
from bench.history.snapshot import Estimate
from bench.history.store import Entry, Store
from reports.page import history


def test_a_step_is_drawn_and_told_with_its_commits(history_folder) -> None:
    found = history.read(history_folder)
    assert found.runs == 36
    assert found.figure is not None
    assert found.steps is not None
    (view,) = found.figure.views
    runs, steps = view.traces
    assert len(runs["x"]) == 36
    assert steps["x"] == [20, 21], "after twenty runs, counted from 1, and nothing behind the last step"
    assert len(steps["hovertext"]) == 2
    speedups = [line for line in found.steps.lines if line.cells[1].text == "speedup"]
    assert len(speedups) == 1
    assert speedups[0].cells[3].text.startswith("-")
    assert -0.12 < speedups[0].cells[3].key - 1 < -0.08
    assert all("&lt;script&gt;" not in line.cells[0].text for line in found.steps.lines), "escaped by the page, once"


def with_speedups(folder: Path, entries: Sequence[Entry], error: float, degrees: float) -> Path:
    """A history of these runs, with speedups of 2, 2.1, 2.2 ... that are known so well."""
    for number, entry in enumerate(entries):
        speedup = Estimate(value=2 + number / 10, error=error, degrees=degrees)
        points = (entry.snapshot.points[0].model_copy(update={"speedup": speedup}),)
        Store(folder).add(entry.snapshot.model_copy(update={"points": points}))
    return folder


def test_every_run_has_its_interval_and_the_axis_holds_all(history_folder, tmp_path) -> None:
    found = history.read(with_speedups(tmp_path, Store(history_folder).entries()[:4], 0.02, 1e9))
    (view,) = found.figure.views
    runs = view.traces[0]
    assert runs["error_y"]["array"][0] == pytest.approx(2 * math.expm1(1.96 * 0.02), rel=1e-3)
    assert runs["error_y"]["arrayminus"][3] == pytest.approx(-2.3 * math.expm1(-1.96 * 0.02), rel=1e-3)
    bottom, top = view.layout["yaxis"]["range"]
    assert 1.85 < bottom < 2 * math.exp(-1.96 * 0.02)
    assert 2.3 * math.exp(1.96 * 0.02) < top < 2.45


def test_an_endless_interval_does_not_flatten_the_values(history_folder, tmp_path) -> None:
    found = history.read(with_speedups(tmp_path, Store(history_folder).entries()[:4], 50.0, 1.0))
    (view,) = found.figure.views
    bottom, top = view.layout["yaxis"]["range"]
    assert 1.2 < bottom < 2.0
    assert 2.3 < top < 3.7


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
