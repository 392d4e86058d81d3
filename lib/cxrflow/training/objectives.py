"""What differs between one label per image and several findings per image. Imports Keras.

Letters: n samples, B rows of a batch, K labels. ``training.targets`` makes the targets; ``cxrflow.metrics`` compares
scores with the truth.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import keras
import numpy as np
from keras import ops

from cxrflow import metrics
from cxrflow.base.manifest import Manifest


class Task(Protocol):
    """Loss, truth and validation metrics of a kind of table."""

    activation: str
    """Keras' name of the function from logits to scores."""
    multi: bool
    """Whether an image can have several findings."""

    def loss(self, manifest: Manifest) -> Callable:
        """Return the loss (nats) of targets (B, K) and logits (B, K)."""

    def truth(self, targets: np.ndarray) -> np.ndarray:
        """Return what ``cxrflow.metrics`` compares scores with, from targets float32 (n, K)."""

    def validation_metrics(self, truth: np.ndarray, scores: np.ndarray) -> dict:
        """Return ``val_loss`` (nats), ``val_auc`` and ``val_accuracy`` of scores float (n, K)."""


class SingleLabel:
    """One label per image. Truth is int (n,), indices of labels; scores float (n, K) are a softmax of the logits."""

    activation = "softmax"
    multi = False

    def loss(self, manifest: Manifest) -> Callable:
        """Cross-entropy (nats), averaged over the batch."""
        return keras.losses.CategoricalCrossentropy(from_logits=True)

    def truth(self, targets: np.ndarray) -> np.ndarray:
        """int (n,), the index of each one-hot target."""
        return targets.argmax(axis=1)

    def validation_metrics(self, truth: np.ndarray, scores: np.ndarray) -> dict:
        """val_loss is the cross-entropy; val_accuracy is that of the label with the highest score."""
        likelihood = np.clip(scores[np.arange(len(truth)), truth].astype(np.float64), 1e-7, None)
        return {
            "val_loss": float(-np.log(likelihood).mean()),
            "val_auc": metrics.auc(truth, scores),
            "val_accuracy": float((scores.argmax(axis=1) == truth).mean()),
        }


class MultiLabel:
    """Several findings per image.

    Truth is float32 (n, K): 1 present, 0 absent, NaN unknown, which counts neither in the loss nor in metrics. Scores
    float (n, K) are a sigmoid of each logit.
    """

    activation = "sigmoid"
    multi = True

    def loss(self, manifest: Manifest) -> Callable:
        """Binary cross-entropy (nats), one value per sample (B,).

        It is divided by the share of known targets in the whole split, not in the batch. Then the weighted mean over an
        epoch is the mean over all known targets. Each known target has the same weight, regardless of the unknown ones
        in its batch or on other workers. So workers need not exchange their numbers of known targets.
        """
        rows = manifest.rows("train")
        known = sum(sum(counts["train"].values()) for counts in (manifest.counts(), manifest.absent()))
        share = known / (rows * len(manifest.labels))

        def cross_entropy(targets, logits):
            unknown = ops.isnan(targets)
            # Replace NaN first: the gradient would be 0 times NaN otherwise.
            each = ops.binary_crossentropy(ops.where(unknown, 0.0, targets), logits, from_logits=True)
            return ops.mean(ops.where(unknown, 0.0, each), axis=-1) / share

        return cross_entropy

    def truth(self, targets: np.ndarray) -> np.ndarray:
        """float32 (n, K), the targets themselves."""
        return targets

    def validation_metrics(self, truth: np.ndarray, scores: np.ndarray) -> dict:
        """Metrics over known targets: val_loss (binary cross-entropy) and val_accuracy (at 0.5) per target, and
        val_auc.

        val_auc is the mean over the findings that are present in some images and absent in others.
        """
        known = ~np.isnan(truth)
        present, likelihood = truth[known] == 1, np.clip(scores[known].astype(np.float64), 1e-7, 1 - 1e-7)
        return {
            "val_loss": float(-np.log(np.where(present, likelihood, 1 - likelihood)).mean()),
            "val_auc": metrics.auc(truth, scores),
            "val_accuracy": float(((likelihood >= 0.5) == present).mean()),
        }


TASKS: dict[str, Task] = {"single": SingleLabel(), "multi": MultiLabel()}
"""By ``Manifest.task``."""
