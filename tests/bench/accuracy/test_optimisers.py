from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bench.accuracy import optimisers
from bench.accuracy.settings import Recipe
from bench.errors import UsageError

OPTIMISERS = ("sgd", "adam", "adamw", "rmsprop")


def recipe(**fields: Any) -> Recipe:
    return Recipe(**{"network": "mlp", "steps": 100, **fields})


def parameter(values: list[float]) -> nn.Parameter:
    return nn.Parameter(torch.tensor(values))


def descend(optimiser: torch.optim.Optimizer, parameters: list[nn.Parameter], gradients: list[Tensor]) -> None:
    for gradient in gradients:
        for one in parameters:
            one.grad = gradient.clone()
        optimiser.step()


def test_factors_worked_by_hand() -> None:
    assert optimisers.rate_factor(recipe(), 99) == 1
    cosine = recipe(schedule="cosine")
    assert optimisers.rate_factor(cosine, 0) == 1
    assert optimisers.rate_factor(cosine, 50) == pytest.approx(0.5)
    assert optimisers.rate_factor(cosine, 100) == pytest.approx(0)
    stairs = recipe(schedule="exponential", decay_steps=10, decay_rate=0.5)
    assert [optimisers.rate_factor(stairs, step) for step in (0, 9, 10, 25)] == [1, 1, 0.5, 0.25]


def test_an_exponential_schedule_needs_its_numbers() -> None:
    with pytest.raises(UsageError, match="decay steps and a decay rate"):
        optimisers.rate_factor(recipe(schedule="exponential"), 0)


def test_sgd_worked_by_hand() -> None:
    """Momentum 0.5, gradients 1 and 2: the buffer is 1, then 2.5; the rate 0.1."""
    weight = parameter([1.0])
    optimiser = optimisers.make(recipe(momentum=0.5), [[weight]], [0.1])
    descend(optimiser, [weight], [torch.tensor([1.0]), torch.tensor([2.0])])
    torch.testing.assert_close(weight.detach(), torch.tensor([1 - 0.1 - 0.25]))


def test_rmsprop_is_tensorflows() -> None:
    """Epsilon inside the root, the mean square starts at one, the rate goes into the momentum."""
    weight = parameter([1.0, -2.0])
    gradients = [torch.tensor([1.0, 3.0]), torch.tensor([-0.5, 2.0])]
    made = optimisers.make(recipe(optimiser="rmsprop", momentum=0.9, square_decay=0.8, epsilon=1.0), [[weight]], [0.1])
    expected, square, buffer = weight.detach().double(), torch.ones(2).double(), torch.zeros(2).double()
    for gradient in gradients:
        square = 0.8 * square + 0.2 * gradient.double() ** 2
        buffer = 0.9 * buffer + 0.1 * gradient.double() / (square + 1.0).sqrt()
        expected = expected - buffer
    descend(made, [weight], gradients)
    torch.testing.assert_close(weight.detach().double(), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", OPTIMISERS)
def test_each_member_steps_at_its_own_rate_as_if_it_were_alone(name: str) -> None:
    gradients = [torch.tensor([0.5, -1.0]), torch.tensor([0.25, 2.0])]
    rates = [0.1, 0.01, 0.1]
    together = [parameter([1.0, 2.0]) for _ in rates]
    descend(optimisers.make(recipe(optimiser=name), [[one] for one in together], rates), together, gradients)
    for rate, one in zip(rates, together, strict=True):
        alone = parameter([1.0, 2.0])
        descend(optimisers.make(recipe(optimiser=name), [[alone]], [rate]), [alone], gradients)
        assert torch.equal(one, alone)
    assert not torch.equal(together[0], together[1])


@pytest.mark.parametrize("name", OPTIMISERS)
def test_weights_decay_and_biases_do_not(name: str) -> None:
    weight, bias = nn.Parameter(torch.ones(1, 1)), nn.Parameter(torch.ones(1))
    optimiser = optimisers.make(recipe(optimiser=name, weight_decay=0.1), [[weight, bias]], [0.1])
    weight.grad, bias.grad = torch.zeros(1, 1), torch.zeros(1)
    optimiser.step()
    assert weight.item() < 1
    assert bias.item() == 1


@pytest.mark.parametrize("name", OPTIMISERS)
def test_a_restored_optimiser_goes_on_bit_by_bit(name: str) -> None:
    generator = torch.Generator().manual_seed(0)
    gradients = [torch.randn(33, generator=generator) for _ in range(8)]
    through, halves = nn.Parameter(torch.ones(33)), nn.Parameter(torch.ones(33))
    descend(optimisers.make(recipe(optimiser=name), [[through]], [0.1]), [through], gradients)
    first = optimisers.make(recipe(optimiser=name), [[halves]], [0.1])
    descend(first, [halves], gradients[:3])
    resumed = nn.Parameter(halves.detach().clone())
    second = optimisers.make(recipe(optimiser=name), [[resumed]], [0.1])
    optimisers.restore(second, first.state_dict())
    descend(second, [resumed], gradients[3:])
    assert torch.equal(through, resumed)


def test_rates_follow_the_factor() -> None:
    weights = [parameter([1.0]), parameter([1.0])]
    optimiser = optimisers.make(recipe(), [[one] for one in weights], [0.1, 0.2])
    optimisers.set_rates(optimiser, 0.5)
    optimisers.set_rates(optimiser, 0.25)
    assert [group["lr"] for group in optimiser.param_groups] == [0.025, 0.05]
