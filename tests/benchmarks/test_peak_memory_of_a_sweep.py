"""Peak memory of a whole sweep: backbone, one top layer, minibatches and logits, and a tenth more.

    peak of the process - what the program takes before it measures  <=  1.1 * (those four)

What the program takes is read when the first event arrives: interpreter, torch and slc-bench itself, imported and
planned. The kernel keeps the highest resident size (VmHWM); slc-bench sets it back before each of its own readings,
so it is read at every event before that happens.
"""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from archs.registry import find
from archs.top_layer import inspect
from bench.machine.memory import reset_peak_rss
from bench.speed.assembly import pool_size

pytestmark = pytest.mark.benchmark

FLOAT32_BYTES = 4
MINIBATCHES = 3

SWEEP = """
import json, sys
import torch, torchvision
from bench.machine.memory import peak_rss, reset_peak_rss
imported = peak_rss()
from bench import sweep

reset_peak_rss()
started, peaks = [], {}

def watch(run, doing):
    if not started:
        reset_peak_rss()
        started.append(peak_rss())
    peaks[doing] = max(peak_rss(), peaks.get(doing, 0))

arch, classes, batch_size, minibatches = sys.argv[1], *map(int, sys.argv[2:])
done = sweep(
    arch, classes=[1, classes], batch_size=batch_size, minibatches=minibatches, device="cpu", watch=watch
)
assert done.complete, done.run.manifest.points
json.dump({"imported": imported, "started": started[0], "peaks": peaks, "last": peak_rss()}, sys.stdout)
"""

needs_a_peak_that_can_be_reset = pytest.mark.skipif(
    not reset_peak_rss(), reason="this kernel does not let a process reset its peak (proc/self/clear_refs)"
)


def allowed_bytes(arch: str, classes: int, batch_size: int) -> int:
    """The four terms of the rule, in bytes of float32, from shapes alone."""
    network = find(arch)
    facts = inspect(network)
    with torch.device("meta"):
        buffers = sum(buffer.nbytes for buffer in network.build().buffers())
    backbone = facts.backbone_parameters * FLOAT32_BYTES + buffers
    top_layer = classes * (facts.top.features + facts.top.bias) * FLOAT32_BYTES
    example = torch.Size(network.input_shape).numel() * FLOAT32_BYTES
    minibatches = pool_size(MINIBATCHES) * batch_size * example
    return backbone + top_layer + minibatches + batch_size * classes * FLOAT32_BYTES


@needs_a_peak_that_can_be_reset
@pytest.mark.parametrize(("arch", "classes", "batch_size"), [("resnet50", 2**17, 2), ("alexnet", 2**16, 8)])
def test_a_sweep_needs_what_it_measures_and_a_tenth_more(
    arch: str, classes: int, batch_size: int, benchmark: Any, say: Callable[..., None], pytestconfig: pytest.Config
) -> None:
    seen = benchmark.pedantic(
        in_fresh_process, args=(arch, classes, batch_size, pytestconfig.rootpath), rounds=1, iterations=1
    )
    allowed = allowed_bytes(arch, classes, batch_size)
    peak = max(seen["last"], *seen["peaks"].values())
    share = (peak - seen["started"]) / allowed
    say(
        f"{arch}, {classes:,} classes: {(peak - seen['started']) / 1e6:.0f} MB, {share:.1%} of {allowed / 1e6:.0f} MB; "
        f"before: {seen['started'] / 1e6:.0f} MB, of which {seen['imported'] / 1e6:.0f} MB torch; peaks "
        + ", ".join(f"{doing or 'planned'} {at / 1e6:.0f}" for doing, at in seen["peaks"].items()),
        share=share,
        peak_bytes=peak,
        program_bytes=seen["started"],
        torch_bytes=seen["imported"],
    )
    assert share <= 1.1


def in_fresh_process(arch: str, classes: int, batch_size: int, root: Path) -> dict[str, Any]:
    """Run the sweep where nothing else has used memory."""
    arguments = [arch, str(classes), str(batch_size), str(MINIBATCHES)]
    done = subprocess.run([sys.executable, "-c", SWEEP, *arguments], cwd=root, check=True, capture_output=True)
    seen: dict[str, Any] = json.loads(done.stdout)
    return seen
