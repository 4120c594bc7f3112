import pytest
import torch

from archs.registry import find
from bench.errors import UsageError
from bench.speed.plan import Request, class_counts, network_of, plan
from bench.speed.settings import PAPER_CLASSES

pytestmark = pytest.mark.usefixtures("in_factories")


@pytest.mark.parametrize(
    ("max_classes", "classes", "expected"),
    [
        (None, None, PAPER_CLASSES),
        ("2**16", None, (1, 2**10, 2**14, 2**16)),
        (100_000, None, (1, 2**10, 2**14, 2**16, 100_000)),
        (1, None, (1,)),
        (None, "400k,16", (1, 16, 400_000)),
        (None, [1024, "2**4", 1024], (1, 16, 1024)),
    ],
)
def test_class_counts(
    max_classes: str | int | None, classes: str | list[int | str] | None, expected: tuple[int, ...]
) -> None:
    assert class_counts(max_classes, classes) == expected


def test_counts_and_the_top_of_the_grid_exclude_each_other() -> None:
    with pytest.raises(UsageError, match="exclude each other"):
        class_counts("16", "1,16")


def test_settings_are_all_combinations_without_duplicates() -> None:
    planned = plan(
        Request(
            arch=["tiny_networks:small", "tiny_networks:convolutional"],
            batch_size=[2, 4, 2],
            dtype=["float32", "bfloat16"],
            classes="1,16",
            device="cpu",
            threads=1,
        )
    )
    seen = [(each.arch, each.batch_size, each.dtype) for each in planned.settings]
    assert seen == [
        (arch, batch_size, dtype)
        for arch in ("tiny_networks:small", "tiny_networks:convolutional")
        for batch_size in (2, 4)
        for dtype in ("float32", "bfloat16")
    ]
    assert {each.threads for each in planned.settings} == {1}
    assert {each.input_shape for each in planned.settings} == {(3, 8, 8)}
    assert planned.protocol.classes == (1, 16)
    assert planned.facts["tiny_networks:small"].top.features == 8


def test_threads_are_torchs_own_unless_asked_for() -> None:
    (setting,) = plan(Request(arch=["tiny_networks:small"], device="cpu")).settings
    assert setting.threads == torch.get_num_threads()


@pytest.mark.parametrize("seed", [-1, 2**63])
def test_a_seed_that_torch_or_numpy_would_not_take(seed: int) -> None:
    with pytest.raises(UsageError, match="--seed"):
        plan(Request(arch=["tiny_networks:small"], seed=seed))


def test_the_network_of_a_setting_read_from_a_run() -> None:
    (setting,) = plan(Request(arch=["tiny_networks:convolutional"], device="cpu", input_size=12)).settings
    assert setting.input_shape == (3, 12, 12)
    assert network_of(setting).input_shape == (3, 12, 12)
    assert find("tiny_networks:convolutional").input_shape == (3, 8, 8)
    with pytest.raises(UsageError, match=r"now takes examples of shape \(3, 5, 5\), not \(1, 5, 5\)"):
        network_of(setting.model_copy(update={"input_shape": (1, 5, 5)}))
    with pytest.raises(UsageError, match="nowhere_at_all"):
        network_of(setting.model_copy(update={"arch": "nowhere_at_all:make"}))
