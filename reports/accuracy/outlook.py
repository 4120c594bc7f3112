"""What a grid would train, and about how long it would take, as lines."""

import sys
from typing import TYPE_CHECKING, TextIO

from rich.text import Text

from reports import wording
from reports.accuracy.wording import dataset, recipe_words, seeds
from reports.terminal import console_for

if TYPE_CHECKING:
    from bench.accuracy.outlook import Outlook


def print_outlook(outlook: "Outlook", stream: TextIO | None = None) -> None:
    """Losses, rates, data, recipe, and the least time they can take."""
    console = console_for(stream or sys.stdout)
    facts, recipe = outlook.dataset, outlook.recipe
    console.print(Text(f"{dataset(facts.name)}: {_trainings(outlook)}", style="bold"), soft_wrap=True)
    for line in (
        f"losses: {', '.join(outlook.losses)}",
        f"learning rates: {', '.join(f'{rate:g}' for rate in outlook.learning_rates)}; {seeds(len(outlook.seeds))}",
        f"data: {wording.count(facts.train)} examples to train, {wording.count(facts.validation)} to choose the rate, "
        f"{wording.count(facts.test)} to test, of {wording.count(facts.classes)} classes",
        f"recipe: {recipe_words(recipe)}, on {recipe.device}",
        f"At least {wording.duration(outlook.seconds)}: {outlook.operations_per_example:.3g} operations an example, "
        "at this device's rate for large matrix products; small networks, validation and tests come on top. "
        "Nothing was trained.",
    ):
        console.print(line, soft_wrap=True)


def _trainings(outlook: "Outlook") -> str:
    recipe = outlook.recipe
    what = "1 training" if outlook.trainings == 1 else f"{wording.count(outlook.trainings)} trainings"
    return f"{what} of {wording.count(recipe.steps)} steps of {wording.count(recipe.batch_size)} examples"
