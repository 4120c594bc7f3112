"""What a request for a study means on this machine: data, recipe, losses of each class count. Nothing is trained yet.

What must be alike at every class count is decided once, here: network, minibatch, optimiser, schedule, rates, seeds,
each loss's hyperparameters, the start of its bias, the data's family, the queries. Steps and the way the top layer
steps are each count's own, and are recorded with it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bench.accuracy import capacity, networks
from bench.accuracy import plan as trainings
from bench.accuracy.capacity import Demand
from bench.accuracy.losses import NOISE_SAMPLES, SAMPLED, UNIFORM
from bench.accuracy.request import Request
from bench.accuracy.settings import AT_PRIOR, LossSetting, Recipe, TopLayerStep
from bench.errors import UsageError
from bench.folder import Notice, now
from bench.machine import fingerprint
from bench.machine.memory import free_bytes
from bench.refusals import refuse_sizes
from bench.scaling import family as data
from bench.scaling import notices
from bench.scaling.records import REFERENCE, CountSetting, QuerySetting, StudyManifest

DEFAULT_CLASSES = "10,100,1000,10**4,10**5,2**18.5"
DEFAULT_LOSSES = "ce,self-norm,binary-ce,batch-ce,nce"
DEFAULT_RATES = (0.003, 0.001)
DEFAULT_SEEDS = 3
DEFAULT_MINIBATCHES = 30

#: --quick: to see that everything works, not to find anything out.
QUICK: Mapping[str, Any] = {
    "classes": "10,100",
    "steps": 200,
    "seeds": 1,
    "learning_rates": (0.003,),
    "queries": 100,
    "negatives": 2_000,
}

#: Classes from which on a training takes hours on a CPU.
GPU_CLASSES = 10**5

#: Of a study's training; a validation is 10,000 examples, and twenty of them would cost as much as a short training.
CURVE_POINTS = 5

#: What every count's plan is tried on first, if it has fewer classes than any that are studied.
_SMALL = 1000

#: What would differ by the class count, or by whether every class was seen, if it were left to the losses' defaults:
#: NCE exact up to 10,000 classes and sampled beyond would be two losses in one line of a figure.
HYPERPARAMETERS: Mapping[str, Mapping[str, float | str]] = {
    "nce": {"estimate": SAMPLED, "t": NOISE_SAMPLES, "q": UNIFORM},
    "importance-sampling": {"q": UNIFORM},
    "negative-sampling": {"q": UNIFORM},
}


@dataclass(frozen=True, kw_only=True)
class StudyRequest:
    """What to study; None leaves it to --quick, else to the defaults above."""

    classes: str | Sequence[int] | None = None
    losses: str | Sequence[str] = DEFAULT_LOSSES
    network: str = "mlp"
    seeds: int | None = None
    steps: str | int | None = None
    """of all counts, or 10=2000,1000=8000; else bench.scaling.family.default_steps"""
    batch_size: int = 256
    optimiser: str = "adam"
    learning_rates: Sequence[float] | None = None
    schedule: str = "cosine"
    queries: int | None = None
    positives: int = 20
    negatives: int | None = None
    family: str = data.DEFAULT_FAMILY
    device: str = "auto"
    workers: int | None = None
    threads: int | None = None
    """of a worker; a timed step has all of the machine's"""
    top_layer_step: str | None = None
    train_all: bool = False
    """counts of GPU_CLASSES and more on a CPU too"""
    speed_minibatches: int = DEFAULT_MINIBATCHES
    """rounds of the speed run; 0: none"""
    quick: bool = False

    def filled(self, name: str, default: Any) -> Any:
        """What was asked for, else what --quick says, else a default."""
        asked = getattr(self, name)
        if asked is not None:
            return asked
        return QUICK.get(name, default) if self.quick else default


@dataclass(frozen=True)
class StudyPlan:
    """A request made definite."""

    family: str
    counts: tuple[CountSetting, ...]
    queries: QuerySetting
    losses: tuple[str, ...]
    learning_rates: tuple[float, ...]
    seeds: tuple[int, ...]
    recipe: Recipe
    """what all counts share"""
    top_layer_step: TopLayerStep | None
    speed_minibatches: int
    notices: tuple[Notice, ...]

    def manifest(self, *, command: Sequence[str]) -> StudyManifest:
        """The manifest of a new run of this plan, on this machine."""
        return StudyManifest(
            name=f"scaling-{self.recipe.network}",
            created=now(),
            command=tuple(command),
            family=self.family,
            counts=self.counts,
            queries=self.queries,
            losses=self.losses,
            learning_rates=self.learning_rates,
            seeds=self.seeds,
            recipe=self.recipe,
            top_layer_step=self.top_layer_step,
            speed_minibatches=self.speed_minibatches,
            machine=fingerprint.describe(self.recipe.device),
            versions=fingerprint.versions(),
            commit=fingerprint.commit(),
            notices=self.notices,
        )


