from collections.abc import Callable
from typing import Any

from bench.accuracy import notices
from bench.accuracy.notices import all_notices
from bench.folder import Notice

Make = Callable[..., Any]


def test_a_run_in_which_all_went_well_has_none(
    make_grid_manifest: Make, make_member: Make, make_training: Make, make_evaluation: Make, make_run: Make
) -> None:
    run = make_run(make_grid_manifest(["ce"], [0.1]), [make_training(make_member())], [make_evaluation(make_member())])
    assert all_notices(run) == []


def test_trainings_that_were_lost_are_one_notice_a_kind(
    make_grid_manifest: Make, make_member: Make, make_training: Make, make_run: Make
) -> None:
    diverged = [make_training(make_member(seed=seed), status="diverged") for seed in range(6)]
    failed = [make_training(make_member(seed=9), status="failed")]
    first, second = all_notices(make_run(make_grid_manifest(), [*diverged, *failed]))
    assert (first.kind, second.kind) == notices.LOST
    assert first.happened.startswith("6 trainings diverged: ce-lr0.1-seed0 (it diverged), ")
    assert first.happened.endswith("and 2 more")
    assert second.happened == "1 training failed: ce-lr0.1-seed9 (it failed)"
    assert "--resume" in second.remedy


def test_a_best_rate_at_the_end_of_those_tried_is_told(
    make_grid_manifest: Make, make_member: Make, make_evaluation: Make, make_run: Make
) -> None:
    rates = [1.0, 0.1, 0.01]
    manifest = make_grid_manifest(["ce", "batch-ce", "self-norm"], rates, [0, 1])

    def notices_of(*chosen: tuple[str, float]) -> list[Notice]:
        evaluations = [make_evaluation(make_member(loss, rate, seed)) for seed, (loss, rate) in enumerate(chosen)]
        return all_notices(make_run(manifest, (), evaluations))

    (notice,) = notices_of(("ce", 1.0), ("batch-ce", 0.1), ("self-norm", 0.01))
    assert notice.kind == "rate-at-the-edge"
    assert "ce (1)" in notice.happened
    assert "self-norm (0.01)" in notice.happened
    assert "batch-ce" not in notice.happened
    assert notices_of(("ce", 1.0), ("ce", 0.1)) == [], "the seeds do not agree"
    two = make_grid_manifest(["ce"], [0.1, 0.01])
    assert all_notices(make_run(two, (), [make_evaluation(make_member())])) == [], "of two rates both are ends"


def test_what_was_noticed_before_stays(make_grid_manifest: Make, make_run: Make) -> None:
    while_training = notices.other_commit("abc", None)
    while_reading = Notice(kind="torn-line", happened="a", matters="b", remedy="c")
    run = make_run(make_grid_manifest(notices=(while_training,)), notices=(while_reading,))
    assert all_notices(run) == [while_training, while_reading]
    assert "abc" in while_training.happened
    assert "unknown" in while_training.happened


def test_what_resuming_mends_is_known_by_its_kind(make_member: Make) -> None:
    for notice in (notices.not_written("no space"), notices.not_tested(make_member(), "no memory")):
        assert notice.kind in notices.MENDED_BY_RESUMING
        assert "--resume" in notice.remedy
    assert notices.other_commit("a", "b").kind not in notices.MENDED_BY_RESUMING
