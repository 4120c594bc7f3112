"""What is between the two clock readings of a switch, by a clock that is replayed and rows that keep a diary."""

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from archs.rows_on_disk import weight_offset, write_rows
from bench.deploy import page_cache, switching
from bench.deploy.records import DeploymentSetting


@pytest.fixture
def diary() -> list[str]:
    return []


class Rows:
    """Takes note of what is selected."""

    def __init__(self, diary: list[str], name: str) -> None:
        self.diary = diary
        self.name = name

    def select(self, classes: int) -> None:
        self.diary.append(f"{self.name} {classes}")


def setting_of(classes: int = 50, switches: int = 4) -> DeploymentSetting:
    return DeploymentSetting(
        arch="a",
        input_shape=(3, 8, 8),
        device="cpu",
        threads=1,
        classes=classes,
        switches=switches,
        minibatches=1,
    )


def clock_of(diary: list[str], *readings: int) -> Iterator[int]:
    for reading in readings:
        diary.append("clock")
        yield reading


def opener(diary: list[str]) -> switching.Open:
    opened = iter(range(100))
    return lambda cached: Rows(diary, f"{next(opened)}/{cached}:")


@pytest.mark.parametrize("classes", [2, 3, 50, 370_727])
def test_no_class_is_switched_to_twice_in_a_row(classes: int) -> None:
    drawn = switching.classes_in_turn(setting_of(classes, 200))
    assert len(drawn) == 200
    assert all(0 <= index < classes for index in drawn)
    assert all(a != b for a, b in itertools.pairwise(drawn))
    assert drawn == switching.classes_in_turn(setting_of(classes, 200)), "the seed decides"
    if classes > 1000:
        assert len(set(drawn)) > 190


def test_a_warm_row_was_read_through_another_mapping_before_the_clock(diary: list[str]) -> None:
    clock = clock_of(diary, 10, 1010, 2000, 5000)
    samples = list(switching.warm(setting_of(switches=2), opener(diary), lambda: diary.append("idle"), clock.__next__))
    a, b = switching.classes_in_turn(setting_of(switches=2))
    expected = [[f"0/1: {index}", "idle", "clock", f"1/1: {index}", "idle", "clock"] for index in (a, b)]
    assert diary == expected[0] + expected[1]
    assert [sample.wall_s for sample in samples] == [1e-6, 3e-6]
    assert [(sample.what, sample.number, sample.index) for sample in samples] == [("warm", 0, a), ("warm", 1, b)]


def test_a_kept_row_is_one_of_two_on_the_device(diary: list[str]) -> None:
    clock = clock_of(diary, 0, 7)
    (sample,) = switching.kept(setting_of(switches=1), opener(diary), lambda: None, clock.__next__)
    (index,) = switching.classes_in_turn(setting_of(switches=1))
    assert diary == [f"0/2: {index}", f"0/2: {(index + 1) % 50}", "clock", f"0/2: {index}", "clock"]
    assert (sample.what, sample.wall_s) == ("kept", 7e-9)


def test_a_cold_row_is_dropped_after_the_file_was_mapped_anew(
    diary: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.safetensors"
    write_rows(path, [torch.ones(50, 6)], None, classes=50, features=6, dtype=torch.float32)
    looked_at = []

    def look(at: Path, offset: int, length: int) -> tuple[int, int]:
        diary.append("look")
        looked_at.append((at, offset - weight_offset(path), length))
        return 0, 2

    monkeypatch.setattr(page_cache, "drop", lambda at: diary.append(f"drop {at.name}"))
    monkeypatch.setattr(page_cache, "cached_pages", look)
    open_rows = opener(diary)

    def opened(cached: int) -> switching.Selecting:
        diary.append("open")
        return open_rows(cached)

    clock = clock_of(diary, 0, 5000, 6000, 9000)
    samples = list(switching.cold(setting_of(switches=2), path, 24, opened, lambda: None, clock.__next__))
    a, b = switching.classes_in_turn(setting_of(switches=2))
    assert diary == [
        *("open", "drop a.safetensors", "look", "clock", f"0/1: {a}", "clock"),
        *("open", "drop a.safetensors", "look", "clock", f"1/1: {b}", "clock"),
    ]
    assert looked_at == [(path, 24 * a, 24), (path, 24 * b, 24)]
    assert [(each.wall_s, each.cached_pages, each.pages) for each in samples] == [(5e-6, 0, 2), (3e-6, 0, 2)]
