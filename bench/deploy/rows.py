"""From samples and readings of memory to the table: plain values in, rows and warnings out.

The interval of a median is that between two order statistics, which holds for any distribution: the true median lies
between the i-th lowest and the i-th highest of n independent samples with probability

    1 - 2 P(Binomial(n, 1/2) <= i - 1)

(David and Nagaraja, Order Statistics, 2003, Sect. 7.1). i is the highest at which that is 95 % or more; fewer than six
samples have none.
"""

from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple

import numpy as np
from pydantic import Field
from scipy import stats

from bench.deploy.records import Deployment, DeploymentManifest, Memory, Sample, State, What
from bench.folder import Notice, Record

CONFIDENCE = 0.95

#: What a row is called, in the order of the table.
TIMES: dict[What, str] = {
    "cold": "switch to a class on disk",
    "warm": "switch to a class in the page cache",
    "kept": "switch to a class kept on the device",
    "one": "one image, one logit",
    "all": "one image, all logits",
}


class MedianInterval(NamedTuple):
    """A median, and the ends of its interval; None where there are too few samples."""

    median: float
    low: float | None
    high: float | None


class DeploymentRow(Record):
    """A line of the table."""

    quantity: str
    unit: Literal["bytes", "s"]
    computed: int | None = Field(None, description="bytes by arithmetic")
    measured: float | None = Field(None, description="bytes, or the median of the seconds; none if not measured")
    low: float | None = Field(None, description="lower end of the median's 95 % interval; none below six samples")
    high: float | None = None
    samples: int = 0
    remark: str = ""


def median_interval(values: Sequence[float]) -> MedianInterval:
    """Median of values and its interval between order statistics. Raises ValueError if there is none."""
    if not values:
        raise ValueError("no values, no median")
    ordered = sorted(values)
    # P(Binomial <= i - 1) rises with i, so the highest rank is the number of ranks that are sure enough.
    below = stats.binom.cdf(np.arange(len(ordered)), len(ordered), 0.5)
    rank = int(np.count_nonzero(2 * below <= 1 - CONFIDENCE))
    median = float(np.median(ordered))
    return MedianInterval(median, ordered[rank - 1], ordered[-rank]) if rank else MedianInterval(median, None, None)


def rows(run: Deployment) -> list[DeploymentRow]:
    """The table of a run: memory, then times."""
    manifest = run.manifest
    return [*_memory_rows(manifest), *(_time_row(manifest, run.samples, what) for what in TIMES)]


def _memory_rows(manifest: DeploymentManifest) -> list[DeploymentRow]:
    in_use = {reading.state: _in_use(reading) for reading in manifest.memory}
    where = "on the device" if manifest.setting.device != "cpu" else "resident"

    def row(quantity: str, computed: int, state: State, without: State | None) -> DeploymentRow:
        present, before = in_use.get(state), 0 if without is None else in_use.get(without)
        measured = None if present is None or before is None else float(present - before)
        remark = _process_remark(manifest) if without is None else where
        if state == "all" and measured is None:
            remark = manifest.all_refused
        return DeploymentRow(quantity=quantity, unit="bytes", computed=computed, measured=measured, remark=remark)

    return [
        row("memory of the backbone", manifest.backbone_bytes, "backbone", None),
        row("memory that one class adds", manifest.row_bytes, "one", "backbone"),
        row("memory that the whole top layer adds", manifest.layer_bytes, "all", "one"),
    ]


def _in_use(reading: Memory) -> int:
    return reading.resident_bytes if reading.device_bytes is None else reading.device_bytes


def _process_remark(manifest: DeploymentManifest) -> str:
    if manifest.setting.device != "cpu":
        return "on the device, inputs too"
    return "resident, the whole process: Python, torch and inputs too"


