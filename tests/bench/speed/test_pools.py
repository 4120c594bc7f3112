from typing import Any

import pytest

from bench.machine.fingerprint import Gpu, Machine
from bench.speed.pools import Pool, Source, difference, pools
from bench.speed.predict import Check, Layer, Model, Spread
from bench.speed.prediction import Rates
from bench.speed.settings import Setting

GPU = Gpu(name="a GPU", uuid="1", memory_bytes=2**35)
HERE = Machine(os="Linux", cpu="a processor", cores_physical=2, cores_logical=2, cores_usable=2, memory_bytes=2**34)
WITH_GPU = HERE.model_copy(update={"gpu": GPU})


def _check(classes: int, ratio: float, *, added: float = 1.0) -> Check:
    """A point whose top layer took `ratio` times the predicted seconds `added`, beside one second of the backbone."""
    return Check(classes, measured_s=1 + ratio * added, predicted_s=1 + added, single_s=1.0)


def _source(*checked: Check, run: str = "a run", **changes: Any) -> Source:
    own = {name: changes.pop(name) for name in list(changes) if name in Setting.model_fields}
    base = {"arch": "resnet50", "input_shape": (3, 224, 224), "device": "cpu", "threads": 2}
    setting = Setting.model_validate({**base, **own})
    fields = {
        "machine": "m",
        "model": Model(Layer(setting.batch_size, 2048, True, 4), 1.0, Rates(1e11, 1e10)),
        "rates_are": "calibrated",
        "single_is": "measured",
        "setting": setting,
        "hardware": HERE,
        "versions": {"torch": "2.11.0", "numpy": "2.0"},
    }
    named = {"arch": setting.arch, "device": setting.device, "dtype": setting.dtype}
    return Source(**{**named, **fields, "checked": checked, "run": run, **changes})


@pytest.mark.parametrize(
    "changes",
    [
        {"arch": "vgg16"},
        {"arch": "inception_v3", "input_shape": (3, 299, 299)},
        {"batch_size": 8},
        {"seed": 1},
        {"run": "another"},
        {"versions": {"torch": "2.11.0", "numpy": "2.1"}},
        {"hardware": HERE.model_copy(update={"os": "another kernel"})},
    ],
)
def test_points_of_another_network_batch_size_or_run_tell(changes: dict[str, Any]) -> None:
    assert difference(_source(), _source(**changes)) is None
    assert len(pools([_source(), _source(**changes)])) == 1


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"dtype": "bfloat16"}, "dtype: float32 and bfloat16"),
        ({"device": "cuda:0"}, "device: cpu and cuda"),
        ({"threads": 1}, "threads: 2 and 1"),
        ({"compile": "default"}, "compile: none and default"),
        ({"cuda_graph": True}, "cuda_graph: false and true"),
        ({"channels_last": True}, "channels_last: false and true"),
        ({"tf32": True}, "tf32: false and true"),
        ({"cudnn_benchmark": False}, "cudnn_benchmark: true and false"),
        ({"order": "sequential"}, "order: interleaved and sequential"),
        ({"work": "normalised"}, "work: logits and normalised"),
        ({"top_layer": "adaptive"}, "top_layer: full and adaptive"),
        ({"subset": 2}, "subset: 1 and 2"),
        ({"versions": {"torch": "2.12.0"}}, "version of torch: 2.11.0 and 2.12.0"),
        ({"hardware": HERE.model_copy(update={"cpu": "another"})}, "cpu: a processor and another"),
        ({"hardware": WITH_GPU}, "gpu: None and a GPU"),
    ],
)
def test_points_that_differ_in_anything_else_do_not(changes: dict[str, Any], said: str) -> None:
    assert str(difference(_source(), _source(**changes))) == said
    assert len(pools([_source(), _source(**changes)])) == 2


def test_two_cards_of_one_model_are_alike_and_of_two_models_are_not() -> None:
    first = _source(device="cuda:0", hardware=WITH_GPU)
    second = _source(device="cuda:1", hardware=HERE.model_copy(update={"gpu": GPU.model_copy(update={"uuid": "2"})}))
    slower = _source(device="cuda:0", hardware=HERE.model_copy(update={"gpu": GPU.model_copy(update={"name": "old"})}))
    assert difference(first, second) is None
    assert str(difference(first, slower)) == "gpu.name: a GPU and old"


def test_what_one_side_does_not_know_is_no_difference_but_the_dtype_always_is_known() -> None:
    assert difference(_source(), _source(setting=None, hardware=None, versions={})) is None
    assert difference(_source(), _source(setting=None, dtype="float16")) is not None


def test_fitted_predictions_are_not_judged_with_calibrated_ones() -> None:
    assert len(pools([_source(), _source(rates_are="fitted")])) == 2


def test_pools_keep_the_order_of_their_first() -> None:
    compiled = _source(compile="default")
    found = pools([_source(), compiled, _source(arch="vgg16")])
    assert [[source.arch for source in pool.sources] for pool in found] == [["resnet50", "vgg16"], ["resnet50"]]


def test_the_range_is_of_judged_points_that_tell_and_says_what_is_behind_it() -> None:
    first = _source(_check(2**14, 9.0), _check(2**16, 0.8), _check(2**18, 1.1), run="one")
    second = _source(_check(2**18, 1.3), arch="vgg16", run="two")
    silent = _source(_check(2**16, 5.0, added=0.01), arch="alexnet", run="three")
    pool = Pool((first, second, silent))
    assert pool.spread == Spread(pytest.approx(0.8), pytest.approx(1.3), 3, runs=2, networks=2)
    assert (len(pool.judged), pool.runs, pool.networks) == (4, 3, 3)


@pytest.mark.parametrize("checked", [(), (_check(2**14, 0.9), _check(2**15, 1.1))])
def test_where_nothing_is_judged_there_is_no_range(checked: tuple[Check, ...]) -> None:
    """Points below 65,536 classes tell of themselves: with them there was a range beside "error: unknown"."""
    pool = Pool((_source(*checked),))
    assert (pool.judged, pool.spread) == ([], None)


def test_one_dtype_does_not_lend_its_points_to_another() -> None:
    single, half = pools([_source(_check(2**16, 0.9)), _source(_check(2**16, 3.0), dtype="float16")])
    assert (single.spread, half.spread) == (None, None)
    assert len(pools([_source(_check(2**16, 0.9)), _source(_check(2**16, 3.0), batch_size=8)])) == 1


def test_a_stated_error_is_that_of_measured_times_alone() -> None:
    stated = {"rates_are": "given", "stated": Spread(0.9, 1.1, 4)}
    timed, bound = pools([_source(single_is="given", **stated), _source(single_is="operations", **stated)])
    assert (timed.is_stated, timed.spread) == (True, Spread(0.9, 1.1, 4))
    assert (bound.is_stated, bound.spread) == (False, None)
