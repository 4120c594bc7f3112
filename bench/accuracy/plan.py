"""What a request for a grid means on this machine: data, recipe, losses, trainings. Nothing is trained yet."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

from pydantic import ValidationError

from archs.rivals import KINDS, NAMES, RivalLayer, TopLayerKind
from bench.accuracy import capacity, data, losses, networks, notices, ray_engine, spreading
from bench.accuracy.capacity import Demand
from bench.accuracy.data import Dataset
from bench.accuracy.data.catalogue import PAPER_STEPS
from bench.accuracy.data.splits import MemorySplit
from bench.accuracy.networks import Outline
from bench.accuracy.records import Manifest
from bench.accuracy.refusals import refuse_unfit_step
from bench.accuracy.request import Chosen, Request
from bench.accuracy.settings import (
    PAPER_RATES,
    PRIOR_BIAS_CLASSES,
    CompileMode,
    Dtype,
    Engine,
    EngineName,
    LossSetting,
    Optimiser,
    Recipe,
    Schedule,
    Source,
    TopLayerStep,
)
from bench.accuracy.stacking import stackable
from bench.errors import UsageError
from bench.folder import Notice, first_problem
from bench.machine import fingerprint
from bench.machine.device import resolve_device
from bench.machine.memory import free_bytes
from bench.refusals import positive

T = TypeVar("T")

#: Optimisers that a momentum means something to.
WITH_MOMENTUM = ("sgd", "rmsprop")

#: What is trained on where neither the request nor its preset says: bundled, so that nothing need be downloaded.
DEFAULT_DATASET = "digits"

#: More trainings of each kind than anybody waits for.
MOST_SEEDS = 10_000


@dataclass(frozen=True)
class Plan:
    """A request made definite."""

    dataset: Dataset
    source: Source | None
    """where workers find the data; None for a data set in hand"""
    recipe: Recipe
    losses: tuple[LossSetting, ...]
    learning_rates: tuple[float, ...]
    seeds: tuple[int, ...]
    engine: Engine = field(default_factory=Engine)
    notices: tuple[Notice, ...] = ()
    """what was decided otherwise than somebody might expect, and what is odd about the data"""

    def decides(self) -> dict[str, object]:
        """What ranks that train together must have alike: all of it but a rank's own device and threads."""
        recipe = self.recipe.model_dump(mode="json", exclude={"device", "threads"})
        return {
            "recipe": recipe | {"device": self.recipe.device.partition(":")[0]},
            "losses": {loss.key: loss.model_dump(mode="json") for loss in self.losses},
            "learning_rates": list(self.learning_rates),
            "seeds": list(self.seeds),
            "dataset": self.dataset.facts.model_dump(mode="json"),
            "versions": fingerprint.versions(),
        }

    def manifest(self, *, created: str, command: tuple[str, ...]) -> Manifest:
        """The manifest of a new run of this plan, on this machine."""
        return Manifest(
            name=f"accuracy-{Path(self.dataset.name).name}",
            created=created,
            command=command,
            dataset=self.dataset.facts,
            class_names=self.dataset.class_names,
            recipe=self.recipe,
            losses=self.losses,
            learning_rates=self.learning_rates,
            seeds=self.seeds,
            machine=fingerprint.describe(self.recipe.device),
            versions=fingerprint.versions(),
            commit=fingerprint.commit(),
            source=self.source,
            engine=self.engine,
            notices=self.notices,
        )


