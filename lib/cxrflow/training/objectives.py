"""What training does otherwise where an image has several findings instead of one label. Imports Keras.

Letters: n samples, B rows of a batch, K labels. Targets are what ``training.targets`` makes; truth is what ``cxrflow.metrics``
judges by.
"""

from __future__ import annotations

from collections.abc import Callable

import keras
import numpy as np
from keras import ops

from cxrflow import metrics
from cxrflow.base.manifest import Manifest


class Single:
    """One label an image: truth is int (n,), places in the labels; scores float (n, K) are a softmax of the logits."""

    activation = "softmax"
    multi = False

    def loss(self, manifest: Manifest) -> Callable:
        """Cross-entropy (nats) of targets (B, K) and logits (B, K)."""
        return keras.losses.CategoricalCrossentropy(from_logits=True)

    def truth(self, targets: np.ndarray) -> np.ndarray:
        return targets.argmax(axis=1)

    def validation_metrics(self, truth: np.ndarray, scores: np.ndarray) -> dict:
        """val_loss (cross-entropy, nats), val_auc and val_accuracy (at the highest score)."""
        likelihood = np.clip(scores[np.arange(len(truth)), truth].astype(np.float64), 1e-7, None)
        return {
            "val_loss": float(-np.log(likelihood).mean()),
            "val_auc": metrics.auc(truth, scores),
            "val_accuracy": float((scores.argmax(axis=1) == truth).mean()),
        }


class Multi:
    """Several findings an image: truth is float32 (n, K), 1 or 0, or NaN where it is not known, of which nothing is learnt and
    by which nothing is judged; scores float (n, K) are a sigmoid of each logit."""

    activation = "sigmoid"
    multi = True

    def loss(self, manifest: Manifest) -> Callable:
        """Binary cross-entropy (nats) of targets (B, K) and logits (B, K), a value a sample (B,).

        It is divided by the share of targets that are known in the whole split, and not in a batch: the weighted mean over an
        epoch is then the mean over all known targets, and each of them counts the same whatever is unknown beside it, in its
        batch or on other workers, which need not tell each other how much they know.
        """
        rows = manifest.rows("train")
        known = sum(sum(counts["train"].values()) for counts in (manifest.counts(), manifest.absent()))
        share = known / (rows * len(manifest.labels))

        def cross_entropy(targets, logits):
            unknown = ops.isnan(targets)
            # A number in the place of NaN, or its gradient would be 0 times NaN.
            each = ops.binary_crossentropy(ops.where(unknown, 0.0, targets), logits, from_logits=True)
            return ops.mean(ops.where(unknown, 0.0, each), axis=-1) / share

        return cross_entropy

    def truth(self, targets: np.ndarray) -> np.ndarray:
        return targets

    def validation_metrics(self, truth: np.ndarray, scores: np.ndarray) -> dict:
        """Over what is known: val_loss (binary cross-entropy, nats) and val_accuracy (at 0.5) of a target, and val_auc, the
        mean over those findings that are both present and absent."""
        known = ~np.isnan(truth)
        present, said = truth[known] == 1, np.clip(scores[known].astype(np.float64), 1e-7, 1 - 1e-7)
        return {
            "val_loss": float(-np.log(np.where(present, said, 1 - said)).mean()),
            "val_auc": metrics.auc(truth, scores),
            "val_accuracy": float(((said >= 0.5) == present).mean()),
        }


TASKS = {"single": Single(), "multi": Multi()}
