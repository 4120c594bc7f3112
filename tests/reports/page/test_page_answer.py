from bench.accuracy.parity import Parity
from bench.accuracy.rows import Spread, Table1Row
from bench.speed.rows import BreakEven
from reports.page import answer
from reports.page.tables import about
from reports.series import split

EVENS = [BreakEven(0, "resnet50", 1.1, 131_198.5, False), BreakEven(0, "resnet50", 2.0, 1_265_089.6, True)]


def _loss(name: str, error: float, all_error: float, verdict: str, loss: str) -> Table1Row:
    measures, every = ({"one_minus_auprc": Spread.of([value])} for value in (error, all_error))
    parity = Parity(verdict, 1.0, 0.9, 1.1, "", 1)  # type: ignore[arg-type]
    return Table1Row("digits", loss, name, True, "ok", "", (0.1,), (0,), measures, every, None, parity, parity, 0, 0)


def test_one_setting(make_rows) -> None:
    series = split(make_rows("resnet50", single_s=0.030, slope_s=5e-8, classes=(1, 200_001), noise=1e-9))
    assert answer.speed_sentences(series, EVENS) == [
        "With resnet50, one logit is ×1.33 as fast as all 200,001 (95 % interval 1.333 to 1.333).",
        "It is 1.1 times as fast from 130,000 classes on.",
    ]


def test_a_difference_that_was_not_shown_is_not_claimed(make_rows) -> None:
    series = split(make_rows("resnet50", slope_s=0.0, classes=(1, 1024)))
    assert "is not shown to be faster than all 1,024" in answer.speed_sentences(series, [])[0]


def test_several_settings(make_rows) -> None:
    rows = [*make_rows("resnet50", slope_s=5e-8), *make_rows("alexnet", slope_s=5e-7)]
    evens = [*EVENS, BreakEven(0, "alexnet", 1.1, 7040.7, True)]
    first, second = answer.speed_sentences(split(rows), evens)
    assert "(resnet50) to ×7." in first
    assert first.endswith("(alexnet) as fast as all 370,727.")
    assert second == "It is 1.1 times as fast from 7,000 (extrapolated) (alexnet) to 130,000 (resnet50) classes on."


def test_two_settings_alike(make_rows) -> None:
    series = split([*make_rows("b"), *make_rows("a")])
    evens = [BreakEven(0, arch, 1.1, 7040.7, False) for arch in ("b", "a")]
    assert "from 7,000 (a) to 7,000 (b) classes on" in answer.speed_sentences(series, evens)[1]


def test_where_the_counts_cannot_say(make_rows) -> None:
    series = split(make_rows("resnet50"))
    told = answer.speed_sentences(series, [BreakEven(0, "resnet50", 1.1, None, False)])
    assert told[1] == "From how many classes on it pays, the measured counts cannot say."


def test_accuracy() -> None:
    rows = [
        _loss("CE", 0.0061, 0.0005, "worse", "ce"),
        _loss("self-norm", 0.0006, 0.0005, "undecided", "self-norm"),
        _loss("batch CE", 0.0007, 0.0005, "parity", "batch-ce"),
    ]
    assert answer.accuracy_sentence("digits", rows) == (
        "Accuracy on digits: the best single logit is that of self-norm, 1-AUPRC 0.0006, where all logits of CE have "
        "0.0005. Against those, of 3 losses' single logits: 1 shown to be as good, 1 undecided, 1 worse."
    )


def test_what_was_not_measured_is_said() -> None:
    told = answer.sentences([], [])
    assert "How much faster one logit is was not measured" in told[0]
    assert "accuracy was not measured" in told[1]
    assert answer.accuracy_sentence("digits", []) == "Accuracy on digits: no model was tested yet."


def test_counts_nobody_counted_have_two_digits() -> None:
    assert [about(each) for each in (7040.7, 131_198.5, 1_265_089.6)] == ["7,000", "130,000", "1,300,000"]
