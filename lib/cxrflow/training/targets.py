"""Training targets from the table's label column. NumPy and pyarrow only.

Letters: R rows, K labels of the manifest.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cxrflow.base.findings import to_states


def one_hot(texts: pa.Array, labels: list[str]) -> np.ndarray:
    """float32 (R, K): 1 for the row's label, otherwise 0. Raises ValueError for a label that is not in ``labels``."""
    indices = pc.index_in(texts, pa.array(labels, pa.string()))
    if indices.null_count:
        unknown = texts.filter(pc.is_null(indices))[0]
        raise ValueError(f"expected one of the labels {', '.join(labels)}, as the manifest says, got {unknown}")
    return np.eye(len(labels), dtype=np.float32)[indices.to_numpy()]


def finding_states(texts: pa.Array, labels: list[str]) -> np.ndarray:
    """float32 (R, K): 1 for a finding that is present, 0 for absent, NaN for unknown.

    Raises ValueError for a finding that is not in ``labels``.
    """
    return to_states(texts.to_pylist(), labels)


TARGETS: dict[str, Callable[[pa.Array, list[str]], np.ndarray]] = {"single": one_hot, "multi": finding_states}
"""By the manifest's task."""