def plan(request: Request, say: Callable[[str], None] = lambda line: None) -> Plan:
    """Decide what a request means here; `say` is told what takes long (a download).

    Raises UsageError for what is unknown or contradicts itself, before anything is trained.
    """
    chosen = Chosen(request)
    kinds = _top_layers(request.top_layers)
    keys = loss_keys(chosen("losses", "paper")) if "full" in kinds else _no_losses(request)
    rivals = [kind for kind in kinds if kind != "full"]
    _refuse_unknown_choices(request, chosen)
    _refuse_unused_momentum(request, chosen("optimiser", "sgd"))
    asked: str | Dataset = chosen("dataset", DEFAULT_DATASET)
    source = _source(asked, request)
    network = chosen("network", None) or _default_network(asked)
    asked_steps = chosen("steps", None)
    steps = _default_steps(asked) if asked_steps is None else positive("--steps", asked_steps)
    rates = _rates(chosen("learning_rates", PAPER_RATES))
    seeds = _seeds(request.seed, request.seeds)
    batch_size = chosen("batch_size", 128)
    _refuse_small_batch(batch_size)
    device = resolve_device(spreading.own_device(request.device, request.place, request.local_ranks))
    _refuse_on_cpu(request, device)
    engine = spreading.engine_of(request, device, source)
    spreading.refuse_unfit_ranks(request, source, rivals)
    dataset = _load(asked, source, say)
    _refuse_unfit_data(dataset, batch_size)
    spreading.refuse_fewer_classes_than_ranks(dataset.facts, request.place.size)
    outline = _outline(network, dataset, chosen)
    _refuse_micro_batches(request.accumulate, batch_size, outline, network)
    top = _top_layer_step(request, chosen, outline, dataset, kinds, device)
    if source is None and request.workers is not None and request.workers > 1:
        raise UsageError("a data set in hand cannot be sent to workers: leave workers out, or give a name")
    trainings = (len(keys) + len(rivals)) * len(rates) * len(seeds)
    whole = top.step == "dense" and request.accumulate == 1 and not rivals and request.place.size == 1
    spread = spreading.spreading_of(
        request,
        engine,
        source,
        trainings,
        device=device,
        stackable=whole and stackable(network, request.dtype) and isinstance(dataset.train, MemorySplit),
        room=top.room,
    )
    recipe = _recipe(
        network=network,
        steps=steps,
        **{name: chosen(name, None) for name in _FROM_RECIPE},
        dtype=request.dtype,
        compile=request.compile,
        device=device,
        prior_bias=_prior_bias(request, keys, dataset, outline),
        top_layer_step=top.step,
        accumulation=request.accumulate,
        ranks=request.place.size,
        shard_top_layer=request.shard_top_layer,
        **spread._asdict(),
    )
    refuse_unfit_step(recipe, request.place.size)
    settings = _loss_settings(keys, dataset, recipe, request)
    settings += tuple(_rival_setting(kind, dataset, recipe) for kind in rivals)
    most_workers = 1 if source is None else min(spreading.cores(), trainings)
    noticed = _noticed(recipe, dataset, outline, top, request, most=most_workers)
    return Plan(dataset, source, recipe, settings, rates, seeds, engine, noticed)


#: Fields of a recipe that a request or a preset may set, and that keep the recipe's own default otherwise.
_FROM_RECIPE = (
    "batch_size",
    "optimiser",
    "momentum",
    "square_decay",
    "epsilon",
    "weight_decay",
    "schedule",
    "decay_steps",
    "decay_rate",
    "label_smoothing",
    "auxiliary_weight",
)


def loss_keys(asked: str | Sequence[str]) -> tuple[str, ...]:
    """Keys of the losses asked for, each once: `paper` is the seven of Table 1, `all` the paper's eleven.

    Raises UsageError for an unknown one, and for none.
    """
    names = asked.split(",") if isinstance(asked, str) else asked
    keys: list[str] = []
    for name in (name.strip() for name in names):
        if name == "paper":
            keys += losses.PAPER
        elif name == "all":
            keys += losses.registry()
        elif name:
            keys.append(losses.find(name).key)
    if not keys:
        raise UsageError(f"no loss: give paper, all, or some of {_all_keys()}")
    return tuple(_distinct(keys))


def _all_keys() -> str:
    return ", ".join([*losses.registry(), *losses.further()])


def _top_layers(asked: str | Sequence[str]) -> tuple[TopLayerKind, ...]:
    """The kinds of top layer asked for: `all` is the full one and every rival."""
    names = [name.strip() for name in (asked.split(",") if isinstance(asked, str) else asked)]
    kinds: list[TopLayerKind] = []
    for name in filter(None, names):
        found = [kind for kind in KINDS if name in ("all", kind)]
        if not found:
            raise UsageError(f"--top-layer {name!r}: give all, or some of {', '.join(KINDS)}")
        kinds += found
    if not kinds:
        raise UsageError(f"--top-layer: no top layer is given; name some of {', '.join(KINDS)}")
    return _distinct(kinds)


