from typing import Any

import pytest
import torch

from archs.registry import find
from bench.errors import UsageError
from bench.speed.plan import Request, class_counts, measures_what_is_asked, network_of, plan
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


@pytest.mark.parametrize(
    ("max_classes", "classes", "subset", "expected"),
    [
        (None, None, 16, (16, *PAPER_CLASSES[1:])),
        ("2**16", None, 1000, (1000, 2**10, 2**14, 2**16)),
        (None, "64,1024", 16, (16, 64, 1024)),
        (None, [16, 64], 16, (16, 64)),
    ],
)
def test_several_classes_at_a_time_take_the_place_of_the_single_one(
    max_classes: str | None, classes: str | list[int | str] | None, subset: int, expected: tuple[int, ...]
) -> None:
    assert class_counts(max_classes, classes, subset) == expected


@pytest.mark.parametrize(
    ("max_classes", "classes", "named"),
    [
        (None, "1,16,64", "measured: 1; give --classes 16,64"),
        (None, "8,9,64", "measured: 8, 9; give --classes 64"),
        (None, [8, 64], "measured: 8; give --classes 64"),
        (None, "1", "measured: 1; give --classes 64"),
        ("4", None, "measured: 4; give --max-classes above 16"),
    ],
)
def test_counts_below_the_subset_are_refused(
    max_classes: str | None, classes: str | list[int | str] | None, named: str
) -> None:
    with pytest.raises(UsageError, match=f"--subset 16: 16 classes are asked for at a time, and .* {named}$"):
        class_counts(max_classes, classes, 16)


def test_what_a_refused_subset_is_told_to_give_is_taken() -> None:
    with pytest.raises(UsageError, match=r"give --classes 16384,65536$") as refused:
        class_counts("2**16", None, 2000)
    assert class_counts(None, str(refused.value).rpartition(" ")[2], 2000) == (2000, 2**14, 2**16)


@pytest.mark.parametrize(("option", "given"), [("--arch", {"arch": []}), ("--batch-size", {"batch_size": []})])
def test_an_empty_list_is_refused_by_its_name(option: str, given: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=f"^{option}: none is given; name one or more, as in {option} "):
        plan(Request(**{"arch": ["tiny_networks:small"], **given}))


@pytest.mark.parametrize(
    ("options", "named", "measured"),
    [
        ({"top_layer": ["adaptive"], "classes": "1"}, "--top-layer adaptive: not measured", False),
        ({"top_layer": ["adaptive", "low-rank"], "classes": "8", "subset": 8}, "adaptive,low-rank: not", False),
        ({"top_layer": ["full", "adaptive"], "classes": "1"}, "--top-layer adaptive: not measured", True),
        ({"top_layer": ["adaptive"], "classes": "1,64"}, None, True),
        ({"top_layer": ["full"], "classes": "1"}, None, True),
    ],
)
def test_a_rival_that_has_no_class_count_is_named(options: dict[str, Any], named: str | None, measured: bool) -> None:
    planned = plan(Request(**{"arch": ["tiny_networks:small"], "device": "cpu", **options}))
    told = [notice.happened for notice in planned.notices if notice.kind == "no-rival"]
    assert len(told) == (named is not None)
    assert named is None or named in told[0]
    assert measures_what_is_asked(planned.settings, planned.protocol) is measured


def test_every_combination_of_modes_is_a_setting_of_its_own() -> None:
    planned = plan(
        Request(
            arch=["tiny_networks:small"],
            device="cpu",
            compile=["none", "default"],
            channels_last=[False, True],
            cuda_graph=[False, True],
            work=["logits", "end-to-end"],
            top_layer=["full", "adaptive"],
            subset=2,
        )
    )
    assert len(set(planned.settings)) == len(planned.settings) == 2**4
    assert {setting.subset for setting in planned.settings} == {2}
    assert [notice.kind for notice in planned.notices] == ["left-out", "assumed-frequencies"]
    assert planned.notices[0].happened.count("--cuda-graph on") == 2**4


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"work": ["all"]}, r"--work 'all': must be one of logits, normalised, end-to-end"),
        ({"work": []}, "--work: none is given"),
        ({"top_layer": ["wide"]}, "--top-layer 'wide': must be one of full, hierarchical-balanced"),
        ({"subset": 0}, "--subset 0: must be 1 or more"),
        ({"cuda_graph": True}, "--cuda-graph needs a CUDA device"),
        ({"compile": ["reduce-overhead"]}, "--compile reduce-overhead needs a CUDA device"),
        ({"cuda_graph": []}, "--cuda-graph: none is given"),
        ({"channels_last": ()}, "--memory-format: none is given"),
        ({"tf32": True}, "--tf32 needs a CUDA device"),
    ],
)
def test_modes_that_are_none_here_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        plan(Request(arch=["tiny_networks:small"], device="cpu", **options))


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
