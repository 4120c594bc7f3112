import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.speed.rows import BreakEven
from reports import wording


@pytest.mark.parametrize(
    ("classes", "expected"),
    [(1, None), (512, None), (1024, "10"), (1025, None), (370_727, "18.5"), (370_728, None), (1448, "10.5")],
)
def test_exponent(classes: int, expected: str | None) -> None:
    assert wording.exponent(classes) == expected


@given(st.integers(min_value=20, max_value=120))
def test_exponent_finds_every_half_power(halves: int) -> None:
    assert float(wording.exponent(math.isqrt(2**halves)) or 0) == halves / 2


@pytest.mark.parametrize(
    ("value", "expected"),
    [(0.0312345, "0.0312"), (3.6, "3.60"), (20.24, "20.2"), (1234.5, "1234"), (0.0, "0"), (float("inf"), "inf")],
)
def test_significant(value: float, expected: str) -> None:
    assert wording.significant(value) == expected


@given(st.floats(min_value=1e-9, max_value=1e9), st.integers(min_value=1, max_value=6))
def test_significant_is_within_half_a_unit_of_its_last_digit(value: float, digits: int) -> None:
    text = wording.significant(value, digits)
    assert "e" not in text
    assert float(text) == pytest.approx(value, rel=0.51 * 10.0 ** (1 - digits))


@pytest.mark.parametrize(
    ("seconds", "expected"), [(0.2, "1 s"), (89, "89 s"), (600, "10 min"), (11_400, "3 h 10 min"), (-1, "0 s")]
)
def test_duration(seconds: float, expected: str) -> None:
    assert wording.duration(seconds) == expected


def test_break_even_says_what_is_extrapolated_and_what_is_not_known() -> None:
    found = [
        BreakEven(0, "resnet50", 1.1, 12_345.6, False),
        BreakEven(0, "resnet50", 2, 9.24e6, True),
        BreakEven(0, "resnet50", 10, None, False),
    ]
    assert wording.break_even_lines(found) == [
        "resnet50: one logit is 1.1x as fast from 12,000 classes, 2x as fast from about 9.2 million classes "
        "(extrapolated); from where it is 10x as fast, the measured counts cannot say"
    ]


def test_break_even_has_a_line_for_every_setting() -> None:
    found = [BreakEven(setting, "resnet50", 2.0, 4096.0, False) for setting in (1, 0)]
    lines = wording.break_even_lines(found, {0: "float32", 1: "bfloat16"})
    assert [line.split(":")[0] for line in lines] == ["float32", "bfloat16"]


def test_measured_on_names_networks_device_threads_dtype_batch_and_torch(make_run) -> None:
    text = "\n".join(wording.measured_on(make_run("alexnet", "vgg16").manifest))
    for part in ("alexnet, vgg16", "float32", "batch 32", "2 threads", "cpu (Imaginary CPU", "2 of 2", "torch 2.15.0"):
        assert part in text


def test_measured_on_names_what_only_some_settings_have(make_run) -> None:
    manifest = make_run().manifest
    compiled = manifest.settings[0].model_copy(update={"compile": "default"})
    text = "\n".join(wording.measured_on(manifest.model_copy(update={"settings": (*manifest.settings, compiled)})))
    assert "; eager, compile default; " in text


def test_modes_are_named_where_they_are_not_the_usual_ones(make_run, make_row) -> None:
    usual = make_run().manifest
    odd = {"work": "end-to-end", "top_layer": "adaptive", "cuda_graph": True, "channels_last": True}
    other = usual.settings[0].model_copy(update=odd)
    text = wording.measured_on(usual.model_copy(update={"settings": (*usual.settings, other)}))[1]
    for both in (
        "no CUDA graph, CUDA graph",
        "contiguous, channels last",
        "logits, end-to-end",
        "full top layer, adaptive",
    ):
        assert both in text
    assert "logits" not in wording.measured_on(usual)[1]
    told = wording.row_traits(make_row(**odd))
    assert {name: told[name] for name in ("work", "top layer", "subset")} == {
        "work": "end-to-end", "top layer": "adaptive top layer", "subset": "",
    }  # fmt: skip


def test_several_logits_are_called_so(make_run, make_row) -> None:
    run = make_run(subset=16)
    assert wording.measured_on(run.manifest)[0].startswith("resnet50: 16 logits against up to")
    assert (
        wording.break_even([BreakEven(0, "resnet50", 2.0, 512.0, False, 16)])
        == "16 logits are 2x as fast from 510 classes"
    )
    assert "they are 2x as fast" in wording.break_even([BreakEven(0, "resnet50", 2.0, None, False, 16)])
    control = make_row(kind="control", classes=16, subset=16, speedup=1.0)
    assert "control, 16 logits against themselves: 1.000" in wording.control_line("resnet50", control)
    assert wording.interval(make_row(classes=16, subset=16, speedup_low=1.0, speedup_high=1.0)) == ""


@pytest.mark.parametrize(
    ("device", "dtype", "said"),
    [("cuda:0", "float32", "TF32"), ("cuda:0", "bfloat16", ""), ("cpu", "float32", "")],
)
def test_tf32_is_named_only_where_it_means_something(make_run, device: str, dtype: str, said: str) -> None:
    (setting,) = make_run(device=device, dtype=dtype, tf32=True).manifest.settings
    assert wording.traits(setting)["tf32"] == said


def test_a_point_that_failed_in_several_processes_is_one_line(make_run, make_point) -> None:
    failed = [make_point(1024, setting=1, process=number, status="failed", reason=f"x\n{number}") for number in (0, 1)]
    run = make_run("alexnet", "vgg16", points=[make_point(1), *failed])
    assert wording.failed_points(run.manifest) == ["vgg16, 1,024 classes: failed: x 0"]


def test_distinguish_names_only_what_differs_within_a_name() -> None:
    described = [
        {"dtype": "float32", "batch": "8"},
        {"dtype": "float16", "batch": "8"},
        {"dtype": "int8", "batch": "9"},
    ]
    assert wording.distinguish(["a", "a", "b"], described) == ["float32", "float16", "int8"]
    assert wording.distinguish(["a", "b", "c"], described) == ["", "", ""]


def test_status(make_row) -> None:
    assert wording.status(make_row(rounds_done=0)) == "waiting"
    assert wording.status(make_row(rounds_done=7, marked_samples=3)) == "7 rounds, 3 marked"
    assert wording.status(make_row(status="unsupported")) == "unsupported"
