import itertools
import math
import sys

import matplotlib as mpl
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.accuracy.losses import registry
from bench.accuracy.records import Histogram
from reports.accuracy import figures
from reports.figures import save


def _texts(figure) -> str:
    axes = [text.get_text() for axis in figure.axes for text in axis.texts]
    titles = [axis.get_title(loc=side) for axis in figure.axes for side in ("left", "right")]
    return "\n".join([text.get_text() for text in figure.texts] + axes + titles)


def _saved(figure, folder) -> tuple[bytes, bytes]:
    folder.mkdir()
    save(figure, folder / "a.png", folder / "a.svg")
    return (folder / "a.png").read_bytes(), (folder / "a.svg").read_bytes()


def _lines(axis, marker: str) -> list:
    return [line for line in axis.lines if line.get_marker() == marker]


@pytest.mark.parametrize("draw", [figures.draw_fig2, figures.draw_curves])
def test_the_same_numbers_make_the_same_bytes(make_accuracy_run, tmp_path, draw) -> None:
    run = make_accuracy_run(("ce", "batch-ce"))
    one, other = (_saved(draw([("MNIST", run)]), tmp_path / name) for name in ("a", "b"))
    assert one == other
    assert one[0].startswith(b"\x89PNG")
    assert b">CE" in one[1], "text stays text"
    assert b"<dc:date>" not in one[1]


@pytest.mark.parametrize("draw", [figures.draw_fig2, figures.draw_curves])
def test_drawing_leaves_no_trace(make_accuracy_run, draw) -> None:
    before = dict(mpl.rcParams)
    draw([("MNIST", make_accuracy_run(("ce", "batch-ce")))])
    assert dict(mpl.rcParams) == before
    pyplot = sys.modules.get("matplotlib.pyplot")  # another test may have imported it
    assert pyplot is None or pyplot.get_fignums() == []


@pytest.mark.parametrize("draw", [figures.draw_fig2, figures.draw_curves])
def test_no_run_is_refused(draw) -> None:
    with pytest.raises(ValueError, match="at least one run"):
        draw([])


def test_fig2_has_ce_left_batch_ce_right_one_class_above_all(make_accuracy_run) -> None:
    figure = figures.draw_fig2([("MNIST", make_accuracy_run())])
    titles = [axis.get_title(loc="left") for axis in figure.axes]
    assert titles == ["CE: class 1", "batch CE: class 1", "CE: all classes", "batch CE: all classes"]
    assert "best loss of its kind" not in _texts(figure)


@pytest.mark.parametrize("name", ["sneaker", "$x^{$", "a_b\\frac", "x" * 200])
def test_fig2_names_the_class_it_shows_whatever_the_name(make_accuracy_run, tmp_path, name) -> None:
    run = make_accuracy_run(class_names=("zero", name), dataset="folder:/data/$a^{$")
    figure = figures.draw_fig2([(run.manifest.dataset.name, run), ("other", run)])
    assert figure.axes[0].get_title(loc="left") == f"CE: class {name if len(name) <= 32 else 'x' * 29 + '...'}"
    _saved(figure, tmp_path / "fig2")
    right = figure.axes[1].get_window_extent().x0
    titles = [text for text in figure.axes[0].get_children() if getattr(text, "get_text", str)().startswith("CE: ")]
    assert [title.get_window_extent().x1 < right for title in titles] == [True]


def test_fig2_says_how_much_is_shared_and_in_order(make_accuracy_run) -> None:
    run = make_accuracy_run()
    text = _texts(figures.draw_fig2([("MNIST", run)]))
    left, _ = figures.shown_models(run)
    assert f"overlap {100 * figures.overlap(figures.merged(left.histogram_of_class)):.1f} %" in text
    assert "1-AUPRC 0.0107" in text
    assert "in order 98.10 %" in text


def test_the_best_loss_of_its_kind_takes_the_place_of_a_missing_one(make_accuracy_run) -> None:
    run = make_accuracy_run(missing=["ce", "batch-ce"])
    left, right = figures.shown_models(run)
    assert (left.member.loss, right.member.loss) == ("max-margin", "binary-ce")
    text = _texts(figures.draw_fig2([("MNIST", run)])).replace("\n", " ")
    assert "binary CE is the best loss of its kind, as batch CE has no tested model" in text


