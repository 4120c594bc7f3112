from bench.speed.energy import EnergyProtocol, Window
from bench.speed.settings import Protocol, Setting
from bench.speed.tasks import Task, abandoned, energy_tasks, remaining_tasks, without_energy


def task(setting: int, process: int, first_round: int) -> Task:
    return Task(setting=setting, process=process, first_round=first_round)


def test_a_new_run_has_every_replicate_of_every_setting_before_it(make_manifest, setting) -> None:
    manifest = make_manifest(settings=[setting, setting.model_copy(update={"seed": 1})], processes=2)
    assert remaining_tasks(manifest, []) == [
        [task(0, 0, 0), task(1, 0, 0)],
        [task(0, 1, 0), task(1, 1, 0)],
    ]


def test_a_run_that_ended_has_nothing_left(make_manifest, make_process, make_round) -> None:
    manifest = make_manifest(minibatches=2).model_copy(update={"processes": (make_process(stop_reason="minibatches"),)})
    assert remaining_tasks(manifest, make_round(0) + make_round(1)) == []


def test_a_process_that_stopped_early_because_it_knew_enough_is_done(make_manifest, make_process, make_round) -> None:
    manifest = make_manifest(minibatches=100).model_copy(update={"processes": (make_process(stop_reason="until"),)})
    assert remaining_tasks(manifest, make_round(0)) == []


def test_the_next_process_takes_the_rounds_that_a_killed_one_left(make_manifest, make_process, make_round) -> None:
    manifest = make_manifest(minibatches=4).model_copy(update={"processes": (make_process(),)})
    assert remaining_tasks(manifest, make_round(0) + make_round(1)) == [[task(0, 1, 2)]]


def test_killed_twice_the_rounds_of_both_count(make_manifest, make_process, make_round) -> None:
    manifest = make_manifest(minibatches=4)
    manifest = manifest.model_copy(update={"processes": (make_process(0), make_process(1, first_round=2))})
    samples = make_round(0) + make_round(1) + make_round(2, process=1)
    assert remaining_tasks(manifest, samples) == [[task(0, 2, 3)]]


def test_killed_after_the_last_round_there_is_nothing_left(make_manifest, make_process, make_round) -> None:
    manifest = make_manifest(minibatches=2).model_copy(update={"processes": (make_process(),)})
    assert remaining_tasks(manifest, make_round(0) + make_round(1)) == []


def test_of_three_replicates_a_finished_a_killed_and_an_unstarted_one(make_manifest, make_process, make_round) -> None:
    manifest = make_manifest(minibatches=2, processes=3)
    manifest = manifest.model_copy(update={"processes": (make_process(0, stop_reason="minibatches"), make_process(1))})
    samples = make_round(0) + make_round(1) + make_round(0, process=1)
    assert remaining_tasks(manifest, samples) == [[task(0, 2, 1)], [task(0, 3, 0)]]


def test_warm_up_and_first_calls_are_no_rounds(make_manifest, make_process, make_round) -> None:
    manifest = make_manifest(minibatches=2).model_copy(update={"processes": (make_process(),)})
    assert remaining_tasks(manifest, make_round(0, phase="warmup")) == [[task(0, 1, 0)]]


def test_a_setting_with_no_points_left_is_not_tried_again(make_manifest, make_process) -> None:
    manifest = make_manifest(processes=3).model_copy(
        update={"processes": (make_process(stop_reason="no points left"),)}
    )
    assert remaining_tasks(manifest, []) == []


def test_the_sequential_order_begins_again_and_what_was_cut_off_is_abandoned(
    make_manifest, make_process, make_round, setting: Setting
) -> None:
    sequential = setting.model_copy(update={"order": "sequential"})
    cut = make_process(0)
    manifest = make_manifest(settings=[sequential], minibatches=4).model_copy(update={"processes": (cut,)})
    assert remaining_tasks(manifest, make_round(0) + make_round(1)) == [[task(0, 1, 0)]]
    assert not abandoned(manifest, cut)
    again = manifest.model_copy(update={"processes": (cut, make_process(1))})
    assert abandoned(again, cut)
    assert not abandoned(again, again.processes[1])


def rest(setting: int, cycle: int) -> Window:
    counter = {"seconds": 5.0, "joules": 1.0, "period_s": 0.1, "resolution_j": 0.1, "offset_s": 0.0}
    shown = {"process": 0, "kind": "idle", "started": "2026-01-02T03:04:05+00:00", "images": 0}
    return Window(setting=setting, cycle=cycle, **shown, **counter)


def test_energy_is_left_where_it_was_cut_off_and_the_reference_can_be_measured(
    make_manifest, make_point, make_process, setting
) -> None:
    settings = [setting.model_copy(update={"seed": seed}) for seed in range(4)]
    asked = Protocol(classes=(1, 1024), minibatches=4, energy=True)
    lost = make_point(1, setting=3, status="failed", reason="it is")
    manifest = make_manifest(settings=settings, protocol=asked, points=(lost,))
    last = EnergyProtocol().cycles
    windows = [rest(0, last), rest(1, last - 1)]
    assert without_energy(manifest, windows) == [1, 2]
    assert without_energy(manifest.model_copy(update={"protocol": Protocol(classes=(1,))}), windows) == []
    ran = manifest.model_copy(update={"processes": (make_process(4),)})
    assert energy_tasks(ran, [1, 2]) == [task(1, 5, 4), task(2, 5, 4)]
