"""The network of a training, freshly initialised: a small one of archs.small, or any that archs.registry knows.

Its top layer is a full one, or a rival (archs.rivals), whose outputs are log-probabilities in place of logits.
"""

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from archs import registry, rivals, small
from archs.linear_rows import MakeTop, linear_of_rows
from archs.rivals import TopLayerKind
from archs.top_layer import UnsupportedNetwork, locate
from bench.accuracy.losses import prior_bias as bias_of_prior
from bench.errors import UsageError

#: The small networks, which take the shape of any data that fit them.
SMALL: Mapping[str, Callable[[Sequence[int], int, MakeTop], nn.Sequential]] = {
    "mlp": small.mlp,
    "cnn": small.six_layer_cnn,
    "linear": small.linear,
}

#: Classes of a network that is built to be looked at, whatever the number of its classes will be.
_FEW_CLASSES = 2

#: Names of the one network with an auxiliary head.
_WITH_AUXILIARY_HEAD = ("inception_v3", "torchvision/inception_v3")

#: Pixels below which Inception-v3's auxiliary head has nothing to convolve.
_SMALLEST_WITH_AUXILIARY_HEAD = 299


def build(
    name: str,
    input_shape: Sequence[int],
    classes: int,
    *,
    seed: int,
    prior_bias: bool = False,
    auxiliary: bool = False,
    top_layer: TopLayerKind = "full",
    frequencies: Sequence[float] | torch.Tensor | None = None,
    rows: slice | None = None,
) -> nn.Module:
    """The network of that name with `classes` logits, in training mode, on the CPU.

    `name` is mlp, cnn, linear, or one of archs.registry's, whose top layer is then a new linear layer. The same seed
    gives the same weights, and torch's global generator is left as it was. With `prior_bias` the top layer's bias
    starts at -log(classes - 1) (bench.accuracy.losses.prior_bias). With `auxiliary` Inception-v3 keeps its auxiliary
    head, with a layer of `classes` of its own, and returns (logits, auxiliary logits) in training mode. With a rival as
    `top_layer` it returns log-probabilities; `frequencies` of the classes, (classes,), decide that layer's shape, and
    everything below it starts as below a full layer. With `rows` the top layer has these alone, of `classes` that are
    never held together.

    Raises UsageError for an unknown name, fewer than 2 classes, a network that does not fit the data, and a rival
    together with a prior bias or an auxiliary head; ValueError for rows of either.
    """
    if classes < 2:
        raise UsageError(f"{classes} class leaves nothing to tell apart; give data of 2 classes or more")
    if top_layer != "full" and (prior_bias or auxiliary):
        what = "a prior bias, and a rival has no bias" if prior_bias else "an auxiliary head, which is a full layer"
        raise UsageError(f"{top_layer} cannot be trained with {what}; leave one of them out")
    if rows is not None and (top_layer != "full" or auxiliary):
        raise ValueError("only a full top layer, without an auxiliary head beside it, has rows of one class each")
    make_top: MakeTop = nn.Linear if rows is None else partial(linear_of_rows, rows=rows)
    with torch.random.fork_rng(devices=[]), _refusing(name):
        torch.manual_seed(seed)
        network, tops = _initialised(name, tuple(input_shape), classes, auxiliary=auxiliary, make_top=make_top)
        if top_layer != "full":
            network = _with_rival(network, tops[0], top_layer, frequencies)
    if prior_bias:
        for top in tops:
            _start_at_prior(name, top, classes)
    return network.train()


@dataclass(frozen=True)
class Outline:
    """What of a network with a full top layer does not depend on the number of its classes.

    path: of the top layer, empty if the network is that layer. features: d, which it takes. bias: whether it has one.
    backbone_parameters: all others. normalises: whether it has batch norm.
    """

    path: str
    features: int
    bias: bool
    backbone_parameters: int
    normalises: bool


