"""Which measured points tell how far which predictions are off.

A model accounts for the network (its features, its time at one class) and for the size of a minibatch (operations,
bytes, rates calibrated at that size), so points of other networks and batch sizes tell of a prediction too, and they
must: one network has three or four. For kernels, modes, threads and machines it accounts by two rates and nothing
else, so points that differ in any of these tell nothing of each other and are kept apart.
"""

import dataclasses
import itertools
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from typing import Any, Literal

from bench.machine.fingerprint import Machine, same_hardware
from bench.speed import predict
from bench.speed.predict import Check, Measured, Model, Spread
from bench.speed.setting_choice import text_of
from bench.speed.settings import Dtype, Setting

RatesAre = Literal["calibrated", "fitted", "given"]
SingleIs = Literal["measured", "given", "operations"]

#: What is each network's own, so that rates are alike where only this differs; the seed changes values alone.
OWN_OF_A_NETWORK = ("arch", "input_shape", "seed")

#: What a model accounts for, so that it may differ among points that tell of each other.
ACCOUNTED_FOR = (*OWN_OF_A_NETWORK, "batch_size")

#: Packages whose kernels a pass consists of; of the others' versions no pass knows.
COMPUTING = ("torch", "cuda", "cudnn", "triton", "mkl", "onednn")


@dataclass(frozen=True)
class Source:
    """A model of one network, and the points it can be held against (none where nothing was measured).

    setting: how its time at one class was measured; None where a file of rates does not say. hardware, versions and
    run (its folder): None or empty where it is not from a run or from this machine. stated: the error that a file of
    rates states.
    """

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
    setting: Setting | None = None
    hardware: Machine | None = None
    versions: Mapping[str, str] = field(default_factory=dict)
    run: str | None = None
    stated: Spread | None = None

    @property
    def known(self) -> dict[str, Any]:
        """Every field of the setting that is known: of a file that does not say, four of them."""
        always = {"arch": self.arch, "device": self.device, "dtype": self.dtype}
        setting = {} if self.setting is None else dict(self.setting)
        return {**setting, **always, "batch_size": self.model.layer.batch_size}

    @property
    def largest_measured(self) -> int | None:
        """The largest class count with a measurement."""
        return max((each.classes for each in self.measured), default=None)


@dataclass(frozen=True)
class Difference:
    """What two sources, or settings, do not share."""

    name: str
    one: str
    other: str

    def __str__(self) -> str:
        """Name and both values."""
        return f"{self.name}: {self.one} and {self.other}"


def setting_difference(one: Setting, other: Setting, but: Collection[str]) -> Difference | None:
    """The first field in which two settings differ, those of `but` left out."""
    return next(_fields_apart(dict(one), dict(other), but), None)


def difference(one: Source, other: Source, but: Collection[str] = ACCOUNTED_FOR) -> Difference | None:
    """The first thing in which two sources differ: the setting but for some of its fields, hardware, versions.

    What one side does not know is no difference.
    """
    return next(itertools.chain(_fields_apart(one.known, other.known, but), _machines_apart(one, other)), None)


def _fields_apart(one: Mapping[str, Any], other: Mapping[str, Any], but: Collection[str]) -> Iterator[Difference]:
    """A device's number is none of its properties: cuda:0 and cuda:1 are told apart by the machine's own."""
    for name in Setting.model_fields:
        if name in but or name not in one or name not in other:
            continue
        ours, theirs = text_of(one[name]), text_of(other[name])
        if name == "device":
            ours, theirs = ours.partition(":")[0], theirs.partition(":")[0]
        if ours != theirs:
            yield Difference(name, ours, theirs)


def _machines_apart(one: Source, other: Source) -> Iterator[Difference]:
    if one.hardware is not None and other.hardware is not None:
        for name in same_hardware(one.hardware, other.hardware):
            yield Difference(name, _at(one.hardware, name), _at(other.hardware, name))
    for package in COMPUTING:
        ours, theirs = one.versions.get(package), other.versions.get(package)
        if ours is not None and theirs is not None and ours != theirs:
            yield Difference(f"version of {package}", ours, theirs)


def _at(machine: Machine, name: str) -> str:
    """A field of a machine, or of its GPU (gpu.name); whether there is a GPU at all is said by its name."""
    found: object = reduce(getattr, name.split("."), machine)
    return machine.gpu.name if name == "gpu" and machine.gpu is not None else str(found)


@dataclass(frozen=True)
class Pool:
    """Sources whose points tell of each other.

    One condition decides what is said of the error and whether a range is drawn: points from JUDGED_CLASSES on.
    """

    sources: tuple[Source, ...]

    @property
    def judged(self) -> list[Check]:
        """The points the aim is about; without any the error is unknown, unless a file states it."""
        return predict.judged([check for source in self.sources for check in source.checked])

    @property
    def is_stated(self) -> bool:
        """Whether a file states the error. It does so of what is added to a measured time, not to a bound of one."""
        return all(source.stated is not None and source.single_is == "given" for source in self.sources)

    @property
    def spread(self) -> Spread | None:
        """How far what the top layer adds was off, with the runs and networks behind it; None: no range."""
        if self.is_stated:
            return self.sources[0].stated
        found = predict.spread(self.judged)
        if found is None:
            return None
        runs, networks = _behind(self.sources, telling=True)
        return dataclasses.replace(found, runs=runs, networks=networks)

    @property
    def runs(self) -> int:
        """Runs with a judged point."""
        return _behind(self.sources)[0]

    @property
    def networks(self) -> int:
        """Networks with a judged point."""
        return _behind(self.sources)[1]


def _behind(sources: Sequence[Source], *, telling: bool = False) -> tuple[int, int]:
    """How many runs and networks judged points are from, or those alone that tell of the top layer's part."""
    with_points = [
        source for source in sources if any(check.tells or not telling for check in predict.judged(source.checked))
    ]
    return len({source.run for source in with_points}), len({source.arch for source in with_points})


def pools(sources: Sequence[Source]) -> list[Pool]:
    """Sources put together where points of the one tell of the other, in the order of the first of each."""
    groups: list[list[Source]] = []
    for source in sources:
        group = next((group for group in groups if _tell_of_each_other(group[0], source)), None)
        if group is None:
            groups.append([source])
        else:
            group.append(source)
    return [Pool(tuple(group)) for group in groups]


def _tell_of_each_other(one: Source, other: Source) -> bool:
    same_kind = (one.rates_are, one.single_is) == (other.rates_are, other.single_is)
    return same_kind and difference(one, other) is None