def _time_row(manifest: DeploymentManifest, samples: Iterable[Sample], what: What) -> DeploymentRow:
    timed = [sample for sample in samples if sample.what == what and sample.phase == "timed"]
    if not timed:
        return DeploymentRow(quantity=TIMES[what], unit="s", remark=manifest.all_refused if what == "all" else "")
    images = manifest.setting.batch_size if what in ("one", "all") else 1
    found = median_interval([sample.wall_s / images for sample in timed])
    remark = ""
    if what == "cold":
        remark = f"{sum(map(was_cold, timed))} of {len(timed)} rows were out of the page cache"
    elif images > 1:
        remark = f"in minibatches of {images}"
    return DeploymentRow(
        quantity=TIMES[what],
        unit="s",
        measured=found.median,
        low=found.low,
        high=found.high,
        samples=len(timed),
        remark=remark,
    )


def was_cold(sample: Sample) -> bool:
    """Whether no page of the row was in the page cache just before the switch."""
    return sample.cached_pages == 0


def notices(run: Deployment) -> list[Notice]:
    """What to know beside the table."""
    found = [*run.manifest.notices, *run.notices]
    lost = missing(run)
    if lost or run.manifest.status in ("running", "interrupted"):
        found.append(_incomplete(run.manifest, lost))
    cold = [sample for sample in run.samples if sample.what == "cold"]
    warm = [sample for sample in cold if not was_cold(sample)]
    if warm:
        found.append(
            Notice(
                kind="not-cold",
                happened=f"{len(warm)} of {len(cold)} cold switches found their row, or part of it, in the page cache",
                matters="their times are those of memory, not of the disk, and stand in the median",
                remedy="name with --output a folder on a disk (not tmpfs), or take more classes: reading one row reads "
                "its neighbours ahead",
            )
        )
    if run.manifest.all_refused:
        found.append(
            Notice(
                kind="all-not-measured",
                happened=f"all logits were not measured: {run.manifest.all_refused}",
                matters="memory and time of the whole top layer are missing beside those of one logit",
                remedy="free memory, or take fewer classes or a smaller dtype",
            )
        )
    return found


def missing(run: Deployment) -> list[str]:
    """What was asked for and is not there, a phrase each; all logits that were refused have a notice of their own."""
    setting = run.manifest.setting
    asked: dict[What, int] = {
        **dict.fromkeys(("cold", "warm", "kept"), setting.switches),
        **dict.fromkeys(("one", "all"), setting.minibatches),
    }
    if run.manifest.all_refused:
        del asked["all"]
    there = {what: sum(sample.what == what and sample.phase == "timed" for sample in run.samples) for what in asked}
    return [
        f"{there[what]} of {number} samples of {TIMES[what]!r}"
        for what, number in asked.items()
        if there[what] < number
    ]


def complete(run: Deployment) -> bool:
    """Whether everything was measured that was asked for, all logits and cold switches among it."""
    cold = [sample for sample in run.samples if sample.what == "cold"]
    return not missing(run) and not run.manifest.all_refused and all(map(was_cold, cold))


def ended_complete(run: Deployment) -> bool:
    """Whether a run on disk says that it is complete, and has all that it then must have."""
    return run.manifest.status == "complete" and complete(run)


def _incomplete(manifest: DeploymentManifest, lost: Sequence[str]) -> Notice:
    """What is said of a run that is not whole, or whose process never said that it had ended."""
    happened = {
        "running": "the run has not ended: it is being measured now, or its process was killed",
        "interrupted": "the run was interrupted",
        "incomplete": "the run stopped early",
        "complete": "the run says that it is complete, and it is not: samples.jsonl was altered or cut short since",
    }[manifest.status]
    remedy = "run the command again: python -m bench single has no --resume"
    if manifest.status == "running":
        remedy = (
            f"wait if it is being measured; else {remedy}, and a killed process leaves its top layer, "
            f"{manifest.layer_bytes / 1e9:.2f} GB, in the run's folder: remove that"
        )
    there = f"; of what was asked for there are {', '.join(lost)}" if lost else ""
    return Notice(
        kind="incomplete",
        happened=f"{happened}{there}",
        matters="medians and intervals are of fewer samples than were asked for, or missing: no result to cite"
        if lost
        else "nothing says that what was measured is all of it",
        remedy=remedy,
    )
