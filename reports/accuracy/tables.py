"""Tables 1 and 2 as CSV and Markdown, beside the paper's own; a loss without numbers is a row in all.

One block a run, as the paper has one a data set: above the dashed line the losses that do not follow the Principle of
Logit Separation, below it those that do.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from archs.top_layer_kinds import RIVALS
from bench.folder import Notice, write_atomically
from reports.accuracy import wording
from reports.accuracy.wording import MEASURES, TRAPEZOID
from reports.published import published_losses, published_methods, table1_improvement
from reports.wording import count

if TYPE_CHECKING:
    from bench.accuracy.parity import Parity
    from bench.accuracy.records import Evaluation
    from bench.accuracy.rows import Spread, Table1Row, Table2Row
    from reports.accuracy.results import Result

#: What stands in every cell of a row of Markdown where the paper has its dashed line.
DASHES = "- - -"

PAPER = "Keren et al. 2019"

#: One block of a table: the label of a run, and what was estimated from it.
Blocks = Sequence[tuple[str, "Result"]]


def write_table1_csv(path: Path, blocks: Blocks) -> None:
    """Write a line a loss and one a mean relative improvement, to full precision; an empty cell has no number.

    `kind` is loss or improvement; an improvement is a share, its `loss` the losses it is over (paper or all).
    A list of rates is separated by spaces. Of several runs `run` is the first column. Raises OSError.
    """
    lines = [line for _, result in blocks for line in _table1_lines(result)]
    _write(path, lines, blocks, [len(_table1_lines(result)) for _, result in blocks])


def _table1_lines(result: "Result") -> list[dict[str, Any]]:
    dataset = result.run.manifest.dataset.name
    lines = [_loss_line(row, result) for row in result.rows]
    published = table1_improvement().get(dataset, {})
    for losses, found in result.improvements.items():
        line: dict[str, Any] = {"kind": "improvement", "dataset": dataset, "loss": losses}
        line |= {"name": wording.improvement_name(losses), **found}
        if losses == "paper":
            line |= {f"published_{measure}": share for measure, share in published.items()}
        lines.append(line)
    return lines


def _loss_line(row: "Table1Row", result: "Result") -> dict[str, Any]:
    published = published_losses(row.dataset).get(row.name)
    return {
        "kind": "loss",
        "dataset": row.dataset,
        "loss": row.loss,
        "name": row.name,
        "aligned": row.aligned,
        "status": row.status,
        "reason": row.reason,
        "seeds": len(row.seeds),
        "learning_rates": " ".join(f"{rate:g}" for rate in row.learning_rate),
        **_spread_cells(row.measures),
        **_spread_cells(row.all_measures, "all_"),
        **_spread_cells({"accuracy": row.accuracy}),
        **_parity_cells("ce", row.parity_with_ce),
        **_parity_cells("own", row.parity_with_own),
        **_separation_cells(row, wording.evaluations_of(result.run, row.loss)),
        **{f"published_{measure}": None if published is None else published.measures[measure] for measure in MEASURES},
    }


def _spread_cells(found: "Mapping[str, Spread | None]", prefix: str = "") -> dict[str, float | None]:
    cells: dict[str, float | None] = {}
    for measure, spread in found.items():
        cells[f"{prefix}{measure}"] = None if spread is None else spread.mean
        cells[f"{prefix}{measure}_std"] = None if spread is None else spread.std
    return cells


def _parity_cells(against: str, found: "Parity | None") -> dict[str, float | str | None]:
    fields = ("verdict", "ratio", "low", "high", "seeds", "reason")
    return {f"{field}_against_{against}": None if found is None else getattr(found, field) for field in fields}


def _separation_cells(row: "Table1Row", models: Sequence["Evaluation"]) -> dict[str, float | None]:
    cells: dict[str, float | None] = {}
    for split, holds in (("train", row.separation_train_holds), ("test", row.separation_test_holds)):
        found = [each.separation_train if split == "train" else each.separation_test for each in models]
        pairs = wording.ordered(found)
        cells |= {
            f"{split}_separated_seeds": holds,
            f"{split}_ordered_low": None if pairs is None else pairs[0],
            f"{split}_ordered_high": None if pairs is None else pairs[1],
            f"{split}_margin": wording.margin(found),
            f"{split}_log_partition_std": wording.log_partition_std(found),
        }
    return cells


def write_table2_csv(path: Path, blocks: Blocks) -> None:
    """Write a line a method, to full precision. Of several runs `run` is the first column. Raises OSError."""
    lines = [_method_line(row) for _, result in blocks for row in result.methods]
    _write(path, lines, blocks, [len(result.methods) for _, result in blocks], columns=_METHOD_COLUMNS)


#: Known beforehand, as there are no lines as long as no model was tested.
_METHOD_COLUMNS = (
    *("dataset", "method", "logits"),
    *(f"{measure}{suffix}" for measure in (*MEASURES, TRAPEZOID) for suffix in ("", "_std")),
    *(f"published_{measure}" for measure in MEASURES),
)


def _method_line(row: "Table2Row") -> dict[str, Any]:
    published = published_methods(row.dataset).get(row.name)
    return {
        "dataset": row.dataset,
        "method": row.name,
        "logits": "single" if row.single else "all",
        **_spread_cells(row.measures),
        **{f"published_{measure}": None if published is None else published.measures[measure] for measure in MEASURES},
    }


_COUNTS = ("seeds", "seeds_against_ce", "seeds_against_own", "train_separated_seeds", "test_separated_seeds")


def _write(
    path: Path,
    lines: Sequence[Mapping[str, Any]],
    blocks: Blocks,
    sizes: Sequence[int],
    columns: Sequence[str] | None = None,
) -> None:
    frame = pd.DataFrame(lines, columns=None if columns is None else list(columns))
    # Whole numbers stay whole beside the empty cells of other lines.
    frame = frame.astype({name: "Int64" for name in _COUNTS if name in frame})
    if len(blocks) > 1:
        names = [label for (label, _), size in zip(blocks, sizes, strict=True) for _ in range(size)]
        frame.insert(0, "run", names)
    write_atomically(path, frame.to_csv(index=False, lineterminator="\n"))


def table1_markdown(blocks: Blocks) -> str:
    """Table 1 for people: of each run what it was measured on, its table, the verdicts, separation, what is missing."""
    return "\n\n".join(_section1(label, result) for label, result in blocks) + "\n"


def _section1(label: str, result: "Result") -> str:
    parts = [
        _heading(label, result),
        _table1(result),
        _note1(result),
        _list("Can one logit replace all of them?", wording.verdict_lines(result.rows)),
        _text(wording.one_seed_note(result.rows)),
        _separation(result),
        _list("Losses without a model of every seed", wording.incomplete(result.rows)),
        _list("Trainings that did not get to their end", wording.training_failures(result.run.trainings)),
        _list("Warnings", [_notice(notice) for notice in result.notices]),
    ]
    return "\n\n".join(part for part in parts if part)


def _heading(label: str, result: "Result") -> str:
    manifest = result.run.manifest
    state = wording.state(result.run)
    lines = "  \n".join(_text(line) for line in wording.measured_on(manifest))
    return f"## {_text(label)}, {manifest.created[:10]}" + (f" ({state})" if state else "") + f"\n\n{lines}"


def _table1(result: "Result") -> str:
    published = published_losses(result.run.manifest.dataset.name)
    header = ["Loss", "Rate", *MEASURES.values(), "1-AUPRC, trapezoid", "Accuracy"]
    header += [f"Paper: {heading}" for heading in MEASURES.values()] if published else []
    best = {measure: best_of([row.measures.get(measure) for row in result.rows]) for measure in MEASURES}
    lines: list[list[str]] = []
    for index, row in enumerate(result.rows):
        if is_first_aligned(result.rows, index):
            lines.append([DASHES] * len(header))
        lines.append(_markdown_loss(row, best, len(header)))
        if published:
            paper = published.get(row.name)
            lines[-1][-3:] = ["" if paper is None else f"{paper.measures[measure]:.3f}" for measure in MEASURES]
    for losses, found in result.told_improvements.items():
        lines.append(_markdown_improvement(losses, found, result.run.manifest.dataset.name, len(header)))
    return markdown_table(header, lines)


def _markdown_loss(row: "Table1Row", best: Mapping[str, str], width: int) -> list[str]:
    if row.status != "ok":
        return [_text(row.name), _text(wording.status(row)), *[""] * (width - 2)]
    cells = [_bold(_spread(row.measures.get(measure)), best[measure]) for measure in MEASURES]
    cells += [_spread(row.measures.get(TRAPEZOID)), _spread(row.accuracy)]
    return [_text(row.name), wording.rates(row), *cells, *[""] * (width - 2 - len(cells))]


def _markdown_improvement(losses: str, found: Mapping[str, float | None], dataset: str, width: int) -> list[str]:
    line = [wording.improvement_name(losses), "", *(wording.percent(found.get(measure)) for measure in MEASURES)]
    line += [""] * (width - len(line))
    paper = table1_improvement().get(dataset)
    if losses == "paper" and paper:
        line[-3:] = [wording.percent(paper[measure]) for measure in MEASURES]
    return line


def is_first_aligned(rows: Sequence["Table1Row"], index: int) -> bool:
    """Whether the dashed line is above this row: it is the first that is aligned, below some that are not."""
    return index > 0 and rows[index].aligned and not rows[index - 1].aligned


def best_of(column: Iterable["Spread | None"]) -> str:
    """The best mean of a column, as it is printed: what prints alike is best alike. Empty for an empty column."""
    return min((wording.decimal(found.mean) for found in column if found is not None), key=float, default="")


def _bold(text: str, best: str) -> str:
    return f"**{text}**" if best and text.split(" ")[0] == best else text


def _spread(found: "Spread | None") -> str:
    return wording.spread(found, " ± ")


def _note1(result: "Result") -> str:
    dataset = result.run.manifest.dataset.name
    several = any(len(row.seeds) > 1 for row in result.rows)
    skipped = sorted({name for each in result.run.evaluations for name in each.single.classes_without_positives})
    parts = [
        "Measures of the single logit, means over the classes, on the test data; lower is better, the best is bold. "
        "The dashed line parts the losses that do not follow the Principle of Logit Separation from those that do. "
        "The rate of each loss is the one with the highest accuracy on the validation data, of equals with the lowest "
        "loss there.",
        "Of a rival of the full top layer (docs/rivals.md) the measures are those of log P of the class."
        if any(row.loss in RIVALS for row in result.rows)
        else "",
        "Mean and standard deviation over seeds." if several else "",
        f"Left out are {len(skipped)} classes without a test example: {wording.listed(skipped)}." if skipped else "",
        "The improvement is that of the mean of the aligned losses over the mean of the others, of losses that have a "
        "result."
        if result.told_improvements
        else "",
        f"Paper: {PAPER}, Table 1, {'6,000,000' if dataset == 'imagenet' else '100,000'} steps, one training a loss; "
        f"here {count(result.run.manifest.recipe.steps)} steps."
        if published_losses(dataset)
        else "",
        wording.hyperparameters(result.run.manifest.losses),
    ]
    return " ".join(part for part in parts if part)


def _separation(result: "Result") -> str:
    header = ["Loss", "Separated: train", "test", "Pairs in order: train", "test"]
    header += ["Lowest true - highest false: train", "test", "Std. of log-partition: train", "test"]
    lines = [_separation_line(row, wording.evaluations_of(result.run, row.loss)) for row in result.rows if row.seeds]
    if not lines:
        return ""
    note = (
        "The Principle of Logit Separation (Definition 1): in how many of the models every true logit is above every "
        "false one; share of the pairs of a true and a false logit that are in order, and margin, means over seeds. "
        "The log-partition is the logarithm of the sum of an example's exponentials: where it varies, logits of "
        "different examples cannot be compared."
    )
    if any(row.loss in RIVALS for row in result.rows):
        note += " A rival's scores are log-probabilities, whose log-partition is 0."
    return f"### Are the logits separated?\n\n{note}\n\n{markdown_table(header, lines)}"


def _separation_line(row: "Table1Row", models: Sequence["Evaluation"]) -> list[str]:
    splits = [[each.separation_train for each in models], [each.separation_test for each in models]]
    holds = [row.separation_train_holds, row.separation_test_holds]
    pairs = [wording.ordered(found) for found in splits]
    return [
        _text(row.name) + (" (aligned)" if row.aligned else ""),
        *(wording.separated(models_holding, len(row.seeds)) for models_holding in holds),
        *("" if found is None else wording.percent_between(*found) for found in pairs),
        *(_signed(wording.margin(found)) for found in splits),
        *(_signed(wording.log_partition_std(found)) for found in splits),
    ]


def _signed(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _notice(notice: Notice) -> str:
    return f"{notice.happened}. Why it matters: {notice.matters}. Remedy: {notice.remedy}."


def table2_markdown(blocks: Blocks) -> str:
    """Table 2 for people: single logit against all logits, of each run what it was measured on and its table."""
    return "\n\n".join(_section2(label, result) for label, result in blocks) + "\n"


def _section2(label: str, result: "Result") -> str:
    if not result.methods:
        return f"{_heading(label, result)}\n\nNo model was tested yet."
    published = published_methods(result.run.manifest.dataset.name)
    header = ["Method", *MEASURES.values(), "1-AUPRC, trapezoid"]
    header += [f"Paper: {heading}" for heading in MEASURES.values()] if published else []
    lines: list[list[str]] = []
    for index, row in enumerate(result.methods):
        if index and result.methods[index - 1].single and not row.single:
            lines.append([DASHES] * len(header))
        lines.append(_markdown_method(row, published=bool(published)))
    note = (
        "Above the dashed line one logit (SLC), below it the log-odds of the class from all logits of the same models; "
        "lower is better."
    )
    if published:
        note += f" Paper: {PAPER}, Table 2."
    return "\n\n".join([_heading(label, result), markdown_table(header, lines), note])


def _markdown_method(row: "Table2Row", *, published: bool) -> list[str]:
    cells = [_spread(row.measures.get(measure)) for measure in (*MEASURES, TRAPEZOID)]
    if published:
        paper = published_methods(row.dataset).get(row.name)
        cells += ["" if paper is None else f"{paper.measures[measure]:.3f}" for measure in MEASURES]
    return [_text(row.name), *cells]


def markdown_table(header: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """A Markdown table of cells that are Markdown already; names and rates are aligned left, numbers right."""
    rule = [":--" if heading in ("Loss", "Method", "Rate") else "--:" for heading in header]
    return "\n".join("| " + " | ".join(line) + " |" for line in (header, rule, *lines))


def _list(title: str, lines: Sequence[str]) -> str:
    return "" if not lines else f"### {title}\n\n" + "\n".join(f"- {_text(line)}" for line in lines)


def _text(text: str) -> str:
    """Text that Markdown prints as it is, on one line."""
    escaped = {character: f"\\{character}" for character in "\\|*`<>[]"}
    return "".join(escaped.get(character, character) for character in " ".join(text.split()))
