"""What of a study is still to be done. Pure: what was asked for and what has ended go in, the next work comes out.

of each class count    the optimum
                       search: first seed, every rate, half of the steps  ->  the rate of each loss
                       full:   every seed at that rate, all steps
                       a point for each chosen model of either
                       the cost of a step of each loss
at the end             speed
"""

from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING

from bench.accuracy.choice import choose
from bench.accuracy.records import Training
from bench.accuracy.settings import Member, Recipe
from bench.folder import Notice
from bench.scaling import family, notices
from bench.scaling.records import CountSetting, Stage, StepCost, StudyManifest, StudyPoint, StudyTraining

if TYPE_CHECKING:
    from bench.scaling.run import StudyRun

STAGES: tuple[Stage, ...] = ("search", "full")


def recipe_of(count: CountSetting, stage: Stage) -> Recipe:
    """How trainings of a stage are done at a class count at which something is trained."""
    assert count.recipe is not None, "something is trained here"
    if stage == "full":
        return count.recipe
    return count.recipe.model_copy(update={"steps": family.search_steps(count.recipe.steps)})


def ended(trainings: Iterable[StudyTraining], count: CountSetting, stage: Stage) -> dict[Member, Training]:
    """The trainings of a stage at a class count that have ended."""
    return {
        each.training.member: each.training
        for each in trainings
        if each.classes == count.classes and each.stage == stage
    }


def chosen(
    manifest: StudyManifest, trainings: Iterable[StudyTraining], count: CountSetting
) -> dict[str, Training | None]:
    """The search's choice for each loss whose rates have all ended; none where no rate led to a model."""
    search = ended(trainings, count, "search")
    found: dict[str, Training | None] = {}
    for loss in manifest.losses:
        tried = [Member(loss=loss, learning_rate=rate, seed=manifest.seeds[0]) for rate in manifest.learning_rates]
        if search.keys() >= set(tried):
            found[loss] = choose(search[member] for member in tried)
    return found


def members(
    manifest: StudyManifest, trainings: Iterable[StudyTraining], count: CountSetting, stage: Stage
) -> tuple[Member, ...]:
    """The trainings of a stage at a class count, as far as they are known; of `full`, none before the choice."""
    if count.left_out:
        return ()
    if stage == "search":
        return tuple(
            Member(loss=loss, learning_rate=rate, seed=manifest.seeds[0])
            for loss in manifest.losses
            for rate in manifest.learning_rates
        )
    best = chosen(manifest, trainings, count)
    return tuple(
        Member(loss=loss, learning_rate=training.member.learning_rate, seed=seed)
        for seed in manifest.seeds
        for loss in manifest.losses
        if (training := best.get(loss)) is not None
    )


def to_train(
    manifest: StudyManifest, trainings: Collection[StudyTraining], count: CountSetting, stage: Stage
) -> list[Member]:
    """Trainings of a stage that have not ended."""
    done = ended(trainings, count, stage)
    return [member for member in members(manifest, trainings, count, stage) if member not in done]


def to_meet(run: "StudyRun", count: CountSetting, stage: Stage) -> list[Training]:
    """Chosen models of a stage that ended and have not met the queries."""
    if count.left_out:
        return []
    have = {(point.classes, point.stage, _member(point)) for point in run.points}
    if stage == "search":
        models = [best for best in chosen(run.manifest, run.trainings, count).values() if best is not None]
    else:
        done = ended(run.trainings, count, "full")
        wanted = members(run.manifest, run.trainings, count, "full")
        models = [done[member] for member in wanted if member in done and done[member].status == "ok"]
    return [each for each in models if (count.classes, stage, each.member) not in have]


def standing(
    manifest: StudyManifest, trainings: Collection[StudyTraining], points: Iterable[StudyPoint]
) -> tuple[StudyPoint, ...]:
    """The points of the models that are chosen now: a search that was tried again may have chosen other rates."""
    wanted: set[tuple[int, Stage, Member]] = set()
    for count in manifest.trained:
        best = chosen(manifest, trainings, count).values()
        wanted |= {(count.classes, "search", each.member) for each in best if each is not None}
        wanted |= {(count.classes, "full", member) for member in members(manifest, trainings, count, "full")}
    return tuple(point for point in points if (point.classes, point.stage, _member(point)) in wanted)


def costs_left(manifest: StudyManifest, costs: Collection[StepCost], count: CountSetting) -> list[str]:
    """Losses whose step was not timed at a class count; one that was refused is tried again by a resumed study."""
    have = {cost.loss for cost in costs if cost.classes == count.classes}
    return [loss for loss in manifest.losses if loss not in have]


def is_whole(run: "StudyRun") -> bool:
    """Whether all that was asked for is there; a training that diverged has ended, one that failed has not."""
    manifest = run.manifest
    if any(each.training.status == "failed" for each in run.trainings) or any(cost.reason for cost in run.costs):
        return False
    if {each.classes for each in run.optima} < {count.classes for count in manifest.counts}:
        return False
    if any(costs_left(manifest, run.costs, count) for count in manifest.counts):
        return False
    for count in manifest.trained:
        if any(to_train(manifest, run.trainings, count, stage) or to_meet(run, count, stage) for stage in STAGES):
            return False
    return not manifest.speed_minibatches or (run.speed is not None and run.speed.manifest.status == "complete")


def total_trainings(run: "StudyRun") -> int:
    """Trainings of a whole study; of losses that are not chosen yet, those that there will be if they are."""
    manifest, total = run.manifest, 0
    for count in manifest.trained:
        best = chosen(manifest, run.trainings, count)
        with_a_model = sum(loss not in best or best[loss] is not None for loss in manifest.losses)
        total += len(manifest.losses) * len(manifest.learning_rates) + with_a_model * len(manifest.seeds)
    return total


def lost(run: "StudyRun") -> list[Notice]:
    """A notice for each loss without a model at a class count, and each seed without one."""
    found = []
    for count in run.manifest.trained:
        search = ended(run.trainings, count, "search")
        for loss, best in chosen(run.manifest, run.trainings, count).items():
            if best is None:
                why = "; ".join(each.reason for each in search.values() if each.member.loss == loss)
                found.append(notices.no_point(count.classes, loss, why))
        full = ended(run.trainings, count, "full")
        found += [
            notices.lost_seed(count.classes, member.name, full[member].reason)
            for member in members(run.manifest, run.trainings, count, "full")
            if member in full and full[member].status != "ok"
        ]
    return found


def _member(point: StudyPoint) -> Member:
    return Member(loss=point.loss, learning_rate=point.learning_rate, seed=point.seed)
