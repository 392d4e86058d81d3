"""Training on one worker of any number: the same function under every launcher. Imports Keras."""

from __future__ import annotations

import os
import tempfile
import time

import keras
import numpy as np

from cxrflow import __version__, metrics, storage
from cxrflow.config import TrainConfig, to_dict
from cxrflow.launch.worker import Worker
from cxrflow.manifest import Manifest, RunDirectory, read_manifest, write_json
from cxrflow.training.budget import feed_size
from cxrflow.training.feed import Feed
from cxrflow.training.models import build_model
from cxrflow.training.optimizer import build_optimizer

PROGRESS_SECONDS = 5.0


def fit(config: TrainConfig, worker: Worker) -> dict:
    """Train ``config.model`` on the train split and keep the epoch with the best AUC on the val split.

    Rank 0 writes config.json, history.json and model.keras to the run directory, after each epoch; what an older run
    left there is replaced with the first. Every worker returns the summary: best epoch, its validation metrics over
    all workers' samples, images per second, number of workers. Raises RuntimeError where the loss is not a number.
    """
    # Weights are rank 0's on every worker; what stays apart is which units dropout leaves out.
    keras.utils.set_random_seed(config.seed + worker.rank)
    trainer = _Trainer(config, worker)
    for epoch in range(config.epochs):
        trainer.run_epoch(epoch)
    return trainer.finish()


class _Trainer:
    def __init__(self, config: TrainConfig, worker: Worker):
        self._config, self._worker = config, worker
        self._manifest = read_manifest(config.table)
        self._run = RunDirectory(config.run)
        self._size = feed_size(config, self._manifest)
        self._train, self._val = self._feed("train", shuffle=True), self._feed("val", shuffle=False)
        self._steps = self._train.plan().steps
        self._model = self._build()
        self._model.set_weights(worker.broadcast(self._model.get_weights()))
        self._model.compile(
            optimizer=build_optimizer(config, worker, self._steps), loss="categorical_crossentropy",
            jit_compile=False)  # Horovod's operations cannot be compiled by XLA
        self._positive = positive_label(config, self._manifest)
        self._epochs: list[dict] = []
        self._best: dict | None = None

    def _feed(self, split: str, shuffle: bool) -> Feed:
        config = self._config
        return Feed(config.table, self._manifest, split, rank=self._worker.rank, workers=self._worker.size,
                    batch_size=config.batch_size, seed=config.seed, shuffle=shuffle,
                    size=self._size)

    def _build(self):
        stored = (self._manifest.height, self._manifest.width)
        seen = (self._config.height or stored[0], self._config.width or stored[1])
        return build_model(self._config.model, len(self._manifest.labels), stored, seen)

    def _write_config(self) -> None:
        """What a later job needs to know of this run, and what a person needs to repeat it."""
        write_json(self._run.config, {
            "cxrflow": __version__, "keras": keras.__version__, "backend": keras.backend.backend(),
            "workers": self._worker.size, "labels": self._manifest.labels,
            "recipe": self._manifest.recipe(), "positive_label": self._manifest.labels[self._positive],
            "train": to_dict(self._config), "ingest": self._manifest.config})

    def run_epoch(self, epoch: int) -> None:
        started = time.monotonic()
        loss = self._train_epoch(epoch)
        if not np.isfinite(loss):
            raise RuntimeError(f"the loss of epoch {epoch + 1} is {loss}, not a number: lower --learning-rate (it is "
                               f"{self._config.learning_rate:g}). What {self._run.url} holds is kept")
        seconds = time.monotonic() - started
        self._average_statistics()
        truth, scores = self._score_val()
        record = {
            "epoch": epoch + 1, "loss": loss, **validation_metrics(truth, scores),
            "learning_rate": self._learning_rate(), "images_per_second": self._train.plan().samples / seconds,
            "seconds": time.monotonic() - started,
        }
        self._epochs.append(record)
        if self._best is None or _rank_of(record) > _rank_of(self._best):
            self._best = {**record, "threshold": self._threshold(truth, scores)}
        if self._worker.rank == 0:
            self._write(record)

    def _train_epoch(self, epoch: int) -> float:
        """One pass over the train split; returns the mean loss of its samples over all workers."""
        plan = self._train.plan(epoch)
        progress = _Progress(self._config, self._worker, plan.steps, epoch)
        total = 0.0
        for step, batch in enumerate(self._train.epoch(epoch)):
            self._model.reset_metrics()  # Keras reports a running mean; the step's own loss is wanted
            logs = self._model.train_on_batch(batch.pixels, batch.targets, batch.weights, return_dict=True)
            total += float(logs["loss"]) * plan.step_samples(step)
            progress.step(step, float(logs["loss"]), plan.step_samples(step))
        return float(self._worker.average([np.float64([total / plan.samples])])[0][0])

    def _average_statistics(self) -> None:
        """Give every worker the mean of the moving statistics that batch normalisation gathered on each."""
        variables = [v for layer in self._model.layers if isinstance(layer, keras.layers.BatchNormalization)
                     for v in layer.non_trainable_variables]
        if not variables:
            return
        means = self._worker.average([keras.ops.convert_to_numpy(variable) for variable in variables])
        for variable, mean in zip(variables, means, strict=True):
            variable.assign(mean)

    def _score_val(self) -> tuple[np.ndarray, np.ndarray]:
        """(truth int (n,), scores float32 (n, K)) of all workers' samples of the val split."""
        truth, scores = [], []
        for batch in self._val.epoch():
            true = len(batch.sample_ids)
            truth.append(batch.targets[:true].argmax(axis=1))
            scores.append(np.asarray(self._model.predict_on_batch(batch.pixels))[:true])
        return self._worker.gather(np.concatenate(truth)), self._worker.gather(np.concatenate(scores))

    def _threshold(self, truth: np.ndarray, scores: np.ndarray) -> float | None:
        if scores.shape[1] != 2:
            return None
        return metrics.youden_threshold(truth == self._positive, scores[:, self._positive])

    def _learning_rate(self) -> float:
        return float(keras.ops.convert_to_numpy(self._model.optimizer.learning_rate))

    def _write(self, record: dict) -> None:
        """The epoch's records, and the model if it is the best so far: a run that dies keeps what it had."""
        if len(self._epochs) == 1:
            self._run.clear()
            self._write_config()
        if self._best["epoch"] == record["epoch"]:
            save_model(self._build(), self._model.get_weights(), self._run.model)
        write_json(self._run.history, {"epochs": self._epochs, "best": self._best})
        self._worker.say(
            f"epoch {record['epoch']}/{self._config.epochs}: loss {record['loss']:.4f}, val loss "
            f"{record['val_loss']:.4f}, val AUC {record['val_auc']:.4f}, val accuracy {record['val_accuracy']:.3f}, "
            f"{record['images_per_second']:.0f} images/s, {record['seconds']:.0f} s")

    def finish(self) -> dict:
        """The summary of the run."""
        best = {key: self._best[key] for key in ("val_loss", "val_auc", "val_accuracy", "threshold")}
        return {
            "best_epoch": self._best["epoch"], **best, "epochs": len(self._epochs),
            "images_per_second": float(np.median([epoch["images_per_second"] for epoch in self._epochs])),
            "seconds": sum(epoch["seconds"] for epoch in self._epochs),
            "workers": self._worker.size, "backend": keras.backend.backend(), "run": self._run.url,
        }


