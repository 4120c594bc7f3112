"""Every classifier of torchvision and timm on the meta device, and one of each family for real.

docs/networks.md says what these tests print.
"""

import functools
import itertools
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import pytest
import timm
import torch
import torchvision
from torch import nn

from archs.batch_norm import calibrate
from archs.class_bank import ClassBank
from archs.heads import TopLayer, UnsupportedNetwork
from archs.registry import find, listing
from archs.swapping import at_class_count
from archs.top_layer import inspect, locate

#: What a small network has in its name, smallest first.
SMALL = (
    *("test", "atto", "femto", "pico", "nano", "xxtiny", "xx_small", "lite_tiny", "tiny", "xxs", "xs", "mini"),
    *("18_small", "18", "small", "14", "26", "b0", "_050", "_s$", "_s_", "_m$"),
)

#: Every reason there is to refuse one of these networks: kind -> pattern.
KNOWN_REASONS = {"encoder": r"it may be an encoder, which returns features of every token or pixel$"}

#: sequencer's LSTMs are run step by step on the meta device.
SMALLER_INPUT = {"sequencer": 32}

#: The form of a top layer that is not one linear layer for the whole example: family -> form. Of timm 1.0.31 and
#: torchvision 0.29; families that another version lacks are left out.
OTHER_FORMS = {
    "timm/crossvit": "2 linear layers",
    "timm/efficientformer": "2 linear layers",
    "timm/efficientformer_v2": "2 linear layers",
    "timm/efficientvim": "4 linear layers",
    "timm/levit": "2 linear layers",
    "timm/repvit": "2 linear layers",
    "timm/swiftformer": "2 linear layers",
    "timm/volo": "2 linear layers, at 197 positions",
    "timm/dla": "convolution",
    "timm/dpn": "convolution",
    "timm/resnetv2": "convolution",
    "torchvision/squeezenet": "convolution, at 169 positions",
}

#: More parameters than this are too many for a test that runs them on a CPU.
LARGEST_FOR_REAL = 200_000_000


@dataclass(frozen=True)
class Survey:
    """What inspecting networks found: name -> form of the top layer, name -> reason for a refusal."""

    supported: dict[str, str]
    refused: dict[str, str]

    def __str__(self) -> str:
        """One line each: how many, in which forms, and why not."""
        total = len(self.supported) + len(self.refused)
        lines = [f"{len(self.supported)} of {total} are supported"]
        lines += [f"  {count:5} {form}" for form, count in Counter(self.supported.values()).most_common()]
        lines += [f"  refused: {reason}" for reason in self.refused.values()]
        return "\n".join(lines)


def survey(names: Iterable[str]) -> Survey:
    supported, refused = {}, {}
    for name in names:
        network = find(name, next((size for part, size in SMALLER_INPUT.items() if part in name), None))
        try:
            facts = inspect(network)
        except UnsupportedNetwork as error:
            refused[name] = str(error)
        else:
            assert facts.top.features >= 1
            assert facts.backbone_parameters > 0
            with torch.device("meta"):
                supported[name] = form(network.build() if not facts.top.plain else nn.Identity(), facts.top)
    return Survey(supported, refused)


def form(module: nn.Module, top: TopLayer) -> str:
    """What kind of top layer it is, in a few words."""
    if top.plain:
        return "1 linear layer"
    kinds = {isinstance(module.get_submodule(head.path), nn.Linear) for head in top.heads}
    kind = "linear layers" if kinds == {True} else "convolutions"
    many = f"{len(top.heads)} {kind}" if len(top.heads) > 1 else kind.removesuffix("s")
    return many + (f", at {top.outputs} positions" if top.outputs > len(top.heads) else "")


def smallest(names: Iterable[str]) -> str:
    """By its name: whichever looks smallest."""

    def size(name: str) -> tuple[int, int, str]:
        hint = next((place for place, pattern in enumerate(SMALL) if re.search(pattern, name)), len(SMALL))
        return hint, len(name), name

    return min(names, key=size)


@functools.cache
def families() -> dict[str, str]:
    """Library and family -> its network that looks smallest. A family is a module of the library."""
    found = {f"timm/{family}": f"timm/{smallest(timm.list_models(module=family))}" for family in timm.list_modules()}
    by_module: dict[str, list[str]] = {}
    for name in torchvision.models.list_models(module=torchvision.models):
        module = torchvision.models.get_model_builder(name).__module__.rpartition(".")[2]
        by_module.setdefault(module, []).append(name)
    return found | {f"torchvision/{family}": f"torchvision/{smallest(names)}" for family, names in by_module.items()}


def check_reasons(refused: dict[str, str]) -> None:
    unknown = [reason for reason in refused.values() if not any(re.search(p, reason) for p in KNOWN_REASONS.values())]
    assert not unknown


def test_one_network_of_each_family() -> None:
    found = survey(families().values())
    print(found)
    check_reasons(found.refused)
    forms = {family: found.supported[name] for family, name in families().items() if name in found.supported}
    others = {family: form for family, form in forms.items() if form != "1 linear layer"}
    assert others == {family: form for family, form in OTHER_FORMS.items() if family in forms}


@pytest.mark.slow
@pytest.mark.parametrize("library", ["torchvision", "timm"])
def test_every_network(library: str) -> None:
    names = listing()[library]
    found = survey(names)
    print(found)
    check_reasons(found.refused)
    assert len(found.supported) + len(found.refused) == len(names)
    assert len(found.supported) >= 0.95 * len(names)


@pytest.mark.slow
@pytest.mark.parametrize("family", families())
def test_one_of_each_family_for_real(family: str) -> None:
    network = find(families()[family])
    with torch.device("meta"):
        parameters = inspect(network).backbone_parameters
    if parameters > LARGEST_FOR_REAL:
        pytest.skip(f"{network.name}, the smallest of its family, has {parameters:,} parameters: too large for a test")
    torch.manual_seed(0)
    module = network.build()
    inputs = torch.randn(2, *network.input_shape)
    calibrate(module, inputs)
    top = locate(module, network.input_shape)
    bank = ClassBank(top.features, 1000, bias=top.bias)
    with torch.inference_mode():
        all_logits = at_class_count(module, top, bank.layer(1000))(inputs)
        assert all_logits.shape == (2, 1000)
        assert all_logits.isfinite().all()
        assert not torch.allclose(all_logits[0], all_logits[1])
        size = all_logits.square().mean().sqrt()
        for column, layer in itertools.chain([(0, bank.layer(1))], rows(bank, [1, 998])):
            single = at_class_count(module, top, layer)(inputs)
            assert single.shape == (2, 1)
            assert (single - all_logits[:, column : column + 1]).abs().max() <= 1e-4 * size


def rows(bank: ClassBank, columns: Sequence[int]) -> list[tuple[int, nn.Linear]]:
    """Each of these classes, with a linear layer of its row alone."""
    layers = []
    for column in columns:
        layer = nn.Linear(bank.features, 1, bias=bank.bias is not None).requires_grad_(False)
        layer.weight.copy_(bank.weight[column : column + 1])
        if bank.bias is not None:
            layer.bias.copy_(bank.bias[column : column + 1])
        layers.append((column, layer))
    return layers
