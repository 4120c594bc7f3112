import io

import pytest

from bench.accuracy.outlook import operations_per_example, outlook_of
from bench.accuracy.plan import plan
from bench.accuracy.records import DatasetFacts
from bench.accuracy.request import Request
from bench.accuracy.settings import Recipe
from bench.speed import prediction
from reports.accuracy.outlook import print_outlook

FACTS = DatasetFacts(name="some", classes=10, input_shape=(1, 8, 8), train=1000, validation=100, test=100, split_seed=0)


def test_operations_of_the_mlp_worked_by_hand() -> None:
    """A layer's products are done forward, for its weights and, but for the first layer, for its inputs."""
    first, second, top = 64 * 500, 500 * 500, 500 * 10
    expected = 2 * (2 * first + 3 * second + 3 * top)
    assert operations_per_example(Recipe(network="mlp", steps=1), FACTS) == expected


def test_operations_of_the_cnn_count_its_convolutions() -> None:
    maps = [(1, 128, 5, 8), (128, 128, 1, 8), (128, 256, 5, 4), (256, 256, 1, 4), (256, 512, 5, 2), (512, 512, 1, 2)]
    forward = [2 * inputs * outputs * kernel**2 * side**2 for inputs, outputs, kernel, side in maps]
    forward += [2 * 512 * 1024, 2 * 1024 * 10]
    expected = 3 * sum(forward) - forward[0]
    assert operations_per_example(Recipe(network="cnn", steps=1), FACTS) == expected


def test_an_outlook_is_a_lower_bound_from_operations(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "bench.accuracy.outlook.calibrate", lambda *_, **__: prediction.Rates(operations_per_s=1e9, bytes_per_s=1e9)
    )
    planned = plan(Request(losses="ce,batch-ce", learning_rates=[0.1, 0.01], seeds=3, steps=50, device="cpu"))
    outlook = outlook_of(planned)
    assert (outlook.trainings, outlook.losses, outlook.seeds) == (12, ("ce", "batch-ce"), (0, 1, 2))
    assert outlook.seconds == pytest.approx(12 * 50 * 128 * outlook.operations_per_example / 1e9)
    stream = io.StringIO()
    print_outlook(outlook, stream)
    shown = stream.getvalue()
    for words in ("digits: 12 trainings of 50 steps of 128 examples", "ce, batch-ce", "0.1, 0.01; 3 seeds", "At least"):
        assert words in shown
    assert "Nothing was trained" in shown
