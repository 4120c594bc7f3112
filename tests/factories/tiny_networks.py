"""Networks so small that a run is little more than importing torch; some have a fault built in.

    TINY_FAULT="SIGKILL self forward 12"

makes `faulty` send that signal at its 12th forward on real tensors, to itself or to the parent of its process;
with `build` in place of `forward`, when it is built for the 12th time. So a fault strikes at the same pass every time.
"""

import os
import signal
import sys
from collections import Counter

import torch
from torch import Tensor, nn

SHAPE = (3, 8, 8)
CLASSES = 4

_times: Counter[str] = Counter()

#: What `switching` looks at; a test may flip it between two passes.
switch = {"on": False}


def _example() -> Tensor:
    return torch.zeros(1, *SHAPE)


def _strike(moment: str) -> None:
    """Send the signal of TINY_FAULT if this is the moment it names."""
    _times[moment] += 1
    if "TINY_FAULT" not in os.environ:
        return
    name, target, at, nth = os.environ["TINY_FAULT"].split()
    if (moment, _times[moment]) == (at, int(nth)):
        os.kill(os.getpid() if target == "self" else os.getppid(), signal.Signals[name])


class Tiny(nn.Module):
    """(batch, 3, 8, 8) -> (batch, 4): one hidden layer."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden = nn.Linear(3 * 8 * 8, 8)
        self.top = nn.Linear(8, CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        return self.top(self.hidden(images.flatten(1)).relu())


class Faulty(Tiny):
    def forward(self, images: Tensor) -> Tensor:
        if images.device.type != "meta":
            _strike("forward")
        return super().forward(images)


class Hungry(Tiny):
    """Asks for an exabyte from its tenth forward with 64 classes on."""

    def forward(self, images: Tensor) -> Tensor:
        logits = super().forward(images)
        if logits.shape[1] == 64:
            _times["hungry"] += 1
            if _times["hungry"] >= 10:
                torch.empty(2**60, dtype=torch.uint8)
        return logits


class Averaging(Tiny):
    """With more classes than its own it divides the logits by their number: no longer those of a single unit."""

    def forward(self, images: Tensor) -> Tensor:
        logits = super().forward(images)
        return logits / logits.shape[1] if logits.shape[1] > CLASSES else logits


class Softmaxed(Tiny):
    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images).softmax(1)


class Switching(Tiny):
    """Takes another branch, equal in value, once the switch is on: compiled, it must be compiled again."""

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images * 1.0 if switch["on"] else images)


class Deciding(Tiny):
    """Looks at its input's values, which the meta device does not have."""

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images if images.sum().item() < 1e30 else -images)


class Convolutional(nn.Module):
    """A convolution with batch normalisation: statistics that a forward in training mode would change."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 8, 3)
        self.norm = nn.BatchNorm2d(8)
        self.dropout = nn.Dropout(0.5)
        self.top = nn.Linear(8, CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        return self.top(self.dropout(self.norm(self.convolution(images)).relu().mean((2, 3))))


def small() -> tuple[nn.Module, Tensor]:
    return Tiny(), _example()


def faulty() -> tuple[nn.Module, Tensor]:
    network = Faulty()
    if network.top.weight.device.type != "meta":
        _strike("build")
    return network, _example()


def hungry() -> tuple[nn.Module, Tensor]:
    return Hungry(), _example()


def averaging() -> tuple[nn.Module, Tensor]:
    return Averaging(), _example()


def softmaxed() -> tuple[nn.Module, Tensor]:
    return Softmaxed(), _example()


def switching() -> tuple[nn.Module, Tensor]:
    return Switching(), _example()


def deciding() -> tuple[nn.Module, Tensor]:
    return Deciding(), _example()


def convolutional() -> tuple[nn.Module, Tensor]:
    return Convolutional(), _example()


def raising() -> nn.Module:
    raise RuntimeError("the weights are\nnowhere to be found")


if sys.argv[0].endswith("worker.py"):  # the parent imports this module too
    _strike("import")
