"""What `python -m bench scaling` does once its options are read: plan, study while showing it, report."""

import functools
import sys
from pathlib import Path
from typing import Any

from bench.cli import json_output
from bench.cli.endings import exit_code, written
from bench.cli.exits import DONE
from bench.cli.given import numbers
from bench.cli.study_view import choose_view
from bench.scaling.plan import StudyPlan, StudyRequest, plan
from bench.scaling.recorder import Progress, Study
from bench.scaling.run import StudyRun
from bench.scaling.study import execute, reopen, start
from bench.scaling.tasks import recipe_of
from reports.pipes import WhileRead, while_read
from reports.scaling import results, terminal
from reports.terminal import console_for, notice_text

#: Names and versions of the schemas of what --json prints.
SCALING_SCHEMA = "slc-bench/scaling/1"
SCALING_OUTLOOK_SCHEMA = "slc-bench/scaling-outlook/1"


def request(*, lr: str | None, no_speed: bool, speed_minibatches: int, **options: Any) -> StudyRequest:
    """Options of the command line as a request. Raises UsageError for a list that is none of numbers."""
    return StudyRequest(
        learning_rates=None if lr is None else numbers("--lr", lr),
        speed_minibatches=0 if no_speed else speed_minibatches,
        **options,
    )


def new(asked: StudyRequest, output: Path, *, json: bool, quiet: bool) -> int:
    """Start a study and carry it out."""
    planned = plan(asked)
    return _study(start(planned, output, ["python", "-m", "bench", *sys.argv[1:]]), json=json, quiet=quiet)


def resume(path: Path, *, json: bool, quiet: bool) -> int:
    """Continue a study that was cut off."""
    return _study(reopen(path), json=json, quiet=quiet)


def outlook(asked: StudyRequest, *, json: bool) -> int:
    """Show what a study would train and measure; nothing is."""
    planned = plan(asked)
    if json:
        json_output.print_object(outlook_object(planned))
        return DONE
    console = console_for(sys.stdout)
    for line in outlook_lines(planned):
        console.print(line, soft_wrap=True)
    for notice in planned.notices:
        console.print(notice_text(notice), soft_wrap=True)
    return DONE


def outlook_lines(planned: StudyPlan) -> list[str]:
    """What would be trained at each class count, and what is measured beside it."""
    lines = []
    for count in planned.counts:
        if count.left_out or count.recipe is None:
            lines.append(f"{count.classes:,} classes: nothing is trained")
            continue
        losses, rates, seeds = len(planned.losses), len(planned.learning_rates), len(planned.seeds)
        search = recipe_of(count, "search").steps
        lines.append(
            f"{count.classes:,} classes: {losses * rates} trainings of {search:,} steps to choose the learning rate, "
            f"{losses * seeds} of {count.recipe.steps:,}, {count.recipe.batch_size} examples a step, top layer "
            f"{count.recipe.top_layer_step}, {count.recipe.workers} at the same time, on {count.recipe.device}"
        )
    rounds, rates_given = planned.speed_minibatches, ", ".join(f"{rate:g}" for rate in planned.learning_rates)
    return [
        f"losses: {', '.join(planned.losses)}; learning rates: {rates_given}",
        *lines,
        f"queries: min(classes, {planned.queries.classes:,}), each with {planned.queries.positives:,} positive and "
        f"{planned.queries.negatives:,} negative examples; at each class count the optimum, and the cost of a step "
        "of each loss",
        f"speed: {rounds} rounds at 1 and at each class count" if rounds else "speed: not measured",
        "Nothing was trained.",
    ]


def outlook_object(planned: StudyPlan) -> dict[str, object]:
    """{schema, run, rows} of a study that was not made: one row a class count."""
    return {
        "schema": SCALING_OUTLOOK_SCHEMA,
        "run": {
            "path": None,
            "family": planned.family,
            "queries": planned.queries.model_dump(mode="json"),
            "losses": list(planned.losses),
            "learning_rates": list(planned.learning_rates),
            "seeds": list(planned.seeds),
        },
        "rows": [count.model_dump(mode="json") for count in planned.counts],
    }


def study_object(run: StudyRun) -> dict[str, object]:
    """{schema, run, rows}: where the study is and how it ended, and a row a model that met the queries.

    And {optima, costs}, as in optima.jsonl and costs.jsonl.
    """
    return {
        "schema": SCALING_SCHEMA,
        "run": json_output.run_summary(run.path, run.manifest),
        "rows": [point.model_dump(mode="json") for point in run.points],
        "optima": [optimum.model_dump(mode="json") for optimum in run.optima],
        "costs": [cost.model_dump(mode="json") for cost in run.costs],
    }


def _study(study: Study, *, json: bool, quiet: bool) -> int:
    stream = sys.stderr if json else sys.stdout
    view = choose_view(stream, quiet=quiet)
    show = WhileRead(stream)

    def watch(run: StudyRun, progress: Progress) -> None:
        show(lambda: view.update(run, progress))

    show(lambda: view.start(study.run))
    try:
        run = execute(study.watched(watch))
    finally:
        show(view.stop)
    assert run.path is not None, "the command line always writes its runs"
    folder = run.path
    written(lambda: results.write(folder, run), folder)
    if json and quiet:  # the rows are in the object already
        for notice in (*run.manifest.notices, *run.notices):
            show(functools.partial(view.notice, notice))
    else:
        show(lambda: terminal.print_study(run, stream))
    if json:
        with while_read(sys.stdout):
            json_output.print_object(study_object(run))
    return exit_code(run.manifest.status)
