"""Trainings on Ray: several processes on this machine are the cluster."""

import contextlib
import importlib
import io
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import psutil
import pytest
from safetensors.torch import load_file

from bench.accuracy import ray_engine
from bench.accuracy.data import load as load_data
from bench.accuracy.grid import Grid, train_and_test
from bench.accuracy.orders import Done, Event, Order
from bench.accuracy.plan import plan
from bench.accuracy.ray_engine import Job, how_it_was_lost, places, refuse_elsewhere, refuse_other_data, remarks
from bench.accuracy.request import Request
from bench.accuracy.run import AccuracyRun, load
from bench.accuracy.settings import Engine, Recipe, Source
from bench.errors import UsageError
from bench.folder import Notice, RunNotWritten
from bench.machine import fingerprint

Make = Callable[..., Any]
Command = Callable[..., Any]
Only = Callable[[Path], Path]

#: Two trainings, of which one is tested. Of so many steps none ends before the event of its first step is read.
STEPS = 400
ASKED: dict[str, Any] = {
    "losses": "batch-ce",
    "learning_rates": [0.1, 0.01],
    "steps": STEPS,
    "batch_size": 64,
    "device": "cpu",
    "threads": 1,
}
FIRST, SECOND = "batch-ce-lr0.1-seed0", "batch-ce-lr0.01-seed0"

#: The same on the command line.
TINY = (
    "accuracy", "--losses", "batch-ce", "--lr", "0.1,0.01", "--steps", STEPS, "--batch-size", 64, "--device", "cpu",
    "--threads", 1, "--workers", 1, "--engine", "ray",
)  # fmt: skip


# -- what is decided, without Ray ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("machines", "needs", "expected"),
    [
        ([], {"CPU": 1}, 0),
        ([{"CPU": 2.0}], {"CPU": 1}, 2),
        ([{"CPU": 3.0}, {"CPU": 3.0}], {"CPU": 2}, 2),  # six cores, and yet no third task
        ([{"CPU": 2.0}], {"CPU": 4}, 0),
        ([{"CPU": 16.0, "GPU": 2.0}, {"CPU": 16.0}], {"CPU": 1, "GPU": 1.0}, 2),
        ([{"CPU": 16.0, "GPU": 2.0}], {"CPU": 1, "GPU": 0.25}, 8),
        ([{"CPU": 64.0, "GPU": 3.0}], {"CPU": 1, "GPU": 0.1}, 30),
        ([{"CPU": 2.0, "GPU": 8.0}], {"CPU": 1, "GPU": 0.5}, 2),
    ],
)
def test_a_task_needs_room_on_one_machine(
    machines: list[dict[str, float]], needs: dict[str, float], expected: int
) -> None:
    assert places(machines, needs) == expected


def _cluster_of(machines: list[dict[str, float]], **engine: Any) -> ray_engine.Cluster:
    nodes = [{"Alive": True, "Resources": each} for each in machines]
    fake = SimpleNamespace(nodes=lambda: [*nodes, {"Alive": False, "Resources": {"CPU": 1000.0, "GPU": 1000.0}}])
    return ray_engine.Cluster(fake, Engine(name="ray", **engine))


def test_as_many_side_by_side_as_were_asked_for_or_there_is_room_or_work_for() -> None:
    recipe = Recipe(network="mlp", steps=1, threads=2)
    eight = [{"CPU": 8.0}, {"CPU": 8.0}]
    assert _cluster_of(eight).workers(recipe, most=100) == 8
    assert _cluster_of(eight).workers(recipe, most=3) == 3
    assert _cluster_of(eight, workers=5).workers(recipe, most=100) == 5
    assert _cluster_of(eight, workers=50).workers(recipe, most=100) == 8


def test_what_fits_no_machine_is_refused_rather_than_waited_for() -> None:
    recipe = Recipe(network="mlp", steps=1, threads=4)
    with pytest.raises(UsageError, match=r"no machine .* has the 4 CPU .*\(2 CPU; 3 CPU\).*--threads"):
        _cluster_of([{"CPU": 2.0}, {"CPU": 3.0}]).workers(recipe, most=1)
    on_gpu = recipe.model_copy(update={"device": "cuda:0"})
    with pytest.raises(UsageError, match=r"4 CPU and 0\.5 GPU .*\(64 CPU, 0 GPU\)"):
        _cluster_of([{"CPU": 64.0}], gpu_share=0.5).workers(on_gpu, most=1)


