import sys
from dataclasses import replace
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.collections import LineCollection, PolyCollection
from matplotlib.colors import to_rgba

from bench.scaling.run import optimum_name
from reports.figures import MARKERS
from reports.scaling import figures
from reports.scaling.results import Result


def drawn(run):
    return figures.draw(Result.of(run))


def texts(figure) -> str:
    found = [text.get_text() for axis in figure.axes for text in axis.texts] + [t.get_text() for t in figure.texts]
    return "\n".join(found)


def titles(figure) -> list[str]:
    return [axis.get_title(loc="left") for axis in figure.axes]


def markers(axis, marker: str) -> list:
    """The markers of a loss, one a class count, ascending; those of CE's all logits are smaller."""
    found = [line for line in axis.lines if line.get_marker() == marker and len(line.get_xdata()) == 1]
    full = [line for line in found if line.get_markersize() == figures.MARKER_SIZE]
    return sorted(full, key=lambda line: line.get_xdata()[0])


def is_hollow(line) -> bool:
    return to_rgba(line.get_markerfacecolor()) == to_rgba("white")


def test_accuracy_stands_left_of_speed_and_costs_below(make_study, make_speed) -> None:
    figure = drawn(make_study(speed=make_speed()))
    assert titles(figure) == [
        "1-AUPRC",
        "one logit / all logits of CE",
        "speedup of one logit over all",
        "time of a training step (ms)",
        "memory of training steps (MB)",
    ]


def test_markers_are_hollow_where_the_model_has_not_converged(make_study) -> None:
    run = make_study(("ce", "self-norm"), (100, 1000), slow={("self-norm", 1000): 1.5})
    accuracy, ratio, *_ = drawn(run).axes
    assert [is_hollow(line) for line in markers(accuracy, "s")] == [False, True]
    assert [is_hollow(line) for line in markers(ratio, "s")] == [False, True]
    assert [is_hollow(line) for line in markers(accuracy, "o")] == [False, False]


def test_a_ratio_is_hollow_where_its_reference_has_not_converged(make_study) -> None:
    accuracy, ratio, *_ = drawn(make_study(("ce", "self-norm"), (100, 1000), slow={("ce", 1000): 1.5})).axes
    assert [is_hollow(line) for line in markers(accuracy, "s")] == [False, False]
    assert [is_hollow(line) for line in markers(ratio, "s")] == [False, True]


def test_a_marker_is_half_filled_where_convergence_is_unknown(make_study) -> None:
    run = make_study(("ce",), (1000,))
    figure = drawn(replace(run, points=tuple(each for each in run.points if each.stage == "full")))
    (line,) = markers(figure.axes[0], "o")
    assert line.get_fillstyle() == "left"
    assert "convergence unknown" in legend(figure)


def legend(figure) -> list[str]:
    return [text.get_text() for text in figure.legends[0].get_texts()]


def test_the_legend_names_what_is_drawn(make_study) -> None:
    assert legend(drawn(make_study(("self-norm", "ce"), (100, 1000)))) == [
        "CE",
        "self-norm (aligned)",
        "all logits of CE",
        "optimum",
    ]
    assert "not converged" in legend(drawn(make_study(("ce",), (100, 1000), slow=1.5)))


def test_losses_differ_in_colour_and_in_marker(make_study) -> None:
    looks = figures.looks_of(Result.of(make_study()).rows)
    assert len({look.colour for look in looks.values()}) == len({look.marker for look in looks.values()}) == len(looks)
    assert "#000000" not in {look.colour for look in looks.values()}, "the optimum's"


def test_points_stand_at_their_errors_with_their_intervals(make_study) -> None:
    run = make_study(("ce", "self-norm"), (100, 1000))
    rows = [row for row in Result.of(run).rows if row.loss == "self-norm" and row.single is not None]
    axis = drawn(run).axes[0]
    assert [line.get_ydata()[0] for line in markers(axis, "s")] == [row.single.error for row in rows]
    bars = [each for each in axis.collections if isinstance(each, LineCollection)]
    ends = {tuple(np.round(part[:, 1], 12)) for each in bars for part in each.get_segments()}
    assert {(round(row.single.low, 12), round(row.single.high, 12)) for row in rows} <= ends


