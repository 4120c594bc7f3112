import os
from pathlib import Path

import numpy as np
import pytest

from bench.array_files import Arrays, read_arrays, write_arrays
from bench.errors import UsageError

NAMES = ("low", "high")


def accept(arrays: Arrays) -> None:
    """Any content."""


def test_what_was_written_is_read_in_the_order_asked_for(tmp_path: Path) -> None:
    file = tmp_path / "made" / "x.npz"
    write_arrays(file, high=np.array([3.0]), low=np.arange(2))
    low, high = read_arrays(file, NAMES, "the ends", accept)
    np.testing.assert_array_equal(low, [0, 1])
    np.testing.assert_array_equal(high, [3.0])


def test_a_write_that_fails_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "x.npz"
    write_arrays(file, low=np.zeros(1), high=np.zeros(1))

    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="No space left"):
        write_arrays(file, low=np.ones(1), high=np.ones(1))
    assert [float(each[0]) for each in read_arrays(file, NAMES, "the ends", accept)] == [0, 0]
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize("content", [None, b"", b"no archive"])
def test_what_cannot_be_read_is_one_line_with_the_file(tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "x.npz"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(UsageError, match=r"x\.npz: not the ends \(.*\); restore it, or start a new run$"):
        read_arrays(file, NAMES, "the ends", accept)


def test_a_file_that_was_cut_short_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "x.npz"
    write_arrays(file, low=np.zeros(1000), high=np.zeros(1000))
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(UsageError, match="no archive, or cut short"):
        read_arrays(file, NAMES, "the ends", accept)


def test_an_array_that_is_missing_or_would_be_executed_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "x.npz"
    write_arrays(file, low=np.zeros(1))
    with pytest.raises(UsageError, match="high"):
        read_arrays(file, NAMES, "the ends", accept)
    np.savez(file, low=np.array([{}]), high=np.zeros(1))
    with pytest.raises(UsageError, match="not the ends"):
        read_arrays(file, NAMES, "the ends", accept)


def test_content_is_judged_by_whom_it_is_for(tmp_path: Path) -> None:
    file = tmp_path / "x.npz"
    write_arrays(file, low=np.array([2.0]), high=np.array([1.0]))

    def refuse(arrays: Arrays) -> None:
        if arrays[0] > arrays[1]:
            raise ValueError("low above high")

    with pytest.raises(UsageError, match=r"not the ends \(low above high\)"):
        read_arrays(file, NAMES, "the ends", refuse)
