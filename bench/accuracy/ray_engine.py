"""A grid's orders as tasks on a Ray cluster: one order a task, its events a stream.

    parent                                  task, on a machine of the cluster
      |--- job and order ------------------------>|  the run's folder is in sight, versions and data are the run's
      |<-- Remarked, if the machine differs ------|
      |<-- Stepped, Ended, Evaluated, Done -------|  as from a worker of bench.accuracy.pool
      |<-- Failed, or the stream breaks off ------|

A task that is lost costs its order alone. Ray would start it again without a word (max_retries), so it is told not
to: the training is recorded as failed, and --resume goes on from its checkpoint, which lies in the run's folder.

Ray is optional and imported only here, once it is asked for.
"""

import contextlib
import functools
import importlib
import logging
import math
import os
import queue
import secrets
import signal
import socket
import sys
import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Any, Literal, TextIO, cast

import torch
from pydantic import Field, TypeAdapter

from bench.accuracy.data import Dataset, load
from bench.accuracy.orders import ORDER, Event, Failed, Order
from bench.accuracy.records import DatasetFacts, Manifest
from bench.accuracy.settings import Engine, LossSetting, Recipe, Source
from bench.accuracy.worker import Workplace
from bench.errors import UsageError
from bench.folder import Notice, Record, RunNotWritten
from bench.machine import fingerprint
from bench.machine.fingerprint import Machine
from bench.speed.failures import first_line

#: A machine that is there answers sooner; Ray itself would try for minutes.
ANSWER_TIMEOUT_S = 5.0

#: For tasks to end once they are cancelled, so that nobody writes into a run that is let go of.
CANCEL_TIMEOUT_S = 10.0

#: Ray's names for "start one here" and "the one that runs here".
HERE, FOUND = "local", "auto"

#: Of the object store of a cluster that is started here: more than all events under way, in bytes.
_EVENTS_BYTES = 2**27

#: The folder that this package lies in.
_ROOT = Path(__file__).resolve().parents[2]

#: Beginning of the names of Ray's threads in this process.
_RAYS_THREADS = "ray_"


class Job(Record):
    """What every task of a run needs to know."""

    source: Source
    dataset: DatasetFacts
    recipe: Recipe
    losses: tuple[LossSetting, ...]
    folder: Path
    mark: str = Field("", description="name of a file in the folder, for as long as the parent is there")
    machine: Machine
    versions: dict[str, str]
    commit: str | None


class Remarked(Record):
    """Something of a task's machine that the run must say."""

    kind: Literal["remarked"] = "remarked"
    notice: Notice


_TOLD: TypeAdapter[Event | Remarked] = TypeAdapter(Annotated[Event | Remarked, Field(discriminator="kind")])


def job_of(manifest: Manifest, folder: Path) -> Job:
    """The job of a run that lies in `folder`."""
    assert manifest.source is not None, "data in hand are refused where the run is planned"
    return Job(
        source=manifest.source,
        dataset=manifest.dataset,
        recipe=manifest.recipe,
        losses=manifest.losses,
        folder=folder.absolute(),
        machine=manifest.machine,
        versions=manifest.versions,
        commit=manifest.commit,
    )


# -- before anything is trained ---------------------------------------------------------------------------------


def refuse_unusable(engine: Engine) -> None:
    """Raises UsageError if Ray is asked for and is not installed, or if nobody listens at its address."""
    if engine.name != "ray":
        return
    _ray()
    address = _resolved(engine.address)
    if address in (HERE, FOUND):
        return
    host, port = _host_and_port(address)
    try:
        socket.create_connection((host, port), timeout=ANSWER_TIMEOUT_S).close()
    except OSError as error:
        raise UsageError(
            f"--address {address}: nobody answers there ({error.strerror or error}); `ray status` on a machine of the "
            "cluster tells its address; without --address a cluster is started here"
        ) from None


