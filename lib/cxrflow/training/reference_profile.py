"""Describe the validation images of a run, so that ``evaluate`` can compare the images of another site with them."""

from __future__ import annotations

import numpy as np

from cxrflow.base.manifest import Manifest, RunDirectory, write_json
from cxrflow.metrics.shift import IMAGE_FACTS, describe, score_facts
from cxrflow.metrics.taken_shift import describe_taken

SPLIT = "val"
"""The model was not trained on these images, so their scores are distributed like those of new ones."""


def write_reference(
    run: RunDirectory,
    manifest: Manifest,
    positive: int | None,
    facts: np.ndarray,
    truth: np.ndarray,
    scores: np.ndarray,
) -> None:
    """Write reference.json.

    Args:
        run: The run directory.
        manifest: The table's; its audit has the sizes of the source files, and how they were taken.
        positive: Index of the positive label; None for several findings.
        facts: float (n, 4), see ``metrics.shift.image_facts``.
        truth: int (n,), or float (n, K) for several findings.
        scores: float (n, K).
    """
    labels = manifest.labels
    groups = np.array(labels)[truth] if truth.ndim == 1 else np.full(len(truth), "all")
    named = dict(zip(IMAGE_FACTS, facts.T, strict=True)) | (
        score_facts(scores, labels, positive) if truth.ndim == 1 else {}
    )
    found = describe(named, groups)
    for label, group in found.items():
        group["facts"] |= manifest.audit.get("shapes", {}).get(label, {})
    patients = manifest.audit["patients"]
    taken = describe_taken(
        manifest.audit.get("groups", {}),
        list(found),
        sum(count for split, count in patients.items() if split != "test"),
    )
    write_json(run.reference, {"split": SPLIT, "patients": patients[SPLIT], "groups": found, "taken": taken})
