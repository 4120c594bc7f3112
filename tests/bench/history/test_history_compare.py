import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.errors import UsageError
from bench.history.compare import Comparison, Gate, compare
from bench.history.snapshot import Estimate, OtherMachine, Point, Replicate, Snapshot, Work
from bench.machine.fingerprint import Gpu, Machine

ERROR = 0.004  # of a log time, from five processes: spread 0.9 %
MACHINE = Machine(os="Linux 6", cpu="EPYC", cores_physical=2, cores_logical=2, cores_usable=2.0, memory_bytes=8 * 2**30)


def work(classes: int | None = 1024, **fields: Any) -> Work:
    given_fields: dict[str, Any] = {"arch": "resnet50", "classes": classes, "device": "cpu", "batch_size": 32}
    return Work(**given_fields | fields)


def estimate(value: float, error: float | None = ERROR) -> Estimate:
    return Estimate(value=value, error=error, degrees=None if error is None else 4)


def point(
    single: float = 1.0,
    every: float = 2.0,
    *,
    of: Work | None = None,
    error: float | None = ERROR,
    processes: int = 5,
    rounds: int = 30,
    threads: int | None = 2,
) -> Point:
    replicates = (Replicate(rounds=rounds, single_s=single, all_s=every),) * processes
    return Point(
        work=of or work(),
        threads=threads,
        single=estimate(single, error),
        all=estimate(every, error),
        speedup=estimate(every / single, error),
        rounds=rounds * processes,
        replicates=replicates,
    )


def failed(of: Work | None = None) -> Point:
    return Point(work=of or work(), threads=2, status="out-of-memory", reason="9 GB are needed, 8 are there")


def other_tool(seconds: float, error: float | None = ERROR) -> Point:
    return Point(work=Work(arch="tests/test_speed.py::test_all", classes=None), all=estimate(seconds, error))


def run(*points: Point, **fields: Any) -> Snapshot:
    given_fields: dict[str, Any] = {"name": "run", "created": "2026-11-23T09:15:02+00:00", "machine": MACHINE}
    return Snapshot(**given_fields | fields, points=points)


def verdicts(comparison: Comparison) -> list[tuple[str | None, str | None, str | None]]:
    return [one.verdicts for one in comparison.points]


def test_a_slower_single_logit_is_worse_and_named():
    found = compare(run(point()), run(point(single=1.3)))
    assert verdicts(found) == [("SLOWER", "SAME", "LOWER")]
    assert found.outcome == "worse"
    assert found.worse == found.points
    assert found.points[0].cause == "one logit is slower (+30 %), all logits are not: less worth it"


def test_a_faster_full_layer_lowers_the_speedup_and_is_not_worse():
    found = compare(run(point()), run(point(every=1.6)))
    assert verdicts(found) == [("SAME", "FASTER", "LOWER")]
    assert (found.outcome, found.worse, found.undecided) == ("nothing worse", (), ())


def test_passes_slower_everywhere_leave_the_speedup():
    sides = run(point()), run(point(single=1.2, every=2.4))
    assert verdicts(compare(*sides)) == [("SLOWER", "SLOWER", "SAME")]
    assert [compare(*sides, gate=gate).outcome for gate in ("single", "speedup", "both")] == [
        "worse",
        "nothing worse",
        "worse",
    ]


@pytest.mark.parametrize("gate", ["single", "speedup", "both"])
@given(single=st.floats(0.3, 1), every=st.floats(0.3, 1))
def test_better_never_fails(gate: Gate, single: float, every: float):
    """Whatever became faster, by however much: estimates without luck never turn red."""
    if single >= every or every < 1 / 1.05:  # otherwise all logits are hardly faster, and the single logit less so
        assert compare(run(point()), run(point(single=single, every=2 * every)), gate=gate).outcome != "worse"


def test_figures_by_hand():
    found = compare(run(point(single=2.0)), run(point(single=2.5))).points[0].single
    assert found is not None
    assert (found.base.value, found.new.value, found.change.ratio) == (2.0, 2.5, 1.25)
    # Five processes that lie closer together than fresh ones usually do: 0.9 % / sqrt(5) a side.
    assert found.change.error == pytest.approx(0.009 * math.sqrt(2 / 5))
    assert found.low is not None
    assert found.high is not None
    assert found.low * found.high == pytest.approx(1.25**2)


def test_ambiguous_points_are_warnings_beside_a_decided_one():
    shaky = point(of=work(2048), error=0.08)
    found = compare(run(point(), shaky), run(point(), shaky))
    assert verdicts(found)[1] == ("AMBIGUOUS", "AMBIGUOUS", "AMBIGUOUS")
    assert [one.work.classes for one in found.undecided] == [2048]
    assert found.outcome == "nothing worse"


def test_nothing_but_ambiguous_is_undecided():
    found = compare(run(point(error=0.08)), run(point(error=0.08)))
    assert (found.outcome, len(found.undecided)) == ("undecided", 1)


