"""Settings -> run: the only place where planning, measuring and writing meet."""

from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from torch import nn

from archs.registry import Network, from_module
from archs.top_layer_kinds import TopLayerKind
from bench.errors import UsageError
from bench.folder import Notice, RunNotWritten, RunStatus, now
from bench.machine import fingerprint
from bench.run import Manifest, Point, Run, RunWriter
from bench.speed import notices
from bench.speed.events import Doing, Event
from bench.speed.measure import measure
from bench.speed.plan import Plan, Request, facts_of, measures_what_is_asked, network_of, plan
from bench.speed.recorder import Recorder
from bench.speed.replicates import ProcessDied, measure_in_fresh_process
from bench.speed.rows import BreakEven, Row, break_evens, rows, to_frame
from bench.speed.settings import CompileMode, Dtype, Order, WorkKind
from bench.speed.tasks import Assignment, Task, WorkOrder, energy_tasks, remaining_tasks, without_energy
from bench.speed.torch_state import DTYPES
from bench.speed.work import widest

if TYPE_CHECKING:
    import pandas

T = TypeVar("T")

#: Called between passes with the run so far and what is done next.
Watch = Callable[[Run, str], None]


@dataclass(frozen=True)
class Sweep:
    """What a sweep gives back: the run, and the tables that follow from it."""

    run: Run

    @property
    def path(self) -> Path | None:
        """The run's folder; None if it was kept in memory."""
        return self.run.path

    @property
    def complete(self) -> bool:
        """Whether every point asked for was measured in full."""
        return self.run.manifest.status == "complete"

    def rows(self) -> list[Row]:
        """One row a point and one for the control; times in seconds per example."""
        return rows(self.run)

    def notices(self) -> list[Notice]:
        """What to know before the numbers are used: noticed while measuring, while reading, and from the samples."""
        return notices.all_notices(self.run)

    def break_evens(self) -> list[BreakEven]:
        """From how many classes on one logit is 1.1, 1.5, 2 and 10 times as fast."""
        return break_evens(self.run)

    def to_frame(self) -> "pandas.DataFrame":
        """The rows as a pandas frame with the columns of table3.csv."""
        return to_frame(self.rows())


def sweep(
    arch: str | nn.Module | Sequence[str] = "resnet50",
    *,
    classes: str | Sequence[int | str] | None = None,
    max_classes: str | int | None = None,
    input_shape: tuple[int, ...] | None = None,
    output: str | Path | None = None,
    watch: Watch | None = None,
    batch_size: int | Sequence[int] = 32,
    dtype: Dtype | Sequence[Dtype] = "float32",
    compile: CompileMode | Sequence[CompileMode] = "none",
    minibatches: int = 100,
    until: float | None = None,
    processes: int = 1,
    device: str = "auto",
    threads: int | None = None,
    input_size: int | None = None,
    tf32: bool = False,
    cudnn_benchmark: bool = True,
    channels_last: bool | Sequence[bool] = False,
    cuda_graph: bool | Sequence[bool] = False,
    work: WorkKind | Sequence[WorkKind] = "logits",
    top_layer: TopLayerKind | Sequence[TopLayerKind] = "full",
    subset: int = 1,
    order: Order = "interleaved",
    block: int = 1,
    seed: int = 0,
    energy: bool = False,
) -> Sweep:
    """Measure how much faster one logit is than all of them (Sect. 6.3, Table 3 of the paper).

    Parameters
    ----------
    arch : a network's name, several, or a module in hand (then `input_shape` says what it takes).
    classes : class counts; 1 is always measured (with `subset`: that many). Not together with `max_classes`.
    max_classes : top of the paper's grid (default 2**18.5 = 370,727).
    input_shape : shape of one example, without the batch axis; for a module in hand.
    output : parent of the run's folder; None keeps the run in memory.
    watch : called between passes with the run so far and a few words on what comes next.
    batch_size, dtype, compile, channels_last, cuda_graph, work, top_layer : one or several; every combination is a
        setting of the run, but for those that contradict themselves, which a notice names.
    subset : classes asked for at a time; their logits, computed alone, are what speedups are relative to.
    minibatches : rounds, in every process. until : stop earlier, once every speedup's 95 % interval is within +- so
        many percent. processes : fresh processes, one at a time, as replicates.
    energy : joules per image too, on an NVIDIA GPU, after the times; `run.windows` holds what was measured.
    The others are as on the command line: `python -m bench --help`.

    Raises UsageError for what is unknown or contradicts itself. A class count that cannot be measured is a row
    with a status and a reason, not an exception; an interrupt (Ctrl-C) gives back what there is, `complete` False.
    """
    request = Request(
        arch=_networks(arch, input_shape),
        classes=classes,
        max_classes=max_classes,
        batch_size=_several(batch_size),
        dtype=_several(dtype),
        compile=_several(compile),
        minibatches=minibatches,
        until=until,
        processes=processes,
        device=device,
        threads=threads,
        input_size=input_size,
        tf32=tf32,
        cudnn_benchmark=cudnn_benchmark,
        channels_last=channels_last,
        cuda_graph=cuda_graph,
        work=_several(work),
        top_layer=_several(top_layer),
        subset=subset,
        order=order,
        block=block,
        seed=seed,
        energy=energy,
    )
    planned = plan(request)
    recorder = start(planned, Path(output) if output is not None else None, command=_call(request))
    return Sweep(execute(planned, recorder, watch or (lambda run, doing: None)))


