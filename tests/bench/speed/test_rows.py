from collections.abc import Callable, Sequence

import numpy as np
import pytest

from bench.run import Manifest, Point, Run, Sample
from bench.speed.rows import RoundTable, Row, break_even, break_evens, round_tables, rows
from bench.speed.settings import Setting
from bench.speed.statistics import bootstrap_ratios

SLOTS = ((1, False), (1, True), (16, False), (1024, False))


def timed_round(number: int, seconds: Sequence[float | None], *, process: int = 0, **fields: object) -> list[Sample]:
    """One round of SLOTS with these times; None for a slot that was not visited."""
    present = [(slot, one) for slot, one in zip(SLOTS, seconds, strict=True) if one is not None]
    values = {"setting": 0, "phase": "timed", **fields}
    return [
        Sample(
            process=process,
            round=number,
            round_size=len(present),
            position=position,
            classes=classes,
            control=control,
            wall_s=one,
            **values,  # type: ignore[arg-type]
        )
        for position, ((classes, control), one) in enumerate(present)
    ]


@pytest.fixture
def make_run(make_manifest: Callable[..., Manifest], make_point: Callable[..., Point]) -> Callable[..., Run]:
    def make(rounds: Sequence[list[Sample]], points: Sequence[Point] | None = None, **fields: object) -> Run:
        if points is None:
            points = [make_point(classes) for classes in (1, 16, 1024)]
        manifest = make_manifest(classes=(1, 16, 1024), points=tuple(points), **fields)
        return Run(manifest, [sample for one in rounds for sample in one])

    return make


def by_count(found: list[Row]) -> dict[int, Row]:
    return {row.classes: row for row in found if row.kind == "point"}


def test_rows_by_hand(make_run: Callable[..., Run], setting: Setting):
    run = make_run(
        [
            timed_round(0, [32.0, 64.0, 96.0, 320.0]),
            timed_round(1, [64.0, 64.0, 96.0, 640.0]),
            timed_round(2, [96.0, 128.0, 224.0, 320.0]),
        ]
    )
    assert setting.batch_size == 32
    found = rows(run)
    assert [(row.kind, row.classes) for row in found] == [("point", 1), ("control", 1), ("point", 16), ("point", 1024)]
    single, control, small, large = found
    assert (single.median_s, single.mean_s, single.speedup) == (2.0, pytest.approx(448 / 6 / 32), 1.0)
    assert (single.speedup_low, single.speedup_high, single.speedup_of_means) == (None, None, 1.0)
    assert (control.median_s, control.speedup) == (2.0, 1.0)
    assert control.speedup_of_means == pytest.approx(256 / 192)
    assert (small.median_s, small.mean_s, small.speedup) == (3.0, pytest.approx(416 / 3 / 32), 1.5)
    assert small.speedup_of_means == pytest.approx((416 / 3) / (448 / 6))
    assert large.speedup == 5.0
    assert large.p99_s == pytest.approx(10 + 0.98 * 10)
    assert {row.rounds_done for row in found} == {3}


def test_the_interval_is_that_of_the_bootstrap_over_rounds(make_run: Callable[..., Run]):
    times = np.exp(0.05 * np.random.default_rng(0).standard_normal((40, 4)))
    run = make_run([timed_round(number, row) for number, row in enumerate(times.tolist())])
    expected = bootstrap_ratios([times[:, 2]], times[:, :2], resamples=300)[0]
    assert expected is not None
    row = by_count(rows(run, resamples=300))[16]
    assert (row.speedup_low, row.speedup_high) == pytest.approx(expected.interval(), rel=1e-12)
    control = rows(run, resamples=300)[1]
    other = bootstrap_ratios([times[:, 1]], times[:, 0], resamples=300)[0]
    assert other is not None
    assert (control.speedup_low, control.speedup_high) == pytest.approx(other.interval(), rel=1e-12)


