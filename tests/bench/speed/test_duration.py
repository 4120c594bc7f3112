from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from bench.run import Run
from bench.speed.duration import expected_seconds, pass_operations, passes_left, passes_planned, seconds_left
from bench.speed.settings import Protocol, Setting

Make = Callable[..., Any]


def test_operations_of_a_pass_by_hand(setting: Setting) -> None:
    """32 examples: 1000 each below the top layer, and there 4 features x 3 classes x 2 plus 3 biases."""
    assert pass_operations(setting, backbone=1000, top_layer=32 * (2 * 4 * 3 + 3)) == 32 * (1000 + 2 * 4 * 3 + 3)


def test_the_single_logit_has_two_slots_and_a_block_several_passes(setting: Setting) -> None:
    protocol = Protocol(classes=(1, 16, 64))
    assert passes_planned(setting, protocol) == {1: 2, 16: 1, 64: 1}
    assert passes_planned(setting.model_copy(update={"block": 3}), protocol) == {1: 6, 16: 3, 64: 3}


def test_before_anything_all_passes_are_left(make_manifest: Make) -> None:
    assert passes_left(Run(make_manifest(minibatches=4, processes=3), [])) == {(0, 1): 24, (0, 1024): 12}


def test_warm_up_and_first_calls_take_nothing_from_what_is_left(make_manifest: Make, make_round: Make) -> None:
    samples = make_round(0, phase="warmup") + make_round(0, phase="first") + make_round(0)
    assert passes_left(Run(make_manifest(minibatches=4), samples)) == {(0, 1): 6, (0, 1024): 3}


def test_a_process_that_ended_leaves_nothing_though_it_stopped_early(
    make_manifest: Make, make_round: Make, make_process: Make
) -> None:
    manifest = make_manifest(minibatches=4, processes=2).model_copy(
        update={"processes": (make_process(0, stop_reason="until"), make_process(1))}
    )
    samples = make_round(0) + make_round(0, process=1)
    assert passes_left(Run(manifest, samples)) == {(0, 1): 6, (0, 1024): 3}


def test_after_a_resume_the_rounds_of_both_processes_count(
    make_manifest: Make, make_round: Make, make_process: Make
) -> None:
    manifest = make_manifest(minibatches=4).model_copy(
        update={"processes": (make_process(0), make_process(1, first_round=1))}
    )
    samples = make_round(0) + make_round(1, process=1)
    assert passes_left(Run(manifest, samples)) == {(0, 1): 4, (0, 1024): 2}
    ended = manifest.model_copy(
        update={"processes": (make_process(0), make_process(1, first_round=1, stop_reason="minibatches"))}
    )
    whole = make_round(0) + [one for number in (1, 2, 3) for one in make_round(number, process=1)]
    assert passes_left(Run(ended, whole)) == Counter()


def test_points_that_failed_are_not_waited_for(make_manifest: Make, make_point: Make) -> None:
    manifest = make_manifest(minibatches=4).model_copy(update={"points": (make_point(1024, status="failed"),)})
    assert passes_left(Run(manifest, [])) == {(0, 1): 8}


def test_seconds_left_by_what_was_seen(make_manifest: Make, make_round: Make) -> None:
    """A pass at k classes takes k ms here: three rounds are left of 2 passes at 1 and one at 1024."""
    operations = {(0, 1): 10, (0, 1024): 1000}
    assert seconds_left(Run(make_manifest(minibatches=4), make_round(0)), operations) == pytest.approx(3 * 1.026)


def test_a_count_that_has_not_run_is_judged_by_the_operations_of_another(make_manifest: Make, make_round: Make) -> None:
    operations = {(0, 1): 10, (0, 1024): 1000}
    first = make_round(0, phase="first")[:1]  # one pass at 1: 1 ms for 10 operations
    assert seconds_left(Run(make_manifest(minibatches=4), first), operations) == pytest.approx(8 * 1e-3 + 4 * 0.1)


def test_before_any_pass_the_calibrated_rate_tells(make_manifest: Make, make_process: Make) -> None:
    operations = {(0, 1): 10, (0, 1024): 1000}
    assert seconds_left(Run(make_manifest(minibatches=4), []), operations) is None
    manifest = make_manifest(minibatches=4).model_copy(update={"processes": (make_process(operations_per_s=100.0),)})
    assert seconds_left(Run(manifest, []), operations) == pytest.approx((8 * 10 + 4 * 1000) / 100)


def test_expected_seconds_by_hand(setting: Setting) -> None:
    protocol = Protocol(classes=(1, 1024), minibatches=5, processes=2)
    assert expected_seconds(protocol, setting, {1: 0.1, 1024: 10.0}) == pytest.approx(1.1 * 2 * 5 * (0.1 + 0.1 + 10.0))
