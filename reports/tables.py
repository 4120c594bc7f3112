"""Table 3 as a data frame, CSV, Markdown and LaTeX, and beside the paper's own; a failed point is a row in all."""

import re
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from bench.folder import Notice, write_atomically
from bench.run import Manifest
from bench.speed.rows import Row, to_frame
from reports import wording
from reports.published import published
from reports.series import Series, control_lines, failures, labels, names, split

if TYPE_CHECKING:
    from bench.speed.rows import BreakEven

_LATEX_SPECIAL = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    **{character: f"\\{character}" for character in "&%$#_{}"},
}

_MARKDOWN_HEADER = (
    "architecture",
    "classes",
    "median, ms",
    "5-95 % of passes, ms",
    "speedup",
    "95 % interval",
    "mean, ms",
    "speedup of means",
    "predicted, ms",
    "peak memory, GB",
    "status",
)

_LATEX_HEADER = r"""\begin{tabular}{llrrrr}
\toprule
Architecture & Classes & Inference time (s) & SLC speedup & Median (s) & Speedup of medians [95\,\% interval] \\
\midrule"""


def write_csv(path: Path, rows: Sequence[Row], *, runs: Sequence[str] = ()) -> None:
    """Write the rows to full precision, an empty cell where there is no number.

    `runs`, for rows of several: the name of each row's run, as a first column `run`. Raises OSError; the file is then
    as it was, and ValueError if there are not as many names as rows.
    """
    frame = to_frame(rows)
    if runs:
        frame.insert(0, "run", list(runs))
    write_atomically(path, frame.to_csv(index=False, lineterminator="\n"))


def to_markdown(
    rows: Sequence[Row],
    *,
    notices: Iterable[Notice] = (),
    break_evens: Sequence["BreakEven"] = (),
    manifest: Manifest | None = None,
) -> str:
    """The table for people, with what it was measured on above and what to know about it below."""
    parts = [] if manifest is None else [_markdown_heading(manifest)]
    series = split(rows)
    parts.append(markdown_table(_MARKDOWN_HEADER, _markdown_cells(series), left=(0, 10)))
    parts.append(
        "Times are for one example. Speedup: median time over the single logit's median. Speedup of means: the "
        "paper's estimator. Status: rounds measured; samples marked for contention or throttling are counted, not "
        "dropped."
    )
    parts.append(_markdown_list("Not measured", failures(series)))
    parts.append(_markdown_list("Controls", control_lines(series)))
    setting_labels = wording.setting_labels(manifest.settings) if manifest else None
    parts.append(_markdown_list("Break-even", wording.break_even_lines(break_evens, setting_labels)))
    noted = [f"{notice.happened}. Why it matters: {notice.matters}. Remedy: {notice.remedy}." for notice in notices]
    parts.append(_markdown_list("Warnings", noted))
    return "\n\n".join(part for part in parts if part) + "\n"


def _markdown_heading(manifest: Manifest) -> str:
    state = "" if manifest.status == "complete" else f" (the run is {manifest.status})"
    lines = "  \n".join(wording.measured_on(manifest))
    return f"## {manifest.name}, {manifest.created}{state}\n\n{lines}"


def _markdown_list(title: str, lines: Sequence[str]) -> str:
    return "" if not lines else f"{title}:\n\n" + "\n".join(f"- {_markdown_text(line)}" for line in lines)


def _markdown_cells(series: Sequence[Series]) -> list[list[str]]:
    return [_markdown_row(name, row) for each, name in zip(series, names(series), strict=True) for row in each.rows]


def _markdown_row(name: str, row: Row) -> list[str]:
    spread = "" if row.p5_s is None else f"{wording.milliseconds(row.p5_s)}-{wording.milliseconds(row.p95_s)}"
    memory = "" if row.peak_memory_bytes is None else wording.significant(row.peak_memory_bytes / 1e9)
    return [
        name,
        wording.classes_of(row),
        wording.milliseconds(row.median_s),
        spread,
        wording.speedup(row.speedup),
        wording.interval(row, "-"),
        wording.milliseconds(row.mean_s),
        wording.speedup(row.speedup_of_means),
        wording.milliseconds(row.predicted_s),
        memory,
        wording.status(row),
    ]


