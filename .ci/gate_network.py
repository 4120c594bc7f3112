"""A network of a few milliseconds a pass. gate.py copies it, and plants a slowdown by changing EXTRA_LAYERS."""

import torch
from torch import Tensor, nn

FEATURES = 384
LAYERS = 10

#: Layers that are gone through once more when one logit is asked for: 3 of 10 make it 30 % dearer.
EXTRA_LAYERS = 0


class Network(nn.Module):
    """(batch, 3, 8, 16) -> (batch, classes)."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(FEATURES, FEATURES) for _ in range(LAYERS))
        self.top = nn.Linear(FEATURES, 1000)

    def forward(self, images: Tensor) -> Tensor:
        """Logits, shape (batch, classes)."""
        features = images.flatten(1)
        for layer in self.layers:
            features = layer(features).relu()
        logits: Tensor = self.top(features)
        if logits.shape[1] == 1:
            for number in range(EXTRA_LAYERS):
                self.layers[number](features).relu()
        return logits


def network() -> tuple[nn.Module, Tensor]:
    """The factory: a network, and an example of what it takes."""
    return Network(), torch.zeros(1, 3, 8, 16)
