"""`python -m bench`: the sweep of Table 3 and Fig. 1."""

from pathlib import Path
from typing import Annotated, Any

import typer

from bench.cli.exits import exits
from bench.errors import UsageError

WHAT = "What is measured"
HOW = "How it runs"
EFFORT = "How much is measured"
OUT = "Output"

QUICK = {"classes": "1,2**14,2**18.5", "minibatches": 30, "until": 2.0}


@exits
def measure(
    ctx: typer.Context,
    arch: Annotated[
        list[str],
        typer.Option(
            metavar="NAME",
            rich_help_panel=WHAT,
            help="Network; repeatable or comma-separated: alexnet, vgg16, inception_v3, resnet50, resnet101, "
            "[bold]paper[/bold] for these five, timm/NAME, torchvision/NAME, package.module:factory.",
        ),
    ] = ["resnet50"],  # noqa: B006 - typer copies it
    max_classes: Annotated[
        str | None,
        typer.Option(
            metavar="EXPR",
            rich_help_panel=WHAT,
            help="Top of the paper's grid 1, 2**10, 2**14, 2**16, 2**18, 2**18.5; added if not on it.",
            show_default="2**18.5 = 370,727",
        ),
    ] = None,
    classes: Annotated[
        str | None,
        typer.Option(metavar="LIST", rich_help_panel=WHAT, help="These class counts instead; 1 is always measured."),
    ] = None,
    batch_size: Annotated[
        list[str], typer.Option(metavar="LIST", rich_help_panel=WHAT, help="Examples a minibatch.")
    ] = ["32"],  # noqa: B006
    dtype: Annotated[
        list[str], typer.Option(metavar="LIST", rich_help_panel=WHAT, help="float32, bfloat16, float16.")
    ] = ["float32"],  # noqa: B006
    compile: Annotated[
        list[str],
        typer.Option(metavar="LIST", rich_help_panel=WHAT, help="torch.compile: none, default, reduce-overhead."),
    ] = ["none"],  # noqa: B006
    input_size: Annotated[
        int | None,
        typer.Option(
            metavar="PIXELS", rich_help_panel=WHAT, help="Height and width.", show_default="the network's own"
        ),
    ] = None,
    device: Annotated[str, typer.Option(rich_help_panel=HOW, metavar="NAME", help="auto, cpu, cuda, cuda:N.")] = "auto",
    tf32: Annotated[
        bool, typer.Option(rich_help_panel=HOW, help="TF32 in convolutions and matrix products alike.")
    ] = False,
    cudnn_benchmark: Annotated[
        bool, typer.Option(rich_help_panel=HOW, help="Let cuDNN try its algorithms and keep the fastest.")
    ] = True,
    channels_last: Annotated[
        bool, typer.Option("--channels-last", rich_help_panel=HOW, help="Memory format of images and weights.")
    ] = False,
    cuda_graph: Annotated[
        bool, typer.Option("--cuda-graph", rich_help_panel=HOW, help="Capture each forward and replay it.")
    ] = False,
    threads: Annotated[
        int | None, typer.Option(metavar="N", rich_help_panel=HOW, help="CPU threads.", show_default="torch's own")
    ] = None,
    seed: Annotated[int, typer.Option(metavar="N", rich_help_panel=HOW, help="Of weights, inputs and order.")] = 0,
    order: Annotated[
        str,
        typer.Option(
            rich_help_panel=HOW,
            metavar="ORDER",
            help="interleaved: every round visits every count; sequential: one count after the other, as the paper.",
        ),
    ] = "interleaved",
    block: Annotated[
        int, typer.Option(metavar="N", rich_help_panel=HOW, help="Passes a visit; above 1 the first is kept out.")
    ] = 1,
    minibatches: Annotated[
        int | None,
        typer.Option(metavar="N", rich_help_panel=EFFORT, help="Rounds, in every process.", show_default="100"),
    ] = None,
    until: Annotated[
        float | None,
        typer.Option(
            metavar="PERCENT",
            rich_help_panel=EFFORT,
            help="Stop once every speedup's 95 % interval is within +- this; never before 30 rounds.",
            show_default="never",
        ),
    ] = None,
    processes: Annotated[
        int, typer.Option(metavar="N", rich_help_panel=EFFORT, help="Fresh processes, one at a time, as replicates.")
    ] = 1,
    quick: Annotated[
        bool,
        typer.Option(
            "--quick",
            rich_help_panel=EFFORT,
            help="--classes 1,2**14,2**18.5 --minibatches 30 --until 2, each overridable.",
        ),
    ] = False,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run", rich_help_panel=EFFORT, help="Show points, memory and expected duration; measure nothing."
        ),
    ] = False,
    output: Annotated[
        Path, typer.Option(metavar="DIR", rich_help_panel=OUT, help="Parent of the run's folder.")
    ] = Path("results"),
    resume: Annotated[
        Path | None,
        typer.Option(
            metavar="RUN", rich_help_panel=OUT, help="Continue a run that was cut off, with its own settings."
        ),
    ] = None,
    json: Annotated[
        bool,
        typer.Option("--json", rich_help_panel=OUT, help="One JSON object {schema, run, rows} on standard output."),
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", rich_help_panel=OUT, help="No progress.")] = False,
) -> int:
    """How much faster is one logit than all of them?

    Swaps the top layer of a classifier for 1 to 2**18.5 units, times forward passes, and gives Table 3 and Fig. 1
    of Keren, Sabato and Schuller (2019): tables, figure and every sample in a folder of its own.
    """
    given = _given(ctx)
    if ctx.invoked_subcommand is not None:
        if given:
            raise UsageError(
                f"{_options(given)} before {ctx.invoked_subcommand!r}: these belong to the sweep; leave them out"
            )
        return 0
    from bench.cli import sweeping

    if resume is not None:
        if surplus := given - {"resume", "json", "quiet"}:
            raise UsageError(f"a resumed run goes on with its own settings: leave out {_options(surplus)}")
        return sweeping.resume(resume, json=json, quiet=quiet)
    chosen: dict[str, Any] = {
        "classes": classes,
        "max_classes": max_classes,
        "minibatches": minibatches,
        "until": until,
    }
    if quick:
        chosen = _quick(chosen)
    request = sweeping.request(
        arch=arch,
        batch_size=batch_size,
        dtype=dtype,
        compile=compile,
        input_size=input_size,
        device=device,
        tf32=tf32,
        cudnn_benchmark=cudnn_benchmark,
        channels_last=channels_last,
        cuda_graph=cuda_graph,
        threads=threads,
        seed=seed,
        order=order,
        block=block,
        processes=processes,
        **chosen,
    )
    if dry_run:
        return sweeping.outlook(request, json=json)
    return sweeping.new(request, output, json=json, quiet=quiet)


def _quick(chosen: dict[str, Any]) -> dict[str, Any]:
    """--quick fills in what was not given; a --max-classes stands in place of its class counts."""
    counts_given = chosen["classes"] is not None or chosen["max_classes"] is not None
    return {
        name: QUICK[name] if value is None and name in QUICK and not (name == "classes" and counts_given) else value
        for name, value in chosen.items()
    }


def _given(ctx: typer.Context) -> set[str]:
    """Names of the parameters that stand on the command line."""
    return {
        name
        for name in ctx.params
        if (source := ctx.get_parameter_source(name)) is not None and source.name == "COMMANDLINE"
    }


def _options(names: set[str]) -> str:
    return ", ".join(sorted("--" + name.replace("_", "-") for name in names))