def _no_losses(request: Request) -> tuple[str, ...]:
    """Without a full layer there is nothing that the losses could train. Raises UsageError if some were asked for."""
    if request.losses != "paper" or request.hyperparameters:
        raise UsageError(
            "--losses are those of the full top layer, a rival is trained by its own negative log-likelihood: "
            "add full to --top-layer, or leave the losses and their hyperparameters out"
        )
    return ()


def _rival_setting(kind: TopLayerKind, dataset: Dataset, recipe: Recipe) -> LossSetting:
    """A rival in the place of a loss, with what decides its shape; aligned by its normalisation.

    See bench.accuracy.losses.negative_log_likelihood.
    """
    network = networks.build(
        recipe.network,
        dataset.facts.input_shape,
        dataset.facts.classes,
        seed=0,
        prior_bias=recipe.prior_bias is True,
        auxiliary=recipe.auxiliary_weight > 0,
        top_layer=kind,
        frequencies=dataset.class_frequencies(),
    )
    layer = next(part for part in network.modules() if isinstance(part, RivalLayer))
    shape = layer.choices | {"frequencies": losses.FREQUENCIES}
    return LossSetting(key=kind, name=NAMES[kind], aligned=True, hyperparameters=shape)


def _loss_settings(keys: Iterable[str], dataset: Dataset, recipe: Recipe, request: Request) -> tuple[LossSetting, ...]:
    if surplus := set(request.hyperparameters) - set(keys):
        raise UsageError(f"hyperparameters of losses that are not trained: {', '.join(sorted(surplus))}")
    for key, given in request.hyperparameters.items():
        _refuse_unknown_hyperparameters(key, given)
    frequencies = dataset.class_frequencies()
    seen = bool((frequencies > 0).all())
    settings = []
    for key in keys:
        given = request.hyperparameters.get(key, {})
        configured = losses.configured(
            key,
            classes=dataset.facts.classes,
            # By frequencies noise would never draw a class that is never seen: by default it is uniform there.
            class_frequencies=frequencies if seen or "q" in given else None,
            label_smoothing=recipe.label_smoothing,
            generator=None,
            **given,
        )
        settings.append(configured.setting)
    if isinstance(recipe.prior_bias, bool):
        return tuple(settings)
    return tuple(setting.model_copy(update={"prior_bias": losses.pulls_to_prior(setting)}) for setting in settings)


def _refuse_unknown_hyperparameters(key: str, given: Iterable[str]) -> None:
    """Before they are keywords: some names are those of other arguments."""
    known = losses.find(key).hyperparameters
    if unknown := sorted(set(given) - set(known)):
        raise UsageError(f"{key} has no hyperparameter {unknown[0]!r}; it has {', '.join(known) or 'none'}")


def _refuse_unknown_choices(request: Request, chosen: Chosen) -> None:
    for option, value, choices in (
        ("--optimiser", chosen("optimiser", None), get_args(Optimiser)),
        ("--schedule", chosen("schedule", None), get_args(Schedule)),
        ("--dtype", request.dtype, get_args(Dtype)),
        ("--compile", request.compile, get_args(CompileMode)),
        ("--engine", request.engine, get_args(EngineName)),
    ):
        if value is not None and value not in choices:
            raise UsageError(f"{option} {value!r}: must be one of {', '.join(choices)}")
    if chosen("schedule", None) == "exponential" and chosen("decay_steps", None) is None:
        raise UsageError(
            "--schedule exponential: its steps and factor are those of the preset paper-imagenet; "
            "without it give constant or cosine"
        )


def _refuse_unused_momentum(request: Request, optimiser: str) -> None:
    """What the optimiser would quietly ignore."""
    if request.momentum is not None and optimiser not in WITH_MOMENTUM:
        raise UsageError(
            f"--momentum {request.momentum:g}: {optimiser} has none of that kind; "
            f"leave it out, or choose {' or '.join(WITH_MOMENTUM)}"
        )


def _refuse_small_batch(batch_size: int) -> None:
    if batch_size < 2:
        raise UsageError(
            f"--batch-size {batch_size}: batch norm and the batch losses compare the examples of a minibatch, "
            "so it needs 2 or more"
        )


def _refuse_on_cpu(request: Request, device: str) -> None:
    """What torch would quietly ignore there, and the run would then claim to have done."""
    if device == "cpu" and request.compile == "reduce-overhead":
        raise UsageError("--compile reduce-overhead needs a CUDA device; leave it out on the CPU")


