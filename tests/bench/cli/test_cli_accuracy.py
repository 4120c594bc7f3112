"""`python -m bench accuracy`: what it prints where, and what it asks of the rooms behind it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from bench.accuracy.request import Request
from bench.accuracy.run import load
from bench.accuracy.settings import PAPER_LOSSES
from bench.schemas import schemas

Command = Callable[..., Any]
Only = Callable[[Path], Path]
Begin = Callable[..., Any]

#: Four trainings and two tests, in this process.
TINY = (
    "accuracy", "--losses", "ce,batch-ce", "--lr", "0.1,0.01", "--steps", 12, "--batch-size", 64, "--device", "cpu",
    "--workers", 1, "--threads", 1,
)  # fmt: skip


def test_help_is_quick_because_it_imports_nothing_heavy(help_of: Command) -> None:
    ended = help_of("accuracy")
    assert (ended.code, ended.err) == (0, "")
    assert "imported: []" in ended.out
    for group in ("What is trained", "How it is trained", "Where it runs", "Output"):
        assert group in ended.out
    for default in (
        "the preset's, else digits", "the preset's, else paper", "1,0.1,0.01,0.001", "128", "sgd", "0.9", "0",
        "results", "digits 2,000; imagenet 6,000,000; others 100,000",
    ):  # fmt: skip
        assert f"[default: {default}]" in ended.out
    assert "default: (" not in ended.out
    for option in ("--losses", "--lr", "--seeds", "--preset", "--hyperparameter", "--workers", "--resume", "--json"):
        assert option in ended.out


# -- one run, looked at from all sides --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory, here: Command) -> tuple[Any, Path]:
    parent = tmp_path_factory.mktemp("plain")
    return here(*TINY, "--output", parent), parent


@pytest.fixture(scope="module")
def as_json(tmp_path_factory: pytest.TempPathFactory, here: Command) -> tuple[Any, Path]:
    parent = tmp_path_factory.mktemp("json")
    return here(*TINY, "--output", parent, "--json"), parent


def test_not_a_terminal_gets_plain_lines(plain: tuple[Any, Path], only: Only) -> None:
    ended, parent = plain
    assert (ended.code, ended.err) == (0, "")
    assert "\x1b" not in ended.out
    assert "\r" not in ended.out
    assert ended.out.startswith("digits: 2 losses, learning rates 0.1, 0.01, 1 seed, 12 steps of 64 examples")
    for words in ("ce-lr0.1-seed0: 12 steps", "1-AUPRC", "batch CE", "against", f"written to {only(parent)}"):
        assert words in ended.out
    assert "so far" not in ended.out


def test_a_run_leaves_its_files(plain: tuple[Any, Path], only: Only) -> None:
    path = only(plain[1])
    assert path.name.endswith("-accuracy-digits")
    names = {each.name for each in path.iterdir()} - {".lock"}
    assert names == {
        "run.json", "trainings.jsonl", "evaluations.jsonl", "influences", "checkpoints",
        "table1.csv", "table1.md", "table1.tex", "table2.csv", "table2.md", "table2.tex",
        "fig2.png", "fig2.svg", "curves.png", "curves.svg",
    }  # fmt: skip
    manifest = load(path).manifest
    assert manifest.status == "complete"
    assert manifest.recipe.steps == 12
    assert "--steps" not in manifest.command or manifest.command[:3] == ("python", "-m", "bench")


def test_json_is_one_object_on_standard_output(as_json: tuple[Any, Path], only: Only) -> None:
    ended, parent = as_json
    assert ended.code == 0
    content = json.loads(ended.out)
    assert list(content) == ["schema", "run", "rows"]
    assert content["run"]["path"] == str(only(parent))
    assert content["run"]["status"] == "complete"
    assert [(row["loss"], row["aligned"], row["status"]) for row in content["rows"]] == [
        ("ce", False, "ok"), ("batch-ce", True, "ok"),
    ]  # fmt: skip
    for row in content["rows"]:
        assert 0 < row["measures"]["one_minus_auprc"]["mean"] < 1
        assert row["parity_with_own"]["verdict"] in ("parity", "worse", "undecided")
    assert "12 steps of 64 examples" in ended.err, "progress and table"


def test_what_a_run_leaves_and_prints_is_valid(as_json: tuple[Any, Path], only: Only) -> None:
    ended, parent = as_json
    folder = only(parent)
    validators = {name: Draft202012Validator(schema) for name, schema in schemas().items()}
    validators["accuracy-run.schema.json"].validate(json.loads((folder / "run.json").read_text()))
    validators["accuracy-rows.schema.json"].validate(json.loads(ended.out))
    for name, form, count in (("trainings.jsonl", "training", 4), ("evaluations.jsonl", "evaluation", 2)):
        lines = (folder / name).read_text().splitlines()
        assert len(lines) == count
        for line in lines:
            validators[f"{form}.schema.json"].validate(json.loads(line))
    content = json.loads(ended.out)
    for wrong in ({**content, "schema": "slc-bench/rows/1"}, {**content, "more": 1}, {"run": content["run"]}):
        assert not validators["accuracy-rows.schema.json"].is_valid(wrong)


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """No tables and figures on disk: they are looked at above, and drawing takes longer than training."""
    monkeypatch.setattr("bench.cli.training.results.write_together", lambda folder, results: [])


@pytest.mark.usefixtures("undrawn")
def test_quiet_shows_the_table_and_no_progress(tmp_path: Path, here: Command) -> None:
    ended = here(*TINY, "--output", tmp_path, "--quiet")
    assert (ended.code, ended.err) == (0, "")
    assert "1-AUPRC" in ended.out
    assert "seed0: 12 steps" not in ended.out


@pytest.mark.usefixtures("undrawn")
def test_json_and_quiet_leave_warnings_alone_on_standard_error(tmp_path: Path, here: Command) -> None:
    options = ["--lr", "1000000,0.01", "--json", "--quiet"]
    ended = here(*TINY, "--losses", "self-norm", *options, "--output", tmp_path)
    assert ended.code == 0, "a training that diverges is a result"
    assert json.loads(ended.out)["rows"][0]["learning_rate"] == [0.01]
    lines = ended.err.splitlines()
    assert "1 training diverged: self-norm-lr1e+06-seed0" in lines[0]
    assert {line.split(":")[0] for line in lines} == {"warning", "  why it matters", "  what to do"}


@pytest.mark.usefixtures("undrawn")
def test_a_training_that_was_lost_is_told_as_it_ends_and_in_the_end(tmp_path: Path, here: Command) -> None:
    ended = here(*TINY, "--losses", "self-norm", "--lr", "1000000,0.01", "--output", tmp_path)
    assert (ended.code, ended.err) == (0, "")
    assert ended.out.count("self-norm-lr1e+06-seed0: diverged") == 2


@pytest.mark.usefixtures("undrawn")
def test_a_complete_run_is_shown_again_without_training(
    plain: tuple[Any, Path], here: Command, only: Only, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bench.accuracy.training.train", lambda *_, **__: pytest.fail("it trained again"))
    path = only(plain[1])
    before = (path / "run.json").read_text(), (path / "trainings.jsonl").read_text()
    ended = here("accuracy", "--resume", path)
    assert (ended.code, ended.err) == (0, "")
    assert "4 of 4 trainings ended before" in ended.out
    assert "batch CE" in ended.out
    assert ((path / "run.json").read_text(), (path / "trainings.jsonl").read_text()) == before


@pytest.mark.slow
def test_a_grid_goes_on_to_its_end_when_its_reader_leaves(tmp_path: Path, begin: Begin, only: Only) -> None:
    with begin(*TINY, "--output", tmp_path) as process:  # as `| head -1` does
        assert process.stdout.readline().startswith("digits: 2 losses")
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 0
    assert load(only(tmp_path)).manifest.status == "complete"
    assert (only(tmp_path) / "table1.md").exists()


# -- nothing trained --------------------------------------------------------------------------------------------


def test_a_dry_run_trains_nothing_and_leaves_nothing(tmp_path: Path, here: Command) -> None:
    ended = here(*TINY, "--dry-run", "--output", tmp_path / "results")
    assert (ended.code, ended.err) == (0, "")
    for words in ("digits: 4 trainings of 12 steps of 64 examples", "ce, batch-ce", "At least", "Nothing was trained"):
        assert words in ended.out
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_as_json(tmp_path: Path, here: Command) -> None:
    ended = here(*TINY, "--dry-run", "--json", "--seeds", 2, "--output", tmp_path / "results")
    assert (ended.code, ended.err) == (0, "")
    content = json.loads(ended.out)
    Draft202012Validator(schemas()["accuracy-outlook.schema.json"]).validate(content)
    assert content["run"]["path"] is None
    assert content["run"]["seconds"] > 0
    assert content["run"]["recipe"]["network"] == "mlp"
    assert len(content["rows"]) == 8
    assert content["rows"][0] == {"loss": "ce", "learning_rate": 0.1, "seed": 0}
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Request]:
    """What the command line asks for; nothing is trained."""
    requests: list[Request] = []

    def take(request: Request, output: Path, *, json: bool, quiet: bool) -> int:
        requests.append(request)
        return 0

    monkeypatch.setattr("bench.cli.training.new", take)
    return requests


def test_the_defaults(here: Command, asked: list[Request]) -> None:
    assert here("accuracy").code == 0
    assert asked == [Request()]


def test_rivals_are_trained_and_stand_in_the_table(here: Command, tmp_path: Path) -> None:
    ended = here(*TINY[:1], "--top-layer", "full,low-rank", *TINY[1:], "--output", tmp_path)
    assert (ended.code, ended.err) == (0, "")
    assert "low-rank softmax" in ended.out
    refused = here("accuracy", "--top-layer", "low-ranck", "--output", tmp_path)
    assert (refused.code, refused.out) == (2, "")
    assert "--top-layer 'low-ranck': give all, or some of full" in refused.err


def test_the_papers_losses_can_be_asked_for_beside_a_preset(here: Command, asked: list[Request]) -> None:
    """A preset names losses of its own, which stand only where nobody named any."""
    assert here("accuracy", "--preset", "paper-imagenet", "--losses", "paper").code == 0
    assert here("accuracy", "--preset", "paper-imagenet").code == 0
    assert asked == [
        Request(preset="paper-imagenet", losses=PAPER_LOSSES),
        Request(preset="paper-imagenet", losses="paper"),
    ]


def test_every_option_reaches_the_request(here: Command, asked: list[Request], tmp_path: Path) -> None:
    options: dict[str, tuple[Any, dict[str, Any]]] = {
        "--dataset": ("mnist", {"dataset": "mnist"}),
        "--losses": ("all", {"losses": "all"}),
        "--top-layer": ("full,adaptive", {"top_layers": "full,adaptive"}),
        "--lr": ("0.5, 1e-3", {"learning_rates": [0.5, 0.001]}),
        "--seeds": (3, {"seeds": 3}),
        "--seed": (4, {"seed": 4}),
        "--network": ("cnn", {"network": "cnn"}),
        "--preset": ("paper-imagenet", {"preset": "paper-imagenet"}),
        "--steps": (7, {"steps": 7}),
        "--batch-size": (32, {"batch_size": 32}),
        "--optimiser": ("adam", {"optimiser": "adam"}),
        "--momentum": (0.5, {"momentum": 0.5}),
        "--weight-decay": (1e-4, {"weight_decay": 1e-4}),
        "--schedule": ("cosine", {"schedule": "cosine"}),
        "--dtype": ("bfloat16", {"dtype": "bfloat16"}),
        "--compile": ("default", {"compile": "default"}),
        "--device": ("cpu", {"device": "cpu"}),
        "--workers": (2, {"workers": 2}),
        "--stack": (5, {"stack": 5}),
        "--threads": (1, {"threads": 1}),
        "--top-layer-step": ("chunked", {"top_layer_step": "chunked"}),
        "--accumulate": (2, {"accumulate": 2}),
        "--data-dir": (tmp_path, {"data_dir": tmp_path}),
    }
    arguments = [part for name, (value, _) in options.items() for part in (name, value)]
    flags = ["--quick", "--prior-bias"]
    hyperparameters = ["--hyperparameter", "self-norm.alpha=0.2", "--hyperparameter", "nce.q=uniform"]
    assert here("accuracy", *arguments, *flags, *hyperparameters).code == 0
    expected = {name: value for _, fields in options.values() for name, value in fields.items()}
    assert asked == [
        Request(
            **expected,
            quick=True,
            prior_bias=True,
            hyperparameters={"self-norm": {"alpha": 0.2}, "nce": {"q": "uniform"}},
        )
    ]
