import math

import pytest
import torch
from torch import nn

from archs.top_layer import locate
from bench.accuracy import networks
from bench.errors import UsageError

SHAPE = (1, 8, 8)


def values(network: nn.Module) -> torch.Tensor:
    return torch.cat([tensor.reshape(-1).double() for tensor in network.state_dict().values()])


@pytest.mark.parametrize("name", ["mlp", "cnn", "linear"])
def test_a_seed_decides_the_weights_and_leaves_the_global_generator_alone(name: str) -> None:
    before = torch.get_rng_state()
    first, again, other = (networks.build(name, SHAPE, 4, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(values(first), values(again))
    assert not torch.equal(values(first), values(other))
    assert first.training


def test_a_registered_network_gets_a_fresh_top_layer() -> None:
    network = networks.build("torchvision/resnet18", (3, 32, 32), 7, seed=0)
    again = networks.build("torchvision/resnet18", (3, 32, 32), 7, seed=0)
    assert torch.equal(values(network), values(again))
    assert network.training
    assert network(torch.randn(2, 3, 32, 32)).shape == (2, 7)
    assert locate(network, (3, 32, 32)).path == "fc"


@pytest.mark.parametrize("name", ["mlp", "cnn", "linear", "torchvision/resnet18"])
@pytest.mark.parametrize("prior_bias", [False, True])
def test_rows_of_the_top_layer_are_those_of_the_whole(name: str, prior_bias: bool) -> None:
    rows = slice(3, 9)
    whole = networks.build(name, (3, 32, 32), 11, seed=5, prior_bias=prior_bias).state_dict()
    some = networks.build(name, (3, 32, 32), 11, seed=5, prior_bias=prior_bias, rows=rows).state_dict()
    top = {"torchvision/resnet18": "fc"}.get(name, list(whole)[-1].removesuffix(".bias"))
    for key, tensor in whole.items():
        assert torch.equal(some[key], tensor[rows] if key.startswith(f"{top}.") else tensor), key


def test_rows_are_those_of_a_full_layer_alone() -> None:
    for fields in ({"top_layer": "adaptive"}, {"auxiliary": True}):
        with pytest.raises(ValueError, match="only a full top layer"):
            networks.build("mlp", SHAPE, 10, seed=0, rows=slice(0, 5), **fields)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["mlp", "linear", "torchvision/resnet18"])
def test_the_prior_is_where_the_bias_starts(name: str) -> None:
    network = networks.build(name, (3, 32, 32), 11, seed=0, prior_bias=True)
    top = network.get_submodule(locate(network, (3, 32, 32)).path)
    assert isinstance(top, nn.Linear)
    torch.testing.assert_close(top.bias.detach(), torch.full((11,), -math.log(10)))


@pytest.mark.parametrize(
    ("name", "shape", "words"),
    [
        ("no-such-network", (3, 32, 32), "not a network"),
        ("torchvision/resnet18", (1, 28, 28), "takes examples of shape"),
        ("cnn", (1, 4, 4), "8 pixels"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(name: str, shape: tuple[int, ...], words: str) -> None:
    with pytest.raises(UsageError, match=words) as caught:
        networks.build(name, shape, 10, seed=0)
    assert "\n" not in str(caught.value)


def test_a_top_layer_that_is_a_convolution_is_refused() -> None:
    with pytest.raises(UsageError, match="not one linear layer on each example"):
        networks.build("torchvision/squeezenet1_1", (3, 64, 64), 7, seed=0)


def test_one_class_is_refused() -> None:
    with pytest.raises(UsageError, match="2 classes or more"):
        networks.build("mlp", SHAPE, 1, seed=0)


def test_the_auxiliary_head_has_its_own_layer_of_as_many_classes() -> None:
    network = networks.build("inception_v3", (3, 299, 299), 6, seed=0, auxiliary=True, prior_bias=True)
    logits, auxiliary = network(torch.randn(2, 3, 299, 299))
    assert logits.shape == auxiliary.shape == (2, 6)
    heads = [network.get_parameter(name) for name in ("fc.bias", "AuxLogits.fc.bias")]
    for head in heads:
        torch.testing.assert_close(head.detach(), torch.full((6,), -math.log(5)))
    assert network.eval()(torch.randn(2, 3, 299, 299)).shape == (2, 6)


def test_other_networks_have_no_auxiliary_head() -> None:
    with pytest.raises(UsageError, match="no auxiliary head"):
        networks.build("mlp", SHAPE, 4, seed=0, auxiliary=True)
    with pytest.raises(UsageError, match="299 pixels"):
        networks.build("inception_v3", (3, 32, 32), 4, seed=0, auxiliary=True)


@pytest.mark.parametrize(
    ("name", "shape", "path", "features", "normalises"),
    [
        ("mlp", (1, 8, 8), "7", 500, True),
        ("linear", (16,), "1", 16, False),
        ("cnn", (1, 8, 8), "25", 1024, True),
        ("torchvision/mobilenet_v3_small", (3, 224, 224), "classifier.3", 1024, True),
    ],
)
def test_the_outline_is_that_of_the_network(
    name: str, shape: tuple[int, ...], path: str, features: int, normalises: bool
) -> None:
    state = torch.get_rng_state()
    found = networks.outline(name, shape)
    assert torch.equal(torch.get_rng_state(), state)
    assert (found.path, found.features, found.bias, found.normalises) == (path, features, True, normalises)
    network = networks.build(name, shape, 11, seed=0)
    top = network.get_submodule(found.path)
    assert isinstance(top, nn.Linear)
    whole = sum(parameter.numel() for parameter in network.parameters())
    assert found.backbone_parameters == whole - 11 * (features + 1)


def test_an_outline_is_refused_as_its_network_is() -> None:
    with pytest.raises(UsageError, match="'resnet50' cannot be used with these data"):
        networks.outline("resnet50", (1, 8, 8))