def _refuse_unfit_data(dataset: Dataset, batch_size: int) -> None:
    facts = dataset.facts
    if facts.classes < 2:
        raise UsageError(f"{facts.name} has one class: with nothing to tell it from, there is nothing to train")
    if batch_size > facts.train:
        raise UsageError(f"--batch-size {batch_size}: {facts.name} has {facts.train:,} examples to train on")
    for part, split in (("training", dataset.train), ("validation", dataset.validation), ("test", dataset.test)):
        low, high = (int(value) for value in split.labels.aminmax())
        if low < 0 or high >= facts.classes:
            raise UsageError(
                f"{facts.name}: the {part} split has a label of {low if low < 0 else high}, and its {facts.classes:,} "
                f"classes are 0 .. {facts.classes - 1}; mend the labels, or the number of classes"
            )


def _outline(network: str, dataset: Dataset, chosen: Chosen) -> Outline:
    """What the network is, without its classes; UsageError if it does not fit the data: better now than in a worker."""
    return networks.outline(network, dataset.facts.input_shape, auxiliary=chosen("auxiliary_weight", 0.0) > 0)


def _refuse_micro_batches(accumulate: int, batch_size: int, outline: Outline, network: str) -> None:
    if positive("--accumulate", accumulate) == batch_size and outline.normalises:
        raise UsageError(
            f"--accumulate {accumulate}: {network} normalises by its micro-batch, and one example has no variance; "
            "give fewer micro-batches"
        )


def _prior_bias(request: Request, keys: Sequence[str], dataset: Dataset, outline: Outline) -> bool | Literal["auto"]:
    """Whether top layers start at the prior: as asked for; else where classes are many and a loss needs it."""
    asked = request.prior_bias
    if asked and not outline.bias:
        raise UsageError("--prior-bias: the top layer of this network has no bias to start at the prior; leave it out")
    if asked is not None:
        return asked
    many = dataset.facts.classes >= PRIOR_BIAS_CLASSES
    as_asked = (
        LossSetting(key=key, name=key, aligned=False, hyperparameters=dict(request.hyperparameters.get(key, {})))
        for key in keys
    )
    return "auto" if many and outline.bias and any(map(losses.pulls_to_prior, as_asked)) else False


@dataclass(frozen=True)
class _TopLayerStep:
    """How top layers step; trainings that memory holds side by side, none if that is not known; what one needs."""

    step: TopLayerStep
    room: int | None = None
    demand: Demand | None = None


def _top_layer_step(
    request: Request,
    chosen: Chosen,
    outline: Outline,
    dataset: Dataset,
    kinds: Sequence[TopLayerKind],
    device: str,
) -> _TopLayerStep:
    """Decided by sizes and free memory. Raises UsageError if a training does not fit, before it is asked for."""
    asked = request.top_layer_step
    if "full" not in kinds:
        if asked not in (None, "dense"):
            raise UsageError(
                f"--top-layer-step {asked}: the chunks are those of a full top layer; add full, or drop it"
            )
        return _TopLayerStep("dense")
    demand = Demand(
        examples=chosen("batch_size", 128),
        classes=dataset.facts.classes,
        features=outline.features,
        backbone_parameters=outline.backbone_parameters,
        states=capacity.states_of(chosen("optimiser", "sgd"), _momentum(chosen)),
        in_host_memory=device == "cpu",
        ranks=request.place.size,
        sharded=request.shard_top_layer,
    )
    free = free_bytes(device) // (request.local_ranks if device == "cpu" else 1)
    if asked is None and chosen("auxiliary_weight", 0.0) > 0:
        asked = "dense"  # as its auxiliary head is
    step = capacity.choose_step(asked, demand, free)
    return _TopLayerStep(step, capacity.side_by_side(step, demand, free), demand)


def _momentum(chosen: Chosen) -> float:
    return float(chosen("momentum", Recipe.model_fields["momentum"].default))


