"""The rows of a study as CSV, to full precision, and as Markdown for people."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from bench.folder import Notice, write_atomically
from reports.accuracy.wording import decimal
from reports.accuracy.wording import parity as parity_words
from reports.scaling import wording
from reports.tables import markdown_table
from reports.wording import count, milliseconds, speedup

if TYPE_CHECKING:
    from bench.accuracy.parity import Parity
    from bench.scaling.judgements import Speed
    from bench.scaling.rows import Estimate, ScalingRow
    from reports.scaling.results import Result

#: Columns of whole numbers, which stay whole beside empty cells.
_WHOLE = ("steps", "queries", "peak_bytes", "batch_size")

_HEADER = (
    "classes",
    "loss",
    "rate",
    "seeds",
    "one logit, 1-AUPRC",
    "all logits, 1-AUPRC",
    "optimum, 1-AUPRC",
    "above the optimum",
    "one logit / all logits of CE",
    "one logit / its own all",
    "converged",
    "step, ms",
    "peak memory of steps, GB",
)
_LEFT = (1, 10)


def write_csv(path: Path, rows: "Sequence[ScalingRow]") -> None:
    """Write a line a class count and loss, an empty cell where there is no number. Raises OSError."""
    frame = pd.DataFrame([line(row) for row in rows])
    frame = frame.astype({name: "Int64" for name in _WHOLE if name in frame})
    write_atomically(path, frame.to_csv(index=False, lineterminator="\n"))


def line(row: "ScalingRow") -> dict[str, Any]:
    """A row as the columns of scaling.csv; lists (rates, seeds) are separated by spaces."""
    settled, cost = row.convergence, row.cost
    return {
        "classes": row.classes,
        "loss": row.loss,
        "name": row.name,
        "aligned": row.aligned,
        "status": row.status,
        "reason": row.reason,
        "learning_rates": " ".join(f"{rate:g}" for rate in row.learning_rates),
        "seeds": " ".join(map(str, row.seeds)),
        "steps": row.steps,
        "queries": row.queries,
        **_estimate_cells("single", row.single),
        **_estimate_cells("all", row.all),
        **_estimate_cells("optimum", row.optimum),
        "above_optimum": row.above_optimum,
        **_parity_cells("ce", row.with_ce),
        **_parity_cells("own", row.with_own),
        **_parity_cells("optimum", row.with_optimum),
        "converged": settled.converged,
        "converged_single": settled.single.converged,
        "converged_all": settled.all.converged,
        "half_steps_ratio_single": settled.single.ratio,
        "half_steps_ratio_all": settled.all.ratio,
        "converged_reason": settled.reason,
        "step_seconds": None if cost is None else cost.seconds,
        "step_seconds_lower_quartile": None if cost is None or cost.quartiles is None else cost.quartiles[0],
        "step_seconds_upper_quartile": None if cost is None or cost.quartiles is None else cost.quartiles[1],
        "peak_bytes": None if cost is None else cost.peak_bytes,
        "top_layer_step": None if cost is None else cost.step,
        "batch_size": None if cost is None else cost.batch_size,
        "cost_reason": None if cost is None else cost.reason,
        **_speed_cells(row.speed),
        "as_good": row.as_good,
        "as_good_because": row.as_good_because,
        "faster": row.faster,
        "faster_because": row.faster_because,
        "both": row.both,
    }


def _estimate_cells(name: str, found: "Estimate | None") -> dict[str, float | None]:
    ends = (None, None, None) if found is None else (found.error, found.low, found.high)
    return dict(zip((name, f"{name}_low", f"{name}_high"), ends, strict=True))


def _parity_cells(against: str, found: "Parity | None") -> dict[str, float | str | None]:
    fields = ("verdict", "ratio", "low", "high")
    return {f"{field}_against_{against}": None if found is None else getattr(found, field) for field in fields}


def _speed_cells(found: "Speed | None") -> dict[str, float | str | None]:
    ends = (None,) * 4 if found is None else (found.speedup, found.low, found.high, found.reason)
    return dict(zip(("speedup", "speedup_low", "speedup_high", "speedup_reason"), ends, strict=True))


def markdown(result: "Result") -> str:
    """What was measured on what, the answer, the rows, the speedups, what is missing, the warnings."""
    parts = [
        _heading(result),
        _list("Where is one logit both faster and as good?", result.answer_lines),
        _text(wording.limits(result.run.manifest)),
        "### Accuracy and cost",
        markdown_table(_HEADER, [_cells(row) for row in result.rows if row.status != "left-out" or row.cost], _LEFT),
        _speedups(result),
        _list("Count by count", wording.judged_lines(result.rows)),
        _list("Not trained", wording.left_out(result.run.manifest)),
        _list("Missing", wording.missing(result.rows)),
        _list("Warnings", [_notice(each) for each in result.notices]),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _heading(result: "Result") -> str:
    manifest, state = result.run.manifest, wording.state(result.run)
    lines = "  \n".join(_text(each) for each in wording.measured_on(manifest))
    return f"## {_text(manifest.name)}, {manifest.created[:10]}" + (f" ({state})" if state else "") + f"\n\n{lines}"


def _cells(row: "ScalingRow") -> list[str]:
    cost = row.cost
    return [
        count(row.classes),
        row.name,
        ", ".join(f"{rate:g}" for rate in dict.fromkeys(row.learning_rates)) or row.status,
        str(len(row.seeds)),
        wording.estimate(row.single),
        wording.estimate(row.all),
        wording.estimate(row.optimum),
        decimal(row.above_optimum),
        parity_words(row.with_ce),
        parity_words(row.with_own),
        wording.CONVERGED[row.convergence.converged] if row.seeds else "",
        "" if cost is None else milliseconds(cost.seconds) or "not measured",
        "" if cost is None else wording.gigabytes(cost.peak_bytes),
    ]


def _speedups(result: "Result") -> str:
    if not result.speeds:
        return "### Speed\n\nNo speedup was measured."
    cells = [
        [
            count(classes),
            speedup(found.speedup) or found.reason,
            "" if found.low is None or found.high is None else f"{found.low:.3f} .. {found.high:.3f}",
        ]
        for classes, found in result.speeds
    ]
    return "### Speed\n\n" + markdown_table(("classes", "speedup of one logit", "95 % interval"), cells)


def _notice(notice: Notice) -> str:
    return f"{notice.happened}; {notice.matters}; {notice.remedy}"


def _list(title: str, lines: Sequence[str]) -> str:
    return "" if not lines else f"### {title}\n\n" + "\n".join(f"- {_text(each)}" for each in lines)


def _text(text: str) -> str:
    """Text that Markdown prints as it is, on one line."""
    escaped = {character: f"\\{character}" for character in "\\|*`<>[]"}
    return "".join(escaped.get(character, character) for character in " ".join(text.split()))
