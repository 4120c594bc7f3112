"""Who carries trainings out, and where: workers here, tasks on Ray, or ranks that share one training."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch

from archs.top_layer_kinds import TopLayerKind
from bench.accuracy import ray_engine
from bench.accuracy.ranks import Place
from bench.accuracy.records import DatasetFacts
from bench.accuracy.request import Request
from bench.accuracy.settings import Engine, Source
from bench.errors import UsageError
from bench.machine import fingerprint
from bench.machine.device import resolve_device
from bench.refusals import MOST_THREADS, positive

#: Stacked on a GPU, the weights of so many networks of 0.65 million parameters take 1 GB with their optimiser.
LARGEST_STACK = 128


class Spreading(NamedTuple):
    """How a grid is spread over a device: workers, trainings in a stack, threads of a worker."""

    workers: int
    stack: int
    threads: int


def spreading_of(
    request: Request,
    engine: Engine,
    source: Source | None,
    trainings: int,
    *,
    device: str,
    stackable: bool,
    room: int | None,
) -> Spreading:
    """How a request's trainings are spread here, over ranks, or on a cluster; parameters as of `spread`.

    Several ranks carry out one training at a time. Ray has a task a training, each of one thread: cores and memory of
    this machine say nothing of the cluster's.
    """
    workers, stack, threads = request.workers, request.stack, request.threads
    if request.place.size > 1:
        workers, stack, room = 1, 1, None
        threads = max(1, cores() // request.local_ranks) if threads is None else threads
    elif engine.name == "ray":
        workers, stack, room = trainings if workers is None else workers, 1 if stack is None else stack, None
        threads = 1 if threads is None else threads
    elif source is None:
        workers = 1
    return spread(
        trainings,
        device=device,
        stackable=stackable,
        cores=cores(),
        workers=workers,
        stack=stack,
        threads=threads,
        room=room,
    )


def spread(
    trainings: int,
    *,
    device: str,
    stackable: bool,
    cores: int,
    workers: int | None,
    stack: int | None,
    threads: int | None,
    room: int | None = None,
) -> Spreading:
    """How a grid is spread over a device, where `workers`, `stack` and `threads` are as asked for, or left open.

    On a CPU a worker a core, each with one thread: small networks lose a fifth of two cores to the waiting of one
    thread for the other. On a GPU one process with one stack, since launching kernels is what takes the time there.
    `room`: trainings that memory holds at the same time; as many as anybody wants if none is given.
    Raises UsageError for what is not positive, more than there is room for, or a stack of networks that cannot be
    stacked.
    """
    if stack is not None and stack > 1 and not stackable:
        raise UsageError(
            f"--stack {stack}: only MLPs with a full top layer and dense steps in one piece, in float32 or bfloat16, "
            "on data held in memory, step together; leave it out"
        )
    on_cpu = device == "cpu"
    most = trainings if room is None else room
    if stack is None:
        stack = 1 if on_cpu or not stackable else min(trainings, LARGEST_STACK, most)
    units = math.ceil(trainings / positive("--stack", stack))
    if workers is None:
        workers = min(cores, units, max(1, most // stack)) if on_cpu else 1
    workers = min(positive("--workers", workers), units)
    if min(workers * stack, trainings) > most:
        raise UsageError(
            f"{workers} workers with {stack} trainings each: memory holds {most} at the same time; lower --workers or "
            "--stack"
        )
    if threads is None:
        threads = max(1, cores // workers)
    if threads > MOST_THREADS:
        raise UsageError(f"--threads {threads}: must be {MOST_THREADS} or less")
    return Spreading(workers, stack, positive("--threads", threads))


def engine_of(request: Request, device: str, source: Source | None) -> Engine:
    """Who carries the trainings out. Raises UsageError if it cannot, before the data are read."""
    if request.engine != "ray":
        for option, given in (("--address", request.address), ("--gpu-share", request.gpu_share)):
            if given is not None:
                raise UsageError(f"{option} is for trainings on Ray: add --engine ray, or leave it out")
        return Engine()
    if source is None:
        raise UsageError("a data set in hand cannot be sent to Ray: give a name, or leave the engine out")
    if device == "cpu" and request.gpu_share is not None:
        raise UsageError("--gpu-share: these trainings run on the CPU; add --device cuda, or leave it out")
    if device not in ("cpu", "cuda:0"):
        raise UsageError(f"--device {device}: Ray chooses each task's GPU, which the task sees as cuda:0; give cuda")
    share = 1.0 if request.gpu_share is None else request.gpu_share
    if not 0 < share <= 1:
        raise UsageError(f"--gpu-share {share:g}: it is a part of one GPU, above 0 and 1 at most")
    if request.workers is not None:
        positive("--workers", request.workers)
    engine = Engine(name="ray", address=request.address or "local", gpu_share=share, workers=request.workers)
    ray_engine.refuse_unusable(engine)
    return engine


def own_device(asked: str, place: Place, local_ranks: int) -> str:
    """The device of one of several ranks: the GPU of its number on its machine, or the CPU.

    Raises UsageError for one GPU for all, and for fewer GPUs than ranks: NCCL takes no two ranks on one.
    """
    if place.size == 1 or asked == "cpu":
        return asked
    if asked not in ("auto", "cuda"):
        raise UsageError(f"--device {asked}: each rank takes the GPU of its own number; give cuda, or cpu")
    here = resolve_device(asked)
    if here == "cpu":
        return here
    found = torch.cuda.device_count()
    if local_ranks > found or place.local_rank >= found:
        raise UsageError(
            f"{local_ranks} ranks on this machine and {found} GPUs: no two ranks can share one; start "
            f"--nproc-per-node {found}, or give --device cpu"
        )
    return f"cuda:{place.local_rank}"


def refuse_unfit_ranks(request: Request, source: Source | None, rivals: Sequence[TopLayerKind]) -> None:
    """Raise UsageError for what does not go with several ranks, before the data are read."""
    size = request.place.size
    if request.shard_top_layer and rivals:
        raise UsageError(f"--shard-top-layer splits a full top layer; leave it, or {', '.join(rivals)}, out")
    if size == 1:
        return
    if source is None:
        raise UsageError("a data set in hand is in this process alone, and not on the other ranks: give a name")
    if request.engine == "ray":
        raise UsageError("--engine ray spreads trainings, ranks share one: leave the engine out, or start no ranks")
    for option, given in (("--workers", request.workers), ("--stack", request.stack)):
        if given not in (None, 1):
            raise UsageError(f"{option} {given}: {size} ranks carry out one training at a time; leave it out")


def refuse_fewer_classes_than_ranks(facts: DatasetFacts, ranks: int) -> None:
    """Raise UsageError for data of which some rank would measure no class."""
    if ranks > 1 and facts.classes < ranks:
        raise UsageError(
            f"{facts.name} has {facts.classes} classes, of which each of {ranks} ranks measures some: start fewer ranks"
        )


def cores() -> int:
    """Whole cores that this process may use, one at least."""
    return max(1, math.floor(fingerprint.describe("cpu").cores_usable))
