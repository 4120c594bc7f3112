"""The one who writes a study down: takes in what ended, keeps it in memory and on disk, and tells who watches."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from bench.accuracy.events import Stepped
from bench.accuracy.settings import Member
from bench.folder import Notice, RunNotWritten, RunStatus
from bench.run import Run
from bench.scaling import tasks
from bench.scaling.records import Optimum, StepCost, StudyManifest, StudyPoint, StudyTraining
from bench.scaling.run import (
    COSTS,
    OPTIMA,
    POINTS,
    TRAININGS,
    QueryErrors,
    StudyRun,
    StudyWriter,
    latest_costs,
    latest_points,
    optimum_name,
    write_queries,
)


@dataclass(frozen=True)
class Progress:
    """How far a study is: what has ended is in the run, what is running is here."""

    doing: str
    """in a few words: 1,000 classes, search"""
    done: int
    """trainings that have ended"""
    total: int
    running: tuple[Stepped, ...] = ()
    """the latest of each training under way"""


#: Called whenever something is known anew, with the run so far.
Watch = Callable[[StudyRun, Progress], None]


def nobody(run: StudyRun, progress: Progress) -> None:
    """Nobody watches."""


@dataclass
class Study:
    """A run in the making: takes in what ended, and writes it down."""

    run: StudyRun
    writer: StudyWriter
    watch: Watch = nobody
    doing: str = ""
    running: dict[Member, Stepped] = field(default_factory=dict)
    """of the training that steps, the latest event"""

    @property
    def manifest(self) -> StudyManifest:
        """What run.json holds."""
        return self.run.manifest

    def watched(self, watch: Watch) -> "Study":
        """The same, watched from now on by `watch`."""
        self.watch = watch
        return self

    def tell(self, doing: str) -> None:
        """Say what is done next."""
        self.doing = doing
        self._show()

    def stepped(self, event: Stepped) -> None:
        """A training is under way."""
        self.running[event.members[0]] = event
        self._show()

    def add_training(self, record: StudyTraining) -> None:
        """Keep a training that ended; one that was cut off at its very end comes again, the same."""
        self.running.pop(record.training.member, None)
        key = (record.classes, record.stage, record.training.member)
        if all((each.classes, each.stage, each.training.member) != key for each in self.run.trainings):
            self.writer.append_to(TRAININGS, [record])
            self._became(trainings=(*self.run.trainings, record))

    def add_optimum(self, optimum: Optimum, errors: QueryErrors) -> None:
        """Keep the optimum of a class count, its queries first."""
        name = optimum_name(optimum.classes)
        self._write_queries(name, errors)
        self.writer.append_to(OPTIMA, [optimum])
        self._became(optima=(*self.run.optima, optimum), queries={**self.run.queries, name: errors})

    def add_point(self, point: StudyPoint, errors: QueryErrors) -> None:
        """Keep a model that met the queries, its queries first."""
        self._write_queries(point.name, errors)
        self.writer.append_to(POINTS, [point])
        points = latest_points((*self.run.points, point))
        self._became(points=points, queries={**self.run.queries, point.name: errors})

    def add_cost(self, found: StepCost) -> None:
        """Keep the cost of a step, or why there is none."""
        self.writer.append_to(COSTS, [found])
        self._became(costs=latest_costs((*self.run.costs, found)))

    def add_speed(self, run: Run) -> None:
        """Take in the speed run, which wrote itself."""
        self._became(speed=run)

    def notice(self, notice: Notice) -> None:
        """Keep a notice with the run, once."""
        if notice not in self.manifest.notices:
            self._replace(notices=(*self.manifest.notices, notice))

    def begin(self) -> None:
        """Write down that the study goes on. Raises RunNotWritten."""
        self._replace(status="running")

    def end(self, status: RunStatus) -> StudyRun:
        """Write down how the study ended, and let go of its folder; the run, with the points that stand."""
        try:
            self._replace(status=status)
        finally:
            self.writer.close()
        return self.standing()

    def abandon(self, notice: Notice) -> StudyRun:
        """The disk refused: keep the ending in memory alone, and leave what is on disk as it is."""
        self.writer.close()
        update = {"status": "incomplete", "notices": (*self.manifest.notices, notice)}
        self.run = replace(self.run, manifest=self.manifest.model_copy(update=update))
        return self.standing()

    def standing(self) -> StudyRun:
        """The run without points of models that are no longer chosen."""
        points = tasks.standing(self.manifest, self.run.trainings, self.run.points)
        return replace(self.run, points=points)

    def progress(self) -> Progress:
        """How far it is."""
        total, done = tasks.total_trainings(self.run), len(self.run.trainings)
        return Progress(self.doing, done, max(total, done), tuple(self.running.values()))

    def _write_queries(self, name: str, errors: QueryErrors) -> None:
        try:
            write_queries(self.writer.path, name, errors)
        except OSError as error:
            raise RunNotWritten(f"cannot write the queries of {name}: {error.strerror or error}") from error

    def _replace(self, **update: object) -> None:
        manifest = self.manifest.model_copy(update=update)
        self.writer.replace(manifest)
        self._became(manifest=manifest)

    def _became(self, **changed: object) -> None:
        self.run = replace(self.run, **changed)  # type: ignore[arg-type]
        self._show()

    def _show(self) -> None:
        self.watch(self.run, self.progress())
