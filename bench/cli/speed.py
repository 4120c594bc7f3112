"""`python -m bench`: the sweep of Table 3 and Fig. 1."""

from pathlib import Path
from typing import Any

import typer

from bench.cli import options, shared_options
from bench.cli.exits import exits
from bench.cli.given import given, refuse_beside_resume
from bench.cli.given import options as options_of
from bench.errors import UsageError

QUICK = {"classes": "1,2**14,2**18.5", "minibatches": 30, "until": 2.0}


@exits
def measure(
    ctx: typer.Context,
    arch: options.Arch = ["resnet50"],  # noqa: B006 - typer copies it
    max_classes: options.MaxClasses = None,
    classes: options.Classes = None,
    batch_size: options.BatchSize = ["32"],  # noqa: B006
    dtype: options.Dtype = ["float32"],  # noqa: B006
    compile: options.Compile = ["none"],  # noqa: B006
    work: options.Work = ["logits"],  # noqa: B006
    subset: options.Subset = 1,
    top_layer: options.TopLayer = ["full"],  # noqa: B006
    input_size: options.InputSize = None,
    device: options.Device = "auto",
    tf32: options.Tf32 = False,
    cudnn_benchmark: options.CudnnBenchmark = True,
    memory_format: options.MemoryFormat = ["contiguous"],  # noqa: B006
    channels_last: options.ChannelsLast = False,
    cuda_graph: options.CudaGraph = ["off"],  # noqa: B006
    threads: options.Threads = None,
    seed: options.Seed = 0,
    order: options.Order = "interleaved",
    block: options.Block = 1,
    minibatches: options.Minibatches = None,
    until: options.Until = None,
    processes: options.Processes = 1,
    energy: options.Energy = False,
    quick: options.Quick = False,
    dry_run: options.DryRun = False,
    output: shared_options.Output = Path("results"),
    resume: shared_options.Resume = None,
    json: shared_options.Json = False,
    quiet: shared_options.Quiet = False,
) -> int:
    """How much faster is one logit than all of them?

    Swaps the top layer of a classifier for 1 to 2**18.5 units, times forward passes, and gives Table 3 and Fig. 1
    of Keren, Sabato and Schuller (2019): tables, figure and every sample in a folder of its own.
    """
    if ctx.invoked_subcommand is not None:
        return _leave_it_to(ctx.invoked_subcommand, given(ctx))
    if resume is not None:
        return _resume(resume, given(ctx), json=json, quiet=quiet)
    from bench.cli import sweeping

    asked: dict[str, Any] = {"classes": classes, "max_classes": max_classes, "minibatches": minibatches, "until": until}
    request = sweeping.request(
        arch=arch,
        batch_size=batch_size,
        dtype=dtype,
        compile=compile,
        work=work,
        subset=subset,
        top_layer=top_layer,
        input_size=input_size,
        device=device,
        tf32=tf32,
        cudnn_benchmark=cudnn_benchmark,
        memory_format=_memory_format(memory_format, channels_last, given(ctx)),
        cuda_graph=cuda_graph,
        threads=threads,
        seed=seed,
        order=order,
        block=block,
        processes=processes,
        energy=energy,
        **(_quick(asked, order) if quick else asked),
    )
    if dry_run:
        return sweeping.outlook(request, json=json)
    return sweeping.new(request, output, json=json, quiet=quiet)


def _leave_it_to(command: str, names: set[str]) -> int:
    """The sweep's options mean nothing to another command."""
    if names:
        raise UsageError(f"{options_of(names)} before {command!r}: these belong to the sweep; leave them out")
    return 0


def _resume(path: Path, names: set[str], *, json: bool, quiet: bool) -> int:
    refuse_beside_resume(names)
    from bench.cli import sweeping

    return sweeping.resume(path, json=json, quiet=quiet)


def _memory_format(formats: list[str], channels_last: bool, names: set[str]) -> list[str]:
    """--channels-last is another way to write one of --memory-format's values."""
    if not channels_last:
        return formats
    if "memory_format" in names:
        raise UsageError("--channels-last and --memory-format say the same: give the latter, with all formats wanted")
    return ["channels-last"]


def _quick(asked: dict[str, Any], order: str) -> dict[str, Any]:
    """--quick fills in what was not given and goes with what was.

    A --max-classes stands in place of its class counts; its --until has no place in a sequential order.
    """
    filled: dict[str, Any] = dict(QUICK)
    if asked["classes"] is not None or asked["max_classes"] is not None:
        del filled["classes"]
    if order == "sequential":
        del filled["until"]
    return {name: filled.get(name) if value is None else value for name, value in asked.items()}
