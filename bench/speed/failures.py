"""What an exception from torch says about a point."""

from bench.run import Status

_NO_MEMORY = (
    "out of memory",  # CUDA's own, "CUDA error: out of memory", too
    "can't allocate memory",
    "cannot allocate memory",
    "not enough memory",
    "std::bad_alloc",
    "cublas_status_alloc_failed",
    "cudnn_status_alloc_failed",
)
_UNSUPPORTED = (
    "not implemented for",
    "could not run",
    "is not supported",
    "unsupported",
    "detected recompile",
    # What cannot be part of a CUDA graph, in CUDA's words, and graphs that torch.compile left out.
    "operation not permitted when stream is capturing",
    "error during capture",
    "cudagraph",
)


def status_of(error: BaseException) -> Status:
    """Out of memory, unsupported, or failed.

    torch raises its own OutOfMemoryError on CUDA and a bare RuntimeError on the CPU, so the text decides.
    """
    text = str(error).lower()
    if isinstance(error, MemoryError) or any(words in text for words in _NO_MEMORY):
        return "out-of-memory"
    module = type(error).__module__
    compiler = module.startswith(("torch._dynamo", "torch._inductor"))
    if compiler or isinstance(error, NotImplementedError) or any(words in text for words in _UNSUPPORTED):
        return "unsupported"
    return "failed"


def first_line(error: BaseException, limit: int = 240) -> str:
    """Type and first line of an error, short enough for a cell of a table."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
    return text if len(text) <= limit else text[: limit - 1] + "…"
