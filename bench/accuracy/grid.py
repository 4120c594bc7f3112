"""A grid of trainings -> a run: the only place where deciding, training, testing and writing meet."""

import contextlib
import functools
import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from bench.accuracy import notices, pool, ray_engine
from bench.accuracy.events import Ended, Stepped
from bench.accuracy.orders import (
    Done,
    Evaluated,
    Event,
    Failed,
    Order,
    Start,
    ToTrain,
    failed_trainings,
    orders_left,
    units,
)
from bench.accuracy.plan import Plan, plan, plan_of
from bench.accuracy.ranks import ALONE, Place, RankLost, Ranks, agree, first_alone, on_all, on_each
from bench.accuracy.ranks import orders as shared_orders
from bench.accuracy.records import Evaluation, Manifest, Training
from bench.accuracy.request import Request
from bench.accuracy.run import (
    EVALUATIONS,
    TRAININGS,
    AccuracyRun,
    AccuracyWriter,
    Influence,
    latest_evaluations,
    read_influence,
)
from bench.accuracy.settings import Member
from bench.accuracy.spreading import own_device
from bench.accuracy.worker import Workplace
from bench.errors import UsageError
from bench.folder import Notice, RunNotWritten, RunStatus, now
from bench.machine import fingerprint
from bench.machine.threads import intra_op_threads


@dataclass(frozen=True)
class Progress:
    """How far a grid is: what has ended is in the run, what is running is here."""

    done: int
    """trainings that have ended"""
    total: int
    running: tuple[Stepped, ...]
    """the latest of each unit that is being trained"""
    examples_per_s: float | None
    """all workers together"""
    seconds_left: float | None


#: Called whenever something is known anew, with the run so far.
Watch = Callable[[AccuracyRun, Progress], None]


def _nobody(run: AccuracyRun, progress: Progress) -> None:
    """Nobody watches."""