def outline(name: str, input_shape: Sequence[int], *, auxiliary: bool = False) -> Outline:
    """The outline of the network of that name, found without memory for its classes. Raises UsageError as `build`."""
    with torch.random.fork_rng(devices=[]), _refusing(name):
        network, tops = _initialised(name, tuple(input_shape), _FEW_CLASSES, auxiliary=auxiliary)
    top = tops[0]
    own = {id(parameter) for parameter in top.parameters()}
    return Outline(
        path=next(path for path, part in network.named_modules() if part is top),
        features=top.in_features,
        bias=top.bias is not None,
        backbone_parameters=sum(each.numel() for each in network.parameters() if id(each) not in own),
        normalises=any(isinstance(part, _BatchNorm) for part in network.modules()),
    )


@contextmanager
def _refusing(name: str) -> Iterator[None]:
    """What a network or its builder refuses, as a UsageError."""
    try:
        yield
    except UsageError:
        raise
    except (registry.UnknownNetwork, UnsupportedNetwork, ValueError) as error:
        raise UsageError(f"the network {name!r} cannot be used with these data: {error}") from None


def _initialised(
    name: str, shape: tuple[int, ...], classes: int, *, auxiliary: bool, make_top: MakeTop = nn.Linear
) -> tuple[nn.Module, list[nn.Linear]]:
    """The network, and the linear layers that make its logits."""
    if auxiliary:
        return _with_auxiliary_head(name, shape, classes)
    if name in SMALL:
        made = SMALL[name](shape, classes, make_top)
        top = made[-1]
        assert isinstance(top, nn.Linear)
        return made, [top]
    return _from_registry(name, shape, classes, make_top)


def _from_registry(
    name: str, shape: tuple[int, ...], classes: int, make_top: MakeTop
) -> tuple[nn.Module, list[nn.Linear]]:
    known = registry.find(name, shape[-1] if len(shape) == 3 else None)
    if known.input_shape != shape:
        raise ValueError(
            f"it takes examples of shape {known.input_shape}, and theirs is {shape}; use mlp or cnn, or linear"
        )
    network = known.build()
    place = locate(network, shape)
    if not place.plain:
        raise ValueError("its top layer is not one linear layer on each example; use another network")
    top = make_top(place.features, classes, bias=place.bias)
    if not place.path:
        return top, [top]
    network.set_submodule(place.path, top)
    return network, [top]


def _with_auxiliary_head(name: str, shape: tuple[int, ...], classes: int) -> tuple[nn.Module, list[nn.Linear]]:
    """Initialised by torchvision's default, a truncated normal, as TensorFlow's Inception-v3 is."""
    import torchvision

    if name not in _WITH_AUXILIARY_HEAD:
        raise UsageError(f"{name} has no auxiliary head; use inception_v3, or an auxiliary weight of 0")
    if len(shape) != 3 or shape[0] != 3 or min(shape[1:]) < _SMALLEST_WITH_AUXILIARY_HEAD:
        least = _SMALLEST_WITH_AUXILIARY_HEAD
        raise ValueError(f"its auxiliary head takes 3 channels of {least} pixels or more, and their shape is {shape}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # about an initialisation that was slow with an older scipy
        network = torchvision.models.inception_v3(weights=None, num_classes=classes, aux_logits=True, init_weights=True)
    return network, [network.fc, network.AuxLogits.fc]


def _with_rival(
    network: nn.Module,
    top: nn.Linear,
    kind: TopLayerKind,
    frequencies: Sequence[float] | torch.Tensor | None,
) -> nn.Module:
    rival = rivals.make(kind, top.in_features, top.out_features, frequencies=frequencies)
    rival.reset_parameters()
    if network is top:
        return rival
    network.set_submodule(next(path for path, part in network.named_modules() if part is top), rival)
    return network


def _start_at_prior(name: str, top: nn.Linear, classes: int) -> None:
    if top.bias is None:
        raise UsageError(f"the top layer of {name!r} has no bias to start at the prior; leave the prior bias out")
    nn.init.constant_(top.bias, bias_of_prior(classes))
