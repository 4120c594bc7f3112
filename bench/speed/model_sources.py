"""Where the time at one class and the rates of a prediction come from.

a measured run           its medians, its calibrated rates (or a fit to its points), its errors
a file of rates          another machine: rates and times as given there; no error is known
this machine, now        rates calibrated, a few passes at one class; no error is known
"""

import statistics
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field

from archs.registry import Network
from archs.top_layer import TopLayer
from archs.top_layer_kinds import TopLayerKind
from bench.errors import UsageError
from bench.machine.fingerprint import Machine, versions
from bench.machine.memory import free_bytes
from bench.run import Point, Run
from bench.speed import predict
from bench.speed.assembly import Assembly, build_backbone, input_pool, pool_bytes
from bench.speed.capacity import shortage
from bench.speed.clocks import clock_for
from bench.speed.device_rates import DeviceRates, StatedError
from bench.speed.forwards import Eager
from bench.speed.plan import Plan, facts_of
from bench.speed.pools import OWN_OF_A_NETWORK, Difference, Pool, Source, difference
from bench.speed.predict import Check, Layer, Measured, Model, Spread
from bench.speed.prediction import Rates, backbone_operations, calibrate
from bench.speed.rows import RoundTable, has_times, round_tables
from bench.speed.setting_choice import text_of
from bench.speed.settings import CompileMode, Dtype, Order, Setting, WorkKind
from bench.speed.slowdown import slowdown
from bench.speed.statistics import summary
from bench.speed.torch_state import DTYPES, torch_state

#: Passes at one class, or so many seconds of them, when the base time is taken on the spot.
PASSES, PASSES_SECONDS = 12, 20.0

#: Field of a setting -> the option that chooses a value of it; of the others it is --setting.
_OPTIONS = {"dtype": "--dtype", "batch_size": "--batch-size"}


class CannotPredict(UsageError):
    """A setting of a run that nothing can be predicted from."""

    def __init__(self, arch: str, reason: str) -> None:
        """`reason` says why, without the network's name: settings are told of together by it."""
        super().__init__(f"{arch} cannot be predicted: {reason}")
        self.reason = reason


class SourceIdentity(BaseModel):
    """What tells predictions from others: machine, run, and every field of the setting.

    What a file of rates does not say of how its times were measured is none.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    arch: str
    device: str
    machine: str
    run: str | None = Field(None, description="folder of the run that it is predicted from")
    dtype: Dtype
    batch_size: int
    input_shape: tuple[int, ...] | None = Field(None, description="shape of one example, without the batch axis")
    threads: int | None = None
    compile: CompileMode | None = None
    cuda_graph: bool | None = None
    channels_last: bool | None = None
    tf32: bool | None = None
    cudnn_benchmark: bool | None = None
    order: Order | None = None
    block: int | None = None
    seed: int | None = None
    work: WorkKind = "logits"
    top_layer: TopLayerKind = "full"
    subset: int = 1


class PredictedRow(SourceIdentity):
    """One class count of one setting; times are seconds an example."""

    classes: int
    predicted_s: float
    low_s: float | None = Field(
        None, description="with the least ratio measured / predicted of what the layer adds; none: error unknown"
    )
    high_s: float | None = Field(None, description="with the greatest")
    speedup: float = Field(description="predicted time / time at one class")
    measured_s: float | None = Field(None, description="the median, where this count was measured")
    error: float | None = Field(None, description="predicted / measured - 1; of a fit to the other points, if fitted")
    beyond_measured: float | None = Field(None, description="this count / the largest measured; none if none was")
    weight_bytes: int
    logit_bytes: int = Field(description="of one minibatch")


#: Why a top layer cannot be predicted from operations and bytes of one linear layer.
_SEVERAL = "its top layer has several heads or is applied at several positions, not once as one linear layer"


def predictable(setting: Setting, single: Point | None = None) -> str | None:
    """Why a setting's larger class counts cannot be predicted; None if they can. `single`: its point of one class."""
    if setting.top_layer != "full":
        return f"its top layer is {setting.top_layer}, whose time is not linear in classes"
    if setting.work != "logits" or setting.subset > 1:
        return f"it measured --work {setting.work} with --subset {setting.subset}, not one logit against all"
    if single is not None and _layer_of_single(setting, single).work(1).bytes != single.bytes:
        return _SEVERAL
    return None