@pytest.fixture
def job(tmp_path: Path, make_grid_manifest: Make) -> Job:
    """Of a run on digits with one loss, whose folder holds the mark."""
    found = ray_engine.job_of(
        make_grid_manifest(
            losses=["ce"],
            learning_rates=[0.1],
            recipe={"steps": 4, "batch_size": 64},
            source=Source(name="digits"),
            versions=fingerprint.versions(),
            dataset=load_data("digits").facts,
            machine=fingerprint.describe("cpu"),
            commit=fingerprint.commit(),
        ),
        tmp_path,
    )
    (tmp_path / "mark").touch()
    return found.model_copy(update={"mark": "mark"})


def test_a_task_elsewhere_with_other_versions_or_data_is_refused(job: Job) -> None:
    refuse_elsewhere(job, job.versions)
    refuse_other_data(job, job.dataset)
    with pytest.raises(UsageError, match=r"folder .* is not in sight; .*--output"):
        refuse_elsewhere(job.model_copy(update={"mark": "of another folder of that name"}), job.versions)
    with pytest.raises(UsageError, match=r"another experiment: torch \(.* where it began, 1\.0 here\)$"):
        refuse_elsewhere(job, job.versions | {"torch": "1.0"})
    with pytest.raises(UsageError, match="digits is not what it was"):
        refuse_other_data(job, job.dataset.model_copy(update={"train": 3}))


def test_a_folder_that_takes_no_mark_is_a_run_that_is_not_written(job: Job) -> None:
    gone = job.model_copy(update={"folder": job.folder / "gone"})
    with pytest.raises(RunNotWritten, match=r"cannot write .*gone"), ray_engine._marked(gone):
        pytest.fail("marked")


def test_the_mark_is_there_for_as_long_as_the_parent(job: Job) -> None:
    with ray_engine._marked(job) as marked:
        refuse_elsewhere(marked, job.versions)
    assert [path.name for path in job.folder.iterdir()] == ["mark"]


def test_a_run_says_that_another_machine_took_part(job: Job) -> None:
    assert remarks(job, job.machine, job.commit) == []
    (hardware,) = remarks(job, job.machine.model_copy(update={"cpu": "Other CPU"}), job.commit)
    assert hardware.kind == "other-machine"
    assert "cpu (Other CPU" in hardware.happened
    (commit,) = remarks(job, job.machine, "0123abc")
    assert commit.kind == "other-commit"
    assert "0123abc" in commit.happened


def _order_of(make_member: Make, kind: str) -> str:
    return json.dumps({"kind": kind, **({"members": [_member(make_member)]} if kind == "train" else {})})


def _member(make_member: Make) -> dict[str, Any]:
    found: dict[str, Any] = make_member("ce", 0.1, 0).model_dump()
    return found


def _performed(job: Job, order: str) -> list[dict[str, Any]]:
    return [json.loads(event) for event in ray_engine.perform(job.model_dump_json(), order)]


def test_a_task_tells_what_a_worker_would(job: Job, make_member: Make, tmp_path: Path) -> None:
    events = _performed(job, _order_of(make_member, "train"))
    assert [event["kind"] for event in events[-2:]] == ["ended", "done"]
    assert {event["kind"] for event in events[:-2]} == {"stepped"}
    assert events[-2]["training"]["status"] == "ok"
    assert (tmp_path / "checkpoints" / "ce-lr0.1-seed0.safetensors").is_file()


def test_a_task_whose_order_fails_says_so_and_ends(job: Job, make_member: Make) -> None:
    untrained = json.dumps({"kind": "test", "member": _member(make_member)})
    (failed,) = _performed(job, untrained)
    assert (failed["kind"], failed["cause"]) == ("failed", "usage")
    assert "no weights of ce-lr0.1-seed0" in failed["reason"]


