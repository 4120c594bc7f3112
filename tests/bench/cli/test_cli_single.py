"""`python -m bench single`: the table, the object, the exit codes."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from bench.deploy import measure
from bench.deploy.records import load
from reports import single as report
from reports.__main__ import app as reports

Command = Callable[..., Any]
Only = Callable[[Path], Path]


def options(output: Path, *more: object) -> list[str]:
    asked = ["single", "--arch", "tiny_networks:small", "--classes", "2**17", "--batch-size", "2", "--threads", "1"]
    return [*asked, "--switches", "6", "--minibatches", "6", "--output", str(output), *map(str, more)]


def test_the_table(tmp_path: Path, here: Command, only: Only) -> None:
    ended = here(*options(tmp_path))
    run = load(only(tmp_path))
    assert ended.code == {"complete": 0, "incomplete": 3}[run.manifest.status]
    assert ended.out.startswith("tiny_networks:small: one row of a top layer of 131,072 x 8, the others left on disk")
    for text in ("memory that one class adds", "36 B", "4.72 MB", "switch to a class on disk", "one image, all logits"):
        assert text in ended.out
    assert "writing a top layer of 131,072 rows" in ended.err
    assert f"written to {run.path}" in ended.out


def test_the_object(tmp_path: Path, here: Command, only: Only) -> None:
    ended = here(*options(tmp_path, "--json", "--quiet"))
    found = json.loads(ended.out)
    assert found["schema"] == "slc-bench/single/1"
    assert found["run"]["path"] == str(only(tmp_path))
    assert [row["unit"] for row in found["rows"]] == ["bytes"] * 3 + ["s"] * 5
    assert "writing" not in ended.err


def test_what_did_not_fit_is_exit_code_3(tmp_path: Path, here: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "free_bytes", lambda _: 0)
    ended = here(*options(tmp_path, "--quiet"))
    assert ended.code == 3
    assert "not measured" in ended.out
    assert "warning: all logits were not measured: the whole top layer and its logits need" in ended.out


@pytest.mark.parametrize(
    ("asked", "line"),
    [
        (("--classes", "1"), "error: --classes 1: with one class there is none to switch to; give 2 or more\n"),
        (("--arch", "nothing"), "error: 'nothing' is not a network"),
        (("--switches", "0"), "error: --switches 0: must be 1 or more\n"),
        (("--batch-size", str(2**50)), "error: tiny_networks:small and a minibatch of 1,125,899,906,842,624 need "),
    ],
)
def test_bad_usage_is_one_line(tmp_path: Path, here: Command, asked: tuple[str, str], line: str) -> None:
    ended = here(*options(tmp_path, *asked))
    assert (ended.code, ended.out) == (2, "")
    assert ended.err.startswith(line)
    assert ended.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_top_layer_larger_than_any_disk_is_one_line(tmp_path: Path, here: Command) -> None:
    """Its biases alone are 4 TB: nothing of it may be asked for before the room is looked at."""
    ended = here(*options(tmp_path / "results", "--classes", "2**40"))
    assert (ended.code, ended.out) == (2, "")
    assert re.match(r"error: .*top-layer\.safetensors needs 39,582\.42 GB and its disk has .* GB free: ", ended.err)
    assert ended.err.endswith("or take fewer --classes than 1,099,511,627,776\n")
    assert ended.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_killed_run_is_shown_as_what_it_is(tmp_path: Path, begin: Command, only: Only) -> None:
    """kill -9 in the middle of the forwards: nothing could say that it ended, and its top layer is still there."""
    with begin(*options(tmp_path, "--minibatches", 10**6)) as process:
        for line in process.stderr:
            if line.startswith("timing forwards"):
                break
        process.kill()
    folder = only(tmp_path)
    shown = CliRunner().invoke(reports, [str(folder)])
    assert shown.exit_code == 3, shown.output
    assert "running: not everything was measured as it was asked for" in shown.output
    assert "its process was killed; of what was asked for there are" in shown.output
    assert "of 1000000 samples of 'one image, one logit'" in shown.output
    assert "a killed process leaves its top layer, 0.00 GB, in the run's folder: remove that" in shown.output
    assert (folder / "top-layer.safetensors").exists()


def test_help_says_what_it_writes(here: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    ended = here("single", "--help")
    assert ended.code == 0
    for text in ("--switches", "--classes", "2**18.5", "6 GB"):
        assert text in ended.out


@pytest.mark.parametrize(
    ("number", "text"),
    [(36, "36 B"), (16_388, "16.4 kB"), (-2_000_000, "-2.00 MB"), (6_076_000_000, "6.08 GB"), (0, "0 B")],
)
def test_sizes_in_words(number: float, text: str) -> None:
    assert report.size(number) == text


@pytest.mark.parametrize(
    ("number", "text"), [(1.5, "1.50 s"), (0.0237, "23.7 ms"), (2.42e-4, "242 us"), (7e-9, "0.00700 us")]
)
def test_times_in_words(number: float, text: str) -> None:
    assert report.seconds(number) == text
