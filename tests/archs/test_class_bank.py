import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from archs.class_bank import ClassBank


@given(rows=st.integers(1, 5000), features=st.integers(1, 9), data=st.data())
def test_layers_are_contiguous_views_of_one_bank(rows: int, features: int, data: st.DataObject) -> None:
    bank = ClassBank(features, rows)
    count = data.draw(st.integers(1, rows))
    layer = bank.layer(count)
    assert layer.weight.shape == (count, features)
    assert layer.weight.is_contiguous()
    assert layer.weight.data_ptr() == bank.weight.data_ptr()
    assert layer.bias.data_ptr() == bank.bias.data_ptr()  # type: ignore[union-attr]
    assert not layer.weight.requires_grad
    assert not layer.training
    assert torch.equal(layer.weight, bank.weight[:count])


@given(rows=st.integers(1, 5000))
def test_every_row_is_written(rows: int) -> None:
    bank = ClassBank(3, rows)
    repeated = bank.weight[torch.arange(rows) % 1024]
    assert torch.equal(bank.weight, repeated)
    assert (bank.weight != 0).all()
    assert bank.bias is not None
    assert (bank.bias != 0).all()


def test_bank_has_the_scale_of_a_linear_layer() -> None:
    weight = ClassBank(400, 3000).weight
    assert weight.std().item() == pytest.approx(1 / 20, rel=0.01)
    assert weight.mean().item() == pytest.approx(0, abs=0.001)


def test_bank_depends_on_its_seed_alone() -> None:
    assert torch.equal(ClassBank(4, 10).weight, ClassBank(4, 10).weight)
    assert not torch.equal(ClassBank(4, 10).weight, ClassBank(4, 10, seed=1).weight)
    assert torch.equal(ClassBank(4, 10, dtype=torch.float16).weight, ClassBank(4, 10).weight.half())


@pytest.mark.parametrize(("bias", "row"), [(True, 202), (False, 200)])
def test_bank_knows_its_bytes(bias: bool, row: int) -> None:
    bank = ClassBank(100, 7, bias=bias, dtype=torch.bfloat16, device="meta")
    assert bank.row_bytes == row
    assert bank.nbytes == 7 * row
    held = bank.weight.nbytes + (bank.bias.nbytes if bank.bias is not None else 0)
    assert held == bank.nbytes
    assert (bank.layer(3).bias is not None) == bias


@pytest.mark.parametrize("count", [0, -1, 11])
def test_bank_refuses_counts_it_does_not_hold(count: int) -> None:
    with pytest.raises(ValueError, match=f"1 to 10 classes, not {count}"):
        ClassBank(4, 10).layer(count)


@pytest.mark.parametrize(("features", "classes"), [(0, 1), (1, 0), (-1, 3)])
def test_empty_bank_is_refused(features: int, classes: int) -> None:
    with pytest.raises(ValueError, match="empty"):
        ClassBank(features, classes)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_bank_is_the_same_on_a_gpu() -> None:
    assert torch.equal(ClassBank(16, 3000, device="cuda").weight.cpu(), ClassBank(16, 3000).weight)
