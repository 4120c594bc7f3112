"""The paper times random inputs through random weights, and says that real ones take as long (Sect. 6.3).

Each comparison is interleaved in one process and gives a ratio of medians. Operations are as many whatever the
numbers; what single ones cost could differ:

* A comparison that a branch depends on. On a CPU, ResNet-18's max pooling took 13.8 ms of a pass of 93 ms on noise,
  9.3 ms on photographs, which are smooth, and 4.3 ms on zeros (4 examples, two cores of an AMD EPYC): where the next
  maximum lies cannot be guessed. That alone makes noise 5 % slower than photographs, and zeros 10 % faster than noise.
* Denormal numbers, which many processors compute with slowly; in linear layers and convolutions this EPYC does not.
* The power that switching bits takes, and so the clock of a GPU.
"""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from archs.batch_norm import calibrate
from archs.registry import find
from bench.speed.assembly import build_backbone, input_pool
from bench.speed.clocks import Forward, read_on_cpu
from bench.speed.forwards import Eager
from bench.speed.settings import Setting
from bench.speed.statistics import Ratio
from bench.speed.torch_state import torch_state

pytestmark = [pytest.mark.benchmark, pytest.mark.slow]

ARCH = "torchvision/resnet18"
BATCH_SIZE = 4
POOL = 4
ROUNDS = 40

#: What the paper's claim may be off by before it counts as refuted: twice what max pooling makes of ResNet-18.
TOLERANCE = 0.1

#: The normalisation that torchvision's networks are trained with.
IMAGENET_MEAN = torch.tensor([0.485, 0.456, 0.406])
IMAGENET_STD = torch.tensor([0.229, 0.224, 0.225])

#: Smaller than the smallest normal float32 (1.2e-38), and far above the smallest of all (1.4e-45).
DENORMAL = 1e-40


def network_in_hand(arch: str = ARCH) -> tuple[Setting, Forward]:
    network = find(arch)
    setting = Setting(
        arch=arch,
        input_shape=network.input_shape,
        device="cpu",
        batch_size=BATCH_SIZE,
        threads=torch.get_num_threads(),
    )
    return setting, Eager(build_backbone(network, setting)[0])


def passes(forward: Forward, pool: Sequence[Tensor]) -> Callable[[int], float]:
    return lambda number: read_on_cpu(forward, pool[number % len(pool)]).wall_s


def assert_not_apart(ratio: Ratio) -> None:
    """The 99 % interval reaches into 1 +- TOLERANCE: a wide one says little, a narrow one elsewhere refutes."""
    low, high = ratio.interval(0.99)
    assert low <= 1 + TOLERANCE
    assert high >= 1 - TOLERANCE


def photographs(size: int) -> list[Tensor]:
    """POOL minibatches of normalised random crops from two photographs; shape (BATCH_SIZE, 3, size, size)."""
    images = pytest.importorskip("sklearn.datasets", reason="scikit-learn holds the images").load_sample_images().images
    generator = torch.Generator().manual_seed(0)

    def crop(image: Tensor) -> Tensor:
        height, width, _ = image.shape
        side = int(torch.randint(size, min(height, width), (), generator=generator))
        top = int(torch.randint(0, height - side + 1, (), generator=generator))
        left = int(torch.randint(0, width - side + 1, (), generator=generator))
        square = image[top : top + side, left : left + side].permute(2, 0, 1)[None] / 255
        small = functional.interpolate(square, size=(size, size), mode="bilinear", antialias=True)[0]
        return (small - IMAGENET_MEAN[:, None, None]) / IMAGENET_STD[:, None, None]

    return [
        torch.stack([crop(torch.from_numpy(images[number % len(images)].copy())) for number in range(BATCH_SIZE)])
        for _ in range(POOL)
    ]


class Residual(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels))
        self.second = nn.Sequential(nn.Conv2d(channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels))

    def forward(self, features: Tensor) -> Tensor:
        return functional.relu(features + self.second(functional.relu(self.first(features))))


def small_resnet(seed: int) -> nn.Sequential:
    """For digits of 8 x 8 pixels, shape (batch, 1, 8, 8); logits of ten classes."""
    torch.manual_seed(seed)
    channels = 64
    return nn.Sequential(
        nn.Conv2d(1, channels, 3, padding=1, bias=False),
        nn.BatchNorm2d(channels),
        nn.ReLU(),
        Residual(channels),
        Residual(channels),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(channels, 10),
    )


