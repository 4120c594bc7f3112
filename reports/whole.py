"""A run of the whole paper on paper: tables and figures of all its parts together, and the claims."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from bench.accuracy.run import AccuracyRun
from bench.paper.claims import Claim
from bench.paper.record import PaperManifest
from bench.run import Run
from reports import paper, results
from reports.accuracy import results as accuracy_results


def write_together(
    folder: Path, manifest: PaperManifest, claims: Sequence[Claim], runs: Mapping[str, Run | AccuracyRun]
) -> list[Path]:
    """Write the tables and figures of all parts together, and the claims; what has no numbers yet is not written.

    Raises OSError; a file is then as it was, or complete.
    """
    speed = [results.Result.of(run) for run in runs.values() if isinstance(run, Run)]
    accuracy = [accuracy_results.Result.of(run) for run in runs.values() if isinstance(run, AccuracyRun)]
    paths: list[Path] = []
    if any(result.rows for result in speed):
        paths += results.write_together(folder, speed)
    if accuracy:
        paths += accuracy_results.write_together(folder, accuracy)
    return paths + paper.write(folder, claims, manifest)
