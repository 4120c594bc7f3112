"""The device a name means on this machine."""

import torch

from bench.errors import UsageError


def resolve_device(name: str) -> str:
    """The device a name means here: `auto` is the first CUDA device if there is one, else the CPU.

    Raises UsageError for a device that is not here.
    """
    available = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "auto":
        return "cuda:0" if available else "cpu"
    if name == "cpu":
        return name
    index = "0" if name == "cuda" else name.removeprefix("cuda:")
    if name != "cuda" and not (name.startswith("cuda:") and index.isdecimal()):
        raise UsageError(f"unknown device {name!r}: auto, cpu, cuda or cuda:N")
    if int(index) >= available:
        raise UsageError(f"no device {name!r} here: {available} CUDA devices are visible; --device cpu always works")
    return f"cuda:{index}"
