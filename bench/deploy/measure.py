"""One process measures a single logit in use, from the empty machine to the last forward.

    top layer to disk -> backbone -> memory -> switches: cold, warm, kept -> memory
        -> whole top layer in memory, if it fits -> forwards: one logit, all logits, in turn -> memory

The single logit comes first, so that the memory of the whole top layer is in no reading but its own.
"""

import ctypes
import gc
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

import psutil
import torch
from torch import Tensor, nn

from archs.rows_on_disk import Rows, open_tensors, write_rows
from archs.single_logit import SingleLogit
from archs.top_layer import ClassBank, TopLayer, at_class_count
from bench.deploy import switching
from bench.deploy.plan import DeploymentPlan, speed_setting
from bench.deploy.records import DeploymentSetting, Memory, Sample, State
from bench.machine.memory import free_bytes
from bench.speed.assembly import build_backbone, input_pool
from bench.speed.capacity import shortage
from bench.speed.clocks import Clock, Forward, clock_for
from bench.speed.failures import first_line, status_of
from bench.speed.forwards import Eager
from bench.speed.torch_state import DTYPES, torch_state

#: Rows drawn for the file; the others repeat them, as in archs.top_layer.ClassBank.
TILE_ROWS = 1024

#: Rounds of forwards before the timed ones.
WARMUP_ROUNDS = 3

Emit = Callable[[Sample | Memory], None]
Say = Callable[[str], None]


def measure(planned: DeploymentPlan, layer_file: Path, emit: Emit, say: Say) -> str:
    """Measure; emit every sample and reading of memory; returns why all logits were not measured, "" if they were.

    The top layer is written to `layer_file`, which is left there. Raises archs.rows_on_disk.UnusableFile if the disk
    has no room for it.
    """
    setting, top = planned.setting, planned.facts.top
    with torch_state(speed_setting(setting)), torch.inference_mode():
        say(f"writing a top layer of {setting.classes:,} rows")
        write_layer(layer_file, setting, top)
        say(f"building {setting.arch}")
        backbone, top = _backbone(planned)
        minibatch = input_pool(speed_setting(setting), 1)[0]
        backbone(minibatch)
        emit(read_memory("backbone", setting.device))

        def open_rows(cached_rows: int) -> SingleLogit:
            return opened(backbone, top, layer_file, setting, cached_rows)

        for sample in _switches(setting, top, layer_file, open_rows, say):
            emit(sample)
        query = open_rows(1)
        query(minibatch, 0)
        emit(read_memory("one", setting.device))
        return _forwards(query, backbone, top, setting, minibatch, emit, say)


def write_layer(path: Path, setting: DeploymentSetting, top: TopLayer) -> None:
    """A random top layer, written tile by tile: what is timed does not depend on the values, only on their bytes."""
    dtype = DTYPES[setting.dtype]
    tile = ClassBank(top.features, min(TILE_ROWS, setting.classes), bias=False, dtype=dtype, seed=setting.seed).weight

    def chunks() -> Iterator[Tensor]:
        for start in range(0, setting.classes, len(tile)):
            yield tile[: min(len(tile), setting.classes - start)]

    bias = torch.zeros(1, dtype=dtype).expand(setting.classes) if top.bias else None  # one number in memory
    write_rows(path, chunks(), bias, classes=setting.classes, features=top.features, dtype=dtype)


def opened(
    backbone: nn.Module, top: TopLayer, path: Path, setting: DeploymentSetting, cached_rows: int = 1
) -> SingleLogit:
    """The single logit on rows mapped anew."""
    rows = Rows(open_tensors(path), "weight", "bias" if top.bias else None)
    return SingleLogit(backbone, top, rows, name=setting.arch, input_shape=setting.input_shape, cached_rows=cached_rows)


