"""What `python -m bench accuracy` does once its options are read: plan, train while showing it, report."""

import contextlib
import functools
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from bench.accuracy import grid
from bench.accuracy import outlook as expectation
from bench.accuracy.grid import Grid
from bench.accuracy.notices import all_notices
from bench.accuracy.plan import Plan
from bench.accuracy.ranks import Place, RankLost, Ranks, agree, joined, on_each, place_in
from bench.accuracy.request import ONE_PROCESS, Request
from bench.accuracy.run import AccuracyRun
from bench.accuracy.settings import PAPER_LOSSES
from bench.cli import json_output
from bench.cli.endings import exit_code, written
from bench.cli.exits import DONE, INCOMPLETE, INTERRUPTED, USAGE
from bench.cli.given import numbers
from bench.cli.progress import telling
from bench.errors import UsageError
from bench.text import on_one_line
from reports.accuracy import results, terminal
from reports.accuracy.outlook import print_outlook
from reports.pipes import WhileRead, while_read


def request(*, lr: str | None, losses: str | None, hyperparameters: Sequence[str] | None, **options: Any) -> Request:
    """Options of the command line as a request. Raises UsageError for a list that is none of numbers."""
    place, local_ranks = _place()
    return Request(
        place=place,
        local_ranks=local_ranks,
        losses=_losses(losses),
        learning_rates=None if lr is None else numbers("--lr", lr),
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

    def work(ranks: Ranks) -> int:
        planned = grid.plan_over(request, ranks, telling(quiet=quiet or ranks.rank > 0))
        return _train(planned, lambda: grid.start(planned, output, _command()), ranks, json=json, quiet=quiet)

    return _of_ranks("a new run", work)


def resume(path: Path, *, address: str | None = None, json: bool, quiet: bool) -> int:
    """Continue a run that was cut off; `address`: on another Ray cluster."""

    def work(ranks: Ranks) -> int:
        started: Grid | None
        if ranks.size == 1:
            planned, started = grid.reopen(path, address=address)
        elif address is not None:
            raise UsageError("--address is for trainings on Ray, and ranks share one: leave it out")
        else:
            planned, started = grid.reopen_over(path, ranks, *_place())
        return _train(planned, lambda: _first_s(started), ranks, json=json, quiet=quiet)

    return _of_ranks("--resume", work)


def outlook(request: Request, *, json: bool) -> int:
    """Show what a run would do; nothing is trained."""

    def work(ranks: Ranks) -> int:
        planned = grid.plan_over(request, ranks, telling(quiet=json or ranks.rank > 0))
        if ranks.rank:
            return DONE
        expected = expectation.outlook_of(planned)
        if json:
            json_output.print_object(json_output.accuracy_outlook_object(expected))
        else:
            print_outlook(expected)
        return DONE

    return _of_ranks("--dry-run", work)


# -- several processes ------------------------------------------------------------------------------------------------


def _place() -> tuple[Place, int]:
    """Which of the ranks that torchrun started this process is, and how many of them are on this machine.

    One without torchrun. Raises UsageError for half of torchrun's variables.
    """
    place = place_in(os.environ)
    if place is None or place.size == 1:
        return ONE_PROCESS, 1
    here = os.environ.get("LOCAL_WORLD_SIZE", "")  # started by hand, without it: all on this machine
    return place, int(here) if here.isdecimal() and int(here) else place.size


def _command() -> list[str]:
    """The command line, as far as a process of it can know."""
    place, here = _place()
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return ["python", "-m", "bench", *sys.argv[1:]]
    machines = ["--nnodes", str(place.size // here)] if place.size > here else []
    return ["torchrun", *machines, "--nproc-per-node", str(here), "-m", "bench", *sys.argv[1:]]


def _of_ranks(asked: str, work: Callable[[Ranks], int]) -> int:
    """The exit code of what all ranks do together, if torchrun started some; else of one process.

    asked: what kind of work it is; ranks that were asked for others would wait for each other in vain. Rank 0 tells
    what all of them end by. The others are silent, and wait until it has: torchrun ends all as soon as one has ended
    badly. A rank that has lost another says so itself.
    """
    own: Ranks | None = None
    try:
        with joined() as ranks, _terminated_as_interrupted(ranks):
            own = ranks
            try:
                agree(ranks, {"what is asked for": asked})
                return work(ranks)
            except UsageError as error:
                if ranks.size == 1:
                    raise
                if ranks.rank == 0:
                    _tell(f"error: {on_one_line(str(error.__cause__ or error))}")
                with contextlib.suppress(RankLost):
                    ranks.wait_for_first()
                return USAGE
    except RankLost as error:
        _tell(f"error: {on_one_line(str(error))}")
        return INCOMPLETE
    except KeyboardInterrupt:
        if own is None or own.rank == 0:
            raise
        return INTERRUPTED


@contextlib.contextmanager
def _terminated_as_interrupted(ranks: Ranks) -> Iterator[None]:
    """Of several ranks, one that is told to terminate ends as by Ctrl-C: its run says so, and shows what it has.

    torchrun tells the ranks that are left as soon as one has died, and kills them 30 s later.
    """
    if ranks.size == 1:
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _tell(line: str) -> None:
    with while_read(sys.stderr):
        print(line, file=sys.stderr, flush=True)


def _first_s(started: Grid | None) -> Grid:
    assert started is not None, "rank 0 has the run"
    return started


def _train(planned: Plan, begin: Callable[[], Grid], ranks: Ranks, *, json: bool, quiet: bool) -> int:
    """Train on all ranks; rank 0 writes, shows and reports, and alone has an exit code that says how it ended."""
    started = on_each(ranks, lambda: begin() if ranks.rank == 0 else None)
    if started is None:
        grid.follow(planned, ranks)
        return DONE
    return _lead(planned, started, ranks, json=json, quiet=quiet)


def _lead(planned: Plan, started: Grid, ranks: Ranks, *, json: bool, quiet: bool) -> int:
    stream = sys.stderr if json else sys.stdout
    view = terminal.choose_view(stream, quiet=quiet)
    show = WhileRead(stream)

    def watch(run: AccuracyRun, progress: grid.Progress) -> None:
        show(lambda: view.update(terminal.progress_of(run, progress)))
        for notice in run.manifest.notices:
            show(functools.partial(view.notice, notice))

    show(lambda: view.start(started.run))
    try:
        run = grid.execute(planned, started.watched(watch), ranks)
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


def _number_or_word(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text