@dataclass
class Grid:
    """A run in the making: takes events in, keeps what ended, writes it down."""

    manifest: Manifest
    writer: AccuracyWriter
    watch: Watch
    trainings: list[Training] = field(default_factory=list)
    evaluations: list[Evaluation] = field(default_factory=list)
    influences: dict[str, Influence] = field(default_factory=dict)
    given: list[Order] = field(default_factory=list)
    _running: dict[tuple[Member, ...], Stepped] = field(default_factory=dict)
    _steps_here: int = 0
    _began: float = field(default_factory=time.monotonic)
    _seen: dict[tuple[Member, ...], int] = field(default_factory=dict)

    @property
    def run(self) -> AccuracyRun:
        """The run so far."""
        tested = tuple(self.evaluations)
        influences = {each.member.name: self.influences[each.member.name] for each in tested}
        return AccuracyRun(self.manifest, tuple(self.trainings), tested, influences, self.writer.path)

    def watched(self, watch: Watch) -> "Grid":
        """The same, watched from now on by `watch`."""
        self.watch = watch
        return self

    def next_order(self) -> Order | None:
        """The next order nobody has been given yet."""
        order = next(orders_left(self.manifest, self.trainings, self.evaluations, self.given), None)
        if order is not None:
            self.given.append(order)
        return order

    def take(self, order: Order, event: Event) -> None:
        """Take an event in. Raises RunNotWritten, UsageError if the run cannot go on."""
        match event:
            case Stepped():
                self._count_steps(event)
            case Ended():
                self._add(event.training)
            case Evaluated():
                self.influences[event.evaluation.member.name] = read_influence(
                    self.writer.path, event.evaluation.member
                )
                self.writer.append_to(EVALUATIONS, [event.evaluation])
                self.evaluations = latest_evaluations([*self.evaluations, event.evaluation])
            case Failed():
                self._lose(order, event)
            case Done():
                pass
        self.watch(self.run, self.progress())

    def _add(self, training: Training) -> None:
        """Keep a training that ended; one of a stack that was cut off between two of them comes again, the same."""
        if any(each.member == training.member for each in self.trainings):
            return
        self.writer.append_to(TRAININGS, [training])
        self.trainings.append(training)
        ended = {each.member for each in self.trainings}
        for unit in [unit for unit in self._running if training.member in unit]:
            if training.status != "failed":
                self._steps_here += max(0, training.steps - self._seen[unit])
            if ended.issuperset(unit):
                del self._running[unit]

    def _lose(self, order: Order, event: Failed) -> None:
        if event.cause == "disk":
            raise RunNotWritten(event.reason)
        if event.cause == "usage":
            raise UsageError(event.reason)
        if isinstance(order, ToTrain):
            self._running.pop(order.members, None)
            for training in failed_trainings(order.members, self.trainings, event.reason):
                self._add(training)
        else:
            self.notice(notices.not_tested(order.member, event.reason))

    def notice(self, notice: Notice) -> None:
        """Keep a notice with the run, once."""
        if notice not in self.manifest.notices:
            self._replace(self.manifest.model_copy(update={"notices": (*self.manifest.notices, notice)}))

    def side_by_side(self, workers: int) -> None:
        """Write down how many trainings run at the same time, where only a cluster knows. Raises RunNotWritten."""
        recipe = self.manifest.recipe.model_copy(update={"workers": workers})
        self._replace(self.manifest.model_copy(update={"recipe": recipe}))

    def begin(self) -> None:
        """Write down that the run is being trained again. Raises RunNotWritten."""
        self._replace(self.manifest)

    def end(self, status: RunStatus) -> AccuracyRun:
        """Write down how the run ended, and let go of its folder; the run."""
        try:
            self._replace(self.manifest.model_copy(update={"status": status}))
        finally:
            self.writer.close()
        return self.run

    def abandon(self, notice: Notice) -> AccuracyRun:
        """The disk refused: keep the ending in memory alone, and leave what is on disk as it is."""
        self.writer.close()
        notices = (*self.manifest.notices, notice)
        self.manifest = self.manifest.model_copy(update={"status": "incomplete", "notices": notices})
        return self.run

    def _replace(self, manifest: Manifest) -> None:
        self.writer.replace(manifest)
        self.manifest = manifest

    def _count_steps(self, event: Stepped) -> None:
        before = self._seen.get(event.members)
        self._seen[event.members] = event.step
        self._running[event.members] = event
        if before is not None:  # the first one says where a checkpoint lay
            self._steps_here += (event.step - before) * len(event.members)

    def progress(self) -> Progress:
        """Rates from what was seen in this process."""
        recipe = self.manifest.recipe
        total = len(self.manifest.members)
        elapsed = time.monotonic() - self._began
        steps_per_s = self._steps_here / elapsed if self._steps_here and elapsed else None
        running = tuple(self._running.values())
        ended = {training.member for training in self.trainings}
        done = sum(each.step for each in running for member in each.members if member not in ended)
        left = (total - len(self.trainings)) * recipe.steps - done
        return Progress(
            done=len(self.trainings),
            total=total,
            running=running,
            examples_per_s=steps_per_s * recipe.batch_size if steps_per_s else None,
            seconds_left=left / steps_per_s if steps_per_s else None,
        )


def start(planned: Plan, output: Path, command: Sequence[str], watch: Watch = _nobody) -> Grid:
    """A new run for a plan, in a folder under `output`. Raises UsageError if the folder cannot be written."""
    manifest = planned.manifest(created=now(), command=tuple(command))
    return Grid(manifest, AccuracyWriter.create(output, manifest), watch)


def execute(planned: Plan, grid: Grid, ranks: Ranks = ALONE) -> AccuracyRun:
    """Train and test what a run still lacks. Returns the run, its status set; an interrupt ends it early.

    Of several ranks, rank 0 calls this and the others `follow`; if one of them is gone the run ends as incomplete.
    Raises UsageError if something cannot go on that the user can mend (a checkpoint that was altered), or if the
    disk refuses before the first training ended.
    """
    try:
        return grid.end(_work_off(planned, grid, ranks))
    except UsageError:
        with contextlib.suppress(RunNotWritten):  # what the user has to mend is the other error
            grid.end("incomplete")
        raise
    except RunNotWritten as error:
        if not grid.trainings:
            grid.writer.close()
            raise UsageError(f"{error}; no training ended: make room, or name another folder with --output") from None
        return grid.abandon(notices.not_written(str(error)))


