"""What is timed at a class count: as it is trained there; where nothing is, as it would be."""

import math
import os

from bench.accuracy import capacity
from bench.accuracy.losses import find
from bench.accuracy.settings import AT_PRIOR, LossSetting
from bench.errors import UsageError
from bench.machine.memory import free_bytes
from bench.scaling import family
from bench.scaling.cost import MINIBATCHES, CostOrder
from bench.scaling.plan import HYPERPARAMETERS, demand_of
from bench.scaling.records import CountSetting, StudyManifest


def cost_order(manifest: StudyManifest, count: CountSetting, loss: str) -> tuple[CostOrder, str]:
    """What a child is to time, and why it should not be asked; empty if it can be."""
    shared = manifest.recipe
    assert shared is not None, "a study that measures has a recipe"
    demand = demand_of(shared, (family.features_of(manifest.family),), count.classes)
    asked = manifest.top_layer_step or (count.recipe.top_layer_step if count.recipe else None)
    refusal = ""
    try:
        step = capacity.choose_step(asked, demand, free_bytes(shared.device))
    except UsageError as error:
        step, refusal = asked or "in-place", str(error)
    recipe = (count.recipe or shared).model_copy(update={"top_layer_step": step})
    examples = MINIBATCHES * recipe.batch_size
    order = CostOrder(
        parent=os.getpid(),
        dataset=family.name_of(manifest.family, count.classes, examples),
        classes=count.classes,
        recipe=recipe,
        loss=loss,
        setting=_setting(count, loss),
        learning_rate=min(manifest.learning_rates),
        threads=max(1, math.floor(manifest.machine.cores_usable)),
    )
    return order, refusal


def _setting(count: CountSetting, loss: str) -> LossSetting:
    """The loss as it is trained at a count; where nothing is, as it would be."""
    trained = next((each for each in count.losses if each.key == loss), None)
    if trained is not None:
        return trained
    entry = find(loss)
    return LossSetting(
        key=loss,
        name=entry.name,
        aligned=entry.aligned,
        hyperparameters=dict(HYPERPARAMETERS.get(loss, {})),
        prior_bias=loss in AT_PRIOR,
    )