def test_a_task_with_a_mistake_in_it_raises_what_the_work_raised(
    job: Job, make_member: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    def mistaken(self: Any, order: Order, emit: Callable[[Event], None]) -> None:
        emit(Done())
        raise KeyError("a mistake")

    monkeypatch.setattr(ray_engine.Workplace, "carry_out", mistaken)
    told = ray_engine.perform(job.model_dump_json(), _order_of(make_member, "train"))
    assert json.loads(next(told)) == {"kind": "done"}
    with pytest.raises(KeyError, match="a mistake"):
        next(told)


def test_other_hardware_is_told_before_the_first_step(job: Job, make_member: Make) -> None:
    other = job.model_copy(update={"machine": job.machine.model_copy(update={"cpu": "Other CPU"})})
    first = _performed(other, _order_of(make_member, "train"))[0]
    assert first["kind"] == "remarked"
    assert Notice(**first["notice"]).kind == "other-machine"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("WorkerCrashedError", "killed or crashed"),
        ("OutOfMemoryError", "nearly out of memory"),
        ("NodeDiedError", "left the Ray cluster"),
        ("ObjectLostError", "left the Ray cluster"),
    ],
)
def test_how_a_task_was_lost_is_one_line(name: str, words: str) -> None:
    """The names are Ray's own: one that Ray renames is found here."""
    exceptions = pytest.importorskip("ray.exceptions", reason="Ray is not installed")
    form = getattr(exceptions, name)
    reason = how_it_was_lost(form.__new__(form))
    assert words in reason
    assert "\n" not in reason


def test_a_task_that_raised_is_named_by_what_it_raised() -> None:
    error = RuntimeError("a traceback\nof many lines")
    error.cause = KeyError("lost")  # type: ignore[attr-defined]
    assert how_it_was_lost(error) == "its task on Ray failed: KeyError: 'lost'"
    assert how_it_was_lost(ValueError("new\nin Ray")) == "its task on Ray was lost: ValueError: new"


def test_what_rays_threads_print_is_not_on_standard_output() -> None:
    ours, rays = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(ours), contextlib.redirect_stderr(rays):
        with ray_engine._rays_lines_on_standard_error():
            listener = threading.Thread(target=print, args=["a worker died"], name="ray_listen_error_messages")
            listener.start()
            listener.join()
            print("the table")
        print("the end")
    assert ours.getvalue() == "the table\nthe end\n"
    assert rays.getvalue() == "a worker died\n"


# -- what is refused ----------------------------------------------------------------------------------------------


def _assert_one_line(ended: Any, output: Path, *words: str) -> None:
    assert ended.code == 2, ended.err
    assert ended.out == ""
    (line,) = ended.err.splitlines()
    assert line.startswith("error: ")
    for word in words:
        assert word in line
    assert not output.exists()


def test_ray_absent_is_one_clear_line(tmp_path: Path, here: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)  # as if it were not installed
    ended = here(*TINY, "--output", tmp_path / "results")
    _assert_one_line(ended, tmp_path / "results", "Ray is not installed", "pip install 'slc-bench[ray]'")


def test_nothing_imports_ray_unless_it_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    asked = Request(**{**ASKED, "steps": 2, "learning_rates": [0.1], "workers": 1})
    assert train_and_test(asked, tmp_path).manifest.engine == Engine()


