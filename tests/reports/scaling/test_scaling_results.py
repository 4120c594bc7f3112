from dataclasses import replace

import pandas as pd
import pytest

from bench.folder import Notice
from bench.scaling.run import load
from reports.scaling import results
from reports.scaling.results import FIGURES, FILES, TABLES, Result


def test_a_study_is_written_from_its_records_alone(write_study, make_study, make_speed, tmp_path) -> None:
    options = {"losses": ("ce", "self-norm"), "counts": (100, 1000), "speed": make_speed((100, 1000))}
    on_disk, in_memory = tmp_path / "disk", tmp_path / "memory"
    for folder in (on_disk, in_memory):
        folder.mkdir()
    paths = results.write(on_disk, load(write_study(tmp_path, **options)))
    assert [path.name for path in paths] == list(FILES)
    results.write(in_memory, make_study(**options))
    for name in FILES:
        assert (on_disk / name).read_bytes() == (in_memory / name).read_bytes() != b"", name


def test_the_csv_has_every_row_with_its_numbers(make_study, make_speed, tmp_path) -> None:
    run = make_study(("self-norm", "ce"), (10, 1000), speed=make_speed((10, 1000, 100_000)))
    csv, *_ = results.write(tmp_path, run)
    frame = pd.read_csv(csv)
    found = Result.of(run)
    assert list(zip(frame.classes, frame.loss, strict=True)) == [(row.classes, row.loss) for row in found.rows]
    assert len(frame) == 6, "those that were left out too"
    for line, row in zip(frame.itertuples(), found.rows, strict=True):
        assert line.as_good == row.as_good
        assert line.faster == row.faster
        assert line.both == row.both
        assert line.speedup == row.speed.speedup
        if row.single is not None:
            expected = (row.single.error, row.single.low, row.single.high, row.all.error, row.optimum.error)
            assert (line.single, line.single_low, line.single_high, line.all, line.optimum) == expected
            assert (line.ratio_against_ce, line.ratio_against_own) == (row.with_ce.ratio, row.with_own.ratio)
            quartiles = (line.step_seconds_lower_quartile, line.step_seconds_upper_quartile)
            assert quartiles == row.cost.quartiles
            assert quartiles[0] < line.step_seconds < quartiles[1]
            assert (line.above_optimum, line.step_seconds) == (row.above_optimum, row.cost.seconds)
            assert line.seeds == "0 1 2"
            assert bool(line.converged) is row.convergence.converged
    left = frame[frame.status == "left-out"]
    assert list(left.reason.unique()) == ["needs a GPU"]
    assert left.single.isna().all()
    assert "2000," in csv.read_text(), "whole numbers stay whole beside empty cells"


def test_the_markdown_says_what_the_rows_say(make_study, make_speed, tmp_path) -> None:
    run = make_study(("ce", "self-norm"), (100, 1000), speed=make_speed((100, 1000)), slow={("ce", 1000): 1.4})
    _, markdown, *_ = results.write(tmp_path, run)
    text = markdown.read_text()
    for row in Result.of(run).rows:
        if row.single is not None:
            assert f"{row.single.error:.4f} ({row.single.low:.4f} .. {row.single.high:.4f})" in text
    assert "CE: nowhere" not in text
    assert "the model has not converged" in text
    assert "100,000 classes: nothing was trained: needs a GPU" in text
    assert "### Where is one logit both faster and as good?" in text
    assert "| 1,000 | 1.5" in text


def test_missing_pieces_are_shown_as_missing(make_study, tmp_path) -> None:
    run = make_study(
        ("ce", "self-norm"), (100, 1000), optima=False, costs=False, without=[("self-norm", 1000)], status="interrupted"
    )
    _, markdown, *_ = results.write(tmp_path, run)
    text = markdown.read_text()
    assert "No speedup was measured." in text
    assert "(the run is interrupted: 9 of 12 models have met the queries)" in text
    assert "self-norm at 1,000 classes: missing: no model of all steps has met the queries yet" in text
    assert "| 1,000 | self-norm | missing | 0 |" in text


def test_what_cannot_be_drawn_is_left_out_and_nothing_old_stays(make_study, tmp_path) -> None:
    (tmp_path / "fig4.png").write_bytes(b"of another run")
    run = replace(make_study(("ce",), (100,), optima=False), points=(), queries={})
    assert [path.name for path in results.write(tmp_path, run)] == list(TABLES)
    assert not any((tmp_path / name).exists() for name in FIGURES)


def test_warnings_of_the_study_of_its_speed_run_and_of_its_rows_are_kept_once(make_study, make_speed) -> None:
    own = Notice(kind="own", happened="a", matters="b", remedy="c")
    speed = make_speed((100,))
    speed = replace(speed, notices=(Notice(kind="of-speed", happened="a", matters="b", remedy="c"),))
    run = make_study(("ce",), (100,), seeds=(0,), speed=speed, notices=(own,))
    kinds = [notice.kind for notice in Result.of(replace(run, notices=(own,))).notices]
    assert kinds[:2] == ["own", "one-seed"]
    assert "of-speed" in kinds


def test_a_full_disk_leaves_what_was_there(make_study, tmp_path, monkeypatch) -> None:
    results.write(tmp_path, make_study(("ce",), (100,)))
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("bench.folder.os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        results.write(tmp_path, make_study(("ce",), (100,), seeds=(0, 1)))
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
