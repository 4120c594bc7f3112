"""Studies over class counts as words: what tables, figure and terminal say alike. Records and rows in, text out."""

from collections.abc import Sequence

from bench.scaling.answers import Answer
from bench.scaling.records import StudyManifest
from bench.scaling.row_notices import by_count, listed
from bench.scaling.rows import Estimate, ScalingRow
from bench.scaling.run import StudyRun
from reports import wording
from reports.accuracy.wording import decimal, recipe_words, seeds
from reports.wording import count

#: Whether a model has converged, as a cell of a table.
CONVERGED: dict[bool | None, str] = {True: "yes", False: "no", None: "cannot be told"}


def counts(classes: Sequence[int]) -> str:
    """Class counts in a sentence: 10, 100 and 1,000."""
    return listed([count(each) for each in classes])


def measured_on(manifest: StudyManifest) -> list[str]:
    """What was trained on what: a line for the grid, the data, the queries, the recipe, the steps and the machine."""
    trained = manifest.trained
    asked = manifest.queries
    torch = manifest.versions.get("torch", "of unknown version")
    rates = ", ".join(f"{rate:g}" for rate in manifest.learning_rates)
    lines = [
        f"synthetic data of {counts([each.classes for each in manifest.counts])} classes: {len(manifest.losses)} "
        f"{'loss' if len(manifest.losses) == 1 else 'losses'}, learning rates {rates}, {seeds(len(manifest.seeds))}",
        f"data of all class counts: {manifest.family or 'as synthetic:K makes them'}",
        f"queries: min(classes, {count(asked.classes)}) classes, each with {count(asked.positives)} positive and "
        f"{count(asked.negatives)} negative examples",
    ]
    recipes = [(each.classes, each.recipe) for each in trained if each.recipe is not None]
    shared = manifest.recipe or (recipes[-1][1] if recipes else None)
    if shared is not None:
        lines.append(recipe_words(shared))
    if recipes:
        steps = ", ".join(f"{count(each.steps)} at {count(classes)}" for classes, each in recipes)
        lines.append(
            f"steps of {count(recipes[-1][1].batch_size)} examples of a full training, by class count: {steps}"
        )
    device = "cpu" if shared is None else shared.device
    return [*lines, f"{device} ({wording.hardware(manifest.machine, device)}); torch {torch}"]


def state(run: StudyRun) -> str:
    """How far a study that is not complete has come; empty for a complete one."""
    manifest = run.manifest
    if manifest.status == "complete":
        return ""
    asked = sum(len(each.losses) for each in manifest.trained) * len(manifest.seeds)
    done = sum(each.stage == "full" for each in run.points)
    return f"the run is {manifest.status}: {done} of {asked} models have met the queries"


def left_out(manifest: StudyManifest) -> list[str]:
    """At which class counts nothing was trained: a line a reason."""
    found: dict[str, list[int]] = {}
    for each in manifest.counts:
        if each.left_out:
            found.setdefault(_line(each.left_out), []).append(each.classes)
    return [f"{counts(classes)} classes: nothing was trained: {why}" for why, classes in found.items()]


def missing(rows: Sequence[ScalingRow]) -> list[str]:
    """Which losses have no model of every seed at which class counts, though they were asked for: a line a reason."""
    found: dict[str, list[ScalingRow]] = {}
    for row in rows:
        if row.status != "left-out" and (row.reason or row.status != "ok"):
            why = row.reason if row.status == "ok" else f"{row.status}: {row.reason}".removesuffix(": ")
            found.setdefault(_line(why), []).append(row)
    return [f"{by_count(lacking)}: {why}" for why, lacking in found.items()]


def estimate(found: Estimate | None) -> str:
    """An error and its interval: 0.0123 (0.0110 .. 0.0137); empty for None."""
    if found is None:
        return ""
    between = "" if found.low is None or found.high is None else f" ({decimal(found.low)} .. {decimal(found.high)})"
    return decimal(found.error) + between


def gigabytes(number: int | None) -> str:
    """Bytes in GB, without the unit; empty for None."""
    return "" if number is None else wording.significant(number / 1e9)


def question(rows: Sequence[ScalingRow]) -> str:
    """What the lines of the answer answer."""
    return (
        "Where is one logit both faster than all and as good as all logits of CE? "
        f"(up to {count(_largest(rows))} classes, the largest count trained)"
    )


def answer_lines(found: Sequence[Answer], rows: Sequence[ScalingRow]) -> list[str]:
    """A line for the losses with the same answer; CE comes with its role, the negative control."""
    told: dict[str, list[str]] = {}
    for each in found:
        name = f"{each.name} (the negative control)" if each.loss == "ce" else each.name
        told.setdefault(answer(each, _largest(rows)), []).append(name)
    return [f"{listed(names)}: {words}" for words, names in told.items()]


def answer(found: Answer, largest: int) -> str:
    """Where one logit of a loss is faster and as good; `largest`: of the class counts that were trained."""
    also = [] if found.since is None else [each for each in found.yes if each < found.since]
    no, undecided = _open("not", found.no), _open("undecided", found.undecided)
    parts = [
        _told(found, largest),
        f"also at {counts(also)}" if also else "",
        *((undecided, no) if found.kind == "undecided" else (no, undecided)),
    ]
    return "; ".join(part for part in parts if part)


def _largest(rows: Sequence[ScalingRow]) -> int:
    return max((row.classes for row in rows if row.status != "left-out"), default=0)


def _told(found: Answer, largest: int) -> str:
    if found.since == largest:
        return f"at {count(largest)} classes"
    if found.since is not None:
        return f"from {count(found.since)} classes on"
    if found.kind == "some":
        return f"at {counts(found.yes)} classes alone"
    return "nowhere" if found.kind == "nowhere" else ""


def _open(word: str, found: Sequence[tuple[int, str]]) -> str:
    """At which class counts the answer is another one, and why, in a few words."""
    reasons: dict[str, list[int]] = {}
    for classes, reason in found:
        reasons.setdefault(_line(reason), []).append(classes)
    told = [f"at {counts(classes)} classes ({why})" for why, classes in reasons.items()]
    return f"{word} {', '.join(told)}" if told else ""


def limits(manifest: StudyManifest) -> str:
    """What the answer does not say."""
    trained = [each.classes for each in manifest.trained]
    over = "queries and seeds" if len(manifest.seeds) > 1 else "queries, of one training each"
    upto = f"up to {count(max(trained))} classes" if trained else "at no class count"
    return (
        f"Said of one family of synthetic data and one backbone, {upto}; as good: at most 10 % more 1-AUPRC than all "
        f"logits of CE, with 95 % confidence over {over}; faster: the time of one example as the speed run "
        "measured it, of logits alone: the log-normaliser, which the score from all logits needs too, is not in it."
    )


def judged_lines(rows: Sequence[ScalingRow]) -> list[str]:
    """A line for the speed of each class count that was trained, then one a loss that has a model there."""
    found = []
    for classes in dict.fromkeys(row.classes for row in rows if row.status != "left-out"):
        here = [row for row in rows if row.classes == classes]
        found.append(f"{count(classes)} classes: faster: {here[0].faster} ({_line(here[0].faster_because)})")
        found += [
            f"{row.name} at {count(classes)} classes: as good: {row.as_good} ({_line(row.as_good_because)})"
            for row in here
            if row.seeds
        ]
    return found


def _line(text: str) -> str:
    return " ".join(text.split())
