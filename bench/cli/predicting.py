"""What `python -m bench predict` does once its options are read."""

import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from bench.cli import json_output
from bench.cli.exits import DONE
from bench.errors import UsageError
from bench.machine.fingerprint import describe
from bench.run import Run, load_run
from bench.speed import device_rates, model_sources
from bench.speed.device_rates import DeviceRates
from bench.speed.model_sources import Source
from bench.speed.plan import Plan, Request, class_counts, plan
from bench.speed.settings import Dtype, Setting
from reports import predictions, wording
from reports.pipes import while_read

DEFAULT_ARCH = "resnet50"


@dataclass(frozen=True)
class Asked:
    """The options, as they were given; None where they were not."""

    archs: tuple[str, ...] = ()
    max_classes: str | None = None
    classes: str | None = None
    batch_size: int | None = None
    dtype: str | None = None
    runs: tuple[Path, ...] = ()
    fit: bool = False
    device_rates: Path | None = None
    save_rates: Path | None = None
    device: str = "auto"
    threads: int | None = None


def answer(asked: Asked, *, json: bool, quiet: bool) -> int:
    """Predict from what was given, and say it. Raises UsageError for options that contradict each other."""
    _refuse_contradictions(asked)
    classes = class_counts(asked.max_classes, asked.classes)
    given = None if asked.device_rates is None else device_rates.read(asked.device_rates)
    if given is not None:
        sources = _from_file(asked, given)
    else:
        sources = _from_runs(asked) if asked.runs else _from_here(asked, classes[-1], quiet=quiet)
    if asked.save_rates is not None:
        device_rates.write(asked.save_rates, model_sources.to_file(sources))
        _tell(f"rates written to {asked.save_rates}")
    error = model_sources.pooled(sources) if given is None else given.spread
    if json:
        runs = [str(path) for path in asked.runs]
        json_output.print_object(predictions.to_object(sources, classes, error, runs))
    else:
        predictions.print_predictions(sources, classes, error)
    return DONE


def _refuse_contradictions(asked: Asked) -> None:
    if asked.runs and asked.device_rates is not None:
        raise UsageError("--run and --device-rates exclude each other: a measured machine, or another one")
    if asked.fit and not asked.runs:
        raise UsageError("--fit needs --run: rates are fitted to a run's points")
    if asked.save_rates is not None and asked.device_rates is not None:
        raise UsageError("--save-rates writes the rates of this machine or a run; those of --device-rates are a file")
    for option, given in (("--device", asked.device != "auto"), ("--threads", asked.threads is not None)):
        if given and (asked.runs or asked.device_rates is not None):
            raise UsageError(f"{option} is for calibrating this machine; a run or a file of rates has its own")
    if asked.batch_size is not None and asked.batch_size < 1:
        raise UsageError(f"--batch-size {asked.batch_size}: must be 1 or more")
    if asked.dtype is not None and asked.dtype not in get_args(Dtype):
        raise UsageError(f"--dtype {asked.dtype!r}: must be one of {', '.join(get_args(Dtype))}")


def _names(archs: Sequence[str]) -> list[str]:
    """The networks asked for, `paper` and lists taken apart."""
    from archs.registry import UnknownNetwork, expand

    try:
        return list(expand(archs))
    except UnknownNetwork as error:
        raise UsageError(str(error)) from None


# -- from runs ----------------------------------------------------------------------------------------------------


def _from_runs(asked: Asked) -> list[Source]:
    runs = {path: load_run(path) for path in asked.runs}
    wanted = _names(asked.archs) if asked.archs else []
    sources: list[Source] = []
    for path, run in runs.items():
        for index, setting in enumerate(run.manifest.settings):
            if _is_wanted(setting, asked, wanted):
                sources += _source(path, run, index, asked)
    if missing := [name for name in wanted if name not in {source.arch for source in sources}]:
        raise UsageError(
            f"{', '.join(missing)}: not to be predicted from these runs, which hold {_held(runs.values())}"
        )
    if not sources:
        raise UsageError(f"nothing to predict from these runs, which hold {_held(runs.values())}")
    return sources


def _is_wanted(setting: Setting, asked: Asked, wanted: Sequence[str]) -> bool:
    return (
        (not wanted or setting.arch in wanted)
        and asked.batch_size in (None, setting.batch_size)
        and asked.dtype in (None, setting.dtype)
    )


def _source(path: Path, run: Run, index: int, asked: Asked) -> list[Source]:
    """The source of one setting; none, with a line that says why, where its kind of work cannot be predicted."""
    setting = run.manifest.settings[index]
    if reason := model_sources.predictable(setting, model_sources.single_point(run, index)):
        _tell(f"warning: {path}, setting {index} ({setting.arch}) is left out: {reason}")
        return []
    machine = wording.hardware(run.manifest.machine, setting.device)
    return [model_sources.from_run(run, index, machine, fitted=asked.fit)]


def _held(runs: Iterable[Run]) -> str:
    held = [
        f"{setting.arch} ({setting.dtype}, batch {setting.batch_size})"
        for run in runs
        for setting in run.manifest.settings
    ]
    return ", ".join(dict.fromkeys(held))


# -- from a file --------------------------------------------------------------------------------------------------


def _from_file(asked: Asked, given: DeviceRates) -> list[Source]:
    from archs.registry import UnknownNetwork, find

    for option, value, own in (
        ("--batch-size", asked.batch_size, given.batch_size),
        ("--dtype", asked.dtype, given.dtype),
    ):
        if value not in (None, own):
            raise UsageError(f"{option} {value}: the rates of {asked.device_rates} are those of {own}")
    sources = []
    for name in _names(asked.archs or (DEFAULT_ARCH,)):
        try:
            sources.append(model_sources.from_file(find(name), given))
        except UnknownNetwork as error:
            raise UsageError(str(error)) from None
    return sources


# -- from here ----------------------------------------------------------------------------------------------------


def _from_here(asked: Asked, largest: int, *, quiet: bool) -> list[Source]:
    planned = _plan(asked)
    machine = describe(planned.settings[0].device)
    sources = []
    for setting in planned.settings:
        if not quiet:
            _tell(f"calibrating {setting.device} and timing {setting.arch} at one class")
        name = wording.hardware(machine, setting.device)
        sources.append(model_sources.from_here(planned, setting, largest, machine, name))
    return sources


def _plan(asked: Asked) -> Plan:
    dtypes: dict[str | None, Dtype] = {name: name for name in get_args(Dtype)}
    return plan(
        Request(
            arch=asked.archs or (DEFAULT_ARCH,),
            classes=[1],
            batch_size=(asked.batch_size or 32,),
            dtype=(dtypes.get(asked.dtype, "float32"),),
            device=asked.device,
            threads=asked.threads,
        )
    )


def _tell(line: str) -> None:
    with while_read(sys.stderr):
        print(line, file=sys.stderr)
