"""`accuracy` with losses that draw classes: how they draw is asked for, trained by, and in the run."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bench.accuracy.run import load

LOSSES = {
    "importance-sampling": {"correction": "none", "negatives": "shared"},
    "nce": {"estimate": "sampled", "negatives": "shared", "q": "class frequencies"},
    "negative-sampling": {"correction": "log-q", "t": "5"},
}
SMALL = ("--dataset", "synthetic:40,zipf=1,d=8,examples=640", "--network", "linear", "--batch-size", 500, "--steps", 6)
ONE = ("--lr", "0.05", "--seeds", 1, "--momentum", 0, "--device", "cpu", "--workers", 1)


def hyperparameters(asked: dict[str, dict[str, str]]) -> list[str]:
    return [
        part
        for key, values in asked.items()
        for name, value in values.items()
        for part in ("--hyperparameter", f"{key}.{name}={value}")
    ]


def test_how_classes_are_drawn_is_in_the_run_and_the_same_dense_and_in_place(
    here: Callable[..., Any], only: Callable[[Path], Path], tmp_path: Path
) -> None:
    """In place the step is plain SGD's, which the dense one is without momentum."""
    losses: dict[str, dict[str, Any]] = {}
    for step in ("dense", "in-place"):
        output = tmp_path / step
        asked = ("--losses", ",".join(LOSSES), *hyperparameters(LOSSES), "--top-layer-step", step)
        ended = here("accuracy", *SMALL, *ONE, *asked, "--output", output)
        assert ended.code == 0, ended.err
        run = only(output)
        recorded = {each["key"]: each for each in json.loads((run / "run.json").read_text())["losses"]}
        drawn = {"q": "class frequencies", "negatives": "shared"}
        assert {key: each["hyperparameters"] for key, each in recorded.items()} == {
            "importance-sampling": {"t": 25.0, "power": 1.0, "correction": "none", **drawn},
            "nce": {"t": 25.0, "estimate": "sampled", "correction": "log-q", **drawn},
            "negative-sampling": {
                "t": 5.0, "q": "class frequencies", "power": 0.75, "negatives": "own", "correction": "log-q",
            },
        }  # fmt: skip
        assert {key: each["aligned"] for key, each in recorded.items()} == {
            "importance-sampling": False, "nce": True, "negative-sampling": True,
        }  # fmt: skip
        assert "sampled softmax without log-q" in (run / "table1.md").read_text()
        assert "negatives = shared, correction = none" in (run / "table1.md").read_text()
        losses[step] = {each.member.loss: each.curve[-1].validation_loss for each in load(run).trainings}
    assert losses["in-place"] == pytest.approx(losses["dense"], rel=1e-4)
    assert len(losses["dense"]) == 3


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ("nce.negatives=shared", "nce with negatives = 'shared': its expectation is exact here"),
        ("nce.correction=logq", "nce with correction = 'logq': give 'log-q', 'none' or 'auto'"),
        ("importance-sampling.correction=1", "importance-sampling with correction = 1.0: give 'log-q', 'none'"),
        ("importance-sampling.negatives=all", "importance-sampling with negatives = 'all': give 'own', 'shared'"),
        ("ce.negatives=shared", "ce has no hyperparameter 'negatives'"),
    ],
)
def test_a_wrong_value_is_one_line(here: Callable[..., Any], tmp_path: Path, asked: str, says: str) -> None:
    ended = here(
        "accuracy", *SMALL, *ONE, "--losses", "ce,nce,importance-sampling", "--hyperparameter", asked,
        "--output", tmp_path / "run",
    )  # fmt: skip
    assert ended.code == 2
    assert says in ended.err
    assert len(ended.err.strip().splitlines()) == 1
    assert not (tmp_path / "run").exists()
