"""Small layers, and the dense form of every loss on them: autograd through bench.accuracy.losses on all logits."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from bench.accuracy.losses import Configured, configured

#: Relative, of float64.
EXACT = 1e-12


@dataclass(frozen=True)
class Layer:
    """features (m, d), weight (k, d), bias (k,) or none, labels (m,)."""

    features: Tensor
    weight: Tensor
    bias: Tensor | None
    labels: Tensor

    def on(self, device: str) -> "Layer":
        bias = None if self.bias is None else self.bias.to(device)
        return Layer(self.features.to(device), self.weight.to(device), bias, self.labels.to(device))

    def shard(self, first: int, last: int) -> "Layer":
        bias = None if self.bias is None else self.bias[first:last]
        return Layer(self.features, self.weight[first:last], bias, self.labels)

    def __iter__(self) -> Any:
        return iter((self.features, self.weight, self.bias, self.labels))


@dataclass(frozen=True)
class Dense:
    """The loss and its gradients by autograd on all m x k logits."""

    loss: Tensor
    features: Tensor
    weight: Tensor
    bias: Tensor | None


def layer_of(
    m: int = 6,
    k: int = 37,
    d: int = 5,
    *,
    seed: int = 0,
    bias: bool = True,
    spread: float = 1.0,
    dtype: torch.dtype = torch.float64,
) -> Layer:
    source = torch.Generator().manual_seed(seed)
    features, weight = (torch.randn(n, d, generator=source, dtype=torch.float64) for n in (m, k))
    offsets = torch.randn(k, generator=source, dtype=torch.float64)
    labels = torch.randint(k, (m,), generator=source)
    made = (spread * features, weight, offsets)
    features, weight, offsets = (values.to(dtype) for values in made)
    return Layer(features, weight, offsets if bias else None, labels)


def dense_form(layer: Layer, loss: Configured | Callable[[Tensor, Tensor], Tensor]) -> Dense:
    features, weight = (values.detach().clone().requires_grad_() for values in (layer.features, layer.weight))
    logits = features @ weight.t()
    leaves = [features, weight]
    if layer.bias is not None:
        leaves.append(layer.bias.detach().clone().requires_grad_())
        logits = logits + leaves[2]
    value = loss(logits, layer.labels)
    gradients = torch.autograd.grad(value, leaves)
    return Dense(value.detach(), gradients[0], gradients[1], gradients[2] if layer.bias is not None else None)


def assert_same(found: Tensor | None, expected: Tensor | None, exact: float = EXACT) -> None:
    """Within `exact` of the largest entry: sums over classes and examples have an error relative to their terms."""
    assert (found is None) == (expected is None)
    if found is not None and expected is not None:
        assert found.dtype == expected.dtype
        scale = float(expected.abs().max()) if expected.numel() else 0.0
        torch.testing.assert_close(found, expected, rtol=exact, atol=exact * max(scale, 1e-300))


def loss_of(key: str, classes: int, **more: Any) -> Configured:
    """As a run configures it; NCE exact, whatever the number of classes."""
    return configured(key, classes=classes, **({"estimate": "exact"} if key == "nce" else {}) | more)


class MemoryMade(TorchDispatchMode):
    """Bytes of every tensor that operations make inside; views, and what is written into a tensor given, take none."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: list[int] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = {_place(tensor) for tensor in tree_leaves((args, kwargs)) if _strided(tensor)}
        made = func(*args, **(kwargs or {}))
        self.sizes += [
            tensor.untyped_storage().nbytes()
            for tensor in tree_leaves(made)
            if _strided(tensor) and _place(tensor) not in given
        ]
        return made


def _strided(value: object) -> bool:
    """A sparse tensor is made of strided ones, which were seen before."""
    return isinstance(value, Tensor) and value.layout is torch.strided


def _place(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


@pytest.fixture
def memory_made() -> MemoryMade:
    return MemoryMade()


@pytest.fixture(scope="session")
def make_layer() -> Callable[..., Layer]:
    return layer_of


@pytest.fixture(scope="session")
def make_loss() -> Callable[..., Configured]:
    return loss_of


@pytest.fixture(scope="session")
def dense() -> Callable[..., Dense]:
    return dense_form


@pytest.fixture(scope="session")
def same() -> Callable[..., None]:
    return assert_same
