"""The command line itself: what it prints where, and what it asks of the rooms behind it."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from bench.run import Run, load_run
from bench.schemas import schemas
from bench.speed import duration
from bench.speed.plan import Request
from bench.speed.rows import MODES
from reports import terminal

Command = Callable[..., Any]
Options = Callable[..., list[str]]
Only = Callable[[Path], Path]
Begin = Callable[..., Any]

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
    "cuda_graph",
    "channels_last",
    "work",
    "top_layer",
    "subset",
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
    for default in (
        "resnet50",
        "2**18.5 = 370,727",
        "float32",
        "interleaved",
        "[default: 32]",
        "[default: 100]",
        "results",
    ):
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
    assert header == [name for name in COLUMNS if name not in MODES]


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


def test_a_failure_is_told_once_as_it_happens_and_once_in_the_end(tmp_path: Path, here: Command, tiny: Options) -> None:
    ended = here(*tiny(tmp_path, network="averaging"))
    assert ended.code == 3
    assert ended.out.count("differs from its column of all logits") == 2
    assert "no numbers for" not in ended.out, "the warning's first words say it again"
    assert ended.out.count("the table and the figure end before these counts") == 1
    assert "cannot say" not in ended.out


@pytest.mark.parametrize(("network", "code"), [("small", 0), ("averaging", 3)])
def test_progress_is_what_is_done_or_will_never_come(
    network: str, code: int, tmp_path: Path, here: Command, tiny: Options, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[int] = []
    counted: list[int] = []

    class Listening(terminal.QuietView):
        def update(self, run: Run, progress: terminal.Progress) -> None:
            told.append(progress.done)
            counted.append(progress.total - duration.passes_left(run).total())

    monkeypatch.setattr(terminal, "choose_view", lambda stream, *, quiet: Listening(stream))
    assert here(*tiny(tmp_path, network=network)).code == code
    assert told == counted
    assert told == sorted(told)
    assert told[-1] == 18, "six rounds of two slots for the single logit and one for 16 classes"


# -- a reader who leaves ----------------------------------------------------------------------------------------


def test_a_sweep_goes_on_to_its_end_when_its_reader_leaves(
    tmp_path: Path, begin: Begin, tiny: Options, only: Only
) -> None:
    codes = {"small": 0, "averaging": 3}
    sweeps = {network: begin(*tiny(tmp_path / network, network=network)) for network in codes}
    for network, sweep in sweeps.items():  # as `| head -1` does
        assert sweep.stdout.readline().startswith(f"tiny_networks:{network}: one logit against up to 16 classes")
        sweep.stdout.close()
    for network, sweep in sweeps.items():
        with sweep:
            assert sweep.stderr.read() == ""
        assert sweep.returncode == codes[network]
    for network, status in (("small", "complete"), ("averaging", "incomplete")):
        path = only(tmp_path / network)
        assert load_run(path).manifest.status == status
        assert (path / "fig1.svg").exists()


def test_a_sweep_that_nobody_reads_ends_with_the_code_of_its_run(tmp_path: Path, begin: Begin, tiny: Options) -> None:
    with begin(*tiny(tmp_path, "--json", network="averaging")) as sweep:
        sweep.stdout.close()
        sweep.stderr.close()
    assert sweep.returncode == 3


@pytest.mark.parametrize("command", [["list"], ["doctor", "--device", "cpu"], ["--classes", "0"]])
def test_a_reader_who_has_left_is_no_error(command: list[str], begin: Begin) -> None:
    with begin(*command) as process:
        process.stdout.close()
        process.stderr.close()
    assert process.returncode == (2 if "--classes" in command else 0)


# -- nothing measured -------------------------------------------------------------------------------------------


def test_a_dry_run_measures_nothing_and_leaves_nothing(tmp_path: Path, here: Command, tiny: Options) -> None:
    ended = here(*tiny(tmp_path / "results", "--dry-run", counts="1,16,2**40"))
    assert (ended.code, ended.err) == (0, "")
    assert "3 points" in ended.out
    assert "does not fit" in ended.out
    assert "GB without activations" in ended.out
    assert "building, compiling and first calls come on top" in ended.out
    assert "Nothing was measured" in ended.out
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_as_json(tmp_path: Path, here: Command, tiny: Options) -> None:
    content = json.loads(here(*tiny(tmp_path / "results", "--dry-run", "--json", counts="1,2**40")).out)
    assert list(content) == ["schema", "run", "rows"]
    Draft202012Validator(schemas()["outlook.schema.json"]).validate(content)
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
    (request,) = asked
    assert request == Request(
        arch=["resnet50"], batch_size=[32], dtype=["float32"], compile=["none"], channels_last=[False],
        cuda_graph=[False], work=["logits"], top_layer=["full"],
    )  # fmt: skip
    assert asked[0].minibatches == 100
    assert (asked[0].classes, asked[0].max_classes, asked[0].until) == (None, None, None)


def test_lists_are_repeated_or_have_commas(here: Command, asked: list[Request]) -> None:
    options = "--arch alexnet,vgg16 --arch resnet50 --batch-size 1,8 --batch-size 32 --dtype float32,bfloat16"
    assert here(*options.split()).code == 0
    assert asked[0].arch == ["alexnet,vgg16", "resnet50"]
    assert asked[0].batch_size == [1, 8, 32]
    assert asked[0].dtype == ["float32", "bfloat16"]


def test_modes_are_lists_too(here: Command, asked: list[Request]) -> None:
    options = "--work logits,end-to-end --top-layer full --top-layer adaptive --subset 16 --cuda-graph off,on"
    assert here(*options.split(), "--memory-format", "channels-last,contiguous").code == 0
    (request,) = asked
    assert (request.work, request.top_layer) == (["logits", "end-to-end"], ["full", "adaptive"])
    assert (request.cuda_graph, request.channels_last, request.subset) == ([False, True], [True, False], 16)


def test_channels_last_can_be_asked_for_in_two_ways_and_not_in_both(here: Command, asked: list[Request]) -> None:
    assert here("--channels-last").code == 0
    assert asked[0].channels_last == [True]
    both = here("--channels-last", "--memory-format", "contiguous")
    assert both.code == 2
    assert "say the same" in both.err


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("--cuda-graph yes", "--cuda-graph 'yes': must be one of off, on"),
        ("--memory-format nhwc", "--memory-format 'nhwc': must be one of contiguous, channels-last"),
        ("--work all", "--work 'all': must be one of logits, normalised, end-to-end"),
        ("--top-layer wide", "--top-layer 'wide': must be one of full"),
        ("--subset 100", "a class count below that cannot be measured: 16; give --classes 1024"),
    ],
)
def test_modes_that_are_none(options: str, words: str, tmp_path: Path, here: Command, tiny: Options) -> None:
    ended = here(*tiny(tmp_path, *options.split(), counts="16,1024"))
    assert (ended.code, ended.out) == (2, "")
    assert words in ended.err


def test_a_dry_run_says_what_is_left_out(tmp_path: Path, here: Command, tiny: Options) -> None:
    ended = here(*tiny(tmp_path, "--dry-run", "--cuda-graph", "off,on", "--top-layer", "full,adaptive"))
    assert ended.code == 0
    assert "adaptive top layer" in ended.out
    assert "left out: --cuda-graph on; --cuda-graph on --top-layer adaptive" in ended.err
    assert "Zipf" in ended.err


def test_modes_are_shown_where_they_differ(tmp_path: Path, here: Command, tiny: Options, only: Only) -> None:
    ended = here(*tiny(tmp_path, "--work", "logits,normalised", "--subset", "2", counts="16"))
    assert ended.code == 0
    assert "2 logits against up to 16 classes" in ended.out
    assert "\ntiny_networks:small, normalised\n" in ended.out
    assert "2 (control)" in ended.out
    header, *lines = (only(tmp_path) / "table3.csv").read_text().splitlines()
    assert [name for name in header.split(",") if name in MODES] == ["work", "subset"]
    assert len(lines) == 2 * 3


@pytest.mark.parametrize(
    ("options", "counts", "top", "minibatches", "until"),
    [
        ([], "1,2**14,2**18.5", None, 30, 2.0),
        (["--classes", "1,16"], "1,16", None, 30, 2.0),
        (["--max-classes", "2**16"], None, "2**16", 30, 2.0),
        (["--minibatches", "50"], "1,2**14,2**18.5", None, 50, 2.0),
        (["--until", "5"], "1,2**14,2**18.5", None, 30, 5.0),
        (["--minibatches", "100"], "1,2**14,2**18.5", None, 100, 2.0),
        (["--order", "sequential"], "1,2**14,2**18.5", None, 30, None),
    ],
)
def test_quick_and_what_overrides_it(
    here: Command,
    asked: list[Request],
    options: list[str],
    counts: str | None,
    top: str | None,
    minibatches: int,
    until: float | None,
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


def test_energy_is_an_option_that_a_cpu_refuses(
    tmp_path: Path, here: Command, tiny: Options, asked: list[Request]
) -> None:
    assert here("--energy").code == 0
    assert [request.energy for request in asked] == [True]
    ended = here(*tiny(tmp_path, "--energy", "--device", "cpu", "--dry-run"))
    assert ended.code == 2
    assert "'cpu' has none: leave out --energy, or give --device cuda" in ended.err


def test_energy_is_told_after_the_table_and_without_a_verdict_it_is_exit_code_3(
    tmp_path: Path, here: Command, tiny: Options, monkeypatch: pytest.MonkeyPatch
) -> None:
    from bench.cli import sweeping
    from bench.speed import sweep
    from bench.speed.energy import Window

    counter = {"seconds": 5.0, "period_s": 0.02, "resolution_j": 0.001, "started": "2026-01-02T03:04:05+00:00"}
    windows = [
        Window(
            setting=0,
            process=0,
            cycle=cycle,
            kind="work" if classes else "idle",
            classes=classes,
            offset_s=21.0 * cycle,
            joules=joules,
            images=100 if classes else 0,
            others=1,
            marks=("other-process",),
            **counter,  # type: ignore[arg-type]
        )
        for cycle in range(6)
        for classes, joules in ((None, 250.0), (1, 1000.0), (16, 2000.0))
    ]

    def with_windows(*arguments: Any) -> Any:
        return replace(sweep.execute(*arguments), windows=windows)

    monkeypatch.setattr(sweeping, "execute", with_windows)
    ended = here(*tiny(tmp_path, "--quiet"))
    assert ended.code == 3
    assert "mJ an image for one logit" in ended.out
    assert ended.out.index("written to") < ended.out.index("energy of tiny_networks:small")
    assert "energy.csv, energy.md" in ended.out
    assert "something else used the GPU in 18 of 18 windows" in ended.out
    ended = here(*tiny(tmp_path, "--quiet", "--json"))
    printed = json.loads(ended.out)
    assert [row["verdict"] for row in printed["energy"]] == [None, "disturbed"]
    Draft202012Validator(schemas()["rows.schema.json"]).validate(printed)
