from dataclasses import replace

import pytest

from reports.series import control_lines, failures, labels, series_of, split


def test_split_makes_one_series_a_setting(make_rows) -> None:
    rows = make_rows("alexnet") + make_rows("resnet50") + make_rows("resnet50", dtype="float16")
    series = split(rows)
    assert [(each.arch, each.rows[0].dtype, len(each.rows)) for each in series] == [
        ("alexnet", "float32", 7),
        ("resnet50", "float32", 7),
        ("resnet50", "float16", 7),
    ]
    assert [row for each in series for row in each.rows] == rows


def test_split_keeps_two_runs_of_one_setting_apart(make_rows) -> None:
    assert [len(each.rows) for each in split(make_rows() + make_rows())] == [7, 7]


def test_split_keeps_a_series_whose_single_logit_failed_apart(make_rows) -> None:
    rows = make_rows(classes=(1, 1024)) + make_rows(classes=(1, 1024), failed=(1, 1024))
    assert [[row.status for row in each.points] for each in split(rows)] == [["ok"] * 2, ["out-of-memory"] * 2]


def test_series_knows_single_logit_and_control(make_rows) -> None:
    series = split(make_rows())[0]
    assert series.single is not None
    assert series.control is not None
    assert (series.single.kind, series.single.classes) == ("point", 1)
    assert series.control.kind == "control"
    assert all(row.kind == "point" for row in series.points)


def test_a_series_is_compared_once_another_count_was_measured(make_rows) -> None:
    (whole,) = split(make_rows(classes=(1, 1024)))
    (alone,) = split(make_rows(classes=(1, 1024), failed=(1024,)))
    assert (whole.is_compared, alone.is_compared) == (True, False)


@pytest.mark.parametrize("mode", [{"top_layer": "adaptive"}, {"subset": 16}])
def test_a_rival_and_several_logits_are_not_one_against_all(make_rows, mode) -> None:
    assert [each.is_against_all for each in split(make_rows() + make_rows(**mode))] == [True, False]


def test_settings_of_one_run_are_told_apart_by_their_modes(make_run, make_rows) -> None:
    modes = [{}, {"work": "normalised"}, {"top_layer": "adaptive"}, {"cuda_graph": True}, {"channels_last": True}]
    runs = [make_run(**mode) for mode in modes]
    settings = tuple(run.manifest.settings[0] for run in runs)
    run = replace(runs[0], manifest=runs[0].manifest.model_copy(update={"settings": settings}))
    found = series_of(run, [row for mode in modes for row in make_rows(classes=(1, 1024), **mode)])
    assert [each.setting for each in found] == list(settings)
    assert labels(found) == ["", "normalised", "adaptive top layer", "CUDA graph", "channels last"]


def test_failures_name_the_setting_where_there_are_several(make_rows) -> None:
    lost = {"classes": (1, 1024), "failed": (1024,)}
    assert failures(split(make_rows(**lost))) == [
        "resnet50, 1,024 classes: out-of-memory: needs 3.04 GB, 2.10 GB are free"
    ]
    found = failures(split(make_rows(**lost) + make_rows(dtype="bfloat16", **lost)))
    assert [line.split(", ")[0] for line in found] == ["resnet50 (float32)", "resnet50 (bfloat16)"]


def test_a_control_that_was_not_measured_has_no_line(make_rows) -> None:
    (line,) = control_lines(split(make_rows()))
    assert line.startswith("resnet50: control, the single logit against itself: 1.001 (95 % interval 0.998 .. 1.004)")
    waiting = [row.model_copy(update={"speedup": None}) for row in make_rows()]
    assert control_lines(split(waiting)) == []


def test_series_of_finds_the_setting_past_one_without_rows(make_run, make_rows) -> None:
    run = make_run("alexnet", "resnet50")
    assert [each.setting for each in series_of(run, make_rows("resnet50"))] == [run.manifest.settings[1]]


def test_labels_are_empty_where_nothing_has_to_be_told_apart(make_rows) -> None:
    assert labels(split(make_rows("alexnet") + make_rows("resnet50"))) == ["", ""]


def test_labels_name_what_a_row_does_not_know(make_run, make_rows) -> None:
    series = [*series_of(make_run(), make_rows()), *series_of(make_run(cuda_graph=True), make_rows(cuda_graph=True))]
    assert labels(series) == ["", "CUDA graph"]


def test_labels_of_equal_settings_name_the_time_of_the_run(make_run, make_rows) -> None:
    first, second = make_run(), make_run(created="2026-04-02T00:00:00+00:00")
    series = [*series_of(first, make_rows()), *series_of(second, make_rows())]
    assert labels(series) == [first.manifest.created, second.manifest.created]


def test_labels_differ_even_where_nothing_else_does(make_rows) -> None:
    assert len(set(labels(split(make_rows() + make_rows())))) == 2
