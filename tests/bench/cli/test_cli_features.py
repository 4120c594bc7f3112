"""`python -m bench features`: what it prints where, and the exit codes."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bench.accuracy import data

Command = Callable[..., Any]


def options(output: Path, *more: object) -> list[str]:
    asked = ["features", "--arch", "mlp", "--dataset", "digits", "--random-weights", "--device", "cpu"]
    return [*asked, "--output", str(output), *map(str, more)]


def test_features_are_written_and_can_be_checked(tmp_path: Path, here: Command) -> None:
    ended = here(*options(tmp_path / "made"))
    assert ended.code == 0
    assert "500 features of each example (train 1,293, validation 145, test 359)" in ended.out
    assert f"python -m bench accuracy --dataset features:{tmp_path / 'made'}" in ended.out
    assert "test: 359 of 359 examples" in ended.err
    assert data.load(f"features:{tmp_path / 'made'}").facts.input_shape == (500,)
    checked = here("features", "--check", tmp_path / "made", "--quiet")
    assert (checked.code, checked.err) == (0, "")
    assert "every value is finite, every label in range; 6 files are as they were written" in checked.out
    with (tmp_path / "made" / "train" / "features.npy").open("r+b") as file:
        file.seek(1000)
        file.write(b"\x01")
    checked = here("features", "--check", tmp_path / "made", "--quiet")
    assert (checked.code, checked.out) == (2, "")
    assert "train/features.npy is not what was written" in checked.err


def test_quiet_is_quiet(tmp_path: Path, here: Command) -> None:
    assert here(*options(tmp_path / "made", "--quiet")).err == ""


@pytest.mark.parametrize(
    ("asked", "line"),
    [
        (("features",), "error: give --arch NAME and --output FOLDER"),
        (("features", "--check", "x", "--arch", "mlp"), "error: --check reads what is there: leave out --arch\n"),
        (("features", "--check", "nowhere"), "error: nowhere/features.json is missing"),
        (("features", "--arch", "mlp", "--output", "made", "--dataset", "digits"), "error: give --checkpoint FILE"),
        (
            ("features", "--arch", "vgg16", "--output", "made", "--images", "x", "--random-weights", "--mean", "a"),
            "error: --mean a: give three numbers",
        ),
    ],
)
def test_bad_usage_is_one_line(here: Command, asked: tuple[str, ...], line: str) -> None:
    ended = here(*asked)
    assert (ended.code, ended.out) == (2, "")
    assert ended.err.startswith(line)
    assert ended.err.count("\n") == 1


def test_help_imports_nothing_heavy(help_of: Command) -> None:
    ended = help_of("features")
    assert ended.code == 0
    assert ended.out.rstrip().endswith("imported: []")
    for text in ("--checkpoint", "--random-weights", "--images", "--check"):
        assert text in ended.out
