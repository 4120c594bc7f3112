from collections.abc import Callable, Iterator

import pytest
import torch

from bench.speed.settings import Setting
from bench.speed.torch_state import torch_state

SETTING = Setting(arch="any", input_shape=(3, 8, 8), device="cpu", threads=1)


def older() -> dict[str, object]:
    """What torch's older switches say; reading any of them raises where a newer one contradicts it."""
    with torch.backends.cudnn.flags(enabled=True):
        pass
    return {
        "matmul": torch.backends.cuda.matmul.allow_tf32,
        "precision": torch.get_float32_matmul_precision(),
        "cudnn": torch.backends.cudnn.allow_tf32,
    }


def effective() -> dict[str, str]:
    """What the newer switches come to: one at "none" says what the one above all says, and that at "none" is exact."""
    above = torch.backends.fp32_precision  # type: ignore[attr-defined]
    own = {
        "matmul": torch.backends.cuda.matmul.fp32_precision,
        "conv": torch.backends.cudnn.conv.fp32_precision,  # type: ignore[attr-defined]
        "rnn": torch.backends.cudnn.rnn.fp32_precision,
    }
    inherited = "ieee" if above == "none" else above
    return {name: inherited if precision == "none" else precision for name, precision in own.items()}


@pytest.fixture
def _torch_as_imported() -> Iterator[None]:
    """A test may leave float32 as it likes: torch's own defaults come back."""
    yield
    torch.backends.fp32_precision = "none"  # type: ignore[attr-defined]
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = True


def everywhere(precision: str) -> None:
    torch.backends.fp32_precision = precision  # type: ignore[attr-defined]


def new_matmul(precision: str) -> None:
    torch.backends.cuda.matmul.fp32_precision = precision


def new_convolution(precision: str) -> None:
    torch.backends.cudnn.conv.fp32_precision = precision  # type: ignore[attr-defined]


def old_cudnn(allow: bool) -> None:
    torch.backends.cudnn.allow_tf32 = allow


CALLERS: dict[str, Callable[[], None]] = {
    "torch's defaults": lambda: None,
    "high": lambda: torch.set_float32_matmul_precision("high"),
    "medium": lambda: torch.set_float32_matmul_precision("medium"),
    "old cudnn off": lambda: old_cudnn(False),
    "new matmul": lambda: new_matmul("tf32"),
    "new convolution": lambda: new_convolution("ieee"),
    "everywhere": lambda: everywhere("tf32"),
    "everywhere exact": lambda: everywhere("ieee"),
}


@pytest.mark.usefixtures("_torch_as_imported")
@pytest.mark.parametrize("tf32", [False, True])
@pytest.mark.parametrize("caller", CALLERS.values(), ids=CALLERS.keys())
def test_one_switch_sets_convolutions_and_matrix_products_whatever_the_caller_used(
    caller: Callable[[], None], tf32: bool
) -> None:
    caller()
    before = effective()
    with torch_state(SETTING.model_copy(update={"tf32": tf32})):
        assert older() == {"matmul": tf32, "precision": "high" if tf32 else "highest", "cudnn": tf32}
        assert set(effective().values()) == {"tf32" if tf32 else "ieee"}
    assert effective() == before


@pytest.mark.usefixtures("_torch_as_imported")
@pytest.mark.parametrize("precision", ["highest", "high", "medium"])
@pytest.mark.parametrize("cudnn", [False, True])
def test_the_older_switches_come_back(precision: str, cudnn: bool) -> None:
    torch.set_float32_matmul_precision(precision)
    old_cudnn(cudnn)
    with torch_state(SETTING):
        pass
    assert older() == {"matmul": precision != "highest", "precision": precision, "cudnn": cudnn}


def test_threads_and_autotuner_are_the_settings_and_come_back_also_after_an_exception() -> None:
    before = torch.get_num_threads(), torch.backends.cudnn.benchmark
    others = {"threads": before[0] + 1, "cudnn_benchmark": not before[1]}

    def failing() -> None:
        with torch_state(SETTING.model_copy(update=others)):
            assert (torch.get_num_threads(), torch.backends.cudnn.benchmark) == (before[0] + 1, not before[1])
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        failing()
    assert (torch.get_num_threads(), torch.backends.cudnn.benchmark) == before


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
