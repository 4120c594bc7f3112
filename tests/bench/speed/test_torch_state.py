import pytest
import torch

from bench.speed.settings import Setting
from bench.speed.torch_state import torch_state

SETTING = Setting(arch="any", input_shape=(3, 8, 8), device="cpu", threads=1)


def switches() -> dict[str, object]:
    return {
        "threads": torch.get_num_threads(),
        "matmul": torch.backends.cuda.matmul.fp32_precision,
        "conv": torch.backends.cudnn.conv.fp32_precision,  # type: ignore[attr-defined]
        "conv on the CPU": torch.backends.mkldnn.conv.fp32_precision,  # type: ignore[attr-defined]
        "matmul on the CPU": torch.backends.mkldnn.matmul.fp32_precision,  # type: ignore[attr-defined]
        "benchmark": torch.backends.cudnn.benchmark,
    }


@pytest.mark.parametrize("tf32", [False, True])
@pytest.mark.parametrize("cudnn_benchmark", [False, True])
@pytest.mark.parametrize("threads", [1, 2])
def test_every_switch_is_as_the_setting_says_and_afterwards_as_it_was(
    tf32: bool, cudnn_benchmark: bool, threads: int
) -> None:
    before = switches()
    setting = SETTING.model_copy(update={"tf32": tf32, "cudnn_benchmark": cudnn_benchmark, "threads": threads})
    precision = "tf32" if tf32 else "ieee"
    with torch_state(setting):
        assert switches() == {
            "threads": threads,
            "matmul": precision,
            "conv": precision,
            "conv on the CPU": precision,
            "matmul on the CPU": precision,
            "benchmark": cudnn_benchmark,
        }
    assert switches() == before


def test_an_exception_puts_them_back_too() -> None:
    before = switches()
    other = SETTING.model_copy(
        update={
            "tf32": before["conv"] != "tf32",
            "threads": torch.get_num_threads() + 1,
            "cudnn_benchmark": not before["benchmark"],
        }
    )

    def failing() -> None:
        with torch_state(other):
            assert all(now != then for now, then in zip(switches().values(), before.values(), strict=True))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        failing()
    assert switches() == before


def test_what_the_caller_had_set_comes_back_and_not_torchs_default() -> None:
    with torch_state(SETTING.model_copy(update={"tf32": True, "cudnn_benchmark": True, "threads": 2})):
        callers = switches()
        with torch_state(SETTING.model_copy(update={"tf32": False, "cudnn_benchmark": False, "threads": 1})):
            assert all(now != then for now, then in zip(switches().values(), callers.values(), strict=True))
        assert switches() == callers


@pytest.mark.gpu
@pytest.mark.parametrize("tf32", [False, True])
def test_tf32_rounds_convolutions_and_matrix_products_alike(tf32: bool) -> None:
    # 1 + 2**-11 needs 11 bits of mantissa: TF32's 10 cannot hold it, float32's 23 can
    matrix = torch.full((64, 64), 1 + 2**-11, device="cuda")
    image = torch.full((1, 64, 8, 8), 1 + 2**-11, device="cuda")
    with torch_state(SETTING.model_copy(update={"device": "cuda:0", "tf32": tf32})):
        product = matrix @ torch.eye(64, device="cuda")
        convolved = torch.nn.functional.conv2d(image, torch.eye(64, device="cuda")[:, :, None, None])
    assert bool((product == matrix).all()) is not tf32
    assert bool((convolved == image).all()) is not tf32
