"""Record real timing noise for simulations: `python tests/replays/record.py OUT.npz [ROUNDS] [--processes N]`.

ResNet-18, float32, torch's own threads. A round visits the single logit twice (A and A') and 2**14 and 2**16 logits,
in random order, all heads being views of one weight. Nothing is filtered: bursts of contention and drift are what the
recording is for.

With one process (`resnet18_cpu.npz` was recorded with a minibatch of 1) the arrays have shape (rounds, slots); with
several they have shape (processes, rounds, slots), each process a fresh one, so that the recording also shows what
differs between processes and not within one:

    python tests/replays/record.py tests/replays/resnet18_cpu_processes.npz 30 --processes 20 --batch-size 4
    python -m bench.history.simulation --spread tests/replays/resnet18_cpu_processes.npz
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

CLASSES = (1, 1, 2**14, 2**16)
FEATURES = 512
WARMUP_ROUNDS = 10
SECONDS_AT_MOST = 75.0


def record(rounds: int, batch_size: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Wall times (rounds, 4) in seconds, and the position of each slot within its round (rounds, 4)."""
    import torch
    import torchvision

    network = torchvision.models.resnet18(weights=None).eval()
    network.fc = torch.nn.Identity()
    weight = torch.randn(max(CLASSES), FEATURES) / FEATURES**0.5
    top_layers = [torch.nn.Linear(FEATURES, classes, bias=False, device="meta") for classes in CLASSES]
    for layer, classes in zip(top_layers, CLASSES, strict=True):
        layer.weight = torch.nn.Parameter(weight[:classes], requires_grad=False)  # leading rows of one weight
    images = torch.randn(8, batch_size, 3, 224, 224)
    slots = np.tile(np.arange(len(CLASSES)), (WARMUP_ROUNDS + rounds, 1))
    orders = np.random.default_rng(seed).permuted(slots, axis=1)
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


def record_processes(rounds: int, batch_size: int, processes: int) -> tuple[np.ndarray, np.ndarray]:
    """The same from fresh processes, one after the other; times and positions (processes, rounds, 4).

    Rounds beyond those that every process had time for are left out.
    """
    found = []
    with tempfile.TemporaryDirectory() as folder:
        for process in range(processes):
            part = Path(folder) / f"{process}.npz"
            given = [str(part), str(rounds), "--batch-size", str(batch_size), "--seed", str(process)]
            subprocess.run([sys.executable, __file__, *given], check=True)
            with np.load(part) as one:
                found.append((one["times"], one["positions"]))
            print(f"process {process + 1} of {processes}: {len(found[-1][0])} rounds", file=sys.stderr)
    shortest = min(len(times) for times, _ in found)
    return (
        np.stack([times[:shortest] for times, _ in found]),
        np.stack([positions[:shortest] for _, positions in found]),
    )


def main() -> None:
    """Record and write one file."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("out")
    parser.add_argument("rounds", nargs="?", type=int, default=600)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--batch-size", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0, help="of the order of passes, of one process")
    given = parser.parse_args()
    if given.processes > 1:
        times, positions = record_processes(given.rounds, given.batch_size, given.processes)
    else:
        times, positions = record(given.rounds, given.batch_size, given.seed)
    np.savez_compressed(given.out, times=times, positions=positions.astype(np.int8), classes=np.array(CLASSES))


if __name__ == "__main__":
    main()
