"""Warnings as types: each says what happened, why it matters, and what to do given the options in use."""

from collections.abc import Callable, Iterable, Sequence

import numpy as np

from bench import folder
from bench.folder import Notice
from bench.run import Mark, Point, Process, Run
from bench.speed.rows import RoundTable, has_times, round_tables
from bench.speed.settings import Protocol, Setting
from bench.speed.statistics import (
    RESAMPLES,
    STEADY_TOLERANCE,
    Ratio,
    carry_over,
    ratios,
    replicates,
)
from bench.speed.stopping import MINIMUM_ROUNDS, within

#: An effect is named when this interval excludes 1 ...
CONFIDENCE = 0.99

#: ... and when it is larger than this: on a quiet GPU smaller ones are found with certainty and change no conclusion.
EFFECT = 0.005

#: A median moves little while fewer passes than this are off; the rows count marked samples in any case.
MARKED_SHARE = 0.05

#: With up to this many processes the t quantile, 12.7 or 4.3, makes intervals so wide that they say little.
FEW_PROCESSES = 3

#: Fewest rounds for which coverage was simulated.
SIMULATED_ROUNDS = 12

_DOCTOR = "`python -m bench doctor` shows what else is running"


#: Noticed in the middle of a run, and no longer true once it is continued: what was refused is asked for again.
MENDED_BY_RESUMING = ("process-died", "not-written", "no-energy")


def all_notices(run: Run) -> list[Notice]:
    """Everything to know about a run: what was noticed while measuring and while reading, and what its samples say."""
    return [*run.manifest.notices, *run.notices, *notices(run)]


def notices(run: Run, *, resamples: int = RESAMPLES) -> list[Notice]:
    """All warnings that follow from a run's samples and manifest, by setting; the manifest's own are not repeated."""
    return [
        notice
        for index, table in enumerate(round_tables(run))
        for notice in _of_setting(run, index, table, resamples)
        if notice is not None
    ]


def _of_setting(run: Run, index: int, table: RoundTable, resamples: int) -> Iterable[Notice | None]:
    setting, protocol = run.manifest.settings[index], run.manifest.protocol
    processes = [process for process in run.manifest.processes if process.setting == index]
    points = [point for point in run.manifest.points if point.setting == index]
    yield failed_points(setting, points)
    yield not_steady(setting, processes)
    yield sequential_order(setting, table)
    yield throttled_between_looks(setting, processes)
    yield control_off(setting, control_ratio(setting, table, resamples))
    yield marked(setting, table, "contention")
    yield marked(setting, table, "throttling")
    for classes in table.counts():
        yield carried_over(setting, classes, carry_over_ratio(setting, table, classes, resamples))
    yield few_processes(setting, table)
    yield few_rounds(setting, table)
    yield until_not_reached(setting, protocol, processes, lambda: speedup_ratios(setting, table, points, resamples))


def name_of(setting: Setting) -> str:
    """The setting in a few words: what tells it from the others of a run."""
    parts = {
        setting.arch: True,
        f"batch {setting.batch_size}": True,
        setting.dtype: True,
        f"compile {setting.compile}": setting.compile != "none",
        "CUDA graph": setting.cuda_graph,
        "channels last": setting.channels_last,
        setting.work: setting.work != "logits",
        f"top layer {setting.top_layer}": setting.top_layer != "full",
        f"{setting.subset} classes at a time": setting.subset > 1,
    }
    return ", ".join(part for part, is_told in parts.items() if is_told)


def _reference_of(setting: Setting) -> str:
    """What speedups are relative to."""
    return "the single logit" if setting.subset == 1 else f"the {setting.subset} logits asked for"


def control_ratio(setting: Setting, table: RoundTable, resamples: int = RESAMPLES) -> Ratio | None:
    """A'/A: the reference, the single logit, measured a second time in the same rounds; must be 1."""
    first, second = table.times(setting.subset), table.times(setting.subset, control=True)
    if not (has_times(first) and has_times(second)):
        return None
    return ratios([second], first, table.processes, resamples=resamples, seed=setting.seed)[0]


