"""What `python -m bench predict` does once its options are read."""

import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from bench.cli import json_output
from bench.cli.exits import DONE
from bench.errors import UsageError
from bench.machine.fingerprint import describe
from bench.refusals import positive
from bench.run import Run, load_run
from bench.speed import device_rates, model_sources, setting_choice
from bench.speed.device_rates import DeviceRates
from bench.speed.model_sources import CannotPredict
from bench.speed.plan import Plan, Request, class_counts, plan
from bench.speed.pools import Source, pools
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
    input_size: int | None = None
    setting: tuple[str, ...] = ()
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
    if json:
        runs = [str(path) for path in asked.runs]
        json_output.print_object(predictions.to_object(pools(sources), classes, runs))
    else:
        predictions.print_predictions(pools(sources), classes)
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
    if asked.setting and not asked.runs and asked.device_rates is None:
        raise UsageError("--setting chooses among what was measured: give --run or --device-rates")
    for option, number in (("--batch-size", asked.batch_size), ("--input-size", asked.input_size)):
        if number is not None:
            positive(option, number)
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


@dataclass(frozen=True)
class LeftOut:
    """A setting of a run that nothing can be predicted from."""

    arch: str
    name: str
    path: Path
    reason: str


def _from_runs(asked: Asked) -> list[Source]:
    runs = {path.resolve(): (path, load_run(path)) for path in asked.runs}
    wanted = _names(asked.archs) if asked.archs else []
    chosen = setting_choice.parse(asked.setting)
    sources: list[Source] = []
    left_out: list[LeftOut] = []
    for path, run in runs.values():
        names = wording.setting_labels(run.manifest.settings)
        for index, setting in enumerate(run.manifest.settings):
            if not _is_wanted(setting, asked, wanted) or not setting_choice.is_chosen(setting, chosen):
                continue
            try:
                machine = wording.hardware(run.manifest.machine, setting.device)
                sources.append(model_sources.from_run(run, index, machine, fitted=asked.fit))
            except CannotPredict as refused:
                left_out.append(LeftOut(setting.arch, names[index], path, refused.reason))
    _refuse_nothing([run for _, run in runs.values()], sources, left_out, asked, wanted)
    _tell_left_out(left_out)
    return sources


def _tell_left_out(left_out: Sequence[LeftOut]) -> None:
    """One warning for every reason in every run."""
    together: dict[tuple[Path, str], list[str]] = {}
    for each in left_out:
        together.setdefault((each.path, each.reason), []).append(each.name)
    for (path, reason), names in together.items():
        _tell(f"warning: {path}: left out: {'; '.join(names)} ({reason})")


def _is_wanted(setting: Setting, asked: Asked, wanted: Sequence[str]) -> bool:
    return (
        (not wanted or setting.arch in wanted)
        and asked.batch_size in (None, setting.batch_size)
        and asked.dtype in (None, setting.dtype)
        and asked.input_size in (None, setting.input_shape[-1])
    )


def _refuse_nothing(
    runs: Sequence[Run], sources: Sequence[Source], left_out: Sequence[LeftOut], asked: Asked, wanted: Sequence[str]
) -> None:
    """Raise UsageError, saying why, if nothing is left or a network that was asked for is not."""
    missing = [name for name in wanted if name not in {source.arch for source in sources}]
    if sources and not missing:
        return
    for each in left_out:
        if each.arch in missing or not sources:
            raise UsageError(f"{each.name} of {each.path} cannot be predicted: {each.reason}")
    settings = [setting for run in runs for setting in run.manifest.settings]
    chosen = setting_choice.parse(asked.setting)
    kept = [setting for setting in settings if _is_wanted(setting, asked, missing)]
    if chosen and kept:
        raise UsageError(
            f"--setting {setting_choice.written(chosen)}: no setting of these runs is that; they have "
            f"{setting_choice.values_held(kept, chosen)}"
        )
    what = f"{', '.join(missing)}: not to be predicted" if missing else "nothing to predict"
    raise UsageError(f"{what} from these runs, which hold {_held(settings)}")


def _held(settings: Iterable[Setting]) -> str:
    held = [
        f"{each.arch} ({each.dtype}, batch {each.batch_size}, {setting_choice.text_of(each.input_shape)})"
        for each in settings
    ]
    return ", ".join(dict.fromkeys(held))


# -- from a file --------------------------------------------------------------------------------------------------


def _from_file(asked: Asked, given: DeviceRates) -> list[Source]:
    from archs.registry import UnknownNetwork, find
    from archs.top_layer import UnsupportedNetwork

    for option, value, own in (
        ("--batch-size", asked.batch_size, given.batch_size),
        ("--dtype", asked.dtype, given.dtype),
    ):
        if value not in (None, own):
            raise UsageError(f"{option} {value}: the rates of {asked.device_rates} are those of {own}")
    chosen = setting_choice.parse(asked.setting)
    sources = []
    for name in _names(asked.archs or (DEFAULT_ARCH,)):
        try:
            sources.append(model_sources.from_file(find(name, asked.input_size), given))
        except (UnknownNetwork, UnsupportedNetwork) as error:
            raise UsageError(str(error)) from None
        _refuse_another_setting(sources[-1].setting, chosen, asked.device_rates)
    return sources


def _refuse_another_setting(setting: Setting | None, chosen: Mapping[str, str], path: Path | None) -> None:
    if not chosen:
        return
    text = f"--setting {setting_choice.written(chosen)}"
    if setting is None:
        raise UsageError(f"{text}: {path} does not say how its times were measured; leave it out, or measure and save")
    if not setting_choice.is_chosen(setting, chosen):
        raise UsageError(f"{text}: the rates of {path} are those of {setting_choice.values_held([setting], chosen)}")


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
            input_size=asked.input_size,
            device=asked.device,
            threads=asked.threads,
        )
    )


def _tell(line: str) -> None:
    with while_read(sys.stderr):
        print(line, file=sys.stderr)
