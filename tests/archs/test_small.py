import math

import pytest
import torch
from torch import nn

from archs.small import linear, mlp, six_layer_cnn


def kinds(network: nn.Module) -> list[str]:
    return [type(layer).__name__ for layer in network.children()]


def test_the_mlp_has_two_hidden_layers_of_500_units_and_nothing_on_its_logits() -> None:
    network = mlp((1, 28, 28), 10)
    hidden = ["Linear", "BatchNorm1d", "ReLU"]
    assert kinds(network) == ["Flatten", *hidden, *hidden, "Linear"]
    widths = [(layer.in_features, layer.out_features) for layer in network if isinstance(layer, nn.Linear)]
    assert widths == [(784, 500), (500, 500), (500, 10)]


def test_only_the_top_layer_has_a_bias_of_its_own() -> None:
    for network in (mlp((3, 4, 4), 5), six_layer_cnn((3, 8, 8), 5)):
        layers = [layer for layer in network if isinstance(layer, nn.Linear | nn.Conv2d)]
        assert [layer.bias is not None for layer in layers] == [False] * (len(layers) - 1) + [True]


@pytest.mark.parametrize("shape", [(7,), (1, 1, 1), (2, 3, 5)])
def test_the_mlp_takes_any_shape(shape: tuple[int, ...]) -> None:
    assert mlp(shape, 3, hidden=(4,))(torch.zeros(2, *shape)).shape == (2, 3)


def test_the_linear_network_is_one_layer_of_any_shape() -> None:
    network = linear((2, 3, 5), 7)
    assert kinds(network) == ["Flatten", "Linear"]
    example = torch.randn(4, 2, 3, 5)
    top = network[-1]
    assert isinstance(top, nn.Linear)
    torch.testing.assert_close(network(example), example.flatten(1) @ top.weight.t() + top.bias)


def test_the_cnn_is_the_papers() -> None:
    network = six_layer_cnn((3, 32, 32), 100)
    one = ["Conv2d", "BatchNorm2d", "ReLU"]
    stage = [*one, *one, "MaxPool2d"]
    assert kinds(network) == [*stage * 3, "Flatten", "Linear", "BatchNorm1d", "ReLU", "Linear"]
    convolutions = [layer for layer in network if isinstance(layer, nn.Conv2d)]
    assert [layer.out_channels for layer in convolutions] == [128, 128, 256, 256, 512, 512]
    assert [layer.kernel_size[0] for layer in convolutions] == [5, 1, 5, 1, 5, 1]
    pools = [layer for layer in network if isinstance(layer, nn.MaxPool2d)]
    assert all(pool.kernel_size == 3 and pool.stride == 2 for pool in pools)
    dense = [layer for layer in network if isinstance(layer, nn.Linear)]
    assert [layer.out_features for layer in dense] == [1024, 100]


@pytest.mark.parametrize("size", [(8, 8), (9, 17), (28, 28), (32, 31), (33, 105)])
def test_convolutions_keep_the_size_and_pooling_leaves_half_of_it_rounded_up(size: tuple[int, int]) -> None:
    with torch.device("meta"):
        network = six_layer_cnn((1, *size), 2)
        activations = torch.empty(2, 1, *size)
        for layer in network:
            before = activations.shape
            activations = layer(activations)
            if isinstance(layer, nn.Conv2d):
                assert activations.shape[2:] == before[2:]
            if isinstance(layer, nn.MaxPool2d):
                assert activations.shape[2:] == tuple(math.ceil(side / 2) for side in before[2:])
    assert activations.shape == (2, 2)


def test_what_is_no_image_or_too_small_is_refused() -> None:
    with pytest.raises(ValueError, match="8 pixels or more, not 7 x 8"):
        six_layer_cnn((1, 7, 8), 10)
    with pytest.raises(ValueError, match="channels, height and width"):
        six_layer_cnn((784,), 10)
