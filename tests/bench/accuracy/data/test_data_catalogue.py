import subprocess
import sys
from pathlib import Path

import pytest

from bench.accuracy import data
from bench.errors import UsageError


def test_the_names_are_those_of_the_paper_and_six_more():
    paper = {"mnist", "svhn", "cifar10", "cifar100", "imagenet"}
    assert set(data.NAMES) == paper | {
        "digits",
        "fashion-mnist",
        "omniglot",
        "folder:PATH",
        "features:PATH",
        "synthetic:K",
    }
    assert data.NAMES[0] == "digits"


@pytest.mark.parametrize(
    ("name", "network", "steps"),
    [
        ("digits", "mlp", 2_000),
        ("mnist", "mlp", 100_000),
        ("fashion-mnist", "mlp", 100_000),
        ("svhn", "cnn", 100_000),
        ("cifar10", "cnn", 100_000),
        ("cifar100", "cnn", 100_000),
        ("omniglot", "cnn", 100_000),
        ("folder:pictures", "cnn", 100_000),
        ("features:pictures", "linear", 100_000),
        ("synthetic:1000,zipf=0", "mlp", 100_000),
        ("imagenet", "inception_v3", 6_000_000),
    ],
)
def test_networks_and_steps_are_those_of_the_paper(name, network, steps):
    assert data.default_network(name) == network
    assert data.default_steps(name) == steps


def test_an_unknown_name_is_answered_with_the_right_ones():
    with pytest.raises(UsageError, match=r"there is no data set 'cifar-10'; did you mean cifar10\? known are digits, "):
        data.load("cifar-10")
    with pytest.raises(UsageError, match="there is no data set 'food'; known are"):
        data.default_steps("food")
    with pytest.raises(UsageError, match="names no folder"):
        data.default_network("folder:")
    with pytest.raises(UsageError, match="names no folder"):
        data.default_network("features:")
    with pytest.raises(UsageError, match="names no class count"):
        data.default_steps("synthetic:")


def test_the_default_folder_is_the_users_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert data.default_data_dir() == tmp_path / "slc-bench" / "data"
    monkeypatch.setenv("XDG_CACHE_HOME", "not/absolute")
    assert data.default_data_dir() == Path.home() / ".cache" / "slc-bench" / "data"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert data.default_data_dir() == Path.home() / ".cache" / "slc-bench" / "data"


def test_the_default_folder_is_where_a_missing_set_would_go(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(UsageError, match=f"into {tmp_path / 'slc-bench' / 'data' / 'MNIST' / 'raw'}"):
        data.load("mnist")


def test_an_input_size_is_for_folders():
    assert data.load("digits", input_size=8).facts.input_shape == (1, 8, 8)
    with pytest.raises(UsageError, match="digits has images of 8 x 8; an input size is for imagenet and folder:PATH"):
        data.load("digits", input_size=32)


def test_names_and_defaults_cost_no_torch():
    ask = "from bench.accuracy.data import default_steps; default_steps('synthetic:99')"
    script = f"import sys; {ask}; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", script], check=True)


def test_the_package_offers_what_it_names():
    assert all(hasattr(data, name) for name in data.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        data.nothing  # noqa: B018