def markdown_table(header: Sequence[str], cells: Iterable[Sequence[str]], left: Sequence[int] = ()) -> str:
    """A Markdown table; columns are right-aligned but those whose index is in `left`."""
    rule = [":--" if index in left else "--:" for index in range(len(header))]
    lines = [header, rule, *([_markdown_text(cell) for cell in line] for line in cells)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _markdown_text(text: str) -> str:
    """Text that Markdown prints as it is, on one line."""
    return re.sub(r"([\\|*`<>\[\]])", r"\\\1", " ".join(text.split()))


def to_latex(rows: Sequence[Row]) -> str:
    """A booktabs tabular in the layout of the paper's Table 3, whose columns are followed by median and interval."""
    return latex_of(split(rows))


def latex_of(series: Sequence[Series]) -> str:
    """`to_latex` of series that may come from several runs."""
    blocks = []
    for each, name in zip(series, names(series), strict=True):
        first, *others = [_latex_line(row) for row in each.rows]
        blocks.append("\n".join([f"{escape_latex(name)} & {first}", *(f" & {line}" for line in others)]))
    return "\n".join([_LATEX_HEADER, "\n\\midrule\n".join(blocks), "\\bottomrule", "\\end{tabular}", ""])


def _latex_line(row: Row) -> str:
    if row.status != "ok":
        # \multicolumn sets its text on one line; a reason is a sentence, so it gets a box that breaks lines.
        reason = escape_latex(": ".join(filter(None, (row.status, " ".join(row.reason.split())))))
        return rf"{_latex_classes(row)} & \multicolumn{{4}}{{p{{0.6\linewidth}}}}{{{reason}}} \\"
    cells = [_latex_seconds(row.mean_s), _latex_speedup(row.speedup_of_means, row)]
    cells += [_latex_seconds(row.median_s), _latex_speedup(row.speedup, row, wording.interval(row, ", "))]
    return f"{_latex_classes(row)} & {' & '.join(cells)} \\\\"


def _latex_classes(row: Row) -> str:
    if row.kind == "control":
        return f"{row.classes} (control)"
    if row.is_reference:
        return f"{row.classes} (SLC)"
    power = wording.exponent(row.classes)
    return f"$2^{{{power}}}$" if power else str(row.classes)


def _latex_seconds(seconds: float | None) -> str:
    return "--" if seconds is None else rf"${wording.significant(1e3 * seconds)} \times 10^{{-3}}$"


def _latex_speedup(value: float | None, row: Row, interval: str = "") -> str:
    if value is None or row.is_reference:
        return "--"
    return rf"$\times {wording.speedup(value)}$" + (f" [{interval}]" if interval else "")


def escape_latex(text: str) -> str:
    """Text that LaTeX prints as it is."""
    return "".join(_LATEX_SPECIAL.get(character, character) for character in text)


def beside_published(series: Sequence[Series]) -> pd.DataFrame:
    """Measured beside published (Table 3), at the counts and networks that both have.

    Of settings whose work is the paper's. Both by the paper's estimator: mean seconds per example and the ratio of
    means. `ratio` is the measured speedup over the published one; `setting` is what tells the line from those of other
    settings of the network, empty where nothing has to. A failed point is a line without numbers.
    """
    lines = [
        {
            "arch": row.arch,
            "setting": label,
            "classes": row.classes,
            "status": row.status,
            "measured_s": row.mean_s,
            "published_s": paper.seconds,
            "measured_speedup": row.speedup_of_means,
            "published_speedup": paper.speedup,
            "ratio": None if row.speedup_of_means is None else row.speedup_of_means / paper.speedup,
        }
        for each, label in zip(series, labels(series), strict=True)
        for row in each.points
        for paper in published(row.arch)
        if paper.classes == row.classes and _is_the_papers_work(row)
    ]
    frame = pd.DataFrame(lines, columns=[*_BESIDE, "status"])
    return frame.astype(dict.fromkeys(("measured_s", "measured_speedup", "ratio"), "float64"))


def _is_the_papers_work(row: Row) -> bool:
    """One logit against all logits of the full layer, on the device alone."""
    return (row.work, row.top_layer, row.subset) == ("logits", "full", 1)


def _or_empty(form: Callable[[float], str]) -> Callable[[float], str]:
    return lambda value: "" if pd.isna(value) else form(value)


#: Columns of `beside_published`, shown as text -> heading and form of a cell.
_BESIDE: dict[str, tuple[str, Callable[..., str]]] = {
    "arch": ("architecture", str),
    "setting": ("setting", str),
    "classes": ("classes", wording.count),
    "measured_s": ("measured, ms", _or_empty(wording.milliseconds)),
    "published_s": ("published, ms", _or_empty(lambda seconds: f"{1e3 * seconds:.1f}")),
    "measured_speedup": ("measured speedup", _or_empty(wording.speedup)),
    "published_speedup": ("published speedup", _or_empty(wording.speedup)),
    "ratio": ("ratio of speedups", _or_empty(wording.speedup)),
}


def beside_published_cells(series: Sequence[Series]) -> tuple[list[str], list[list[str]]]:
    """`beside_published` as text, header and lines; with the column of settings only where there is one to name."""
    lines = beside_published(series).to_dict("records")
    shown = [name for name in _BESIDE if name != "setting" or any(line["setting"] for line in lines)]
    return [_BESIDE[name][0] for name in shown], [[_beside_cell(line, name) for name in shown] for line in lines]


def _beside_cell(line: Mapping[Hashable, Any], name: str) -> str:
    if name == "measured_s" and line["status"] != "ok":
        return str(line["status"])
    return _BESIDE[name][1](line[name])


def beside_published_markdown(series: Sequence[Series]) -> str:
    """Measured beside published as a Markdown table; empty where the paper measured none of these points."""
    header, lines = beside_published_cells(series)
    if not lines:
        return ""
    sizes = ", ".join(str(size) for size in sorted({row.batch_size for each in series for row in each.rows}))
    note = (
        "Beside the paper (Keren et al. 2019, Table 3: TensorFlow, Maxwell Titan X, minibatches of 32), both by its "
        f"estimator, mean time for one example; measured here with minibatches of {sizes}:"
    )
    left = [index for index, name in enumerate(header) if name in wording.WORDS]
    return f"{note}\n\n{markdown_table(header, lines, left=left)}\n"
