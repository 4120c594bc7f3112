"""What `python -m bench` does once its options are read: plan, measure while showing it, report."""

import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from bench.cli import json_output
from bench.cli.exits import DONE, INCOMPLETE, INTERRUPTED
from bench.errors import UsageError
from bench.run import Run
from bench.speed import duration
from bench.speed.outlook import outlook_of
from bench.speed.plan import Plan, Request, plan
from bench.speed.prediction import backbone_operations
from bench.speed.recorder import Recorder
from bench.speed.rows import rows
from bench.speed.statistics import LIVE_RESAMPLES
from bench.speed.sweep import execute, reopen, start
from reports import results, terminal

#: A display that is redrawn more often is not read more often, and each time takes from the time of the sweep.
REDRAW_S = 0.25

#: Redrawing takes at most this share of the time, however many points there are to work out.
REDRAW_SHARE = 0.02


def request(*, minibatches: int | None, **options: Any) -> Request:
    """Options of the command line as a request; lists may be repeated or comma-separated."""
    return Request(
        minibatches=100 if minibatches is None else minibatches,
        **{
            **options,
            "batch_size": [_integer("--batch-size", size) for size in _split(options["batch_size"])],
            "dtype": _split(options["dtype"]),
            "compile": _split(options["compile"]),
        },
    )


def new(request: Request, output: Path, *, json: bool, quiet: bool) -> int:
    """Start a run and measure it."""
    planned = plan(request)
    return _measure(
        planned, start(planned, output, command=["python", "-m", "bench", *sys.argv[1:]]), json=json, quiet=quiet
    )


def resume(path: Path, *, json: bool, quiet: bool) -> int:
    """Continue a run that was cut off."""
    planned, recorder = reopen(path)
    return _measure(planned, recorder, json=json, quiet=quiet)


def outlook(request: Request, *, json: bool) -> int:
    """Show what a run would do; nothing is measured but the device's rates."""
    planned = plan(request)
    expected = outlook_of(planned)
    if json:
        json_output.print_object(json_output.outlook_object(expected))
    else:
        terminal.print_outlook(expected)
    return DONE


def _measure(planned: Plan, recorder: Recorder, *, json: bool, quiet: bool) -> int:
    view = terminal.choose_view(quiet=quiet, json=json)
    watch = _Watch(view, planned)
    view.start(recorder.run)
    try:
        run = execute(planned, recorder, watch)
    finally:
        view.stop()
    result = results.Result.of(run)
    paths = _write(result)
    if json and quiet:  # the table is in the object already
        for notice in result.notices:
            view.notice(notice)
    else:
        view.finish(run, result.rows, result.notices, result.break_evens, paths)
    if json:
        json_output.print_object(json_output.run_object(run, result.rows))
    return {"complete": DONE, "interrupted": INTERRUPTED}.get(run.manifest.status, INCOMPLETE)


def _write(result: results.Result) -> list[Path]:
    folder = result.run.path
    assert folder is not None, "the command line always writes its runs"
    if not result.rows:
        return []
    try:
        return results.write_together(folder, [result])
    except OSError as error:
        print(
            f"warning: tables and figure are not written: {error}; make room, then: python -m reports {folder}",
            file=sys.stderr,
        )
        return []


class _Watch:
    """Shows a run between passes, at most so often; counts are worked out only when something is shown."""

    def __init__(self, view: terminal.View, planned: Plan) -> None:
        self._view = view
        self._operations = _operations(planned)
        self._next = 0.0
        self._doing = ""
        self._total = (
            sum(
                sum(duration.passes_planned(setting, planned.protocol).values()) * planned.protocol.minibatches
                for setting in planned.settings
            )
            * planned.protocol.processes
        )

    def __call__(self, run: Run, doing: str) -> None:
        began = time.monotonic()
        if began < self._next and doing == self._doing:
            return
        self._doing = doing
        left = duration.passes_left(run)
        self._view.update(
            run,
            rows(run, resamples=LIVE_RESAMPLES),
            done=self._total - left.total(),
            total=self._total,
            seconds_left=duration.seconds_left(run, self._operations),
            doing=doing,
        )
        ended = time.monotonic()
        self._next = ended + max(REDRAW_S, (ended - began) / REDRAW_SHARE)


def _operations(planned: Plan) -> dict[duration.Key, int]:
    backbones = {name: backbone_operations(network) for name, network in planned.networks.items()}
    return {
        (index, classes): duration.pass_operations(
            setting,
            classes,
            backbone=backbones[setting.arch],
            features=planned.facts[setting.arch].top.features,
        )
        for index, setting in enumerate(planned.settings)
        for classes in planned.protocol.classes
    }


def _split(values: Iterable[str]) -> list[str]:
    return [part.strip() for value in values for part in value.split(",") if part.strip()]


def _integer(option: str, text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise UsageError(f"{option} {text!r}: must be a whole number") from None