def _work_off(planned: Plan, grid: Grid, ranks: Ranks) -> RunStatus:
    """Order after order until nothing is left; how the run ended."""
    try:
        _carry_out(planned, grid, ranks)
    except KeyboardInterrupt:
        return "interrupted"
    except RankLost as error:
        grid.notice(notices.rank_lost(str(error)))
        return "incomplete"
    return "complete" if _is_whole(grid) else "incomplete"


def _carry_out(planned: Plan, grid: Grid, ranks: Ranks) -> None:
    recipe = grid.manifest.recipe
    if ranks.size > 1:
        with _workplace_of_rank(planned, grid.writer.path, ranks) as workplace:
            shared_orders.lead(workplace, grid.next_order, grid.take, ranks)
        return
    if grid.manifest.engine.name == "ray":
        _carry_out_on_ray(grid)
        return
    if recipe.workers > 1:
        assert planned.source is not None, "a data set in hand is trained in this process"
        begin = Start(
            parent=os.getpid(),
            source=planned.source,
            recipe=recipe,
            losses=grid.manifest.losses,
            folder=grid.writer.path,
        )
        pool.carry_out(begin, recipe.workers, grid.next_order, grid.take)
        return
    with intra_op_threads(recipe.threads):
        workplace = Workplace(planned.dataset, recipe, grid.manifest.losses, grid.writer.path)
        while (order := grid.next_order()) is not None:
            workplace.carry_out(order, functools.partial(grid.take, order))


def follow(planned: Plan, ranks: Ranks) -> None:
    """Carry out, as a rank above 0, what rank 0's `execute` says, until nothing is left; nothing is written or told.

    Raises UsageError if this rank does not see the run's folder, RankLost if another is gone.
    """
    with _workplace_of_rank(planned, None, ranks) as workplace:
        shared_orders.follow(workplace, ranks)


@contextlib.contextmanager
def _workplace_of_rank(planned: Plan, folder: Path | None, ranks: Ranks) -> Iterator[Workplace]:
    """Where one of several ranks works; `folder` is rank 0's to say."""
    path: Path = ranks.broadcast(None if folder is None else folder.absolute())
    on_all(ranks, lambda: _refuse_unseen(path))
    device = torch.device(planned.recipe.device)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    with intra_op_threads(planned.recipe.threads):
        yield Workplace(planned.dataset, planned.recipe, planned.losses, path, ranks)


def _refuse_unseen(folder: Path) -> None:
    if not folder.is_dir():
        raise UsageError(f"{folder} is not seen there: give --output a folder on a disk that all ranks share")


def _carry_out_on_ray(grid: Grid) -> None:
    job = ray_engine.job_of(grid.manifest, grid.writer.path)
    cores = max(1, math.floor(grid.manifest.machine.cores_usable))
    with ray_engine.joined(grid.manifest.engine, cores) as cluster:
        workers = cluster.workers(job.recipe, most=len(units(grid.manifest)))
        grid.side_by_side(workers)
        cluster.carry_out(job, workers, grid.next_order, grid.take, grid.notice)


def _is_whole(grid: Grid) -> bool:
    """Whether every training ended, none failed, and every chosen model was tested; one that diverged has ended."""
    failed = any(training.status == "failed" for training in grid.trainings)
    return not failed and next(orders_left(grid.manifest, grid.trainings, grid.evaluations), None) is None


def train_and_test(request: Request, output: str | Path = "results", watch: Watch = _nobody) -> AccuracyRun:
    """Train a grid and test what it chose: `python -m bench accuracy` for programs.

        from bench.accuracy.grid import train_and_test
        from bench.accuracy.request import Request
        run = train_and_test(Request(dataset="digits", losses="ce,batch-ce", steps=500))

    The run lies in a folder under `output`; `watch` is called whenever something is known anew. Raises UsageError for
    a request that cannot be carried out here; trainings that diverge or fail are records, not exceptions.
    """
    planned = plan(request)
    named = replace(request, dataset=planned.dataset.name)
    return execute(planned, start(planned, Path(output), ["train_and_test", repr(named)], watch))


