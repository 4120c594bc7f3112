import io
from typing import Any

import pytest

from bench.schemas import PredictionsObject
from bench.speed.pools import Pool, Source, pools
from bench.speed.predict import Check, Layer, Measured, Model, Spread
from bench.speed.prediction import Rates
from bench.speed.settings import Setting
from reports import predictions
from reports.published import table3

SETTING = Setting(arch="resnet50", input_shape=(3, 224, 224), device="cpu", threads=2)
MODEL = Model(Layer(32, 2048, True, 4), single_s=0.1, rates=Rates(1e11, 1e10))


def _source(arch: str = "resnet50", **changes: Any) -> Source:
    fields = {"device": "cpu", "machine": "a machine", "dtype": "float32", "rates_are": "calibrated", "run": "a run"}
    own = {name: changes.pop(name) for name in list(changes) if name in Setting.model_fields and name not in fields}
    setting = SETTING.model_copy(update={"arch": arch, "device": changes.get("device", "cpu"), **own})
    return Source(**{"arch": arch, "model": MODEL, "single_is": "measured", "setting": setting, **fields, **changes})


def _measured(*pairs: tuple[int, float]) -> dict[str, Any]:
    """Points of (classes, measured seconds), and the checks of MODEL at them."""
    return {
        "measured": tuple(Measured(*pair) for pair in pairs),
        "checked": tuple(Check(classes, seconds, MODEL.seconds(classes), 0.1) for classes, seconds in pairs),
    }


def test_a_line_a_count_with_its_range_and_its_error() -> None:
    seconds = MODEL.seconds(2**18)
    source = _source(memory_bytes=2**34, **_measured((2**18, seconds / 1.05)))
    one, measured, far = predictions.cells(source, [1, 2**18, 2**24], Spread(0.5, 2.0, 5))
    assert one[:5] == ("1", "3.125", "", "1.00", "3.125")
    assert measured[5] == "+5.0 %"
    assert far[0] == "16,777,216"
    assert " .. " in far[2]
    assert (measured[-1], far[-1]) == ("", "does not fit")
    assert (one[6:8], far[6:8]) == (("8.20 kB", "128 B"), ("138 GB", "2.15 GB"))


def test_what_is_a_bound_is_called_one() -> None:
    assert "NOT measured" in predictions.basis(_source(single_is="operations", rates_are="given"))[0]
    assert "NOT" not in predictions.basis(_source(single_is="given", rates_are="given"))[0]


def test_a_file_that_does_not_say_how_it_was_measured_is_told_of() -> None:
    _, line = predictions.basis(_source(single_is="given", rates_are="given", setting=None))
    assert "does not say at which input size, threads and mode" in line
    assert len(predictions.basis(_source(single_is="given", rates_are="given"))) == 1


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, "resnet50: float32, batch 32, 3x224x224, 2 threads, eager, top layer of 2,048 features with bias"),
        ({"compile": "default"}, "2 threads, compile default, top layer"),
        ({"cuda_graph": True}, "eager, CUDA graph, top layer"),
        ({"channels_last": True}, "eager, channels last, top layer"),
        ({"device": "cuda:0", "tf32": True}, "eager, TF32, top layer"),
        ({"threads": 1}, "1 thread, eager"),
        ({"input_shape": (3, 64, 64)}, "3x64x64, 2 threads"),
        ({"order": "sequential"}, "eager, sequential, top layer"),
        ({"seed": 3}, "eager, seed 3, top layer"),
        ({"setting": None}, "resnet50: float32, batch 32, top layer"),
    ],
)
def test_every_trait_is_in_the_heading(changes: dict[str, Any], said: str) -> None:
    assert said in predictions.heading(_source(**changes))
    assert predictions.heading(_source(), with_run=True).endswith("(a machine), a run")


def test_beyond_what_was_measured_it_says_how_far() -> None:
    lines = "\n".join(predictions.reach(_source(**_measured((2**16, 1.0))), [2**18]))
    assert "4.0 times the largest count measured (65,536)" in lines
    assert "fresh memory" in lines  # 32 MiB of logits, where 8 MiB were measured
    within = "\n".join(predictions.reach(_source(**_measured((2**20, 1.0))), [2**18]))
    assert "times the largest" not in within
    assert "fresh" not in "\n".join(predictions.reach(_source(device="cuda:0", **_measured((2**16, 1.0))), [2**18]))


def test_the_error_is_that_of_the_judged_points() -> None:
    good, bad = MODEL.seconds(2**16) / 1.05, MODEL.seconds(2**18) / 1.2
    text = predictions.error_text(Pool((_source(**_measured((2**14, 1.0), (2**16, good), (2**18, bad))),)))
    assert (
        "1 of 2 measured points from 65,536 classes on (1 run, 1 network) are within 10 % of the median, the worst is "
        "20.0 % off"
    ) in text
    low, high = ((seconds - 0.1) / (MODEL.seconds(k) - 0.1) for k, seconds in ((2**18, bad), (2**16, good)))
    assert f"2 points (1 run, 1 network) tell: it took {low:.2f} to {high:.2f} times" in text
    assert "probability 33 %" in text


