import math
import mmap

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.machine.usage import contended, read_usage


def test_one_busy_neighbour_of_two_cores_is_contention():
    """A 0.32 s pass took 2.8 s, with CPU time / wall time 0.99 in place of 1.99 and 700 switches in place of 20."""
    assert contended(2.8, 0.99 * 2.8, 700, threads=2, parallelism=1.99)
    assert not contended(0.32, 1.99 * 0.32, 20, threads=2, parallelism=1.99)


def test_a_neighbour_that_lasts_the_whole_run_is_seen_by_its_switches():
    assert contended(2.8, 0.99 * 2.8, 700, threads=2, parallelism=0.99)


def test_a_network_that_never_fills_its_threads_is_not_contention():
    assert not contended(0.32, 1.0 * 0.32, 20, threads=2, parallelism=1.0)
    assert not contended(0.32, 1.0 * 0.32, 20, threads=8, parallelism=1.05)


def test_one_thread_is_judged_too():
    assert contended(0.1, 0.05, 0, threads=1, parallelism=1.0)
    assert not contended(0.1, 0.099, 3, threads=1, parallelism=1.0)


def test_the_share_is_taken_of_no_more_than_the_threads():
    assert not contended(1.0, 1.9, 0, threads=2, parallelism=16.0)


@settings(deadline=None)  # a busy machine is no failure
@given(st.floats(1e-6, 0.005), st.integers(2, 64), st.integers(0, 3), st.floats(0, 1))
def test_a_pass_under_5_ms_is_never_marked(wall_s, threads, switches, share):
    """What the kernel has not booked yet, a tick a thread, outweighs the pass; its own thread ran at least."""
    assert not contended(
        wall_s, wall_s + share * (threads - 1) * wall_s, switches, threads=threads, parallelism=threads
    )


@settings(deadline=None)  # a busy machine is no failure
@given(st.floats(0.001, 10), st.integers(1, 64), st.integers(0, 10_000), st.floats(0.1, 64))
def test_full_use_is_never_contention(wall_s, threads, switches, parallelism):
    assert not contended(wall_s, wall_s * threads, switches, threads=threads, parallelism=parallelism)


@settings(deadline=None)  # a busy machine is no failure
@given(st.floats(0.05, 10), st.integers(1, 16), st.integers(0, 2000), st.floats(0.1, 16), st.floats(0, 1))
def test_less_cpu_time_never_clears_a_pass(wall_s, threads, switches, parallelism, share):
    cpu_s = wall_s * threads
    verdicts = [
        contended(wall_s, part * cpu_s, switches, threads=threads, parallelism=parallelism)
        for part in (share, share / 2)
    ]
    assert verdicts != [True, False]


def test_usage_counts_cpu_time_and_faults():
    before = read_usage()
    total = sum(math.sqrt(i) for i in range(200_000))
    with mmap.mmap(-1, 20_000_000) as pages:  # new pages for certain: an allocator may hand out pages in use before
        pages.write(b"\x01" * len(pages))
        after = read_usage()
    assert total > 0
    assert after.cpu_s > before.cpu_s
    assert after.faults - before.faults > 100
    assert after.switches >= before.switches


@pytest.mark.parametrize("field", ["cpu_s", "switches", "faults"])
def test_usage_is_never_negative(field):
    assert getattr(read_usage(), field) >= 0
