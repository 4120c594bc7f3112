"""Run planned passes one after the other and make samples of what the clock said."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass

from torch import Tensor

from bench.machine.nvml import GpuProbe, throttled
from bench.machine.usage import contended
from bench.run import Mark, Phase, Sample, Status
from bench.speed.clocks import Clock, Forward, Reading
from bench.speed.failures import first_line, status_of
from bench.speed.rounds import PlannedPass


@dataclass(frozen=True)
class Failure:
    """A pass that raised: its class count, and what to write into the point's row."""

    classes: int
    status: Status
    reason: str


class PassRunner:
    """Runs passes of one setting in one process. Knows the clock, the inputs and who came before."""

    def __init__(
        self, *, setting: int, process: int, clock: Clock, pool: Sequence[Tensor], threads: int, probe: GpuProbe | None
    ) -> None:
        self._setting = setting
        self._process = process
        self._clock = clock
        self._pool = pool
        self._threads = threads
        self._probe = probe
        self._predecessor: int | None = None
        self._parallelism: dict[int, float] = {}

    @property
    def parallelism(self) -> float | None:
        """Most CPU seconds per wall second seen in any pass; None on CUDA."""
        return max(self._parallelism.values(), default=None)

    def run(
        self, planned: Iterable[PlannedPass], phase: Phase, forwards: Mapping[int, Forward]
    ) -> tuple[list[Sample], list[Failure]]:
        """Run the passes in their order; those that raise are told apart and the others go on.

        Between the first pass and the last nothing is done but reading the clock: samples are made afterwards.
        """
        readings: list[tuple[PlannedPass, int | None, Reading]] = []
        failures: dict[int, Failure] = {}
        for one in planned:
            classes = one.slot.classes
            if classes in failures:
                continue
            try:
                reading = self._clock(forwards[classes], self._pool[one.round % len(self._pool)])
            except Exception as error:  # whatever a network raises becomes its point's row
                failures[classes] = Failure(classes, status_of(error), first_line(error))
                continue
            readings.append((one, self._predecessor, reading))
            self._predecessor = classes
        return self._samples(readings, phase), list(failures.values())

    def _samples(self, readings: Sequence[tuple[PlannedPass, int | None, Reading]], phase: Phase) -> list[Sample]:
        state = self._probe.read() if self._probe else None
        telemetry = (
            {"clock_mhz": state.clock_mhz, "temperature_c": state.temperature_c, "clock_reasons": state.reasons}
            if state
            else {}
        )
        return [
            Sample(
                setting=self._setting,
                process=self._process,
                phase=phase,
                round=one.round,
                round_size=len(readings),
                position=position,
                classes=one.slot.classes,
                control=one.slot.control,
                kept_out=one.kept_out,
                predecessor=predecessor,
                marks=self._marks(one.slot.classes, reading, state.reasons if state else None),
                **asdict(reading),
                **telemetry,
            )
            for position, (one, predecessor, reading) in enumerate(readings)
        ]

    def _marks(self, classes: int, reading: Reading, clock_reasons: int | None) -> tuple[Mark, ...]:
        marks: list[Mark] = []
        if reading.cpu_s is not None and reading.switches is not None:
            seen = min(reading.cpu_s / reading.wall_s, self._threads)
            usual = self._parallelism[classes] = max(seen, self._parallelism.get(classes, 0.0))
            if contended(reading.wall_s, reading.cpu_s, reading.switches, threads=self._threads, parallelism=usual):
                marks.append("contention")
        if clock_reasons is not None and throttled(clock_reasons):
            marks.append("throttling")
        return tuple(marks)
