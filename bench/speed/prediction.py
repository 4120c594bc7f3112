"""From operations and bytes to an expected time.

    time at k classes = time at 1 + operations added / rate of operations + bytes added / rate of bytes

Both rates are calibrated on the device itself in a few seconds, at the setting's batch size and dtype: that of
operations on a linear layer that stays in the caches, that of bytes on one that does not. Adding the two
terms, not taking the larger (the roofline of Williams et al., 2009), is what narrow matrix products do on the
machines seen so far: they wait for the weight and then compute.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from archs.registry import Network

#: Weights of the two probes, in bytes: one that caches keep, one that is far beyond the largest of them.
CACHED_WEIGHT_BYTES = 2 * 2**20
STREAMED_WEIGHT_BYTES = 512 * 2**20
#: Operations of one call of the second at most: large minibatches wait for arithmetic, whatever the weight.
STREAMED_OPERATIONS = 20 * 10**9
#: Features of the probes' layer: ResNet's and Inception's own.
PROBE_FEATURES = 2048
#: A probe is repeated for this long, or this often, whichever ends first. Its least time counts: a rate is what the
#: device can do, and a busy neighbour only ever takes from it.
PROBE_SECONDS = 1.0
PROBE_REPEATS = 50


@dataclass(frozen=True)
class Work:
    """What a linear layer does for one minibatch: floating-point operations, and bytes read and written."""

    operations: int
    bytes: int

    def __sub__(self, other: "Work") -> "Work":
        return Work(self.operations - other.operations, self.bytes - other.bytes)


@dataclass(frozen=True)
class Rates:
    """What a device does a second at one batch size and dtype."""

    operations_per_s: float
    bytes_per_s: float

    def seconds(self, work: Work) -> float:
        """Expected seconds for some work."""
        return work.operations / self.operations_per_s + work.bytes / self.bytes_per_s


def top_layer_work(*, batch_size: int, features: int, classes: int, bias: bool, itemsize: int) -> Work:
    """The work of a linear layer (batch, features) -> (batch, classes): a multiplication and an addition a weight.

    Bytes are those of weight, bias, features and logits, each moved once.
    """
    weights = features * classes + (classes if bias else 0)
    moved = weights + batch_size * features + batch_size * classes
    operations = 2 * batch_size * features * classes + (batch_size * classes if bias else 0)
    return Work(operations, moved * itemsize)


def solve_rates(cached: Work, cached_s: float, streamed: Work, streamed_s: float) -> Rates:
    """The two rates from the two probes' times.

    The cached probe moves its bytes from caches, taken as free. If the streamed probe is no slower than its
    operations alone, memory is not what limits it: the rate of bytes is then at least what was seen.
    """
    operations_per_s = cached.operations / cached_s
    waiting = streamed_s - streamed.operations / operations_per_s
    return Rates(operations_per_s, streamed.bytes / max(waiting, 0.05 * streamed_s))


def calibrate(
    device: torch.device, dtype: torch.dtype, batch_size: int, *, largest_bytes: int, free_bytes: int
) -> Rates:
    """Measure both rates; takes up to a few seconds.

    The weight that is streamed is no larger than the largest top layer to be predicted (`largest_bytes`), so that
    calibrating does not need more memory than measuring, nor than a quarter of what is free.
    """
    bounded_bytes = STREAMED_OPERATIONS // (2 * batch_size) * dtype.itemsize
    weight_bytes = max(
        4 * CACHED_WEIGHT_BYTES, min(STREAMED_WEIGHT_BYTES, bounded_bytes, largest_bytes, free_bytes // 4)
    )
    with torch.inference_mode():
        cached, cached_s = _probe(device, dtype, batch_size, CACHED_WEIGHT_BYTES)
        streamed, streamed_s = _probe(device, dtype, batch_size, weight_bytes)
    return solve_rates(cached, cached_s, streamed, streamed_s)


def _probe(device: torch.device, dtype: torch.dtype, batch_size: int, weight_bytes: int) -> tuple[Work, float]:
    classes = max(1, weight_bytes // (PROBE_FEATURES * dtype.itemsize))
    weight = torch.empty(classes, PROBE_FEATURES, device=device, dtype=dtype).fill_(0.01)
    weight[:, ::7] = -0.02
    generator = torch.Generator().manual_seed(0)  # its own: the caller's random numbers stay where they are
    features = torch.randn(batch_size, PROBE_FEATURES, generator=generator).to(device, dtype)
    work = top_layer_work(
        batch_size=batch_size, features=PROBE_FEATURES, classes=classes, bias=False, itemsize=dtype.itemsize
    )
    return work, _least_seconds(lambda: functional.linear(features, weight), device)


def _least_seconds(step: Callable[[], Tensor], device: torch.device) -> float:
    def timed() -> float:
        start = time.perf_counter()
        step()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter() - start

    timed()  # the first call chooses kernels and faults pages in
    times: list[float] = []
    while len(times) < PROBE_REPEATS and sum(times) < PROBE_SECONDS:
        times.append(timed())
    return min(times)


def backbone_operations(network: Network) -> int:
    """Floating-point operations of one example's forward, top layer included, counted on the meta device.

    A network that does not run there (its forward looks at values) is built and run once on the CPU.
    """
    try:
        return _counted_on(torch.device("meta"), network)
    except Exception:  # any error of theirs means the same here; on the CPU it is raised
        return _counted_on(torch.device("cpu"), network)


def _counted_on(device: torch.device, network: Network) -> int:
    with device, torch.inference_mode():
        module = network.build()
        inputs = torch.zeros(1, *network.input_shape)
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        module(inputs)
    return int(counter.get_total_flops())
