"""Accuracy runs as words: what tables, figures and terminal say alike. Records and rows in, text out."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from archs.top_layer_kinds import RIVALS
from bench.accuracy.records import DatasetFacts, Evaluation, Manifest, Separation, Training
from bench.accuracy.settings import LossSetting, Recipe
from reports.wording import count, hardware, threads

if TYPE_CHECKING:
    from bench.accuracy.parity import Parity
    from bench.accuracy.rows import Spread, Table1Row
    from bench.accuracy.run import AccuracyRun

#: The measures of the paper's Tables 1 and 2 -> their headings.
MEASURES = {
    "one_minus_auprc": "1-AUPRC",
    "one_minus_precision_at_90": "1-Precision@0.9",
    "one_minus_precision_at_99": "1-Precision@0.99",
}

#: What some libraries of the paper's time called AUPRC; beside it in the tables that have room.
TRAPEZOID = "one_minus_auprc_trapezoid"

#: Decimals of a measure: one more than the paper's, whose best losses on MNIST differ by its last digit.
DECIMALS = 4

#: So many classes are named one by one; the records have all.
MOST_LISTED = 10

#: Characters of a class's name in the title of a panel.
LONGEST_NAME = 32

#: Our names of data sets -> as they are written.
DATASETS = {
    "mnist": "MNIST",
    "fashion-mnist": "Fashion-MNIST",
    "svhn": "SVHN",
    "cifar10": "CIFAR-10",
    "cifar100": "CIFAR-100",
    "imagenet": "ImageNet",
    "omniglot": "Omniglot",
}

#: What stands in the place of a rival's single logit: all of its scores are normalised.
RIVALS_SCORE = "log P of one class"

#: Which losses a mean or an improvement is over -> in words.
IMPROVEMENTS = {"paper": "the paper's losses", "all": "all losses"}


def dataset(name: str) -> str:
    """The name of a data set as papers write it; any other as it is."""
    return DATASETS.get(name, name)


def dataset_labels(runs: Sequence["AccuracyRun"]) -> list[str]:
    """One label a run: its data set, and its name or its folder where another run has the same data set."""
    names = [dataset(run.manifest.dataset.name) for run in runs]
    stems = [run.manifest.name if run.path is None else run.path.resolve().name for run in runs]
    if len(set(zip(names, stems, strict=True))) < len(runs):
        stems = [stem if run.path is None else str(run.path) for run, stem in zip(runs, stems, strict=True)]
    return [f"{name} ({stem})" if names.count(name) > 1 else name for name, stem in zip(names, stems, strict=True)]


def decimal(value: float | None) -> str:
    """A measure to four decimals; empty for None."""
    return "" if value is None else f"{value:.{DECIMALS}f}"


def spread(found: "Spread | None", between: str = " +- ") -> str:
    """Mean and standard deviation over seeds; the mean alone for one seed, empty where nothing was measured."""
    if found is None:
        return ""
    return decimal(found.mean) + ("" if found.std is None else f"{between}{decimal(found.std)}")


def percent(share: float | None, decimals: int = 1) -> str:
    """A share as a percentage; empty for None."""
    return "" if share is None else f"{100 * share:.{decimals}f} %"


def percent_between(low: float, high: float) -> str:
    """A share known to lie between two bounds, as one percentage to two decimals where both print alike.

    Nothing but the whole is printed as 100 %: a share just below is cut, not rounded.
    """
    ends = [_cut_percent(low), _cut_percent(high)]
    return ends[0] if ends[0] == ends[1] else f"{ends[0][:-2]} to {ends[1]}"


def _cut_percent(share: float) -> str:
    text = f"{100 * share:.2f}"
    return "99.99 %" if text == "100.00" and share < 1 else f"{text} %"


def rates(row: "Table1Row") -> str:
    """The learning rates that were chosen, one a seed, once where all seeds have the same."""
    return ", ".join(f"{rate:g}" for rate in dict.fromkeys(row.learning_rate))


def status(row: "Table1Row") -> str:
    """Why a row has no numbers: what became of its trainings, and the first of the reasons; all stand in a list."""
    first, others, _ = " ".join(row.reason.split()).partition("; ")
    return row.status + (f": {first}" if first else "") + (" ..." if others else "")


def incomplete(rows: Sequence["Table1Row"]) -> list[str]:
    """One line for every loss that has numbers, but not of every seed."""
    return [f"{row.name}: {' '.join(row.reason.split())}" for row in rows if row.status == "ok" and row.reason]


def seeds(found: int) -> str:
    """So many seeds."""
    return f"{found} seed" if found == 1 else f"{found} seeds"


def parity(found: "Parity | None") -> str:
    """A verdict and the interval of the ratio of the two 1-AUPRC it rests on: parity (0.96 .. 1.05)."""
    if found is None:
        return ""
    return found.verdict + (
        "" if found.low is None or found.high is None else f" ({found.low:.2f} .. {found.high:.2f})"
    )


def parity_sentence(name: str, against: str, found: "Parity | None", score: str = "one logit") -> str:
    """What one logit of a loss, or log P of a rival, is worth against all logits of a model."""
    if found is None:
        return f"{name}, {score} against {against}: not compared"
    return f"{name}, {score} against {against}: {found.verdict}, {' '.join(found.reason.split())}"


def verdict_lines(rows: Sequence["Table1Row"]) -> list[str]:
    """For every loss the paper's question, and the same against the model's own logits; or why there is no answer."""
    lines = []
    for row in rows:
        if row.status != "ok":
            lines.append(f"{row.name}: no verdict, as it has no tested model ({row.status})")
            continue
        score = RIVALS_SCORE if row.loss in RIVALS else "one logit"
        lines.append(parity_sentence(row.name, "all logits of CE", row.parity_with_ce, score))
        if row.loss not in ("ce", *RIVALS):  # there, both questions are the same, or both scores
            lines.append(parity_sentence(row.name, "all logits of the same model", row.parity_with_own))
    return lines


def one_seed_note(rows: Sequence["Table1Row"]) -> str:
    """What the intervals leave out, said once for all verdicts: with one seed the spread between trainings."""
    seeds_of = {
        row.name: [each.seeds for each in (row.parity_with_ce, row.parity_with_own) if each and each.low is not None]
        for row in rows
    }
    alone = [name for name, found in seeds_of.items() if 1 in found]
    if not alone:
        return ""
    every = {seeds for found in seeds_of.values() for seeds in found} == {1}
    whose = "" if every else f" of {', '.join(alone)}"
    return (
        f"The intervals{whose} rest on one seed: they say how far other test "
        "examples would move the ratio, and nothing of the spread between trainings."
    )


def training_failures(trainings: Sequence[Training]) -> list[str]:
    """One line for every training that did not get to its end."""
    return [failure(training) for training in trainings if training.status != "ok"]


def failure(training: Training) -> str:
    """Which training ended early, how, and why."""
    reason = " ".join(training.reason.split())
    step = training.diverged_at
    is_told = step is None or f"step {step}" in reason or f"step {count(step)}" in reason
    at = "" if is_told or step is None else f" at step {count(step)}"
    return f"{training.member.name}: {training.status}{at}" + (f": {reason}" if reason else "")


def ended(training: Training) -> str:
    """How a training ended, in one line."""
    if training.status != "ok":
        return failure(training)
    accuracy = training.validation_accuracy
    parts = [
        f"{training.member.name}: {count(training.steps)} steps",
        "" if accuracy is None else f"validation accuracy {percent(accuracy, 2)}",
        "" if training.examples_per_s is None else f"{training.examples_per_s:,.0f} examples/s",
    ]
    return ", ".join(part for part in parts if part)


def improvement_words(losses: str, found: Mapping[str, float | None]) -> str:
    """By how much the aligned losses are better than the others, measure by measure."""
    told = [
        f"{heading} {percent(share)}"
        for measure, heading in MEASURES.items()
        if (share := found.get(measure)) is not None
    ]
    return f"{improvement_name(losses)}: {', '.join(told)}" if told else ""


def improvement_name(losses: str) -> str:
    """Heading of a row of improvements: over which losses it is a mean."""
    return f"Mean relative improvement, {IMPROVEMENTS.get(losses, losses)}"


def separated(holds: int, done: int) -> str:
    """In how many of the trained models every true logit is above every false one."""
    if done == 1:
        return "yes" if holds else "no"
    return f"{holds} of {done}"


def margin(separations: Sequence[Separation]) -> float | None:
    """Mean over models of the lowest true logit minus the highest false one; above 0 the logits are separated."""
    return _mean([each.lowest_true - each.highest_false for each in separations])


def ordered(separations: Sequence[Separation]) -> tuple[float, float] | None:
    """Bounds of the share of (true, false) pairs in order, means over models."""
    low = _mean([each.ordered_low for each in separations])
    high = _mean([each.ordered_high for each in separations])
    return None if low is None or high is None else (low, high)


def log_partition_std(separations: Sequence[Separation]) -> float | None:
    """Mean over models of the standard deviation of the examples' log-partition."""
    return _mean([each.log_partition_std for each in separations])