def control_off(setting: Setting, ratio: Ratio | None) -> Notice | None:
    """Two equal measurements differ: the 99 % interval of A'/A excludes 1 and it is off by more than 0.5 %."""
    if ratio is None or not _matters(ratio):
        return None
    remedy = f"{_DOCTOR}; then measure with more rounds (--minibatches) or in several processes (--processes 5)"
    if setting.order == "sequential":
        remedy = "leave out --order sequential: in interleaved rounds drift hits all counts alike"
    return Notice(
        kind="control-off",
        happened=f"{name_of(setting)}: {_reference_of(setting)}, measured twice, is off by {_effect(ratio)}",
        matters="what separates two equal measurements is in the speedups too; differences of this size mean nothing",
        remedy=remedy,
    )


def not_steady(setting: Setting, processes: Sequence[Process]) -> Notice | None:
    """Warm-up ended at its limit, with neighbouring windows of rounds still apart."""
    unsteady = [process.process for process in processes if process.steady is False]
    if not unsteady:
        return None
    where = "" if len(processes) == 1 else f" in process {', '.join(map(str, unsteady))}"
    return Notice(
        kind="not-steady",
        happened=f"{name_of(setting)}: rounds still differed by over {STEADY_TOLERANCE:.0%} after the warm-up{where}",
        matters="the first timed rounds may be slower than the rest; medians bear that, means do not",
        remedy=f"{_DOCTOR}; a larger --minibatches allows a longer warm-up (a tenth of it)",
    )


def sequential_order(setting: Setting, table: RoundTable) -> Notice | None:
    """The paper's literal order: drift between counts is in the speedups and not in their intervals."""
    if setting.order != "sequential" or not table.counts():
        return None
    return Notice(
        kind="sequential-order",
        happened=f"{name_of(setting)}: each class count was timed in its own stretch of time, one after the other",
        matters="drift of the machine between them is in the speedups, and their intervals cannot know of it",
        remedy="leave out --order sequential, unless the paper's literal protocol is the point",
    )


def marked(setting: Setting, table: RoundTable, mark: Mark) -> Notice | None:
    """More than 5 % of the samples were taken under contention, or on a throttled GPU."""
    slots = [(classes, False) for classes in table.counts()] + [(setting.subset, True)]
    samples = [sample for slot in slots for sample in table.samples(*slot)]
    count = sum(mark in sample.marks for sample in samples)
    if not samples or count / len(samples) <= MARKED_SHARE:
        return None
    share = f"{count:,} of {len(samples):,} passes ({count / len(samples):.0%})"
    if mark == "contention":
        return Notice(
            kind="contention",
            happened=f"{name_of(setting)}: {share} got less CPU time than their threads can use",
            matters="a busy neighbour slows cheap passes and dear ones by different factors, so speedups change too; "
            "speedup_unmarked leaves these passes out",
            remedy=f"{_DOCTOR}; end it, or give fewer threads (--threads, now {setting.threads})",
        )
    return Notice(
        kind="throttling",
        happened=f"{name_of(setting)}: {share} ran while the GPU lowered its clocks for power or heat",
        matters="large class counts heat and draw more than small ones, so their clocks may differ within a ratio; "
        "speedup_unmarked leaves these passes out",
        remedy="look to cooling and the power limit; `python -m bench doctor` shows both, and how to fix the clocks",
    )


def throttled_between_looks(setting: Setting, processes: Sequence[Process]) -> Notice | None:
    """NVML's counters rose while passes ran; its reasons are read between rounds only and can miss that."""
    reasons = list(dict.fromkeys(reason for process in processes for reason in process.throttled_by))
    if not reasons:
        return None
    return Notice(
        kind="throttled-between-looks",
        happened=f"{name_of(setting)}: the GPU lowered its clocks at some time in the rounds ({', '.join(reasons)})",
        matters="clocks are looked at between rounds, so not every pass that this touched is marked",
        remedy="look to cooling and the power limit; `python -m bench doctor` shows both",
    )


