"""Where the time at one class and the rates of a prediction come from.

a measured run           its medians, its calibrated rates (or a fit to its points), its errors
a file of rates          another machine: rates and times as given there; no error is known
this machine, now        rates calibrated, a few passes at one class; no error is known
"""

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field

from archs.registry import Network
from archs.top_layer import TopLayer
from bench.errors import UsageError
from bench.machine.fingerprint import Machine
from bench.machine.memory import free_bytes
from bench.run import Point, Run
from bench.speed import predict
from bench.speed.assembly import Assembly, build_backbone, input_pool, pool_bytes
from bench.speed.capacity import shortage
from bench.speed.clocks import clock_for
from bench.speed.device_rates import DeviceRates, StatedError
from bench.speed.forwards import Eager
from bench.speed.plan import Plan, facts_of
from bench.speed.predict import Check, Layer, Measured, Model, Spread
from bench.speed.prediction import Rates, backbone_operations, calibrate
from bench.speed.rows import RoundTable, has_times, round_tables
from bench.speed.settings import Dtype, Setting
from bench.speed.slowdown import slowdown
from bench.speed.statistics import summary
from bench.speed.torch_state import DTYPES, torch_state

#: Passes at one class, or so many seconds of them, when the base time is taken on the spot.
PASSES, PASSES_SECONDS = 12, 20.0

RatesAre = Literal["calibrated", "fitted", "given"]
SingleIs = Literal["measured", "given", "operations"]


class PredictedRow(BaseModel):
    """One class count of one network; times are seconds an example."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    arch: str
    device: str
    machine: str
    dtype: Dtype
    batch_size: int
    classes: int
    predicted_s: float
    low_s: float | None = Field(None, description="with the least ratio measured / predicted of what the layer adds")
    high_s: float | None = Field(None, description="with the greatest")
    speedup: float = Field(description="predicted time / time at one class")
    measured_s: float | None = Field(None, description="the median, where this count was measured")
    error: float | None = Field(None, description="predicted / measured - 1; of a fit to the other points, if fitted")
    beyond_measured: float | None = Field(None, description="this count / the largest measured; none if none was")
    weight_bytes: int
    logit_bytes: int = Field(description="of one minibatch")


@dataclass(frozen=True)
class Source:
    """A model of one network, and the points it can be held against (none where nothing was measured)."""

    arch: str
    device: str
    machine: str
    dtype: Dtype
    model: Model
    rates_are: RatesAre
    single_is: SingleIs
    memory_bytes: int | None = None
    measured: tuple[Measured, ...] = ()
    checked: tuple[Check, ...] = ()

    @property
    def largest_measured(self) -> int | None:
        """The largest class count with a measurement."""
        return max((each.classes for each in self.measured), default=None)


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

    Raises UsageError if it is not `predictable`, if the single logit was not measured, if the run has no calibrated
    rates, or, for a fit, if too few points tell the top layer's time: a fit is judged at points it has not seen, so two
    are needed.
    """
    setting, table = run.manifest.settings[index], round_tables(run)[index]
    point, single = single_point(run, index), table.single()
    if reason := predictable(setting, point):
        raise UsageError(f"{setting.arch} cannot be predicted: {reason}")
    if point is None or not has_times(single):
        raise UsageError(f"{setting.arch}: the single logit has no times in this run, and predictions start from them")
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
    )


def _calibrated(run: Run, index: int) -> Rates:
    """The rates of a setting's processes: of each, the median."""
    processes = [each for each in run.manifest.processes if each.setting == index]
    both = [(one.operations_per_s, one.bytes_per_s) for one in processes if one.operations_per_s and one.bytes_per_s]
    if not both:
        arch = run.manifest.settings[index].arch
        raise UsageError(
            f"{arch}: this run has no calibrated rates, so nothing can be predicted from it; measure again"
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
        raise UsageError(
            f"{arch}: too few points to fit: two or more class counts are needed at which the top layer takes a "
            f"tenth of the time; leave out --fit, or measure larger counts"
        )
    return found, left


def from_file(network: Network, given: DeviceRates) -> Source:
    """The model of a network on the machine of a file of rates.

    Where the file has no time of the network, the time at one class is its operations at the file's rate: a lower
    bound. Raises UsageError if the network's top layer cannot be swapped.
    """
    layer = _layer_of(network.name, facts_of(network).top, batch_size=given.batch_size, dtype=given.dtype)
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
    )


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

    Raises UsageError if the sources differ in what a file has one of: dtype and batch size, or networks of one name.
    """
    first = sources[0]
    kinds = {(source.dtype, source.model.layer.batch_size, source.device) for source in sources}
    if len(kinds) > 1:
        raise UsageError("--save-rates: a file has one device, dtype and batch size; choose with --dtype, --batch-size")
    if len({source.arch for source in sources}) < len(sources):
        raise UsageError("--save-rates: a file has one time a network, and a network is here twice; choose one --run")
    slowed = [source.model.rates.slowed(source.model.slowdown) for source in sources]
    fresh = [rates.fresh_bytes_per_s for rates in slowed if rates.fresh_bytes_per_s is not None]
    return DeviceRates(
        machine=first.machine,
        device=first.device.partition(":")[0],
        dtype=first.dtype,
        batch_size=first.model.layer.batch_size,
        operations_per_s=statistics.median(rates.operations_per_s for rates in slowed),
        bytes_per_s=statistics.median(rates.bytes_per_s for rates in slowed),
        fresh_bytes_per_s=statistics.median(fresh) if fresh else None,
        seconds_at_one_class={source.arch: source.model.single_s / first.model.layer.batch_size for source in sources},
        memory_bytes=first.memory_bytes,
        error=_stated(pooled(sources)),
    )


def _stated(error: Spread | None) -> StatedError | None:
    if error is None:
        return None
    return StatedError(added_ratio_low=error.low, added_ratio_high=error.high, points=error.points)


def pooled(sources: Sequence[Source]) -> Spread | None:
    """How far what the top layer adds was off, over the points of all sources: one network has too few of its own."""
    return predict.spread([check for source in sources for check in source.checked])


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
            arch=source.arch,
            device=source.device,
            machine=source.machine,
            dtype=source.dtype,
            batch_size=batch,
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
