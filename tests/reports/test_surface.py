import dataclasses
import itertools
from collections.abc import Callable, Sequence
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench.run import Run
from bench.speed.rows import Row
from reports import surface
from reports.surface import Cell, Surface

MakeRun = Callable[..., Run]
MakeRows = Callable[..., list[Row]]

Swept = Callable[..., tuple[Run, list[Row]]]

#: 1.05 at 100 classes, 1.15 at 300: 1.1 at 200, on the line between.
BY_HAND = Surface("net", (Cell(8, 100, 1.05, 1.1), Cell(8, 300, 1.15, 1.3), Cell(32, 100, 1.01, None)))


@pytest.fixture
def swept(make_run: MakeRun, make_rows: MakeRows) -> Swept:
    """A run over batch sizes and dtypes with its rows; the largest batch has no memory for the largest count."""

    def make(batches: Sequence[int] = (1, 32), dtypes: Sequence[str] = ("float32",)) -> tuple[Run, list[Row]]:
        run = make_run("resnet50")
        first = run.manifest.settings[0]
        modes = [(dtype, batch) for dtype in dtypes for batch in batches]
        settings = tuple(first.model_copy(update={"dtype": dtype, "batch_size": batch}) for dtype, batch in modes)
        rows = [
            row
            for dtype, batch in modes
            for row in make_rows(
                dtype=dtype, batch_size=batch, slope_s=3e-7 / batch, failed=(370_727,) if batch == max(batches) else ()
            )
        ]
        return dataclasses.replace(run, manifest=run.manifest.model_copy(update={"settings": settings})), rows

    return make


def test_break_even_by_hand_and_none_where_it_is_not_reached() -> None:
    assert BY_HAND.pays_from() == {8: pytest.approx(200.0), 32: None}
    assert BY_HAND.pays_from(predicted=True) == {8: pytest.approx(100.0), 32: None}


def test_a_map_has_the_cells_of_all_batch_sizes_but_not_the_single_logit(
    swept: Swept,
) -> None:
    (one,) = surface.surfaces(*swept((1, 8, 32)))
    assert (one.name, one.batch_sizes) == ("resnet50", [1, 8, 32])
    assert one.classes == [2**10, 2**14, 2**16, 2**18, 370_727]
    assert len(one.cells) == 15


def test_there_is_a_map_for_each_dtype_named_by_it(swept: Swept) -> None:
    found = surface.surfaces(*swept(dtypes=("float32", "bfloat16")))
    assert [one.name for one in found] == ["resnet50 (float32)", "resnet50 (bfloat16)"]


def test_one_batch_size_is_no_map(swept: Swept, tmp_path: Path) -> None:
    run, rows = swept((32,))
    assert surface.surfaces(run, rows) == []
    assert surface.draw_surface(run, tmp_path, rows) == []
    assert list(tmp_path.iterdir()) == []


def test_a_failed_point_is_a_cell_with_its_reason_hatched_and_in_the_legend(
    swept: Swept,
) -> None:
    (one,) = surface.surfaces(*swept())
    (failed,) = [cell for cell in one.cells if cell.failed]
    assert (failed.batch_size, failed.classes, failed.speedup) == (32, 370_727, None)
    figure = surface.draw([one])
    hatched = [patch for patch in figure.axes[0].patches if patch.get_hatch()]
    assert len(hatched) == 1
    assert "failed" in [text.get_text() for text in figure.legends[0].get_texts()]
    assert any("needs 3.04 GB" in text.get_text() for text in figure.texts)


def test_without_failures_the_legend_does_not_speak_of_them() -> None:
    figure = surface.draw([BY_HAND])
    texts = [text.get_text() for text in figure.legends[0].get_texts()]
    assert texts == ["speedup, measured", "break-even, measured", "break-even, predicted"]


def test_every_measured_cell_shows_its_number_and_both_lines_are_drawn() -> None:
    axis = surface.draw([BY_HAND]).axes[0]
    assert sorted(text.get_text() for text in axis.texts if text.get_text()) == ["1.01", "1.05", "1.15"]
    measured, predicted = axis.lines[1], axis.lines[3]
    # 200 classes are between the middles of the first cell, 0.5, and the second, 1.5: log2(2) / log2(3) of the way
    assert measured.get_xdata()[0] == pytest.approx(0.5 + 0.6309, abs=1e-3)
    assert predicted.get_xdata()[0] == pytest.approx(0.5)
    assert measured.get_linestyle() != predicted.get_linestyle()
    assert measured.get_color() != predicted.get_color()


@given(st.lists(st.integers(2, 2**40), min_size=1, max_size=9, unique=True).map(sorted))
def test_a_measured_count_lies_in_the_middle_of_its_cell(classes: list[int]) -> None:
    places = [surface.place_of(count, classes) for count in classes]
    assert places == pytest.approx([column + 0.5 for column in range(len(classes))])
    assert surface.place_of(1, classes) == 0.0


def test_the_number_stands_out_from_its_cell() -> None:
    assert surface._ink((1.0, 1.0, 0.9)) == "#000000"
    assert surface._ink((0.0, 0.1, 0.3)) == "#FFFFFF"


def test_files_hold_the_same_bytes_for_the_same_numbers(swept: Swept, tmp_path: Path) -> None:
    run, rows = swept()
    written = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        written.append([path.read_bytes() for path in surface.draw_surface(run, tmp_path / name, rows)])
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == sorted(surface.FILES)
    assert written[0] == written[1]
    assert written[0][2].startswith(b"%PDF")


