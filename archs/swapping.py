"""A network with another top layer: all else stays the network's own."""

import copy
from collections.abc import Sequence

import torch
from torch import nn

from archs.heads import TopLayer


def at_class_count(module: nn.Module, top: TopLayer, layer: nn.Linear) -> nn.Module:
    """The network with that layer on top; every other submodule, parameter and buffer is the module's own.

    A plain top layer is replaced by the layer itself. A convolution is replaced by one whose weight is a view of the
    layer's, (k, d) as (k, channels, *kernel). Several heads each get their columns of the layer's weight, as views
    whose rows are as far apart as the layer's, and all of them the layer's bias.

    Only the modules on the way to the top layer are copied, and those shallowly, so that networks with several class
    counts exist side by side at no cost. The module itself is not changed. Where the layer learns and the top layer is
    not plain, gradients reach the views, not the layer.

    Raises ValueError if the layer takes another number of features.
    """
    if layer.in_features != top.features:
        raise ValueError(f"the top layer takes {top.features} features, not {layer.in_features}")
    if top.plain:
        return _replaced(module, {top.path: layer})
    return with_heads(module, top, _columns(layer, [head.features for head in top.heads]))


def without_top(module: nn.Module, path: str) -> nn.Module:
    """The network without its plain top layer: (m, ...) -> features (m, d), what that layer takes.

    path: the layer's, as in `TopLayer.path`. As `at_class_count`: all other submodules are the module's own, and the
    module is not changed. A mode (`train`, `eval`) is to be set on both.
    """
    return _replaced(module, {path: nn.Identity()})


def with_heads(module: nn.Module, top: TopLayer, layers: Sequence[nn.Linear]) -> nn.Module:
    """The network with one linear layer's weight and bias in each of its heads, in the order of `top.heads`.

    As `at_class_count`, for heads whose rows lie apart or whose biases differ. Raises ValueError if there are more or
    fewer layers than heads, and for one that takes another number of features.
    """
    if len(layers) != len(top.heads):
        raise ValueError(f"the top layer has {len(top.heads)} heads, not {len(layers)}")
    for head, layer in zip(top.heads, layers, strict=True):
        if layer.in_features != head.features:
            raise ValueError(f"the head {head.path!r} takes {head.features} features, not {layer.in_features}")
    placed = {
        head.path: _in_the_form_of(module.get_submodule(head.path), layer)
        for head, layer in zip(top.heads, layers, strict=True)
    }
    return _replaced(module, placed)


def _columns(layer: nn.Linear, widths: Sequence[int]) -> list[nn.Linear]:
    """The layer cut into several that lie side by side: views of its columns, the bias in each of them."""
    if len(widths) == 1:
        return [layer]
    cut = []
    for weight in torch.split(layer.weight, list(widths), dim=1):
        part = nn.Linear(weight.shape[1], weight.shape[0], bias=layer.bias is not None, device="meta")
        part.weight = nn.Parameter(weight.detach(), requires_grad=layer.weight.requires_grad)
        part.bias = layer.bias
        cut.append(part.train(layer.training))
    return cut


def _in_the_form_of(own: nn.Module, layer: nn.Linear) -> nn.Module:
    """A layer of the network's own kind with that weight, (k, d) seen as (k, *shape of its own rows), and that bias."""
    weight = own.weight
    assert isinstance(weight, torch.Tensor)
    twin = _shallow(own)
    twin._parameters = dict(own._parameters)
    rows = layer.weight.detach().view(layer.out_features, *weight.shape[1:])
    twin._parameters["weight"] = nn.Parameter(rows, requires_grad=layer.weight.requires_grad)
    if own.bias is not None:
        twin._parameters["bias"] = layer.bias
    setattr(twin, "out_features" if isinstance(own, nn.Linear) else "out_channels", layer.out_features)
    return twin.train(layer.training)


def _replaced(module: nn.Module, layers: dict[str, nn.Module]) -> nn.Module:
    """The module with others in the place of some submodules; those on the way there are copied once each."""
    if "" in layers:
        return layers[""]
    copies = {"": _shallow(module)}
    for path, layer in layers.items():
        *way, last = path.split(".")
        prefix = ""
        for name in way:
            parent, prefix = copies[prefix], f"{prefix}.{name}".removeprefix(".")
            if prefix not in copies:
                copies[prefix] = parent._modules[name] = _shallow(parent.get_submodule(name))
        copies[prefix]._modules[last] = layer
    return copies[""]


def _shallow(module: nn.Module) -> nn.Module:
    twin = copy.copy(module)
    twin._modules = dict(module._modules)
    return twin
