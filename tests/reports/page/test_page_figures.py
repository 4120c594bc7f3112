import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.run import Sample
from reports.page import figures, tables
from reports.series import split


def _measured(figure: figures.Figure) -> list[figures.Trace]:
    traces = figure.views[0].traces
    return [trace for trace in traces if trace["meta"]["kind"] == "measured" and trace["mode"] != "text"]


def test_a_point_says_what_stands_in_the_table(make_rows) -> None:
    series = split(make_rows("resnet50"))
    figure, table = figures.fig1(series), tables.table3(series)
    assert figure is not None
    (measured,) = _measured(figure)
    lines = [line for line in table.lines if line.kind != "control"]
    for said, line in zip(measured["hovertext"], lines, strict=True):
        _, classes, speedup, interval, median, *_ = [cell.text for cell in line.cells]
        assert f"{median} ms" in said
        assert classes in said
        assert interval in said
        assert classes == "1" or f"speedup {speedup}" in said


def test_heights_are_medians_and_speedups(make_rows) -> None:
    series = split(make_rows("alexnet"))
    figure = figures.fig1(series)
    assert figure is not None
    times, speedups = [view.traces[0] for view in figure.views]
    assert times["y"] == pytest.approx([1e3 * row.median_s for row in series[0].points], rel=1e-4)
    assert speedups["y"] == pytest.approx([row.speedup for row in series[0].points], rel=1e-4)
    last = series[0].points[-1]
    assert speedups["y"][-1] + speedups["error_y"]["array"][-1] == pytest.approx(last.speedup_high, rel=1e-4)
    assert speedups["y"][-1] - speedups["error_y"]["arrayminus"][-1] == pytest.approx(last.speedup_low, rel=1e-4)


def test_what_failed_is_a_cross_that_says_why(make_rows) -> None:
    figure = figures.fig1(split([*make_rows("resnet50", failed=(370_727,)), *make_rows("alexnet", single_s=0.01)]))
    assert figure is not None
    assert "failed" in [choice["value"] for choice in figure.filters["kind"]]
    for view in figure.views:
        (cross,) = [trace for trace in view.traces if trace["meta"]["kind"] == "failed"]
        others = [trace for trace in view.traces if trace["meta"]["kind"] != "failed"]
        assert cross["y"] == [min(height for trace in others for height in trace["y"])]
        assert cross["x"] == [max(place for trace in others for place in trace["x"])]
        assert "370,727 classes: out-of-memory" in cross["hovertext"][0]
        assert "2.10 GB are free" in cross["hovertext"][0]


def test_settings_of_one_network_share_its_colour_and_differ_by_their_line(make_rows) -> None:
    rows = [*make_rows("resnet50"), *make_rows("resnet50", dtype="bfloat16"), *make_rows("alexnet")]
    figure = figures.fig1(split(rows))
    assert figure is not None
    measured = _measured(figure)
    assert [trace["uid"][:2] for trace in measured] == ["c0", "c0", "c1"]
    assert measured[0]["line"]["dash"] != measured[1]["line"]["dash"]
    uids = [trace["uid"] for trace in figure.views[0].traces]
    assert len(set(uids)) == len(uids)
    published = [trace for trace in figure.views[0].traces if trace["meta"]["kind"] == "published"]
    assert [trace["meta"]["network"] for trace in published] == ["resnet50", "alexnet"], "once a network"


def test_filters_offer_what_the_figure_holds(make_rows) -> None:
    figure = figures.fig1(split([*make_rows("resnet50"), *make_rows("own", device="cuda:0")]))
    assert figure is not None
    assert [choice["value"] for choice in figure.filters["network"]] == ["resnet50", "own"]
    assert [choice["value"] for choice in figure.filters["device"]] == ["cpu", "cuda:0"]
    assert {trace["meta"]["kind"] for trace in figure.views[0].traces} == {
        choice["value"] for choice in figure.filters["kind"]
    }


def test_nothing_measured_is_no_figure(make_row) -> None:
    assert figures.fig1(split([make_row(status="failed", reason="x")])) is None
    assert figures.samples([]) is None


@given(st.text())
def test_plain_text_has_no_tags_left(text) -> None:
    assert not set("<>") & set(figures.plain(text))


def test_class_counts_on_the_axis() -> None:
    place = figures.ClassAxis((1, 1024, 262_144, 370_727))
    assert place(1) == 0
    assert place(1024) == 2, "the first gap is two octaves wide"
    assert figures.tick_texts(place) == ["1", "2¹⁰", "2¹⁸", "<br>2¹⁸·⁵"]


def test_speedups_at_one_height_are_written_apart_and_go_with_their_line(make_rows) -> None:
    figure = figures.fig1(split([row for arch in ("one", "two", "three") for row in make_rows(arch, noise=1e-6)]))
    assert figure is not None
    labels = [trace for trace in figure.views[0].traces if trace["mode"] == "text"]
    assert [trace["text"] for trace in labels] == [["  ×1.62"]] * 3
    assert [trace["meta"] for trace in labels] == [trace["meta"] for trace in _measured(figure)]
    heights = sorted(trace["y"][0] for trace in labels)
    assert heights[0] < 0.98 * heights[1] < 0.98**2 * heights[2]


def test_many_lines_have_no_labels(make_rows) -> None:
    rows = [row for number in range(9) for row in make_rows(f"network{number}")]
    figure = figures.fig1(split(rows))
    assert figure is not None
    assert all(trace["mode"] != "text" for view in figure.views for trace in view.traces)


def _samples(rounds: int, marked: int) -> figures.Slots:
    draws = random.Random(0)
    found: figures.Slots = {(1, False): [], (1024, False): [], (1, True): []}
    for turn in range(rounds):
        for position, (classes, control) in enumerate(found):
            found[classes, control].append(
                Sample(
                    setting=0,
                    process=0,
                    phase="timed",
                    round=turn,
                    round_size=3,
                    position=position,
                    classes=classes,
                    control=control,
                    wall_s=draws.uniform(0.3, 0.4),
                    marks=("contention",) if turn < marked else (),
                )
            )
    return found


def _drawn(view: figures.View) -> int:
    return sum(len(trace["x"]) for trace in view.traces if trace["uid"] != "w-marked")


def test_few_samples_are_all_drawn() -> None:
    view = figures._samples_view("a", _samples(100, 2), 32, limit=2000)
    assert _drawn(view) == 300
    assert len(view.traces[-1]["x"]) == 6, "three passes in each of two rounds"
    assert view.note == "300 passes, 6 of them marked. Warm-up rounds are not drawn."


def test_many_samples_are_thinned_and_the_page_says_so() -> None:
    view = figures._samples_view("a", _samples(1000, 4), 32, limit=300)
    assert _drawn(view) == 300
    assert len(view.traces[-1]["x"]) == 12, "marked ones stay"
    assert "drawn are those of every 10th round and every marked one (the estimates use all)" in view.note


def test_marked_ones_are_thinned_too_where_all_are() -> None:
    view = figures._samples_view("a", _samples(1000, 1000), 32, limit=300)
    assert len(view.traces[-1]["x"]) == 300
    assert "every 10th marked one" in view.note
