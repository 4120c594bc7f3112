import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.counts import MAX_CLASSES
from bench.speed import predict
from bench.speed.predict import Check, Layer, Measured, Model, Spread
from bench.speed.prediction import Rates, top_layer_work

LAYER = Layer(batch_size=2, features=3, bias=True, itemsize=4)

#: One operation a second and bytes for nothing: a class adds 2 x 2 x 3 + 2 = 14 s.
BY_HAND = Model(LAYER, single_s=140.0, rates=Rates(1.0, 1e18))

layers = st.builds(Layer, st.integers(1, 256), st.integers(1, 8192), st.booleans(), st.sampled_from([2, 4]))
models = st.builds(
    Model, layers, st.floats(1e-4, 10), st.builds(Rates, st.floats(1e9, 1e15), st.floats(1e9, 1e13)), st.floats(1, 2)
)


@given(layers)
def test_a_layer_is_found_again_from_the_operations_of_one_class(layer: Layer) -> None:
    operations = layer.work(1).operations
    assert Layer.of_single(operations, batch_size=layer.batch_size, itemsize=layer.itemsize) == layer


@pytest.mark.parametrize("operations", [0, 1, 33])
def test_other_numbers_are_no_operations_of_one_class(operations: int) -> None:
    with pytest.raises(ValueError, match="one class"):
        Layer.of_single(operations, batch_size=2, itemsize=4)


def test_the_papers_largest_layer_needs_6_gb_and_16_kb() -> None:
    layer = Layer(32, 4096, bias=True, itemsize=4)
    assert layer.weight_bytes(370_727) / 1e9 == pytest.approx(6.07, abs=0.01)
    assert layer.weight_bytes(1) / 1e3 == pytest.approx(16.4, abs=0.05)
    assert layer.logit_bytes(370_727) == 32 * 370_727 * 4


def test_times_by_hand() -> None:
    assert BY_HAND.seconds(1) == 140.0
    assert BY_HAND.seconds(11) == pytest.approx(280.0)
    assert BY_HAND.speedup(11) == pytest.approx(2.0)
    assert BY_HAND.slower(3.0).seconds(11) == pytest.approx(140 + 3 * 140)


def test_break_even_by_hand() -> None:
    assert BY_HAND.classes_at(1.5) == 6
    assert BY_HAND.classes_at(1.0) == 1


def test_a_speedup_out_of_reach_is_none() -> None:
    quick = Model(LAYER, single_s=1e9, rates=Rates(1e15, 1e15))
    assert quick.classes_at(10.0) is None


@given(models, st.floats(1.01, 50))
def test_break_even_is_the_least_count_with_that_speedup(model: Model, target: float) -> None:
    found = model.classes_at(target)
    if found is None:
        assert model.speedup(MAX_CLASSES) < target
    else:
        assert model.speedup(found) >= target > model.speedup(found - 1)


@given(models, st.integers(1, 2**30), st.integers(1, 2**30))
def test_more_classes_never_take_less_time(model: Model, one: int, other: int) -> None:
    assert model.seconds(min(one, other)) <= model.seconds(max(one, other))


@given(models, st.integers(2, 2**30))
def test_half_the_rates_add_twice_the_time(model: Model, classes: int) -> None:
    halved = Model(model.layer, model.single_s, model.rates.slowed(2.0), model.slowdown)
    assert halved.added_s(classes) == pytest.approx(2 * model.added_s(classes))


def _exact(model: Model, *classes: int, factor: float = 1.0) -> list[Measured]:
    return [Measured(count, model.slower(factor).seconds(count)) for count in classes]


def test_errors_by_hand() -> None:
    (check,) = predict.checks(BY_HAND, [Measured(11, 350.0)])
    assert check.error == pytest.approx(280 / 350 - 1)
    assert check.added_ratio == pytest.approx(210 / 140)
    assert check.tells


def test_a_point_where_the_top_layer_takes_little_tells_nothing_of_it() -> None:
    assert [check.tells for check in predict.checks(BY_HAND, [Measured(2, 1.0), Measured(3, 1.0)])] == [False, True]


@given(models, st.floats(0.2, 5))
def test_a_fit_finds_the_factor_that_points_were_made_with(model: Model, factor: float) -> None:
    measured = _exact(model, 2**18, 2**20, 2**30, factor=factor)
    fitted = predict.fit(model, measured)
    if fitted is None:
        assert not any(check.tells for check in predict.checks(model, measured))
    else:
        assert fitted.slowdown == pytest.approx(model.slowdown * factor, rel=1e-6)


