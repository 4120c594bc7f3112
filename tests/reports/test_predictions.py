import io
from typing import Any

import pytest

from bench.speed.model_sources import Source
from bench.speed.predict import Check, Layer, Measured, Model, Spread
from bench.speed.prediction import Rates
from reports import predictions
from reports.published import table3

MODEL = Model(Layer(32, 2048, True, 4), single_s=0.1, rates=Rates(1e11, 1e10))


def _source(arch: str = "resnet50", **changes: Any) -> Source:
    fields = {"device": "cpu", "machine": "a machine", "dtype": "float32", "rates_are": "calibrated"}
    return Source(**{"arch": arch, "model": MODEL, "single_is": "measured", **fields, **changes})


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


def test_what_is_a_bound_is_called_one() -> None:
    assert "NOT measured" in predictions.basis(_source(single_is="operations", rates_are="given"))
    assert "NOT" not in predictions.basis(_source(single_is="given", rates_are="given"))


def test_beyond_what_was_measured_it_says_how_far() -> None:
    lines = "\n".join(predictions.reach(_source(**_measured((2**16, 1.0))), [2**18]))
    assert "4.0 times the largest count measured (65,536)" in lines
    assert "fresh memory" in lines  # 32 MiB of logits, where 8 MiB were measured
    within = "\n".join(predictions.reach(_source(**_measured((2**20, 1.0))), [2**18]))
    assert "times the largest" not in within
    assert "fresh" not in "\n".join(predictions.reach(_source(device="cuda:0", **_measured((2**16, 1.0))), [2**18]))


def test_the_error_is_that_of_the_judged_points() -> None:
    good, bad = MODEL.seconds(2**16) / 1.05, MODEL.seconds(2**18) / 1.2
    source = _source(**_measured((2**14, 1.0), (2**16, good), (2**18, bad)))
    text = predictions.error_text([source], Spread(0.7, 0.9, 2))
    assert (
        "1 of 2 measured points from 65,536 classes on are within 10 % of the median, the worst is 20.0 % off" in text
    )
    assert "it took 0.70 to 0.90 times" in text
    assert "probability 33 %" in text


def test_an_error_that_nothing_tells_is_unknown() -> None:
    assert predictions.error_text([_source()], None).startswith("error: unknown")
    assert "no range is given" in predictions.error_text([_source(**_measured((2**16, 1.0)))], None)


def test_an_error_stated_by_a_file_is_called_that() -> None:
    assert "as the file of rates states it" in predictions.error_text([_source(rates_are="given")], Spread(0.9, 1.1, 9))


def test_break_even_counts_are_guesses_of_two_digits_and_none_is_said() -> None:
    assert "1.1x as fast from" in predictions.break_even_line(_source())
    idle = _source(model=Model(MODEL.layer, 1e9, MODEL.rates))
    assert "10x as fast from more than 2^40 classes" in predictions.break_even_line(idle)


def test_the_papers_last_step_stands_beside_the_line_through_its_smaller_counts() -> None:
    (step,) = predictions.paper_steps([_source("resnet50"), _source("timm/other")])
    arch, single, before, after, step_s, line_s, here_s = step
    assert (arch, single, before, after) == ("resnet50", 0.0061, 0.0191, 0.078)
    assert step_s == pytest.approx(0.0589)
    assert line_s == pytest.approx((0.0191 - 0.0061) * (370_727 - 262_144) / 262_143)
    assert here_s == pytest.approx((MODEL.seconds(370_727) - MODEL.seconds(262_144)) / 32)


def test_what_the_text_says_of_the_papers_step_is_so() -> None:
    archs = {point.arch for point in table3()}
    steps = [step[4] for step in predictions.paper_steps([_source(arch) for arch in sorted(archs)])]
    assert len(steps) == 5
    assert (round(1e3 * min(steps)), round(1e3 * max(steps))) == (54, 59)
    assert "54 to 59 ms" in predictions.PAPER_TEXT


def test_everything_is_printed_and_nothing_of_the_paper_for_other_networks() -> None:
    stream = io.StringIO()
    predictions.print_predictions([_source("timm/other")], [1, 2**20], None, stream)
    text = stream.getvalue()
    assert "timm/other: float32, batch 32, top layer of 2,048 features with bias, on cpu (a machine)" in text
    assert "1,048,576" in text
    assert "paper" not in text
