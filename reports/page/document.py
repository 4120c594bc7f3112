"""From results to one HTML file: what stands on the page, in which order, and the file that holds it all.

The file is complete: style, script, plotly.js and every number are in it, and its Content-Security-Policy forbids it to
load anything or to run any script but those two, which it names by their hashes. Text from runs meets three readers
and is escaped for each: HTML (jinja2, autoescape), the JSON inside of a script element (`embedded`), and plotly.js,
which takes a little HTML in labels (reports.page.figures.plain).
"""

import base64
import dataclasses
import hashlib
import importlib.resources
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from bench.folder import Notice
from bench.run import Manifest
from reports import results as speed
from reports import wording
from reports.accuracy import results as accuracy
from reports.accuracy import wording as accuracy_wording
from reports.page import answer, figures, tables
from reports.page.figures import Figure
from reports.page.history import History
from reports.page.tables import Table
from reports.series import failures

TITLE = "How much faster is one logit?"


@dataclass(frozen=True)
class Warnings:
    """What went wrong or deserves doubt in one run."""

    run: str
    notices: tuple[Notice, ...]


@dataclass(frozen=True)
class Origin:
    """Where the numbers of one run come from."""

    run: str
    lines: tuple[str, ...]
    facts: tuple[tuple[str, str], ...]
    versions: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Document:
    """All that stands on the page."""

    answer: list[str]
    measured_on: list[str]
    """devices and versions, each once"""
    answer_table: Table | None
    fig1: Figure | None
    table3: Table | None
    published: Table | None
    accuracy: list[tuple[str, Table, Table | None, list[str]]]
    """of each run its label, Tables 1 and 2, and the verdicts"""
    controls: Table | None
    failed: list[str]
    warnings: list[Warnings]
    samples: Figure | None
    history: History | None
    origins: list[Origin]


def document(
    found: Sequence[speed.Result], accuracies: Sequence[accuracy.Result], history: History | None = None
) -> Document:
    """What the page says of these results. Raises ValueError if there are none."""
    if not found and not accuracies:
        raise ValueError("a page needs at least one run")
    series = [each for result in found for each in result.series]
    labels = accuracy_wording.dataset_labels([result.run for result in accuracies])
    return Document(
        answer=answer.sentences(found, accuracies),
        measured_on=list(
            dict.fromkeys(
                [wording.measured_on(result.run.manifest)[-1] for result in found]
                + [accuracy_wording.measured_on(result.run.manifest)[-1] for result in accuracies]
            )
        ),
        answer_table=tables.by_setting(found),
        fig1=figures.fig1(series),
        table3=tables.table3(series) if series else None,
        published=tables.beside_paper(series) if series else None,
        accuracy=[
            (
                label,
                tables.table1(label, result, index),
                tables.table2(label, result, index) if result.methods else None,
                accuracy_wording.verdict_lines(result.rows),
            )
            for index, (label, result) in enumerate(zip(labels, accuracies, strict=True), start=1)
        ],
        controls=tables.controls(series) if series else None,
        failed=failures(series) + [line for result in accuracies for line in _lost(result)],
        warnings=_warnings(found, accuracies),
        samples=figures.samples(found),
        history=history,
        origins=[_origin(result.run.manifest) for result in found]
        + [_accuracy_origin(label, result) for label, result in zip(labels, accuracies, strict=True)],
    )


def _lost(result: accuracy.Result) -> list[str]:
    lost = [f"{row.name}: {accuracy_wording.status(row)}" for row in result.rows if row.status != "ok"]
    lost += accuracy_wording.incomplete(result.rows) + accuracy_wording.training_failures(result.run.trainings)
    return lost


def _warnings(found: Sequence[speed.Result], accuracies: Sequence[accuracy.Result]) -> list[Warnings]:
    told = [(_run_name(result.run.manifest), result.notices, result.run.manifest.status) for result in found]
    told += [(_run_name(result.run.manifest), result.notices, result.run.manifest.status) for result in accuracies]
    return [
        Warnings(run, (*_unfinished(status), *notices))
        for run, notices, status in told
        if notices or status != "complete"
    ]


def _unfinished(status: str) -> list[Notice]:
    if status == "complete":
        return []
    return [
        Notice(
            kind="unfinished",
            happened=f"the run is {status}",
            matters="rows may be missing, and those that are here rest on fewer rounds",
            remedy="continue it with --resume",
        )
    ]


def _run_name(manifest: Any) -> str:
    return f"{manifest.name}, {manifest.created}"


def _origin(manifest: Manifest) -> Origin:
    facts = {
        "command": " ".join(manifest.command),
        "commit": manifest.commit or "unknown",
        **_machine(manifest.machine),
    }
    return Origin(
        _run_name(manifest), tuple(wording.measured_on(manifest)), _known(facts), tuple(manifest.versions.items())
    )


