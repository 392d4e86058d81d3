"""Choose, calibrate and write the model that a run saves. Imports Keras."""

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
from cxrflow.training.positive_label import positive_label
from cxrflow.training.predictor import build_predictor
from cxrflow.training.reference_profile import write_reference

MIN_SECONDS = 60.0
"""Time between two models that a training in progress saves."""


class ModelKeeper:
    """The model to save. ``choose`` takes the model of an epoch, ``save`` writes the one that was chosen last."""

    def __init__(self, config: TrainConfig, manifest: Manifest, run: RunDirectory, record: dict | None):
        """``record``: that of a run that resumes, otherwise None."""
        self._config, self._manifest, self._run = config, manifest, run
        self._task = TASKS[manifest.task]
        self._chosen_at = -math.inf
        self._validation: tuple[np.ndarray, np.ndarray, np.ndarray] | None = None
        self.positive = positive_label(config, manifest)
        """Index of the label that sensitivity refers to; None for several findings, each of which has its own."""
        self.record = record
        """``saved`` in history.json: ``epoch``, ``tta`` (copies), ``temperature``, ``threshold``
        (``metrics.Threshold``) and the validation metrics with these."""

    def due(self) -> bool:
        """Whether enough time has passed for another model: writing one per epoch would slow short epochs down."""
        return self.record is None or time.monotonic() - self._chosen_at >= MIN_SECONDS

    def choose(self, epoch: int, copies: int, truth: np.ndarray, logits: np.ndarray, facts: np.ndarray) -> dict:
        """Choose the model of an epoch, and fit its temperature and threshold to the val split; returns its record.

        Args:
            epoch: Number of finished epochs.
            copies: TTA copies that the logits are the mean of.
            truth: As ``objectives`` defines it, for the n images of val.
            logits: float32 (n, K).
            facts: float (n, 4), see ``metrics.shift.image_facts``.
        """
        temperature = metrics.fit_temperature(logits, truth)
        scores = metrics.with_temperature(logits, temperature, self._task.multi)
        threshold = metrics.fit_threshold(truth, scores, self.positive, *parse_threshold(self._config.threshold))
        self.record = {
            "epoch": epoch,
            "tta": copies,
            "temperature": temperature,
            "threshold": threshold,
            **self._task.validation_metrics(truth, scores),
        }
        self._validation = facts, truth, scores
        self._chosen_at = time.monotonic()
        return self.record

    def save(self, network: keras.Model) -> None:
        """Write model.keras and reference.json, and remove what evaluated an earlier model of this run.

        ``network``: The chosen model's logits, which ``predictor.average_tta_copies`` built. Raises OSError if it
        cannot be written.
        """
        assert self.record is not None
        self._run.clear_evaluations()
        model = build_predictor(network, self.record["temperature"], self._task.activation)
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "model.keras")
            model.save(path)
            storage.write_bytes(self._run.model, storage.read_bytes(path))
        if self._validation:  # None after a resume whose last job did not write its model
            write_reference(self._run, self._manifest, self.positive, *self._validation)