def test_a_gate_does_not_take_another_quantity_for_a_decision():
    noisy_time = point().model_copy(update={"single": estimate(1.0, 0.08), "all": estimate(2.0, 0.08)})
    sides = run(noisy_time), run(noisy_time)
    assert verdicts(compare(*sides)) == [("AMBIGUOUS", "AMBIGUOUS", "SAME")]
    assert compare(*sides, gate="single").outcome == "undecided"
    assert compare(*sides, gate="speedup").outcome == "nothing worse"


def test_a_point_that_fails_now_is_undecided_and_worse_beats_it():
    wide = work(2048)
    base = run(point(), point(of=wide))
    found = compare(base, run(point(), failed(wide)))
    assert (found.outcome, [one.reason for one in found.failed]) == ("undecided", ["9 GB are needed, 8 are there"])
    assert compare(base, run(point(single=1.3), failed(wide))).outcome == "worse"


def test_all_points_failing_now_is_undecided_not_bad_usage():
    found = compare(run(point()), run(failed()))
    assert (found.outcome, found.points, len(found.failed)) == ("undecided", (), 1)


def test_a_point_without_rounds_now_counts_as_failed():
    empty = Point(work=work(2048), threads=2)
    found = compare(run(point(), point(of=work(2048))), run(point(), empty))
    assert [(one.status, one.reason) for one in found.failed] == [("failed", "no complete round")]


def test_every_point_is_listed_somewhere():
    works = [work(2**exponent) for exponent in range(5, 11)]
    base = run(point(of=works[0]), point(of=works[1]), failed(works[2]), failed(works[3]), point(of=works[4]))
    new = run(point(of=works[0]), failed(works[1]), point(of=works[2]), failed(works[3]), point(of=works[5]))
    found = compare(base, new)
    listed = [
        [one.work for one in points]
        for points in (found.points, found.failed, found.only_base, found.only_new, found.neither)
    ]
    assert listed == [[works[0]], [works[1]], [works[4]], [works[5], works[2]], [works[3]]]


def test_unequal_numbers_of_samples_alone_are_no_difference():
    found = compare(run(point(processes=5)), run(point(processes=12, rounds=100)))
    assert verdicts(found) == [("SAME", "SAME", "SAME")]


def test_one_round_has_no_error_and_decides_nothing():
    lone = point(single=1.5, error=None, processes=1, rounds=1)
    found = compare(run(point()), run(lone))
    assert verdicts(found) == [("AMBIGUOUS", "AMBIGUOUS", "AMBIGUOUS")]
    single = found.points[0].single
    assert single is not None
    assert (single.low, single.high, single.smallest) == (None, None, None)
    assert (found.outcome, found.tests) == ("undecided", 1)


def test_one_process_a_side_cannot_show_that_all_is_the_same():
    """Its rounds may be as steady as they like: fresh processes differ by 0.9 %."""
    steady = point(error=0.0001, processes=1)
    found = compare(run(steady), run(steady))
    assert verdicts(found) == [("AMBIGUOUS", "AMBIGUOUS", "AMBIGUOUS")]
    assert compare(run(steady), run(point(single=1.3, error=0.0001, processes=1))).outcome == "worse"


def test_the_points_of_a_setting_share_one_test_of_the_single_logit():
    points = [point(every=2.0 + count, of=work(2**count)) for count in range(5, 9)]
    assert compare(run(*points), run(*points)).tests == 1 + 4
    assert compare(run(*points), run(*points), gate="single").tests == 1
    assert compare(run(*points), run(*points), gate="speedup").tests == 4
    other = point(of=work(arch="vgg16"))
    assert compare(run(*points, other), run(*points, other)).tests == 1 + 4 + 2


def test_more_points_widen_every_interval():
    few = compare(run(point()), run(point())).points[0].single
    points = [point(every=2.0 + count, of=work(2**count)) for count in range(5, 15)]
    many = compare(run(*points), run(*points)).points[0].single
    assert few is not None
    assert many is not None
    assert few.low is not None
    assert many.low is not None
    assert many.low < few.low
    assert few.smallest is not None
    assert many.smallest is not None
    assert 0.03 < few.smallest <= many.smallest < 0.05


def test_a_wider_margin_lets_more_pass():
    sides = run(point()), run(point(single=1.05))
    assert compare(*sides).outcome == "worse"
    assert compare(*sides, margin=0.08).outcome == "nothing worse"


@pytest.mark.parametrize("margin", [0.0, -0.1, 1.0, math.nan, math.inf])
def test_a_margin_that_is_none_is_refused(margin: float):
    with pytest.raises(UsageError, match="margin"):
        compare(run(point()), run(point()), margin=margin)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"batch_size": 8}, "batch_size 32 against 8"),
        ({"dtype": "bfloat16"}, "dtype None against bfloat16"),
        ({"arch": "vgg16"}, "arch resnet50 against vgg16"),
        ({"batch_size": 8, "tf32": True}, "batch_size 32 against 8, tf32 False against True"),
        ({"batch_size": 8, "classes": 4096}, "batch_size 32 against 8"),
    ],
)
def test_different_work_is_refused_by_name(fields: dict[str, Any], words: str):
    with pytest.raises(UsageError, match=f"^BASE and NEW measured different work: {words};"):
        compare(run(point()), run(point(of=work(**fields))))


