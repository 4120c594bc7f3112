"""`python -m bench single`: what one logit costs in use, with the top layer left on disk."""

from pathlib import Path
from typing import Annotated

import typer

from bench.cli import shared_options
from bench.cli.defaults import with_default
from bench.cli.exits import exits

WHAT = "What is measured"
HOW = "How it runs"
EFFORT = "How much is measured"

Arch = Annotated[
    str,
    typer.Option(
        metavar="NAME",
        rich_help_panel=WHAT,
        help="Network: alexnet, vgg16, inception_v3, resnet50, resnet101, timm/NAME, torchvision/NAME, "
        "package.module:factory.",
    ),
]
Classes = Annotated[str, typer.Option(metavar="EXPR", rich_help_panel=WHAT, help="Classes of the whole top layer.")]
BatchSize = Annotated[int, typer.Option(metavar="N", rich_help_panel=WHAT, help="Images a minibatch.")]
Dtype = Annotated[str, typer.Option(metavar="NAME", rich_help_panel=WHAT, help="float32, bfloat16, float16.")]
InputSize = Annotated[
    int | None,
    typer.Option(metavar="PIXELS", rich_help_panel=WHAT, help=with_default("Height and width.", "the network's own")),
]
Device = Annotated[str, typer.Option(metavar="NAME", rich_help_panel=HOW, help="auto, cpu, cuda, cuda:N.")]
Threads = Annotated[
    int | None, typer.Option(metavar="N", rich_help_panel=HOW, help=with_default("CPU threads.", "torch's own"))
]
Seed = Annotated[int, typer.Option(metavar="N", rich_help_panel=HOW, help="Of weights, inputs, classes and order.")]
Switches = Annotated[int, typer.Option(metavar="N", rich_help_panel=EFFORT, help="Switches of class, of each kind.")]
Minibatches = Annotated[int, typer.Option(metavar="N", rich_help_panel=EFFORT, help="Timed forwards of each kind.")]


@exits
def measure(
    arch: Arch = "alexnet",
    classes: Classes = "2**18.5",
    batch_size: BatchSize = 32,
    dtype: Dtype = "float32",
    input_size: InputSize = None,
    device: Device = "auto",
    threads: Threads = None,
    seed: Seed = 0,
    switches: Switches = 30,
    minibatches: Minibatches = 30,
    output: shared_options.Output = Path("results"),
    json: shared_options.Json = False,
    quiet: shared_options.Quiet = False,
) -> int:
    """What does one logit cost in use, its top layer left on disk?

    Writes a top layer to disk (6 GB for AlexNet with 2**18.5 classes; it is removed at the end), reads one row for a
    class that is asked for, and measures memory with and without the whole top layer, the time to switch to another
    class (its row on disk, in the page cache, on the device), and the time of an image.
    """
    from bench.cli import deploying

    return deploying.single(
        arch=arch,
        classes=classes,
        batch_size=batch_size,
        dtype=dtype,
        input_size=input_size,
        device=device,
        threads=threads,
        seed=seed,
        switches=switches,
        minibatches=minibatches,
        output=output,
        json=json,
        quiet=quiet,
    )
