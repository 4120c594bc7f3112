"""From what a user asks for to settings: names looked up, defaults filled in, contradictions refused."""

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import TypeVar, get_args

import torch

from archs.registry import Network, UnknownNetwork, expand, find
from archs.top_layer import Facts, UnsupportedNetwork, inspect
from archs.top_layer_kinds import TopLayerKind
from bench import counts
from bench.errors import UsageError
from bench.folder import Notice
from bench.machine.device import resolve_device
from bench.machine.energy import refuse_device
from bench.refusals import refuse_sizes
from bench.speed import modes, notices
from bench.speed.modes import Mode
from bench.speed.prediction import Work
from bench.speed.settings import CompileMode, Dtype, Order, Protocol, Setting, WorkKind
from bench.speed.work import works_of

T = TypeVar("T")


@dataclass(frozen=True)
class Plan:
    """What a run will measure: settings and protocol, with the networks they name and what is known of those.

    `notices`: what of the request will not be measured, and what is taken for granted.
    """

    settings: tuple[Setting, ...]
    protocol: Protocol
    networks: dict[str, Network]
    facts: dict[str, Facts]
    notices: tuple[Notice, ...] = ()

    def top_layer_works(self, setting: Setting) -> dict[int, Work]:
        """What a pass of a setting does beyond the backbone for one minibatch, by class count."""
        return works_of(setting, self.facts[setting.arch].top, self.protocol.classes)


@dataclass(frozen=True)
class Request:
    """The options of a sweep, as the command line and `bench.sweep` share them; see `python -m bench --help`.

    Every combination of the lists among them is a setting, but for those that contradict themselves.
    """

    arch: Sequence[str | Network] = ("resnet50",)
    max_classes: str | int | None = None
    classes: str | Sequence[int | str] | None = None
    batch_size: Sequence[int] = (32,)
    dtype: Sequence[Dtype] = ("float32",)
    compile: Sequence[CompileMode] = ("none",)
    minibatches: int = 100
    device: str = "auto"
    tf32: bool = False
    cudnn_benchmark: bool = True
    channels_last: bool | Sequence[bool] = False
    cuda_graph: bool | Sequence[bool] = False
    work: Sequence[WorkKind] = ("logits",)
    top_layer: Sequence[TopLayerKind] = ("full",)
    subset: int = 1
    threads: int | None = None
    seed: int = 0
    input_size: int | None = None
    order: Order = "interleaved"
    block: int = 1
    until: float | None = None
    processes: int = 1
    energy: bool = False


def plan(request: Request) -> Plan:
    """Decide what a request means on this machine.

    Raises UsageError for what is unknown here or contradicts itself, before anything is built or measured.
    """
    _refuse_unknown_choices(request)
    _refuse_contradictions(request)
    device = resolve_device(request.device)
    if device == "cpu" and request.tf32:
        raise UsageError("--tf32 needs a CUDA device; leave it out on the CPU")
    if request.energy:
        refuse_device(device)
    networks = {network.name: network for network in _networks(request)}
    facts = {name: facts_of(network) for name, network in networks.items()}
    wanted, left_out = modes.split(_modes(request), device)
    settings = _settings(request, device, networks.values(), wanted)
    protocol = Protocol(
        classes=class_counts(request.max_classes, request.classes, request.subset),
        minibatches=request.minibatches,
        until=request.until,
        processes=request.processes,
        energy=request.energy,
    )
    assumed = modes.assumed_frequencies({mode.top_layer for mode in wanted})
    unmeasured = rivals_not_measured(settings, protocol)
    return Plan(settings, protocol, networks, facts, (*left_out, *assumed, *unmeasured))


def _settings(
    request: Request, device: str, networks: Iterable[Network], wanted: Iterable[Mode]
) -> tuple[Setting, ...]:
    """Every network in every batch size, dtype and mode."""
    return tuple(
        Setting(
            arch=network.name,
            input_shape=network.input_shape,
            device=device,
            dtype=dtype,
            batch_size=batch_size,
            **asdict(mode),
            subset=request.subset,
            tf32=request.tf32,
            cudnn_benchmark=request.cudnn_benchmark,
            threads=request.threads or torch.get_num_threads(),
            seed=request.seed,
            order=request.order,
            block=request.block,
        )
        for network, batch_size, dtype, mode in itertools.product(
            networks, _distinct(request.batch_size), _distinct(request.dtype), wanted
        )
    )


def rivals_not_measured(settings: Sequence[Setting], protocol: Protocol) -> list[Notice]:
    """A notice if rivals are asked for and no class count is large enough to have one; none otherwise."""
    rivals = dict.fromkeys(
        setting.top_layer
        for setting in settings
        if setting.top_layer != "full" and setting.subset >= protocol.classes[-1]
    )
    return [notices.no_rival_measured(list(rivals), settings[0].subset)] if rivals else []


def measures_what_is_asked(settings: Sequence[Setting], protocol: Protocol) -> bool:
    """Whether any setting has a count at which it is what was asked for: of a rival, one above the reference's."""
    return any(setting.top_layer == "full" or setting.subset < protocol.classes[-1] for setting in settings)


def class_counts(
    max_classes: str | int | None, classes: str | Sequence[int | str] | None, subset: int = 1
) -> tuple[int, ...]:
    """The class counts asked for, ascending; the first is the reference's, `subset`, whether asked for or not.

    Raises UsageError if both are given, for an expression that is no class count, and for a count below the
    reference's: so many classes are asked for at a time that a layer of fewer cannot score them.
    """
    found = set(_counts_asked_for(max_classes, classes))
    if subset > 1 and not _names_one(classes):
        found.discard(1)  # nobody asked for it: it is the reference's count where one class is asked for at a time
    if below := sorted(count for count in found if count < subset):
        raise UsageError(_too_few_for_a_subset(subset, below, sorted(found - set(below)), of_grid=classes is None))
    return tuple(sorted(found | {subset}))


