import pytest

from bench.accuracy.plan import plan
from bench.accuracy.request import Request
from bench.errors import UsageError
from bench.paper.expectation import agreed, demand_of, step_seconds, training_demand
from bench.paper.parts import AccuracyPart, Options, Size, SpeedPart
from bench.paper.requests import accuracy_request, speed_request

CPU = Options(device="cpu", threads=1)


@pytest.mark.usefixtures("in_factories")
def test_a_sweep_takes_time_for_every_minibatch(tiny_speed: SpeedPart) -> None:
    demand = demand_of(tiny_speed, CPU)
    assert 0 < demand.unit_s < 0.1
    assert demand.fixed_s > 2 * demand.unit_s
    assert demand.rate_s == 0


def test_a_grid_is_expected_from_a_trial(tiny_accuracy: AccuracyPart) -> None:
    demand = demand_of(tiny_accuracy, CPU)
    assert 1e-5 < demand.unit_s < 1.0
    assert demand.rate_s > 0


@pytest.mark.parametrize(
    ("looks", "seconds"),
    [((10.0, 11.0), 10.5), ((10.0, 100.0, 11.0), 11.0), ((100.0, 10.0, 9.0), 10.0), ((10.0, 1.0, 9.0), 9.0)],
)
def test_one_spoilt_calibration_of_three_does_no_harm(looks: tuple[float, ...], seconds: float) -> None:
    left = list(looks)
    assert agreed(lambda: left.pop(0)) == seconds
    assert left == []


def test_a_trial_of_a_long_training_ends_early() -> None:
    planned = plan(Request(dataset="digits", losses="ce", learning_rates=(0.01,), steps=10**7, device="cpu", workers=1))
    assert 1e-5 < step_seconds(planned, trial_s=0.6) < 1.0


def test_what_a_grid_takes_by_hand() -> None:
    planned = plan(
        Request(
            dataset="digits", losses="ce,batch-ce", learning_rates=(0.1,), steps=100, seeds=3, device="cpu", workers=2
        )
    )
    facts = planned.dataset.facts
    demand = training_demand(planned, step_s=0.384)  # 1 ms an example forward
    assert demand.unit_s == pytest.approx(6 * 0.384 / 2)
    assert demand.rate_s == pytest.approx(6 * 20 * facts.validation * 1e-3 / 2)
    assert demand.fixed_s == pytest.approx(15 + 6 * (facts.test + facts.train) * 1e-3 / 2)


def test_a_data_set_that_is_not_here_says_so() -> None:
    with pytest.raises(UsageError, match="/nowhere"):
        demand_of(AccuracyPart(dataset="folder:/nowhere"), CPU)


def test_requests_carry_the_options() -> None:
    options = Options(device="cpu", threads=2, seed=7, data_dir="/data")
    sweep = speed_request(SpeedPart(arch="alexnet"), Size(amount=20), options)
    assert (sweep.arch, sweep.minibatches, sweep.threads, sweep.seed) == (("alexnet",), 20, 2, 7)
    part = AccuracyPart(dataset="mnist")
    grid = accuracy_request(part, Size(amount=50, learning_rates=(0.1,)), options)
    assert (grid.dataset, grid.steps, grid.learning_rates, grid.losses) == ("mnist", 50, (0.1,), "paper")
    assert (grid.workers, grid.threads, grid.seed, str(grid.data_dir)) == (2, 1, 7, "/data")
    default = accuracy_request(part, Size(amount=50), Options(device="cpu"))
    assert (default.workers, default.threads, default.data_dir) == (None, None, None)
