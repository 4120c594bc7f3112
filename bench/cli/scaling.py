"""`python -m bench scaling`: how accuracy and cost of one logit go with the number of classes."""

from pathlib import Path
from typing import Annotated

import typer

from bench.cli.defaults import with_default
from bench.cli.exits import exits
from bench.cli.given import given, refuse_beside_resume
from bench.cli.shared_options import OUT, Device, Json, Output, Quiet, Resume, Workers, WorkerThreads

WHAT = "What is studied"
HOW = "How it is trained"

Classes = Annotated[
    str | None,
    typer.Option(
        metavar="LIST",
        rich_help_panel=WHAT,
        help=with_default(
            "Class counts; those of 10**5 and more are trained on a GPU alone, and timed everywhere.",
            "10,100,1000,10**4,10**5,2**18.5",
        ),
    ),
]
Losses = Annotated[
    str,
    typer.Option(metavar="LIST", rich_help_panel=WHAT, help="As `accuracy` takes them; NCE is sampled at every count."),
]
Family = Annotated[
    str,
    typer.Option(
        metavar="OPTIONS",
        rich_help_panel=WHAT,
        help="Options of synthetic:K that all class counts share, those given over the default.",
    ),
]
Queries = Annotated[
    int | None,
    typer.Option(
        metavar="N", rich_help_panel=WHAT, help=with_default("Classes asked for at each count, at most.", "2,000")
    ),
]
Positives = Annotated[
    int, typer.Option(metavar="N", rich_help_panel=WHAT, help="Examples of its class that a query has.")
]
Negatives = Annotated[
    int | None,
    typer.Option(
        metavar="N", rich_help_panel=WHAT, help=with_default("Examples of others that a query has.", "10,000")
    ),
]
SpeedMinibatches = Annotated[
    int, typer.Option(metavar="N", rich_help_panel=WHAT, help="Rounds of the speed run at the same class counts.")
]
NoSpeed = Annotated[bool, typer.Option("--no-speed", rich_help_panel=WHAT, help="No speed run.")]
TrainAll = Annotated[
    bool, typer.Option("--train-all", rich_help_panel=WHAT, help="Train 10**5 classes and more on a CPU too.")
]
Network = Annotated[
    str, typer.Option(metavar="NAME", rich_help_panel=HOW, help="mlp, linear, or any that takes vectors.")
]
Seeds = Annotated[
    int | None,
    typer.Option(metavar="N", rich_help_panel=HOW, help=with_default("Trainings of each loss and count.", "3")),
]
Steps = Annotated[
    str | None,
    typer.Option(
        metavar="N|K=N,...",
        rich_help_panel=HOW,
        help=with_default(
            "Of a full training: one number, or 10=2000,1000=8000.",
            "6,000 up to 100 classes, 12,000 up to 1,000, 24,000 up to 10**4, 48,000 beyond",
        ),
    ),
]
BatchSize = Annotated[int, typer.Option(metavar="N", rich_help_panel=HOW, help="Examples a step.")]
OptimiserName = Annotated[
    str, typer.Option("--optimiser", metavar="NAME", rich_help_panel=HOW, help="sgd, adam, adamw, rmsprop.")
]
Lr = Annotated[
    str | None,
    typer.Option(
        metavar="LIST",
        rich_help_panel=HOW,
        help=with_default("Learning rates; validation accuracy chooses among them.", "0.003,0.001"),
    ),
]
ScheduleName = Annotated[str, typer.Option("--schedule", metavar="NAME", rich_help_panel=HOW, help="constant, cosine.")]
TopLayerStep = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        rich_help_panel=HOW,
        help=with_default("dense, chunked, in-place, at every count.", "by each layer's size and the free memory"),
    ),
]
Quick = Annotated[
    bool,
    typer.Option(
        "--quick",
        rich_help_panel=HOW,
        help="--classes 10,100 --steps 200 --seeds 1 --lr 0.003 --queries 100 --negatives 2000, each overridable.",
    ),
]
DryRun = Annotated[bool, typer.Option("--dry-run", rich_help_panel=OUT, help="Show what would be trained; train none.")]


@exits
def study(
    ctx: typer.Context,
    classes: Classes = None,
    losses: Losses = "ce,self-norm,binary-ce,batch-ce,nce",
    family: Family = "zipf=0,d=16,near=6,far=9",
    queries: Queries = None,
    positives: Positives = 20,
    negatives: Negatives = None,
    speed_minibatches: SpeedMinibatches = 30,
    no_speed: NoSpeed = False,
    train_all: TrainAll = False,
    network: Network = "mlp",
    seeds: Seeds = None,
    steps: Steps = None,
    batch_size: BatchSize = 256,
    optimiser: OptimiserName = "adam",
    lr: Lr = None,
    schedule: ScheduleName = "cosine",
    top_layer_step: TopLayerStep = None,
    quick: Quick = False,
    device: Device = "auto",
    workers: Workers = None,
    threads: WorkerThreads = None,
    dry_run: DryRun = False,
    output: Output = Path("results"),
    resume: Resume = None,
    json: Json = False,
    quiet: Quiet = False,
) -> int:
    """From how many classes on is one logit faster, and is it still as good?

    One family of data at many class counts, where nothing changes but their number: every loss is trained, and one
    logit, all logits and the best score there can be are asked for the same numbers of examples. Beside it the time and
    memory of a training step, and the speedup of one logit. Leaves Fig. 4 and its table.
    """
    if resume is not None:
        refuse_beside_resume(given(ctx))
        from bench.cli import studying

        return studying.resume(resume, json=json, quiet=quiet)
    from bench.cli import studying

    request = studying.request(
        classes=classes,
        losses=losses,
        family=family,
        queries=queries,
        positives=positives,
        negatives=negatives,
        speed_minibatches=speed_minibatches,
        no_speed=no_speed,
        train_all=train_all,
        network=network,
        seeds=seeds,
        steps=steps,
        batch_size=batch_size,
        optimiser=optimiser,
        lr=lr,
        schedule=schedule,
        top_layer_step=top_layer_step,
        quick=quick,
        device=device,
        workers=workers,
        threads=threads,
    )
    if dry_run:
        return studying.outlook(request, json=json)
    return studying.new(request, output, json=json, quiet=quiet)
