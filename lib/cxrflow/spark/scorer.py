"""A trained model on the executors. Spark broadcasts the model file, and each Python worker loads it once.

Executors therefore need no access to the run directory. Only executors import Keras.
"""

from __future__ import annotations

import functools
import hashlib
import logging
import tempfile
from dataclasses import dataclass

import numpy as np
import pandas as pd
from pyspark.sql import SparkSession

from cxrflow.base import storage
from cxrflow.base.config import parse_prevalence
from cxrflow.base.errors import UserError
from cxrflow.base.findings import from_predicted, to_states
from cxrflow.base.framework_process import prepare_process
from cxrflow.base.keras_import import import_keras
from cxrflow.base.keras_settings import installed_backend, set_own_settings
from cxrflow.base.manifest import RunDirectory
from cxrflow.images import Recipe
from cxrflow.metrics import Prior, Threshold, find_shares
from cxrflow.spark.session import run_on_executor

log = logging.getLogger(__name__)

BATCH = 32
_loaded: dict[str, object] = {}


@dataclass(frozen=True)
class Run:
    """The facts about a trained run that scoring needs."""

    task: str
    """single or multi, as in the manifest."""
    labels: list[str]
    """In the order of the model's outputs."""
    positive: int | None
    """Index of the positive label; None if there is no such label."""
    threshold: Threshold
    """Chosen on validation data."""
    temperature: float
    """The model file divides its logits by this."""
    prevalence: tuple[float, ...]
    """Share of each label in the training data; of a finding, among the images where it is known."""
    recipe: Recipe
    """How the training images were decoded."""
    backend: str
    model: str
    """URL of the model file."""

    @property
    def multi(self) -> bool:
        """Whether an image may have several labels."""
        return self.task == "multi"

    def to_labels(self, predicted: np.ndarray) -> list[str]:
        """The label text of each row of ``metrics.predicted``: int (n,), or bool (n, K) for multi."""
        return from_predicted(predicted, self.labels) if self.multi else [self.labels[index] for index in predicted]

    def truth(self, texts: pd.Series, labels: list[str]) -> np.ndarray:
        """The true labels as ``metrics.evaluate_scores`` takes them: int (n,), or float (n, K) for multi.

        ``texts`` is a table's column label and ``labels`` are the table's labels. Findings of the run that the table
        does not have are NaN, unknown.
        """
        if self.multi:
            truth = np.full((len(texts), len(self.labels)), np.nan, np.float32)
            truth[:, [self.labels.index(label) for label in labels]] = to_states(texts.tolist(), labels)
            return truth
        return texts.map({label: index for index, label in enumerate(self.labels)}).to_numpy()


def read_run(url: str) -> Run:
    """Read the run directory. Raises UserError if it or one of its files is missing."""
    run = RunDirectory(url)
    config, history = run.read(run.config, "train"), run.read(run.history, "train")
    saved = history["saved"]
    if not storage.exists(run.model):
        raise UserError(f"--run: expected a finished run, but {run.url!r} has no model.keras; let the training finish")
    if not history["finished"]:
        log.warning(
            "the training in %s is not finished: its model is that of epoch %d of %d",
            run.url,
            saved["epoch"],
            config["train"]["epochs"],
        )
    labels, positive = config["labels"], config["positive_label"]
    return Run(
        task=config["task"],
        labels=labels,
        positive=None if positive is None else labels.index(positive),
        threshold=saved["threshold"],
        temperature=saved["temperature"],
        prevalence=tuple(config["prevalence"][label] for label in labels),
        recipe=Recipe(**config["recipe"]),
        backend=config["backend"],
        model=run.model,
    )


def find_prior(flag: str, run: Run) -> Prior:
    """How scores are re-weighted for ``--prevalence``. Raises UserError if the flag does not suit the run."""
    shares = find_shares(parse_prevalence(flag), run.labels, run.positive, run.multi)
    return Prior(run.prevalence, shares, run.multi)


class Scorer:
    """Scores images on an executor. It is small to pickle, because the model is a Spark broadcast."""

    def __init__(self, spark: SparkSession, run: Run):
        self._model = spark.sparkContext.broadcast(storage.read_bytes(run.model))
        self._backend = _find_backend(spark, run)
        self._labels = len(run.labels)

    def __call__(self, pixels: np.ndarray) -> np.ndarray:
        """The scores, float32 (n, K), of pixels, uint8 (n, height, width): softmax, or sigmoids for multi."""
        model = _load(self._model.value, self._backend)
        scores = np.empty((len(pixels), self._labels), np.float32)
        for start in range(0, len(pixels), BATCH):
            batch = pixels[start : start + BATCH]
            padded = np.zeros((BATCH, *batch.shape[1:], 1), np.uint8)  # one shape, so the model is compiled once
            padded[: len(batch), ..., 0] = batch
            scores[start : start + len(batch)] = np.asarray(model.predict_on_batch(padded))[: len(batch)]
        return scores


def _find_backend(spark: SparkSession, run: Run) -> str:
    """The backend that executors score with. Raises UserError if they have none."""
    backend = run_on_executor(spark, functools.partial(installed_backend, run.backend))
    if backend != run.backend:
        log.warning(
            "the run was trained with %s, which the executors lack: %s scores it, which differs by rounding only",
            run.backend,
            backend,
        )
    return backend


def _load(content: bytes, backend: str):
    """The Keras model; each process loads it once."""
    key = hashlib.sha256(content).hexdigest()
    if key not in _loaded:
        prepare_process(backend, threads=1)  # each Spark task has one core; more threads would take other tasks' cores
        import_keras()
        import keras

        set_own_settings()
        from cxrflow.training.keras_patches import hide_tensorflow, with_torch_layers

        hide_tensorflow()
        with tempfile.NamedTemporaryFile(suffix=".keras") as file:
            file.write(content)
            file.flush()
            _loaded[key] = with_torch_layers(keras.saving.load_model(file.name, compile=False, safe_mode=True))
    return _loaded[key]