@pytest.mark.parametrize("counts", [(), (2**14, 2**15)])
def test_where_the_error_is_unknown_there_is_no_range(counts: tuple[int, ...]) -> None:
    pool = Pool((_source(**_measured(*((count, MODEL.seconds(count)) for count in counts))),))
    assert predictions.error_text(pool).startswith("error: unknown, as no point from 65,536 classes on was measured")
    assert [line[2] for line in predictions.cells(pool.sources[0], [1, 2**20], pool.spread)] == ["", ""]


def test_one_point_tells_no_range() -> None:
    pool = Pool((_source(**_measured((2**16, MODEL.seconds(2**16)))),))
    assert "no range is given" in predictions.error_text(pool)
    assert pool.spread is None


def test_an_error_stated_by_a_file_is_called_that_and_is_none_of_a_bound() -> None:
    given: dict[str, Any] = {"rates_are": "given", "stated": Spread(0.9, 1.1, 9, 3, 2)}
    text = predictions.error_text(Pool((_source(single_is="given", **given),)))
    assert "as the file of rates states it" in text
    assert "9 points (3 runs, 2 networks) tell" in text
    bound = predictions.error_text(Pool((_source(single_is="operations", **given),)))
    assert bound == "error: unknown, as the time at one class was not measured, so no range is given"
    silent = predictions.error_text(Pool((_source(single_is="given", rates_are="given"),)))
    assert "unknown, as the file of rates states none" in silent


def test_settings_that_differ_have_their_own_headings_rows_and_errors() -> None:
    seconds = MODEL.seconds(2**18)
    eager = _source(**_measured((2**16, MODEL.seconds(2**16)), (2**18, seconds)))
    compiled = _source(compile="default", **_measured((2**16, 1.0), (2**18, 2 * seconds)))
    found = pools([eager, compiled])
    stream = io.StringIO()
    predictions.print_predictions(found, [1, 2**20], stream)
    text = stream.getvalue()
    assert ("threads, eager, top" in text, "threads, compile default, top" in text) == (True, True)
    assert text.count("error of the one above:") == 2
    assert [line[0] for line in predictions.paper_cells([eager, compiled])] == [
        "resnet50 (eager)",
        "resnet50 (compile default)",
    ]
    content: Any = predictions.to_object(found, [1, 2**20], ["a run"])
    assert [row["compile"] for row in content["rows"]] == ["none", "none", "default", "default"]
    assert [model["pool"] for model in content["run"]["models"]] == [0, 1]
    ratios = [pool["added_ratio_high"] for pool in content["run"]["pools"]]
    assert ratios[0] == pytest.approx(1.0)
    assert ratios[1] > 2
    PredictionsObject.model_validate(content)


def test_break_even_counts_are_guesses_of_two_digits_and_none_is_said() -> None:
    assert "1.1x as fast from" in predictions.break_even_line(_source())
    idle = _source(model=Model(MODEL.layer, 1e9, MODEL.rates))
    assert "10x as fast from more than 2^40 classes" in predictions.break_even_line(idle)


def test_the_papers_last_step_stands_beside_the_line_through_its_smaller_counts() -> None:
    (step,) = predictions.paper_steps([_source("timm/other"), _source("resnet50")])
    index, arch, single, before, after, step_s, line_s, here_s = step
    assert (index, arch, single, before, after) == (1, "resnet50", 0.0061, 0.0191, 0.078)
    assert step_s == pytest.approx(0.0589)
    assert line_s == pytest.approx((0.0191 - 0.0061) * (370_727 - 262_144) / 262_143)
    assert here_s == pytest.approx((MODEL.seconds(370_727) - MODEL.seconds(262_144)) / 32)


def test_what_the_text_says_of_the_papers_step_is_so() -> None:
    archs = {point.arch for point in table3()}
    steps = [step[5] for step in predictions.paper_steps([_source(arch) for arch in sorted(archs)])]
    assert len(steps) == 5
    assert (round(1e3 * min(steps)), round(1e3 * max(steps))) == (54, 59)
    assert "54 to 59 ms" in predictions.PAPER_TEXT


def test_everything_is_printed_and_nothing_of_the_paper_for_other_networks() -> None:
    stream = io.StringIO()
    predictions.print_predictions([Pool((_source("timm/other"),))], [1, 2**20], stream)
    text = stream.getvalue()
    assert "timm/other: float32, batch 32, 3x224x224, 2 threads, eager, top layer of 2,048 features with bias" in text
    assert "1,048,576" in text
    assert "paper" not in text