def carry_over_ratio(setting: Setting, table: RoundTable, classes: int, resamples: int = RESAMPLES) -> Ratio | None:
    """Median of the passes at `classes` after a larger count / after another; both slots of the reference."""
    slots = [False, True] if classes == setting.subset else [False]
    return carry_over(
        np.hstack([table.times(classes, control) for control in slots]),
        np.hstack([table.predecessors(classes, control) for control in slots]),
        classes,
        table.processes,
        resamples=resamples,
        seed=setting.seed,
    )


def carried_over(setting: Setting, classes: int, ratio: Ratio | None) -> Notice | None:
    """A pass depends on its predecessor by more than 0.5 %, with a 99 % interval that excludes none at all."""
    if ratio is None or not _matters(ratio):
        return None
    which = f"of {_reference_of(setting)}" if classes == setting.subset else f"at {classes:,} classes"
    return Notice(
        kind="carry-over",
        happened=f"{name_of(setting)}: passes {which} differ after a larger count by {_effect(ratio)}",
        matters="a pass finds other caches than it would among its like; the speedups mix both cases",
        remedy=f"--block {max(2, setting.block)}: the first pass of every visit is then kept out of the estimates",
    )


def few_processes(setting: Setting, table: RoundTable) -> Notice | None:
    """The t interval rests on two or three processes."""
    single = table.single()
    others = [classes for classes in table.counts() if classes > setting.subset]
    numbers = [replicates(table.times(classes), single, table.processes) for classes in others]
    fewest = min(numbers, default=0)
    if not 2 <= fewest <= FEW_PROCESSES:
        return None
    factor = {2: "12.7", 3: "4.3"}[fewest]
    return Notice(
        kind="few-processes",
        happened=f"{name_of(setting)}: the intervals rest on {fewest} processes",
        matters=f"their spread is hardly known, so the interval is {factor} standard errors to each side instead of 2",
        remedy="--processes 5 or more",
    )


def few_rounds(setting: Setting, table: RoundTable) -> Notice | None:
    """Fewer than 30 rounds in all, where the interval comes from the bootstrap."""
    single = table.single()
    others = [classes for classes in table.counts() if classes > setting.subset]
    by_process = [replicates(table.times(classes), single, table.processes) for classes in others]
    done = len(table.processes)
    if not by_process or min(by_process) >= 2 or done >= MINIMUM_ROUNDS:
        return None
    return Notice(
        kind="few-rounds",
        happened=f"{name_of(setting)}: {done} rounds, fewer than {MINIMUM_ROUNDS}",
        matters=few_rounds_matter(done),
        remedy=f"--minibatches {MINIMUM_ROUNDS} or more; the paper took 100",
    )


def few_rounds_matter(rounds: int) -> str:
    """What fewer than 30 rounds mean; coverage from the simulation that bench.speed.statistics reports."""
    if rounds < SIMULATED_ROUNDS:
        return "intervals are wide guesses, or missing: so few rounds have not met what the machine does otherwise"
    return (
        "intervals are rough: 1.5 to 4 times as wide as from 100 rounds, and in simulations those meant to hold the "
        "truth in 95 % held it in 92 to 100 %"
    )


def failed_points(setting: Setting, points: Sequence[Point]) -> Notice | None:
    """Class counts that have no numbers, and why."""
    failed = sorted({point.classes: point for point in points if point.status != "ok"}.items())
    if not failed:
        return None
    counts = ", ".join(f"{classes:,}" for classes, _ in failed)
    first = failed[0][1]
    remedy = {
        "out-of-memory": "a smaller --batch-size, --dtype bfloat16, or a smaller --max-classes",
        "unsupported": "leave out --compile, --cuda-graph or --top-layer, or use another --dtype, for this network",
        "failed": "the reason names the error; --classes 1 shows whether the network works at all",
        "ok": "",
    }[first.status]
    return Notice(
        kind="failed-points",
        happened=f"{name_of(setting)}: no numbers for {counts} classes: {first.reason or first.status}",
        matters="the table and the figure end before these counts; larger ones are not tried after a failure",
        remedy=remedy,
    )


