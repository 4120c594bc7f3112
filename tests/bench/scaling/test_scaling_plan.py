"""What a request means: what is alike at every class count, what is left out, what is refused."""

from typing import Any

import pytest

from bench.accuracy.settings import AT_PRIOR
from bench.errors import UsageError
from bench.scaling import plan as planning
from bench.scaling.plan import StudyPlan, StudyRequest, plan


def tiny(**options: Any) -> StudyPlan:
    asked = {
        "classes": "5,2000",
        "steps": 4,
        "batch_size": 8,
        "family": "d=8",
        "device": "cpu",
        "seeds": 2,
        "workers": 1,
        "threads": 1,
    }
    return plan(StudyRequest(**{**asked, **options}))


def test_nothing_but_the_class_count_and_the_steps_changes() -> None:
    few, many = tiny(steps="5=4,2000=6").counts
    assert few.recipe is not None
    assert many.recipe is not None
    assert few.recipe.model_copy(update={"steps": 6}) == many.recipe
    assert few.losses == many.losses
    assert few.dataset == "synthetic:5,d=8,zipf=0,near=6,far=9,examples=32"
    assert many.dataset == "synthetic:2000,d=8,zipf=0,near=6,far=9,examples=48"


def test_what_would_change_with_the_count_by_default_does_not() -> None:
    for count in tiny(losses="ce,self-norm,nce,importance-sampling").counts:
        assert count.recipe is not None
        assert count.recipe.prior_bias == "auto"
        assert {loss.key: loss.prior_bias for loss in count.losses} == {
            key: key in AT_PRIOR for key in ("ce", "self-norm", "nce", "importance-sampling")
        }
        noise = {loss.key: loss.hyperparameters for loss in count.losses if "q" in loss.hyperparameters}
        assert noise["nce"] == {
            "t": 25, "q": "uniform", "estimate": "sampled", "negatives": "own", "correction": "log-q",
        }  # fmt: skip
        assert noise["importance-sampling"]["q"] == "uniform"


def test_what_was_asked_for_is_recorded() -> None:
    manifest = tiny(queries=30, positives=3, negatives=40, top_layer_step="chunked").manifest(command=["x"])
    assert manifest.queries.model_dump() == {"classes": 30, "positives": 3, "negatives": 40, "seed": 0}
    assert manifest.family == "zipf=0,near=6,far=9,d=8"
    assert (manifest.seeds, manifest.learning_rates) == ((0, 1), (0.003, 0.001))
    assert manifest.losses == ("ce", "self-norm", "binary-ce", "batch-ce", "nce")
    assert manifest.top_layer_step == "chunked"
    assert {count.recipe.top_layer_step for count in manifest.trained if count.recipe} == {"chunked"}
    assert type(manifest).model_validate_json(manifest.model_dump_json()) == manifest


def test_many_classes_are_left_out_on_a_cpu_and_a_notice_says_so() -> None:
    planned = tiny(classes="5,10**5")
    few, many = planned.counts
    assert not few.left_out
    assert many.left_out.startswith("10**5 classes and more need a GPU to train")
    assert (many.dataset, many.recipe, many.losses) == (None, None, ())
    assert [notice.kind for notice in planned.notices if notice.kind == "left-out"] == ["left-out"]


def test_without_cross_entropy_a_notice_says_that_nothing_will_be_judged() -> None:
    kinds = [[notice.kind for notice in tiny(classes="5", losses=losses).notices] for losses in ("nce", "nce,CE")]
    assert ["no-reference" in each for each in kinds] == [True, False]


def test_many_classes_are_trained_on_a_cpu_if_that_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning, "GPU_CLASSES", 100)
    assert tiny().counts[1].left_out
    assert not tiny(train_all=True).counts[1].left_out


def test_a_layer_that_memory_does_not_hold_is_left_out_before_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning, "free_bytes", lambda device: 10**6)
    for count in tiny().counts:
        assert "GB are free for it" in count.left_out


def test_quick_is_small_and_each_of_its_parts_can_be_overridden() -> None:
    quick = plan(StudyRequest(quick=True, device="cpu", workers=1, family="d=8"))
    assert [count.classes for count in quick.counts] == [10, 100]
    assert {count.recipe.steps for count in quick.counts if count.recipe} == {200}
    assert (quick.seeds, quick.learning_rates) == ((0,), (0.003,))
    assert (quick.queries.classes, quick.queries.negatives) == (100, 2_000)
    assert [count.classes for count in tiny(quick=True).counts] == [5, 2000]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"losses": "cee"}, "unknown loss"),
        ({"losses": ""}, "no loss"),
        ({"classes": "1"}, "one class"),
        ({"steps": "5"}, ""),
        ({"steps": "5=x"}, "--steps"),
        ({"family": "size=3"}, "no option 'size'"),
        ({"negatives": 0}, "--negatives 0"),
        ({"positives": 0}, "--positives 0"),
        ({"queries": 0}, "--queries 0"),
        ({"batch_size": 0}, "--batch-size 0"),
        ({"batch_size": 1}, "--batch-size 1"),
        ({"speed_minibatches": -1}, "--speed-minibatches -1"),
        ({"network": "cnn"}, "cnn"),
        ({"optimiser": "lion"}, "--optimiser"),
        ({"learning_rates": ()}, "--lr"),
        ({"top_layer_step": "sideways"}, "--top-layer-step"),
        ({"device": "tpu"}, "unknown device"),
        ({"seeds": 0}, "--seeds 0"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(options: dict[str, Any], words: str) -> None:
    if not words:
        assert tiny(**options).counts  # the neighbour of what is refused is not
        return
    with pytest.raises(UsageError, match=words) as refused:
        tiny(**options)
    assert "\n" not in str(refused.value)