def test_only_timed_samples_that_are_not_kept_out_count(make_run: Callable[..., Run]):
    run = make_run(
        [
            timed_round(0, [9.0] * 4, phase="first"),
            timed_round(0, [9.0] * 4, phase="warmup"),
            timed_round(0, [9.0] * 4, kept_out=True),
            timed_round(0, [1.0, 1.0, 2.0, 4.0]),
        ]
    )
    assert [row.speedup for row in rows(run)] == [1.0, 1.0, 2.0, 4.0]
    assert [row.median_s for row in rows(run)] == [1 / 32, 1 / 32, 2 / 32, 4 / 32]


def test_several_passes_a_visit_all_count(make_run: Callable[..., Run]):
    run = make_run([timed_round(0, [1.0, 1.0, 2.0, 4.0]), timed_round(0, [1.0, 1.0, 4.0, 4.0])])
    table = RoundTable(run.samples)
    assert table.times(16).tolist() == [[2.0, 4.0]]
    assert table.single().shape == (1, 4)
    row = by_count(rows(run))[16]
    assert (row.speedup, row.rounds_done) == (3.0, 1)


@pytest.mark.parametrize("with_points", [True, False])
def test_a_run_without_samples_has_rows_without_numbers(make_run: Callable[..., Run], with_points: bool):
    run = make_run([]) if with_points else make_run([], points=[])
    found = rows(run)
    assert len(found) == (4 if with_points else 0)
    for row in found:
        assert (row.status, row.rounds_done, row.marked_samples) == ("ok", 0, 0)
        assert (row.median_s, row.speedup, row.speedup_low, row.predicted_s) == (None, None, None, None)
    assert [one.classes for one in break_evens(run)] == [None] * 4


def test_a_count_not_yet_visited_has_no_numbers(make_run: Callable[..., Run]):
    """The sequential order, cut off: the single logit is done, 16 classes partly, 1,024 not at all."""
    run = make_run([timed_round(0, [1.0, None, 2.0, None]), timed_round(1, [1.0, None, None, None])])
    single, control, small, large = rows(run)
    assert (single.rounds_done, small.rounds_done, large.rounds_done, control.rounds_done) == (2, 1, 0, 0)
    assert (single.median_s, small.speedup, large.speedup, control.speedup) == (1 / 32, 2.0, None, None)


def test_a_point_that_failed_in_any_process_is_a_row_with_the_reason(
    make_run: Callable[..., Run], make_point: Callable[..., Point]
):
    points = [
        make_point(1),
        make_point(16),
        make_point(1024),
        make_point(1, process=1),
        make_point(16, process=1),
        make_point(1024, process=1, status="out-of-memory", reason="needs 9 GB"),
    ]
    run = make_run([timed_round(0, [1.0, 1.0, 2.0, 4.0]), timed_round(0, [1.0, 1.0, 2.0, None], process=1)], points)
    row = by_count(rows(run))[1024]
    assert (row.status, row.reason, row.median_s, row.speedup) == ("out-of-memory", "needs 9 GB", None, None)
    assert row.rounds_done == 1
    assert by_count(rows(run))[16].speedup == 2.0


def test_if_the_single_logit_failed_nothing_has_a_speedup(
    make_run: Callable[..., Run], make_point: Callable[..., Point]
):
    points = [make_point(classes, status="failed", reason="no") for classes in (1, 16, 1024)]
    assert {(row.status, row.speedup) for row in rows(make_run([], points))} == {("failed", None)}


def test_marked_samples_are_counted_and_left_out_of_one_column_only(make_run: Callable[..., Run]):
    run = make_run(
        [
            timed_round(0, [1.0, 1.0, 2.0, 4.0]),
            timed_round(1, [1.0, 1.0, 2.0, 4.0]),
            *(timed_round(number, [5.0, 5.0, 5.0, 5.0], marks=("contention",)) for number in (2, 3, 4)),
        ]
    )
    single, control, small, _ = rows(run)
    assert (single.marked_samples, control.marked_samples, small.marked_samples) == (6, 3, 3)
    assert (small.speedup, small.speedup_unmarked) == (1.0, 2.0)
    assert (single.speedup_unmarked, control.speedup_unmarked) == (1.0, 1.0)


