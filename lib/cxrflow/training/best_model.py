"""The model that a run keeps: what is fitted to its validation logits, and the files that hold it. Imports Keras."""

from __future__ import annotations

import math
import os
import tempfile
import time

import keras
import numpy as np

from cxrflow import metrics
from cxrflow.base import storage
from cxrflow.base.config import TrainConfig, parse_threshold
from cxrflow.base.manifest import Manifest, RunDirectory
from cxrflow.training.objectives import TASKS
from cxrflow.training.predictor import build_predictor
from cxrflow.training.reference_profile import write_reference

SECONDS = 60.0
"""Between two models of a training that goes on."""


class ModelKeeper:
    """What is kept so far. ``fit`` takes the model of an epoch, ``save`` writes the last that was taken."""

    def __init__(self, config: TrainConfig, manifest: Manifest, run: RunDirectory, record: dict | None):
        """``record``: that of a run that goes on."""
        self._config, self._manifest, self._run = config, manifest, run
        self._task = TASKS[manifest.task]
        self._since = -math.inf
        self._judged: tuple[np.ndarray, np.ndarray, np.ndarray] | None = None
        self.positive = positive_label(config, manifest)
        """The place of the label that sensitivity is about; None of several findings, each of which has its own."""
        self.record = record
        """``kept`` in history.json: ``epoch``, ``views``, ``temperature``, ``threshold`` (``metrics.Threshold``) and the validation
        metrics with these."""

    def due(self) -> bool:
        """Whether it is time for another one, of a training that goes on: writing each would slow short epochs down."""
        return self.record is None or time.monotonic() - self._since >= SECONDS

    def fit(self, epoch: int, views: int, truth: np.ndarray, logits: np.ndarray, facts: np.ndarray) -> None:
        """Keep the model of this epoch, whose val split has such a ``truth`` (see ``task``), ``logits`` float (n, K), of so many
        views, and ``facts`` float (n, 4), see ``metrics.shift.image_facts``."""
        temperature = metrics.fit_temperature(logits, truth)
        scores = metrics.with_temperature(logits, temperature, self._task.multi)
        threshold = metrics.fit_threshold(truth, scores, self.positive, *parse_threshold(self._config.threshold))
        self.record = {
            "epoch": epoch,
            "views": views,
            "temperature": temperature,
            "threshold": threshold,
            **self._task.validation_metrics(truth, scores),
        }
        self._judged = facts, truth, scores
        self._since = time.monotonic()

    def save(self, seen: keras.Model) -> None:
        """Write the model, of which ``seen`` gives the logits (``predictor.show_views``), and what its validation images look
        like. What was said of an earlier model of this run is removed."""
        self._run.clear_evaluation()
        model = build_predictor(seen, self.record["temperature"], self._task.activation)
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "model.keras")
            model.save(path)
            storage.write_bytes(self._run.model, storage.read_bytes(path))
        if self._judged:  # not where a run goes on whose last epoch left no model
            write_reference(self._run, self._manifest, self.positive, *self._judged)


def positive_label(config: TrainConfig, manifest: Manifest) -> int | None:
    if manifest.task == "multi":
        return None
    if config.positive_label is None:
        return metrics.positive_index(manifest.labels)
    return manifest.labels.index(config.positive_label)
