"""What `python -m bench paper` does once its options are read: spread the time, do the parts, hold the claims to them.

Everything here takes the list of parts, so that a test can have its own.
"""

import dataclasses
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from pydantic import ValidationError

from bench.accuracy.notices import LOST, all_notices
from bench.accuracy.run import AccuracyRun
from bench.cli import json_output
from bench.cli.endings import exit_code, written
from bench.cli.exits import DONE
from bench.errors import UsageError
from bench.folder import first_problem
from bench.paper import edition
from bench.paper.budget import parse_budget
from bench.paper.claims import Claim
from bench.paper.edition import Edition, Expect
from bench.paper.evidence import claims_of
from bench.paper.expectation import demand_of
from bench.paper.parts import PAPER, AccuracyPart, Options, SpeedPart
from bench.paper.record import PaperManifest, PartRecord
from bench.paper.reuse import find, marked
from bench.run import Run
from reports import paper, results, terminal
from reports.accuracy import results as accuracy_results
from reports.accuracy import terminal as accuracy_terminal
from reports.pipes import WhileRead, while_read
from reports.whole import write_together

CLAIMS_SCHEMA = "slc-bench/claims/1"
OUTLOOK_SCHEMA = "slc-bench/paper-outlook/1"


def request(
    budget: str,
    *,
    device: str,
    threads: int | None,
    seed: int,
    data_dir: Path | None,
    parts: Sequence[SpeedPart | AccuracyPart] = PAPER,
) -> PaperManifest:
    """Options of the command line as the manifest of a run to be.

    Raises UsageError for a budget that is no time, and for a device that is not here.
    """
    folder = None if data_dir is None else str(data_dir.expanduser().absolute())
    try:
        options = Options(device=device, threads=threads, seed=seed, data_dir=folder)
    except ValidationError as error:
        raise UsageError(f"--{first_problem(error)}") from None
    command = ["python", "-m", "bench", *without_places(sys.argv[1:])]
    return edition.manifest_of(parts, options, parse_budget(budget), command)


def without_places(words: Sequence[str]) -> list[str]:
    """A command line whose reused runs are named by their folders alone: where they lay is nobody's concern."""
    kept: list[str] = []
    for word in words:
        if kept and kept[-1] == "--reuse":
            word = Path(word).resolve().name
        elif word.startswith("--reuse="):
            word = f"--reuse={Path(word.removeprefix('--reuse=')).resolve().name}"
        kept.append(word)
    return kept


def new(
    manifest: PaperManifest,
    output: Path,
    *,
    json: bool,
    quiet: bool,
    expect: Expect = demand_of,
    reuse: Sequence[Path] = (),
) -> int:
    """Start a run and do it; `reuse` are finished runs of parts, which are not measured again."""
    watch = _Watch(json=json, quiet=quiet)
    begun = edition.start(manifest, output, watch, expect, find(reuse, manifest))
    return _do(begun, watch, json=json, quiet=quiet)


def resume(
    path: Path,
    budget: str | None,
    *,
    json: bool,
    quiet: bool,
    expect: Expect = demand_of,
    reuse: Sequence[Path] = (),
) -> int:
    """Continue a run that was cut off, or that left something out; `budget` None leaves it as it was."""
    watch = _Watch(json=json, quiet=quiet)
    return _do(edition.reopen(path, budget, watch, expect, reuse), watch, json=json, quiet=quiet)


def outlook(
    manifest: PaperManifest,
    *,
    json: bool,
    quiet: bool = False,
    expect: Expect = demand_of,
    reuse: Sequence[Path] = (),
) -> int:
    """Show what a run would do; nothing is kept, but data sets that were missing are."""
    manifest = marked(manifest, find(reuse, manifest), {})
    look = Edition(manifest, None, _Watch(json=True, quiet=quiet), expect)
    look.look_ahead()
    if json:
        json_output.print_object(outlook_object(look.manifest))
    else:
        paper.print_parts(look.manifest, sys.stdout)
        paper.print_notices(look.manifest, sys.stdout)
    return DONE


