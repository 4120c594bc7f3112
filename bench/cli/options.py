"""The options of `python -m bench` alone, one type each: name, help, and the group it stands in."""

from typing import Annotated

import typer

from bench.cli.defaults import with_default

WHAT = "What is measured"
HOW = "How it runs"
EFFORT = "How much is measured"

Arch = Annotated[
    list[str],
    typer.Option(
        metavar="NAME",
        rich_help_panel=WHAT,
        help="Network; repeatable or comma-separated: alexnet, vgg16, inception_v3, resnet50, resnet101, "
        "[bold]paper[/bold] for these five, timm/NAME, torchvision/NAME, package.module:factory.",
    ),
]
MaxClasses = Annotated[
    str | None,
    typer.Option(
        metavar="EXPR",
        rich_help_panel=WHAT,
        help=with_default(
            "Top of the paper's grid 1, 2**10, 2**14, 2**16, 2**18, 2**18.5; added if not on it.", "2**18.5 = 370,727"
        ),
    ),
]
Classes = Annotated[
    str | None,
    typer.Option(
        metavar="LIST", rich_help_panel=WHAT, help="These class counts instead; 1 (--subset: N) is always measured."
    ),
]
BatchSize = Annotated[list[str], typer.Option(metavar="LIST", rich_help_panel=WHAT, help="Examples a minibatch.")]
Dtype = Annotated[list[str], typer.Option(metavar="LIST", rich_help_panel=WHAT, help="float32, bfloat16, float16.")]
Compile = Annotated[
    list[str],
    typer.Option(metavar="LIST", rich_help_panel=WHAT, help="torch.compile: none, default, reduce-overhead."),
]
Work = Annotated[
    list[str],
    typer.Option(
        metavar="LIST",
        rich_help_panel=WHAT,
        help="What counts as the work: logits; normalised: these and their log-normaliser; end-to-end: input from host "
        "memory, scores back there.",
    ),
]
Subset = Annotated[
    int,
    typer.Option(metavar="N", rich_help_panel=WHAT, help="Classes asked for at a time: N logits against all of them."),
]
TopLayer = Annotated[
    list[str],
    typer.Option(
        metavar="LIST",
        rich_help_panel=WHAT,
        help="full, or a rival that scores the class instead: hierarchical-balanced, hierarchical-huffman, adaptive, "
        "differentiated, low-rank.",
    ),
]
InputSize = Annotated[
    int | None,
    typer.Option(metavar="PIXELS", rich_help_panel=WHAT, help=with_default("Height and width.", "the network's own")),
]

Device = Annotated[str, typer.Option(rich_help_panel=HOW, metavar="NAME", help="auto, cpu, cuda, cuda:N.")]
Tf32 = Annotated[bool, typer.Option(rich_help_panel=HOW, help="TF32 in convolutions and matrix products alike.")]
CudnnBenchmark = Annotated[
    bool, typer.Option(rich_help_panel=HOW, help="Let cuDNN try its algorithms and keep the fastest.")
]
MemoryFormat = Annotated[
    list[str],
    typer.Option(metavar="LIST", rich_help_panel=HOW, help="Of images and weights: contiguous, channels-last."),
]
ChannelsLast = Annotated[
    bool, typer.Option("--channels-last", rich_help_panel=HOW, help="The same as --memory-format channels-last.")
]
CudaGraph = Annotated[
    list[str], typer.Option(metavar="LIST", rich_help_panel=HOW, help="Capture each forward and replay it: off, on.")
]
Threads = Annotated[
    int | None, typer.Option(metavar="N", rich_help_panel=HOW, help=with_default("CPU threads.", "torch's own"))
]
Seed = Annotated[int, typer.Option(metavar="N", rich_help_panel=HOW, help="Of weights, inputs and order.")]
Order = Annotated[
    str,
    typer.Option(
        rich_help_panel=HOW,
        metavar="ORDER",
        help="interleaved: every round visits every count; sequential: one count after the other, as the paper.",
    ),
]
Block = Annotated[
    int, typer.Option(metavar="N", rich_help_panel=HOW, help="Passes a visit; above 1 the first is kept out.")
]

Minibatches = Annotated[
    int | None,
    typer.Option(metavar="N", rich_help_panel=EFFORT, help=with_default("Rounds, in every process.", "100")),
]
Until = Annotated[
    float | None,
    typer.Option(
        metavar="PERCENT",
        rich_help_panel=EFFORT,
        help=with_default(
            "Stop once every speedup's 95 % interval is within +- this; never before 30 rounds.", "never"
        ),
    ),
]
Processes = Annotated[
    int, typer.Option(metavar="N", rich_help_panel=EFFORT, help="Fresh processes, one at a time, as replicates.")
]
Energy = Annotated[
    bool,
    typer.Option(
        "--energy",
        rich_help_panel=EFFORT,
        help="Joules an image too, after the times: an NVIDIA GPU of one's own, some 2 min 20 s a setting.",
    ),
]
Quick = Annotated[
    bool,
    typer.Option(
        "--quick",
        rich_help_panel=EFFORT,
        help="--classes 1,2**14,2**18.5 --minibatches 30 --until 2, each overridable.",
    ),
]
DryRun = Annotated[
    bool,
    typer.Option(
        "--dry-run", rich_help_panel=EFFORT, help="Show points, memory and expected duration; measure nothing."
    ),
]
