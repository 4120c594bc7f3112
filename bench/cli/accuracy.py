"""`python -m bench accuracy`: the grid of trainings behind Tables 1 and 2 and Fig. 2."""

from pathlib import Path
from typing import Annotated, Any

import typer

from bench.cli.defaults import with_default
from bench.cli.exits import exits
from bench.cli.given import given, refuse_beside_resume
from bench.cli.shared_options import OUT, WHERE, DataDir, Device, Json, Output, Quiet, Resume, Workers, WorkerThreads

WHAT = "What is trained"
HOW = "How it is trained"

Dataset = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        rich_help_panel=WHAT,
        help=with_default(
            "digits (bundled), mnist, fashion-mnist, svhn, cifar10, cifar100, omniglot, imagenet, "
            "folder:PATH (train/ and val/ or test/ by class), features:PATH (what python -m bench features wrote), "
            "synthetic:K (K classes, computed: docs/data.md).",
            "the preset's, else digits",
        ),
    ),
]
Losses = Annotated[
    str | None,
    typer.Option(
        metavar="LIST",
        rich_help_panel=WHAT,
        help=with_default(
            "paper (the seven of Table 1), all (its eleven), or names; also importance-sampling, negative-sampling.",
            "the preset's, else paper",
        ),
    ),
]
TopLayer = Annotated[
    str,
    typer.Option(
        metavar="LIST",
        rich_help_panel=WHAT,
        help="full (trained by --losses), and rivals trained by their own: hierarchical-balanced, "
        "hierarchical-huffman, adaptive, differentiated, low-rank; or all.",
    ),
]
Lr = Annotated[
    str | None,
    typer.Option(
        metavar="LIST",
        rich_help_panel=WHAT,
        help=with_default("Learning rates; validation accuracy chooses among them.", "1,0.1,0.01,0.001"),
    ),
]
Seeds = Annotated[int, typer.Option(metavar="N", rich_help_panel=WHAT, help="Trainings of each loss and rate.")]
Network = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        rich_help_panel=WHAT,
        help=with_default(
            "mlp, cnn (the paper's), linear, or any network that --arch takes.", "the paper's for the data set"
        ),
    ),
]
Preset = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        rich_help_panel=WHAT,
        help="paper-imagenet: ImageNet as in the paper, Inception-v3 as TensorFlow trains it, by CE and batch CE.",
    ),
]

Steps = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        rich_help_panel=HOW,
        help=with_default("Of one training.", "digits 2,000; imagenet 6,000,000; others 100,000"),
    ),
]
BatchSize = Annotated[
    int | None, typer.Option(metavar="N", rich_help_panel=HOW, help=with_default("Examples a step.", "128"))
]
OptimiserName = Annotated[
    str | None,
    typer.Option(
        "--optimiser", metavar="NAME", rich_help_panel=HOW, help=with_default("sgd, adam, adamw, rmsprop.", "sgd")
    ),
]
Momentum = Annotated[
    float | None, typer.Option(rich_help_panel=HOW, metavar="X", help=with_default("Of sgd and rmsprop.", "0.9"))
]
WeightDecay = Annotated[
    float | None,
    typer.Option(
        rich_help_panel=HOW, metavar="X", help=with_default("Of the weights of linear layers and convolutions.", "0")
    ),
]
ScheduleName = Annotated[
    str | None,
    typer.Option("--schedule", metavar="NAME", rich_help_panel=HOW, help=with_default("constant, cosine.", "constant")),
]
Hyperparameter = Annotated[
    list[str] | None,
    typer.Option(
        metavar="LOSS.NAME=VALUE",
        rich_help_panel=HOW,
        help="A loss's hyperparameter, such as self-norm.alpha=0.2; repeatable. The defaults are in docs/losses.md.",
    ),
]
PriorBias = Annotated[
    bool | None,
    typer.Option(
        "--prior-bias/--no-prior-bias",
        rich_help_panel=HOW,
        help=with_default(
            "Start the top layer's bias at -log(classes - 1).",
            "from 1,000 classes on, for self-norm, nce and binary-ce",
        ),
    ),
]
TopLayerStep = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        rich_help_panel=HOW,
        help=with_default(
            "dense (all logits), chunked (some classes at a time), in-place (chunked, the top layer by plain SGD).",
            "by its size and the free memory",
        ),
    ),
]
ShardTopLayer = Annotated[
    bool,
    typer.Option(
        "--shard-top-layer",
        rich_help_panel=HOW,
        help="Split the classes of the top layer over the ranks that torchrun starts (docs/ranks.md).",
    ),
]
Accumulate = Annotated[
    int,
    typer.Option(
        metavar="N", rich_help_panel=HOW, help="Micro-batches of a step; the loss is that of the whole minibatch."
    ),
]
Dtype = Annotated[str, typer.Option(metavar="NAME", rich_help_panel=HOW, help="float32, bfloat16, float16.")]
Compile = Annotated[
    str, typer.Option(metavar="MODE", rich_help_panel=HOW, help="torch.compile: none, default, reduce-overhead.")
]
Quick = Annotated[
    bool, typer.Option("--quick", rich_help_panel=HOW, help="--steps 300 --lr 0.1,0.01, each overridable.")
]

