import csv
import math

import pytest

from bench.folder import Notice
from bench.speed.rows import MODES, BreakEven, Row, to_frame
from reports import tables
from reports.series import series_of, split

#: Columns of a table whose rows were all measured in the usual mode.
USUAL = [name for name in Row.model_fields if name not in MODES]


def test_frame_has_the_fields_of_a_row_in_their_order(make_rows) -> None:
    rows = make_rows()
    frame = to_frame(rows)
    assert list(frame.columns) == USUAL
    assert len(frame) == len(rows)
    assert to_frame([]).columns.tolist() == USUAL


def test_columns_of_modes_stand_there_once_a_row_has_another_than_the_usual(make_rows) -> None:
    frame = to_frame(make_rows() + make_rows(work="normalised", cuda_graph=True))
    assert [name for name in frame.columns if name in MODES] == ["cuda_graph", "work"]
    assert list(frame["work"]) == ["logits"] * 7 + ["normalised"] * 7


def test_csv_is_exact_and_empty_where_there_is_no_number(make_rows, tmp_path) -> None:
    rows = make_rows(failed=(370_727,), single_s=0.1 + 0.2)
    tables.write_csv(tmp_path / "table3.csv", rows)
    with open(tmp_path / "table3.csv", newline="") as file:
        lines = list(csv.DictReader(file))
    assert list(lines[0]) == USUAL
    read = [
        Row.model_validate({name: text or None for name, text in line.items()} | {"reason": line["reason"]})
        for line in lines
    ]
    assert read == rows
    assert lines[-1]["median_s"] == lines[-1]["peak_memory_bytes"] == ""


def test_csv_of_several_runs_begins_with_the_run(make_rows, tmp_path) -> None:
    rows = make_rows(classes=(1, 1024))
    tables.write_csv(tmp_path / "table3.csv", rows + rows, runs=["a"] * 3 + ["b"] * 3)
    with open(tmp_path / "table3.csv", newline="") as file:
        lines = list(csv.DictReader(file))
    assert list(lines[0]) == ["run", *USUAL]
    assert [line["run"] for line in lines] == ["a"] * 3 + ["b"] * 3


def test_csv_stays_as_it_was_if_it_cannot_be_written(make_rows, tmp_path) -> None:
    with pytest.raises(OSError, match="No such file"):
        tables.write_csv(tmp_path / "missing" / "table3.csv", make_rows())
    assert list(tmp_path.iterdir()) == []


def test_markdown_holds_everything_there_is_to_know(make_rows, make_run) -> None:
    notice = Notice(kind="control", happened="the control is off", matters="so are speedups", remedy="measure again")
    text = tables.to_markdown(
        make_rows(failed=(370_727,)),
        notices=[notice],
        break_evens=[BreakEven(0, "resnet50", 1.1, 12_345.6, False)],
        manifest=make_run(status="interrupted").manifest,
    )
    for part in (
        "torch 2.15.0",
        "the run is interrupted",
        "| resnet50 | 1 (control) |",
        "out-of-memory: needs 3.04 GB, 2.10 GB are free",
        "1.1x as fast from 12,000 classes",
        "the control is off. Why it matters: so are speedups. Remedy: measure again.",
    ):
        assert part in text


def test_markdown_table_is_rectangular_whatever_a_name_holds(make_rows) -> None:
    lines = [line for line in tables.to_markdown(make_rows("pkg|mod:a_b")).splitlines() if line.startswith("|")]
    assert len(lines) == 2 + 7
    assert {line.replace(r"\|", "").count("|") for line in lines} == {12}


def test_markdown_says_each_failure_once_and_nothing_of_a_control_that_failed_with_its_point(make_rows) -> None:
    failed = make_rows(classes=(1, 1024), failed=(1, 1024))
    control = failed[0].model_copy(update={"kind": "control"})
    text = tables.to_markdown([failed[0], control, failed[1]])
    assert text.count("classes: out-of-memory: needs 3.04 GB") == 2
    assert "Controls" not in text