def read_memory(state: State, device: str) -> Memory:
    """Memory in use now; what was freed and only kept for later by the allocator is given back first."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's
    if trim is not None:
        trim(0)
    process = psutil.Process().memory_info()
    on_device = torch.cuda.memory_allocated(torch.device(device)) if device != "cpu" else None
    return Memory(state=state, resident_bytes=process.rss, mapped_bytes=process.shared, device_bytes=on_device)


def _backbone(planned: DeploymentPlan) -> tuple[nn.Module, TopLayer]:
    """The network with one class on top; its own top layer is let go of."""
    setting = speed_setting(planned.setting)
    module, top = build_backbone(planned.network, setting)
    one = ClassBank(top.features, 1, bias=top.bias, dtype=DTYPES[setting.dtype], device=setting.device)
    return at_class_count(module, top, one.layer(1)), top


def _switches(
    setting: DeploymentSetting, top: TopLayer, path: Path, open_rows: switching.Open, say: Say
) -> Iterator[Sample]:
    synchronise = _synchronise(setting.device)
    row_bytes = top.features * DTYPES[setting.dtype].itemsize
    open_rows(1).select(0)  # what torch and safetensors set up at their first use is no part of a switch
    say("switching to classes on disk")
    yield from switching.cold(setting, path, row_bytes, open_rows, synchronise)
    say("switching to classes in memory")
    yield from switching.warm(setting, open_rows, synchronise)
    yield from switching.kept(setting, open_rows, synchronise)


def _synchronise(device: str) -> Callable[[], None]:
    if device == "cpu":
        return lambda: None
    return lambda: torch.cuda.synchronize(torch.device(device))


def _forwards(
    query: SingleLogit,
    backbone: nn.Module,
    top: TopLayer,
    setting: DeploymentSetting,
    minibatch: Tensor,
    emit: Emit,
    say: Say,
) -> str:
    """Time one logit beside all of them, or alone, and say why."""
    forwards: dict[str, Forward] = {"one": Eager(lambda images: query(images, 0))}
    say("loading the whole top layer")
    every, refused = _all_logits(backbone, top, setting, minibatch)
    if every is not None:
        forwards["all"] = every
        emit(read_memory("all", setting.device))
    say("timing forwards")
    for sample in timed_in_turn(forwards, setting, minibatch, clock_for(torch.device(setting.device))):
        emit(sample)
    return refused


def _all_logits(
    backbone: nn.Module, top: TopLayer, setting: DeploymentSetting, minibatch: Tensor
) -> tuple[Forward | None, str]:
    """The network with the whole top layer in memory, run once; or None and the reason."""
    itemsize = DTYPES[setting.dtype].itemsize
    needed = setting.classes * (top.features + top.bias + setting.batch_size * top.outputs) * itemsize
    refused = shortage("the whole top layer and its logits", needed, free_bytes(setting.device))
    if refused is not None:
        return None, refused
    try:
        bank = ClassBank(
            top.features,
            setting.classes,
            bias=top.bias,
            dtype=DTYPES[setting.dtype],
            device=setting.device,
            seed=setting.seed,
        )
        network = at_class_count(backbone, top, bank.layer(setting.classes))
        network(minibatch)
    except (RuntimeError, MemoryError) as error:  # the allocator knows better than the look before
        if status_of(error) != "out-of-memory":
            raise
        return None, first_line(error)
    return Eager(network), ""


def timed_in_turn(
    forwards: dict[str, Forward], setting: DeploymentSetting, minibatch: Tensor, clock: Clock
) -> Iterator[Sample]:
    """Each forward once a round, in random order: drift of the machine hits all alike."""
    generator = Random(setting.seed)
    for number in range(WARMUP_ROUNDS + setting.minibatches):
        warming = number < WARMUP_ROUNDS
        order = sorted(forwards)
        generator.shuffle(order)
        for what in order:
            yield Sample.model_validate(
                {
                    "what": what,
                    "number": number if warming else number - WARMUP_ROUNDS,
                    "phase": "warmup" if warming else "timed",
                    "wall_s": clock(forwards[what], minibatch).wall_s,
                }
            )
