"""Record real timing noise for the coverage tests: `python tests/replays/record.py OUT.npz [ROUNDS]`.

ResNet-18, minibatch of 1, float32, torch's own threads. A round visits the single logit twice (A and A') and
2**14 and 2**16 logits, in random order, all heads being views of one weight. Nothing is filtered: bursts of
contention and drift are what the recording is for.
"""

import sys
import time

import numpy as np
import torch
import torchvision

CLASSES = (1, 1, 2**14, 2**16)
FEATURES = 512
WARMUP_ROUNDS = 10
SECONDS_AT_MOST = 75.0


def heads() -> list[torch.nn.Linear]:
    """Four linear layers whose weights are leading rows of one weight."""
    weight = torch.randn(max(CLASSES), FEATURES) / FEATURES**0.5
    layers = []
    for classes in CLASSES:
        layer = torch.nn.Linear(FEATURES, classes, bias=False, device="meta")
        layer.weight = torch.nn.Parameter(weight[:classes], requires_grad=False)
        layers.append(layer)
    return layers


def record(rounds: int) -> tuple[np.ndarray, np.ndarray]:
    """Wall times (rounds, 4) in seconds, and the position of each slot within its round (rounds, 4)."""
    network = torchvision.models.resnet18(weights=None).eval()
    network.fc = torch.nn.Identity()
    top_layers = heads()
    images = torch.randn(8, 1, 3, 224, 224)
    orders = np.random.default_rng(0).permuted(np.tile(np.arange(len(CLASSES)), (rounds, 1)), axis=1)
    times = np.full(orders.shape, np.nan)
    began = time.perf_counter()
    with torch.inference_mode():
        for number, order in enumerate(orders):
            for slot in order:
                start = time.perf_counter()
                top_layers[slot](network(images[number % len(images)]))
                times[number, slot] = time.perf_counter() - start
            if time.perf_counter() - began > SECONDS_AT_MOST:
                break
    complete = ~np.isnan(times).any(axis=1)
    return times[complete][WARMUP_ROUNDS:], np.argsort(orders, axis=1)[complete][WARMUP_ROUNDS:]


if __name__ == "__main__":
    times, positions = record(int(sys.argv[2]) if len(sys.argv) > 2 else 610)
    np.savez_compressed(sys.argv[1], times=times, positions=positions.astype(np.int8), classes=np.array(CLASSES))
