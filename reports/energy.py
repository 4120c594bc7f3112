"""Joules per image as energy.csv, a Markdown table, and lines for the terminal."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import pandas as pd

from bench.folder import Notice, write_atomically
from bench.run import Run
from bench.speed.energy_rows import EnergyRow, Interval, Verdict, notices, rows
from bench.speed.rows import MODES
from bench.speed.settings import Setting
from reports import wording
from reports.tables import markdown_table

FILES = ("energy.csv", "energy.md")

_INTERVALS = ("gross_j", "net_j", "ratio", "net_ratio")

_HEADER = (
    "architecture",
    "classes",
    "gross, mJ/image",
    "95 % interval",
    "net, mJ/image",
    "95 % interval",
    "gross / one logit",
    "95 % interval",
    "net / one logit",
    "95 % interval",
    "power, W",
    "at rest, W",
    "windows",
    "one logit needs",
)

_VERDICTS: dict[Verdict, str] = {
    "less": "less energy",
    "more": "more energy",
    "no difference shown": "no difference shown",
    "disturbed": "no verdict: others used the GPU",
    "too few windows": "no verdict: too few windows",
}


#: Verdicts that leave open what was asked.
_UNDECIDED = ("disturbed", "too few windows")


@dataclass(frozen=True)
class Energy:
    """The energy of a run, estimated from its windows; no rows where it was not measured."""

    settings: Sequence[Setting]
    rows: Sequence[EnergyRow] = ()
    notices: Sequence[Notice] = ()

    @classmethod
    def of(cls, run: Run) -> Self:
        """Estimate it again from the windows alone."""
        settings = run.manifest.settings
        return cls(settings, rows(run.windows, [setting.subset for setting in settings]), notices(run.windows))

    @property
    def is_undecided(self) -> bool:
        """Whether a count has no verdict: others used the GPU, or too few windows are known."""
        return any(row.verdict in _UNDECIDED for row in self.rows)

    @property
    def lines(self) -> list[str]:
        """What one logit needs, in words."""
        return lines(self.rows, self.settings)


def to_frame(found: Sequence[EnergyRow], settings: Sequence[Setting]) -> pd.DataFrame:
    """One line a row, to full precision: what tells its setting from others, and the fields of the row.

    An interval is three columns: gross_j, gross_j_low, gross_j_high.
    """
    return pd.DataFrame([_line(row, settings[row.setting]) for row in found], columns=_columns())


def _columns() -> list[str]:
    columns = ["setting", "arch", "device", "dtype", "batch_size", "compile", *MODES]
    for name in EnergyRow.model_fields:
        if name != "setting":
            columns += [name, f"{name}_low", f"{name}_high"] if name in _INTERVALS else [name]
    return columns


def _line(row: EnergyRow, setting: Setting) -> dict[str, object]:
    line: dict[str, object] = {
        "setting": row.setting,
        "arch": setting.arch,
        "device": setting.device,
        "dtype": setting.dtype,
        "batch_size": setting.batch_size,
        "compile": setting.compile,
        **{name: getattr(setting, name) for name in MODES},
    }
    for name in EnergyRow.model_fields:
        value = getattr(row, name)
        if name in _INTERVALS:
            ends = (None, None, None) if value is None else (value.value, value.low, value.high)
            line |= dict(zip((name, f"{name}_low", f"{name}_high"), ends, strict=True))
        else:
            line[name] = value
    return line


def to_markdown(found: Sequence[EnergyRow], settings: Sequence[Setting], noticed: Sequence["Notice"] = ()) -> str:
    """The table for people, with what it means and what to doubt below it."""
    labels = wording.setting_labels(settings)
    parts = [
        markdown_table(_HEADER, [_cells(row, labels[row.setting]) for row in found], left=(0, len(_HEADER) - 1)),
        "Energy of the whole board for one example, from NVML's counter. Net: less what the board uses at rest, with "
        "the network in its memory, in the same time. The sensor's own gain, off by some percent, is in the joules and "
        "cancels in the ratios; its period is in all intervals.",
    ]
    if noticed:
        parts.append("\n".join(f"- {_sentence(notice)}" for notice in noticed))
    return "\n\n".join(parts) + "\n"


def _cells(row: EnergyRow, label: str) -> list[str]:
    lost = f", {row.lost_windows} lost" if row.lost_windows else ""
    marked = f", {row.marked_windows} marked" if row.marked_windows else ""
    return [
        label,
        wording.count(row.classes),
        *_pair(row.gross_j, _millijoules),
        *_pair(row.net_j, _millijoules),
        *_pair(row.ratio, _ratio),
        *_pair(row.net_ratio, _ratio),
        "" if row.power_w is None else wording.significant(row.power_w),
        "" if row.idle_w is None else wording.significant(row.idle_w),
        f"{row.windows}{lost}{marked}",
        "" if row.verdict is None else _VERDICTS[row.verdict],
    ]


def _pair(interval: Interval | None, form: Callable[[float], str]) -> tuple[str, str]:
    """A number, and its interval; empty where there is none."""
    if interval is None:
        return "", ""
    if interval.low is None or interval.high is None:
        return form(interval.value), ""
    return form(interval.value), f"{form(interval.low)} to {form(interval.high)}"


def _millijoules(joules: float) -> str:
    """Energies as millijoules to four digits; a net energy may be below 0."""
    return f"{'-' if joules < 0 else ''}{wording.significant(abs(1e3 * joules), 4)}"


def _ratio(value: float) -> str:
    return f"{value:.3f}"


def lines(found: Sequence[EnergyRow], settings: Sequence[Setting]) -> list[str]:
    """A line for each count above one: what one logit needs, in words, for the terminal."""
    labels = wording.setting_labels(settings)
    subsets = [setting.subset for setting in settings]
    single = {row.setting: row for row in found if row.classes == subsets[row.setting]}
    return [
        _words(row, single.get(row.setting), labels[row.setting], _logits(subsets[row.setting]))
        for row in found
        if row.classes > subsets[row.setting]
    ]


def _logits(number: int) -> str:
    return "one logit" if number == 1 else f"{wording.count(number)} logits"


def _words(row: EnergyRow, single: EnergyRow | None, label: str, alone: str) -> str:
    begun = f"energy of {label}: "
    if row.gross_j is None or single is None or single.gross_j is None or row.ratio is None:
        lacking = wording.count(row.classes) if row.gross_j is None else alone
        return f"{begun}no window of {lacking} is known"
    _, ends = _pair(row.ratio, _ratio)
    interval = f", 95 % interval {ends}" if ends else ""
    one, here = _millijoules(single.gross_j.value), _millijoules(row.gross_j.value)
    words = (
        f"{begun}{one} mJ an image for {alone}, {here} mJ for {wording.count(row.classes)} "
        f"(x {_ratio(row.ratio.value)}{interval})"
    )
    if row.net_ratio is not None:
        words += f"; net of rest x {_ratio(row.net_ratio.value)}"
    return f"{words}; {_conclusion(row, alone)}"


def _conclusion(row: EnergyRow, alone: str) -> str:
    assert row.verdict is not None, "every count above one has a verdict"
    words = _VERDICTS[row.verdict]
    if row.verdict in ("less", "more"):
        return f"{alone} {'needs' if alone == 'one logit' else 'need'} {words}"
    if row.verdict == "disturbed":
        return f"{words} in {row.marked_windows} windows, and their energy is in these figures"
    return words


def _sentence(notice: "Notice") -> str:
    return f"{notice.happened}; {notice.matters}. Remedy: {notice.remedy}."


def write(folder: Path, energies: Sequence[Energy], runs: Sequence[str] = ()) -> list[Path]:
    """Write FILES of the runs that measured energy; their paths, none if no run did.

    `runs`: a name for each of several, which the tables then say. Raises OSError; a file is then as it was, or
    complete.
    """
    named = [(energy, runs[index] if runs else "") for index, energy in enumerate(energies) if energy.rows]
    if not named:
        return []
    frames = [to_frame(energy.rows, energy.settings) for energy, _ in named]
    if runs:
        for frame, (_, name) in zip(frames, named, strict=True):
            frame.insert(0, "run", name)
    sections = [
        (f"### {name}\n\n" if name else "") + to_markdown(energy.rows, energy.settings, energy.notices)
        for energy, name in named
    ]
    csv, markdown = (folder / name for name in FILES)
    write_atomically(csv, pd.concat(frames).to_csv(index=False, lineterminator="\n"))
    write_atomically(markdown, "\n".join(sections))
    return [csv, markdown]