def test_both_models_are_of_the_first_seed_that_has_both(make_accuracy_run) -> None:
    run = make_accuracy_run(seeds=(0, 1))
    kept = tuple(each for each in run.evaluations if (each.member.loss, each.member.seed) != ("ce", 0))
    left, right = figures.shown_models(type(run)(**{**vars(run), "evaluations": kept}))
    assert (left.member.seed, right.member.seed) == (1, 1)


def test_a_kind_without_any_model_leaves_its_panels_empty(make_accuracy_run) -> None:
    figure = figures.draw_fig2([("MNIST", make_accuracy_run(("self-norm", "batch-ce")))])
    assert [axis.axison for axis in figure.axes] == [False, True, False, True]
    assert "no tested model of a loss" in _texts(figure)


def test_each_distribution_has_area_1(make_accuracy_run) -> None:
    run = make_accuracy_run()
    for histogram in (run.evaluations[0].histogram_of_class, run.evaluations[0].histogram_pooled):
        bins = figures.merged(histogram)
        assert bins.true.sum() == pytest.approx(1)
        assert bins.false.sum() == pytest.approx(1)
        assert (bins.edges[0], bins.edges[-1]) == (histogram.edges[0], histogram.edges[-1])


def test_several_runs_have_a_heading_and_room(make_accuracy_run) -> None:
    runs = [("MNIST", make_accuracy_run()), ("digits", make_accuracy_run(dataset="digits"))]
    for draw, panels in ((figures.draw_fig2, 8), (figures.draw_curves, 14)):
        figure = draw(runs)
        assert len(figure.axes) == panels
        assert {"MNIST", "digits"} <= {text.get_text() for text in figure.texts}
        boxes = [axis.get_position() for axis in figure.axes]
        assert all(0 <= box.x0 < box.x1 <= 1 and 0 <= box.y0 < box.y1 <= 1 for box in boxes)
        assert not any(one.overlaps(other) for one, other in itertools.combinations(boxes, 2))


def test_overlap_worked_by_hand() -> None:
    same = Histogram(edges=(0, 1, 2), true=(1, 1), false=(9, 9))
    apart = Histogram(edges=(0, 1, 2), true=(0, 2), false=(18, 0))
    half = Histogram(edges=(0, 1, 2, 3), true=(0, 500, 500), false=(4500, 4500, 0))
    assert [figures.overlap(figures.merged(each)) for each in (same, apart, half)] == [1.0, 0.0, 0.5]


COUNTS = st.lists(st.integers(0, 1000), min_size=80, max_size=80).map(tuple)


@given(COUNTS, COUNTS)
def test_merging_keeps_every_logit_and_overlap_is_a_share(true: tuple[int, ...], false: tuple[int, ...]) -> None:
    histogram = Histogram(edges=tuple(map(float, range(81))), true=true, false=false)
    bins = figures.merged(histogram)
    assert bins.true.sum() == pytest.approx(1.0 if any(true) else 0.0)
    assert len(bins.edges) == len(bins.true) + 1
    assert -1e-9 <= figures.overlap(bins) <= 1 + 1e-9
    low, high = figures.logit_limits(bins)
    assert low < high


def test_few_examples_are_not_drawn_as_noise() -> None:
    true = [0] * 80
    true[30:70:4] = [1] * 10
    bins = figures.merged(Histogram(edges=tuple(map(float, range(81))), true=tuple(true), false=(100,) * 80))
    assert np.count_nonzero(bins.true) < 10
    assert np.diff(bins.edges)[0] > 1


def test_a_far_off_logit_does_not_fill_the_panel_with_nothing() -> None:
    true = [0] * 80
    true[79], true[40] = 1, 1_000_000
    bins = figures.merged(Histogram(edges=tuple(map(float, range(81))), true=tuple(true), false=tuple(true)))
    assert figures.logit_limits(bins)[1] < 60


