"""What the process used during a pass, and whether somebody else held it up."""

import math
import resource
import time
from typing import NamedTuple

#: A quiet pass keeps its threads busy to within a few percent (1.99 of 2 seen); one busy neighbour halves that.
BUSY_SHARE = 0.8

#: A second of a quiet pass saw 62 involuntary switches, one beside a busy neighbour 250; this lies between.
SWITCHES_PER_S = 100.0

#: The kernel books the CPU time of threads on other cores at its ticks, every 4 ms on most kernels (CONFIG_HZ=250):
#: a reading may lack up to one tick for each thread but the one that reads.
TICK_S = 0.004


class Usage(NamedTuple):
    """What this process has used since it started, all threads together."""

    cpu_s: float
    switches: int
    faults: int


def read_usage() -> Usage:
    """Read CPU seconds, involuntary context switches and page faults (minor and major): about 2 microseconds.

    Read it before the first clock reading and after the second, so that the CPU time covers the wall time.
    """
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return Usage(time.process_time(), usage.ru_nivcsw, usage.ru_minflt + usage.ru_majflt)


def contended(wall_s: float, cpu_s: float, switches: int, *, threads: int, parallelism: float) -> bool:
    """Whether a pass of `wall_s` seconds was held up by other load.

    `threads` are the threads in use, `parallelism` the most CPU seconds per wall second seen so far in passes of this
    kind: not every network keeps all threads busy. Contention is
    * CPU time well below what such passes have shown they can use; or
    * CPU time well below the threads in use, with the involuntary switches of a neighbour that wants the same
      cores: seen also when the neighbour lasts the whole run and `parallelism` never had a quiet pass to learn from.

    With several threads the CPU time is only known to a tick a thread, which is granted to the pass. One under about
    5 ms is therefore never marked: nothing could be told from it. To judge such passes, add up those of a round.
    """
    most_cpu_s = cpu_s + TICK_S * (threads - 1)
    if most_cpu_s < BUSY_SHARE * min(parallelism, threads) * wall_s:
        return True
    usual = SWITCHES_PER_S * wall_s
    return most_cpu_s < BUSY_SHARE * threads * wall_s and switches > usual + 2 * math.sqrt(usual)  # not by chance
