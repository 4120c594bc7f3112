"""What `python -m bench` does once its options are read: plan, measure while showing it, report."""

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, TextIO

from bench.cli import json_output
from bench.cli.endings import exit_code, written
from bench.cli.exits import DONE
from bench.errors import UsageError
from bench.folder import Notice
from bench.run import Manifest, Run
from bench.speed import duration
from bench.speed.outlook import outlook_of
from bench.speed.plan import Plan, Request, plan
from bench.speed.prediction import backbone_operations
from bench.speed.recorder import Recorder
from bench.speed.rows import BreakEven, Row, rows
from bench.speed.statistics import LIVE_RESAMPLES
from bench.speed.sweep import execute, reopen, start
from reports import results, terminal
from reports.pipes import WhileRead, while_read


def request(*, minibatches: int | None, memory_format: list[str], **options: Any) -> Request:
    """Options of the command line as a request; lists may be repeated or comma-separated."""
    return Request(
        minibatches=100 if minibatches is None else minibatches,
        **{
            **options,
            "batch_size": [_integer("--batch-size", size) for size in _split(options["batch_size"])],
            "dtype": _split(options["dtype"]),
            "compile": _split(options["compile"]),
            "work": _split(options["work"]),
            "top_layer": _split(options["top_layer"]),
            "channels_last": _switches("--memory-format", memory_format, "contiguous", "channels-last"),
            "cuda_graph": _switches("--cuda-graph", options["cuda_graph"], "off", "on"),
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
    warnings = terminal.choose_view(sys.stderr, quiet=True)
    for notice in planned.notices:
        warnings.notice(notice)
    return DONE


def _measure(planned: Plan, recorder: Recorder, *, json: bool, quiet: bool) -> int:
    stream = sys.stderr if json else sys.stdout
    view = _WhileRead(terminal.choose_view(stream, quiet=quiet), stream)
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
        with while_read(stream):
            terminal.print_lines(result.energy.lines, stream)
    if json:
        with while_read(sys.stdout):
            json_output.print_object(json_output.run_object(run, result.rows, result.energy.rows))
    return exit_code(run.manifest.status, undecided=result.energy.is_undecided)


def _write(result: results.Result) -> list[Path]:
    folder = result.run.path
    assert folder is not None, "the command line always writes its runs"
    if not result.rows:
        return []
    return written(lambda: results.write_together(folder, [result]), folder, "tables and figure")


class _WhileRead:
    """A view that shows nothing more once its reader is gone (`| head -1`); the sweep goes on to its end without."""

    def __init__(self, view: terminal.View, stream: TextIO) -> None:
        self._view = view
        self._show = WhileRead(stream)

    def start(self, run: Run) -> None:
        self._show(lambda: self._view.start(run))

    def update(self, run: Run, progress: terminal.Progress) -> None:
        self._show(lambda: self._view.update(run, progress))

    def notice(self, notice: Notice) -> None:
        self._show(lambda: self._view.notice(notice))

    def stop(self) -> None:
        self._show(self._view.stop)

    def finish(
        self,
        run: Run,
        rows: Sequence[Row],
        notices: Sequence[Notice],
        break_evens: Sequence[BreakEven],
        paths: Sequence[Path],
    ) -> None:
        self._show(lambda: self._view.finish(run, rows, notices, break_evens, paths))


class _Watch:
    """Tells a view between passes how far a run is; the view decides what is worth working out and showing."""

    def __init__(self, view: terminal.View, planned: Plan) -> None:
        self._view = view
        self._operations = _operations(planned)
        self._manifest: Manifest | None = None
        self._counted = 0
        self._done = 0
        self._total = (
            sum(
                sum(duration.passes_planned(setting, planned.protocol).values()) * planned.protocol.minibatches
                for setting in planned.settings
            )
            * planned.protocol.processes
        )

    def __call__(self, run: Run, doing: str) -> None:
        self._count(run)
        progress = terminal.Progress(
            done=self._done,
            total=self._total,
            doing=doing,
            rows=lambda: rows(run, resamples=LIVE_RESAMPLES),
            seconds_left=lambda: duration.seconds_left(run, self._operations),
        )
        self._view.update(run, progress)

    def _count(self, run: Run) -> None:
        """Passes that are done or will never come.

        Between two passes nothing is counted but the new ones: what will never come (a point failed, a process
        stopped early) is known from the manifest, which is then another.
        """
        if run.manifest is self._manifest:
            self._done += sum(sample.phase == "timed" for sample in run.samples[self._counted :])
        else:
            self._manifest = run.manifest
            self._done = self._total - duration.passes_left(run).total()
        self._counted = len(run.samples)


def _operations(planned: Plan) -> dict[duration.Key, int]:
    backbones = {
        name: backbone_operations(network, planned.facts[name].top) for name, network in planned.networks.items()
    }
    return {
        (index, classes): duration.pass_operations(setting, backbone=backbones[setting.arch], top_layer=work.operations)
        for index, setting in enumerate(planned.settings)
        for classes, work in planned.top_layer_works(setting).items()
    }


def _split(values: Iterable[str]) -> list[str]:
    return [part.strip() for value in values for part in value.split(",") if part.strip()]


def _switches(option: str, texts: Iterable[str], off: str, on: str) -> list[bool]:
    asked = _split(texts)
    for text in asked:
        if text not in (off, on):
            raise UsageError(f"{option} {text!r}: must be one of {off}, {on}")
    return [text == on for text in asked]


def _integer(option: str, text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise UsageError(f"{option} {text!r}: must be a whole number") from None
