"""The kernel's cache of one file: emptied, and looked into without filling it.

Only the cache of files is emptied. What the disk itself, its controller or a hypervisor keeps stays there, so a cold
switch is one that the kernel must ask the disk for, not one that the disk must ask its medium for.
"""

import ctypes
import mmap
import os
from pathlib import Path

_PAGE = mmap.PAGESIZE


def drop(path: Path) -> None:
    """Write a file's changes to its disk and take its pages out of the cache.

    Pages that a process has mapped and touched stay: unmap the file first. Where the file lies in memory (tmpfs)
    nothing happens. Raises OSError.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)  # a page that was not written yet cannot go
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(descriptor)


def cached_pages(path: Path, offset: int, length: int) -> tuple[int | None, int]:
    """How many pages of a part of a file are in the cache, and how many there are; None if the kernel will not tell.

    By mincore(2), which reads nothing in. Raises OSError for a file that cannot be read, ValueError for a part of no
    length or beyond its end.
    """
    if offset < 0 or length < 1 or offset + length > path.stat().st_size:
        raise ValueError(f"bytes {offset} to {offset + length} are not in a file of {path.stat().st_size}")
    start = offset // _PAGE * _PAGE
    size = offset + length - start
    pages = -(-size // _PAGE)
    with open(path, "rb") as file, mmap.mmap(file.fileno(), size, access=mmap.ACCESS_COPY, offset=start) as mapped:
        first = ctypes.c_char.from_buffer(mapped)  # ACCESS_COPY: only what could be written has an address here
        flags = (ctypes.c_ubyte * pages)()
        refused = _mincore(ctypes.addressof(first), size, flags)
        del first  # or the mapping could not be closed
    return (None if refused else sum(flag & 1 for flag in flags)), pages


def _mincore(address: int, size: int, flags: "ctypes.Array[ctypes.c_ubyte]") -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    return int(libc.mincore(ctypes.c_void_p(address), ctypes.c_size_t(size), flags))