class _Progress:
    """A line every few seconds from rank 0: where training is, and when it will end."""

    def __init__(self, config: TrainConfig, worker: Worker, steps: int, epoch: int):
        self._config, self._worker, self._steps, self._epoch = config, worker, steps, epoch
        self._started = self._said = time.monotonic()
        self._images = 0

    def step(self, step: int, loss: float, images: int) -> None:
        now = time.monotonic()
        self._images += images
        if self._worker.rank != 0 or now - self._said < PROGRESS_SECONDS:
            return
        self._said = now
        pace = (step + 1) / (now - self._started)
        left = (self._steps - step - 1 + (self._config.epochs - self._epoch - 1) * self._steps) / pace
        self._worker.say(f"epoch {self._epoch + 1}/{self._config.epochs}, step {step + 1}/{self._steps}: loss {loss:.4f}, "
            f"{self._images / (now - self._started):.0f} images/s, {left / 60:.1f} min left")


def positive_label(config: TrainConfig, manifest: Manifest) -> int:
    """The place of the label that sensitivity is about."""
    if config.positive_label is None:
        return metrics.positive_index(manifest.labels)
    return manifest.labels.index(config.positive_label)


def validation_metrics(truth: np.ndarray, scores: np.ndarray) -> dict:
    """val_loss (cross-entropy, nats), val_auc and val_accuracy (at the highest score) of scores (n, K)."""
    likelihood = np.clip(scores[np.arange(len(truth)), truth].astype(np.float64), 1e-7, None)
    return {"val_loss": float(-np.log(likelihood).mean()), "val_auc": metrics.auc(truth, scores),
            "val_accuracy": float((scores.argmax(axis=1) == truth).mean())}


def save_model(model, weights: list[np.ndarray], url: str) -> None:
    """Write a model that never saw an optimizer, so that the file loads on either backend without our classes."""
    model.set_weights(weights)
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "model.keras")
        model.save(path)
        storage.write_bytes(url, storage.read_bytes(path))


def _rank_of(record: dict) -> tuple[float, float]:
    """Better epochs have the higher validation AUC; of equal ones, the lower loss."""
    return record["val_auc"], -record["val_loss"]
