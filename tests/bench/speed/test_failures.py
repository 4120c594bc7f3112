import pytest
import torch

from bench.speed.failures import first_line, status_of


def test_what_torch_raises_when_the_cpu_has_no_memory_is_out_of_memory() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60)
    assert status_of(caught.value) == "out-of-memory"


def test_what_torch_raises_for_a_missing_kernel_is_unsupported() -> None:
    with pytest.raises((RuntimeError, NotImplementedError)) as caught:
        torch.linalg.inv(torch.eye(2, dtype=torch.float16))
    assert status_of(caught.value) == "unsupported"


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 6.00 GiB"), "out-of-memory"),
        (RuntimeError("CUDA error: out of memory\nCompile with `TORCH_USE_CUDA_DSA`"), "out-of-memory"),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), "out-of-memory"),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), "out-of-memory"),
        (MemoryError(), "out-of-memory"),
        (RuntimeError("Detected recompile when torch.compile stance is 'fail_on_recompile'"), "unsupported"),
        (RuntimeError("CUDA error: operation not permitted when stream is capturing"), "unsupported"),
        (RuntimeError("CUDA error: operation failed due to a previous error during capture"), "unsupported"),
        (RuntimeError("skipping cudagraphs due to cpu device (arg0)"), "unsupported"),
        (NotImplementedError("later"), "unsupported"),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), "failed"),
        (KeyError("weight"), "failed"),
    ],
)
def test_statuses(error: Exception, status: str) -> None:
    assert status_of(error) == status


def test_a_reason_is_one_short_line() -> None:
    reason = first_line(ValueError("first\nsecond " + "x" * 1000))
    assert reason == "ValueError: first"
    assert len(first_line(ValueError("x" * 1000))) == 240
    assert first_line(MemoryError()) == "MemoryError"
