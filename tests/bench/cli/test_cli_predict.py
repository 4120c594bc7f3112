"""`python -m bench predict`: what it reads, what it refuses, and its exit codes. The numbers: test_predict.py."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bench.schemas import PredictionsObject
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
    for option in (
        "--run",
        "--setting",
        "--input-size",
        "--fit",
        "--device-rates",
        "--save-rates",
        "--max-classes",
        "--json",
    ):
        assert option in ended.out


def test_from_a_run_far_beyond_what_was_measured(here: Command) -> None:
    ended = here("predict", "--run", RESNET, "--max-classes", "2**24")
    assert ended.code == 0
    for text in (
        "16,777,216",
        "does not fit",
        "45 times the largest count measured (370,727)",
        "3 of 3 measured points from 65,536 classes on (1 run, 1 network) are within 10 %",
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
    (pool,) = content["run"]["pools"]
    assert (model["rates"], model["pool"], model["compile"], model["threads"]) == ("fitted", 0, "none", 2)
    assert (pool["judged_points"], pool["judged_runs"], pool["judged_networks"]) == (3, 1, 1)
    PredictionsObject.model_validate(content)
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
    (pool,) = json.loads(second.out)["run"]["pools"]
    assert (pool["added_ratio_points"], pool["added_ratio_runs"], pool["stated"]) == (2, 1, True)
    rows = [json.loads(ended.out)["rows"] for ended in (first, second)]
    how = [[{name: row[name] for name in ("input_shape", "threads", "compile")} for row in of] for of in rows]
    assert how[0] == how[1] == 2 * [{"input_shape": [3, 224, 224], "threads": 2, "compile": "none"}]


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
        (("--run", RESNET, "--input-size", "0"), "--input-size 0: must be 1 or more"),
        (("--run", RESNET, "--input-size", "64"), "which hold resnet50 (float32, batch 32, 3x224x224)"),
        (("--run", RESNET, "--setting", "compile=default"), "no setting of these runs is that; they have compile=none"),
        (("--run", RESNET, "--setting", "eager"), "write FIELD=VALUE"),
        (("--setting", "compile=none"), "--setting chooses among what was measured: give --run or --device-rates"),
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


def test_a_file_for_a_device_that_is_not_known_is_refused(here: Command, rates_file: Path) -> None:
    rates_file.write_text(rates_file.read_text().replace("cuda", "tpu"))
    ended = here("predict", "--device-rates", rates_file)
    assert (ended.code, "device: Input should be 'cpu' or 'cuda'" in ended.err) == (2, True)


def test_a_mode_that_a_file_does_not_have_or_does_not_say_is_refused(
    here: Command, rates_file: Path, tmp_path: Path
) -> None:
    silent = here("predict", "--device-rates", rates_file, "--setting", "compile=default")
    assert (silent.code, "does not say how its times were measured" in silent.err) == (2, True)
    saved = tmp_path / "saved.json"
    assert here("predict", "--run", RESNET, "--save-rates", saved).code == 0
    other = here("predict", "--device-rates", saved, "--setting", "compile=default")
    assert (other.code, "are those of compile=none" in other.err) == (2, True)
    size = here("predict", "--device-rates", saved, "--input-size", "64")
    assert (size.code, "the file's time is of 3x224x224" in size.err) == (2, True)
    assert here("predict", "--device-rates", saved, "--setting", "compile=none", "--input-size", "224").code == 0


@pytest.fixture
def of_settings(tmp_path: Path) -> Callable[..., Path]:
    """The run of ResNet-50, with each of its settings changed as told, all with the same samples."""

    def make(*changes: dict[str, object]) -> Path:
        content = json.loads((RESNET / "run.json").read_text())
        for kind in ("points", "processes"):
            content[kind] = [{**each, "setting": index} for index in range(len(changes)) for each in content[kind]]
        content["settings"] = [{**content["settings"][0], **change} for change in changes]
        lines = [json.loads(line) for line in (RESNET / "samples.jsonl").read_text().splitlines()]
        (tmp_path / "run.json").write_text(json.dumps(content))
        (tmp_path / "samples.jsonl").write_text(
            "".join(json.dumps({**line, "setting": index}) + "\n" for index in range(len(changes)) for line in lines)
        )
        return tmp_path

    return make


def test_settings_of_other_kinds_are_left_out_with_a_line_a_reason(here: Command, of_settings: Any) -> None:
    rivals = [{"top_layer": "adaptive", "batch_size": size} for size in (8, 16)]
    run = of_settings({}, *rivals, {"work": "normalised"})
    ended = here("predict", "--run", run, "--classes", "2**20")
    assert ended.code == 0
    one, other = (line for line in ended.err.splitlines() if "left out" in line)
    assert "batch 8, adaptive top layer); resnet50 (batch 16, adaptive top layer) (its top layer is adaptive" in one
    assert "normalised) (it measured --work normalised" in other
    nothing = here("predict", "--run", run, "--setting", "top_layer=adaptive")
    assert (nothing.code, nothing.err.count("\n")) == (2, 1)
    assert "cannot be predicted: its top layer is adaptive" in nothing.err


def test_modes_of_one_run_have_their_own_headings_keys_and_errors(here: Command, of_settings: Any) -> None:
    run = of_settings({}, {"compile": "default"}, {"channels_last": True})
    ended = here("predict", "--run", run, "--classes", "2**20")
    assert ended.code == 0
    for heading in ("threads, eager, top", "compile default, top", "eager, channels last, top"):
        assert heading in ended.out
    assert ended.out.count("3 of 3 measured points from 65,536 classes on (1 run, 1 network)") == 3
    content = json.loads(here("predict", "--run", run, "--classes", "2**20", "--json").out)
    rows = [(row["compile"], row["channels_last"], row["classes"]) for row in content["rows"]]
    assert len(set(rows)) == len(rows) == 6
    assert len(content["run"]["pools"]) == 3


def test_saving_rates_of_several_modes_says_how_to_choose_one(here: Command, of_settings: Any, tmp_path: Path) -> None:
    run, saved = of_settings({}, {"compile": "default"}, {"channels_last": True}), tmp_path / "saved.json"
    ended = here("predict", "--run", run, "--save-rates", saved)
    assert (ended.code, ended.out, saved.exists()) == (2, "", False)
    assert "these have two: compile: none and default; choose with --setting compile=none" in ended.err
    chosen = here("predict", "--run", run, "--save-rates", saved, "--setting", "compile=none,channels_last=true")
    assert chosen.code == 0
    assert json.loads(saved.read_text())["settings_at_one_class"]["resnet50"]["channels_last"] is True


def test_a_run_given_twice_counts_once(here: Command) -> None:
    ended = here("predict", "--run", RESNET, "--run", RESNET / ".." / "resnet50", "--classes", "2**20", "--json")
    content = json.loads(ended.out)
    assert (content["run"]["pools"][0]["judged_points"], len(content["run"]["models"])) == (3, 1)
