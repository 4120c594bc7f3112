"""Rows as tables and figures see them: one series a setting, named by what tells it from the others."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from bench.run import Manifest, Run
from bench.speed.rows import MODES, Row
from bench.speed.settings import Setting
from reports import wording


@dataclass(frozen=True)
class Series:
    """The rows of one setting: its points ascending by class count, and its control."""

    rows: tuple[Row, ...]
    setting: Setting | None = None
    manifest: Manifest | None = field(default=None, repr=False)

    @property
    def arch(self) -> str:
        """The network."""
        return self.rows[0].arch

    @property
    def points(self) -> tuple[Row, ...]:
        """All rows but the control."""
        return tuple(row for row in self.rows if row.kind == "point")

    @property
    def single(self) -> Row | None:
        """The point of the single logit, or of the several asked for at a time."""
        return next((row for row in self.points if row.is_reference), None)

    @property
    def control(self) -> Row | None:
        """The single logit measured a second time."""
        return next((row for row in self.rows if row.kind == "control"), None)

    @property
    def is_compared(self) -> bool:
        """Whether any count was measured beside the single logit."""
        return any(row.speedup is not None for row in self.points if not row.is_reference)

    @property
    def is_against_all(self) -> bool:
        """Whether its speedups are those of one logit over all logits: no rival, no subset."""
        return all(row.top_layer == "full" and row.subset == 1 for row in self.rows)


def split(rows: Sequence[Row]) -> list[Series]:
    """Cut rows, in the order of bench.speed.rows, into one series a setting.

    A setting ends where what identifies it changes or where the class counts start again.
    """
    groups: list[list[Row]] = []
    for row in rows:
        if not groups or not _continues(groups[-1], row):
            groups.append([])
        groups[-1].append(row)
    return [Series(tuple(group)) for group in groups]


def _continues(group: Sequence[Row], row: Row) -> bool:
    if _key(group[-1]) != _key(row):
        return False
    if row.kind == "control":
        return all(other.kind == "point" for other in group)
    return all(other.classes < row.classes for other in group if other.kind == "point")


#: What tells the settings of one run apart, as rows and settings alike know it.
_IDENTITY = ("arch", "device", "dtype", "batch_size", "compile", "order", *MODES)


def _key(known: Row | Setting) -> tuple[object, ...]:
    return tuple(getattr(known, name) for name in _IDENTITY)


def series_of(run: Run, rows: Sequence[Row]) -> list[Series]:
    """The series of a run, each with its setting.

    A setting without rows yet is passed over; those of one run always differ in something a row knows.
    """
    manifest = run.manifest
    settings = {_key(each): each for each in manifest.settings}
    return [Series(each.rows, settings.get(_key(each.rows[0])), manifest) for each in split(rows)]


def labels(series: Sequence[Series]) -> list[str]:
    """What tells each series from others of the same network; empty where nothing has to.

    Settings, then hardware and torch, then the time of the run: the first of these that differ.
    """
    archs = [each.arch for each in series]
    described = [_traits(each) for each in series]
    found = wording.distinguish(archs, described)
    if len(set(zip(archs, found, strict=True))) == len(series):
        return found
    for each, traits in zip(series, described, strict=True):
        traits["run"] = each.manifest.created if each.manifest else ""
    found = wording.distinguish(archs, described)
    if len(set(zip(archs, found, strict=True))) == len(series):
        return found
    return [f"{label}, #{index}".removeprefix(", ") for index, label in enumerate(found, start=1)]


def names(series: Sequence[Series]) -> list[str]:
    """The network of each series, with its label where it has one: resnet50 (bfloat16)."""
    return [wording.named(each.arch, label) for each, label in zip(series, labels(series), strict=True)]


def failures(series: Sequence[Series]) -> list[str]:
    """One line for every point that failed: which, how, and why. The control fails with its point, and has none."""
    return [
        wording.failure(name, row)
        for each, name in zip(series, names(series), strict=True)
        for row in each.points
        if row.status != "ok"
    ]


def control_lines(series: Sequence[Series]) -> list[str]:
    """One line for every control that was measured: what it found."""
    lines = [
        wording.control_line(name, each.control)
        for each, name in zip(series, names(series), strict=True)
        if each.control is not None
    ]
    return [line for line in lines if line]


def _traits(series: Series) -> dict[str, str]:
    traits = wording.traits(series.setting) if series.setting else wording.row_traits(series.rows[0])
    if series.manifest is None:
        return traits
    hardware = wording.hardware(series.manifest.machine, series.rows[0].device)
    return {"hardware": hardware, **traits, "torch": f"torch {series.manifest.versions.get('torch', 'unknown')}"}
