import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.errors import UsageError
from bench.speed import setting_choice
from bench.speed.settings import Setting

fields = st.fixed_dictionaries(
    {
        "compile": st.sampled_from(["none", "default"]),
        "channels_last": st.booleans(),
        "threads": st.integers(1, 8),
        "input_shape": st.tuples(st.integers(1, 9), st.integers(1, 9)),
    }
)


def _setting(**changes: object) -> Setting:
    return Setting.model_validate(
        {"arch": "resnet50", "input_shape": (3, 8, 8), "device": "cpu", "threads": 2, **changes}
    )


@given(fields, fields)
def test_a_setting_is_chosen_by_all_its_values_and_by_no_others(
    one: dict[str, object], other: dict[str, object]
) -> None:
    chosen = setting_choice.parse(f"{name}={setting_choice.text_of(value)}" for name, value in one.items())
    assert setting_choice.is_chosen(_setting(**one), chosen)
    assert setting_choice.is_chosen(_setting(**other), chosen) is (one == other)
    assert setting_choice.parse([setting_choice.written(chosen)]) == chosen


def test_nothing_chosen_is_everything() -> None:
    assert setting_choice.is_chosen(_setting(), setting_choice.parse([]))


def test_values_are_written_as_they_are_in_a_run() -> None:
    chosen = setting_choice.parse(["compile=none, threads=2", "input_shape=3x8x8"])
    assert chosen == {"compile": "none", "threads": "2", "input_shape": "3x8x8"}
    assert setting_choice.text_of(True) == "true"


@pytest.mark.parametrize(("device", "is_it"), [("cuda", True), ("cuda:1", True), ("cuda:0", False), ("cpu", False)])
def test_a_device_is_chosen_by_its_kind_too(device: str, is_it: bool) -> None:
    assert setting_choice.is_chosen(_setting(device="cuda:1"), {"device": device}) is is_it


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("eager", "write FIELD=VALUE"),
        ("", "write FIELD=VALUE"),
        ("compile=", "write FIELD=VALUE"),
        ("mode=eager", "a setting has no 'mode', but arch, input_shape"),
        ("threads=1,threads=2", "threads is both 1 and 2"),
    ],
)
def test_anything_else_is_refused(text: str, said: str) -> None:
    with pytest.raises(UsageError, match="--setting") as refused:
        setting_choice.parse([text])
    assert said in str(refused.value)


def test_what_settings_have_is_listed_once() -> None:
    settings = [_setting(), _setting(compile="default"), _setting(batch_size=8)]
    assert setting_choice.values_held(settings, ["compile", "threads"]) == "compile=none or default, threads=2"