def test_no_class_count_in_common_says_which_there_are():
    base = run(point(of=work(2**10)), point(of=work(2**14)))
    with pytest.raises(UsageError, match=r"no point in common: class counts 2\^10, 2\^14 against 2\^11"):
        compare(base, run(point(of=work(2**11)), point(of=work(2**12, batch_size=8))))


def test_no_rounds_on_a_side_is_refused():
    empty = run(Point(work=work(), threads=2), name="stopped")
    with pytest.raises(UsageError, match=r"^NEW \(stopped\) holds no complete round; .*--resume"):
        compare(run(point()), empty)
    with pytest.raises(UsageError, match=r"^BASE \(stopped\) holds no complete round"):
        compare(empty, run(point()))


def test_a_run_without_points_is_refused():
    with pytest.raises(UsageError, match="holds no point"):
        compare(run(point()), run())


@pytest.mark.parametrize("number", [math.nan, math.inf])
@pytest.mark.parametrize("field", ["value", "error"])
def test_what_is_no_number_is_refused(number: float, field: str):
    broken = point().model_copy(update={"speedup": estimate(2.0).model_copy(update={field: number})})
    with pytest.raises(UsageError, match=r"^NEW \(run\): speedup of resnet50 at 2\^10 classes is not a number"):
        compare(run(point()), run(broken))


@pytest.mark.parametrize(
    ("machine", "fields"),
    [
        (MACHINE.model_copy(update={"cpu": "Xeon"}), ("cpu",)),
        (MACHINE.model_copy(update={"gpu": Gpu(name="H100", memory_bytes=2**36)}), ("gpu",)),
        (OtherMachine(cpu="EPYC", cores=64), ("cores",)),
        (OtherMachine(cpu="Xeon"), ("cpu",)),
    ],
)
def test_other_hardware_gives_figures_without_verdicts(machine: Machine | OtherMachine, fields: tuple[str, ...]):
    found = compare(run(point()), run(point(single=1.3), machine=machine))
    assert found.hardware == fields
    assert verdicts(found) == [(None, None, None)]
    assert (found.outcome, found.worse, found.points[0].cause) == ("undecided", (), "")
    single = found.points[0].single
    assert single is not None
    assert single.low is not None
    assert single.smallest is None
    assert single.change.ratio == 1.3


def test_other_threads_give_figures_without_verdicts():
    found = compare(run(point()), run(point(single=1.3, threads=1)))
    assert (found.hardware, verdicts(found), found.outcome) == (("threads",), [(None, None, None)], "undecided")


def test_equal_threads_go_together_where_a_run_holds_several():
    base = run(point(threads=1, single=1.0), point(threads=2, single=0.6))
    found = compare(base, run(point(threads=2, single=0.6), point(threads=1, single=1.0)))
    assert found.hardware == ()
    assert verdicts(found) == [("SAME", "SAME", "SAME")] * 2


def test_equal_points_are_paired_in_their_order():
    base = run(point(single=1.0), point(single=0.5))
    found = compare(base, run(point(single=1.0), point(single=0.5), point(single=0.1)))
    assert verdicts(found) == [("SAME", "SAME", "SAME")] * 2
    assert [one.single.value for one in found.only_new if one.single] == [0.1]


def test_versions_are_the_suspect_and_do_not_stop_a_verdict():
    base = run(point(), versions={"torch": "2.14", "numpy": "2.1", "mkl": "1"}, commit="abc")
    new = run(
        point(),
        versions={"torch": "2.15", "numpy": "2.1", "triton": "3"},
        commit="def",
        machine=MACHINE.model_copy(update={"governor": "powersave", "os": "Linux 7"}),
    )
    found = compare(base, new)
    assert found.versions == ("torch 2.14 -> 2.15", "system Linux 6 -> Linux 7", "commit abc -> def")
    assert verdicts(found) == [("SAME", "SAME", "SAME")]


def test_another_tools_benchmark_has_one_time_and_that_is_gated():
    machine = OtherMachine(cpu="EPYC", cores=2)
    base = run(other_tool(1.0), machine=machine, tool="pytest-benchmark")
    slower = run(other_tool(1.2), machine=machine, tool="pytest-benchmark")
    found = compare(base, slower, gate="speedup")
    assert verdicts(found) == [(None, "SLOWER", None)]
    assert (found.outcome, found.points[0].cause, found.tests) == ("worse", "is slower (+20 %)", 1)
    assert compare(slower, base).outcome == "nothing worse"
