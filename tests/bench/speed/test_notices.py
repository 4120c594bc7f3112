from collections.abc import Callable, Sequence

import numpy as np
import pytest

from bench.folder import Notice
from bench.run import Manifest, Point, Process, Run, Sample
from bench.speed import notices
from bench.speed.notices import carried_over, control_off, few_rounds_matter, name_of
from bench.speed.settings import Protocol, Setting
from bench.speed.statistics import Ratio

MakeRun = Callable[..., Run]
COUNTS = (1, 16, 1024)


def passes(times: np.ndarray, *, process: int = 0, seed: int = 0, **fields: object) -> list[Sample]:
    """Interleaved rounds with these times, shape (rounds, 4): A, A', 16 classes, 1,024 classes."""
    generator = np.random.default_rng(seed)
    slots = [(1, False), (1, True), (16, False), (1024, False)]
    samples: list[Sample] = []
    for number, row in enumerate(times.tolist()):
        for position, slot in enumerate(generator.permutation(4).tolist()):
            classes, control = slots[slot]
            values = {
                "setting": 0,
                "phase": "timed",
                "predecessor": samples[-1].classes if samples else None,
                "wall_s": row[slot],
                **fields,
            }
            place = {"round": number, "round_size": 4, "position": position, "process": process}
            samples.append(Sample(classes=classes, control=control, **place, **values))
    return samples


def quiet(rounds: int = 100, seed: int = 0) -> np.ndarray:
    noise = np.exp(0.003 * np.random.default_rng(seed).standard_normal((rounds, 4)))
    return noise * np.array([1.0, 1.0, 1.1, 2.0])


@pytest.fixture
def make_run(make_manifest: Callable[..., Manifest], make_point: Callable[..., Point]) -> MakeRun:
    def make(samples: Sequence[Sample], **fields: object) -> Run:
        fields = {"points": tuple(make_point(classes) for classes in COUNTS), "minibatches": 100, **fields}
        return Run(make_manifest(classes=COUNTS, **fields), samples)

    return make


def kinds(run: Run) -> list[str]:
    return [notice.kind for notice in notices.notices(run)]


def only(run: Run, kind: str) -> Notice:
    (found,) = [notice for notice in notices.notices(run) if notice.kind == kind]
    return found


def test_a_quiet_run_has_no_notices(make_run: MakeRun):
    assert kinds(make_run(passes(quiet()))) == []


def test_a_run_without_samples_has_no_notices(make_run: MakeRun, make_manifest: Callable[..., Manifest]):
    assert kinds(make_run([])) == []
    assert kinds(Run(make_manifest(), [])) == []


def test_a_control_that_is_off_is_named_with_its_size(make_run: MakeRun):
    notice = only(make_run(passes(quiet() * np.array([1, 1.02, 1, 1]))), "control-off")
    assert "resnet50, batch 32, float32" in notice.happened
    assert "+2." in notice.happened
    assert "99% interval" in notice.happened
    assert "doctor" in notice.remedy


@pytest.mark.parametrize(
    ("estimate", "error", "named"),
    [
        (1.02, 0.001, True),
        (0.98, 0.001, True),
        (1.02, 0.02, False),  # the interval holds 1
        (1.004, 0.0001, False),  # certain and without consequence
        (1.006, 0.0001, True),
    ],
)
def test_an_effect_is_named_if_it_is_both_certain_and_large(
    setting: Setting, estimate: float, error: float, named: bool
):
    ratio = Ratio(estimate, error, 9.0)
    assert (control_off(setting, ratio) is not None) is named
    assert (carried_over(setting, 1, ratio) is not None) is named
    assert control_off(setting, None) is carried_over(setting, 1, None) is None


def test_the_remedy_for_a_control_in_sequential_order_is_the_other_order(setting: Setting):
    sequential = setting.model_copy(update={"order": "sequential"})
    notice = control_off(sequential, Ratio(1.1, 0.001, 9.0))
    assert notice is not None
    assert "--order sequential" in notice.remedy


def test_sequential_order_is_always_named(make_run: MakeRun, setting: Setting):
    run = make_run(passes(quiet()), settings=(setting.model_copy(update={"order": "sequential"}),))
    assert "sequential-order" in kinds(run)


@pytest.mark.parametrize(("steady", "named"), [(True, False), (None, False), (False, True)])
def test_not_steady(make_run: MakeRun, make_process: Callable[..., Process], steady: bool | None, named: bool):
    run = make_run(passes(quiet()))
    manifest = run.manifest.model_copy(update={"processes": (make_process(steady=steady),)})
    assert ("not-steady" in kinds(Run(manifest, run.samples))) is named


@pytest.mark.parametrize("mark", ["contention", "throttling"])
@pytest.mark.parametrize(("marked", "named"), [(0, False), (5, False), (6, True), (100, True)])
def test_marked_samples_are_named_above_five_percent(make_run: MakeRun, mark: str, marked: int, named: bool):
    clean = passes(quiet())
    samples = [one.model_copy(update={"marks": (mark,)}) if one.round < marked else one for one in clean]
    run = make_run(samples)
    assert kinds(run) == ([mark] if named else [])
    if named:
        notice = only(run, mark)
        assert f"{4 * marked} of 400 passes ({marked}%)" in notice.happened
        assert "doctor" in notice.remedy


