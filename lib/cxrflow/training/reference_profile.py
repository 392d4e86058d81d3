"""What a run's validation images look like, kept with the run so that evaluate.py can tell another site's images from them
without the table."""

from __future__ import annotations

import numpy as np

from cxrflow.base.manifest import Manifest, RunDirectory, write_json
from cxrflow.metrics.shift import IMAGE_FACTS, describe, score_facts

SPLIT = "val"  # the model has not seen these images, so their scores are such as new ones get


def write_reference(
    run: RunDirectory,
    manifest: Manifest,
    positive: int | None,
    facts: np.ndarray,
    truth: np.ndarray,
    scores: np.ndarray,
) -> None:
    """``facts``: float (n, 4), see ``image_facts``; ``truth``: int (n,), or float (n, K) for multi; ``scores``: float (n, K). The
    sizes of the source files come from the table's audit."""
    labels = manifest.labels
    groups = np.array(labels)[truth] if truth.ndim == 1 else np.full(len(truth), "all")
    named = dict(zip(IMAGE_FACTS, facts.T, strict=True)) | (
        score_facts(scores, labels, positive) if truth.ndim == 1 else {}
    )
    found = describe(named, groups)
    for label, group in found.items():
        group["facts"] |= manifest.audit.get("shapes", {}).get(label, {})
    write_json(run.reference, {"split": SPLIT, "patients": manifest.audit["patients"][SPLIT], "groups": found})
