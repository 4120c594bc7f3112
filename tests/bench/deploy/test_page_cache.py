"""The page cache of one file: read, dropped, looked into."""

import mmap
import os
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from bench.deploy import page_cache

PAGES = 4096


@pytest.fixture
def file(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "a"
    path.write_bytes(os.urandom(mmap.PAGESIZE) * PAGES)
    yield path
    path.unlink()


def in_memory(path: Path) -> bool:
    """Whether the file lies in memory, where no cache can be dropped."""
    mounts = [each for each in psutil.disk_partitions(all=True) if path.is_relative_to(each.mountpoint)]
    return max(mounts, key=lambda each: len(each.mountpoint)).fstype in ("tmpfs", "ramfs")


def test_what_was_written_is_there_until_it_is_dropped(file: Path) -> None:
    if in_memory(file):
        pytest.skip("the folder of temporary files lies in memory (tmpfs): there is no page cache to drop")
    whole = PAGES * mmap.PAGESIZE
    assert page_cache.cached_pages(file, 0, whole) == (PAGES, PAGES)
    page_cache.drop(file)
    assert page_cache.cached_pages(file, 0, whole) == (0, PAGES)
    with open(file, "rb") as opened:
        opened.seek(2000 * mmap.PAGESIZE)
        opened.read(1)
    assert page_cache.cached_pages(file, 2000 * mmap.PAGESIZE, 1) == (1, 1)
    assert page_cache.cached_pages(file, 0, mmap.PAGESIZE) == (0, 1)


def test_looking_reads_nothing_in(file: Path) -> None:
    page_cache.drop(file)
    before, _ = page_cache.cached_pages(file, 0, PAGES * mmap.PAGESIZE)
    after, _ = page_cache.cached_pages(file, 0, PAGES * mmap.PAGESIZE)
    assert before == after


@pytest.mark.parametrize(
    ("offset", "length", "pages"), [(0, 1, 1), (4095, 1, 1), (4095, 2, 2), (5000, 8192, 3), (8192, 8192, 2)]
)
def test_a_part_lies_on_so_many_pages(file: Path, offset: int, length: int, pages: int) -> None:
    if mmap.PAGESIZE != 4096:
        pytest.skip("worked out for pages of 4096 bytes")
    assert page_cache.cached_pages(file, offset, length)[1] == pages


@pytest.mark.parametrize(("offset", "length"), [(-1, 2), (0, 0), (PAGES * mmap.PAGESIZE, 1)])
def test_a_part_that_is_not_in_the_file(file: Path, offset: int, length: int) -> None:
    with pytest.raises(ValueError, match="are not in a file of"):
        page_cache.cached_pages(file, offset, length)


def test_a_kernel_that_will_not_tell(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page_cache, "_mincore", lambda *_: -1)
    assert page_cache.cached_pages(file, 0, 1) == (None, 1)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        page_cache.drop(tmp_path / "a")
