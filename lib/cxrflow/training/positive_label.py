"""The positive label of a training: the one that sensitivity refers to."""

from __future__ import annotations

from cxrflow.base.config import TrainConfig
from cxrflow.base.errors import UserError
from cxrflow.base.findings import find_positive
from cxrflow.base.manifest import Manifest


def positive_label(config: TrainConfig, manifest: Manifest) -> int | None:
    """Index of the positive label; None for a table of several findings per image, each of which has its own.

    Raises UserError if ``--positive-label`` names none of the labels, or if it is missing and the names of two labels
    do not show which is positive.
    """
    labels = manifest.labels
    if manifest.task == "multi":
        return None
    if config.positive_label is not None and config.positive_label not in labels:
        raise UserError(f"--positive-label: expected one of {', '.join(labels)}; got {config.positive_label!r}")
    index = find_positive(labels) if config.positive_label is None else labels.index(config.positive_label)
    if index is None:
        raise UserError(
            f"--positive-label: expected {labels[0]!r} or {labels[1]!r}, got none, and the names do not show which of "
            "the two is positive (the one that sensitivity and --threshold refer to); choose it with --positive-label"
        )
    return index


def describe_positive(labels: list[str], positive: int) -> str:
    """A line for the log. ``positive`` is an index into ``labels``."""
    others = ", ".join(label for index, label in enumerate(labels) if index != positive)
    return f"positive label: {labels[positive]} (sensitivity and the threshold refer to it); negative: {others}"
