"""What busy neighbours cost a typical pass: from least times, which rates are, to medians, which are predicted."""

import numpy as np

from bench.speed.statistics import Floats

#: The least time of passes is this quantile, the order statistic below it: of few passes the least, of hundreds not a
#: luckier one than the least of a probe's 50 readings.
LEAST_QUANTILE = 0.02


def slowdown(times: Floats) -> float:
    """Median of passes of the single logit / their least time; any shape, one unit, NaN where missing. Never below 1.

    The same neighbours slow the top layer: of what it adds, the median is this many times what the rates say. Raises
    ValueError if there is no time at all.
    """
    present = times[np.isfinite(times)]
    if not present.size:
        raise ValueError("a slowdown needs a time")
    return float(np.median(present) / np.quantile(present, LEAST_QUANTILE, method="lower"))
