"""Fig. 2, the distributions of true and false logits, and learning curves, of one accuracy run or several."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import NullLocator

from reports.accuracy import wording
from reports.accuracy.canvas import Block, Grid, layout
from reports.figures import COLOURS, PAPER_COLOUR, styled
from reports.wording import count, hardware

if TYPE_CHECKING:
    from bench.accuracy.records import Evaluation, Histogram, Training
    from bench.accuracy.run import AccuracyRun

#: A run and the label of its panels.
Labelled = Sequence[tuple[str, "AccuracyRun"]]

FIG2_TITLE = "Logits of the true class and of other classes"
FIG2_GRID = Grid(columns=2, panel=(3.3, 2.15), margins=(0.42, 0.45, 0.12, 0.3))
CURVES_TITLE = "Learning curves: accuracy on the validation data, by loss and learning rate"
CURVES_GRID = Grid(columns=4, panel=(2.35, 1.75), margins=(0.5, 0.4, 0.08, 0.26))
#: A title has to fit over the panels.
MIN_CURVE_COLUMNS = 3

TRUE_COLOUR, FALSE_COLOUR = "#0072B2", "#D55E00"

#: What is left out at either end of an axis of logits: a single far-off logit would fill the panel with nothing.
CUT_SHARE = 0.0005

DASHES = ("-", (0, (4, 2)), (0, (1, 1.5)))


@contextmanager
def _styled() -> Iterator[None]:
    """Our style; names of classes and folders are printed as they are, a dollar sign in them too."""
    with styled(), mpl.rc_context({"text.parse_math": False}):
        yield


def note(runs: Sequence["AccuracyRun"]) -> str:
    """What the runs of a figure were trained with, on what machine and when; a line each."""
    lines = []
    for run in runs:
        manifest = run.manifest
        parts = [
            f"{wording.dataset(manifest.dataset.name)}: {manifest.recipe.network}, "
            f"{count(manifest.recipe.steps)} steps of {count(manifest.recipe.batch_size)} examples",
            hardware(manifest.machine, manifest.recipe.device),
            f"torch {manifest.versions.get('torch', 'of unknown version')}",
            manifest.created[:10],
            wording.state(run),
        ]
        lines.append("; ".join(part for part in parts if part) + ".")
    return "\n".join(dict.fromkeys(lines))


# ---- Fig. 2 ----


def has_fig2(run: "AccuracyRun") -> bool:
    """Whether a model of the run has met the test data."""
    return bool(run.evaluations)


def draw_fig2(runs: Labelled, *, note: str = "") -> Figure:
    """Draw the paper's Fig. 2 from measured logits: of each run, CE left and batch CE right, one class above all.

    Where one of the two has no tested model, the best loss of its kind (aligned or not) takes its place, and the
    caption says so. Raises ValueError if there is no run.
    """
    if not runs:
        raise ValueError("a figure needs at least one run")
    shown = [shown_models(run) for _, run in runs]
    caption = "\n".join([_fig2_caption(runs, shown), note]).strip()
    with _styled():
        legend = [
            (Patch(color=TRUE_COLOUR, alpha=0.55, linewidth=0), "true logits"),
            (Patch(color=FALSE_COLOUR, alpha=0.55, linewidth=0), "false logits"),
        ]
        blocks = [Block(label if len(runs) > 1 else "", 4) for label, _ in runs]
        figure, axes = layout(blocks, FIG2_GRID, title=FIG2_TITLE, caption=caption, legend=legend)
        for (_, run), models, panels in zip(runs, shown, axes, strict=True):
            _fig2_block(panels, run, models)
        figure.draw_without_rendering()  # lays it out while our style holds
    return figure


def shown_models(run: "AccuracyRun") -> tuple["Evaluation | None", "Evaluation | None"]:
    """The models of Fig. 2: of CE and of batch CE, of the first seed that has both.

    In place of one that has no tested model: the loss with the smallest mean 1-AUPRC among those that are not
    aligned, or are; None where there is none.
    """
    losses = [_loss_shown(run, "ce", aligned=False), _loss_shown(run, "batch-ce", aligned=True)]
    found = [
        {} if loss is None else {each.member.seed: each for each in wording.evaluations_of(run, loss)}
        for loss in losses
    ]
    shared = sorted(found[0].keys() & found[1].keys())
    left, right = (by_seed.get(shared[0]) if shared else next(iter(by_seed.values()), None) for by_seed in found)
    return left, right


def _loss_shown(run: "AccuracyRun", wanted: str, *, aligned: bool) -> str | None:
    errors = {
        loss.key: float(np.mean([1 - each.single.auprc for each in models]))
        for loss in run.manifest.losses
        if loss.aligned is aligned and (models := wording.evaluations_of(run, loss.key))
    }
    return wanted if wanted in errors else min(errors, key=errors.__getitem__, default=None)


def _fig2_block(panels: Sequence[Axes], run: "AccuracyRun", models: Sequence["Evaluation | None"]) -> None:
    names = {loss.key: loss.name for loss in run.manifest.losses}
    for column, model in enumerate(models):
        upper, lower = panels[column], panels[column + 2]
        if model is None:
            kind = "follows" if column else "does not follow"
            for axis in (upper, lower):
                axis.set_axis_off()
            upper.text(
                0.5, 0.5, f"no tested model of a loss\nthat {kind} the principle", ha="center", color=PAPER_COLOUR
            )
            continue
        name = names.get(model.member.loss, model.member.loss)
        ordered = wording.percent_between(model.separation_test.ordered_low, model.separation_test.ordered_high)
        auprc = model.single.by_class.auprc[model.shown_class]
        error = [] if auprc is None else [f"1-AUPRC {wording.decimal(1 - auprc)}"]
        _distribution(upper, model.histogram_of_class, error)
        _distribution(lower, model.histogram_pooled, [f"in order {ordered}"])
        upper.set_title(f"{name}: class {wording.class_name(run.manifest, model.shown_class)}", loc="left")
        lower.set_title(f"{name}: all classes", loc="left")
        lower.set_xlabel("logit")
    for axis in (panels[0], panels[2]):
        axis.set_ylabel("density")


def _distribution(axis: Axes, histogram: "Histogram", lines: Sequence[str]) -> None:
    """Two densities, each of area 1, and what is to be said of them."""
    bins = merged(histogram)
    for shares, colour, order in ((bins.false, FALSE_COLOUR, 2), (bins.true, TRUE_COLOUR, 3)):
        density = shares / np.diff(bins.edges)
        axis.stairs(density, bins.edges, fill=True, color=colour, alpha=0.4, linewidth=0, zorder=order)
        axis.stairs(density, bins.edges, color=colour, linewidth=0.9, zorder=order + 2)
    axis.set_xlim(*logit_limits(bins))
    axis.margins(y=0.4)  # room for the words
    axis.set_ylim(bottom=0)
    axis.yaxis.set_major_locator(NullLocator())
    text = "\n".join([f"overlap {wording.percent(overlap(bins))}", *lines])
    axis.text(0.98, 0.97, text, transform=axis.transAxes, fontsize=7, va="top", ha="right", linespacing=1.4, zorder=9)


@dataclass(frozen=True)
class Bins:
    """Shares of the true and of the false logits in the same bins; each sums to 1, or is 0 where there are none."""

    edges: npt.NDArray[np.float64]
    true: npt.NDArray[np.float64]
    false: npt.NDArray[np.float64]


def merged(histogram: "Histogram") -> Bins:
    """A histogram in bins wide enough for the rarer of its two kinds: neighbours merged to 2 n^(1/3) (Rice's rule).

    The test data may hold a few dozen examples of a class, which in bins meant for thousands are noise.
    """
    counts = [np.asarray(side, dtype=np.float64) for side in (histogram.true, histogram.false)]
    rarer = min((side for side in counts if side.any()), key=lambda side: float(side.sum()), default=counts[0])
    occupied = np.flatnonzero(rarer)
    span = int(occupied[-1] - occupied[0]) + 1 if occupied.size else 1
    width = max(1, math.ceil(span / (2 * max(1.0, float(rarer.sum())) ** (1 / 3))))
    starts = np.arange(0, len(rarer), width)
    edges = np.asarray(histogram.edges, dtype=np.float64)[[*starts, len(rarer)]]
    true, false = (_shares(np.add.reduceat(side, starts)) for side in counts)
    return Bins(edges, true, false)


def _shares(counts: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    total = counts.sum()
    return counts / total if total else counts


def overlap(bins: Bins) -> float:
    """The area that the distributions of true and of false logits share, 0 to 1: the overlapping coefficient.

    Inman and Bradley, Communications in Statistics - Theory and Methods 18 (1989).
    """
    return float(np.minimum(bins.true, bins.false).sum())


def logit_limits(bins: Bins) -> tuple[float, float]:
    """Ends of an axis that shows all of both distributions but CUT_SHARE at either end, with some air."""
    lows, highs = [], []
    for shares in (bins.true, bins.false):
        if not shares.any():
            continue
        reached = np.cumsum(shares)
        lows.append(bins.edges[int(np.searchsorted(reached, CUT_SHARE, side="right"))])
        highs.append(bins.edges[min(len(shares), int(np.searchsorted(reached, 1 - CUT_SHARE, side="left")) + 1)])
    if not lows:
        return float(bins.edges[0]), float(bins.edges[-1])
    air = 0.03 * (max(highs) - min(lows))
    return float(min(lows) - air), float(max(highs) + air)


def _fig2_caption(runs: Labelled, shown: Sequence[tuple["Evaluation | None", "Evaluation | None"]]) -> str:
    lines = [
        "Logits on the test data, of one class (top) and of all classes together (bottom), by a model trained with a "
        "loss that does not follow the Principle of Logit Separation (left) and one that does (right). True logits "
        "are those of the examples' own classes. Each distribution has area 1, though there are as many false logits "
        "for a true one as there are other classes; overlap is the area both share, in "
        "these bins. In order: share of the pairs of a true and a false logit of which the true one is larger. "
        f"{100 * CUT_SHARE:g} % are cut off at either end."
    ]
    for (label, run), models in zip(runs, shown, strict=True):
        names = {loss.key: loss.name for loss in run.manifest.losses}
        told = [
            f"{names.get(model.member.loss, model.member.loss)} (rate {model.member.learning_rate:g}, "
            f"seed {model.member.seed})"
            for model in models
            if model is not None
        ]
        replaced = [
            f"{names[model.member.loss]} is the best loss of its kind, as {wanted} has no tested model"
            for model, key, wanted in zip(models, ("ce", "batch-ce"), ("CE", "batch CE"), strict=True)
            if model is not None and model.member.loss != key
        ]
        lines.append(f"{label}: " + "; ".join([" and ".join(told), *replaced]) + ".")
    return "\n".join(lines)


# ---- learning curves ----


def has_curves(run: "AccuracyRun") -> bool:
    """Whether a training of the run has ended."""
    return bool(run.trainings)


def draw_curves(runs: Labelled, *, note: str = "") -> Figure:
    """Draw validation accuracy against steps: of each run a panel a loss, a line a training.

    The rates chosen are drawn strong, the others faint; a training that diverged or failed ends with a cross.
    Raises ValueError if there is no run.
    """
    if not runs:
        raise ValueError("a figure needs at least one run")
    rates = sorted({rate for _, run in runs for rate in run.manifest.learning_rates}, reverse=True)
    caption = (
        "One line a training (learning rate and seed). Strong lines: the rate with the highest validation accuracy at "
        "the end, of equals with the lowest validation loss, which is the one that meets the test data; its accuracy "
        "stands at the lower right. The axis is logarithmic in the share of errors. Crosses: where a training diverged "
        "or failed."
    )
    with _styled():
        legend = _curve_legend(rates, [training for _, run in runs for training in run.trainings])
        blocks = [Block(label if len(runs) > 1 else "", len(run.manifest.losses)) for label, run in runs]
        most = max(block.panels for block in blocks)
        grid = replace(CURVES_GRID, columns=min(max(most, MIN_CURVE_COLUMNS), CURVES_GRID.columns))
        figure, axes = layout(
            blocks, grid, title=CURVES_TITLE, caption="\n".join([caption, note]).strip(), legend=legend
        )
        for (_, run), panels in zip(runs, axes, strict=True):
            _curve_block(panels, run, rates, grid.columns)
        figure.draw_without_rendering()
    return figure


def _curve_legend(rates: Sequence[float], trainings: Sequence["Training"]) -> list[tuple[Line2D, str]]:
    entries = [
        (Line2D([], [], color=_colour(index), linestyle=_dash(index)), f"rate {rate:g}")
        for index, rate in enumerate(rates)
    ]
    entries.append((Line2D([], [], color="#333333", linewidth=2.2), "rate chosen"))
    if any(training.status != "ok" for training in trainings):
        cross = Line2D([], [], color="#333333", linestyle="none", marker="x", markersize=6, markeredgewidth=1.6)
        entries.append((cross, "diverged or failed"))
    return entries


def _colour(index: int) -> str:
    return COLOURS[index % len(COLOURS)]


def _dash(index: int) -> Any:
    return DASHES[index // len(COLOURS) % len(DASHES)]


def _curve_block(panels: Sequence[Axes], run: "AccuracyRun", rates: Sequence[float], columns: int) -> None:
    losses = sorted(run.manifest.losses, key=lambda loss: loss.aligned)
    examples = run.manifest.dataset.validation
    heights = [
        nines(point.validation_accuracy, examples) for training in run.trainings for point in training.curve
    ] or [0.0, 1.0]
    low, high = nines_limits(min(heights), max(heights))
    ticks = accuracy_ticks(low, high)
    for index, (axis, loss) in enumerate(zip(panels, losses, strict=True)):
        axis.set_ylim(low, high)
        axis.set_yticks([nines(tick) for tick in ticks], [f"{100 * tick:.6g} %" for tick in ticks])
        axis.set_title(loss.name.removesuffix(" divergence").removesuffix(" loss"), loc="left", fontsize=8.5)
        if loss.aligned:
            axis.set_title("aligned", loc="right", fontsize=7, color=PAPER_COLOUR)
        _step_axis(axis, run.manifest.recipe.steps)
        axis.grid(True)
        if index + columns >= len(panels):
            axis.set_xlabel("step")
        _curves(axis, run, loss.key, rates)


def _step_axis(axis: Axes, steps: int) -> None:
    axis.set_xlim(0, steps * 1.02)
    ticks = [0, steps // 2, steps]
    axis.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
    labels = axis.get_xticklabels()
    labels[-1].set_horizontalalignment("right")


def _curves(axis: Axes, run: "AccuracyRun", loss: str, rates: Sequence[float]) -> None:
    trainings = [training for training in run.trainings if training.member.loss == loss]
    if not trainings:
        axis.text(0.5, 0.5, "no training ended", transform=axis.transAxes, ha="center", color=PAPER_COLOUR)
        return
    chosen = {each.member for each in run.evaluations}
    for training in trainings:
        is_chosen = training.member in chosen
        index = rates.index(training.member.learning_rate)
        steps = [point.step for point in training.curve]
        heights = [nines(point.validation_accuracy, run.manifest.dataset.validation) for point in training.curve]
        axis.plot(
            steps,
            heights,
            color=_colour(index),
            linestyle=_dash(index),
            linewidth=1.7 if is_chosen else 0.8,
            alpha=1.0 if is_chosen else 0.55,
            marker="o" if len(steps) == 1 else "",
            zorder=4 if is_chosen else 3,
        )
        if training.status != "ok":
            _cross(axis, training, index, heights[-1] if heights else None)
    _chosen_words(axis, [training for training in trainings if training.member in chosen])


def _cross(axis: Axes, training: "Training", index: int, height: float | None) -> None:
    """Mark where a training ended early: the end of its curve, or the axis if it has none, a rate above the other."""
    step = training.diverged_at or training.steps
    style: dict[str, Any] = {
        "color": _colour(index),
        "linestyle": "none",
        "marker": "x",
        "markersize": 5.5,
        "markeredgewidth": 1.5,
    }
    if height is None:
        at_axis = axis.get_xaxis_transform()
        axis.plot([step], [0.06 + 0.1 * index], transform=at_axis, clip_on=False, zorder=5, **style)
    else:
        axis.plot([step], [height], clip_on=False, zorder=5, **style)


def _chosen_words(axis: Axes, chosen: Sequence["Training"]) -> None:
    accuracies = [training.validation_accuracy for training in chosen if training.validation_accuracy is not None]
    if accuracies:
        rates = ", ".join(f"{rate:g}" for rate in dict.fromkeys(training.member.learning_rate for training in chosen))
        mean = wording.percent(math.fsum(accuracies) / len(accuracies), 2)
        place: dict[str, Any] = {"xy": (0.97, 0.05), "xycoords": "axes fraction", "ha": "right", "va": "bottom"}
        box = {"facecolor": "white", "edgecolor": "none", "alpha": 0.75, "pad": 1.0}
        axis.annotate(f"rate {rates}: {mean}", fontsize=7, zorder=8, bbox=box, **place)


def nines(accuracy: float, examples: int = 0) -> float:
    """How many nines an accuracy has: -log10 of the share of errors. 0.9 is 1, 0.99 is 2.

    No error among so many examples counts as half an error; of none (0), the accuracy has to be below 1.
    """
    floor = 0.5 / examples if examples else 0.0
    return -math.log10(max(1 - accuracy, floor))


#: An axis of accuracies never shows fewer nines than this: from 98 % to 99 %, say.
MIN_NINES = 0.3


def nines_limits(low: float, high: float) -> tuple[float, float]:
    """Ends of an axis that shows these heights in `nines` with some air, and noise as noise."""
    half = max(0.56 * (high - low), MIN_NINES / 2)
    middle = (low + high) / 2
    return middle - half, middle + half


#: Accuracies worth a tick, in per cent, coarse to fine.
_TICKS = (
    (0, 50, 90, 99, 99.9, 99.99),
    (0, 20, 50, 80, 90, 95, 98, 99, 99.5, 99.8, 99.9, 99.95, 99.99),
    (*range(0, 95, 10), 95, 96, 97, 98, 98.5, 99, 99.2, 99.4, 99.6, 99.8, 99.9, 99.95, 99.99),
    (*range(0, 90, 5), *range(90, 95), *(95 + step / 4 for step in range(16)), *(99 + step / 10 for step in range(10))),
    (
        *(step / 2 for step in range(190)),
        *(95 + step / 10 for step in range(40)),
        *(99 + step / 100 for step in range(90)),
        *(99.9 + step / 1000 for step in range(91)),
    ),
)


def accuracy_ticks(low: float, high: float) -> list[float]:
    """Round accuracies between two heights in `nines`: two at least up to 99.9 %, none crowding another."""
    ticks: list[float] = []
    for steps in _TICKS:
        ticks = []
        for tick in (step / 100 for step in steps):
            height = nines(tick)
            if low <= height <= high and (not ticks or height - nines(ticks[-1]) >= 0.13 * (high - low)):
                ticks.append(tick)
        if len(ticks) >= 3:
            break
    return ticks