def _do(begun: Edition, watch: "_Watch", *, json: bool, quiet: bool) -> int:
    watch.say(lambda: paper.print_beginning(begun.manifest, begun.path, watch.stream))
    status = edition.execute(begun)
    runs = edition.runs_of(begun.manifest, begun.path)
    claims = claims_of(begun.manifest.parts, runs)
    paths = written(lambda: write_together(begun.path, begun.manifest, claims, runs), begun.path)
    watch.tell(lambda: paper.print_notices(begun.manifest, watch.stream))
    if not (json and quiet):  # they are in the object already
        watch.tell(lambda: paper.print_claims(claims, begun.manifest, paths, watch.stream))
    if json:
        with while_read(sys.stdout):
            json_output.print_object(claims_object(begun.manifest, begun.path, claims))
    return exit_code(status)


class _Watch:
    """Shows each part as it comes and goes; its tables are written into its own folder, as its own command does."""

    def __init__(self, *, json: bool, quiet: bool) -> None:
        self.stream = sys.stderr if json else sys.stdout
        self._quiet = quiet
        self._show = WhileRead(self.stream)
        self._progress = paper.Progress(self.stream)

    def tell(self, show: Callable[[], None]) -> None:
        """Show something, whether quiet or not."""
        self._show(show)

    def say(self, show: Callable[[], None]) -> None:
        """Show something unless quiet."""
        if not self._quiet:
            self._show(show)

    def expects(self, record: PartRecord) -> None:
        self.say(lambda: self._progress.expects(record))

    def begins(self, record: PartRecord) -> None:
        self.say(lambda: self._progress.begins(record))

    def advances(self, record: PartRecord, share: float) -> None:
        self.say(lambda: self._progress.advances(record, share))

    def ends(self, record: PartRecord, run: Run | AccuracyRun | None) -> None:
        self.say(lambda: self._progress.ends(record))
        if run is None or run.path is None:
            return
        path = run.path
        if isinstance(run, Run):
            self._show_speed(results.Result.of(run), path)
        else:
            self._show_accuracy(accuracy_results.Result.of(run), path)

    def _show_speed(self, result: results.Result, path: Path) -> None:
        paths = written(lambda: results.write_together(path, [result]), path) if result.rows else []
        view = terminal.QuietView(self.stream)
        self.say(lambda: view.finish(result.run, result.rows, result.notices, result.break_evens, paths))

    def _show_accuracy(self, result: accuracy_results.Result, path: Path) -> None:
        paths = written(lambda: accuracy_results.write_together(path, [result]), path)
        view = accuracy_terminal.QuietView(self.stream)
        # The view has a line for each training that was lost.
        others = [notice for notice in all_notices(result.run) if notice.kind not in LOST]
        self.say(lambda: view.finish(result.run, result.rows, others, paths))


def claims_object(manifest: PaperManifest, path: Path, claims: Sequence[Claim]) -> dict[str, object]:
    """{schema, run, rows}: how the run ended and what became of its parts; a row a claim, with its cases."""
    return {
        "schema": CLAIMS_SCHEMA,
        "run": {
            "path": str(path),
            "name": manifest.name,
            "created": manifest.created,
            "status": manifest.status,
            "budget_s": manifest.budget_s,
            "parts": [record.model_dump(mode="json") for record in manifest.parts],
        },
        "rows": [dataclasses.asdict(claim) for claim in claims],
    }


def outlook_object(manifest: PaperManifest) -> dict[str, object]:
    """{schema, run, rows} of a run that was not made: a row a part."""
    return {
        "schema": OUTLOOK_SCHEMA,
        "run": {"path": None, "budget_s": manifest.budget_s, "seconds": paper.expected_s(manifest)},
        "rows": [
            {**record.model_dump(mode="json"), "expected_s": paper.expected_part_s(record)} for record in manifest.parts
        ],
    }