def _networks(arch: str | nn.Module | Sequence[str], input_shape: tuple[int, ...] | None) -> Sequence[str | Network]:
    """Names, or the module in hand as a network. Raises UsageError where `input_shape` is missing or has no place."""
    if isinstance(arch, nn.Module):
        if input_shape is None:
            raise UsageError("a module in hand needs input_shape=, the shape of one example: (3, 224, 224), say")
        return [from_module(arch, input_shape)]
    if input_shape is not None:
        raise UsageError("input_shape= is for a module in hand; a named network takes input_size=")
    return [arch] if isinstance(arch, str) else list(arch)


def _several(given: T | Sequence[T]) -> tuple[T, ...]:
    """One value or several as several; a text is one."""
    if isinstance(given, Sequence) and not isinstance(given, str):
        return tuple(given)
    return (given,)


def start(planned: Plan, output: Path | None, command: Sequence[str]) -> Recorder:
    """A new run for a plan, in a folder under `output` unless that is None.

    Raises UsageError if the folder cannot be written.
    """
    manifest = Manifest(
        name="-".join(planned.networks),
        created=now(),
        command=tuple(command),
        settings=planned.settings,
        protocol=planned.protocol,
        machine=fingerprint.describe(planned.settings[0].device),
        versions=fingerprint.versions(),
        commit=fingerprint.commit(),
        notices=planned.notices,
        tree_commit=fingerprint.tree_commit(),
    )
    return Recorder(manifest, None if output is None else RunWriter.create(output, manifest))


def reopen(path: Path) -> tuple[Plan, Recorder]:
    """A run that was cut off, to be continued.

    Raises UsageError if it cannot be read or written, or if machine or versions are others than those it began with.
    """
    writer, run = RunWriter.reopen(path)
    with writer.going_on():
        fingerprint.refuse_another(run.manifest.machine, run.manifest.versions, run.manifest.settings[0].device, path)
        planned = plan_of(run.manifest)
        writer.drop_torn_line()
        kept = tuple(notice for notice in run.manifest.notices if notice.kind not in notices.MENDED_BY_RESUMING)
        manifest = run.manifest.model_copy(update={"status": "running", "notices": kept})
        recorder = Recorder(manifest, writer, run.samples, run.windows)
        for notice in run.notices:
            recorder.notice(notice)
        if run.manifest.commit != (commit := fingerprint.commit()):
            recorder.notice(notices.other_commit(run.manifest.commit, commit))
    return planned, recorder


def plan_of(manifest: Manifest) -> Plan:
    """The plan behind a run on disk; its networks are found again by name."""
    networks = {setting.arch: network_of(setting) for setting in manifest.settings}
    facts = {name: facts_of(network) for name, network in networks.items()}
    return Plan(manifest.settings, manifest.protocol, networks, facts)


