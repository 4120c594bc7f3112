"""How long a sweep will take: from operations before anything has run, from what is seen afterwards."""

import statistics
from collections import Counter
from collections.abc import Mapping

from bench.run import Run
from bench.speed.rounds import slots_of
from bench.speed.settings import Protocol, Setting

#: A setting (its index in the run) at a class count.
Key = tuple[int, int]


def pass_operations(setting: Setting, *, backbone: int, top_layer: int) -> int:
    """Floating-point operations of one pass: `backbone` is one example's, `top_layer` a minibatch's."""
    return setting.batch_size * backbone + top_layer


def passes_planned(setting: Setting, protocol: Protocol) -> Counter[int]:
    """Timed passes of one round by class count; the reference has two slots."""
    passes: Counter[int] = Counter()
    for slot in slots_of(protocol.classes, setting.subset):
        passes[slot.classes] += setting.block
    return passes


def passes_left(run: Run) -> Counter[Key]:
    """Timed passes still to come; a process that stopped early and a point that failed leave none."""
    manifest = run.manifest
    failed = {(point.setting, point.classes) for point in manifest.points if point.status != "ok"}
    ended = {(process.setting, process.process): process for process in manifest.processes if process.stop_reason}
    left: Counter[Key] = Counter()
    for index, setting in enumerate(manifest.settings):
        rounds = manifest.protocol.minibatches * manifest.protocol.processes - sum(
            manifest.protocol.minibatches - process.first_round for key, process in ended.items() if key[0] == index
        )
        for classes, passes in passes_planned(setting, manifest.protocol).items():
            if (index, classes) not in failed:
                left[index, classes] = rounds * passes
    for sample in run.samples:
        if sample.phase == "timed" and (sample.setting, sample.process) not in ended:
            left[sample.setting, sample.classes] -= 1
    return +left


def seconds_left(run: Run, operations: Mapping[Key, int]) -> float | None:
    """Seconds of timed passes still to come, or None before there is anything to judge from.

    `operations` holds each setting's operations a pass. A class count that has run is judged by its own median;
    another by the seconds an operation took elsewhere or, before any pass, by the calibrated rate.
    """
    seen: dict[Key, list[float]] = {}
    for sample in run.samples:
        seen.setdefault((sample.setting, sample.classes), []).append(sample.wall_s)
    medians = {key: statistics.median(times) for key, times in seen.items()}
    per_operation = _seconds_per_operation(run, medians, operations)
    left = passes_left(run)
    if per_operation is None and any(key not in medians for key in left):
        return None
    return sum(
        passes * (medians[key] if key in medians else operations[key] * (per_operation or 0.0))
        for key, passes in left.items()
    )


def expected_seconds(protocol: Protocol, setting: Setting, pass_seconds: Mapping[int, float]) -> float:
    """Seconds for a setting that has not run; `pass_seconds` are those of a pass by class count.

    Warm-up, a tenth of the rounds at most, is included; building and first calls are not.
    """
    a_round = sum(pass_seconds[classes] * passes for classes, passes in passes_planned(setting, protocol).items())
    return 1.1 * protocol.processes * protocol.minibatches * a_round


def _seconds_per_operation(run: Run, medians: Mapping[Key, float], operations: Mapping[Key, int]) -> float | None:
    if medians:
        return sum(medians.values()) / sum(operations[key] for key in medians)
    rates = [process.operations_per_s for process in run.manifest.processes if process.operations_per_s]
    return 1 / rates[-1] if rates else None