@pytest.fixture
def with_ray() -> Any:
    return pytest.importorskip("ray", reason="Ray is not installed")


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@pytest.mark.parametrize("name", ["given", "RAY_ADDRESS"])
def test_an_address_where_nobody_listens_is_one_clear_line(
    name: str, tmp_path: Path, here: Command, with_ray: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray itself would try for two minutes."""
    monkeypatch.setattr(with_ray, "init", lambda **options: pytest.fail("Ray was asked"))
    nowhere = f"127.0.0.1:{_free_port()}"
    if name != "given":
        monkeypatch.setenv(name, nowhere)
    ended = here(*TINY, "--address", nowhere if name == "given" else "auto", "--output", tmp_path / "results")
    _assert_one_line(ended, tmp_path / "results", f"--address {nowhere}", "nobody answers", "refused")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--engine", "slurm"], ["--engine 'slurm'", "local, ray"]),
        (["--address", "auto"], ["--address", "add --engine ray"]),
        (["--gpu-share", "0.5"], ["--gpu-share", "add --engine ray"]),
        (["--engine", "ray", "--gpu-share", "0.5", "--device", "cpu"], ["--gpu-share", "on the CPU"]),
        (["--engine", "ray", "--address", "somewhere"], ["'somewhere'", "HOST:PORT"]),
        (["--engine", "ray", "--address", "ray://head:10001"], ["'ray://head:10001'", "HOST:PORT"]),
        (["--engine", "ray", "--address", "head:0"], ["'head:0'", "HOST:PORT"]),
        (["--engine", "ray", "--workers", "0"], ["--workers 0", "1 or more"]),
        (["--engine", "ray", "--threads", "0"], ["--threads 0", "1 or more"]),
    ],
)
def test_what_cannot_be_done_is_one_clear_line(
    options: list[str], words: list[str], tmp_path: Path, here: Command, with_ray: Any
) -> None:
    _assert_one_line(here("accuracy", *options, "--output", tmp_path / "results"), tmp_path / "results", *words)


def test_a_run_of_this_machine_does_not_go_on_at_an_address(tmp_path: Path, here: Command, only: Only) -> None:
    train_and_test(Request(**{**ASKED, "steps": 2, "learning_rates": [0.1], "workers": 1}), tmp_path)
    ended = here("accuracy", "--resume", only(tmp_path), "--address", "auto")
    assert (ended.code, ended.out) == (2, "")
    assert "was not begun with --engine ray" in ended.err


def test_an_address_may_stand_beside_resume_and_an_engine_not(here: Command) -> None:
    assert "'nowhere' is not a run" in here("accuracy", "--resume", "nowhere", "--address", "auto").err
    assert "leave out --engine" in here("accuracy", "--resume", "nowhere", "--engine", "ray").err


def test_one_task_a_training_of_one_thread_unless_said_otherwise(with_ray: Any) -> None:
    planned = plan(Request(**{**ASKED, "threads": None}, engine="ray"))
    assert planned.engine == Engine(name="ray")
    assert (planned.recipe.workers, planned.recipe.stack, planned.recipe.threads) == (2, 1, 1)
    stacked = plan(Request(**ASKED, engine="ray", stack=2, workers=3))
    assert (stacked.engine.workers, stacked.recipe.workers, stacked.recipe.stack) == (3, 1, 2)


# -- on a cluster -------------------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def _elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Ray has tasks import from the folder a program was started in first: the source would hide what is tested."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """A cluster of two cores on this machine; each test joins it and leaves it."""
    pytest.importorskip("ray", reason="Ray is not installed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        cluster = importlib.import_module("ray.cluster_utils").Cluster(
            initialize_head=True,
            head_node_args={"num_cpus": 2, "include_dashboard": False, "object_store_memory": 2**27},
        )
    try:
        yield str(cluster.address)
    finally:
        cluster.shutdown()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> AccuracyRun:
    """The grid from end to end in this process."""
    return train_and_test(Request(**ASKED, workers=1), tmp_path_factory.mktemp("whole"))


def _untimed(record: Any) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(record.model_dump_json())
    for timed in (content, *content.get("curve", ())):
        for name in ("seconds", "examples_per_s"):
            timed.pop(name, None)
    return content


def _assert_same_results(found: AccuracyRun, expected: AccuracyRun) -> None:
    """Bit for bit: records, influences, final weights."""
    assert found.manifest.status == expected.manifest.status == "complete"
    for records in ("trainings", "evaluations"):
        mine, theirs = ({each.member: _untimed(each) for each in getattr(run, records)} for run in (found, expected))
        assert mine == theirs
    for name, influence in expected.influences.items():
        np.testing.assert_array_equal(found.influences[name], influence)
    assert _weights(found) == _weights(expected)


def _weights(run: AccuracyRun) -> dict[str, dict[str, bytes]]:
    assert run.path is not None
    return {
        file.name: {name: tensor.numpy().tobytes() for name, tensor in load_file(file).items()}
        for file in (run.path / "checkpoints").glob("*.safetensors")
    }


def _tasks() -> list[psutil.Process]:
    """Processes of Ray, below this one, that are carrying out an order."""
    return [each for each in psutil.Process().children(recursive=True) if _name(each) == "ray::perform"]


def _name(process: psutil.Process) -> str:
    """What a process calls itself; empty if it is gone."""
    with contextlib.suppress(psutil.Error):
        return process.name() if process.status() != psutil.STATUS_ZOMBIE else ""
    return ""


@contextlib.contextmanager
def at_first_step_of(name: str, act: Callable[[], None]) -> Iterator[None]:
    """Inside, `act` is called once, when the first event of a training's steps is taken in."""
    take, waiting = Grid.take, [act]

    def take_and_act(self: Grid, order: Order, event: Event) -> None:
        take(self, order, event)
        if event.kind == "stepped" and event.members[0].name == name and waiting:
            waiting.pop()()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Grid, "take", take_and_act)
        yield