def plan_over(request: Request, ranks: Ranks, say: Callable[[str], None] = lambda line: None) -> Plan:
    """The plan of a request, made by every rank for itself and the same on all of them.

    Rank 0 goes first: what has to be downloaded is there for the others, and how top layers step, which depends on the
    memory that is free at the moment, is decided once. Raises UsageError on all ranks if one cannot plan, or plans
    anything else.
    """
    if ranks.size == 1:
        return plan(request, say)
    agree(ranks, {"request": request.asks()})
    made = first_alone(ranks, lambda: plan(request, say))
    step: str = ranks.broadcast(None if made is None else made.recipe.top_layer_step)
    if made is None:
        request = replace(request, top_layer_step=request.top_layer_step or step)
    planned = on_each(ranks, lambda: plan(request) if made is None else made)
    agree(ranks, planned.decides())
    return planned


def reopen(path: Path, watch: Watch = _nobody, address: str | None = None, ranks: int = 1) -> tuple[Plan, Grid]:
    """A run that was cut off, to be continued; a training that failed there is tried again.

    `address`: of another Ray cluster than the one the run began on. ranks: how many are there to go on with it. Raises
    UsageError if it cannot be read or written, or if machine, versions, data or ranks are others than those it began
    with.
    """
    writer, run = AccuracyWriter.reopen(path)
    with writer.going_on():
        _refuse_other_ranks(run.manifest, ranks, path)
        manifest = _at_address(run.manifest, address, path)
        fingerprint.refuse_another(manifest.machine, manifest.versions, manifest.recipe.device, path)
        planned = plan_of(manifest, path)
        writer.drop_torn_line()
        kept = tuple(notice for notice in manifest.notices if notice.kind not in notices.MENDED_BY_RESUMING)
        grid = Grid(
            manifest.model_copy(update={"status": "running", "notices": kept}),
            writer,
            watch,
            [training for training in run.trainings if training.status != "failed"],
            list(run.evaluations),
            dict(run.influences),
        )
        for notice in run.notices:
            grid.notice(notice)
        if manifest.commit != (commit := fingerprint.commit()):
            grid.notice(notices.other_commit(manifest.commit, commit))
        grid.begin()
    return planned, grid


def reopen_over(path: Path, ranks: Ranks, place: Place, local_ranks: int = 1) -> tuple[Plan, Grid | None]:
    """`reopen` by several ranks: rank 0 has the grid, the others its plan, on a device of their own.

    place, local_ranks: as in a Request. Raises UsageError on all ranks where `reopen` does on rank 0, and where the
    data or versions of one are others.
    """
    opened = first_alone(ranks, lambda: reopen(path, ranks=ranks.size))
    grid = None if opened is None else opened[1]
    try:
        manifest: Manifest = ranks.broadcast(None if grid is None else grid.manifest)
        planned = on_each(
            ranks, lambda: _on_own_device(plan_of(manifest, path) if opened is None else opened[0], place, local_ranks)
        )
        agree(ranks, planned.decides())
    except BaseException:
        with contextlib.suppress(RunNotWritten):  # what was raised is the other error
            if grid is not None:
                grid.end("incomplete")
        raise
    return planned, grid


def _on_own_device(planned: Plan, place: Place, local_ranks: int) -> Plan:
    kind = planned.recipe.device.partition(":")[0]
    device = own_device(kind, place, local_ranks)
    return replace(planned, recipe=planned.recipe.model_copy(update={"device": device}))


def _refuse_other_ranks(manifest: Manifest, ranks: int, path: Path) -> None:
    then = manifest.recipe.ranks
    if then == ranks:
        return
    how = f"with torchrun --nproc-per-node {then} (or on several machines)" if then > 1 else "without torchrun"
    raise UsageError(
        f"{path} was begun by {_processes(then)} a training, and {_processes(ranks)} would go on with it, to other "
        f"bits: start it {how}"
    )


def _processes(ranks: int) -> str:
    return "1 process" if ranks == 1 else f"{ranks} ranks"


def _at_address(manifest: Manifest, address: str | None, path: Path) -> Manifest:
    """The manifest of a run that goes on at another Ray cluster, if one is given."""
    if address is None:
        return manifest
    if manifest.engine.name != "ray":
        raise UsageError(f"{path} was not begun with --engine ray, and goes on with its own settings: drop --address")
    return manifest.model_copy(update={"engine": manifest.engine.model_copy(update={"address": address})})
