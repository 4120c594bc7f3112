"""The command line itself: what it prints where, and what it asks of the rooms behind it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bench.run import load_run
from bench.speed.plan import Request

Command = Callable[..., Any]
Options = Callable[..., list[str]]
Only = Callable[[Path], Path]

COLUMNS = [
    "kind",
    "arch",
    "classes",
    "status",
    "reason",
    "device",
    "dtype",
    "batch_size",
    "compile",
    "order",
    "minibatches",
    "rounds_done",
    "mean_s",
    "median_s",
    "p5_s",
    "p95_s",
    "p99_s",
    "speedup",
    "speedup_low",
    "speedup_high",
    "speedup_of_means",
    "speedup_unmarked",
    "predicted_s",
    "peak_memory_bytes",
    "operations",
    "bytes",
    "marked_samples",
]

#: Prints the help, then the heavy modules that were imported on the way.
HELP = """
import sys
from bench.cli import main
try:
    main()
finally:
    heavy = {"torch", "torchvision", "timm", "pandas", "matplotlib", "scipy", "numpy", "pydantic"}
    print("imported:", sorted(heavy & set(sys.modules)))
"""


def test_help_is_quick_because_it_imports_nothing_heavy(apart: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    ended = apart("--help", script=HELP)
    assert (ended.code, ended.err) == (0, "")
    assert "imported: []" in ended.out
    for group in ("What is measured", "How it runs", "How much is measured", "Output"):
        assert group in ended.out
    for default in ("resnet50", "2**18.5 = 370,727", "float32", "interleaved", "[default: 32]", "(100)", "results"):
        assert default in ended.out
    for option in ("--arch", "--max-classes", "--tf32", "--no-cudnn-benchmark", "--until", "--resume", "--json"):
        assert option in ended.out


# -- one run, looked at from all sides --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory, here: Command, tiny: Options) -> tuple[Any, Path]:
    parent = tmp_path_factory.mktemp("plain")
    return here(*tiny(parent)), parent


@pytest.fixture(scope="module")
def as_json(tmp_path_factory: pytest.TempPathFactory, here: Command, tiny: Options) -> tuple[Any, Path]:
    parent = tmp_path_factory.mktemp("json")
    return here(*tiny(parent, "--json")), parent


def test_not_a_terminal_gets_plain_lines(plain: tuple[Any, Path], as_json: tuple[Any, Path]) -> None:
    for ended, _ in (plain, as_json):
        assert ended.code == 0
        assert "\x1b" not in ended.out + ended.err
        assert "\r" not in ended.out + ended.err
    ended, parent = plain
    assert ended.err == ""
    assert ended.out.startswith("tiny_networks:small: one logit against up to 16 classes, 6 minibatches")
    assert f"written to {parent}" in ended.out


def test_a_run_leaves_its_files(plain: tuple[Any, Path], only: Only) -> None:
    names = {path.name for path in only(plain[1]).iterdir()} - {".lock"}
    assert names == {
        "run.json", "samples.jsonl", "table3.csv", "table3.md", "table3.tex", "fig1.png", "fig1.svg",
    }  # fmt: skip
    manifest = load_run(only(plain[1])).manifest
    assert manifest.status == "complete"
    assert manifest.protocol.classes == (1, 16)


def test_json_is_one_object_on_standard_output(as_json: tuple[Any, Path], only: Only) -> None:
    ended, parent = as_json
    content = json.loads(ended.out)
    assert list(content) == ["schema", "run", "rows"]
    assert content["run"]["path"] == str(only(parent))
    assert content["run"]["status"] == "complete"
    assert [(row["kind"], row["classes"]) for row in content["rows"]] == [("point", 1), ("control", 1), ("point", 16)]
    for row in content["rows"]:
        assert list(row) == COLUMNS
        assert row["median_s"] > 0
    assert "one logit against up to 16 classes" in ended.err


def test_the_table_on_disk_has_the_same_columns(plain: tuple[Any, Path], only: Only) -> None:
    header = (only(plain[1]) / "table3.csv").read_text().splitlines()[0].split(",")
    assert header == COLUMNS


def test_json_and_quiet_leave_warnings_alone_on_standard_error(tmp_path: Path, here: Command, tiny: Options) -> None:
    ended = here(*tiny(tmp_path, "--json", "--quiet"))
    assert ended.code == 0
    assert json.loads(ended.out)["rows"]
    lines = ended.err.splitlines()
    assert lines, "six rounds are too few, and that is said"
    assert {line.split(":")[0] for line in lines} == {"warning", "  why it matters", "  what to do"}


def test_quiet_shows_the_table_and_no_progress(tmp_path: Path, here: Command, tiny: Options) -> None:
    ended = here(*tiny(tmp_path, "--quiet"))
    assert (ended.code, ended.err) == (0, "")
    assert "95 % interval" in ended.out
    assert "left, timing" not in ended.out


# -- nothing measured -------------------------------------------------------------------------------------------


def test_a_dry_run_measures_nothing_and_leaves_nothing(tmp_path: Path, here: Command, tiny: Options) -> None:
    ended = here(*tiny(tmp_path / "results", "--dry-run", counts="1,16,2**40"))
    assert (ended.code, ended.err) == (0, "")
    assert "3 points" in ended.out
    assert "does not fit" in ended.out
    assert "Nothing was measured" in ended.out
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_as_json(tmp_path: Path, here: Command, tiny: Options) -> None:
    content = json.loads(here(*tiny(tmp_path / "results", "--dry-run", "--json", counts="1,2**40")).out)
    assert list(content) == ["schema", "run", "rows"]
    assert content["run"]["path"] is None
    assert content["run"]["seconds"] > 0
    assert [(row["classes"], row["fits"]) for row in content["rows"]] == [(1, True), (2**40, False)]
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Request]:
    """What the command line asks for; nothing is measured."""
    requests: list[Request] = []

    def take(request: Request, output: Path, *, json: bool, quiet: bool) -> int:
        requests.append(request)
        return 0

    monkeypatch.setattr("bench.cli.sweeping.new", take)
    return requests


def test_the_defaults(here: Command, asked: list[Request]) -> None:
    assert here().code == 0
    assert asked == [Request(arch=["resnet50"], batch_size=[32], dtype=["float32"], compile=["none"])]
    assert asked[0].minibatches == 100
    assert (asked[0].classes, asked[0].max_classes, asked[0].until) == (None, None, None)


def test_lists_are_repeated_or_have_commas(here: Command, asked: list[Request]) -> None:
    options = "--arch alexnet,vgg16 --arch resnet50 --batch-size 1,8 --batch-size 32 --dtype float32,bfloat16"
    assert here(*options.split()).code == 0
    assert asked[0].arch == ["alexnet,vgg16", "resnet50"]
    assert asked[0].batch_size == [1, 8, 32]
    assert asked[0].dtype == ["float32", "bfloat16"]


@pytest.mark.parametrize(
    ("options", "counts", "top", "minibatches", "until"),
    [
        ([], "1,2**14,2**18.5", None, 30, 2.0),
        (["--classes", "1,16"], "1,16", None, 30, 2.0),
        (["--max-classes", "2**16"], None, "2**16", 30, 2.0),
        (["--minibatches", "50"], "1,2**14,2**18.5", None, 50, 2.0),
        (["--until", "5"], "1,2**14,2**18.5", None, 30, 5.0),
        (["--minibatches", "100"], "1,2**14,2**18.5", None, 100, 2.0),
    ],
)
def test_quick_and_what_overrides_it(
    here: Command,
    asked: list[Request],
    options: list[str],
    counts: str | None,
    top: str | None,
    minibatches: int,
    until: float,
) -> None:
    assert here("--quick", *options).code == 0
    (request,) = asked
    assert (request.classes, request.max_classes, request.minibatches, request.until) == (
        counts, top, minibatches, until,
    )  # fmt: skip


# -- the other commands -----------------------------------------------------------------------------------------


def test_options_of_a_command_stand_after_its_name(here: Command) -> None:
    ended = here("doctor", "--device", "cpu", "--threads", "1")
    assert (ended.code, ended.err) == (0, "")
    assert "ok: " in ended.out


def test_networks_are_listed(here: Command) -> None:
    ended = here("list", "resnet50")
    assert (ended.code, ended.err) == (0, "")
    assert "  resnet50\n" in ended.out
    assert "  torchvision/resnet50\n" in ended.out
    assert "  timm/resnet50\n" in ended.out
    nothing = here("list", "nothing of that name")
    assert (nothing.code, nothing.out) == (2, "")
    assert nothing.err.startswith("error: no network's name contains")
