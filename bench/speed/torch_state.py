"""torch's global switches, set for a setting and put back afterwards."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch

from bench.speed.settings import Setting

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@contextmanager
def torch_state(setting: Setting) -> Iterator[None]:
    """Threads, TF32 and cuDNN's autotuner as the setting says; on leaving, as they were.

    torch allows TF32 in convolutions and not in matrix products unless told otherwise: half a network in
    another precision than its top layer. Here one switch sets both.
    """
    precision = "tf32" if setting.tf32 else "ieee"
    wanted: list[tuple[Any, str, object]] = [
        (torch.backends.cuda.matmul, "fp32_precision", precision),
        (torch.backends.cudnn.conv, "fp32_precision", precision),  # type: ignore[attr-defined]
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
