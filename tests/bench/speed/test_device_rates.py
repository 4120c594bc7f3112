import json
from pathlib import Path
from typing import Any

import pytest

from bench.errors import UsageError
from bench.speed import device_rates
from bench.speed.device_rates import DeviceRates, StatedError
from bench.speed.predict import Spread
from bench.speed.prediction import Rates
from bench.speed.settings import Setting

GOOD: dict[str, Any] = {
    "schema": "slc-bench/rates/1",
    "machine": "a large GPU",
    "device": "cuda",
    "dtype": "float32",
    "batch_size": 32,
    "operations_per_s": 1.7e13,
    "bytes_per_s": 1.4e12,
    "seconds_at_one_class": {"resnet50": 0.00041},
}


def _setting(arch: str = "resnet50", **changes: Any) -> dict[str, Any]:
    return {"arch": arch, "input_shape": [3, 224, 224], "device": "cuda:0", "threads": 2, **changes}


def _timed(**settings: dict[str, Any]) -> dict[str, Any]:
    return {"seconds_at_one_class": dict.fromkeys(settings, 0.001), "settings_at_one_class": settings}


def _written(folder: Path, **changes: Any) -> Path:
    path = folder / "rates.json"
    path.write_text(json.dumps({name: value for name, value in {**GOOD, **changes}.items() if value != "LEFT OUT"}))
    return path


def test_a_file_holds_rates_and_times(tmp_path: Path) -> None:
    given = device_rates.read(_written(tmp_path))
    assert given.rates == Rates(1.7e13, 1.4e12)
    assert (given.seconds_at_one_class, given.spread) == ({"resnet50": 0.00041}, None)


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    whole = DeviceRates(
        machine="this one",
        operations_per_s=1e11,
        bytes_per_s=5e9,
        fresh_bytes_per_s=2e9,
        seconds_at_one_class={"alexnet": 0.01},
        memory_bytes=2**34,
        settings_at_one_class={"alexnet": Setting.model_validate(_setting("alexnet", device="cpu"))},
        versions={"torch": "2.11.0"},
        error=StatedError(added_ratio_low=0.9, added_ratio_high=1.1, points=5, runs=2, networks=1),
    )
    device_rates.write(tmp_path / "deeper" / "rates.json", whole)
    assert device_rates.read(tmp_path / "deeper" / "rates.json") == whole
    assert whole.spread == Spread(0.9, 1.1, 5, runs=2, networks=1)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"operations_per_s": -1e12}, "operations_per_s"),
        ({"bytes_per_s": 0}, "bytes_per_s"),
        ({"bytes_per_s": float("nan")}, "bytes_per_s"),
        ({"bytes_per_s": float("inf")}, "bytes_per_s"),
        ({"bytes_per_s": "LEFT OUT"}, "bytes_per_s: Field required"),
        ({"bytes_per_s": 1400}, "bytes_per_s is 1400, which is no device's: give units a second"),
        ({"operations_per_s": 1.7e22}, "operations_per_s is 1.7e+22"),
        ({"gigabytes_per_s": 1400}, "gigabytes_per_s: Extra inputs"),
        ({"seconds_at_one_class": {"resnet50": -1}}, "seconds_at_one_class.resnet50"),
        ({"seconds_at_one_class": {"resnet50": float("nan")}}, "seconds_at_one_class.resnet50"),
        ({"dtype": "int8"}, "dtype"),
        ({"device": "tpu"}, "device: Input should be 'cpu' or 'cuda'"),
        ({"device": "cuda:0"}, "device: Input should be 'cpu' or 'cuda'"),
        ({"settings_at_one_class": {"vgg16": _setting("vgg16")}}, "settings_at_one_class.vgg16 has no time beside it"),
        (_timed(resnet50=_setting(dtype="float16")), "resnet50 is not of this file: dtype: float16 and float32"),
        (_timed(resnet50=_setting(batch_size=8)), "resnet50 is not of this file: batch_size: 8 and 32"),
        (_timed(resnet50=_setting(device="cpu")), "resnet50 is not of this file: device: cpu and cuda"),
        (_timed(resnet50=_setting("vgg16")), "resnet50 is not of this file: arch: vgg16 and resnet50"),
        (_timed(resnet50=_setting(top_layer="adaptive")), "top_layer: adaptive and full"),
        (_timed(resnet50=_setting(work="normalised")), "work: normalised and logits"),
        (_timed(resnet50=_setting(), vgg16=_setting("vgg16", threads=1)), "has two: threads: 2 and 1"),
        (_timed(resnet50=_setting(), vgg16=_setting("vgg16", compile="default")), "two: compile: none and default"),
        ({"batch_size": 0}, "batch_size"),
        ({"schema": "slc-bench/rates/2"}, "schema"),
        ({"error": {"added_ratio_low": 1.2, "added_ratio_high": 1.1, "points": 4}}, "error: added_ratio_low is above"),
        ({"error": {"added_ratio_low": 0.9, "added_ratio_high": 1.1, "points": 1}}, "error.points"),
    ],
)
def test_anything_else_is_refused_with_file_and_field(changes: dict[str, Any], said: str, tmp_path: Path) -> None:
    path = _written(tmp_path, **changes)
    with pytest.raises(UsageError) as refused:
        device_rates.read(path)
    assert str(path) in str(refused.value)
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_top_layer_that_took_no_time_can_be_stated(tmp_path: Path) -> None:
    stated = {"added_ratio_low": 0, "added_ratio_high": 1.1, "points": 4}
    assert device_rates.read(_written(tmp_path, error=stated)).spread == Spread(0.0, 1.1, 4)


def test_a_file_cut_short_is_refused(tmp_path: Path) -> None:
    path = _written(tmp_path)
    path.write_text(path.read_text()[:60])
    with pytest.raises(UsageError, match=r"rates\.json: Invalid JSON"):
        device_rates.read(path)


def test_what_is_no_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "rates.json"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UsageError, match="is no text"):
        device_rates.read(path)


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"cannot read rates from .*No such file"):
        device_rates.read(tmp_path / "none.json")


def test_where_nothing_can_be_written_it_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="cannot write rates to"):
        device_rates.write(tmp_path / "file" / "rates.json", DeviceRates.model_validate(GOOD))
