"""`python -m bench predict`: what it reads, what it refuses, and its exit codes. The numbers: test_predict.py."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bench.speed import model_sources
from bench.speed.prediction import Rates

Command = Callable[..., Any]

MEASURED = Path(__file__).parents[3] / "docs" / "measured" / "amd-epyc-2-cores"
RESNET, ALEXNET = MEASURED / "resnet50", MEASURED / "alexnet"


@pytest.fixture
def rates_file(tmp_path: Path) -> Path:
    path = tmp_path / "rates.json"
    content = {
        "schema": "slc-bench/rates/1",
        "machine": "a large GPU",
        "device": "cuda",
        "operations_per_s": 1e13,
        "bytes_per_s": 1e12,
        "seconds_at_one_class": {"resnet50": 0.0004},
        "memory_bytes": 80 * 10**9,
        "error": {"added_ratio_low": 0.9, "added_ratio_high": 1.1, "points": 9},
    }
    path.write_text(json.dumps(content))
    return path


def test_help_imports_nothing_heavy(help_of: Command) -> None:
    ended = help_of("predict")
    assert (ended.code, ended.err) == (0, "")
    assert "imported: []" in ended.out
    for option in ("--run", "--fit", "--device-rates", "--save-rates", "--max-classes", "--json"):
        assert option in ended.out


def test_from_a_run_far_beyond_what_was_measured(here: Command) -> None:
    ended = here("predict", "--run", RESNET, "--max-classes", "2**24")
    assert ended.code == 0
    for text in (
        "16,777,216",
        "does not fit",
        "45 times the largest count measured (370,727)",
        "3 of 3 measured points from 65,536 classes on are within 10 %",
        "one logit is 1.1x as fast from",
        "the paper's own last step",
        "58.9",
    ):
        assert text in ended.out


def test_several_runs_share_the_statement_of_the_error(here: Command) -> None:
    ended = here("predict", "--run", RESNET, "--run", ALEXNET, "--classes", "2**20")
    assert ended.code == 0
    assert "6 of 6 measured points" in ended.out


def test_json_holds_one_object_with_the_range_of_every_row(here: Command) -> None:
    ended = here("predict", "--run", RESNET, "--classes", "2**18,2**24", "--json", "--fit")
    content = json.loads(ended.out)
    assert content["schema"] == "slc-bench/predictions/1"
    assert [row["classes"] for row in content["rows"]] == [1, 2**18, 2**24]
    assert (content["rows"][1]["measured_s"], content["rows"][2]["measured_s"]) == (pytest.approx(0.13357, 1e-3), None)
    assert all(row["low_s"] <= row["predicted_s"] <= row["high_s"] for row in content["rows"])
    (model,) = content["run"]["models"]
    assert (model["rates"], content["run"]["judged_points"]) == ("fitted", 3)
    assert content["run"]["paper"][0]["step_s"] == pytest.approx(0.0589)


def test_from_a_file_of_another_machine(here: Command, rates_file: Path) -> None:
    ended = here("predict", "--device-rates", rates_file, "--arch", "resnet50", "--max-classes", "2**24")
    assert ended.code == 0
    assert "a large GPU" in ended.out
    assert "as the file of rates states it" in ended.out
    assert "of 80.0 GB there are" in ended.out


def test_a_network_without_a_time_in_the_file_says_that_it_is_a_bound(here: Command, rates_file: Path) -> None:
    ended = here("predict", "--device-rates", rates_file, "--arch", "alexnet", "--classes", "10")
    assert (ended.code, "NOT measured" in ended.out) == (0, True)


def test_saved_rates_predict_what_the_run_predicts(here: Command, tmp_path: Path) -> None:
    saved = tmp_path / "saved.json"
    first = here("predict", "--run", RESNET, "--classes", "2**20", "--save-rates", saved, "--json")
    assert (first.code, first.err) == (0, f"rates written to {saved}\n")
    second = here("predict", "--device-rates", saved, "--classes", "2**20", "--json")
    times = [[row["predicted_s"] for row in json.loads(ended.out)["rows"]] for ended in (first, second)]
    assert times[0] == pytest.approx(times[1])
    assert json.loads(second.out)["run"]["added_ratio_points"] == 2


def test_here_it_says_that_no_error_is_known(here: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_sources, "calibrate", lambda *_, **__: Rates(1e11, 1e10))
    monkeypatch.setattr(model_sources, "PASSES", 2)
    options = ("--batch-size", "2", "--threads", "1", "--device", "cpu", "--classes", "2**20")
    ended = here("predict", "--arch", "tiny_networks:small", *options)
    assert ended.code == 0
    assert "error: unknown" in ended.out
    assert "the paper's own" not in ended.out
    assert "calibrating cpu" in ended.err
    quiet = here("predict", "--arch", "tiny_networks:small", *options, "--quiet", "--json")
    assert (quiet.code, quiet.err) == (0, "")
    assert json.loads(quiet.out)["rows"][1]["low_s"] is None


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--run", RESNET, "--device-rates", "x.json"), "exclude each other"),
        (("--fit",), "--fit needs --run"),
        (("--device-rates", "none.json"), "cannot read rates from none.json"),
        (("--device-rates", "x.json", "--save-rates", "y.json"), "--save-rates writes the rates of this machine"),
        (("--run", RESNET, "--device", "cpu"), "--device is for calibrating"),
        (("--run", RESNET, "--threads", "2"), "--threads is for calibrating"),
        (
            ("--run", RESNET, "--arch", "vgg16"),
            "vgg16: not to be predicted from these runs, which hold resnet50",
        ),
        (("--run", RESNET, "--batch-size", "8"), "nothing to predict from these runs"),
        (("--run", RESNET, "--batch-size", "0"), "must be 1 or more"),
        (("--run", RESNET, "--dtype", "int8"), "must be one of float32"),
        (("--run", RESNET, "--max-classes", "2**63"), "it is above 2**40"),
        (("--run", RESNET, "--max-classes", "2**24", "--classes", "7"), "exclude each other"),
        (("--run", RESNET.parent / "digits"), "run.json"),
        (("--run", "nowhere"), "nowhere"),
        (("--arch", "no-such-network"), "no-such-network"),
    ],
)
def test_what_cannot_be_is_one_line_and_exit_code_2(here: Command, arguments: tuple[object, ...], said: str) -> None:
    ended = here("predict", *arguments)
    assert (ended.code, ended.out) == (2, "")
    assert said in ended.err
    assert ended.err.startswith("error: ")
    assert ended.err.count("\n") == 1


def test_rates_of_another_batch_size_are_not_used_for_this_one(here: Command, rates_file: Path) -> None:
    ended = here("predict", "--device-rates", rates_file, "--batch-size", "8")
    assert (ended.code, "are those of 32" in ended.err) == (2, True)


def test_a_setting_of_another_kind_is_left_out_with_a_line(here: Command, tmp_path: Path) -> None:
    content = json.loads((RESNET / "run.json").read_text())
    content["settings"].append({**content["settings"][0], "top_layer": "adaptive"})
    (tmp_path / "run.json").write_text(json.dumps(content))
    (tmp_path / "samples.jsonl").write_bytes((RESNET / "samples.jsonl").read_bytes())
    ended = here("predict", "--run", tmp_path, "--classes", "2**20")
    assert ended.code == 0
    assert "setting 1 (resnet50) is left out: its top layer is adaptive" in ended.err
