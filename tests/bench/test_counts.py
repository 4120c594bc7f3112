import contextlib
import math
import time
from fractions import Fraction

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from bench.counts import MAX_CLASSES, MAX_LENGTH, grid, label, parse_count, parse_counts
from bench.errors import UsageError


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("1", 1),
        ("1000", 1000),
        ("370,727", 370_727),
        ("370_727", 370_727),
        ("1,048,576", 1_048_576),
        ("1e5", 100_000),
        ("1.5E+3", 1500),
        ("400k", 400_000),
        ("1.5M", 1_500_000),
        ("2**18.5", 370_727),
        ("2^18.5", 370_727),
        ("2**18", 262_144),
        (" 2 ** 18 ", 262_144),
        ("10**5", 100_000),
        ("10**12", 10**12),
        ("3*2**4", 48),
        ("2**4*3", 48),
        ("2**3**2", 512),
        ("2^3**2*2", 1024),
        ("2**0.5*2**0.5", 2),
        ("1000**0.5*1000**0.5", 1000),
        ("32**0.2", 2),
        ("7**0.3*7**0.7", 7),
        ("2.9", 2),
        ("9." + "9" * 61, 9),
        ("0.001*1e6", 1000),
        ("0**0", 1),
        ("1**99999999", 1),
        ("2**40", MAX_CLASSES),
    ],
)
def test_a_count(text, count):
    assert parse_count(text) == count


@pytest.mark.parametrize(
    "text",
    [
        "0",
        "-5",
        "+5",
        "nan",
        "inf",
        "",
        "   ",
        "0.999",
        "1e-3",
        "2**99999",
        "9**9**9**9",
        "99999**99999*0",
        "1e99999999999999999999",
        "1**1e99999999999999999999",
        "2**40*1.0001",
        "2**40+1",
        "__import__('os')",
        "1..5",
        "1.",
        ".5",
        "2**",
        "**2",
        "2***2",
        "2**-1",
        "1 000",
        "1,2,3",
        "1,0240",
        "1_00",
        "1_000,000",
        "007",
        "5kk",
        "5m",
        "0x10",
        "٣",
        "(2)",
        "2\x00",
        "9" * (MAX_LENGTH + 1),
    ],
)
def test_no_count(text):
    with pytest.raises(UsageError) as refused:
        parse_count(text)
    message = str(refused.value)
    assert len(message.splitlines()) == 1
    assert repr(text) in message or repr(text)[:10] in message
    assert "2**18.5" in message


def test_a_refusal_says_why():
    with pytest.raises(UsageError, match=r"above 2\*\*40"):
        parse_count("2**99999")
    with pytest.raises(UsageError, match="at least 1"):
        parse_count("0")


@st.composite
def products(draw):
    """A product of powers as text, and its value by Python's own integers."""
    powers = draw(st.lists(st.tuples(st.integers(1, 50), st.integers(0, 6)), min_size=1, max_size=4))
    value = math.prod(base**exponent for base, exponent in powers)
    sign = draw(st.sampled_from(["**", "^", " ** "]))
    return " * ".join(f"{base}{sign}{exponent}" for base, exponent in powers), value


@settings(deadline=None)  # a busy machine is no failure
@given(products())
def test_products_of_powers_agree_with_integers(product):
    text, value = product
    if value <= MAX_CLASSES:
        assert parse_count(text) == value
    else:
        with pytest.raises(UsageError):
            parse_count(text)


@settings(deadline=None)  # a busy machine is no failure
@given(st.integers(1, MAX_CLASSES), st.sampled_from(["{}", "{:,}", "{:_}", " {} "]))
def test_integers_are_read_as_written(count, form):
    assert parse_count(form.format(count)) == count


@settings(deadline=None)  # a busy machine is no failure
@given(st.decimals("1", "99999", places=3), st.integers(1, 9999))
def test_decimals_round_down_like_fractions(decimal, factor):
    assert parse_count(f"{decimal}*{factor}") == math.floor(Fraction(decimal) * factor)


@settings(deadline=None)  # a busy machine is no failure
@given(st.integers(2, 2000), st.integers(2, 9))
def test_a_power_and_its_root_meet(base, root):
    """base**(n/10) rounded down is the integer n/10-th root, by integers alone."""
    count = parse_count(f"{base}**0.{root}")
    assert count**10 <= base**root < (count + 1) ** 10


@settings(deadline=None)  # a busy machine is no failure
@given(st.one_of(st.text(), st.text("0123456789.,_*^ekM ", max_size=MAX_LENGTH)))
@example("9**9**9**9**9**9**9**9**9**9**9**9**9**9**9")
@example("1.0000000001**1e29")
@example("0.1**1e30*1e30")
def test_any_text_is_a_count_or_a_usage_error_at_once(text):
    start = time.process_time()
    for read in (parse_count, parse_counts):
        with contextlib.suppress(UsageError):
            read(text)
    assert time.process_time() - start < 0.5


def test_a_list_is_sorted_without_duplicates_and_holds_1():
    assert parse_counts("1k, 2**14,2**18.5,1000,1_000") == (1, 1000, 16_384, 370_727)
    assert parse_counts("1") == (1,)
    assert parse_counts("64") == (1, 64)


def test_grouping_by_comma_in_a_list_is_refused_with_a_hint():
    with pytest.raises(UsageError, match="1_024"):
        parse_counts("1,024")


@pytest.mark.parametrize("text", ["", "1,,2", "1,", "1,x", "1,0"])
def test_no_list(text):
    with pytest.raises(UsageError):
        parse_counts(text)


def test_the_grid_is_the_papers_up_to_the_most():
    assert grid(370_727) == (1, 1024, 16_384, 65_536, 262_144, 370_727)
    assert grid(2**14) == (1, 1024, 16_384)
    assert grid(1) == (1,)


@settings(deadline=None)  # a busy machine is no failure
@given(st.integers(1, MAX_CLASSES))
def test_the_grid_ends_at_the_most_and_rises(most):
    counts = grid(most)
    assert counts[0] == 1
    assert counts[-1] == most
    assert list(counts) == sorted(set(counts))


@pytest.mark.parametrize("most", [0, -1, MAX_CLASSES + 1])
def test_no_grid(most):
    with pytest.raises(UsageError):
        grid(most)


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (1, "1"),
        (16, "16"),
        (1000, "1,000"),
        (1024, "2^10"),
        (12_345, "12,345"),
        (262_144, "2^18"),
        (370_727, "2^18.5"),
        (370_728, "370,728"),
    ],
)
def test_label(count, text):
    assert label(count) == text


@settings(deadline=None)  # a busy machine is no failure
@given(st.integers(1, MAX_CLASSES))
def test_a_label_reads_back_as_its_count(count):
    assert parse_count(label(count)) == count