def single_point(run: Run, index: int) -> Point | None:
    """The point of one class of a setting; None if it was not looked at."""
    return next((point for point in run.manifest.points if (point.setting, point.classes) == (index, 1)), None)


def _layer_of_single(setting: Setting, single: Point) -> Layer:
    return Layer.of_single(single.operations, batch_size=setting.batch_size, itemsize=DTYPES[setting.dtype].itemsize)


def _layer_of(arch: str, top: TopLayer, *, batch_size: int, dtype: Dtype) -> Layer:
    """Raises UsageError for a top layer that is not one linear layer, applied once."""
    if top.outputs > 1:
        raise UsageError(f"{arch} cannot be predicted: {_SEVERAL}")
    return Layer(batch_size, top.features, top.bias, DTYPES[dtype].itemsize)


def from_run(run: Run, index: int, machine: str, *, fitted: bool = False) -> Source:
    """The model of one setting of a run.

    Raises CannotPredict if it is not `predictable`, if the single logit was not measured, if the run has no calibrated
    rates, or, for a fit, if too few points tell the top layer's time: a fit is judged at points it has not seen, so two
    are needed.
    """
    setting, table = run.manifest.settings[index], round_tables(run)[index]
    point, single = single_point(run, index), table.single()
    if reason := predictable(setting, point):
        raise CannotPredict(setting.arch, reason)
    if point is None or not has_times(single):
        raise CannotPredict(setting.arch, "the single logit has no times in this run, and predictions start from them")
    model = Model(
        _layer_of_single(setting, point),
        single_s=summary(single).median,
        rates=_calibrated(run, index),
        slowdown=slowdown(single),
    )
    measured = _measured(run, index, table)
    checked = predict.checks(model, measured)
    if fitted:
        model, checked = _fitted(model, measured, setting.arch)
    return Source(
        arch=setting.arch,
        device=setting.device,
        machine=machine,
        dtype=setting.dtype,
        model=model,
        rates_are="fitted" if fitted else "calibrated",
        single_is="measured",
        memory_bytes=_memory_bytes(run.manifest.machine, setting.device),
        measured=tuple(measured),
        checked=tuple(checked),
        setting=setting,
        hardware=run.manifest.machine,
        versions=run.manifest.versions,
        run=str(run.path or f"{run.manifest.created}-{run.manifest.name}"),
    )


def _calibrated(run: Run, index: int) -> Rates:
    """The rates of a setting's processes: of each, the median."""
    processes = [each for each in run.manifest.processes if each.setting == index]
    both = [(one.operations_per_s, one.bytes_per_s) for one in processes if one.operations_per_s and one.bytes_per_s]
    if not both:
        raise CannotPredict(
            run.manifest.settings[index].arch,
            "this run has no calibrated rates, so nothing can be predicted from it; measure again",
        )
    fresh = [rate for one in processes if (rate := one.fresh_bytes_per_s)]
    operations, moved = (statistics.median(rates) for rates in zip(*both, strict=True))
    return Rates(operations, moved, statistics.median(fresh) if fresh else None)


def _measured(run: Run, index: int, table: RoundTable) -> list[Measured]:
    failed = {point.classes for point in run.manifest.points if point.setting == index and point.status != "ok"}
    return [
        Measured(classes, summary(table.times(classes)).median)
        for classes in table.counts()
        if classes > 1 and classes not in failed and has_times(table.times(classes))
    ]


def _fitted(model: Model, measured: Sequence[Measured], arch: str) -> tuple[Model, list[Check]]:
    found, left = predict.fit(model, measured), predict.left_out(model, measured)
    if found is None or not left:
        raise CannotPredict(
            arch,
            "too few points to fit: two or more class counts are needed at which the top layer takes a tenth of the "
            "time; leave out --fit, or measure larger counts",
        )
    return found, left


