"""A part of the paper as the request that its own command would make of it."""

from pathlib import Path

from bench.accuracy.request import Request as AccuracyRequest
from bench.machine.device import resolve_device
from bench.paper.parts import AccuracyPart, Options, Size, SpeedPart
from bench.speed.plan import Request as SpeedRequest


def speed_request(part: SpeedPart, size: Size, options: Options) -> SpeedRequest:
    """A sweep in float32 (Sect. 6.3)."""
    return SpeedRequest(
        arch=(part.arch,),
        classes=part.classes,
        batch_size=(part.batch_size,),
        minibatches=size.amount,
        device=options.device,
        threads=options.threads,
        seed=options.seed,
    )


def accuracy_request(part: AccuracyPart, size: Size, options: Options) -> AccuracyRequest:
    """A grid of trainings (Sect. 6.1).

    The threads are those of all trainings together: on a CPU small networks train side by side, a thread each.
    """
    on_cpu = resolve_device(options.device) == "cpu"
    side_by_side = on_cpu and options.threads is not None
    return AccuracyRequest(
        dataset=part.dataset,
        losses=part.losses,
        preset=part.preset,
        learning_rates=size.learning_rates,
        steps=size.amount,
        device=options.device,
        workers=options.threads if side_by_side else None,
        threads=1 if side_by_side else options.threads,
        seed=options.seed,
        data_dir=None if options.data_dir is None else Path(options.data_dir),
    )
