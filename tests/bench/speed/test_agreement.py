from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from bench.speed.agreement import COLUMNS, Reference, disagreement
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


def test_a_compiled_network_may_round_elsewhere() -> None:
    logits = torch.randn(4, 10, generator=torch.Generator().manual_seed(0))
    off = logits[:, :1] + 0.002
    assert disagreement(off, logits, SETTING) is not None
    assert disagreement(off, logits, SETTING.model_copy(update={"compile": "default"})) is None


WEIGHT = torch.randn(8, 2 * COLUMNS, generator=torch.Generator().manual_seed(1))
MINIBATCH = torch.randn(3, 8, generator=torch.Generator().manual_seed(2))


def network(classes: int) -> Callable[[Tensor], Tensor]:
    return lambda minibatch: minibatch @ WEIGHT[:, :classes]


class Whole:
    """A forward as it should be."""

    def __init__(self, classes: int) -> None:
        self._classes = classes

    def load(self, minibatch: Tensor) -> None:
        self._minibatch = minibatch

    def __call__(self) -> Tensor:
        return network(self._classes)(self._minibatch)


class Captured(Whole):
    """A graph that reads the buffer it was captured with, and not the one that is filled."""

    def load(self, minibatch: Tensor) -> None:
        super().load(MINIBATCH)


class Empty(Whole):
    """A graph in which nothing was captured: its output is what memory held."""

    def __call__(self) -> Tensor:
        return torch.ones(3, self._classes)


class Stale(Whole):
    """Gives the logits of the minibatch before."""

    def load(self, minibatch: Tensor) -> None:
        super().load(getattr(self, "_next", minibatch))
        self._next = minibatch


@pytest.fixture
def reference() -> Reference:
    return Reference(network(1), network(COLUMNS), MINIBATCH)


@pytest.mark.parametrize("classes", [1, 10, 2 * COLUMNS])
def test_the_eager_single_logit_is_that_of_every_count(reference: Reference, classes: int) -> None:
    assert reference.disagreement(Whole(classes), SETTING) is None


def test_the_negative_is_not_left_in_memory(reference: Reference) -> None:
    forward = Whole(10)
    reference.disagreement(forward, SETTING)
    assert forward._minibatch is MINIBATCH


@pytest.mark.parametrize("classes", [1, 10])
@pytest.mark.parametrize("forward", [Captured, Empty])
def test_a_graph_that_does_not_read_its_input_is_found(
    reference: Reference, forward: type[Whole], classes: int
) -> None:
    assert "does not read what it is given" in str(reference.disagreement(forward(classes), SETTING))


def test_logits_of_the_input_before_are_found(reference: Reference) -> None:
    forward = Stale(10)
    forward.load(MINIBATCH + 1)
    assert "differs from its column" in str(reference.disagreement(forward, SETTING))


def test_a_network_that_gives_the_same_for_all_inputs_is_not_to_blame() -> None:
    class Constant(Whole):
        def __call__(self) -> Tensor:
            return torch.ones(3, self._classes)

    constant: Callable[[Tensor], Tensor] = lambda minibatch: torch.ones(3, 1)  # noqa: E731
    assert Reference(constant, constant, MINIBATCH).disagreement(Constant(5), SETTING) is None


def test_a_single_logit_that_is_small_by_chance_is_judged_by_the_size_of_all() -> None:
    small: Callable[[Tensor], Tensor] = lambda minibatch: 1e-6 * network(1)(minibatch)  # noqa: E731
    reference = Reference(small, network(COLUMNS), MINIBATCH)

    class Rounded(Whole):
        def __call__(self) -> Tensor:
            return 1.1 * small(self._minibatch)

    assert reference.disagreement(Rounded(1), SETTING) is None