def test_carry_over_is_named_for_the_counts_it_touches(make_run: MakeRun):
    samples = [
        one.model_copy(update={"wall_s": one.wall_s * 1.03}) if one.classes == 1 and (one.predecessor or 0) > 1 else one
        for one in passes(quiet(200))
    ]
    notice = only(make_run(samples), "carry-over")
    assert "passes of the single logit" in notice.happened
    assert "+3." in notice.happened or "+2.9" in notice.happened
    assert notice.remedy.startswith("--block 2")


@pytest.mark.parametrize(("count", "factor"), [(1, None), (2, "12.7"), (3, "4.3"), (4, None)])
def test_few_processes(make_run: MakeRun, count: int, factor: str | None):
    samples = [one for process in range(count) for one in passes(quiet(40, seed=process), process=process)]
    run = make_run(samples)
    assert ("few-processes" in kinds(run)) is (factor is not None)
    if factor:
        assert factor in only(run, "few-processes").matters


@pytest.mark.parametrize(("rounds", "named"), [(5, True), (29, True), (30, False)])
def test_few_rounds(make_run: MakeRun, rounds: int, named: bool):
    run = make_run(passes(quiet(rounds)))
    assert ("few-rounds" in kinds(run)) is named
    if named:
        assert f"{rounds} rounds, fewer than 30" in only(run, "few-rounds").happened


def test_many_processes_need_not_have_many_rounds(make_run: MakeRun):
    samples = [one for process in range(2) for one in passes(quiet(12, seed=process), process=process)]
    assert "few-rounds" not in kinds(make_run(samples))


def test_what_few_rounds_mean_is_said_only_where_it_was_simulated():
    assert few_rounds_matter(11) != few_rounds_matter(12) == few_rounds_matter(29)
    assert "95 %" in few_rounds_matter(12)


@pytest.mark.parametrize(
    ("status", "word"), [("out-of-memory", "--batch-size"), ("unsupported", "--compile"), ("failed", "--classes 1")]
)
def test_failed_points_are_listed_once_with_a_remedy(
    make_run: MakeRun, make_point: Callable[..., Point], status: str, word: str
):
    failed = [
        make_point(classes, process=process, status=status, reason=f"because of {classes}")
        for process in (0, 1)
        for classes in (1024, 16)
    ]
    notice = only(make_run(passes(quiet()), points=(make_point(1), *failed)), "failed-points")
    assert "16, 1,024 classes: because of 16" in notice.happened
    assert word in notice.remedy


#: `quiet` leaves 95 % intervals of some +-0.1 %.
@pytest.mark.parametrize(
    ("until", "reason", "named"),
    [
        (0.001, "minibatches", True),
        (2.0, "minibatches", False),
        (0.001, "until", False),
        (None, "minibatches", False),
        (0.001, None, False),
    ],
)
def test_until_not_reached(
    make_run: MakeRun, make_process: Callable[..., Process], until: float | None, reason: str | None, named: bool
):
    run = make_run(passes(quiet()))
    update = {
        "protocol": Protocol(classes=COUNTS, minibatches=100, until=until),
        "processes": (make_process(stop_reason=reason),),
    }
    assert ("until-not-reached" in kinds(Run(run.manifest.model_copy(update=update), run.samples))) is named


def test_until_is_judged_by_what_a_run_and_its_continuation_found_together(
    make_run: MakeRun, make_process: Callable[..., Process]
):
    """Five rounds alone are never enough; with those before them they are, in one process as in two."""
    samples = passes(quiet())
    earlier, later = ([one for one in samples if (one.round < 95) is first] for first in (True, False))
    update = {
        "protocol": Protocol(classes=COUNTS, minibatches=100, until=2.0),
        "processes": (make_process(0), make_process(1, first_round=95, stop_reason="minibatches")),
    }
    continued = [one.model_copy(update={"process": 1}) for one in later]
    run = make_run(earlier + continued)
    assert "until-not-reached" not in kinds(Run(run.manifest.model_copy(update=update), run.samples))


def test_until_does_not_wait_for_counts_that_failed(
    make_run: MakeRun, make_point: Callable[..., Point], make_process: Callable[..., Process]
):
    samples = [one for one in passes(quiet()) if one.classes < 1024 or one.round < 1]
    update = {
        "protocol": Protocol(classes=COUNTS, minibatches=100, until=2.0),
        "processes": (make_process(stop_reason="minibatches"),),
    }
    for status, named in (("ok", True), ("out-of-memory", False)):
        run = make_run(samples, points=(make_point(1), make_point(16), make_point(1024, status=status)))
        manifest = run.manifest.model_copy(update=update)
        assert ("until-not-reached" in kinds(Run(manifest, run.samples))) is named


def test_each_setting_has_its_own_notices(make_manifest: Callable[..., Manifest], setting: Setting):
    settings = (setting, setting.model_copy(update={"arch": "alexnet", "compile": "default"}))
    samples = passes(quiet()) + passes(quiet(10), setting=1)
    (notice,) = notices.notices(Run(make_manifest(settings=settings, classes=COUNTS), samples))
    assert notice.kind == "few-rounds"
    assert notice.happened.startswith("alexnet, batch 32, float32, compile default:")


def test_a_setting_is_named_by_what_tells_it_apart(setting: Setting):
    assert name_of(setting) == "resnet50, batch 32, float32"


@pytest.mark.parametrize("build", [notices.no_nvml, notices.process_died, notices.not_written])
def test_what_samples_cannot_tell_keeps_its_reason(build: Callable[[str], Notice]):
    notice = build("was killed (signal 9)")
    assert "was killed (signal 9)" in notice.happened
    assert notice.matters
    assert notice.remedy