def from_file(network: Network, given: DeviceRates) -> Source:
    """The model of a network on the machine of a file of rates.

    Where the file has no time of the network, the time at one class is its operations at the file's rate: a lower
    bound. Raises UsageError if the network's top layer cannot be swapped, or takes examples of another shape than those
    that its time in the file is of.
    """
    layer = _layer_of(network.name, facts_of(network).top, batch_size=given.batch_size, dtype=given.dtype)
    _refuse_another_shape(network, given)
    a_time = given.seconds_at_one_class.get(network.name)
    single_s = given.batch_size * a_time if a_time is not None else _from_operations(network, layer, given.rates)
    return Source(
        arch=network.name,
        device=given.device,
        machine=given.machine,
        dtype=given.dtype,
        model=Model(layer, single_s, given.rates),
        rates_are="given",
        single_is="operations" if a_time is None else "given",
        memory_bytes=given.memory_bytes,
        setting=_setting_in(network, given, is_timed=a_time is not None),
        versions=given.versions,
        stated=given.spread,
    )


def _refuse_another_shape(network: Network, given: DeviceRates) -> None:
    timed = given.settings_at_one_class.get(network.name)
    if timed is None or timed.input_shape == network.input_shape:
        return
    has = ", ".join(f"{name} at {text_of(each.input_shape)}" for name, each in given.settings_at_one_class.items())
    is_square = len(timed.input_shape) == 3 and timed.input_shape[1] == timed.input_shape[2]
    ask = f"ask for that with --input-size {timed.input_shape[-1]}, or " if is_square else ""
    raise UsageError(
        f"{network.name} takes examples of {text_of(network.input_shape)}, and the file's time is of "
        f"{text_of(timed.input_shape)}: {ask}measure it at the other and save that (the file has {has})"
    )


def _setting_in(network: Network, given: DeviceRates, *, is_timed: bool) -> Setting | None:
    """How the network's time was measured; of one that has none, how the others' were, which the rates are of."""
    if is_timed:
        return given.settings_at_one_class.get(network.name)
    another = next(iter(given.settings_at_one_class.values()), None)
    if another is None:
        return None
    return another.model_copy(update={"arch": network.name, "input_shape": network.input_shape})


def _from_operations(network: Network, layer: Layer, rates: Rates) -> float:
    backbone = backbone_operations(network, facts_of(network).top)
    return layer.batch_size * backbone / rates.operations_per_s + rates.seconds(layer.work(1))


def from_here(planned: Plan, setting: Setting, largest: int, machine: Machine, name: str) -> Source:
    """Calibrate this machine and time a few passes at one class.

    Raises UsageError if the network does not fit into memory.
    """
    facts, network = planned.facts[setting.arch], planned.networks[setting.arch]
    layer = _layer_of(setting.arch, facts.top, batch_size=setting.batch_size, dtype=setting.dtype)
    free = free_bytes(setting.device)
    needed = facts.backbone_parameters * layer.itemsize + 2 * pool_bytes(setting, 1)
    if reason := shortage(f"{setting.arch} and its inputs", needed, free):
        raise UsageError(f"{reason}; predict from a run made elsewhere (--run) or from --device-rates")
    with torch_state(setting), torch.inference_mode():
        rates = calibrate(
            torch.device(setting.device),
            DTYPES[setting.dtype],
            setting.batch_size,
            largest_bytes=layer.work(largest).bytes,
            free_bytes=free,
            features=layer.features,
        )
        times = _passes(network, setting)
    model = Model(layer, statistics.median(times), rates, slowdown(np.array(times)))
    return Source(
        arch=setting.arch,
        device=setting.device,
        machine=name,
        dtype=setting.dtype,
        model=model,
        rates_are="calibrated",
        single_is="measured",
        memory_bytes=_memory_bytes(machine, setting.device),
        setting=setting,
        hardware=machine,
        versions=versions(),
    )


def _memory_bytes(machine: Machine, device: str) -> int:
    if device != "cpu" and machine.gpu is not None:
        return machine.gpu.memory_bytes
    return min(machine.memory_bytes, machine.container_memory_limit_bytes or machine.memory_bytes)


def _passes(network: Network, setting: Setting) -> list[float]:
    """Seconds of passes at one class, the first of which is left out: it chooses kernels."""
    backbone, top = build_backbone(network, setting)
    forward, clock = Eager(Assembly(backbone, top, setting, 1).network(1)), clock_for(torch.device(setting.device))
    (minibatch,) = input_pool(setting, 1)
    clock(forward, minibatch)
    times: list[float] = []
    began = time.perf_counter()
    while len(times) < PASSES and (not times or time.perf_counter() - began < PASSES_SECONDS):
        times.append(clock(forward, minibatch).wall_s)
    return times