def test_a_fit_is_the_median_so_that_one_disturbed_point_does_not_move_it() -> None:
    measured = [*_exact(BY_HAND, 20, 40), Measured(80, 10 * BY_HAND.seconds(80))]
    fitted = predict.fit(BY_HAND, measured)
    assert fitted is not None
    assert fitted.slowdown == pytest.approx(1.0)


@pytest.mark.parametrize("measured", [[], [Measured(2, 140.0)], [Measured(100, 1.0)]])
def test_points_that_tell_nothing_or_nonsense_fit_nothing(measured: list[Measured]) -> None:
    assert predict.fit(BY_HAND, measured) is None


def test_each_point_is_held_against_a_fit_to_the_others() -> None:
    measured = [*_exact(BY_HAND, 101), *_exact(BY_HAND, 201, factor=2.0)]
    first, second = predict.left_out(BY_HAND, measured)
    assert (first.predicted_s, first.measured_s) == (pytest.approx(140 + 2 * 1400), pytest.approx(140 + 1400))
    assert (second.predicted_s, second.measured_s) == (pytest.approx(140 + 2800), pytest.approx(140 + 5600))


def test_a_single_point_has_nothing_to_be_held_against() -> None:
    assert predict.left_out(BY_HAND, _exact(BY_HAND, 101)) == []


def test_the_spread_is_from_the_least_to_the_greatest_ratio() -> None:
    found = predict.checks(
        BY_HAND, [*_exact(BY_HAND, 101, factor=0.9), *_exact(BY_HAND, 201, factor=1.3), *_exact(BY_HAND, 301)]
    )
    assert predict.spread(found) == Spread(pytest.approx(0.9), pytest.approx(1.3), 3)
    assert Spread(0.9, 1.3, 3).coverage == 0.5  # of four exchangeable values, one is the least and one the greatest


def test_a_point_below_the_single_logit_is_not_dropped() -> None:
    found = predict.checks(BY_HAND, [Measured(101, 100.0), *_exact(BY_HAND, 201)])
    assert predict.spread(found) == Spread(0.0, pytest.approx(1.0), 2)


def test_one_point_has_no_spread() -> None:
    assert predict.spread(predict.checks(BY_HAND, _exact(BY_HAND, 101))) is None


def test_only_large_counts_are_judged_and_ten_percent_is_the_aim() -> None:
    found = [
        Check(2**15, 1.0, 9.0, 0.5),
        Check(2**16, 1.0, 1.1 - 1e-9, 0.5),
        Check(2**18, 1.0, 0.9 + 1e-9, 0.5),
        Check(2**20, 1.0, 1.11, 0.5),
    ]
    judged = predict.judged(found)
    assert (predict.within_aim(judged), len(judged)) == (2, 3)


def test_predictions_are_ascending_with_their_range_and_memory() -> None:
    first, second = predict.predict(BY_HAND, [11, 1, 11], Spread(0.5, 2.0, 4))
    assert (first.classes, first.seconds, first.low_s, first.high_s) == (1, 140.0, 140.0, 140.0)
    assert (second.classes, second.low_s, second.high_s) == (11, pytest.approx(210.0), pytest.approx(420.0))
    assert (second.weight_bytes, second.logit_bytes) == (4 * 11 * 4, 2 * 11 * 4)


def test_without_an_error_there_is_no_range() -> None:
    (one,) = predict.predict(BY_HAND, [11], None)
    assert (one.low_s, one.high_s) == (None, None)


def test_a_line_by_hand() -> None:
    assert predict.from_line(1.0, [(1, 1.0), (3, 2.0), (11, 6.0)], 21) == pytest.approx(11.0)
    with pytest.raises(ValueError, match="above 1"):
        predict.from_line(1.0, [(1, 1.0)], 21)


@pytest.mark.parametrize(("largest", "classes", "unlike"), [(2**16, 2**18, True), (2**18, 2**20, False), (1, 2, False)])
def test_logits_that_are_suddenly_in_fresh_memory_are_told(largest: int, classes: int, unlike: bool) -> None:
    layer = Layer(32, 2048, bias=False, itemsize=4)
    assert predict.unlike_measured(layer, largest, classes) is unlike


def test_the_work_of_a_layer_is_that_of_the_prediction() -> None:
    assert LAYER.work(7) == top_layer_work(batch_size=2, features=3, classes=7, bias=True, itemsize=4)
