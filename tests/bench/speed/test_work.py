"""Operations and bytes by hand: 8 features with bias, 64 classes, minibatches of 2, float32."""

from typing import Any

import pytest
import torch

from archs.rivals import RIVALS, make
from archs.top_layer import Head, TopLayer
from bench.speed.prediction import Work
from bench.speed.settings import Setting
from bench.speed.work import held_bytes, scores, widest, works_of

TOP = TopLayer("top", features=8, classes=4, bias=True)
LINEAR_1 = Work(2 * 2 * 8 + 2, 4 * (8 + 1 + 16 + 2), 4 * 2)
LINEAR_64 = Work(2 * 2 * 8 * 64 + 2 * 64, 4 * (64 * 9 + 16 + 128), 4 * 128)


def change(setting: Setting, **fields: Any) -> Setting:
    return setting.model_copy(update={"batch_size": 2, **fields})


def test_logits_are_a_linear_layer(setting: Setting) -> None:
    assert works_of(change(setting), TOP, (1, 64)) == {1: LINEAR_1, 64: LINEAR_64}


def test_the_normaliser_comes_on_top_of_all_logits_and_not_of_the_single_one(setting: Setting) -> None:
    """Of each of 2 x 64 logits: a comparison, a subtraction, an exponential, an addition; read twice more."""
    found = works_of(change(setting, work="normalised"), TOP, (1, 64))
    assert found == {1: LINEAR_1, 64: Work(LINEAR_64.operations + 4 * 128, LINEAR_64.bytes + 4 * 2 * 128, 2 * 4 * 128)}


def test_end_to_end_every_score_is_read_and_written_once_more(setting: Setting) -> None:
    found = works_of(change(setting, work="end-to-end"), TOP, (1, 64))
    assert found == {
        1: Work(LINEAR_1.operations, LINEAR_1.bytes + 2 * 4 * 2, 4 * 2),
        64: Work(LINEAR_64.operations, LINEAR_64.bytes + 2 * 4 * 128, 4 * 128),
    }


def test_a_convolution_is_a_linear_layer_at_every_position(setting: Setting) -> None:
    """At 9 positions 9 times the operations and the logits; its weights are read once."""
    everywhere = TopLayer("top", features=8, classes=4, bias=True, positions=9, plain=False)
    found = works_of(change(setting), everywhere, (64,))[64]
    assert found.operations == 9 * LINEAR_64.operations
    assert (found.bytes, found.logit_bytes) == (4 * (64 * 9 + 9 * 16 + 9 * 128), 9 * 4 * 128)


def test_heads_side_by_side_add_up(setting: Setting) -> None:
    """Two heads of 8 features each: twice one of them."""
    both = TopLayer("top", features=16, classes=4, bias=True, further=(Head("other", 8),), plain=False)
    found = works_of(change(setting), both, (64,))[64]
    assert found == Work(2 * LINEAR_64.operations, 2 * LINEAR_64.bytes, 2 * LINEAR_64.logit_bytes)


@pytest.mark.parametrize("kind", RIVALS)
@pytest.mark.parametrize("subset", [1, 3])
def test_a_rivals_work_is_its_own_and_the_reference_stays_the_full_layers(
    setting: Setting, kind: Any, subset: int
) -> None:
    rival = make(kind, 8, 64)
    asked = change(setting, top_layer=kind, subset=subset)
    found = works_of(asked, TOP, (subset, 64))
    assert found[64] == Work(*rival.work(2, rival.typical(subset)))
    assert found[subset] == works_of(change(setting, subset=subset), TOP, (subset,))[subset]
    assert held_bytes(asked, TOP, 64) == rival.parameter_bytes
    assert held_bytes(asked, TOP, subset) == subset * 9 * 4
    assert scores(asked, 64) == scores(asked, subset) == subset


def test_shapes_are_known_without_memory(setting: Setting) -> None:
    """A full layer of 370,727 classes on 4,096 features takes 6 GB; its rivals are outlined on the meta device."""
    large = TopLayer("top", features=4096, classes=4, bias=True)
    for kind in ("adaptive", "low-rank"):
        assert held_bytes(change(setting, top_layer=kind), large, 370_727) > 100_000_000
    assert held_bytes(change(setting), large, 370_727) == 370_727 * 4097 * 4


@pytest.mark.parametrize(("work", "expected"), [("logits", 64), ("normalised", 3), ("end-to-end", 64)])
def test_scores_left_by_a_pass(setting: Setting, work: Any, expected: int) -> None:
    asked = change(setting, work=work, subset=3)
    assert (scores(asked, 3), scores(asked, 64)) == (3, expected)


def test_half_precision_moves_half_the_bytes(setting: Setting) -> None:
    for work in ("logits", "normalised", "end-to-end"):
        single, half = (
            works_of(change(setting, work=work, dtype=dtype), TOP, (64,))[64] for dtype in ("float32", "bfloat16")
        )
        assert (half.operations, 2 * half.bytes) == (single.operations, single.bytes)
    assert torch.bfloat16.itemsize == 2


def test_the_widest_head_is_the_one_with_the_most_operations() -> None:
    both = TopLayer("top", features=40, classes=4, bias=True, positions=9, further=(Head("other", 32),), plain=False)
    assert widest(TOP) == Head("top", 8)
    assert widest(both) == Head("top", 8, 9)
    assert widest(TopLayer("top", features=40, classes=4, bias=True, further=(Head("other", 32),))) == Head("other", 32)
