"""torch's global switches, set for a setting and put back afterwards."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch

from bench.speed.settings import Setting

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

#: What computes in float32 and may be allowed less, on CUDA and (mkldnn) on the CPU.
_FLOAT32_OPERATIONS: tuple[Any, ...] = (
    torch.backends.cuda.matmul,
    torch.backends.cudnn.conv,  # type: ignore[attr-defined]
    torch.backends.cudnn.rnn,
    torch.backends.mkldnn.matmul,  # type: ignore[attr-defined]
    torch.backends.mkldnn.conv,  # type: ignore[attr-defined]
    torch.backends.mkldnn.rnn,  # type: ignore[attr-defined]
)


@contextmanager
def torch_state(setting: Setting) -> Iterator[None]:
    """Threads, TF32 and cuDNN's autotuner as the setting says; on leaving, as they were.

    torch allows TF32 in convolutions and not in matrix products unless told otherwise: half a network in
    another precision than its top layer. Here one switch sets both.
    """
    precision = "tf32" if setting.tf32 else "ieee"
    wanted: list[tuple[Any, str, object]] = [
        *((operations, "fp32_precision", precision) for operations in _FLOAT32_OPERATIONS),
        (torch.backends.cudnn, "benchmark", setting.cudnn_benchmark),
    ]
    threads = torch.get_num_threads()
    before = [(owner, name, getattr(owner, name)) for owner, name, _ in wanted]
    try:
        for owner, name, value in wanted:
            setattr(owner, name, value)
        torch.set_num_threads(setting.threads)
        # Streams, events and graphs belong to the current device unless told otherwise.
        with nullcontext() if setting.device == "cpu" else torch.cuda.device(setting.device):
            yield
    finally:
        torch.set_num_threads(threads)
        for owner, name, value in before:
            setattr(owner, name, value)
