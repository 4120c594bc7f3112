"""What `python -m bench export` does once its options are read."""

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from bench.cli.exits import DONE, INCOMPLETE
from bench.cli.keeping import read
from bench.errors import UsageError
from bench.folder import write_atomically
from bench.history import formats
from bench.history.labels import point_label
from bench.history.reading import plausible
from bench.history.snapshot import Point, Snapshot, snapshot
from bench.run import Run, load_run
from bench.runs import kind_of
from bench.text import on_one_line
from reports.pipes import while_read

FORMATS = ("pytest-benchmark", "github-action-benchmark", "bencher", "csv")

#: What --quantity takes, and the setting `tool` that github-action-benchmark then needs.
QUANTITIES = {"times": "customSmallerIsBetter", "speedups": "customBiggerIsBetter"}


def export(run: str, form: str, quantity: str | None, output: Path | None, store: Path) -> int:
    """Write a run in another tool's words; of points that failed there are no numbers, which the exit code says."""
    if form not in FORMATS:
        raise UsageError(f"--format {form!r} is not known; one of {', '.join(FORMATS)}")
    if quantity is not None and form != "github-action-benchmark":
        raise UsageError(
            f"--quantity belongs to github-action-benchmark; {form} holds times and speedups: leave it out"
        )
    text, brief = _text(run, form, quantity, store)
    _write(text, output)
    return _tell([point for point in brief.points if point.status != "ok" or point.all is None])


def _tell(missing: Sequence[Point]) -> int:
    """Name the points without a number; the exit code that follows."""
    with while_read(sys.stderr):
        for point in missing:
            why = f"{point.status}: {point.reason}" if point.status != "ok" else "not measured yet"
            name = on_one_line(point_label(point.work, point.threads))
            print(f"warning: no numbers of {name} ({on_one_line(why)})", file=sys.stderr)
    return INCOMPLETE if missing else DONE


def _text(run: str, form: str, quantity: str | None, store: Path) -> tuple[str, Snapshot]:
    if form == "pytest-benchmark":
        whole = _with_samples(run)
        brief = plausible(Path(run), snapshot(whole))
        return _json(formats.to_pytest_benchmark(whole, brief)), brief
    brief = read(run, store)
    if form == "github-action-benchmark":
        return _json(_of_github(brief, quantity)), brief
    written: dict[str, Callable[[Snapshot], str]] = {
        "bencher": lambda brief: _json(formats.to_bencher(brief)),
        "csv": formats.to_csv,
    }
    return written[form](brief), brief


def _of_github(brief: Snapshot, quantity: str | None) -> list[dict[str, Any]]:
    if quantity == "times":
        return formats.to_github_action_benchmark(brief, "times")
    if quantity == "speedups":
        return formats.to_github_action_benchmark(brief, "speedups")
    choice = " or ".join(f"{name} (for its tool: {tool!r})" for name, tool in QUANTITIES.items())
    raise UsageError(f"github-action-benchmark takes smaller or bigger as better for a whole file: --quantity {choice}")


def _with_samples(run: str) -> Run:
    """A run with its samples. Raises UsageError for anything but the folder of a speed run."""
    path = Path(run).expanduser()
    if not path.is_dir():
        raise UsageError(
            f"{run!r} is no run's folder, and pytest-benchmark's format needs its samples; give the folder"
        )
    if kind_of(path) != "speed":
        raise UsageError(f"{run!r} is an accuracy run; only speed runs hold times to export")
    return load_run(path)


def _json(content: object) -> str:
    return json.dumps(content, indent=1, allow_nan=False) + "\n"


def _write(text: str, output: Path | None) -> None:
    if output is None:
        print(text, end="", flush=True)
        return
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(output, text)
    except OSError as error:
        raise UsageError(
            f"cannot write {str(output)!r}: {error.strerror or error}; name another with --output"
        ) from None
    print(f"written to {output}")
