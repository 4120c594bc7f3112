"""A study -> a run: the only place where planning, training, the queries, costs, speed and writing meet.

Whatever stands in the run's files is not done again; what was cut off is done again, or goes on from its checkpoint.
"""

import contextlib
import functools
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from bench.accuracy import models, pool
from bench.accuracy.data import synthetic
from bench.accuracy.data.synthetic import SyntheticDataset
from bench.accuracy.events import Ended, Stepped
from bench.accuracy.notices import other_commit
from bench.accuracy.orders import Event, Failed, Order, Start, ToTrain, failed_trainings
from bench.accuracy.records import Training
from bench.accuracy.settings import Member, Source
from bench.accuracy.worker import CHECKPOINTS, Workplace, failure
from bench.errors import UsageError
from bench.folder import RunNotWritten, RunStatus
from bench.machine import fingerprint
from bench.run import Run
from bench.scaling import family, notices, queries, speed, tasks
from bench.scaling.cost import in_fresh_process
from bench.scaling.cost_orders import cost_order
from bench.scaling.plan import StudyPlan, StudyRequest, plan
from bench.scaling.recorder import Study, Watch, nobody
from bench.scaling.records import CountSetting, Optimum, Stage, StudyPoint, StudyTraining
from bench.scaling.run import QueryErrors, StudyRun, StudyWriter


def start(planned: StudyPlan, output: Path, command: Sequence[str], watch: Watch = nobody) -> Study:
    """A new run for a plan, in a folder under `output`. Raises UsageError if the folder cannot be written."""
    manifest = planned.manifest(command=command)
    writer = StudyWriter.create(output, manifest)
    return Study(StudyRun(manifest, path=writer.path), writer, watch)


def reopen(path: Path, watch: Watch = nobody) -> Study:
    """A study that was cut off, to be continued; a training that failed there, or a refused cost, is tried again.

    Raises UsageError if it cannot be read or written, or if machine or versions are others than those it began with.
    """
    writer, run = StudyWriter.reopen(path)
    with writer.going_on():
        manifest = run.manifest
        if manifest.recipe is None:
            raise UsageError(f"{path} says of no training how it is done, and cannot be continued; start a new run")
        fingerprint.refuse_another(manifest.machine, manifest.versions, manifest.recipe.device, path)
        writer.drop_torn_line()
        kept = tuple(each for each in manifest.notices if each.kind not in notices.MENDED_BY_RESUMING)
        manifest = manifest.model_copy(update={"notices": kept})
        again = replace(
            run,
            manifest=manifest,
            trainings=tuple(each for each in run.trainings if each.training.status != "failed"),
            costs=tuple(each for each in run.costs if not each.reason),
            notices=(),
        )
        study = Study(again, writer, watch)
        for notice in run.notices:
            study.notice(notice)
        if manifest.commit != (commit := fingerprint.commit()):
            study.notice(other_commit(manifest.commit, commit))
        study.begin()
    return study


def study_scaling(request: StudyRequest, output: str | Path = "results", watch: Watch = nobody) -> StudyRun:
    """Study how accuracy and cost go with the number of classes: `python -m bench scaling` for programs.

    Raises UsageError for a request that cannot be carried out here; trainings that diverge or fail are records.
    """
    return execute(start(plan(request), Path(output), ["study_scaling", repr(request)], watch))


def execute(study: Study) -> StudyRun:
    """Do what a study still lacks. Returns the run, its status set; an interrupt ends it early.

    Raises UsageError if something cannot go on that the user can mend, or if the disk refuses before anything ended.
    """
    try:
        return study.end(_work_off(study))
    except UsageError:
        with contextlib.suppress(RunNotWritten):  # what the user has to mend is the other error
            study.end("incomplete")
        raise
    except RunNotWritten as error:
        if not (study.run.trainings or study.run.optima):
            study.writer.close()
            raise UsageError(
                f"{error}; nothing was measured: make room, or name another folder with --output"
            ) from None
        return study.abandon(notices.not_written(str(error)))