def _kill_the_task() -> None:
    (task,) = _tasks()
    task.kill()


def test_trainings_through_ray_end_as_those_of_this_process(address: str, whole: AccuracyRun, tmp_path: Path) -> None:
    run = train_and_test(Request(**ASKED, engine="ray", address=address), tmp_path)
    _assert_same_results(run, whole)
    assert run.manifest.engine == Engine(name="ray", address=address)
    assert run.manifest.recipe.workers == 2, "so many cores has the cluster"
    assert run.manifest.notices == ()
    assert run.path is not None
    assert load(run.path).manifest == run.manifest
    assert not list(run.path.glob(".shared-*"))
    assert not importlib.import_module("ray").is_initialized()


def test_a_killed_worker_costs_its_training_only_and_resume_mends_it(
    address: str, whole: AccuracyRun, tmp_path: Path, here: Command, only: Only
) -> None:
    with at_first_step_of(FIRST, _kill_the_task):
        ended = here(*TINY, "--address", address, "--output", tmp_path, "--json")
    assert ended.code == 3, ended.err
    assert json.loads(ended.out)["run"]["status"] == "incomplete", "one object, whatever Ray has to say"
    lost, kept = load(only(tmp_path)).trainings
    assert (lost.member.name, lost.status) == (FIRST, "failed")
    assert "killed or crashed" in lost.reason
    assert (kept.member.name, kept.status) == (SECOND, "ok")

    assert here("accuracy", "--resume", only(tmp_path), "--quiet").code == 0
    _assert_same_results(load(only(tmp_path)), whole)


def test_an_interrupt_ends_the_tasks_and_the_run_goes_on_later(
    address: str, whole: AccuracyRun, tmp_path: Path, here: Command, only: Only
) -> None:
    with at_first_step_of(FIRST, lambda: os.kill(os.getpid(), signal.SIGINT)):
        ended = here(*TINY, "--address", address, "--output", tmp_path, "--quiet")
    assert ended.code == 130, ended.err
    assert _tasks() == []
    assert load(only(tmp_path)).manifest.status == "interrupted"
    assert here("accuracy", "--resume", only(tmp_path), "--address", address, "--quiet").code == 0
    _assert_same_results(load(only(tmp_path)), whole)


@pytest.mark.slow
def test_a_machine_that_does_not_see_the_folder_is_one_clear_line(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, here: Command, only: Only
) -> None:
    @contextlib.contextmanager
    def marked_elsewhere(job: Job) -> Iterator[Job]:
        yield job.model_copy(update={"mark": "in the folder of that name on another machine"})

    monkeypatch.setattr(ray_engine, "_marked", marked_elsewhere)
    ended = here(*TINY, "--address", address, "--output", tmp_path, "--quiet")
    assert (ended.code, ended.out) == (2, "")
    (line,) = ended.err.splitlines()
    assert "of the Ray cluster: the run's folder" in line
    assert "is not in sight" in line
    assert load(only(tmp_path)).trainings == ()