def _mean(values: Sequence[float]) -> float | None:
    return math.fsum(values) / len(values) if values else None


def evaluations_of(run: "AccuracyRun", loss: str) -> list[Evaluation]:
    """The tested models of one loss, by seed."""
    found = [each for each in run.evaluations if each.member.loss == loss]
    return sorted(found, key=lambda each: each.member.seed)


def measured_on(manifest: Manifest) -> list[str]:
    """What was trained on what: one line for the grid, one for the data, one for the recipe, one for the machine."""
    recipe = manifest.recipe
    grid = [
        f"{len(manifest.losses)} losses" if len(manifest.losses) > 1 else manifest.losses[0].name,
        f"learning rates {', '.join(f'{rate:g}' for rate in manifest.learning_rates)}",
        seeds(len(manifest.seeds)),
        f"{count(recipe.steps)} steps of {count(recipe.batch_size)} examples",
    ]
    machine = f"{recipe.device} ({hardware(manifest.machine, recipe.device)})"
    return [
        f"{dataset(manifest.dataset.name)}: {', '.join(grid)}",
        *_data_lines(manifest.dataset),
        recipe_words(recipe),
        f"{machine}; torch {manifest.versions.get('torch', 'of unknown version')}",
    ]


def _data_lines(facts: DatasetFacts) -> list[str]:
    shape = "x".join(map(str, facts.input_shape))
    sizes = f"{count(facts.train)} to train, {count(facts.validation)} to choose the rate, {count(facts.test)} to test"
    return [f"{count(facts.classes)} classes, examples of {shape}: {sizes}", *facts.notes]