def _too_few_for_a_subset(subset: int, below: Sequence[int], others: Sequence[int], *, of_grid: bool) -> str:
    named = ", ".join(map(str, below))
    remedy = f"--max-classes above {subset}" if of_grid else f"--classes {4 * subset}"
    if others:
        remedy = f"--classes {','.join(map(str, others))}"
    return (
        f"--subset {subset}: {subset} classes are asked for at a time, and a class count below that cannot be "
        f"measured: {named}; give {remedy}"
    )


def _counts_asked_for(max_classes: str | int | None, classes: str | Sequence[int | str] | None) -> tuple[int, ...]:
    if classes is not None and max_classes is not None:
        raise UsageError("--classes and --max-classes exclude each other: give the counts, or the top of the grid")
    if classes is not None:
        return counts.parse_counts(classes if isinstance(classes, str) else ",".join(map(str, classes)))
    return counts.grid(counts.parse_count("2**18.5" if max_classes is None else str(max_classes)))


def _names_one(classes: str | Sequence[int | str] | None) -> bool:
    items = classes.split(",") if isinstance(classes, str) else map(str, classes or ())
    return any(counts.parse_count(item) == 1 for item in items)


def _modes(request: Request) -> list[Mode]:
    """Every combination of the ways to run a network, in the order in which they are given."""
    return [
        Mode(compile, cuda_graph, channels_last, work, top_layer)
        for compile, cuda_graph, channels_last, work, top_layer in itertools.product(
            _distinct(request.compile),
            _distinct(_switch(request.cuda_graph)),
            _distinct(_switch(request.channels_last)),
            _distinct(request.work),
            _distinct(request.top_layer),
        )
    ]


def _switch(asked: bool | Sequence[bool]) -> Sequence[bool]:
    return (asked,) if isinstance(asked, bool) else asked


def _networks(request: Request) -> Iterable[Network]:
    for asked in request.arch:
        if isinstance(asked, Network):
            yield asked
            continue
        try:
            for name in expand([asked]):
                yield find(name, request.input_size)
        except (UnknownNetwork, UnsupportedNetwork) as error:
            raise UsageError(str(error)) from None


def facts_of(network: Network) -> Facts:
    """What is known of a network before it is built.

    Raises UsageError, with the reason, if it cannot be built or its top layer cannot be swapped.
    """
    try:
        return inspect(network)
    except (UnknownNetwork, UnsupportedNetwork) as error:
        raise UsageError(str(error)) from None


def _refuse_unknown_choices(request: Request) -> None:
    for option, given, example in (("--arch", request.arch, "resnet50"), ("--batch-size", request.batch_size, "1,32")):
        if not given:
            raise UsageError(f"{option}: none is given; name one or more, as in {option} {example}")
    for option, values, choices in (
        ("--dtype", request.dtype, get_args(Dtype)),
        ("--compile", request.compile, get_args(CompileMode)),
        ("--work", request.work, get_args(WorkKind)),
        ("--top-layer", request.top_layer, get_args(TopLayerKind)),
        ("--cuda-graph", ["on" if on else "off" for on in _switch(request.cuda_graph)], ("off", "on")),
        (
            "--memory-format",
            ["channels-last" if last else "contiguous" for last in _switch(request.channels_last)],
            ("contiguous", "channels-last"),
        ),
        ("--order", [request.order], get_args(Order)),
    ):
        if not values:
            raise UsageError(f"{option}: none is given; name one or more of {', '.join(choices)}")
        for value in values:
            if value not in choices:
                raise UsageError(f"{option} {value!r}: must be one of {', '.join(choices)}")


def _refuse_contradictions(request: Request) -> None:
    positive = {
        "--minibatches": request.minibatches,
        "--block": request.block,
        "--processes": request.processes,
        "--subset": request.subset,
        "--input-size": request.input_size,
        "--batch-size": min(request.batch_size),
    }
    refuse_sizes(positive, threads=request.threads, seed=request.seed)
    if request.until is not None and not 0 < request.until < 100:
        raise UsageError(f"--until {request.until}: must be a percentage between 0 and 100")
    if request.order == "sequential" and request.until is not None:
        raise UsageError("--until needs --order interleaved: in sequence nothing is known of all counts until the end")
    if request.order == "sequential" and request.block > 1:
        raise UsageError("--block needs --order interleaved: in sequence every pass follows its own kind already")
    if any(isinstance(asked, Network) and asked.in_hand for asked in request.arch) and request.processes > 1:
        raise UsageError(
            "a module in hand cannot be built again in another process: name a factory, package.module:factory"
        )


def _distinct(values: Iterable[T]) -> list[T]:
    return list(dict.fromkeys(values))


def network_of(setting: Setting) -> Network:
    """The network that a setting read from a run names.

    Raises UsageError if that name now leads to a network with another input.
    """
    try:
        network = find(setting.arch)
        if network.input_shape != setting.input_shape:
            network = find(setting.arch, setting.input_shape[-1])
    except UnknownNetwork as error:
        raise UsageError(f"{error} (a module in hand cannot be found again by its name)") from None
    if network.input_shape != setting.input_shape:
        raise UsageError(f"{setting.arch} now takes examples of shape {network.input_shape}, not {setting.input_shape}")
    return network
