"""What tells a backbone from others: its digests, against changes of a single value."""

import hashlib
from collections.abc import Callable

import pytest
import torch
from torch import nn

from archs import backbone
from archs.top_layer import TopLayer, locate

SHAPE = (3, 6, 6)


def network(seed: int = 0, classes: int = 5) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        first = [nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten()]
        return nn.Sequential(*first, nn.Linear(64, classes)).eval()


@pytest.fixture
def top() -> TopLayer:
    return locate(network(), SHAPE)


def test_the_digest_is_that_of_the_tensors_written_out(top: TopLayer) -> None:
    """One tensor, by hand: its name, dtype and shape, then its bytes."""
    plain = nn.Sequential(nn.Flatten(), nn.Linear(2, 2, bias=False), nn.Linear(2, 3))
    with torch.no_grad():
        plain[1].weight.copy_(torch.tensor([[1.0, -2.0], [0.5, 0.0]]))
    floats = bytes.fromhex("0000803f000000c00000003f00000000")
    by_hand = hashlib.sha256(b"1.weight torch.float32 (2, 2)\n" + floats).hexdigest()
    assert backbone.values_sha256(plain, locate(plain, (2, 1, 1))) == by_hand


def test_the_top_layer_has_no_part_in_it(top: TopLayer) -> None:
    one, other = network(classes=5), network(classes=70)
    assert backbone.values_sha256(one, top) == backbone.values_sha256(other, locate(other, SHAPE))
    assert backbone.layout(one, top) == backbone.layout(other, locate(other, SHAPE))


@torch.no_grad()
def _in_the_last_bit(module: nn.Sequential) -> None:
    module[0].weight.view(-1)[-1] = module[0].weight.view(-1)[-1].nextafter(torch.tensor(9.0))


@torch.no_grad()
def _of_two_that_change_places(module: nn.Sequential) -> None:
    weight, bias = module[1].weight.clone(), module[1].bias.clone()
    module[1].weight.copy_(bias)
    module[1].bias.copy_(weight)


@pytest.mark.parametrize(
    "change",
    [
        _in_the_last_bit,
        _of_two_that_change_places,
        lambda module: module[1].running_mean.add_(1),
        lambda module: module.half(),
        lambda module: module.double(),
    ],
)
def test_other_values_have_another_digest(top: TopLayer, change: Callable[[nn.Sequential], object]) -> None:
    module = network()
    change(module)
    assert backbone.values_sha256(module, top) != backbone.values_sha256(network(), top)
    assert backbone.layout(module, top) == backbone.layout(network(), top)


@pytest.mark.parametrize(
    "change",
    [
        lambda module: module.to(memory_format=torch.channels_last),
        lambda module: module.train().requires_grad_(False),
        lambda module: module[1].num_batches_tracked.add_(3),
        lambda module: nn.init.zeros_(module[3].weight),
    ],
)
def test_what_an_inference_does_not_show_is_left_out(top: TopLayer, change: Callable[[nn.Sequential], object]) -> None:
    module = network()
    change(module)
    assert backbone.values_sha256(module, top) == backbone.values_sha256(network(), top)


@pytest.mark.gpu
def test_on_a_gpu_it_is_the_same(top: TopLayer) -> None:
    assert backbone.values_sha256(network().cuda(), top) == backbone.values_sha256(network(), top)


def test_only_parts_that_were_training_train_again() -> None:
    module = network().train()
    module[1].eval()
    parts = tuple(module.modules())
    with backbone.evaluating(parts):
        assert not any(part.training for part in parts)
    assert [part.training for part in parts] == [True, True, False, True, True]