def _work_off(study: Study) -> RunStatus:
    """Count after count until nothing is left; how the study ended."""
    try:
        for count in study.manifest.counts:
            _measure_optimum(study, count)
            for stage in tasks.STAGES:
                _train(study, count, stage)
                _meet_queries(study, count, stage)
            _tidy(study, count)
            _time_steps(study, count)
        if _wants_speed(study) and _measure_speed(study).manifest.status == "interrupted":
            return "interrupted"
    except KeyboardInterrupt:
        return "interrupted"
    for notice in tasks.lost(study.run):
        study.notice(notice)
    return "complete" if tasks.is_whole(study.run) else "incomplete"


def _wants_speed(study: Study) -> bool:
    """Whether a speed run was asked for and is not complete."""
    have = study.run.speed
    return bool(study.manifest.speed_minibatches) and (have is None or have.manifest.status != "complete")


def _data_of(study: Study, count: CountSetting) -> SyntheticDataset:
    """The data of a class count; where nothing is trained, with no more examples than one minibatch."""
    assert study.manifest.recipe is not None, "a study that measures has a recipe"
    fewest = family.name_of(study.manifest.family, count.classes, study.manifest.recipe.batch_size)
    return synthetic.load(count.dataset or fewest)


def _queries_of(study: Study, dataset: SyntheticDataset) -> synthetic.Queries:
    asked = study.manifest.queries
    return dataset.queries(asked.classes, asked.positives, asked.negatives, asked.seed)


def _device(study: Study) -> torch.device:
    assert study.manifest.recipe is not None, "a study that measures has a recipe"
    return torch.device(study.manifest.recipe.device)


def _measure_optimum(study: Study, count: CountSetting) -> None:
    if any(each.classes == count.classes for each in study.run.optima):
        return
    study.tell(f"{count.classes:,} classes: the optimum")
    with _losing(study, f"{count.classes:,} classes, the optimum"):
        dataset = _data_of(study, count)
        began = time.monotonic()
        errors = queries.of_optimum(dataset, _queries_of(study, dataset), _device(study))
        study.add_optimum(
            Optimum(
                classes=count.classes,
                queries=len(errors.classes),
                measure=queries.measure_of(errors.single),
                seconds=time.monotonic() - began,
            ),
            errors,
        )


@contextlib.contextmanager
def _losing(study: Study, what: str) -> Iterator[None]:
    """A piece that cannot be measured is a notice; what the user can mend, or a disk that refuses, ends the study."""
    try:
        yield
    except RunNotWritten:
        raise
    except Exception as error:
        failed = failure(error, study.writer.path)
        if failed is None:
            raise
        _raise_if_final(failed)
        study.notice(notices.not_measured(what, failed.reason))


def _raise_if_final(failed: Failed) -> None:
    if failed.cause == "disk":
        raise RunNotWritten(failed.reason)
    if failed.cause == "usage":
        raise UsageError(failed.reason)


def _folder(study: Study, count: CountSetting, stage: Stage) -> Path:
    """Of the trainings of a stage: the same member is another training at another count."""
    return study.writer.path / CHECKPOINTS / f"{count.classes}-{stage}"


def _train(study: Study, count: CountSetting, stage: Stage) -> None:
    """Train what a stage of a class count lacks: here, or side by side."""
    left = tasks.to_train(study.manifest, study.run.trainings, count, stage)
    if not left:
        return
    assert count.dataset is not None, "something is trained here"
    study.tell(f"{count.classes:,} classes: {'search' if stage == 'search' else 'training'}")
    recipe, folder = tasks.recipe_of(count, stage), _folder(study, count, stage)
    folder.mkdir(parents=True, exist_ok=True)
    orders = iter([ToTrain(members=(member,)) for member in left])
    take = functools.partial(_take, study, count, stage)
    if recipe.workers > 1:
        source = Source(name=count.dataset)
        begin = Start(parent=os.getpid(), source=source, recipe=recipe, losses=count.losses, folder=folder)
        pool.carry_out(begin, recipe.workers, lambda: next(orders, None), take)
    else:
        workplace = Workplace(_data_of(study, count), recipe, count.losses, folder)
        for order in orders:
            workplace.carry_out(order, functools.partial(take, order))
    study.running.clear()


