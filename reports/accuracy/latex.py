"""Tables 1 and 2 in LaTeX, in the paper's layout and beside its own numbers."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from reports.accuracy import wording
from reports.accuracy.tables import PAPER, Blocks, best_of, is_first_aligned
from reports.accuracy.wording import MEASURES
from reports.published import published_losses, published_methods, table1_improvement
from reports.tables import escape_latex

if TYPE_CHECKING:
    from bench.accuracy.rows import Spread
    from reports.accuracy.results import Result


def table1(blocks: Blocks) -> str:
    """Table 1 in the paper's layout, its own numbers at the right where it has them; needs booktabs and arydshln."""
    paper = _have_published(blocks)
    return _tabular(blocks, _block1, ("Dataset", "Method", "Rate"), paper=paper)


def table2(blocks: Blocks) -> str:
    """Table 2 in the paper's layout, its own numbers at the right where it has them; needs booktabs and arydshln."""
    return _tabular(blocks, _block2, ("Dataset", "Method"), paper=_have_published(blocks))


def _have_published(blocks: Blocks) -> bool:
    return any(published_methods(result.run.manifest.dataset.name) for _, result in blocks)


#: Makes the lines of LaTeX of one block, each without the data set and with its `\\`; told whether the paper is beside.
_Block = Callable[["Result", int, bool], list[str]]


def _tabular(blocks: Blocks, block: _Block, words: Sequence[str], *, paper: bool) -> str:
    numbers = len(MEASURES) * (1 + paper)
    first = len(words) + 1
    head = [
        "% needs \\usepackage{booktabs} and, after it, \\usepackage{arydshln}",
        f"\\begin{{tabular}}{{{'l' * len(words)}{'r' * numbers}}}",
        "\\toprule",
    ]
    if paper:
        middle, last = first + len(MEASURES) - 1, first + numbers - 1
        over = " & " * len(words) + f"\\multicolumn{{{len(MEASURES)}}}{{c}}{{measured}} & "
        head.append(over + f"\\multicolumn{{{len(MEASURES)}}}{{c}}{{{PAPER}}} \\\\")
        head.append(f"\\cmidrule(lr){{{first}-{middle}}}\\cmidrule(lr){{{middle + 1}-{last}}}")
    headings = [*words, *[*MEASURES.values()] * (1 + paper)]
    head += [" & ".join(headings) + " \\\\", "\\midrule"]
    bodies = []
    for label, result in blocks:
        lines = block(result, len(words) - 1 + numbers, paper)
        bodies.append("\n".join([f"{escape_latex(label)} & {lines[0]}", *(_indented(line) for line in lines[1:])]))
    return "\n".join([*head, "\n\\midrule\n".join(bodies), "\\bottomrule", "\\end{tabular}", ""])


def _indented(line: str) -> str:
    """A line below the first of its block has no data set; a rule is no line."""
    return line if line.startswith("\\cdashline") else f" & {line}"


def _block1(result: "Result", columns: int, paper: bool) -> list[str]:
    published = published_losses(result.run.manifest.dataset.name)
    best = {measure: best_of([row.measures.get(measure) for row in result.rows]) for measure in MEASURES}
    lines = []
    for index, row in enumerate(result.rows):
        if is_first_aligned(result.rows, index):
            lines.append(f"\\cdashline{{2-{columns + 1}}}")
        beside = published.get(row.name)
        cells = [escape_latex(row.name)]
        if row.status == "ok":
            cells += [wording.rates(row), *_cells(row.measures, best)]
        else:
            # \multicolumn sets its text on one line; a reason is a sentence, so it gets a box that breaks lines.
            reason = escape_latex(wording.status(row))
            cells.append(f"\\multicolumn{{{1 + len(MEASURES)}}}{{p{{0.35\\linewidth}}}}{{{reason}}}")
        lines.append(_line(cells, beside.measures if beside else None, paper=paper, form="{:.3f}", scale=1))
    for losses, found in result.told_improvements.items():
        cells = [wording.improvement_name(losses), "", *(_percent(found.get(measure)) for measure in MEASURES)]
        shares = table1_improvement().get(result.run.manifest.dataset.name) if losses == "paper" else None
        lines.append(_line(cells, shares, paper=paper, form="{:.1f}\\,\\%", scale=100))
    return lines


def _block2(result: "Result", columns: int, paper: bool) -> list[str]:
    if not result.methods:
        return [f"\\multicolumn{{{columns}}}{{l}}{{no model was tested yet}} \\\\"]
    published = published_methods(result.run.manifest.dataset.name)
    lines = []
    for index, row in enumerate(result.methods):
        if index and result.methods[index - 1].single and not row.single:
            lines.append(f"\\cdashline{{2-{columns + 1}}}")
        beside = published.get(row.name)
        cells = [escape_latex(row.name), *_cells(row.measures)]
        lines.append(_line(cells, beside.measures if beside else None, paper=paper, form="{:.3f}", scale=1))
    return lines


def _line(cells: Sequence[str], beside: Mapping[str, float] | None, *, paper: bool, form: str, scale: float) -> str:
    published = [form.format(scale * beside[measure]) if beside else "" for measure in MEASURES] if paper else []
    return " & ".join([*cells, *published]) + " \\\\"


def _cells(found: Mapping[str, "Spread"], best: Mapping[str, str] | None = None) -> list[str]:
    return [_spread(found.get(measure), (best or {}).get(measure, "")) for measure in MEASURES]


def _spread(found: "Spread | None", best: str) -> str:
    if found is None:
        return "--"
    mean = wording.decimal(found.mean)
    shown = f"\\mathbf{{{mean}}}" if mean == best else mean
    return f"${shown}$" if found.std is None else f"${shown} \\pm {wording.decimal(found.std)}$"


def _percent(share: float | None) -> str:
    return "--" if share is None else f"{100 * share:.1f}\\,\\%"
