"""Class-count expressions such as 2**18.5, 400k or 370,727, and the paper's grid of class counts.

    expression := power ("*" power)*
    power      := number (("**" | "^") power)?         binds tighter than *, and to the right
    number     := digits, grouped by three with "_" or "," if at all, a decimal part, then e5, k or M if wanted

Nothing is ever evaluated by Python: numbers and operators are all there is.
"""

import math
import re
from decimal import Context, Decimal

from bench.errors import UsageError
from bench.speed.settings import PAPER_CLASSES

#: A top layer of so many classes takes 2 TB for each of its input features in float16: more is a slip of the pen.
MAX_CLASSES = 2**40

#: No number or power on the way to a class count needs to be above 10**30; above it, none is computed.
LARGEST_EXPONENT = 30

#: Longer texts are no class counts. The bound also keeps two rational results from coming closer than 10**-64.
MAX_LENGTH = 64

#: Powers such as 2**0.5 * 2**0.5 are whole numbers that no finite arithmetic meets exactly, so a result closer to a
#: whole number than this is that number; far above the rounding error, far below the 10**-64 above.
WHOLE = Decimal("1e-100")

#: 150 digits: 30 for the size of the numbers, 20 for the error of huge exponents, 100 for WHOLE. Nothing is trapped:
#: a literal too large for any number becomes an infinity, which is refused.
_ARITHMETIC = Context(prec=150, traps=[])

_NUMBER = re.compile(
    r"(?P<digits>[1-9][0-9]{0,2}(?:,[0-9]{3})+|[1-9][0-9]{0,2}(?:_[0-9]{3})+|0|[1-9][0-9]*)(?P<part>\.[0-9]+)?"
    r"(?:[eE]\+?(?P<exponent>[0-9]+)|(?P<suffix>[kKM]))?(?![0-9A-Za-z_.,])"
)
_OPERATOR = re.compile(r"\*\*|\^|\*")
_SUFFIXES = {None: 0, "k": 3, "K": 3, "M": 6}


def parse_count(text: str) -> int:
    """Read a class-count expression; a fraction is rounded down (2**18.5 is 370,727).

    Raises UsageError, in one line that names the text, if it is none or not between 1 and MAX_CLASSES.
    """
    if len(text) > MAX_LENGTH:
        raise _refusal(text[:20] + "...", f"it is longer than {MAX_LENGTH} characters")
    value = Decimal(1)
    for chain in _factors(text):
        value = _ARITHMETIC.multiply(value, _power(text, chain))
    if value > MAX_CLASSES + 1:
        raise _too_large(text)
    count = _round_down(value)
    if count < 1:
        raise _refusal(text, f"it comes to {count}, and at least 1 class is needed")
    if count > MAX_CLASSES:
        raise _too_large(text)
    return count


def parse_counts(text: str) -> tuple[int, ...]:
    """Read a comma-separated list of class-count expressions: ascending, without duplicates, 1 always among them.

    A comma separates here, so digits are grouped with "_". Raises UsageError naming the item that is wrong.
    """
    counts = {1}
    for item in text.split(","):
        if re.fullmatch(r"\s*0[0-9]+\s*", item):
            raise _refusal(item, "it begins with 0; in a list a comma separates, so write 1_024 for 1,024")
        counts.add(parse_count(item))
    return tuple(sorted(counts))


def grid(max_classes: int) -> tuple[int, ...]:
    """The paper's class counts (Table 3) up to `max_classes`, and `max_classes` itself.

    Raises UsageError if it is not between 1 and MAX_CLASSES.
    """
    if not 1 <= max_classes <= MAX_CLASSES:
        raise UsageError(f"{max_classes} is not a class count: give one between 1 and 2**40")
    return tuple(sorted({count for count in PAPER_CLASSES if count <= max_classes} | {max_classes}))


def label(count: int) -> str:
    """A short name for tables: 2^10 or 2^18.5 from 1,024 on where that is what the count is, else its digits."""
    exponent = count.bit_length() - 1
    if exponent >= 10 and count == 2**exponent:
        return f"2^{exponent}"
    if exponent >= 10 and count == math.isqrt(2 ** (2 * exponent + 1)):
        return f"2^{exponent}.5"
    return f"{count:,}"


def _factors(text: str) -> list[list[Decimal]]:
    """The numbers of a product of powers: 3*2**4 is [[3], [2, 4]]."""
    factors: list[list[Decimal]] = [[]]
    position = _skip_spaces(text, 0)
    if position == len(text):
        raise _refusal(text, "nothing is there")
    while True:
        number = _NUMBER.match(text, position)
        if not number:
            rest = text[position:]
            raise _refusal(text, f"a number is expected at {rest!r}" if rest else "a number is missing at its end")
        factors[-1].append(_value(text, number))
        position = _skip_spaces(text, number.end())
        if position == len(text):
            return factors
        operator = _OPERATOR.match(text, position)
        if not operator:
            raise _refusal(text, f"*, ** or ^ is expected at {text[position:]!r}")
        if operator[0] == "*":
            factors.append([])
        position = _skip_spaces(text, operator.end())


def _skip_spaces(text: str, position: int) -> int:
    return len(text) - len(text[position:].lstrip())


def _value(text: str, number: re.Match[str]) -> Decimal:
    digits = number["digits"].replace(",", "").replace("_", "") + (number["part"] or "")
    exponent = number["exponent"] or _SUFFIXES[number["suffix"]]
    value = _ARITHMETIC.create_decimal(f"{digits}e{exponent}")
    if not (value.is_finite() and value <= 10**LARGEST_EXPONENT):
        raise _too_large(text)
    return value


def _power(text: str, chain: list[Decimal]) -> Decimal:
    """a ** (b ** (c ...)), each power's size estimated by its logarithm before it is computed."""
    *bases, value = chain
    for base in reversed(bases):
        if not base:
            value = Decimal(0 if value else 1)
            continue
        exponent = _ARITHMETIC.multiply(value, _ARITHMETIC.log10(base))
        if exponent > LARGEST_EXPONENT:
            raise _too_large(text)
        # So small that no other factor brings it back to 1.
        value = Decimal(0) if exponent < -MAX_LENGTH * LARGEST_EXPONENT else _ARITHMETIC.power(base, value)
    return value


def _round_down(value: Decimal) -> int:
    nearest = round(value)
    return nearest if abs(_ARITHMETIC.subtract(Decimal(nearest), value)) < WHOLE else math.floor(value)


def _too_large(text: str) -> UsageError:
    return _refusal(text, f"it is above 2**40 = {MAX_CLASSES:,}, the most there can be")


def _refusal(text: str, reason: str) -> UsageError:
    return UsageError(f"{text!r} is not a class count: {reason}; give one such as 1000, 370_727, 400k or 2**18.5")
