"""Keep the memory that a process frees, for its next arrays. Does nothing where the C library is not glibc."""

from __future__ import annotations

import ctypes

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_MMAP_MAX = -1, -3, -4
"""Parameters of mallopt(3), from malloc.h."""
LARGEST_INT = 2**31 - 1
LARGEST_MMAP_THRESHOLD = 32 * 2**20
"""Bytes. glibc accepts no larger threshold."""


def keep_freed_memory(limit: int | None = None) -> None:
    """Make the C library keep the memory that this process frees: all of it, or up to ``limit`` bytes.

    By default glibc takes large blocks from the kernel as new pages and returns them as soon as they are freed. The
    page faults took a twentieth of a training step with torch, and a third of the time of fast image decoders. torch
    has discussed an allocator of its own: https://github.com/pytorch/pytorch/pull/55675.
    """
    library = ctypes.CDLL(None)
    if not hasattr(library, "mallopt"):
        return
    if limit is None:
        library.mallopt(M_MMAP_MAX, 0)
        library.mallopt(M_TRIM_THRESHOLD, LARGEST_INT)
    else:
        library.mallopt(M_MMAP_THRESHOLD, LARGEST_MMAP_THRESHOLD)
        library.mallopt(M_TRIM_THRESHOLD, limit)
