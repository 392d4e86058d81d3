"""The settings of every process that computes with TensorFlow or torch: threads, kernels and memory.

Frameworks read the environment when they are imported, so call ``prepare_process`` before. It imports neither.
"""

from __future__ import annotations

import os

from cxrflow.base.freed_memory import keep_freed_memory


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