def _noticed(
    recipe: Recipe, dataset: Dataset, outline: Outline, top: _TopLayerStep, request: Request, *, most: int
) -> tuple[Notice, ...]:
    """What somebody might not expect; `most`: workers that there would be if memory had no end."""
    found = []
    unseen = (dataset.class_frequencies() == 0).nonzero().flatten().tolist()
    if unseen:
        found.append(notices.never_seen(unseen, dataset.facts.classes))
    if recipe.top_layer_step == "in-place" and request.top_layer_step is None and top.demand is not None:
        found.append(notices.stepped_in_place(top.demand.words("chunked"), recipe.optimiser))
    if recipe.accumulation > 1 and outline.normalises:
        found.append(notices.normalised_by_micro_batch(recipe.batch_size, recipe.accumulation))
    alone = request.engine == "local" and request.place.size == 1
    by_default = request.workers is None and request.stack is None and alone
    if by_default and recipe.device == "cpu" and top.room is not None and recipe.workers == top.room < most:
        found.append(notices.fewer_workers(recipe.workers, most))
    return tuple(found)


def _recipe(**fields: Any) -> Recipe:
    try:
        return Recipe(**{name: value for name, value in fields.items() if value is not None})
    except ValidationError as error:
        raise UsageError(f"not a way to train: {first_problem(error)}") from None


def _source(dataset: str | Dataset, request: Request) -> Source | None:
    """Where a data set is found again; its folder is absolute, since a run may be resumed from another one."""
    if not isinstance(dataset, str):
        return None
    data_dir = None if request.data_dir is None else request.data_dir.expanduser().absolute()
    return Source(name=dataset, data_dir=data_dir, input_size=request.input_size)


def _default_network(dataset: str | Dataset) -> str:
    if isinstance(dataset, str):
        return data.default_network(dataset)
    return "cnn" if len(dataset.facts.input_shape) == 3 and min(dataset.facts.input_shape[1:]) >= 8 else "mlp"


def _default_steps(dataset: str | Dataset) -> int:
    return data.default_steps(dataset) if isinstance(dataset, str) else PAPER_STEPS


def _load(dataset: str | Dataset, source: Source | None, say: Callable[[str], None]) -> Dataset:
    if not isinstance(dataset, str):
        return dataset
    assert source is not None
    return data.load(
        source.name,
        data_dir=source.data_dir,
        split_seed=source.split_seed,
        input_size=source.input_size,
        say=say,
    )


def plan_of(manifest: Manifest, run: Path) -> Plan:
    """The plan behind a run on disk, its data loaded again.

    Raises UsageError if the data are not what they were, or were in the hands of the program that began the run.
    """
    source = manifest.source
    if source is None:
        raise UsageError(f"{run} was trained on a data set in hand: only the program that has it can go on")
    ray_engine.refuse_unusable(manifest.engine)
    dataset = _load(source.name, source, lambda line: None)
    if dataset.facts != manifest.dataset:
        raise UsageError(
            f"{run} cannot be continued: {source.name} is not what it was: "
            f"{_difference(manifest.dataset, dataset.facts)}"
        )
    return Plan(
        dataset,
        source,
        manifest.recipe,
        manifest.losses,
        manifest.learning_rates,
        manifest.seeds,
        manifest.engine,
        manifest.notices,
    )


def _difference(then: Any, now: Any) -> str:
    differing = [name for name in type(then).model_fields if getattr(then, name) != getattr(now, name)]
    return ", ".join(f"{name}: {getattr(then, name)} then, {getattr(now, name)} now" for name in differing)[:240]


def _rates(asked: Sequence[float]) -> tuple[float, ...]:
    """Learning rates, each once. Raises UsageError for none, for what is none, or two that print alike."""
    rates = _distinct(_rate(rate) for rate in asked)
    if not rates:
        raise UsageError("--lr: no learning rate is given; name one or more, such as 0.1,0.01")
    names = [f"{rate:g}" for rate in rates]  # as in the names of files
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise UsageError(f"--lr: two learning rates are {twice} to six digits; leave one of them out")
    return rates


def _rate(value: float) -> float:
    if not (math.isfinite(value) and value > 0):
        raise UsageError(f"--lr {value:g}: a learning rate is a number above 0")
    return float(value)


def _seeds(first: int, count: int) -> tuple[int, ...]:
    if not 1 <= count <= MOST_SEEDS:
        raise UsageError(f"--seeds {count}: must be 1 or more, and {MOST_SEEDS:,} or less")
    if not 0 <= first <= 2**63 - 1 - count:
        raise UsageError(f"--seed {first}: it must be 0 or more, and below 2**63")
    return tuple(range(first, first + count))


def _distinct(values: Iterable[T]) -> tuple[T, ...]:
    return tuple(dict.fromkeys(values))