def _take(study: Study, count: CountSetting, stage: Stage, order: Order, event: Event) -> None:
    """Take an event of a training in. Raises RunNotWritten, UsageError if the study cannot go on."""
    assert isinstance(order, ToTrain), "nothing else was ordered"
    match event:
        case Stepped():
            study.stepped(event)
        case Ended():
            study.add_training(StudyTraining(classes=count.classes, stage=stage, training=event.training))
        case Failed():
            _raise_if_final(event)
            have = tasks.ended(study.run.trainings, count, stage).values()
            for lost in failed_trainings(order.members, list(have), event.reason):
                study.add_training(StudyTraining(classes=count.classes, stage=stage, training=lost))
        case _:
            pass


def _meet_queries(study: Study, count: CountSetting, stage: Stage) -> None:
    """Every chosen model of a stage meets the queries."""
    left = tasks.to_meet(study.run, count, stage)
    if not left:
        return
    dataset = _data_of(study, count)
    asked = _queries_of(study, dataset)
    for ended in left:
        study.tell(f"{count.classes:,} classes: {ended.member.name} meets the queries")
        with _losing(study, f"{count.classes:,} classes, {ended.member.name} and the queries"):
            errors = _errors_of(study, count, stage, ended.member, dataset, asked)
            study.add_point(_point(count, stage, ended, errors), errors)


def _errors_of(
    study: Study,
    count: CountSetting,
    stage: Stage,
    member: Member,
    dataset: SyntheticDataset,
    asked: synthetic.Queries,
) -> QueryErrors:
    recipe = tasks.recipe_of(count, stage)
    model = models.model_of(member, recipe, dataset.facts, _folder(study, count, stage) / CHECKPOINTS)
    device = _device(study)
    return queries.of_model(model.to(device), models.top_path(recipe, dataset.facts), asked, device)


def _point(count: CountSetting, stage: Stage, ended: Training, errors: QueryErrors) -> StudyPoint:
    assert ended.validation_accuracy is not None, "a chosen training reached its end"
    return StudyPoint(
        classes=count.classes,
        stage=stage,
        loss=ended.member.loss,
        learning_rate=ended.member.learning_rate,
        seed=ended.member.seed,
        steps=ended.steps,
        queries=len(errors.classes),
        single=queries.measure_of(errors.single),
        all=queries.measure_of(errors.all),
        validation_accuracy=ended.validation_accuracy,
        seconds=ended.seconds,
    )


def _tidy(study: Study, count: CountSetting) -> None:
    """Weights of a search that is over are never asked for again; those of full trainings are kept."""
    if count.left_out or tasks.to_meet(study.run, count, "search"):
        return
    search = tasks.ended(study.run.trainings, count, "search").values()
    if all(each.status != "failed" for each in search):  # one that failed is tried again, and may change the choice
        shutil.rmtree(_folder(study, count, "search"), ignore_errors=True)


def _time_steps(study: Study, count: CountSetting) -> None:
    """The cost of a step of every loss, one after the other, each in a process that has the machine to itself."""
    for loss in tasks.costs_left(study.manifest, study.run.costs, count):
        study.tell(f"{count.classes:,} classes: the cost of a step of {loss}")
        order, refusal = cost_order(study.manifest, count, loss)
        study.add_cost(order.refused(refusal) if refusal else in_fresh_process(order))


def _measure_speed(study: Study) -> Run:
    study.tell("speed")
    found = speed.measure(
        study.manifest,
        study.writer.path,
        ["study", *study.manifest.command],
        lambda run, doing: study.tell("speed"),
    )
    study.add_speed(found)
    return found