def _ray() -> Any:
    """The module. Raises UsageError if it is not installed."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # read on import: nothing is reported to anybody
    try:
        return importlib.import_module("ray")
    except ModuleNotFoundError:
        raise UsageError(
            "--engine ray: Ray is not installed; python -m pip install 'slc-bench[ray]', or leave --engine out"
        ) from None


def _resolved(address: str) -> str:
    """Ray's own rule for `auto`: the variable RAY_ADDRESS, and else what runs here."""
    return (os.environ.get("RAY_ADDRESS") or FOUND) if address == FOUND else address


def _host_and_port(address: str) -> tuple[str, int]:
    """Raises UsageError for anything else; an address ray:// is that of a client, which cannot stream events."""
    host, _, port = address.rpartition(":")
    if "//" in address or not host or not port.isascii() or not port.isdigit() or not 0 < int(port) < 2**16:
        raise UsageError(
            f"--address {address!r}: give HOST:PORT of the cluster's head (its port is 6379 unless it was told "
            "another), auto for the one that runs here, or local to start one"
        )
    return host.strip("[]"), int(port)


# -- the cluster ------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def joined(engine: Engine, cores: int) -> Iterator["Cluster"]:
    """Inside, this process is part of the cluster; one that is started here, with `cores`, ends with it.

    Raises UsageError if it cannot be joined.
    """
    ray = _ray()
    if ray.is_initialized():
        raise UsageError("this program is part of a Ray cluster already: ray.shutdown() first, and give its --address")
    with _rays_lines_on_standard_error():
        try:
            _join(ray, engine, cores)
            yield Cluster(ray, engine)
        finally:
            with contextlib.redirect_stdout(sys.stderr):  # lines that were held back
                ray.shutdown()


def _join(ray: Any, engine: Engine, cores: int) -> None:
    # The object store would take a third of the memory, and events are all that passes through it.
    own = {"num_cpus": cores, "object_store_memory": _EVENTS_BYTES} if engine.address == HERE else {}
    if engine.address == HERE:
        own["include_dashboard"] = False
    before = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(address=engine.address, log_to_driver=False, logging_level=logging.ERROR, **own)
    except Exception as error:  # whatever Ray raises, it is not joined
        raise UsageError(f"--address {engine.address}: no Ray cluster is joined there: {first_line(error)}") from None
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)  # Ray would have this process end with exit code 15


@contextlib.contextmanager
def _rays_lines_on_standard_error() -> Iterator[None]:
    """What Ray's threads print does not get into what this program prints: with --json that is one object."""
    before = sys.stdout
    sys.stdout = cast(TextIO, _ByThread(before, sys.stderr))
    try:
        yield
    finally:
        sys.stdout = before


class _ByThread:
    """A stream to all threads but Ray's, which write to another."""

    def __init__(self, ours: TextIO, rays: TextIO) -> None:
        self._ours = ours
        self._rays = rays

    def __getattr__(self, name: str) -> Any:
        is_rays = threading.current_thread().name.startswith(_RAYS_THREADS)
        return getattr(self._rays if is_rays else self._ours, name)


