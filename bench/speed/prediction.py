"""From operations and bytes to an expected time.

    time at k classes = time at 1 + operations added / rate of operations
                                  + bytes added / rate of bytes
                                  + bytes of logits / rate of fresh memory, from 32 MiB of logits on (CPU)

The rates are calibrated on the device itself in a few seconds, at the setting's batch size and dtype, on a linear
layer that stays in the caches (operations), on one that does not (bytes), and by writing to memory that the system
has just handed out against writing to memory in use (fresh memory).

Adding the terms, not taking the larger (the roofline of Williams et al., 2009), is what narrow matrix products do on
the machines seen so far: they wait for the weight and then compute. On an AMD EPYC core at a batch of 32, the least
time of a product was 1.31 to 1.37 ns a weight at 2,048 and at 4,096 features and from 134 MB to 1 GB of weight; so one
weight size beyond the caches is enough, and time is linear in classes. Narrow layers are not like wide ones at a batch
of 1 (1.7 times as long a weight at 512 features), so the probes can take the network's own width.

Rates are those of the least time: what the device can do. A pass's median is longer where neighbours are busy, and
the same neighbours slow the top layer: bench.speed.predict multiplies what is added by what they cost the single logit.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from archs.registry import Network
from archs.top_layer import TopLayer, place_of
from bench.speed.calibration import STRETCH_SECONDS, Probe, take_turns

#: Weights of two probes, in bytes: one that caches keep, one that is far beyond the largest of them.
CACHED_WEIGHT_BYTES = 2 * 2**20
STREAMED_WEIGHT_BYTES = 512 * 2**20
#: Operations of one call of the second at most: large minibatches wait for arithmetic, whatever the weight.
STREAMED_OPERATIONS = 20 * 10**9
#: Features of the probes' layer unless told otherwise: ResNet's and Inception's own.
PROBE_FEATURES = 2048
#: Probes take turns for so many rounds, or for this long for each of them, whichever ends first. The least time
#: counts: a rate is what the device can do, and a busy neighbour only ever takes from it.
PROBE_SECONDS = 1.0
PROBE_REPEATS = 50
#: Share of a GPU's second-level cache that the cached weight takes: inputs, outputs and others live there too.
CACHE_SHARE = 4
#: From this size on, glibc's allocator returns a block to the system when it is freed (DEFAULT_MMAP_THRESHOLD_MAX on
#: 64 bits) and every pass faults its logits in anew. Below it a block is used again. torch on CUDA keeps its blocks.
FRESH_BYTES = 32 * 2**20


@dataclass(frozen=True)
class Work:
    """What a linear layer does for one minibatch.

    Floating-point operations; bytes read and written; and, of these, the bytes of its logits.
    """

    operations: int
    bytes: int
    logit_bytes: int = 0

    def __sub__(self, other: "Work") -> "Work":
        return Work(self.operations - other.operations, self.bytes - other.bytes, self.logit_bytes - other.logit_bytes)


@dataclass(frozen=True)
class Rates:
    """What a device does a second at one batch size and dtype.

    `fresh_bytes_per_s`: bytes of memory the system hands out, in addition to writing them; None where that costs
    nothing or is not known.
    """

    operations_per_s: float
    bytes_per_s: float
    fresh_bytes_per_s: float | None = None

    def seconds(self, work: Work) -> float:
        """Expected seconds for some work."""
        fresh_s = 0.0
        if self.fresh_bytes_per_s is not None and work.logit_bytes >= FRESH_BYTES:
            fresh_s = work.logit_bytes / self.fresh_bytes_per_s
        return work.operations / self.operations_per_s + work.bytes / self.bytes_per_s + fresh_s

    def added_seconds(self, work: Work, base: Work) -> float:
        """Expected seconds for some work beyond those of another."""
        return self.seconds(work) - self.seconds(base)

    def slowed(self, factor: float) -> "Rates":
        """The rates of a device on which everything takes `factor` times as long."""
        fresh = self.fresh_bytes_per_s
        return Rates(
            self.operations_per_s / factor, self.bytes_per_s / factor, None if fresh is None else fresh / factor
        )


def top_layer_work(*, batch_size: int, features: int, classes: int, bias: bool, itemsize: int) -> Work:
    """The work of a linear layer (batch, features) -> (batch, classes): a multiplication and an addition a weight.

    Bytes are those of weight, bias, features and logits, each moved once.
    """
    weights = features * classes + (classes if bias else 0)
    moved = weights + batch_size * features + batch_size * classes
    operations = 2 * batch_size * features * classes + (batch_size * classes if bias else 0)
    return Work(operations, moved * itemsize, batch_size * classes * itemsize)


def solve_rates(
    cached: Work, cached_s: float, streamed: Work, streamed_s: float, fresh_bytes_per_s: float | None = None
) -> Rates:
    """The rates of operations and of bytes from two probes' times.

    The cached probe moves its bytes from caches, taken as free. If the streamed probe is no slower than its
    operations alone, memory is not what limits it: the rate of bytes is then at least what was seen.
    """
    operations_per_s = cached.operations / cached_s
    waiting = streamed_s - streamed.operations / operations_per_s
    return Rates(operations_per_s, streamed.bytes / max(waiting, 0.05 * streamed_s), fresh_bytes_per_s)


def solve_fresh(size: int, fresh_s: float, used_s: float) -> float | None:
    """Bytes a second of memory handed out, from filling so many bytes of it and as many in use; None if no slower."""
    return size / (fresh_s - used_s) if fresh_s > used_s else None


def calibrate(
    device: torch.device,
    dtype: torch.dtype,
    batch_size: int,
    *,
    largest_bytes: int,
    free_bytes: int,
    features: int = PROBE_FEATURES,
) -> Rates:
    """Measure the rates on a layer of this width; takes up to a few seconds.

    The weight that is streamed is no larger than the largest top layer to be predicted (`largest_bytes`), so that
    calibrating does not need more memory than measuring, nor than a quarter of what is free. Fresh memory is looked
    at on a CPU only, and where a top layer is large enough to have so many logits.
    """
    bounded_bytes = STREAMED_OPERATIONS // (2 * batch_size) * dtype.itemsize
    cached_bytes = cached_weight_bytes(device)
    weight_bytes = max(4 * cached_bytes, min(STREAMED_WEIGHT_BYTES, bounded_bytes, largest_bytes, free_bytes // 4))
    with torch.inference_mode():
        cached, cached_probe = _linear(device, dtype, batch_size, features, cached_bytes)
        streamed, streamed_probe = _linear(device, dtype, batch_size, features, weight_bytes)
        fills = _fills() if device.type == "cpu" and weight_bytes >= 4 * FRESH_BYTES else []
        probes = [cached_probe, streamed_probe, *fills]
        take_turns(probes, rounds=PROBE_REPEATS, seconds=PROBE_SECONDS * len(probes))
    fresh = solve_fresh(FRESH_BYTES, *(probe.least_s for probe in fills)) if fills else None
    return solve_rates(cached, cached_probe.least_s, streamed, streamed_probe.least_s, fresh)


def cached_weight_bytes(device: torch.device) -> int:
    """Bytes of a weight that the device's caches keep.

    On CUDA a quarter of the second-level cache: a weight of 2 MB is too little work to fill a large GPU.
    """
    if device.type != "cuda":
        return CACHED_WEIGHT_BYTES
    cache_bytes = int(getattr(torch.cuda.get_device_properties(device), "L2_cache_size", 0))  # 0: it does not say
    return max(CACHED_WEIGHT_BYTES, cache_bytes // CACHE_SHARE)


def _linear(
    device: torch.device, dtype: torch.dtype, batch_size: int, width: int, weight_bytes: int
) -> tuple[Work, Probe]:
    classes = max(1, weight_bytes // (width * dtype.itemsize))
    weight = torch.empty(classes, width, device=device, dtype=dtype).fill_(0.01)
    weight[:, ::7] = -0.02
    generator = torch.Generator().manual_seed(0)  # its own: the caller's random numbers stay where they are
    features = torch.randn(batch_size, width, generator=generator).to(device, dtype)
    work = top_layer_work(batch_size=batch_size, features=width, classes=classes, bias=False, itemsize=dtype.itemsize)

    def step() -> Tensor:
        return functional.linear(features, weight)

    if device.type == "cuda":
        return work, Probe(step, lambda: torch.cuda.synchronize(device), stretch_s=STRETCH_SECONDS)
    return work, Probe(step)


def _fills() -> list[Probe]:
    """Filling memory that the allocator asks the system for, and memory in use: FRESH_BYTES of each."""
    used = torch.empty(FRESH_BYTES, dtype=torch.uint8)
    return [
        Probe(lambda: torch.empty(FRESH_BYTES, dtype=torch.uint8).fill_(1)),
        Probe(lambda: used.fill_(1)),
    ]


def backbone_operations(network: Network, top: TopLayer) -> int:
    """Floating-point operations of one example's forward below its top layer, counted on the meta device.

    A network that does not run there (its forward looks at values) is built and run once on the CPU.
    """
    try:
        whole = _counted_on(torch.device("meta"), network)
    except Exception:  # any error of theirs means the same here; on the CPU it is raised
        whole = _counted_on(torch.device("cpu"), network)
    return whole - sum(2 * head.features * head.positions * top.classes for head in top.heads)


def _counted_on(device: torch.device, network: Network) -> int:
    with device, torch.inference_mode():
        module = network.build()
    place, dtype = place_of(module)  # a module in hand, or a factory with a mind of its own, may be elsewhere
    inputs = torch.zeros(1, *network.input_shape, device=place, dtype=dtype)
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        module(inputs)
    return int(counter.get_total_flops())