def test_if_all_samples_are_marked_there_is_no_unmarked_speedup(make_run: Callable[..., Run]):
    run = make_run([timed_round(0, [1.0, 1.0, 2.0, 4.0], marks=("throttling",))])
    assert [(row.speedup, row.speedup_unmarked) for row in rows(run)] == [
        (1.0, None),
        (1.0, None),
        (2.0, None),
        (4.0, None),
    ]


def test_prediction_memory_and_work(make_run: Callable[..., Run], make_point: Callable[..., Point]):
    points = [
        make_point(1, peak_memory_bytes=5, added_s=0.0),
        make_point(16, peak_memory_bytes=7, added_s=2.0),
        make_point(16, process=1, peak_memory_bytes=9, added_s=4.0),
        make_point(1024, status="out-of-memory", reason="too big", added_s=61.0),
    ]
    single, control, small, large = rows(make_run([timed_round(0, [1.0, 5.0, 8.0, None])], points))
    assert (single.predicted_s, control.predicted_s) == (None, None)
    # The single logit took 1 and 5 seconds: its median is 3 times its least time, and so is what the layer adds.
    assert small.predicted_s == (3.0 + 3 * 3.0) / 32
    assert large.predicted_s == (3.0 + 3 * 61.0) / 32
    assert (single.peak_memory_bytes, small.peak_memory_bytes, large.peak_memory_bytes) == (5, 9, None)
    assert (small.operations, small.bytes) == (16, 16)


def test_processes_with_enough_rounds_give_the_t_interval(make_run: Callable[..., Run]):
    run = make_run(
        [
            timed_round(number, [1.0, 1.0, 2.0 + process, 4.0], process=process)
            for process in (0, 1)
            for number in range(10)
        ]
    )
    row = by_count(rows(run))[16]
    assert row.speedup == 2.5
    assert row.speedup_low is not None
    assert row.speedup_high is not None
    assert np.log(row.speedup_high / row.speedup_low) / 2 == pytest.approx(12.7062 * np.log(1.5) / 2, rel=1e-4)
    assert by_count(rows(run))[1024].speedup_low == pytest.approx(4.0)


def test_settings_do_not_mix(
    make_manifest: Callable[..., Manifest], make_point: Callable[..., Point], setting: Setting
):
    settings = (setting, setting.model_copy(update={"arch": "alexnet", "batch_size": 1}))
    points = tuple(make_point(classes, setting=index) for index in (1, 0) for classes in (1024, 16, 1))
    samples = [
        *timed_round(0, [1.0, 1.0, 2.0, 3.0]),
        *timed_round(0, [1.0, 1.0, 4.0, 8.0], setting=1),
    ]
    found = rows(Run(make_manifest(settings=settings, points=points), samples))
    assert [(row.arch, row.classes, row.speedup) for row in found] == [
        ("resnet50", 1, 1.0),
        ("resnet50", 1, 1.0),
        ("resnet50", 16, 2.0),
        ("resnet50", 1024, 3.0),
        ("alexnet", 1, 1.0),
        ("alexnet", 1, 1.0),
        ("alexnet", 16, 4.0),
        ("alexnet", 1024, 8.0),
    ]
    assert found[-1].median_s == 8.0
    assert [len(table.processes) for table in round_tables(Run(make_manifest(settings=settings), samples))] == [1, 1]


def test_rounds_stand_in_the_order_they_were_run(make_run: Callable[..., Run]):
    run = make_run(
        [
            timed_round(7, [1.0, 1.0, 3.0, 4.0], process=1),
            timed_round(1, [1.0, 1.0, 2.0, 4.0]),
            timed_round(0, [1.0, 1.0, 1.0, 4.0]),
        ]
    )
    table = RoundTable(run.samples)
    assert table.processes.tolist() == [0, 0, 1]
    assert table.times(16).tolist() == [[1.0], [2.0], [3.0]]


MEASURED = [(1, 1.0), (11, 1.2), (21, 1.1), (31, 1.4), (101, 2.0)]