def train(network: nn.Module, digits: Tensor, labels: Tensor) -> None:
    """Eight epochs of stochastic gradient descent: seconds on two cores."""
    epochs, size = 8, 64
    optimizer = torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
    steps = epochs * -(-len(digits) // size)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.1, total_steps=steps)
    network.train()
    for _ in range(epochs):
        for chosen in torch.randperm(len(digits)).chunk(-(-len(digits) // size)):
            optimizer.zero_grad()
            functional.cross_entropy(network(digits[chosen]), labels[chosen]).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()


def test_noise_takes_as_long_as_photographs(
    compare: Callable[..., Any], say_ratio: Callable[[str, Ratio], None]
) -> None:
    setting, forward = network_in_hand()
    with torch_state(setting), torch.inference_mode():
        cases = {
            "noise": passes(forward, input_pool(setting, POOL)),
            "photographs": passes(forward, photographs(setting.input_shape[-1])),
        }
        ratio = compare(cases, ROUNDS).ratio("noise", "photographs")
    say_ratio("noise / photographs", ratio)
    assert_not_apart(ratio)


def test_fresh_weights_take_as_long_as_trained_ones(
    compare: Callable[..., Any], say: Callable[..., None], say_ratio: Callable[[str, Ratio], None]
) -> None:
    """A small residual network trained to more than 95 % on held-out digits, against its like before training."""
    loaded = pytest.importorskip("sklearn.datasets", reason="scikit-learn holds the digits").load_digits()
    digits = torch.from_numpy(loaded.images).float()[:, None] / 16
    labels = torch.from_numpy(loaded.target).long()
    order = torch.randperm(len(digits), generator=torch.Generator().manual_seed(0))
    digits, labels = digits[order], labels[order]
    trained, fresh = small_resnet(0), small_resnet(0)
    train(trained, digits[360:], labels[360:])
    calibrate(fresh, digits[:8])
    with torch.inference_mode():
        accuracy = float((trained.eval()(digits[:360]).argmax(1) == labels[:360]).float().mean())
        pool = list(digits[:320].chunk(4))
        cases = {"trained": passes(Eager(trained), pool), "fresh": passes(Eager(fresh.eval()), pool)}
        ratio = compare(cases, 150).ratio("fresh", "trained")
    say(f"held-out accuracy {accuracy:.1%}", accuracy=accuracy)
    say_ratio("fresh / trained", ratio)
    assert accuracy > 0.95
    assert_not_apart(ratio)


def linear_layers() -> nn.Sequential:
    """Without biases: what enters denormal stays denormal to the end."""
    torch.manual_seed(0)
    sizes = [(2048, 4096), (4096, 4096), (4096, 1024)]
    return nn.Sequential(*(nn.Linear(inputs, outputs, bias=False) for inputs, outputs in sizes)).eval()


def say_what_changes(
    name: str,
    forward: Forward,
    noise: list[Tensor],
    rounds: int,
    compare: Callable[..., Any],
    say_ratio: Callable[..., None],
) -> None:
    denormal = [minibatch * DENORMAL for minibatch in noise]
    assert all(0 < minibatch.abs().max() < torch.finfo(torch.float32).tiny for minibatch in denormal)
    cases = {
        "noise": passes(forward, noise),
        "zeros": passes(
            forward, [minibatch.clone().zero_() for minibatch in noise]
        ),  # written, not a page never touched
        "denormal": passes(forward, denormal),
    }
    compared = compare(cases, rounds)
    zeros, denormals = compared.ratio("zeros", "noise"), compared.ratio("denormal", "noise")
    say_ratio(f"{name}: zeros / noise", zeros)
    say_ratio(f"{name}: denormal / noise", denormals)
    assert zeros.interval(0.99)[0] <= 1 + TOLERANCE, "zeros are never slower"


@pytest.mark.parametrize("arch", ["alexnet", ARCH])
def test_what_zeros_and_denormal_inputs_change_in_a_network(
    arch: str, compare: Callable[..., Any], say_ratio: Callable[..., None]
) -> None:
    """Why inputs are noise of ordinary size. Which way denormal inputs change a time is the processor's affair."""
    setting, forward = network_in_hand(arch)
    with torch_state(setting), torch.inference_mode():
        say_what_changes(arch, forward, input_pool(setting, POOL), ROUNDS, compare, say_ratio)


def test_what_zeros_and_denormal_numbers_change_in_linear_layers(
    compare: Callable[..., Any], say_ratio: Callable[..., None]
) -> None:
    noise = [torch.randn(BATCH_SIZE, 2048, generator=torch.Generator().manual_seed(number)) for number in range(POOL)]
    layers = linear_layers()
    with torch.inference_mode():
        last = layers(noise[0] * DENORMAL)
        assert 0 < last.abs().max() < torch.finfo(torch.float32).tiny
        say_what_changes("linear layers", Eager(layers), noise, 10 * ROUNDS, compare, say_ratio)
