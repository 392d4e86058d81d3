"""Stop a training whose numbers are no longer finite. NumPy only."""

from __future__ import annotations

import numpy as np

from cxrflow.base.config import TrainConfig
from cxrflow.base.errors import JobError


def require_finite(value: float | np.ndarray, name: str, epoch: int, config: TrainConfig) -> None:
    """Raise JobError, which suggests a lower learning rate, unless all of ``value`` is finite.

    ``epoch``: how many epochs are finished.
    """
    if not np.isfinite(value).all():
        raise JobError(
            f"--learning-rate: expected training to stay finite, but after {epoch} epochs {name} is not a number; "
            f"lower --learning-rate (it is {config.learning_rate:g}). The files in {config.run} stay intact"
        )
