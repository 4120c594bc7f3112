"""What is left of a study, from records made by hand."""

from dataclasses import replace
from typing import Any

import pytest

from bench.accuracy.records import CurvePoint, Training
from bench.accuracy.settings import LossSetting, Member, Recipe
from bench.machine.fingerprint import Machine
from bench.scaling import tasks
from bench.scaling.records import (
    CountSetting,
    Optimum,
    QueryMeasure,
    Stage,
    StepCost,
    StudyManifest,
    StudyPoint,
    StudyTraining,
)
from bench.scaling.run import StudyRun

RECIPE = Recipe(network="mlp", steps=20)
COUNT = CountSetting(
    classes=10,
    dataset="synthetic:10",
    recipe=RECIPE,
    losses=tuple(LossSetting(key=key, name=key, aligned=True) for key in ("ce", "nce")),
)
LEFT_OUT = CountSetting(classes=10**5, left_out="no GPU")
MANIFEST = StudyManifest(
    name="scaling-mlp",
    created="2026-01-02T03:04:05+00:00",
    family="zipf=0",
    counts=(COUNT, LEFT_OUT),
    losses=("ce", "nce"),
    learning_rates=(0.1, 0.01),
    seeds=(3, 4),
    recipe=RECIPE,
    machine=Machine(os="", cpu="", cores_physical=1, cores_logical=1, cores_usable=1, memory_bytes=1),
    versions={},
)


def trained(
    loss: str, rate: float, seed: int = 3, stage: Stage = "search", accuracy: float = 0.5, status: Any = "ok"
) -> StudyTraining:
    curve = (CurvePoint(step=1, training_loss=1, validation_loss=1, validation_accuracy=accuracy, seconds=1),)
    member = Member(loss=loss, learning_rate=rate, seed=seed)
    training = Training(
        member=member, status=status, reason="" if status == "ok" else status, steps=1, curve=curve, seconds=1
    )
    return StudyTraining(classes=10, stage=stage, training=training)


def met(each: StudyTraining) -> StudyPoint:
    measure = QueryMeasure(error=0.1, standard_error=0.01)
    member = each.training.member
    return StudyPoint(
        classes=10, stage=each.stage, loss=member.loss, learning_rate=member.learning_rate, seed=member.seed, steps=1,
        queries=10, single=measure, all=measure, validation_accuracy=0.5, seconds=1,
    )  # fmt: skip


SEARCH = (
    trained("ce", 0.1),
    trained("ce", 0.01, accuracy=0.6),
    trained("nce", 0.1, accuracy=0.7),
    trained("nce", 0.01),
)
FULL = tuple(trained(loss, rate, seed, "full") for seed in (3, 4) for loss, rate in (("ce", 0.01), ("nce", 0.1)))


def whole() -> StudyRun:
    measure = QueryMeasure(error=0.0, standard_error=0.0)
    return StudyRun(
        MANIFEST,
        trainings=(*SEARCH, *FULL),
        points=tuple(met(each) for each in (SEARCH[1], SEARCH[2], *FULL)),
        optima=tuple(Optimum(classes=count, queries=10, measure=measure, seconds=1) for count in (10, 10**5)),
        costs=tuple(
            StepCost(classes=count, loss=loss, step="dense", batch_size=8, threads=1, seconds=(1.0,))
            for count in (10, 10**5)
            for loss in ("ce", "nce")
        ),
    )


def test_a_search_is_the_first_seed_at_every_rate_and_half_of_the_steps() -> None:
    left = tasks.to_train(MANIFEST, (), COUNT, "search")
    assert [(each.loss, each.learning_rate, each.seed) for each in left] == [
        ("ce", 0.1, 3), ("ce", 0.01, 3), ("nce", 0.1, 3), ("nce", 0.01, 3),
    ]  # fmt: skip
    assert (tasks.recipe_of(COUNT, "search").steps, tasks.recipe_of(COUNT, "full").steps) == (10, 20)
    assert tasks.to_train(MANIFEST, (), COUNT, "full") == []
    assert tasks.to_train(MANIFEST, (), LEFT_OUT, "search") == []


def test_full_trainings_are_all_seeds_at_the_rate_that_the_search_chose() -> None:
    assert tasks.to_train(MANIFEST, SEARCH, COUNT, "full") == [each.training.member for each in FULL]
    assert tasks.to_train(MANIFEST, (*SEARCH, FULL[0]), COUNT, "full") == [each.training.member for each in FULL[1:]]


def test_a_loss_is_chosen_once_all_its_rates_have_ended() -> None:
    assert tasks.chosen(MANIFEST, SEARCH[:3], COUNT).keys() == {"ce"}


def test_models_meet_the_queries_once() -> None:
    run = replace(whole(), points=())
    assert [each.member for each in tasks.to_meet(run, COUNT, "search")] == [
        SEARCH[1].training.member, SEARCH[2].training.member,
    ]  # fmt: skip
    assert len(tasks.to_meet(run, COUNT, "full")) == 4
    assert [tasks.to_meet(whole(), COUNT, stage) for stage in tasks.STAGES] == [[], []]


def test_a_choice_that_changed_takes_its_points_with_it() -> None:
    again = (trained("ce", 0.1, accuracy=0.9), *SEARCH[1:])
    standing = tasks.standing(MANIFEST, (*again, *FULL), whole().points)
    assert {point.loss for point in standing} == {"nce"}
    assert {each.learning_rate for each in tasks.to_train(MANIFEST, (*again, *FULL), COUNT, "full")} == {0.1}


def test_a_study_is_whole_when_nothing_is_missing_and_nothing_failed() -> None:
    run = whole()
    assert tasks.is_whole(run)
    assert tasks.total_trainings(run) == len(run.trainings)
    assert tasks.lost(run) == []


@pytest.mark.parametrize("what", ["trainings", "points", "optima", "costs"])
def test_a_study_that_lacks_anything_is_not_whole(what: str) -> None:
    run = whole()
    for index in range(len(getattr(run, what))):
        records = getattr(run, what)
        assert not tasks.is_whole(replace(run, **{what: records[:index] + records[index + 1 :]}))


def test_a_refused_cost_a_failed_training_and_a_missing_speed_run_leave_a_study_incomplete() -> None:
    run = whole()
    refused = run.costs[0].model_copy(update={"reason": "no memory"})
    assert not tasks.is_whole(replace(run, costs=(refused, *run.costs[1:])))
    failed = trained("nce", 0.01, status="failed")
    assert not tasks.is_whole(replace(run, trainings=(*SEARCH[:3], failed, *FULL)))
    assert not tasks.is_whole(replace(run, manifest=MANIFEST.model_copy(update={"speed_minibatches": 3})))


def test_what_diverged_has_ended_and_is_told() -> None:
    run = whole()
    gone = (trained("ce", 0.1, status="diverged"), trained("ce", 0.01, status="diverged"), *SEARCH[2:])
    of_nce = [each for each in FULL if each.training.member.loss == "nce"]
    points = tuple(point for point in run.points if point.loss == "nce")
    diverged = replace(run, trainings=(*gone, *of_nce), points=points)
    assert tasks.is_whole(diverged)
    assert tasks.total_trainings(diverged) == 6
    assert ["10 classes, ce" in notice.happened for notice in tasks.lost(diverged)] == [True]
    seed = replace(run, trainings=(*SEARCH, *FULL[:3], trained("nce", 0.1, 4, "full", status="diverged")))
    assert ["nce-lr0.1-seed4" in notice.happened for notice in tasks.lost(seed)] == [True]