def class_name(manifest: Manifest, number: int) -> str:
    """A class by its name, cut to fit a title; by its number in a run that has no names."""
    name = manifest.class_names[number] if number < len(manifest.class_names) else str(number)
    name = " ".join(name.split()) or str(number)
    return name if len(name) <= LONGEST_NAME else f"{name[: LONGEST_NAME - 3]}..."


#: How the bias of top layers starts, and how they step, where that is not the plain case.
_PRIOR_BIAS: dict[bool | str, str] = {False: "", True: "prior bias", "auto": "prior bias under losses that need it"}
_TOP_LAYER_STEPS = {
    "dense": "",
    "chunked": "top layer over chunks of classes",
    "in-place": "top layer by plain SGD in place",
}


def recipe_words(recipe: Recipe) -> str:
    """How the trainings are done: network, optimiser, schedule, and what differs from the plain case."""
    momentum = f" with momentum {recipe.momentum:g}" if recipe.optimiser in ("sgd", "rmsprop") else ""
    names = {"sgd": "SGD", "adam": "Adam", "adamw": "AdamW", "rmsprop": "RMSProp"}
    schedule = f"{recipe.schedule} rate"
    if recipe.decay_steps is not None and recipe.decay_rate is not None:
        schedule += f" (times {recipe.decay_rate:g} every {count(recipe.decay_steps)} steps)"
    parts = [
        recipe.network,
        f"{names[recipe.optimiser]}{momentum}",
        schedule,
        recipe.dtype,
        f"weight decay {recipe.weight_decay:g}" if recipe.weight_decay else "",
        f"label smoothing {recipe.label_smoothing:g}" if recipe.label_smoothing else "",
        f"auxiliary head weighted {recipe.auxiliary_weight:g}" if recipe.auxiliary_weight else "",
        _PRIOR_BIAS[recipe.prior_bias],
        _TOP_LAYER_STEPS[recipe.top_layer_step],
        f"{recipe.accumulation} micro-batches a step" if recipe.accumulation > 1 else "",
        f"{recipe.ranks} ranks a training" if recipe.ranks > 1 else "",
        "top layer split over the ranks" if recipe.shard_top_layer else "",
        f"compile {recipe.compile}" if recipe.compile != "none" else "",
        f"{recipe.stack} trainings a stack" if recipe.stack > 1 else "",
        f"{recipe.workers} workers" if recipe.workers > 1 else "",
        threads(recipe.threads),
    ]
    return ", ".join(part for part in parts if part)


def hyperparameters(losses: Sequence[LossSetting]) -> str:
    """The values each loss was used with, of those that have any; empty where none has."""
    told = [
        f"{loss.name}: "
        + ", ".join(
            f"{name} = {value if isinstance(value, str) else f'{value:g}'}"
            for name, value in loss.hyperparameters.items()
        )
        for loss in losses
        if loss.hyperparameters
    ]
    return f"Hyperparameters: {'; '.join(told)}." if told else ""


def listed(numbers: Sequence[int]) -> str:
    """Numbers of classes, as many as a person reads."""
    return ", ".join(map(str, numbers[:MOST_LISTED])) + (", ..." if len(numbers) > MOST_LISTED else "")


def state(run: "AccuracyRun") -> str:
    """How far a run that is not complete has come; empty for a complete one."""
    manifest = run.manifest
    if manifest.status == "complete":
        return ""
    return f"the run is {manifest.status}: {len(run.trainings)} of {len(manifest.members)} trainings ended"