def to_file(sources: Sequence[Source]) -> DeviceRates:
    """The rates of typical passes, slowdown included, and the times at one class, for another time or machine.

    Raises UsageError if the sources differ in what a file has one of: the setting but for the network, the machine,
    the versions of what computes; or if they have two times of one network.
    """
    _refuse_mixture(sources)
    first, batch_size = sources[0], sources[0].model.layer.batch_size
    slowed = [source.model.rates.slowed(source.model.slowdown) for source in sources]
    fresh = [rates.fresh_bytes_per_s for rates in slowed if rates.fresh_bytes_per_s is not None]
    return DeviceRates(
        machine=first.machine,
        device="cpu" if first.device == "cpu" else "cuda",
        dtype=first.dtype,
        batch_size=batch_size,
        operations_per_s=statistics.median(rates.operations_per_s for rates in slowed),
        bytes_per_s=statistics.median(rates.bytes_per_s for rates in slowed),
        fresh_bytes_per_s=statistics.median(fresh) if fresh else None,
        seconds_at_one_class={source.arch: source.model.single_s / batch_size for source in sources},
        settings_at_one_class={source.arch: source.setting for source in sources if source.setting is not None},
        versions=_shared([source.versions for source in sources]),
        memory_bytes=first.memory_bytes,
        error=_stated(Pool(tuple(sources)).spread),
    )


def _refuse_mixture(sources: Sequence[Source]) -> None:
    first, by_arch = sources[0], dict[str, Source]()
    for source in sources:
        if found := difference(first, source, but=OWN_OF_A_NETWORK):
            raise UsageError(f"--save-rates: a file is of one setting on one machine; {_choose(found)}")
        twin = by_arch.setdefault(source.arch, source)
        if twin is source:
            continue
        if found := difference(twin, source, but=()):
            raise UsageError(f"--save-rates: a file has one time of {source.arch}; {_choose(found)}")
        raise UsageError(
            f"--save-rates: a file has one time of {source.arch}, and {twin.run} and {source.run} both measured this "
            f"setting; give one of them to --run, or one network of each to --arch"
        )


def _choose(found: Difference) -> str:
    """What is different, and the option that chooses."""
    if option := _OPTIONS.get(found.name):
        how = f"{option} {found.one}"
    elif found.name in Setting.model_fields:
        how = f"--setting {found.name}={found.one}"
    else:
        how = "fewer --run"
    return f"these have two: {found}; choose with {how}"


def _shared(known: Sequence[Mapping[str, str]]) -> dict[str, str]:
    """What all of them say alike."""
    return {name: value for name, value in known[0].items() if all(each.get(name) == value for each in known)}


def _stated(error: Spread | None) -> StatedError | None:
    if error is None:
        return None
    return StatedError(
        added_ratio_low=error.low,
        added_ratio_high=error.high,
        points=error.points,
        runs=error.runs,
        networks=error.networks,
    )


def rows_of(source: Source, classes: Sequence[int], error: Spread | None) -> list[PredictedRow]:
    """The predictions of one source, ascending by class count, beside what was measured."""
    batch = source.model.layer.batch_size
    checked = {check.classes: check for check in source.checked}
    measured = {each.classes: each.seconds for each in source.measured}
    if source.single_is == "measured":
        measured[1] = source.model.single_s
    largest = source.largest_measured
    return [
        PredictedRow(
            **identity(source),
            classes=one.classes,
            predicted_s=one.seconds / batch,
            low_s=None if one.low_s is None else one.low_s / batch,
            high_s=None if one.high_s is None else one.high_s / batch,
            speedup=one.speedup,
            measured_s=measured[one.classes] / batch if one.classes in measured else None,
            error=checked[one.classes].error if one.classes in checked else None,
            beyond_measured=None if largest is None else one.classes / largest,
            weight_bytes=one.weight_bytes,
            logit_bytes=one.logit_bytes,
        )
        for one in predict.predict(source.model, classes, error)
    ]


def identity(source: Source) -> dict[str, Any]:
    """What tells a source from others, as the fields of a SourceIdentity."""
    return {**source.known, "machine": source.machine, "run": source.run}