def test_more_than_any_machine_has_is_one_clear_line(address: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no machine of the Ray cluster has the 3 CPU .*\(2 CPU\)"):
        train_and_test(Request(**{**ASKED, "threads": 3}, engine="ray", address=address), tmp_path)


def test_a_program_that_is_part_of_a_cluster_is_told(with_ray: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(with_ray, "is_initialized", lambda: True)
    with pytest.raises(UsageError, match=r"already: ray\.shutdown"), ray_engine.joined(Engine(name="ray"), 1):
        pytest.fail("joined")


def test_what_keeps_ray_from_joining_is_one_clear_line(with_ray: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**options: Any) -> None:
        raise RuntimeError("Version mismatch: the cluster has another Python\nand much more")

    monkeypatch.setattr(with_ray, "init", refuse)
    handler = signal.getsignal(signal.SIGTERM)
    with pytest.raises(UsageError) as caught, ray_engine.joined(Engine(name="ray", address="auto"), 1):
        pytest.fail("joined")
    assert str(caught.value) == (
        "--address auto: no Ray cluster is joined there: RuntimeError: Version mismatch: the cluster has another Python"
    )
    assert signal.getsignal(signal.SIGTERM) == handler


# -- a cluster that is started here -------------------------------------------------------------------------------


#: The command line, which says on standard error which event it took in.
TELLING = """
import sys
from bench.accuracy.grid import Grid
from bench.cli import main
take = Grid.take
def take_and_tell(self, order, event):
    take(self, order, event)
    print(event.kind, file=sys.stderr, flush=True)
Grid.take = take_and_tell
main()
"""


@contextlib.contextmanager
def training_on_a_cluster_of_its_own(output: Path) -> Iterator["subprocess.Popen[str]"]:
    """A long run in a session of its own, once a training is under way; nothing of it is left afterwards."""
    options = [*map(str, TINY), "--steps", "1000000", "--output", str(output), "--json", "--quiet"]
    process = subprocess.Popen(
        [sys.executable, "-c", TELLING, *options],
        cwd=ray_engine._ROOT,
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    try:
        assert any(line == "stepped\n" for line in process.stderr)
        yield process
    finally:
        for each in _of_session(process.pid):
            with contextlib.suppress(psutil.Error):
                each.kill()
        process.communicate()


def _of_session(session: int) -> list[psutil.Process]:
    """Its processes that are alive."""
    found = []
    for each in psutil.process_iter():
        with contextlib.suppress(OSError):
            if os.getsid(each.pid) == session and _name(each):
                found.append(each)
    return found


@pytest.mark.slow
def test_an_interrupt_at_the_terminal_ends_the_cluster_that_was_started(tmp_path: Path, with_ray: Any) -> None:
    """It reaches all processes of the group, Ray's too."""
    with training_on_a_cluster_of_its_own(tmp_path) as process:
        of_ray = [each for each in _of_session(process.pid) if each.pid != process.pid]
        assert "ray::perform" in map(_name, of_ray)
        os.killpg(process.pid, signal.SIGINT)
        out, err = process.communicate(timeout=60)
        assert process.returncode == 130, err
        assert json.loads(out)["run"]["status"] == "interrupted"
        assert psutil.wait_procs(of_ray, timeout=60)[1] == []


@pytest.mark.slow
def test_no_task_outlives_a_parent_that_is_killed(tmp_path: Path, with_ray: Any) -> None:
    """It would go on writing into a run that somebody may be resuming."""
    with training_on_a_cluster_of_its_own(tmp_path) as process:
        at_work = [each for each in _of_session(process.pid) if _name(each) in ("ray::perform", "raylet")]
        assert len(at_work) == 2
        process.kill()
        assert psutil.wait_procs(at_work, timeout=60)[1] == []


@pytest.mark.slow
def test_a_cluster_that_is_started_here_gives_the_same(whole: AccuracyRun, tmp_path: Path, with_ray: Any) -> None:
    _assert_same_results(train_and_test(Request(**ASKED, engine="ray"), tmp_path), whole)
    assert _tasks() == []


@pytest.mark.gpu
def test_on_a_gpu_two_tasks_share_it(tmp_path: Path, with_ray: Any) -> None:
    asked = {**ASKED, "device": "cuda"}
    run = train_and_test(Request(**asked, engine="ray", gpu_share=0.5), tmp_path)
    assert run.manifest.status == "complete"
    assert run.manifest.recipe.device == "cuda:0"
    assert run.manifest.engine.gpu_share == 0.5
