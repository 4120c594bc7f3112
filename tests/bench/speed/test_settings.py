import pytest
from pydantic import ValidationError

from archs.top_layer_kinds import KINDS
from bench.speed.settings import Setting

#: As runs have it from before there were kinds of work, subsets and rivals.
KEPT = {"arch": "resnet50", "input_shape": [3, 224, 224], "device": "cpu", "threads": 2}


def test_a_setting_of_an_older_run_is_one_of_the_paper() -> None:
    read = Setting.model_validate(KEPT)
    assert (read.work, read.subset, read.top_layer) == ("logits", 1, "full")


def test_every_kind_of_top_layer_there_is_can_be_asked_for_and_no_other() -> None:
    for kind in KINDS:
        assert Setting.model_validate({**KEPT, "top_layer": kind}).top_layer == kind
    with pytest.raises(ValidationError, match="top_layer"):
        Setting.model_validate({**KEPT, "top_layer": "wide"})


@pytest.mark.parametrize("change", [{"subset": 0}, {"work": "all"}])
def test_what_is_no_setting_is_refused_when_read(change: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Setting.model_validate({**KEPT, **change})