def test_the_optimum_and_all_logits_of_ce_stand_where_their_class_count_is(make_study) -> None:
    """So that of two steep lines the lower one is the one that looks lower."""
    run = make_study(("ce", "self-norm"), (100, 1000))
    axis = drawn(run).axes[0]
    dashed = [line for line in axis.lines if line.get_linestyle() == "--"]
    assert [list(line.get_xdata()) for line in dashed] == [[100, 1000, 100_000]] * 2
    (band,) = (each for each in axis.collections if isinstance(each, PolyCollection))
    optima = [each for _, each in Result.of(run).optima]
    ends = {each.low for each in optima} | {each.high for each in optima}
    assert set(band.get_paths()[0].vertices[:, 1]) == ends


def test_a_line_is_broken_where_a_class_count_is_missing(make_study) -> None:
    axis = drawn(make_study(("ce", "self-norm"), (10, 100, 1000), without=[("self-norm", 100)], left_out=())).axes[0]
    colour = figures.looks_of(Result.of(make_study(("ce", "self-norm"))).rows)["self-norm"].colour
    (line,) = (each for each in axis.lines if each.get_color() == colour and each.get_linestyle() == "-")
    assert list(np.isnan(line.get_ydata())) == [False, True, False]


@pytest.mark.parametrize("losses", [("ce",), ("ce", "self-norm", "nce", "binary-ce", "batch-ce")])
def test_markers_belong_to_the_tick_between_them(make_study, losses) -> None:
    """No marker is nearer to another class count than to its own, and none is outside of the panel."""
    counts = (10_000, 100_000, 370_727)
    axis = drawn(make_study(losses, counts, left_out=())).axes[0]
    drawn_markers = [line for line in axis.lines if line.get_marker() in MARKERS and len(line.get_xdata()) == 1]
    places = sorted(line.get_xdata()[0] for line in drawn_markers)
    assert len(places) == len(counts) * (len(losses) + 1)
    low, high = axis.get_xlim()
    assert low < places[0] < places[-1] < high
    nearest = [min(counts, key=lambda each: abs(np.log(each / place))) for place in places]
    assert nearest == sorted(counts * (len(losses) + 1))


def test_no_error_stands_at_the_floor_as_a_nought(make_study) -> None:
    run = make_study(("ce", "self-norm"), (10, 100))
    perfect = run.queries[optimum_name(10)]
    none = perfect._replace(single=0 * perfect.single, all=0 * perfect.all)
    axis = drawn(replace(run, queries={**run.queries, optimum_name(10): none})).axes[0]
    (nought,) = axis.texts
    assert nought.get_text() == "0"
    assert (
        axis.get_ylim()[0]
        < nought.xy[1]
        < min(point.value for point in figures.single_errors(Result.of(run).rows, "ce"))
    )


def test_without_speed_the_panel_says_so(make_study) -> None:
    assert "no speedup was measured" in texts(drawn(make_study(("ce",), (100,))))


def test_without_models_the_panels_say_so(make_study, make_speed) -> None:
    figure = drawn(replace(make_study(("ce",), (100,), speed=make_speed((100,)), optima=False, costs=False), points=()))
    assert "no model has met the queries yet" in texts(figure)
    assert "not compared" in texts(figure)
    assert legend(figure) == ["speedup"]


def test_the_optimum_alone_is_drawn(make_study) -> None:
    figure = drawn(replace(make_study(("ce",), (100, 1000), costs=False), points=()))
    assert legend(figure) == ["optimum"]