Stack = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        rich_help_panel=WHERE,
        help=with_default("MLPs trained as one stack of weights.", "1; on a GPU up to 128"),
    ),
]
Engine = Annotated[
    str,
    typer.Option(
        metavar="NAME",
        rich_help_panel=WHERE,
        help="local (processes on this machine); ray (a Ray cluster, one task a training: docs/accuracy.md).",
    ),
]
Address = Annotated[
    str | None,
    typer.Option(
        metavar="HOST:PORT",
        rich_help_panel=WHERE,
        help=with_default(
            "Of the Ray cluster; auto finds one on this machine. May stand beside --resume.",
            "local: one is started here, and ends with the run",
        ),
    ),
]
GpuShare = Annotated[
    float | None,
    typer.Option(
        metavar="X",
        rich_help_panel=WHERE,
        help=with_default("Of a GPU, what one task of Ray takes, such as 0.25.", "1"),
    ),
]
Seed = Annotated[int, typer.Option(metavar="N", rich_help_panel=WHERE, help="The first of the seeds.")]

DryRun = Annotated[
    bool, typer.Option("--dry-run", rich_help_panel=OUT, help="Show the trainings and how they would run; train none.")
]


@exits
def train(
    ctx: typer.Context,
    dataset: Dataset = None,
    losses: Losses = None,
    top_layer: TopLayer = "full",
    lr: Lr = None,
    seeds: Seeds = 1,
    network: Network = None,
    preset: Preset = None,
    steps: Steps = None,
    batch_size: BatchSize = None,
    optimiser: OptimiserName = None,
    momentum: Momentum = None,
    weight_decay: WeightDecay = None,
    schedule: ScheduleName = None,
    hyperparameter: Hyperparameter = None,
    prior_bias: PriorBias = None,
    top_layer_step: TopLayerStep = None,
    shard_top_layer: ShardTopLayer = False,
    accumulate: Accumulate = 1,
    dtype: Dtype = "float32",
    compile: Compile = "none",
    quick: Quick = False,
    device: Device = "auto",
    workers: Workers = None,
    stack: Stack = None,
    threads: WorkerThreads = None,
    engine: Engine = "local",
    address: Address = None,
    gpu_share: GpuShare = None,
    seed: Seed = 0,
    data_dir: DataDir = None,
    dry_run: DryRun = False,
    output: Output = Path("results"),
    resume: Resume = None,
    json: Json = False,
    quiet: Quiet = False,
) -> int:
    """Can one logit tell? Train with the paper's losses, test one logit and all of them.

    Every loss with every learning rate and seed is one training; validation accuracy chooses the rate, the test data
    judge once. Leaves Tables 1 and 2, Fig. 2 and the learning curves of Keren, Sabato and Schuller (2019), measured
    here, beside the paper's own. Under torchrun all its processes train each network together.
    """
    if resume is not None:
        refuse_beside_resume(given(ctx) - {"address"})
        from bench.cli import training

        return training.resume(resume, address=address, json=json, quiet=quiet)
    from bench.cli import training

    asked: dict[str, Any] = {
        "dataset": dataset,
        "losses": losses,
        "top_layers": top_layer,
        "lr": lr,
        "seeds": seeds,
        "network": network,
        "preset": preset,
        "steps": steps,
        "batch_size": batch_size,
        "optimiser": optimiser,
        "momentum": momentum,
        "weight_decay": weight_decay,
        "schedule": schedule,
        "hyperparameters": hyperparameter,
        "prior_bias": prior_bias,
        "top_layer_step": top_layer_step,
        "shard_top_layer": shard_top_layer,
        "accumulate": accumulate,
        "dtype": dtype,
        "compile": compile,
        "quick": quick,
        "device": device,
        "workers": workers,
        "stack": stack,
        "threads": threads,
        "engine": engine,
        "address": address,
        "gpu_share": gpu_share,
        "seed": seed,
        "data_dir": data_dir,
    }
    request = training.request(**asked)
    if dry_run:
        return training.outlook(request, json=json)
    return training.new(request, output, json=json, quiet=quiet)
