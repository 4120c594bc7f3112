"""The paper's two small networks (Sect. 6.1), an MLP and a CNN with six convolutional layers; and a linear layer.

Batch norm and ReLU follow every hidden layer, never the logits: a normalised logit would be tied to its minibatch, and
a rectified one could not fall below zero. A layer before batch norm has no bias, as the mean that batch norm takes off
would take it off too; the top layer has one. Weights start as torch's own layers do (uniform, +-1 / sqrt(fan in)); the
paper leaves that open, and batch norm undoes their scale in the forward.
"""

import math
from collections.abc import Sequence

from torch import nn

from archs.linear_rows import MakeTop

#: (feature maps, kernel size) of each convolution; max-pooling follows every second one.
CONVOLUTIONS = ((128, 5), (128, 1), (256, 5), (256, 1), (512, 5), (512, 1))

#: Units of the CNN's dense layer.
DENSE_UNITS = 1024

#: Pixels below which three poolings leave nothing to look at.
SMALLEST_IMAGE = 8


def linear(input_shape: Sequence[int], classes: int, make_top: MakeTop = nn.Linear) -> nn.Sequential:
    """One linear layer on the flattened example: (m, *input_shape) -> (m, classes); a head on features that are fixed.

    Weights are drawn from torch's global generator.
    """
    return nn.Sequential(nn.Flatten(), make_top(math.prod(input_shape), classes))


def mlp(
    input_shape: Sequence[int], classes: int, make_top: MakeTop = nn.Linear, *, hidden: Sequence[int] = (500, 500)
) -> nn.Sequential:
    """Fully connected layers on the flattened example: (m, *input_shape) -> (m, classes).

    Paper, Sect. 6.1: two hidden layers of 500 units for MNIST. Weights are drawn from torch's global generator.
    """
    layers: list[nn.Module] = [nn.Flatten()]
    features = math.prod(input_shape)
    for units in hidden:
        layers += [nn.Linear(features, units, bias=False), nn.BatchNorm1d(units), nn.ReLU()]
        features = units
    return nn.Sequential(*layers, make_top(features, classes))


def six_layer_cnn(input_shape: Sequence[int], classes: int, make_top: MakeTop = nn.Linear) -> nn.Sequential:
    """Six convolutional layers and a dense one: (m, channels, height, width) -> (m, classes).

    Paper, Sect. 6.1: 5x5 and 1x1 kernels in turn, padded so that the size stays; 3x3 max-pooling of stride 2 after the
    second, fourth and sixth, padded so that half of the size, rounded up, is left; a dense layer of 1024 units.
    Weights are drawn from torch's global generator.

    Raises ValueError for an input that is no image, or one below 8 pixels.
    """
    if len(input_shape) != 3:
        raise ValueError(f"the six-layer CNN takes channels, height and width, not an input of shape {input_shape}")
    features, height, width = input_shape
    if min(height, width) < SMALLEST_IMAGE:
        raise ValueError(f"the six-layer CNN takes images of {SMALLEST_IMAGE} pixels or more, not {height} x {width}")
    layers: list[nn.Module] = []
    for number, (maps, kernel) in enumerate(CONVOLUTIONS, start=1):
        convolution = nn.Conv2d(features, maps, kernel, padding=kernel // 2, bias=False)
        layers += [convolution, nn.BatchNorm2d(maps), nn.ReLU()]
        features = maps
        if number % 2 == 0:
            layers.append(nn.MaxPool2d(3, stride=2, padding=1))
            height, width = math.ceil(height / 2), math.ceil(width / 2)
    dense = nn.Linear(features * height * width, DENSE_UNITS, bias=False)
    layers += [nn.Flatten(), dense, nn.BatchNorm1d(DENSE_UNITS), nn.ReLU()]
    return nn.Sequential(*layers, make_top(DENSE_UNITS, classes))
