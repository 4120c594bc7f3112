"""`python -m bench paper`, with its own options on the real command and its work on tiny parts."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from typer.testing import CliRunner

from bench.cli import reproducing
from bench.paper.budget import Demand
from bench.paper.parts import PAPER, AccuracyPart, Options, SpeedPart
from bench.paper.record import PaperManifest, load
from bench.schemas import schemas
from reports.__main__ import app as reports

Command = Callable[..., Any]
Only = Callable[[Path], Path]

TOGETHER = {
    *("table1.csv", "table1.md", "table1.tex", "table2.csv", "table2.md", "table2.tex"),
    *("table3.csv", "table3.md", "table3.tex", "fig1.png", "fig1.svg", "fig2.png", "fig2.svg"),
    *("curves.png", "curves.svg", "claims.md", "claims.csv"),
}


def _quick(part: SpeedPart | AccuracyPart, options: Options) -> Demand:
    return Demand(fixed_s=1, unit_s=0.001)


def _request(*parts: SpeedPart | AccuracyPart, budget: str = "none") -> PaperManifest:
    return reproducing.request(budget, device="cpu", threads=1, seed=0, data_dir=None, parts=parts)


@pytest.mark.usefixtures("in_factories")
def test_the_whole_way_from_parts_to_claims(
    tmp_path: Path,
    tiny_speed: SpeedPart,
    tiny_accuracy: AccuracyPart,
    only: Only,
    capsys: pytest.CaptureFixture[str],
) -> None:
    missing = AccuracyPart(dataset="folder:/nowhere/at/all")

    def expect(part: SpeedPart | AccuracyPart, options: Options) -> Demand:
        return _quick(part, options) if part.key != missing.key else _unavailable()

    wanted = _request(tiny_speed, tiny_accuracy, missing)
    assert reproducing.new(wanted, tmp_path, json=False, quiet=False, expect=expect) == 3
    shown = capsys.readouterr()
    assert shown.err == ""
    path = only(tmp_path)
    assert path.name.endswith("-paper")
    assert {file.name for file in path.iterdir() if file.is_file()} == TOGETHER | {"run.json", ".lock"}
    for words in ("speed of tiny_networks:small: done", "accuracy on digits: done", "unavailable: it is not here"):
        assert words in shown.out
    parts = {record.part.key: record for record in load(path).parts}
    for key, table in ((tiny_speed.key, "table3.csv"), (tiny_accuracy.key, "table1.csv")):
        assert (path / str(parts[key].folder) / table).is_file()
    claims = (path / "claims.md").read_text()
    assert "accuracy on folder:/nowhere/at/all" in claims
    assert "30 of the paper's" not in claims  # the tiny part's own size is all that was asked for
    before = {name: (path / name).read_bytes() for name in TOGETHER}
    answer = CliRunner().invoke(reports, [str(path), "--output", str(tmp_path / "again")])
    assert answer.exit_code == 0, answer.output
    assert {name: (tmp_path / "again" / name).read_bytes() for name in TOGETHER} == before
    assert "accuracy on folder:/nowhere/at/all: unavailable: it is not here" in answer.output
    other = shutil.copytree(path, tmp_path / "other")
    assert CliRunner().invoke(reports, [str(path), str(other), "--output", str(tmp_path)]).exit_code == 2


def _unavailable() -> Demand:
    from bench.errors import UsageError

    raise UsageError("it is not here")


@pytest.mark.usefixtures("in_factories")
def test_json_is_one_object_and_alone(
    tmp_path: Path, tiny_speed: SpeedPart, capsys: pytest.CaptureFixture[str]
) -> None:
    assert reproducing.new(_request(tiny_speed), tmp_path, json=True, quiet=True, expect=_quick) == 0
    shown = json.loads(capsys.readouterr().out)
    assert (shown["schema"], shown["run"]["status"]) == ("slc-bench/claims/1", "complete")
    assert [row["key"] for row in shown["rows"]] == [
        "tenfold",
        "independent",
        "improvement",
        "no-degradation",
        "little-speedup",
    ]
    assert [part["state"] for part in shown["run"]["parts"]] == ["done"]
    Draft202012Validator(schemas()["claims.schema.json"]).validate(shown)
    run_json = json.loads((Path(shown["run"]["path"]) / "run.json").read_text())
    Draft202012Validator(schemas()["paper-run.schema.json"]).validate(run_json)


def test_a_look_ahead_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)

    def expect(part: SpeedPart | AccuracyPart, options: Options) -> Demand:
        dear = part.key == "accuracy-imagenet"
        return Demand(fixed_s=10, unit_s=30.0 if dear else 0.5 if part.kind == "speed" else 0.001)

    assert reproducing.outlook(_request(*PAPER, budget="2h"), json=False, expect=expect) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any("speed of alexnet" in line and "100 minibatches" in line for line in lines)
    assert any("accuracy on mnist" in line and "at 4 learning rates" in line for line in lines)
    in_table, reason = (line for line in lines if "imagenet" in line)
    assert [cell.strip() for cell in in_table.split("|")[1:-1]] == [
        *("accuracy on imagenet", "", "6,000,000", "", "left-out"),
    ]
    assert reason == (
        "accuracy on imagenet: left-out: 1,000 steps at 1 learning rate would take 8.3 h, more than is left for it"
    )
    assert all(len(line.rstrip()) <= 100 for line in lines if line.startswith("|"))
    assert lines[-1].startswith("expected: ")
    assert lines[-1].endswith("a budget of 2 h 0 min")
    assert reproducing.outlook(_request(*PAPER), json=True, expect=expect) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["schema"], found["run"]["path"], len(found["rows"])) == ("slc-bench/paper-outlook/1", None, 10)
    assert found["rows"][0]["expected_s"] == 10 + 50
    Draft202012Validator(schemas()["paper-outlook.schema.json"]).validate(found)
    assert list(tmp_path.iterdir()) == []


REFUSED: dict[str, tuple[list[str], list[str]]] = {
    "budget": (["--budget", "soon"], ["--budget 'soon'", "2h"]),
    "device": (["--device", "abacus"], ["unknown device 'abacus'"]),
    "threads": (["--threads", "0"], ["--threads", "greater than 0"]),
    "resume of nothing": (["--resume", "nowhere"], ["'nowhere' is not a run"]),
    "resume and more": (["--resume", "nowhere", "--seed", "3"], ["--seed", "leave out"]),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_done_is_one_clear_line(name: str, tmp_path: Path, here: Command) -> None:
    options, words = REFUSED[name]
    output = [] if "--resume" in options else ["--output", tmp_path / "results"]
    ended = here("paper", *options, *output)
    assert (ended.code, ended.out) == (2, "")
    (line,) = ended.err.splitlines()
    for word in words:
        assert word in line
    assert list(tmp_path.iterdir()) == []


def test_the_options_reach_the_work(tmp_path: Path, here: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, Any] = {}

    def new(manifest: PaperManifest, output: Path, **options: Any) -> int:
        seen.update(manifest=manifest, output=output, **options)
        return 0

    monkeypatch.setattr(reproducing, "new", new)
    ended = here(
        *("paper", "--budget", "90m", "--device", "cpu", "--threads", 2, "--seed", 5),
        *("--data-dir", tmp_path, "--output", tmp_path / "results", "--json", "--quiet"),
    )
    assert (ended.code, ended.err) == (0, "")
    manifest = seen["manifest"]
    assert manifest.budget_s == 5400
    assert manifest.options == Options(device="cpu", threads=2, seed=5, data_dir=str(tmp_path))
    assert tuple(record.part for record in manifest.parts) == PAPER
    assert (seen["output"], seen["json"], seen["quiet"]) == (tmp_path / "results", True, True)
    assert here("paper").code == 0
    assert seen["manifest"].budget_s == 7200


def test_help_imports_nothing_heavy(apart: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    script = "import sys\nfrom bench.cli import main\ntry:\n    main()\nfinally:\n    print('torch' in sys.modules)"
    ended = apart("paper", "--help", script=script)
    assert (ended.code, ended.out.splitlines()[-1]) == (0, "False")
    for option in ("--budget", "--data-dir", "--dry-run", "--resume", "--reuse", "--threads"):
        assert option in ended.out
