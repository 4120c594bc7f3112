"""From events to a run: in memory always, on disk where there is a folder."""

from collections.abc import Sequence

from bench.folder import Notice, RunStatus
from bench.run import Manifest, Point, Process, Run, RunWriter, Sample
from bench.speed.energy import Window
from bench.speed.events import Doing, Event, Noticed, PassesDone, PointFound, ProcessState, WindowDone


class Recorder:
    """Takes events in, keeps the run they make, and writes it if it was given a writer.

    Raises OSError as the writer does; what was taken in before stays readable through `run`.
    """

    def __init__(
        self,
        manifest: Manifest,
        writer: RunWriter | None = None,
        samples: Sequence[Sample] = (),
        windows: Sequence[Window] = (),
    ) -> None:
        self.manifest = manifest
        self.samples = list(samples)
        self.windows = list(windows)
        self.doing = ""
        self._writer = writer
        self._path = writer.path if writer else None

    @property
    def run(self) -> Run:
        """The run so far."""
        return Run(self.manifest, self.samples, self._path, windows=self.windows)

    def take(self, event: Event) -> None:
        """Take one event in. Samples and windows are appended; everything else replaces the manifest."""
        match event:
            case Doing():
                self.doing = event.text
            case PassesDone():
                if self._writer:
                    self._writer.append(event.samples)
                self.samples.extend(event.samples)
            case WindowDone(window=window):
                if self._writer:
                    self._writer.append_window(window)
                self.windows.append(window)
            case PointFound(point=point):
                others = [old for old in self.manifest.points if _of(old) != _of(point) or old.classes != point.classes]
                self._replace(points=(*others, point))
            case ProcessState(process=process):
                earlier = [old for old in self.manifest.processes if _of(old) != _of(process)]
                self._replace(processes=(*earlier, process))
            case Noticed():
                self.notice(event.notice)

    def notice(self, notice: Notice) -> None:
        """Keep a notice with the run, once."""
        if notice not in self.manifest.notices:
            self._replace(notices=(*self.manifest.notices, notice))

    def detach(self) -> None:
        """Go on in memory alone: the disk refused, and what it holds is not to be touched again."""
        if self._writer:
            self._writer.close()
            self._writer = None

    def end(self, status: RunStatus) -> None:
        """Write down how the run ended, and let go of its folder."""
        try:
            self._replace(status=status)
        finally:
            self.detach()

    def _replace(self, **update: object) -> None:
        manifest = self.manifest.model_copy(update=update)
        if self._writer:
            self._writer.replace(manifest)
        self.manifest = manifest


def _of(record: Point | Process) -> tuple[int, int]:
    return record.setting, record.process
