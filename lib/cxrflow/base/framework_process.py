"""The settings of every process that computes with TensorFlow or torch: threads, kernels and memory.

Frameworks read the environment when they are imported, so call ``prepare_process`` before. It imports neither.
"""

from __future__ import annotations

import ctypes
import os

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
"""Parameters of mallopt(3), from malloc.h."""
LARGEST_INT = 2**31 - 1


def framework_environment(backend: str, threads: int) -> dict[str, str]:
    """Environment variables for a process that computes with ``backend`` (tensorflow or torch) on ``threads`` cores.

    A user's own TF_ENABLE_ONEDNN_OPTS is kept.
    """
    return {
        "KERAS_BACKEND": backend,
        "OMP_NUM_THREADS": str(threads),
        "TF_NUM_INTRAOP_THREADS": str(threads),
        "TF_NUM_INTEROP_THREADS": "1",
        "TF_CPP_MIN_LOG_LEVEL": "2",
        # By itself TensorFlow uses oneDNN only on processors with AVX-512 VNNI, BF16 or AMX. It is faster on all.
        "TF_ENABLE_ONEDNN_OPTS": os.environ.get("TF_ENABLE_ONEDNN_OPTS", "1"),
    }


def prepare_process(backend: str, threads: int) -> None:
    """Set up this process to compute with ``backend`` on ``threads`` cores. Call it before a framework is imported.

    Call it only in a process that does nothing else: the memory that it frees stays its own.
    """
    os.environ.update(framework_environment(backend, threads))
    keep_freed_memory()


def keep_freed_memory() -> None:
    """Make the C library keep the memory that this process frees. Does nothing without glibc.

    Both frameworks allocate the buffers of every step anew. glibc returns large ones to the kernel each time, and the
    page faults took a twentieth of a step with torch and a fifth with TensorFlow (docs/benchmarks/speed.md). torch has
    discussed an allocator of its own: https://github.com/pytorch/pytorch/pull/55675.
    """
    library = ctypes.CDLL(None)
    if hasattr(library, "mallopt"):
        library.mallopt(M_MMAP_MAX, 0)
        library.mallopt(M_TRIM_THRESHOLD, LARGEST_INT)