def execute(planned: Plan, recorder: Recorder, watch: Watch) -> Run:
    """Measure what a run still lacks. Returns the run, its status set; an interrupt ends it early.

    Raises UsageError if the disk refuses before the first sample.
    """

    def take(event: Event) -> None:
        recorder.take(event)
        watch(recorder.run, recorder.doing)

    try:
        recorder.end(_measure_what_is_left(planned, recorder, take))
    except RunNotWritten as error:
        recorder.detach()
        if not recorder.samples:
            raise UsageError(
                f"{error}; nothing was measured: make room, or name another folder with --output"
            ) from None
        recorder.notice(notices.not_written(str(error)))
        recorder.end("incomplete")
    return recorder.run


def _measure_what_is_left(planned: Plan, recorder: Recorder, take: Callable[[Event], None]) -> RunStatus:
    """Process after process until nothing is left; how the run ended.

    Energy that is refused is asked for once: whoever mends the cause resumes the run.
    """
    tried: set[int] = set()
    try:
        while remaining := remaining_tasks(recorder.manifest, recorder.samples):
            tasks = remaining[0]
            energy = _energy_left(recorder, tried) & {task.setting for task in tasks}
            tried |= energy
            _measure_in_one_process(planned, tasks, recorder.manifest, take, energy)
        if energy := _energy_left(recorder, tried):
            tasks = energy_tasks(recorder.manifest, sorted(energy))
            _measure_in_one_process(planned, tasks, recorder.manifest, take, energy)
    except KeyboardInterrupt:
        return "interrupted"
    except ProcessDied as error:
        recorder.notice(notices.process_died(str(error)))
        return "incomplete"
    manifest = recorder.manifest
    is_whole = _all_ok(manifest) and not without_energy(manifest, recorder.windows)
    return "complete" if is_whole and measures_what_is_asked(manifest.settings, manifest.protocol) else "incomplete"


def _energy_left(recorder: Recorder, tried: Set[int]) -> set[int]:
    return set(without_energy(recorder.manifest, recorder.windows)) - tried


def _measure_in_one_process(
    planned: Plan, tasks: Sequence[Task], manifest: Manifest, take: Callable[[Event], None], energy: Set[int]
) -> None:
    """This process measures if one is enough; replicates each get a fresh one. `energy`: settings, of that too."""
    assignments = tuple(_assignment(planned, task, manifest, energy=task.setting in energy) for task in tasks)
    if planned.protocol.processes > 1:
        take(Doing(text="starting a fresh process"))
        measure_in_fresh_process(WorkOrder(protocol=planned.protocol, assignments=assignments), take)
        return
    for assignment in assignments:
        measure(assignment, planned.protocol, planned.networks[assignment.setting.arch], take)


def _assignment(planned: Plan, task: Task, manifest: Manifest, *, energy: bool) -> Assignment:
    setting = planned.settings[task.setting]
    facts = planned.facts[setting.arch]
    return Assignment(
        task=task,
        setting=setting,
        backbone_bytes=facts.backbone_parameters * DTYPES[setting.dtype].itemsize,
        points=_points(planned, task, manifest),
        features=widest(facts.top).features,
        positions=widest(facts.top).positions,
        energy=energy,
    )


def _points(planned: Plan, task: Task, manifest: Manifest) -> tuple[Point, ...]:
    """The points a task tries: all but those that failed before."""
    setting = planned.settings[task.setting]
    failed = {point.classes for point in manifest.points if point.setting == task.setting and point.status != "ok"}
    works = {classes: work for classes, work in planned.top_layer_works(setting).items() if classes not in failed}
    return tuple(
        Point(
            setting=task.setting,
            process=task.process,
            classes=classes,
            operations=work.operations,
            bytes=work.bytes,
        )
        for classes, work in works.items()
    )


def _all_ok(manifest: Manifest) -> bool:
    return all(point.status == "ok" for point in manifest.points)


def _call(request: Request) -> list[str]:
    """The call as words: what differs from the defaults."""
    given = {
        field.name: value
        for field in fields(Request)
        if (value := getattr(request, field.name)) != field.default and field.name != "arch"
    }
    names = [network if isinstance(network, str) else network.name for network in request.arch]
    return ["bench.sweep", *names, *(f"{name}={value}" for name, value in given.items())]
