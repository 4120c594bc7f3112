import pytest
import torch
from timm.layers.norm_act import BatchNormAct2d
from torch import nn

from archs.batch_norm import calibrate
from archs.registry import find

FLOAT16_MAX = 65504


def largest_activation(module: nn.Module, inputs: torch.Tensor) -> float:
    largest = 0.0

    def hook(_: nn.Module, __: object, output: torch.Tensor) -> None:
        nonlocal largest
        largest = max(largest, output.abs().max().item())

    hooks = [part.register_forward_hook(hook) for part in module.modules()]
    with torch.no_grad():
        module(inputs)
    for handle in hooks:
        handle.remove()
    return largest


def test_statistics_are_those_of_the_minibatch() -> None:
    layer = nn.BatchNorm1d(1, momentum=0.3)
    calibrate(layer, torch.tensor([[1.0], [2.0], [6.0]]))
    assert layer.running_mean is not None
    assert layer.running_var is not None
    assert layer.running_mean.item() == pytest.approx(3)  # (1 + 2 + 6) / 3
    assert layer.running_var.item() == pytest.approx(7)  # (4 + 1 + 9) / 2


def test_later_layers_see_what_earlier_ones_normalised() -> None:
    module = nn.Sequential(nn.BatchNorm1d(3, dtype=torch.float64), nn.BatchNorm1d(3, dtype=torch.float64))
    inputs = 100 * torch.randn(50, 3, dtype=torch.float64) + 7
    calibrate(module, inputs)
    torch.testing.assert_close(module[1].running_mean, torch.zeros(3, dtype=torch.float64), atol=1e-12, rtol=0)
    torch.testing.assert_close(module[1].running_var, torch.full((3,), 50 / 49, dtype=torch.float64), atol=1e-6, rtol=0)


def test_nothing_but_the_statistics_changes() -> None:
    module = nn.Sequential(
        nn.Conv2d(3, 4, 1), BatchNormAct2d(4, drop_layer=nn.Dropout), nn.Dropout(0.5), nn.BatchNorm2d(4, momentum=None)
    )
    before = {key: value.clone() for key, value in module.state_dict().items()}
    inputs = torch.randn(4, 3, 5, 5)
    random = torch.get_rng_state()
    calibrate(module, inputs)
    after = module.state_dict()
    changed = {key for key in before if not torch.equal(before[key], after[key])}
    assert changed == {"1.running_mean", "1.running_var", "3.running_mean", "3.running_var"}
    assert [part.momentum for part in module.modules() if isinstance(part, nn.BatchNorm2d)] == [0.1, None]
    assert not any(part.training for part in module.modules())
    assert torch.equal(torch.get_rng_state(), random)
    again = {key: value.clone() for key, value in after.items()}
    calibrate(module, inputs)
    assert all(torch.equal(again[key], value) for key, value in module.state_dict().items())


def test_layers_without_statistics_are_left_alone() -> None:
    without = nn.BatchNorm1d(3, track_running_stats=False)
    calibrate(nn.Sequential(without, nn.BatchNorm1d(3)), torch.randn(8, 3))
    assert dict(without.named_buffers()) == {}
    assert not without.training


def test_modes_are_restored_when_the_forward_fails() -> None:
    module = nn.Sequential(nn.BatchNorm1d(3, momentum=0.2), nn.Linear(4, 1))
    with pytest.raises(RuntimeError):
        calibrate(module, torch.randn(8, 3))
    assert not any(part.training for part in module.modules())
    assert module[0].momentum == 0.2


@pytest.mark.parametrize("examples", [0, 1])
def test_one_example_has_no_variance(examples: int) -> None:
    with pytest.raises(ValueError, match=f"at least 2 examples, not {examples}"):
        calibrate(nn.BatchNorm1d(3), torch.ones(examples, 3))


def test_deep_residual_network_stays_finite_in_float16() -> None:
    torch.manual_seed(0)
    module = find("torchvision/resnet152", 64).build()
    inputs = torch.randn(8, 3, 64, 64)
    assert largest_activation(module, inputs[:2]) > FLOAT16_MAX  # what calibration is for
    calibrate(module, inputs)
    unseen = torch.randn(4, 3, 64, 64)
    assert largest_activation(module, inputs) < FLOAT16_MAX / 10
    assert largest_activation(module, unseen) < FLOAT16_MAX / 10
