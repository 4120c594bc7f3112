import pytest

from bench.accuracy.data.synthetic_spec import parse
from bench.errors import UsageError
from bench.scaling.family import (
    DEFAULT_FAMILY,
    DEFAULT_STEPS,
    MOST_DEFAULT_STEPS,
    class_counts,
    default_steps,
    features_of,
    name_of,
    options_of,
    search_steps,
    steps_by_count,
)


def test_class_counts_are_ascending_and_each_once() -> None:
    assert class_counts("1000,10,10**3, 2**18.5") == (10, 1000, 370_727)
    assert class_counts([7, 5]) == (5, 7)


@pytest.mark.parametrize(("asked", "words"), [("1", "one class"), ("10,1", "one class"), (" , ", "no class count")])
def test_fewer_than_two_classes_are_refused(asked: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        class_counts(asked)


def test_default_steps_grow_with_the_count() -> None:
    counts = [2, *(most for most, _ in DEFAULT_STEPS), 2**20]
    steps = [default_steps(count) for count in counts]
    assert steps == sorted(steps)
    assert steps[1:-1] == [each for _, each in DEFAULT_STEPS]
    assert steps[-1] == MOST_DEFAULT_STEPS


def test_steps_are_one_number_or_some_by_count() -> None:
    assert steps_by_count("50", (10, 100)) == {10: 50, 100: 50}
    assert steps_by_count(50, (10,)) == {10: 50}
    assert steps_by_count("10**2=30", (10, 100)) == {10: default_steps(10), 100: 30}
    assert steps_by_count(None, (10,)) == {10: default_steps(10)}


@pytest.mark.parametrize(
    "asked", ["", "ten", "1", "0", "-5", "10=", "=5", "10=5,7", "20=5", "10=5,10=6", "10=x", "2.5", "10=1"]
)
def test_malformed_steps_are_refused_in_one_line(asked: str) -> None:
    with pytest.raises(UsageError) as refused:
        steps_by_count(asked, (10, 100))
    assert "\n" not in str(refused.value)


def test_a_family_is_the_default_but_for_what_is_asked() -> None:
    assert options_of("") == DEFAULT_FAMILY == "zipf=0,d=16,near=6,far=9"
    assert options_of("near=4, d=16") == "zipf=0,far=9,near=4,d=16"
    assert options_of("zipf=1,d=16") == "near=6,far=9,zipf=1,d=16"
    assert features_of("zipf=0,d=16") == 16


@pytest.mark.parametrize("asked", ["sise=3", "examples=5", "d=1", "near=x", "zipf=0,zipf=1"])
def test_options_that_the_generator_lacks_are_refused(asked: str) -> None:
    with pytest.raises(UsageError):
        options_of(asked)


def test_only_classes_and_examples_tell_data_sets_of_a_family_apart() -> None:
    few, many = (parse(name_of("zipf=0,near=4,seed=3", count, 100 * count)) for count in (10, 1000))
    fields = [name for name in type(few).__dataclass_fields__ if getattr(few, name) != getattr(many, name)]
    assert fields == ["classes", "examples"]


def test_a_search_makes_half_of_the_steps() -> None:
    assert (search_steps(20), search_steps(21), search_steps(2)) == (10, 10, 1)