class Cluster:
    """A Ray cluster that this process has joined."""

    def __init__(self, ray: Any, engine: Engine) -> None:
        self._ray = ray
        self._engine = engine

    def workers(self, recipe: Recipe, most: int) -> int:
        """Trainings that run at the same time: as many as were asked for, `most`, or the cluster has room for.

        Raises UsageError if no machine of the cluster has what one of them needs: it would wait for ever.
        """
        needs = self._needs(recipe)
        machines = [machine["Resources"] for machine in self._ray.nodes() if machine["Alive"]]
        room = places(machines, needs)
        if not room:
            asked = " and ".join(f"{amount:g} {name}" for name, amount in needs.items())
            there = "; ".join(", ".join(f"{machine.get(name, 0):g} {name}" for name in needs) for machine in machines)
            raise UsageError(
                f"no machine of the Ray cluster has the {asked} that a training asks for ({there}): fewer --threads, "
                "another --device, or another --address"
            )
        return min(room, most, self._engine.workers or room)

    def _needs(self, recipe: Recipe) -> dict[str, float]:
        needs: dict[str, float] = {"CPU": recipe.threads}
        return needs if recipe.device == "cpu" else needs | {"GPU": self._engine.gpu_share}

    def carry_out(
        self,
        job: Job,
        workers: int,
        next_order: Callable[[], Order | None],
        take: Callable[[Order, Event], None],
        remark: Callable[[Notice], None],
    ) -> None:
        """Have up to `workers` tasks carry out orders until `next_order` has none and all have ended.

        As bench.accuracy.pool.carry_out; what a task's machine has to say of itself goes to `remark`.
        """
        needs = self._needs(job.recipe)
        task = self._ray.remote(
            num_cpus=needs["CPU"],
            num_gpus=needs.get("GPU", 0),
            max_retries=0,
            num_returns="streaming",
            runtime_env={"env_vars": environment(job.recipe.threads)},
        )(perform)
        running: dict[Any, Order] = {}
        with _marked(job) as marked:
            told = marked.model_dump_json()
            try:
                while True:
                    while len(running) < workers and (order := next_order()) is not None:
                        running[task.remote(told, order.model_dump_json())] = order
                    if not running:
                        return
                    (stream,), _ = self._ray.wait(list(running), num_returns=1)
                    self._read(stream, running, take, remark)
            finally:
                self._end(running)

    def _read(
        self,
        stream: Any,
        running: dict[Any, Order],
        take: Callable[[Order, Event], None],
        remark: Callable[[Notice], None],
    ) -> None:
        """The next of a task's events, or its end."""
        order = running[stream]
        try:
            said = _TOLD.validate_json(self._ray.get(next(stream)))
        except StopIteration:
            del running[stream]
            return
        except self._ray.exceptions.RayError as error:
            del running[stream]
            said = Failed(reason=how_it_was_lost(error), cause="work")
        if isinstance(said, Remarked):
            remark(said.notice)
        else:
            take(order, said)

    def _end(self, running: Collection[Any]) -> None:
        """End the tasks that are under way, and wait until they are."""
        if not running:
            return
        for stream in running:
            self._ray.cancel(stream, force=True)
        ended = [stream.completed() for stream in running]
        self._ray.wait(ended, num_returns=len(ended), timeout=CANCEL_TIMEOUT_S)


def environment(threads: int) -> dict[str, str]:
    """Variables of a task: OpenMP's threads, and this package where its parent found it, before an installed one."""
    return {"OMP_NUM_THREADS": str(threads), "PYTHONPATH": f"{_ROOT}{os.pathsep}${{PYTHONPATH}}"}


def places(machines: Sequence[Mapping[str, float]], needs: Mapping[str, float]) -> int:
    """Tasks that fit side by side on machines with these resources; a task cannot span two machines."""
    return sum(
        # 3 / 0.1 is a little less than 30 in floating point, and Ray counts in ten-thousandths.
        min(math.floor(machine.get(name, 0) / amount + 1e-4) for name, amount in needs.items())
        for machine in machines
    )


#: Name of Ray's error -> what it says of a task, in one line; Ray's own words are many.
_LOST = {
    "OutOfMemoryError": "Ray ended its task because its machine was nearly out of memory",
    "WorkerCrashedError": "its task was killed or crashed; the kernel kills a process when memory runs out",
    "NodeDiedError": "its machine left the Ray cluster",
    "ObjectLostError": "its machine left the Ray cluster",
    "RuntimeEnvSetupError": "Ray could not start its task",
}


def how_it_was_lost(error: Exception) -> str:
    """One line on an order whose task ended without a word of its own. `error`: a RayError."""
    cause = getattr(error, "cause", None)
    if isinstance(cause, Exception):
        return f"its task on Ray failed: {first_line(cause)}"
    known = next((_LOST[form.__name__] for form in type(error).__mro__ if form.__name__ in _LOST), None)
    return known or f"its task on Ray was lost: {first_line(error)}"


