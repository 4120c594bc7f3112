import torch

from bench.speed.agreement import disagreement
from bench.speed.settings import Setting

SETTING = Setting(arch="any", input_shape=(3, 8, 8), device="cpu", threads=1)


def test_a_column_agrees_with_itself() -> None:
    logits = torch.randn(4, 10, generator=torch.Generator().manual_seed(0))
    assert disagreement(logits[:, :1], logits, SETTING) is None


def test_another_column_does_not() -> None:
    logits = torch.randn(4, 10, generator=torch.Generator().manual_seed(0))
    assert "differs from its column" in str(disagreement(logits[:, 1:2], logits, SETTING))


def test_the_tolerance_is_the_dtypes() -> None:
    logits = torch.randn(4, 10, generator=torch.Generator().manual_seed(0))
    off = logits[:, :1] + 0.02
    assert disagreement(off, logits, SETTING) is not None
    assert disagreement(off, logits, SETTING.model_copy(update={"dtype": "bfloat16"})) is None


def test_infinite_and_missing_numbers_are_refused() -> None:
    logits = torch.ones(2, 3)
    for bad in (float("inf"), float("nan")):
        spoilt = logits.clone()
        spoilt[0, 2] = bad
        assert "not finite" in str(disagreement(spoilt[:, :1], spoilt, SETTING))


def test_a_wrong_shape_is_named() -> None:
    assert "(2, 3)" in str(disagreement(torch.ones(2, 3), torch.ones(2, 3), SETTING))
