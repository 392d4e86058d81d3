"""A trained model on the executors: loaded once in each Python worker, from bytes that Spark broadcasts, so that
no executor has to reach the run directory. Keras is imported on executors only."""

from __future__ import annotations

import hashlib
import logging
import os
import tempfile
from dataclasses import dataclass

import numpy as np
import pandas as pd
from pyspark.sql import SparkSession

from cxrflow.base import storage
from cxrflow.base.config import parse_prevalence
from cxrflow.base.errors import UserError
from cxrflow.base.findings import from_predicted, to_states
from cxrflow.base.manifest import RunDirectory
from cxrflow.images import Recipe
from cxrflow.metrics import Prior, Threshold, find_shares

log = logging.getLogger(__name__)

BATCH = 32
_loaded: dict[str, object] = {}


@dataclass(frozen=True)
class Run:
    """What a trained run says of its model."""

    task: str
    """The manifest's: single or multi."""
    labels: list[str]
    """In the order of the model's outputs."""
    positive: int | None
    threshold: Threshold
    """Chosen on validation data."""
    temperature: float
    """By which the model file divides its logits."""
    prevalence: tuple[float, ...]
    """Share of each label in the training data; for multi of each finding, where it is known."""
    recipe: Recipe
    """How the images that it was trained on were decoded."""
    backend: str
    model: str
    """Place of the model file."""

    @property
    def multi(self) -> bool:
        """Whether an image may have several of the labels."""
        return self.task == "multi"

    def named(self, called: np.ndarray) -> list[str]:
        """What ``metrics.predicted`` made, in words: the label of each row, or the findings as one text."""
        return from_predicted(called, self.labels) if self.multi else [self.labels[place] for place in called]

    def truth(self, texts: pd.Series, labels: list[str]) -> np.ndarray:
        """What ``metrics.evaluate_scores`` takes, of a table's column label and its labels: of findings that the run knows and the table
        does not, nothing is known."""
        if self.multi:
            truth = np.full((len(texts), len(self.labels)), np.nan, np.float32)
            truth[:, [self.labels.index(label) for label in labels]] = to_states(texts.tolist(), labels)
            return truth
        return texts.map({label: place for place, label in enumerate(self.labels)}).to_numpy()


def read_run(url: str) -> Run:
    """Raises UserError where the run directory or a file in it is missing."""
    run = RunDirectory(url)
    config, history = run.read(run.config, "train"), run.read(run.history, "train")
    kept = history["kept"]
    if not storage.exists(run.model):
        raise UserError(f"--run: expected a finished run, but {run.url!r} has no model.keras; let jobs/train.py finish")
    if not history["finished"]:
        log.warning(
            "the training in %s is not finished: its model is that of epoch %d of %d",
            run.url,
            kept["epoch"],
            config["train"]["epochs"],
        )
    labels, positive = config["labels"], config["positive_label"]
    return Run(
        task=config["task"],
        labels=labels,
        positive=None if positive is None else labels.index(positive),
        threshold=kept["threshold"],
        temperature=kept["temperature"],
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
    """Scores images on an executor. Small to send: the model travels as a broadcast."""

    def __init__(self, spark: SparkSession, run: Run):
        self._model = spark.sparkContext.broadcast(storage.read_bytes(run.model))
        self._backend = run.backend
        self._labels = len(run.labels)

    def __call__(self, pixels: np.ndarray) -> np.ndarray:
        """uint8 (n, height, width) to float32 (n, labels), each row a softmax or, of several findings, sigmoids."""
        model = _load(self._model.value, self._backend)
        scores = np.empty((len(pixels), self._labels), np.float32)
        for start in range(0, len(pixels), BATCH):
            part = pixels[start : start + BATCH]
            filled = np.zeros((BATCH, *part.shape[1:], 1), np.uint8)  # one shape, so that nothing is compiled twice
            filled[: len(part), ..., 0] = part
            scores[start : start + len(part)] = np.asarray(model.predict_on_batch(filled))[: len(part)]
        return scores


def _load(content: bytes, backend: str):
    """The model, read once in a process."""
    key = hashlib.sha256(content).hexdigest()
    if key not in _loaded:
        # Read when the framework is loaded: each Spark task has one core, and its neighbours want theirs.
        for name in ("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"):
            os.environ[name] = "1"
        os.environ.update(KERAS_BACKEND=backend, TF_CPP_MIN_LOG_LEVEL="2")
        import keras

        from cxrflow.training.keras_patches import with_torch_layers

        with tempfile.NamedTemporaryFile(suffix=".keras") as file:
            file.write(content)
            file.flush()
            _loaded[key] = with_torch_layers(keras.saving.load_model(file.name, compile=False, safe_mode=True))
    return _loaded[key]