def _accuracy_origin(label: str, result: accuracy.Result) -> Origin:
    manifest = result.run.manifest
    facts = {
        "command": " ".join(manifest.command),
        "commit": manifest.commit or "unknown",
        **_machine(manifest.machine),
    }
    name = f"{label}, {manifest.created}"
    return Origin(name, tuple(accuracy_wording.measured_on(manifest)), _known(facts), tuple(manifest.versions.items()))


def _machine(machine: Any) -> dict[str, str]:
    facts = {
        "CPU": machine.cpu,
        "cores": f"{machine.cores_usable:g} usable, {machine.cores_physical} physical, {machine.cores_logical} logical",
        "memory": f"{machine.memory_bytes / 1e9:.1f} GB",
        "system": machine.os,
        "frequency governor": machine.governor or "not shown",
    }
    if machine.container_memory_limit_bytes:
        facts["memory limit of the container"] = f"{machine.container_memory_limit_bytes / 1e9:.1f} GB"
    if machine.gpu is not None:
        gpu = machine.gpu
        facts["GPU"] = f"{gpu.name}, {gpu.memory_bytes / 1e9:.1f} GB"
        facts["GPU driver"] = gpu.driver or ""
        facts["GPU power limit"] = f"{gpu.power_limit_w} W" if gpu.power_limit_w else ""
        facts["GPU slice (MIG)"] = "yes" if gpu.mig else ""
    return facts


def _known(facts: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    return tuple((name, text) for name, text in facts.items() if text)


def figures_of(page: Document) -> list[Figure]:
    """The figures of a page in the order they stand on it."""
    candidates = (page.fig1, page.samples, page.history.figure if page.history else None)
    return [each for each in candidates if each is not None]


def render(page: Document) -> str:
    """The page as one HTML document.

    Raises ValueError if plotly.js cannot stand in a page as it is: then nothing is to be written.
    """
    script = Markup(_asset("page.js"))
    style = Markup(_asset("page.css"))
    library = Markup(plotting_library())
    environment = jinja2.Environment(
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        loader=jinja2.FunctionLoader(_asset),
    )
    return environment.get_template("page.html").render(
        page=page,
        title=TITLE,
        policy=policy([library, script], [style, *library_styles(library)]),
        style=style,
        library=library,
        script=script,
        figures={each.id: each for each in figures_of(page)},
        data=embedded([_slim(each) for each in figures_of(page)]),
    )


def _slim(figure: Figure) -> dict[str, Any]:
    return {
        "id": figure.id,
        "views": [dataclasses.asdict(view) for view in figure.views],
    }


def _asset(name: str) -> str:
    return (importlib.resources.files("reports.page") / name).read_text(encoding="utf-8")


def plotting_library() -> str:
    """plotly.js as its Python package carries it.

    Raises ValueError if it could end or derail the script element that holds it.
    """
    file = importlib.resources.files("plotly") / "package_data" / "plotly.min.js"
    text = file.read_text(encoding="utf-8").replace("\r\n", "\n").replace("\r", "\n")
    for tag in ("</script", "<!--"):
        if tag in text.lower():
            raise ValueError(f"this version of plotly.js holds {tag!r} and cannot stand in a page; install another")
    return text


#: How plotly.js hands over the style sheet of its maps, which it does in any page.
_LIBRARY_STYLE = re.compile(r"textContent='([^'\\]*)',document\.head\.appendChild")


def library_styles(library: str) -> list[str]:
    """The styles that plotly.js adds to a page: an empty one, filled through the CSSOM, and that of its maps.

    One that is missed here does no harm: the browser refuses it, and says so in its console.
    """
    return ["", *_LIBRARY_STYLE.findall(library)]


def policy(scripts: Sequence[str], styles: Sequence[str]) -> str:
    """A Content-Security-Policy under which nothing is loaded, and nothing runs but these scripts and styles."""
    return "; ".join(
        [
            "default-src 'none'",
            f"script-src {' '.join(map(_hash, scripts))}",
            f"style-src {' '.join(map(_hash, styles))}",
            "img-src data:",
            "base-uri 'none'",
            "form-action 'none'",
        ]
    )


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def embedded(content: Any) -> Markup:
    """JSON that may stand inside of a script element, whatever its texts hold. Raises ValueError for NaN."""
    text = json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)


def build(found: Sequence[speed.Result], accuracies: Sequence[accuracy.Result], history: Path | None = None) -> str:
    """The page of these results and of the history in this folder, if one is given. Raises UsageError."""
    from reports.page.history import read

    return render(document(found, accuracies, None if history is None else read(history)))