def test_the_table_has_a_line_a_cell(swept: Swept, tmp_path: Path) -> None:
    run, rows = swept()
    surface.draw_surface(run, tmp_path, rows)
    frame = pd.read_csv(tmp_path / "surface.csv")
    assert list(frame["batch_size"]) == [1] * 5 + [32] * 5
    assert list(frame["failed"].notna()) == [False] * 9 + [True]
    assert frame["speedup"][4] == pytest.approx(next(row.speedup for row in rows if row.classes == 370_727))
    assert frame["pays_from"][0] == pytest.approx(surface.surfaces(run, rows)[0].pays_from()[1])


def test_no_map_cannot_be_drawn() -> None:
    with pytest.raises(ValueError, match="at least one map"):
        surface.draw([])


def test_several_logits_are_called_that() -> None:
    three = dataclasses.replace(BY_HAND, reference=3)
    assert surface.title_of([BY_HAND]).startswith("Speedup of one logit over all logits")
    assert surface.title_of([three]).startswith("Speedup of 3 logits over all logits")
    assert surface.title_of([BY_HAND, three]).startswith("Speedup of the logits asked for over all logits")
    caption = surface._caption([three], "")
    assert "Break-even: from that class count on 3 logits are 1.1 times as fast or more" in caption
    assert "one logit" not in caption


def maps_of(
    number: int, name: str = "net (bfloat16, compile default, CUDA graph, channels last, end-to-end)"
) -> list[Surface]:
    counts, batches = (2**10, 2**14, 2**16, 2**18, 370_727), (1, 8, 32, 128)
    cells = tuple(Cell(batch, count, 1 + count / 1e5 / batch, None) for batch in batches for count in counts)
    return [Surface(f"{index} {name}", cells) for index in range(number)]


def panels_of(figure: Figure) -> list[Axes]:
    return [axis for axis in figure.axes if axis.get_title(loc="left")]


@pytest.mark.parametrize(("number", "columns"), [(1, 1), (2, 1), (4, 1), (9, 2), (20, 3), (40, 4)])
def test_maps_fill_a_page(number: int, columns: int) -> None:
    arrangement = surface.arrange(maps_of(number))
    assert arrangement.columns == columns
    others = [dataclasses.replace(arrangement, columns=each) for each in range(1, number + 1)]
    assert arrangement.on_a_page >= max(each.on_a_page for each in others) - 1e-3


@pytest.mark.parametrize("number", [1, 2, 7, 20])
def test_maps_and_their_titles_lie_beside_one_another_within_the_figure(number: int) -> None:
    figure = surface.draw(maps_of(number))
    panels = panels_of(figure)
    assert len(panels) == number
    width, height = figure.get_size_inches()
    assert number < 7 or 1.0 < height / width < 1.7  # a page's is 1.4
    boxes = [axis.get_tightbbox() for axis in panels]
    assert not [(one, other) for one, other in itertools.combinations(boxes, 2) if one.overlaps(other)]
    (legend,) = figure.legends
    caption = min((text for text in figure.texts), key=lambda text: text.get_position()[1])
    for box in [*boxes, figure.axes[-1].get_tightbbox()]:
        assert box.x0 >= 0
        assert box.x1 <= figure.bbox.x1
        assert box.y1 <= legend.get_window_extent().y0
        assert box.y0 >= caption.get_window_extent().y1


def test_axes_and_their_labels_are_shared() -> None:
    figure = surface.draw(maps_of(7))
    panels = panels_of(figure)
    assert surface.arrange(maps_of(7)).columns == 2
    assert len({(axis.get_xlim(), axis.get_ylim()) for axis in panels}) == 1
    assert [bool(axis.get_ylabel()) for axis in panels] == [True, False, True, False, True, False, True]
    assert [bool(axis.get_xlabel()) for axis in panels] == [False] * 5 + [True] * 2  # the sixth has none below it
    assert len([axis for axis in figure.axes if axis not in panels]) == 1  # one scale of colours


def test_maps_of_other_counts_stand_on_the_axes_of_all() -> None:
    other = Surface("other", (Cell(16, 200, 1.3, None), Cell(16, 300, 1.4, None)))
    axis = panels_of(surface.draw([BY_HAND, other]))[1]
    assert [round(end) for end in (*axis.get_xlim(), *axis.get_ylim())] == [0, 3, 0, 3]  # 100 to 300; 8, 16 and 32
    assert sorted(text.get_position() for text in axis.texts) == [
        (1.5, 1 + surface.NUMBER_AT),
        (2.5, 1 + surface.NUMBER_AT),
    ]


def test_the_figure_says_what_break_even_is() -> None:
    caption = surface._caption([BY_HAND], "")
    assert "Break-even: from that class count on one logit is 1.1 times as fast or more." in caption


def test_points_that_failed_alike_share_their_reason() -> None:
    lost = Surface("net", (Cell(8, 100, None, None, "failed: x"), Cell(8, 300, None, None, "failed: x")))
    hatched = "Hatched: net, batch 8, 100 classes; net, batch 8, 300 classes: failed: x."
    assert hatched in surface._caption([lost], "")


def test_numbers_stand_above_the_lines() -> None:
    (axis, *_) = surface.draw([BY_HAND]).axes
    assert min(text.get_zorder() for text in axis.texts) > max(line.get_zorder() for line in axis.lines)
