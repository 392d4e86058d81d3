"""From the table's column label to what a network is to say. NumPy and pyarrow only.

Letters: R rows, K labels of the manifest.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cxrflow.base.findings import to_states
from cxrflow.base.manifest import Manifest


def one_hot(texts: pa.Array, labels: list[str]) -> np.ndarray:
    """float32 (R, K): 1 for the row's label. Raises ValueError for a label that the manifest does not have."""
    places = pc.index_in(texts, pa.array(labels, pa.string()))
    if places.null_count:
        raise ValueError(f"expected the labels {', '.join(labels)}, as the manifest says, found others")
    return np.eye(len(labels), dtype=np.float32)[places.to_numpy()]


def states(texts: pa.Array, labels: list[str]) -> np.ndarray:
    """float32 (R, K): 1 where a finding is present, 0 where it is absent, NaN where that is not known. Raises ValueError for
    a finding that the manifest does not have."""
    return to_states(texts.to_pylist(), labels)


TARGETS = {"single": one_hot, "multi": states}


def find_targets(manifest: Manifest) -> Callable[[pa.Array], np.ndarray]:
    make = TARGETS[manifest.task]
    return lambda texts: make(texts, manifest.labels)
