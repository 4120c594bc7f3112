"""torch's global switches, set for a setting and put back afterwards."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch

from bench.speed.settings import Setting

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

#: Where torch's newer switch, fp32_precision, can say how exactly float32 is computed.
_PRECISIONS: tuple[Any, ...] = (
    torch.backends.cuda.matmul,
    torch.backends.cudnn.conv,  # type: ignore[attr-defined]
    torch.backends.cudnn.rnn,
)


@contextmanager
def torch_state(setting: Setting) -> Iterator[None]:
    """Threads, TF32 and cuDNN's autotuner as the setting says; on leaving, as they were."""
    threads, autotuner = torch.get_num_threads(), torch.backends.cudnn.benchmark
    # Streams, events and graphs belong to the current device unless told otherwise.
    device = nullcontext() if setting.device == "cpu" else torch.cuda.device(setting.device)
    with _tf32(setting.tf32), device:
        try:
            torch.backends.cudnn.benchmark = setting.cudnn_benchmark
            torch.set_num_threads(setting.threads)
            yield
        finally:
            torch.set_num_threads(threads)
            torch.backends.cudnn.benchmark = autotuner


@contextmanager
def _tf32(allowed: bool) -> Iterator[None]:
    """TF32 in convolutions and matrix products alike, or in neither.

    torch allows it in convolutions and not in matrix products unless told otherwise: half a network in another
    precision than its top layer. The older switches are used, because they set the newer ones too, while reading
    an older one that a newer one contradicts raises, and Inductor reads the older ones.
    """
    everywhere = torch.backends.fp32_precision  # type: ignore[attr-defined]
    newer = [(place, place.fp32_precision) for place in _PRECISIONS]
    try:
        older = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    except RuntimeError:  # the caller has used the newer switches
        older = None
    try:
        torch.backends.fp32_precision = "none"  # type: ignore[attr-defined]  # what places at "none" would inherit
        torch.set_float32_matmul_precision("high" if allowed else "highest")
        torch.backends.cudnn.allow_tf32 = allowed
        yield
    finally:
        if older is not None:
            torch.set_float32_matmul_precision(older[0])
            torch.backends.cudnn.allow_tf32 = older[1]
        else:
            for place, precision in newer:
                place.fp32_precision = precision
        torch.backends.fp32_precision = everywhere  # type: ignore[attr-defined]
