import itertools
import sys

import matplotlib as mpl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reports import figures
from reports.series import split


def _texts(figure) -> str:
    axes_texts = [text.get_text() for axis in figure.axes for text in (*axis.texts, axis.title)]
    titles = [axis.get_title(loc="left") for axis in figure.axes]
    return "\n".join([text.get_text() for text in figure.texts] + axes_texts + titles)


def _saved(series, folder) -> tuple[bytes, bytes]:
    folder.mkdir()
    figures.save(figures.draw(series), folder / "fig1.png", folder / "fig1.svg")
    return (folder / "fig1.png").read_bytes(), (folder / "fig1.svg").read_bytes()


def test_the_same_numbers_make_the_same_bytes(make_rows, tmp_path) -> None:
    series = split(make_rows())
    assert _saved(series, tmp_path / "a") == _saved(series, tmp_path / "b")
    assert len(list((tmp_path / "a").iterdir())) == 2, "temporary files stay behind"


def test_svg_has_its_text_as_text_and_no_date(make_rows, tmp_path) -> None:
    _, svg = _saved(split(make_rows()), tmp_path / "a")
    assert b">resnet50</text>" in svg
    assert b"<dc:date>" not in svg


def test_png_is_fit_to_print(make_rows, tmp_path) -> None:
    png, _ = _saved(split(make_rows()), tmp_path / "a")
    assert png.startswith(b"\x89PNG")
    assert figures.PNG_DPI >= 150


def test_one_panel_a_network_and_the_legend_in_the_cell_left_over(make_rows) -> None:
    archs = ("alexnet", "vgg16", "inception_v3", "resnet50", "resnet101")
    figure = figures.draw(split([row for arch in archs for row in make_rows(arch)]))
    assert [axis.get_title(loc="left") for axis in figure.axes] == [*archs, ""]
    assert figure.axes[-1].get_legend() is not None


@pytest.mark.parametrize("panels", [1, 2, 3, 4, 6, 7])
def test_every_number_of_networks_has_room(make_rows, panels: int) -> None:
    figure = figures.draw(split([row for index in range(panels) for row in make_rows(f"timm/net{index}")]))
    shown = [axis for axis in figure.axes if axis.axison]
    assert len(shown) == panels
    boxes = [axis.get_position() for axis in shown]
    assert all(0 <= box.x0 < box.x1 <= 1 and 0 <= box.y0 < box.y1 <= 1 for box in boxes)
    assert not any(one.overlaps(other) for one in boxes for other in boxes if one is not other)


def test_the_papers_points_stand_where_there_are_any(make_rows) -> None:
    assert "×12.69" in _texts(figures.draw(split(make_rows("resnet50"))))
    assert "Keren" not in _texts(figures.draw(split(make_rows("timm/resnet18"))))


def test_the_papers_points_beyond_what_was_measured_are_left_out(make_rows) -> None:
    text = _texts(figures.draw(split(make_rows("resnet50", classes=(1, 1024, 65_536)))))
    assert "×1.20" in text
    assert "×12.69" not in text


def test_a_failed_point_is_a_cross_with_its_reason(make_rows) -> None:
    figure = figures.draw(split(make_rows(failed=(370_727,))))
    crosses = [line for line in figure.axes[0].lines if line.get_marker() == "x"]
    assert [list(line.get_xdata()) for line in crosses] == [[370_727]]
    assert "needs 3.04 GB" in _texts(figure).replace("\n", " ")


def test_a_network_without_one_measured_point_says_so(make_rows) -> None:
    classes = (1, 1024)
    assert "not measured" in _texts(figures.draw(split(make_rows("timm/x", classes=classes, failed=classes))))


def test_a_single_count_can_be_drawn(make_rows) -> None:
    assert "resnet50" in _texts(figures.draw(split(make_rows(classes=(1,)))))


def test_settings_of_one_network_share_its_panel_and_are_named(make_rows) -> None:
    series = split(make_rows() + make_rows(dtype="bfloat16"))
    figure = figures.draw(series)
    assert len(figure.axes) == 1
    names = [text.get_text() for legend in figure.legends for text in legend.get_texts()]
    assert {"float32", "bfloat16"} <= set(names)


def test_the_curve_goes_through_the_measured_points(make_rows) -> None:
    rows = make_rows("timm/x", noise=0.0)
    axis = figures.draw(split(rows)).axes[0]
    markers = next(line for line in axis.lines if line.get_marker() == "o")
    points = {row.classes: row.median_s for row in rows if row.kind == "point"}
    assert list(markers.get_xdata()) == list(points)
    assert list(markers.get_ydata()) == pytest.approx([1e3 * time for time in points.values()])


def test_the_prediction_starts_from_the_time_measured_at_one_class(make_rows) -> None:
    rows = [row.model_copy(update={"predicted_s": None}) if row.classes == 1 else row for row in make_rows("timm/x")]
    axis = figures.draw(split(rows)).axes[0]
    dashed = next(line for line in axis.lines if line.is_dashed())
    assert dashed.get_xdata()[0] == 1
    assert dashed.get_ydata()[0] == pytest.approx(1e3 * (rows[0].median_s or 0.0))


def test_pyplot_holds_no_figure(make_rows) -> None:
    figures.draw(split(make_rows()))
    pyplot = sys.modules.get("matplotlib.pyplot")  # another test may have imported it
    assert pyplot is None or pyplot.get_fignums() == []


def test_the_style_of_whoever_draws_is_left_as_it_was(make_rows) -> None:
    before = dict(mpl.rcParams)
    figures.draw(split(make_rows()))
    assert dict(mpl.rcParams) == before


def test_no_series_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one series"):
        figures.draw([])


TIMES = st.floats(min_value=1e-6, max_value=1e6)


@given(TIMES, TIMES)
def test_time_limits_hold_the_times_and_are_never_too_close(one: float, other: float) -> None:
    low, high = figures.time_limits(min(one, other), max(one, other))
    assert 0 < low < min(one, other)
    assert max(one, other) < high
    assert high / low >= figures.MIN_TIME_RATIO


@given(TIMES, st.floats(min_value=figures.MIN_TIME_RATIO, max_value=1e5))
def test_time_ticks_are_enough_and_not_too_many(low: float, ratio: float) -> None:
    ticks = figures.time_ticks(low, low * ratio)
    assert 3 <= len(ticks) <= 9
    assert all(low <= tick <= low * ratio for tick in ticks)


@given(st.lists(st.floats(min_value=0, max_value=1), max_size=6))
def test_spread_out_keeps_the_order_and_the_gap(heights: list[float]) -> None:
    moved = figures.spread_out(heights, 0.075)
    in_order = [moved[index] for index in sorted(range(len(heights)), key=heights.__getitem__)]
    assert all(above - below >= 0.075 - 1e-9 for below, above in itertools.pairwise(in_order))
    assert max(in_order, default=0.0) <= 1


def test_spread_out_leaves_alone_what_stands_apart() -> None:
    assert figures.spread_out([0.9, 0.1, 0.5], 0.1) == [0.9, 0.1, 0.5]


def test_tick_labels_move_down_a_line_and_then_give_up() -> None:
    labels = figures.tick_labels([1024, 2048, 4096], [0.5, 0.51, 0.52])
    assert labels == ["$2^{10}$", "\n$2^{11}$", ""]