def test_the_caption_says_what_is_missing_and_what_it_was_measured_on(make_study, make_speed) -> None:
    text = texts(drawn(make_study(speed=make_speed(failed=(100_000,)), status="interrupted")))
    assert "100,000 classes: nothing was trained: needs a GPU." in text
    assert "No speedup at 100,000 classes: out-of-memory: needs 3.04 GB, 2.10 GB are free." in text
    assert "the run is interrupted: 60 of 60 models have met the queries" in text
    assert "Speedup: mlp, batch 32, float32, 2 threads, cpu (Imaginary CPU @ 2.0GHz" in text
    assert "Steps: batch 256, 1 thread, top layer dense." in text


def test_steps_that_were_not_timed_and_memory_that_has_no_place_are_said(make_study) -> None:
    run = make_study(("ce", "self-norm"), (100, 1000))
    refused, flat, *others = run.costs
    costs = (
        refused.model_copy(update={"seconds": (), "peak_bytes": None, "reason": "needs 3 GB,\n2 are free"}),
        flat.model_copy(update={"peak_bytes": 0}),
        *others,
    )
    figure = drawn(replace(run, costs=costs))
    assert "No step timed at 100 classes by CE: needs 3 GB, 2 are free." in texts(figure)
    assert "Memory of 1 of 4 steps is not drawn" in texts(figure)
    assert len(markers(figure.axes[3], "o")) == len(markers(figure.axes[4], "s")) == 1


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"losses": ("ce",), "counts": (1000,), "left_out": ()},
        {"slow": 1.5},
        {"seeds": (0,)},
        {"seeds": (0, 1), "counts": (10, 100, 1000, 10_000, 100_000, 370_727), "left_out": ()},
        {"losses": ("self-norm",)},
    ],
)
def test_no_text_covers_another_or_leaves_the_figure(make_study, make_speed, options) -> None:
    figure = drawn(make_study(speed=make_speed(options.get("counts", (10, 100_000))), **options))
    shown = figure.texts + list(figure.legends[0].get_texts())
    for axis in figure.axes:
        labels = [label for label in (*axis.get_xticklabels(), *axis.get_yticklabels()) if label.get_text()]
        low, high = axis.get_ylim()
        labels = [label for label in labels if label.get_position()[1] == 0 or low <= label.get_position()[1] <= high]
        shown += [text for text in [*labels, axis.xaxis.label, axis._left_title] if text.get_text()]
    # The box of a label a line lower has the empty line above it, half a pixel from its neighbour.
    boxes = [text.get_window_extent().padded(-0.5) for text in shown]
    assert not [(one, other) for index, one in enumerate(boxes) for other in boxes[index + 1 :] if one.overlaps(other)]
    width = figure.bbox.width
    assert all(box.x0 >= 0 and box.x1 <= width * 1.001 for box in boxes)


@pytest.mark.parametrize(
    ("classes", "label"),
    [(10, "10"), (1000, "1,000"), (10_000, "$10^{4}$"), (370_727, "$2^{18.5}$"), (50_000, "50,000")],
)
def test_class_counts_as_labels(classes, label) -> None:
    assert figures.tick_label(classes) == label


def test_labels_that_would_touch_stand_a_line_lower() -> None:
    assert figures.staggered(["10", "$10^{5}$", "$2^{18.5}$"], [0.1, 0.8, 0.86]) == ["10", "$10^{5}$", "\n$2^{18.5}$"]


def test_the_same_numbers_make_the_same_bytes(make_study, make_speed, tmp_path: Path) -> None:
    names = ("a.png", "a.svg", "a.pdf")
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        figures.save(drawn(make_study(speed=make_speed())), *(tmp_path / name / each for each in names))
    for name in names:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "other" / name).read_bytes()
    assert b">CE" in (tmp_path / "one" / "a.svg").read_bytes(), "text stays text"


def test_drawing_leaves_no_trace(make_study) -> None:
    before = dict(mpl.rcParams)
    drawn(make_study(("ce",), (100,)))
    assert dict(mpl.rcParams) == before
    pyplot = sys.modules.get("matplotlib.pyplot")  # another test may have imported it
    assert pyplot is None or pyplot.get_fignums() == []
