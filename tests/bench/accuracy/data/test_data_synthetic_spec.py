"""How synthetic data sets are named."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.accuracy.data.synthetic_spec import Spec, parse
from bench.errors import UsageError


def test_a_class_count_is_enough() -> None:
    assert parse("synthetic:1000") == Spec(classes=1000)
    assert parse("synthetic:2**18.5").classes == 370_727
    assert parse("synthetic:370,727,zipf=0.5, d=64") == Spec(classes=370_727, zipf=0.5, d=64)
    assert parse("synthetic:10,near=1e-3,far=9,groups=2,examples=5k,test=uniform,seed=3") == Spec(
        classes=10, near=1e-3, far=9, groups=2, examples=5000, test="uniform", seed=3
    )


@given(
    st.integers(2, 2**24),
    st.integers(2, 4096),
    st.floats(0, 30),
    st.integers(1, 100),
    st.floats(0, 4),
    st.floats(4, 8),
    st.none() | st.integers(2, 10**9),
    st.sampled_from(["trained", "uniform"]),
    st.integers(0, 2**63 - 1),
)
def test_a_name_is_read_as_what_it_names(classes, d, zipf, groups, near, far, examples, test, seed) -> None:
    spec = Spec(
        classes=classes,
        d=d,
        zipf=zipf,
        groups=groups,
        near=near,
        far=far,
        examples=examples,
        test=test,
        seed=seed,
    )
    assert parse(spec.name) == spec


def test_what_is_as_by_default_is_not_named() -> None:
    assert Spec(classes=1000, d=128, seed=0).name == "synthetic:1000"
    assert parse("synthetic:1000,zipf=1").name == "synthetic:1000"
    assert Spec(classes=1000, zipf=0).name == "synthetic:1000,zipf=0"


@pytest.mark.parametrize(("classes", "train"), [(10, 100_000), (5_000, 500_000), (370_727, 10_000_000)])
def test_examples_to_train_on(classes: int, train: int) -> None:
    assert Spec(classes=classes).train == train
    assert Spec(classes=classes, examples=7).train == 7


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("synthetic:", "names no class count"),
        ("synthetic:many", "is not a class count"),
        ("synthetic:1", "the class count is 1; it must be from 2 to 16777216"),
        ("synthetic:2**25", "the class count is 33554432"),
        ("synthetic:10,size=3", "has no option 'size'; it has d, zipf, groups, near, far, examples, test, seed"),
        ("synthetic:10,d=3,d=4", "d is given twice"),
        ("synthetic:10,d", "d= is no number from 1 to 2**40"),
        ("synthetic:10,d=2**70", "d=2**70 is no number from 1 to 2**40, written as class counts are"),
        ("synthetic:10,groups=0", "groups=0 is no number from 1"),
        ("synthetic:10,zipf=much", "zipf=much is no number"),
        ("synthetic:10,zipf=nan", "zipf is nan; it must be from 0 to 30"),
        ("synthetic:10,zipf=-1", "zipf is -1"),
        ("synthetic:10,seed=1.5", "seed=1.5 is no whole number"),
        ("synthetic:10,near=9", "near is 9 and far 8: "),
        ("synthetic:10,far=65", "far is 65; it must be from 0 to 64"),
        ("synthetic:10,test=zipf", "test='zipf': give trained or uniform"),
        ("synthetic:10,examples=1", "examples is 1"),
    ],
)
def test_what_is_no_name_is_one_line(name: str, line: str) -> None:
    with pytest.raises(UsageError) as refused:
        parse(name)
    assert line in str(refused.value)
    assert "\n" not in str(refused.value)
