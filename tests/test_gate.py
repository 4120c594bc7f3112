"""The gate that tox runs: what it plants, and what it makes of a comparison; slow, all of it."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor, nn

ROOT = Path(__file__).parents[1]


def load(path: Path, name: str) -> ModuleType:
    specification = importlib.util.spec_from_file_location(name, path)
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    sys.modules[name] = module  # dataclasses look their module up
    specification.loader.exec_module(module)
    return module


gate = load(ROOT / ".ci" / "gate.py", "gate")
SAME, SLOWER = gate.CASES


def operations(network: nn.Module, example: Tensor, classes: int) -> int:
    """Multiplications of a forward, counted where they are done."""
    network.top = nn.Linear(384, classes)
    done: list[int] = []
    for layer in network.modules():
        if isinstance(layer, nn.Linear):
            layer.register_forward_hook(lambda layer, given, output: done.append(layer.weight.numel()))
    with torch.inference_mode():
        network(example)
    return sum(done)


def test_the_plant_is_30_percent_more_work_for_one_logit_alone(tmp_path: Path) -> None:
    gate.plant_trees(tmp_path)
    base, same, slower = (
        load(tmp_path / name / "gate_network.py", f"gate_network_{name}").network()
        for name in ("base", "same", "slower")
    )
    assert operations(*slower, 1) / operations(*base, 1) == pytest.approx(1.3, abs=0.001)
    assert operations(*slower, 1024) == operations(*base, 1024)
    assert operations(*same, 1) == operations(*base, 1)


def test_a_plant_needs_its_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = tmp_path / "gate_network.py"
    other.write_text("EXTRA = 0\n")
    monkeypatch.setattr(gate, "NETWORK", other)
    with pytest.raises(ValueError, match="must hold 'EXTRA_LAYERS = 0' once"):
        gate.plant_trees(tmp_path)


CAUSE = "gate_network:network, 1,024 classes: ... One logit is slower (+30 %), all logits are not: less worth it"


@pytest.mark.parametrize(
    ("case", "code", "text", "expected"),
    [
        (SAME, 0, "", gate.RIGHT),
        (SAME, 3, "", gate.RIGHT),
        (SAME, 1, "", gate.WRONG),
        (SAME, 2, "", gate.WRONG),
        (SLOWER, 1, CAUSE, gate.RIGHT),
        (SLOWER, 1, "both are slower (+30 %) by the same factor", gate.WRONG),
        (SLOWER, 1, "one logit may have changed (+30 %): less worth it", gate.UNDECIDED),
        (SLOWER, 0, "", gate.WRONG),
        (SLOWER, 2, "", gate.WRONG),
        (SLOWER, 3, "", gate.UNDECIDED),
    ],
)
def test_what_is_made_of_a_comparison(case: object, code: int, text: str, expected: int) -> None:
    assert gate.outcome(case, code, text) == expected


@pytest.mark.slow
def test_the_gate(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, str(ROOT / ".ci" / "gate.py")],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("code", "arguments", "expected"),
    [
        (gate.UNDECIDED, [], 3),
        (gate.UNDECIDED, ["--undecided-passes"], 0),
        (gate.WRONG, ["--undecided-passes"], 1),
        (gate.RIGHT, ["--undecided-passes"], 0),
    ],
)
def test_only_noise_is_let_pass(
    code: int, arguments: list[str], expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gate, "_both_cases", lambda: code)
    assert gate.main(arguments) == expected