def test_latex_is_in_the_papers_layout(make_row) -> None:
    single = make_row(mean_s=0.0036, median_s=0.0035, speedup=1.0, speedup_of_means=1.0)
    top = make_row(
        classes=370_727,
        mean_s=0.076,
        median_s=0.0759,
        speedup=21.3,
        speedup_low=21.0,
        speedup_high=21.6,
        speedup_of_means=21.38,
    )
    lines = tables.to_latex([single, top]).splitlines()
    assert r"resnet50 & 1 (SLC) & $3.60 \times 10^{-3}$ & -- & $3.50 \times 10^{-3}$ & -- \\" in lines
    assert (
        r" & $2^{18.5}$ & $76.0 \times 10^{-3}$ & $\times 21.38$ & $75.9 \times 10^{-3}$ & "
        r"$\times 21.30$ [21.000, 21.600] \\" in lines
    )


def test_latex_escapes_names_and_reasons(make_rows) -> None:
    text = tables.to_latex(make_rows("inception_v3", failed=(370_727,), order="50%_{a}"))
    assert r"inception\_v3 & 1 (SLC)" in text
    assert "needs 3.04 GB" in text
    assert tables.escape_latex("50 %_{a}\\~^&#$") == (
        r"50 \%\_\{a\}\textbackslash{}\textasciitilde{}\textasciicircum{}\&\#\$"
    )


def test_latex_has_as_many_cells_in_every_line(make_rows) -> None:
    lines = [line for line in tables.to_latex(make_rows()).splitlines() if line.endswith(r"\\")]
    assert {line.count("&") for line in lines} == {5}


def test_beside_published_has_only_what_both_have(make_rows) -> None:
    rows = make_rows("resnet50", classes=(1, 1000, 1024)) + make_rows("timm/resnet18")
    frame = tables.beside_published(split(rows))
    assert frame["classes"].tolist() == [1, 1024]
    line = frame.iloc[1]
    assert (line["published_s"], line["published_speedup"]) == (6.4e-3, 1.04)
    assert line["ratio"] == line["measured_speedup"] / 1.04


def test_beside_published_keeps_a_failed_point(make_rows) -> None:
    series = split(make_rows("resnet50", failed=(370_727,)))
    frame = tables.beside_published(series)
    assert frame["status"].tolist()[-1] == "out-of-memory"
    assert math.isnan(frame["ratio"].iloc[-1])
    assert tables.beside_published_cells(series)[1][-1] == [
        "resnet50",
        "370,727",
        "out-of-memory",
        "78.0",
        "",
        "12.69",
        "",
    ]


def test_beside_published_tells_settings_apart_only_where_it_must(make_rows) -> None:
    one, two = make_rows("resnet50"), make_rows("resnet50", dtype="bfloat16")
    assert "setting" not in tables.beside_published_cells(split(one))[0]
    header, lines = tables.beside_published_cells(split(one + two))
    assert header[:3] == ["architecture", "setting", "classes"]
    assert [line[1] for line in lines] == ["float32"] * 6 + ["bfloat16"] * 6


def test_beside_published_tells_runs_apart_by_what_no_row_knows(make_run, make_rows) -> None:
    rows = make_rows("resnet50", device="cuda:0", classes=(1, 1024))
    runs = [make_run(device="cuda:0", **more) for more in ({}, {"tf32": True}, {"cudnn_benchmark": False})]
    text = tables.beside_published_markdown([series for run in runs for series in series_of(run, rows)])
    lines = [line.split("|")[2].strip() for line in text.splitlines() if line.startswith("| resnet50")]
    assert lines == ["", "", "TF32", "TF32", "no cuDNN benchmark", "no cuDNN benchmark"]


@pytest.mark.parametrize("mode", [{"work": "end-to-end"}, {"top_layer": "adaptive"}, {"subset": 16}])
def test_beside_published_stands_only_the_work_that_the_paper_measured(make_rows, mode) -> None:
    assert tables.beside_published_markdown(split(make_rows("resnet50", **mode))) == ""


def test_latex_names_the_reference_of_a_subset(make_rows) -> None:
    rows = [row.model_copy(update={"subset": 1024}) for row in make_rows(classes=(1024, 2**14))]
    text = tables.to_latex(rows)
    assert "1024 (SLC)" in text
    assert text.count("--") >= 2, "its speedup, 1 by definition, is not written"


def test_beside_published_is_empty_for_networks_the_paper_lacks(make_rows) -> None:
    assert tables.beside_published_markdown(split(make_rows("timm/resnet18"))) == ""