def speedup_ratios(
    setting: Setting, table: RoundTable, points: Sequence[Point], resamples: int = RESAMPLES
) -> list[Ratio | None]:
    """The speedups as they are reported in the end, of all counts above the reference's that did not fail."""
    failed = {point.classes for point in points if point.status != "ok"}
    counts = [classes for classes in table.counts() if classes > setting.subset and classes not in failed]
    return ratios(
        [table.times(classes) for classes in counts],
        table.single(),
        table.processes,
        resamples=resamples,
        seed=setting.seed,
    )


def until_not_reached(
    setting: Setting,
    protocol: Protocol,
    processes: Sequence[Process],
    speedups: Callable[[], Sequence[Ratio | None]],
) -> Notice | None:
    """All rounds were run and --until is still not met by the final intervals, of all processes together.

    `speedups` is asked only where it matters: resampling takes time, and notices are looked for between rounds.
    """
    until = protocol.until
    if until is None or not any(process.stop_reason == "minibatches" for process in processes):
        return None
    if all(ratio is not None and within(ratio.estimate, *ratio.interval(), until) for ratio in speedups()):
        return None
    return Notice(
        kind="until-not-reached",
        happened=f"{name_of(setting)}: {protocol.minibatches} rounds were not enough for +-{until:g} %",
        matters="some speedups are known less precisely than was asked for; their intervals say how much less",
        remedy=f"a larger --minibatches, or a quieter machine: {_DOCTOR}",
    )


def no_nvml(reason: str) -> Notice:
    """Clocks, temperature and throttling of the GPU cannot be read."""
    return Notice(
        kind="no-nvml",
        happened=f"the GPU's clocks cannot be read: {reason}",
        matters="a throttled GPU would go unnoticed: samples are not marked",
        remedy="install the driver's NVML library and `pip install nvidia-ml-py`; in a container, mount the driver",
    )


def no_rival_measured(top_layers: Sequence[str], subset: int) -> Notice:
    """Rivals were asked for, and every class count is the reference's, which is one logit of a full layer."""
    return Notice(
        kind="no-rival",
        happened=f"--top-layer {','.join(top_layers)}: not measured, as no class count is above {subset}",
        matters=f"a rival has its place above the reference's count; at {subset} the time is that of "
        + ("one logit" if subset == 1 else f"{subset} logits")
        + " of a full layer",
        remedy=f"name a count for it too: --classes {max(1024, 4 * subset)}, or leave out --classes",
    )


def process_died(reason: str) -> Notice:
    """A measuring process ended before its work was done."""
    return Notice(
        kind="process-died",
        happened=f"a measuring process {reason}",
        matters="what it had finished is kept; the rest of its rounds is missing",
        remedy="mend the cause (out of memory: a smaller --batch-size or --max-classes), then go on with --resume",
    )


def not_written(reason: str) -> Notice:
    """The disk refused in the middle of a run."""
    return folder.not_written(reason, "the measurement ended here: rounds that cannot be kept are not run")


def other_commit(then: str | None, now: str | None) -> Notice:
    """A run is continued by another version of slc-bench's own code."""
    return Notice(
        kind="other-commit",
        happened=f"the run was begun by commit {then or 'unknown'} and is continued by {now or 'unknown'}",
        matters="if what lies between them changes how passes are run, its processes do not belong together",
        remedy="check out the first commit to continue it, or start a new run",
    )


def _matters(ratio: Ratio) -> bool:
    return abs(ratio.estimate - 1) > EFFECT and ratio.excludes_one(CONFIDENCE)


def _effect(ratio: Ratio) -> str:
    low, high = (f"{100 * (end - 1):+.1f}" for end in ratio.interval(CONFIDENCE))
    return f"{100 * (ratio.estimate - 1):+.1f} % ({CONFIDENCE:.0%} interval {low} to {high} %)"
