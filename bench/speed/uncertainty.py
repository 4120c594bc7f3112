"""Errors of estimates, combined and as intervals: plain numbers in and out.

scipy is imported where a quantile is asked for, since whoever only reads records needs none.
"""

import math
from collections.abc import Sequence

#: Logarithm of a ratio beyond which an interval says nothing: with one degree of freedom ends can exceed every float.
FARTHEST = math.log(1e100)


def combined(parts: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Error and degrees of freedom of a sum of independent parts, each with its own error and degrees.

    Welch, Biometrika 34, 1947, and Satterthwaite, Biometrics 2, 1946; JCGM 100:2008, equation 10 and G.2b. Degrees are
    infinite for an error that is known. Parts without error say nothing; where none has any, the degrees are the
    fewest.
    """
    variance = sum(error**2 for error, _ in parts)
    if not variance:
        return 0.0, min((degrees for _, degrees in parts), default=math.inf)
    shares = sum((error**2 / variance) ** 2 / degrees for error, degrees in parts)
    return math.sqrt(variance), 1 / shares if shares else math.inf


def student_quantile(probability: float, degrees: float) -> float:
    """Student's; scipy.stats gives the same number in fifty times the time, which simulations and pages feel."""
    from scipy.special import stdtrit

    return float(stdtrit(degrees, probability))


def log_interval(value: float, error: float, degrees: float, confidence: float = 0.95) -> tuple[float, float]:
    """The ends of the interval that holds a positive quantity with this probability.

    error, degrees: standard error of the logarithm of `value`, and its degrees of freedom.
    """
    reach = min(student_quantile(0.5 + confidence / 2, degrees) * error, FARTHEST)
    return value * math.exp(-reach), value * math.exp(reach)