@pytest.mark.parametrize(
    ("target", "classes", "extrapolated"),
    [
        (1.05, 1 + 10 * 0.25, False),
        (1.15, 21 + 10 * 0.05 / 0.3, False),  # 1.2 at 11 classes does not last
        (1.1, 6.0, False),
        (1.4, 31.0, False),
        (1.7, 66.0, False),
        (2.0, 101.0, False),
        (10.0, 901.0, True),
    ],
)
def test_break_even_by_hand(target: float, classes: float, extrapolated: bool):
    found, beyond = break_even(MEASURED, target)
    assert found == pytest.approx(classes)
    assert beyond is extrapolated


@pytest.mark.parametrize("measured", [[], [(1, 1.0)], [(1, 1.0), (1024, 1.0)], [(1, 1.0), (1024, 0.98)]])
def test_break_even_needs_a_rise(measured: list[tuple[int, float]]):
    assert break_even(measured, 1.5) == (None, False)


def several(run: Run) -> Run:
    """The same run with 16 classes asked for at a time: what was its single logit are these."""
    settings = tuple(setting.model_copy(update={"subset": 16}) for setting in run.manifest.settings)
    points = tuple(
        point.model_copy(update={"classes": 16}) if point.classes == 1 else point
        for point in run.manifest.points
        if point.classes != 16
    )
    samples = [
        sample.model_copy(update={"classes": 16}) if sample.classes == 1 else sample
        for sample in run.samples
        if sample.classes != 16
    ]
    return Run(run.manifest.model_copy(update={"settings": settings, "points": points}), samples)


def test_several_logits_are_the_reference_where_several_are_asked_for(make_run: Callable[..., Run]):
    run = several(make_run([timed_round(number, [1.0, 3.0, 9.0, 4.0]) for number in range(9)]))
    reference, control, large = rows(run)
    assert [(row.kind, row.classes, row.subset) for row in (reference, control, large)] == [
        ("point", 16, 16), ("control", 16, 16), ("point", 1024, 16),
    ]  # fmt: skip
    assert (reference.is_reference, control.is_reference, large.is_reference) == (True, False, False)
    assert (reference.speedup, control.speedup, large.speedup) == (1.0, 3.0, 2.0)
    assert reference.predicted_s is None
    found = break_evens(run)
    assert {one.subset for one in found} == {16}
    assert [one.classes for one in found] == pytest.approx([16 + share * 1008 for share in (0.1, 0.5, 1.0, 9.0)])


def test_a_rival_has_no_break_even(make_run: Callable[..., Run], setting: Setting):
    rival = setting.model_copy(update={"top_layer": "adaptive"})
    run = make_run([timed_round(number, [1.0, 1.0, 2.0, 4.0]) for number in range(9)], settings=(rival,))
    assert {row.top_layer for row in rows(run)} == {"adaptive"}
    assert break_evens(run) == []


def test_break_evens_of_a_run(make_run: Callable[..., Run]):
    run = make_run([timed_round(number, [1.0, 1.0, 1.15, 2.023]) for number in range(9)])
    found = break_evens(run)
    assert [(one.arch, one.speedup, one.extrapolated) for one in found] == [
        ("resnet50", 1.1, False),
        ("resnet50", 1.5, False),
        ("resnet50", 2.0, False),
        ("resnet50", 10.0, True),
    ]
    assert [one.classes for one in found] == pytest.approx(
        [11.0, 16 + 0.35 / 0.873 * 1008, 16 + 0.85 / 0.873 * 1008, 1 + 9 / 0.001]
    )


def test_noise_is_not_extrapolated(make_run: Callable[..., Run]):
    noise = np.exp(0.1 * np.random.default_rng(1).standard_normal((30, 4)))
    run = make_run([timed_round(number, row) for number, row in enumerate(noise.tolist())])
    assert all(one.classes is None for one in break_evens(run) if one.speedup == 10.0)


def test_a_failed_count_does_not_count_as_measured(make_run: Callable[..., Run], make_point: Callable[..., Point]):
    points = [make_point(1), make_point(16), make_point(1024, status="failed", reason="nan")]
    run = make_run([timed_round(number, [1.0, 1.0, 1.15, 9.0]) for number in range(9)], points)
    assert [(one.classes, one.extrapolated) for one in break_evens(run)][1] == (pytest.approx(51.0), True)
