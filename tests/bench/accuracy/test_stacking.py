import copy
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from archs.small import mlp
from bench.accuracy import losses
from bench.accuracy.stacking import MemberLosses, MemberParameters, Stack, stack, stackable, state_dicts

SHAPE, CLASSES, BATCH = (1, 3, 3), 4, 6


def networks(count: int = 3) -> list[nn.Sequential]:
    made = []
    for seed in range(count):
        torch.manual_seed(seed)
        made.append(mlp(SHAPE, CLASSES, hidden=(7, 5)).double())
    return made


def minibatches(count: int = 3, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(count, BATCH, *SHAPE, generator=generator, dtype=torch.float64)
    return images, torch.randint(CLASSES, (count, BATCH), generator=generator)


def ce(logits: Tensor, labels: Tensor) -> Tensor:
    return losses.cross_entropy(logits, labels)


def bce(logits: Tensor, labels: Tensor) -> Tensor:
    return losses.binary_cross_entropy(logits, labels)


def test_a_stack_comes_apart_exactly_as_it_was_made() -> None:
    plain = networks()
    for network, apart in zip(plain, state_dicts(stack(plain)), strict=True):
        assert apart.keys() == network.state_dict().keys()
        for name, tensor in network.state_dict().items():
            assert torch.equal(apart[name], tensor)
            assert apart[name].dtype == tensor.dtype


@pytest.mark.parametrize("training", [True, False])
def test_each_member_computes_what_it_would_alone(training: bool) -> None:
    plain = [network.train(training) for network in networks()]
    stacked = stack(plain).train(training)
    images, _ = minibatches()
    together = stacked(images)
    assert together.shape == (3, BATCH, CLASSES)
    for member, network in enumerate(plain):
        torch.testing.assert_close(together[member], network(images[member]), rtol=1e-12, atol=1e-12)
        for name, tensor in network.state_dict().items():
            torch.testing.assert_close(state_dicts(stacked)[member][name], tensor, rtol=1e-12, atol=1e-12)


def test_each_member_gets_the_gradients_it_would_get_alone() -> None:
    plain = networks()
    stacked = stack(plain)
    own = MemberParameters(stacked)
    images, labels = minibatches()
    MemberLosses([ce, bce, ce])(stacked(images), labels).sum().backward()
    own.take_gradients()
    assert all(parameter.grad is None for parameter in stacked.parameters())
    for network, loss, parameters, member in zip(plain, (ce, bce, ce), own, range(3), strict=True):
        loss(network(images[member]), labels[member]).backward()
        for alone, together in zip(network.parameters(), parameters, strict=True):
            torch.testing.assert_close(together.grad, alone.grad, rtol=1e-10, atol=1e-12)


def test_what_an_optimiser_does_to_a_members_parameters_is_done_to_the_stack() -> None:
    stacked = stack(networks())
    before = copy.deepcopy(state_dicts(stacked))
    own = list(MemberParameters(stacked))
    with torch.no_grad():
        for parameter in own[1]:
            parameter.add_(1)
    for member, (was, now) in enumerate(zip(before, state_dicts(stacked), strict=True)):
        for name, _ in stacked.named_parameters():
            torch.testing.assert_close(now[name], was[name] + (member == 1))


def descended(stacked: Stack, spoil: bool) -> list[dict[str, Tensor]]:
    """The stack after five steps of which the second, for the first member alone, has no finite loss."""
    own = MemberParameters(stacked)
    optimiser = torch.optim.SGD([parameter for one in own for parameter in one], lr=0.1, momentum=0.9, fused=True)
    of_members = MemberLosses([ce, ce, bce])
    for step in range(5):
        images, labels = minibatches(seed=step)
        if spoil and step == 1:
            images[0] = float("inf")
        of_members(stacked(images), labels).sum().backward()
        own.take_gradients()
        optimiser.step()
        optimiser.zero_grad()
    return state_dicts(stacked)


def test_a_member_that_diverges_leaves_its_neighbours_bit_by_bit_as_they_would_be() -> None:
    sound, spoilt = (descended(stack(networks()), spoil=spoil) for spoil in (False, True))
    assert spoilt[0]["1.weight"].isnan().any()
    for member in (1, 2):
        for name, tensor in sound[member].items():
            assert torch.equal(spoilt[member][name], tensor)


@given(st.lists(st.sampled_from([ce, bce, losses.batch_max_margin]), min_size=1, max_size=6))
def test_losses_come_back_in_the_order_of_their_members(chosen: list[Callable[[Tensor, Tensor], Tensor]]) -> None:
    generator = torch.Generator().manual_seed(len(chosen))
    logits = torch.randn(len(chosen), BATCH, CLASSES, generator=generator, dtype=torch.float64)
    labels = torch.randint(CLASSES, (len(chosen), BATCH), generator=generator)
    together = MemberLosses(chosen)(logits, labels)
    alone = torch.stack([loss(z, y) for loss, z, y in zip(chosen, logits, labels, strict=True)])
    torch.testing.assert_close(together, alone, rtol=1e-13, atol=1e-13)


def test_the_papers_eleven_losses_can_be_stacked() -> None:
    chosen = [losses.configured(key, classes=CLASSES) for key in losses.registry() for _ in range(2)]
    logits = torch.randn(len(chosen), BATCH, CLASSES, dtype=torch.float64)
    labels = torch.randint(CLASSES, (len(chosen), BATCH))
    shared = [chosen[2 * (number // 2)] for number in range(len(chosen))]
    alone = torch.stack([loss(z, y) for loss, z, y in zip(shared, logits, labels, strict=True)])
    torch.testing.assert_close(MemberLosses(shared)(logits, labels), alone, rtol=1e-12, atol=1e-12)


def test_other_networks_are_refused() -> None:
    with pytest.raises(ValueError, match="Conv2d"):
        stack([nn.Sequential(nn.Conv2d(1, 1, 1)) for _ in range(2)])
    with pytest.raises(ValueError, match="plain sequences"):
        stack([nn.Linear(2, 2), nn.Linear(2, 2)])
    with pytest.raises(ValueError, match="differ in name or shape"):
        stack([mlp(SHAPE, 2, hidden=(3,)), mlp(SHAPE, 2, hidden=(3, 3))])
    with pytest.raises(ValueError, match="ReLU, Tanh"):
        stack([nn.Sequential(nn.ReLU()), nn.Sequential(nn.Tanh())])


def test_which_recipes_can_be_stacked() -> None:
    assert stackable("mlp", "float32")
    assert stackable("mlp", "bfloat16")
    assert not stackable("mlp", "float16")
    assert not stackable("cnn", "float32")