def plan(request: StudyRequest) -> StudyPlan:
    """Decide what a request means here.

    Raises UsageError for what is unknown or contradicts itself, before anything is trained.
    """
    counts = data.class_counts(request.filled("classes", DEFAULT_CLASSES))
    steps = data.steps_by_count(request.filled("steps", None), counts)
    family = data.options_of(request.family)
    queries = _queries(request)
    _refuse_sizes(request)
    for count in counts:
        data.name_of(family, count, steps[count] * request.batch_size)
    shared = _planned(request, family, min(counts[0], _SMALL), steps[counts[0]])
    settings: list[CountSetting] = []
    found = [] if any(loss.key == REFERENCE for loss in shared.losses) else [notices.no_reference()]
    for count in counts:
        setting, noticed = _count_setting(request, family, count, steps[count], shared)
        settings.append(setting)
        found += noticed
    return StudyPlan(
        family=family,
        counts=tuple(settings),
        queries=queries,
        losses=tuple(loss.key for loss in shared.losses),
        learning_rates=shared.learning_rates,
        seeds=shared.seeds,
        recipe=_recipe_of(shared),
        top_layer_step=None if request.top_layer_step is None else shared.recipe.top_layer_step,
        speed_minibatches=request.speed_minibatches,
        notices=tuple(dict.fromkeys(found)),
    )


def _queries(request: StudyRequest) -> QuerySetting:
    asked = {
        "queries": request.filled("queries", 2000),
        "positives": request.positives,
        "negatives": request.filled("negatives", 10_000),
    }
    refuse_sizes({f"--{name}": value for name, value in asked.items()}, threads=None, seed=0)
    return QuerySetting(classes=asked["queries"], positives=asked["positives"], negatives=asked["negatives"])


def _refuse_sizes(request: StudyRequest) -> None:
    refuse_sizes({"--batch-size": request.batch_size, "--workers": request.workers}, threads=request.threads, seed=0)
    if request.speed_minibatches < 0:
        raise UsageError(f"--speed-minibatches {request.speed_minibatches}: give 1 or more, or --no-speed")


def _planned(request: StudyRequest, family: str, classes: int, steps: int) -> trainings.Plan:
    """The grid of one count, as `python -m bench accuracy` would plan it."""
    trained = trainings.loss_keys(request.losses)
    asked = {key: values for key, values in HYPERPARAMETERS.items() if key in trained}
    return trainings.plan(
        Request(
            dataset=data.name_of(family, classes, steps * request.batch_size),
            losses=request.losses,
            learning_rates=request.filled("learning_rates", DEFAULT_RATES),
            steps=steps,
            batch_size=request.batch_size,
            optimiser=request.optimiser,
            schedule=request.schedule,
            seeds=request.filled("seeds", DEFAULT_SEEDS),
            network=request.network,
            device=request.device,
            workers=request.workers,
            threads=request.threads,
            stack=1,
            top_layer_step=request.top_layer_step,
            hyperparameters=asked,
        )
    )


def _count_setting(
    request: StudyRequest,
    family: str,
    classes: int,
    steps: int,
    shared: trainings.Plan,
) -> tuple[CountSetting, list[Notice]]:
    """One class count, and what somebody might not expect of it."""
    why = _left_out(classes, shared, request)
    if why:
        return CountSetting(classes=classes, left_out=why), [notices.left_out(classes, why)]
    planned = _planned(request, family, classes, steps)
    return (
        CountSetting(
            classes=classes,
            dataset=planned.dataset.name,
            recipe=_recipe_of(planned),
            losses=tuple(_setting_of(loss) for loss in planned.losses),
        ),
        list(planned.notices),
    )


def _left_out(classes: int, shared: trainings.Plan, request: StudyRequest) -> str:
    """Why nothing is trained at a class count; empty if something is."""
    if classes >= GPU_CLASSES and shared.recipe.device == "cpu" and not request.train_all:
        return (
            "10**5 classes and more need a GPU to train: on a CPU they take days; --train-all trains them all the same"
        )
    demand = demand_of(shared.recipe, shared.dataset.facts.input_shape, classes)
    try:
        capacity.choose_step(request.top_layer_step, demand, free_bytes(shared.recipe.device))
    except UsageError as error:
        return str(error)
    return ""


def demand_of(recipe: Recipe, input_shape: Sequence[int], classes: int) -> Demand:
    """What memory a training by a recipe needs at a class count. Raises UsageError as networks.outline does."""
    outline = networks.outline(recipe.network, input_shape)
    return Demand(
        examples=recipe.batch_size,
        classes=classes,
        features=outline.features,
        backbone_parameters=outline.backbone_parameters,
        states=capacity.states_of(recipe.optimiser, recipe.momentum),
        in_host_memory=recipe.device == "cpu",
    )


def _recipe_of(planned: trainings.Plan) -> Recipe:
    """As planned, but that the bias starts at the prior by its loss alone, whatever the class count."""
    has_bias = networks.outline(planned.recipe.network, planned.dataset.facts.input_shape).bias
    alike: dict[str, Any] = {"curve_points": CURVE_POINTS, "prior_bias": "auto" if has_bias else False}
    return planned.recipe.model_copy(update=alike)


def _setting_of(loss: LossSetting) -> LossSetting:
    return loss.model_copy(update={"prior_bias": loss.key in AT_PRIOR})
