"""What `python -m bench accuracy` does once its options are read: plan, train while showing it, report."""

import functools
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from bench.accuracy import grid
from bench.accuracy import outlook as expectation
from bench.accuracy.grid import Grid
from bench.accuracy.notices import all_notices
from bench.accuracy.plan import Plan, Request, plan
from bench.accuracy.run import AccuracyRun
from bench.accuracy.settings import PAPER_LOSSES
from bench.cli import json_output
from bench.cli.endings import exit_code, written
from bench.cli.exits import DONE
from bench.cli.progress import telling
from bench.errors import UsageError
from reports.accuracy import results, terminal
from reports.accuracy.outlook import print_outlook
from reports.pipes import WhileRead, while_read


def request(*, lr: str | None, losses: str | None, hyperparameters: Sequence[str] | None, **options: Any) -> Request:
    """Options of the command line as a request. Raises UsageError for a list that is none of numbers."""
    return Request(
        losses=_losses(losses),
        learning_rates=None if lr is None else [_number("--lr", part) for part in lr.split(",") if part.strip()],
        hyperparameters=hyperparameters_of(hyperparameters or ()),
        **options,
    )


def _losses(asked: str | None) -> str | tuple[str, ...]:
    """What to train by; a `paper` that somebody typed is the seven losses, beside a preset too."""
    if asked is None:
        return "paper"
    return PAPER_LOSSES if asked.strip() == "paper" else asked


def hyperparameters_of(texts: Sequence[str]) -> dict[str, dict[str, float | str]]:
    """`self-norm.alpha=0.2` and its like, by loss and name. Raises UsageError for anything else."""
    from bench.accuracy import losses

    found: dict[str, dict[str, float | str]] = {}
    for text in texts:
        target, equals, value = text.partition("=")
        loss, dot, name = target.rpartition(".")
        if not (equals and dot and loss and name and value):
            raise UsageError(f"--hyperparameter {text!r}: give LOSS.NAME=VALUE, such as self-norm.alpha=0.2")
        found.setdefault(losses.find(loss).key, {})[name] = _number_or_word(value)
    return found


def new(request: Request, output: Path, *, json: bool, quiet: bool) -> int:
    """Start a run and train it."""
    planned = plan(request, telling(quiet=quiet))
    command = ["python", "-m", "bench", *sys.argv[1:]]
    return _train(planned, lambda watch: grid.start(planned, output, command, watch), json=json, quiet=quiet)


def resume(path: Path, *, json: bool, quiet: bool) -> int:
    """Continue a run that was cut off."""
    planned, started = grid.reopen(path)
    return _train(planned, started.watched, json=json, quiet=quiet)


def outlook(request: Request, *, json: bool) -> int:
    """Show what a run would do; nothing is trained."""
    expected = expectation.outlook_of(plan(request, telling(quiet=json)))
    if json:
        json_output.print_object(json_output.accuracy_outlook_object(expected))
    else:
        print_outlook(expected)
    return DONE


def _train(planned: Plan, begin: Callable[[grid.Watch], Grid], *, json: bool, quiet: bool) -> int:
    stream = sys.stderr if json else sys.stdout
    view = terminal.choose_view(stream, quiet=quiet)
    show = WhileRead(stream)

    def watch(run: AccuracyRun, progress: grid.Progress) -> None:
        show(lambda: view.update(terminal.progress_of(run, progress)))
        for notice in run.manifest.notices:
            show(functools.partial(view.notice, notice))

    started = begin(watch)
    show(lambda: view.start(started.run))
    try:
        run = grid.execute(planned, started)
    finally:
        show(view.stop)
    result = results.Result.of(run)
    paths = _write(result)
    if json and quiet:  # the table is in the object already
        for notice in all_notices(run):
            show(functools.partial(view.notice, notice))
    else:
        show(lambda: view.finish(run, result.rows, result.notices, paths))
    if json:
        with while_read(sys.stdout):
            json_output.print_object(json_output.accuracy_object(run, result.rows))
    return exit_code(run.manifest.status)


def _write(result: results.Result) -> list[Path]:
    folder = result.run.path
    assert folder is not None, "the command line always writes its runs"
    return written(lambda: results.write_together(folder, [result]), folder)


def _number(option: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise UsageError(f"{option}: {text.strip()!r} is no number") from None


def _number_or_word(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text