@contextlib.contextmanager
def _marked(job: Job) -> Iterator[Job]:
    """The job with a file in its folder, by which a task knows that it sees this folder and no other of that name.

    Raises RunNotWritten if the disk refuses it.
    """
    mark = job.folder / f".shared-{secrets.token_hex(8)}"
    try:
        mark.touch()
    except OSError as error:
        raise RunNotWritten(f"cannot write {mark}: {error.strerror}") from error
    try:
        yield job.model_copy(update={"mark": mark.name})
    finally:
        with contextlib.suppress(OSError):
            mark.unlink()


# -- a task -----------------------------------------------------------------------------------------------------


def perform(told: str, order: str) -> Iterator[str]:
    """What a task does: one order of a job, both JSON; its events as JSON, the last of which is Done or Failed."""
    job = Job.model_validate_json(told)
    try:
        refuse_elsewhere(job, fingerprint.versions())
        for notice in remarks(job, fingerprint.describe(job.recipe.device), fingerprint.commit()):
            yield Remarked(notice=notice).model_dump_json()
        dataset = _data(job.source)
        refuse_other_data(job, dataset.facts)
    except UsageError as error:
        yield Failed(reason=f"{_machine()} of the Ray cluster: {error}", cause="usage").model_dump_json()
        return
    for event in _events(Workplace(dataset, job.recipe, job.losses, job.folder), ORDER.validate_json(order), job):
        yield event.model_dump_json()


def _machine() -> str:
    return str(importlib.import_module("ray").util.get_node_ip_address())


def refuse_elsewhere(job: Job, versions: Mapping[str, str]) -> None:
    """Raises UsageError if the run's folder is not in sight of this task, or `versions` here are not the run's."""
    if not (job.folder / job.mark).is_file():
        raise UsageError(
            f"the run's folder {job.folder} is not in sight; name one with --output that all machines of the cluster "
            "share"
        )
    differing = [
        f"{package} ({then} where it began, {versions.get(package, 'none')} here)"
        for package, then in job.versions.items()
        if versions.get(package) != then
    ]
    if differing:
        raise UsageError(f"not the versions that the run began with, another experiment: {', '.join(differing)}")


def refuse_other_data(job: Job, found: DatasetFacts) -> None:
    """Raises UsageError if the data set that a task found is not the one that the run began with."""
    if found != job.dataset:
        raise UsageError(f"{job.source.name} is not what it was where the run began; copy it there, or share it")


def remarks(job: Job, machine: Machine, commit: str | None) -> list[Notice]:
    """What a run must say of a task's machine: other hardware, another commit of slc-bench."""
    found = []
    if differing := fingerprint.same_hardware(job.machine, machine):
        found.append(
            Notice(
                kind="other-machine",
                happened="trainings were done by a machine that differs from the one the run began on: "
                + ", ".join(differing)
                + f" ({machine.cpu}, {machine.cores_usable:g} cores{f', {machine.gpu.name}' if machine.gpu else ''})",
                matters="times of this run do not belong together, and its trainings need not repeat bit for bit",
                remedy="for times, give machines of one kind",
            )
        )
    if commit != job.commit:
        found.append(
            Notice(
                kind="other-commit",
                happened=f"the run was begun by commit {job.commit or 'unknown'}, and trainings were done by "
                f"{commit or 'unknown'} on another machine",
                matters="if what lies between them changes a training, those of this run do not belong together",
                remedy="install the same slc-bench on every machine of the cluster",
            )
        )
    return found


@functools.lru_cache(maxsize=1)
def _data(source: Source) -> Dataset:
    """Read once by a process, which does task after task."""
    return load(source.name, data_dir=source.data_dir, split_seed=source.split_seed, input_size=source.input_size)


def _events(workplace: Workplace, order: Order, job: Job) -> Iterator[Event]:
    """The events of an order as they come: the work calls with them from a thread, and Ray takes what is yielded."""
    told: queue.SimpleQueue[Event | None] = queue.SimpleQueue()

    def work() -> None:
        torch.set_num_threads(job.recipe.threads)
        workplace.carry_out(order, told.put)

    with ThreadPoolExecutor(max_workers=1) as thread:
        working = thread.submit(work)
        working.add_done_callback(lambda ended: told.put(None))
        while (event := told.get()) is not None:
            yield event
        working.result()