def test_curves_have_a_panel_a_loss_unaligned_first(make_accuracy_run) -> None:
    losses = tuple(reversed(registry()))
    figure = figures.draw_curves([("MNIST", make_accuracy_run(losses))])
    assert len(figure.axes) == 11
    kinds = [axis.get_title(loc="right") for axis in figure.axes]
    assert kinds == [""] * 5 + ["aligned"] * 6


def test_the_rate_chosen_is_drawn_strongest_and_named(make_accuracy_run) -> None:
    run = make_accuracy_run(("ce",), rates=(0.1, 1.0, 0.01))
    axis = figures.draw_curves([("MNIST", run)]).axes[0]
    widths = sorted(line.get_linewidth() for line in axis.lines)
    assert widths[-1] > 1.5 * widths[-2]
    strongest = max(axis.lines, key=lambda line: line.get_linewidth())
    chosen = next(each for each in run.trainings if each.member.learning_rate == 0.1)
    assert list(strongest.get_xdata()) == [point.step for point in chosen.curve]
    assert strongest.get_ydata()[-1] == pytest.approx(-math.log10(1 - chosen.validation_accuracy))
    assert any("rate 0.1: 98." in text.get_text() for text in axis.texts)


def test_a_training_that_diverged_ends_with_a_cross(make_accuracy_run) -> None:
    run = make_accuracy_run(("ce",), rates=(0.1, 1.0), diverged={("ce", 1.0): 900})
    axis = figures.draw_curves([("MNIST", run)]).axes[0]
    assert [list(line.get_xdata()) for line in _lines(axis, "x")] == [[900]]


def test_one_that_diverged_before_its_first_validation_has_a_cross_too(make_accuracy_run) -> None:
    run = make_accuracy_run(("ce",), rates=(0.1, 1.0), diverged={("ce", 1.0): 3, ("ce", 0.1): 5})
    axis = figures.draw_curves([("MNIST", run)]).axes[0]
    assert sorted(line.get_xdata()[0] for line in _lines(axis, "x")) == [3, 5]
    heights = [line.get_ydata()[0] for line in _lines(axis, "x")]
    assert heights[0] != heights[1], "crosses of two rates do not cover one another"


def test_a_loss_without_trainings_says_so(make_accuracy_run) -> None:
    figure = figures.draw_curves([("MNIST", make_accuracy_run(("ce", "nce"), missing=["nce"]))])
    assert "no training ended" in _texts(figure)


def test_nines_worked_by_hand() -> None:
    assert figures.nines(0.0) == 0
    assert figures.nines(0.9) == pytest.approx(1)
    assert figures.nines(0.999) == pytest.approx(3)
    assert figures.nines(1.0, 500) == pytest.approx(3), "no error among 500 counts as half an error"


@given(st.floats(0, 3), st.floats(0, 3))
def test_accuracy_ticks_are_enough_and_apart(one: float, other: float) -> None:
    low, high = figures.nines_limits(min(one, other), max(one, other))
    assert high - low >= figures.MIN_NINES - 1e-9
    assert low < min(one, other) <= max(one, other) < high
    heights = [figures.nines(tick) for tick in figures.accuracy_ticks(low, high)]
    assert len(heights) >= 2
    assert all(low <= height <= high for height in heights)
    assert all(above - below >= 0.13 * (high - low) - 1e-9 for below, above in itertools.pairwise(heights))


def test_whether_there_is_anything_to_draw(make_accuracy_run) -> None:
    nothing = make_accuracy_run(("ce",), missing=["ce"])
    lost = make_accuracy_run(("ce",), diverged={("ce", 0.1): 3, ("ce", 0.01): 5})
    assert (figures.has_fig2(nothing), figures.has_curves(nothing)) == (False, False)
    assert (figures.has_fig2(lost), figures.has_curves(lost)) == (False, True)


def test_note_says_machine_date_and_state(make_accuracy_run) -> None:
    text = figures.note([make_accuracy_run(status="interrupted", missing=["nce"])])
    for told in ("MNIST: mlp, 4,000 steps of 128", "Imaginary CPU", "2026-03-01", "interrupted: 12 of 14 trainings"):
        assert told in text
