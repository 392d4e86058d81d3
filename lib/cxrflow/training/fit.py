"""Train on one worker of any number: the same function under every launcher. Imports Keras.

This file connects the parts: ``train_state`` holds what training changes, ``epoch_loop`` trains an epoch,
``validation`` scores the val split, ``best_model`` decides what is saved, and ``run_writer`` writes the run directory.
"""

from __future__ import annotations

import time

import keras

from cxrflow import metrics
from cxrflow.base.config import TrainConfig
from cxrflow.base.keras_settings import own_settings
from cxrflow.base.manifest import RunDirectory, read_manifest
from cxrflow.distributed.worker import Worker
from cxrflow.training.best_model import ModelKeeper
from cxrflow.training.checkpoint import CheckpointClock, find_start
from cxrflow.training.epoch_loop import EpochLoop, StopPoint
from cxrflow.training.feed import Feed
from cxrflow.training.feed_budget import feed_size
from cxrflow.training.finite_check import require_finite
from cxrflow.training.history import History
from cxrflow.training.keras_patches import with_torch_layers
from cxrflow.training.objectives import TASKS
from cxrflow.training.predictor import average_tta_copies
from cxrflow.training.progress import Progress
from cxrflow.training.progress_reporter import ProgressReporter
from cxrflow.training.run_summary import summarise
from cxrflow.training.run_writer import RunWriter
from cxrflow.training.sample_audit import SampleAudit
from cxrflow.training.shard_source import find_fetch
from cxrflow.training.train_state import TrainState
from cxrflow.training.validation import Validator


def fit(config: TrainConfig, worker: Worker, job: str = "") -> dict:
    """Train ``config.model`` on the train split and save the exponential moving average (EMA) of its weights.

    A temperature and a decision threshold are fitted on the val split and saved with the model. Rank 0 writes
    config.json, history.json and a checkpoint to the run directory after each epoch, and more checkpoints in between.
    The first checkpoint replaces an older run there, unless training resumes it. Until the end, model.keras is at most
    a minute older than the epoch with the best validation AUC, so that a run that dies leaves a model.

    Args:
        config: The training configuration; the same on every worker.
        worker: This worker.
        job: The token of the job that trains, which config.json names.

    Returns:
        On every worker the summary of the run, see ``run_summary.summarise``. If training was asked to stop:
        ``stopped`` (True), ``epochs`` (finished) and ``samples`` (fed of the next one), which a checkpoint holds.

    Raises:
        JobError: If the loss is not finite, a shard cannot be read, the samples fed in an epoch are not those of the
            manifest, or the run directory cannot be written.
    """
    with own_settings():
        return _fit(config, worker, job)


def _fit(config: TrainConfig, worker: Worker, job: str) -> dict:
    # Initial weights are the same on every worker and backend. Workers differ in the units that dropout leaves out.
    keras.utils.set_random_seed(config.seed + worker.rank)
    trainer = _Trainer(config, worker, job)
    for epoch in range(trainer.first_epoch, config.epochs):
        if (stopped := trainer.run_epoch(epoch)) is not None:
            return {"stopped": True, "epochs": stopped.epochs, "samples": stopped.samples}
    return trainer.finish()


class _Trainer:
    """The parts of one training on one worker."""

    def __init__(self, config: TrainConfig, worker: Worker, job: str):
        self._config, self._worker = config, worker
        manifest = read_manifest(config.table, config.generation)
        self._task, self._labels = TASKS[manifest.task], manifest.labels
        start = find_start(RunDirectory(config.run), config, manifest, worker)
        self.first_epoch: int = start.state["epoch"]
        self._reporter = ProgressReporter(worker)
        size, fetch = feed_size(config, manifest, start.state.get("feed")), find_fetch(config, manifest)
        train_feed, val_feed = (
            Feed(
                config.table,
                manifest,
                split,
                rank=worker.rank,
                workers=worker.size,
                batch_size=config.batch_size,
                seed=config.seed,
                shuffle=split == "train",
                size=size,
                fetch=fetch,
                on_wait=self._reporter.wait_for,
            )
            for split in ("train", "val")
        )
        plan = train_feed.plan()
        self._state = TrainState(config, manifest, worker, plan.steps, start)
        self._history = History(start.state["epochs"], start.state["best"])
        self._keeper = ModelKeeper(config, manifest, RunDirectory(config.run), start.state["saved"])
        self._validator = Validator(config, worker, val_feed, self._task, self._reporter)
        self._clock = CheckpointClock(config.checkpoint_seconds, worker, plan.steps)
        self._writer = RunWriter(
            config,
            manifest,
            self._history,
            self._keeper,
            job=job,
            workers=worker.size,
            resumed=start.is_resumed,
            size=size,
            plan=plan,
        )
        # The run may have died after its last checkpoint and before the files that follow it.
        if self._history.epochs and worker.rank == 0:
            self._write_results(has_whole_epoch=start.state["samples"] == 0)
        self._progress = Progress(config, worker, plan, val_feed.plan())
        self._loop = EpochLoop(
            config,
            worker,
            train_feed,
            self._state,
            self._clock,
            self._progress,
            self._reporter,
            start,
            self._save_checkpoint,
        )
        if self.first_epoch < config.epochs:
            self._progress.start(self.first_epoch, start.state["samples"], keras.backend.backend())

    def run_epoch(self, epoch: int) -> StopPoint | None:
        """Train and validate one epoch and write its files; returns None, or where training stopped on request."""
        started, reduced = time.monotonic(), self._worker.all_reduce_seconds()
        trained = self._loop.run(epoch)
        if isinstance(trained, StopPoint):
            return trained
        seconds, reduced = time.monotonic() - started, self._worker.all_reduce_seconds() - reduced
        self._state.combine_statistics()
        with self._state.average.applied():
            truth, logits = self._validator.score(self._state.model, len(self._history.epochs))
        record = {
            "epoch": epoch + 1,
            "loss": trained.loss,
            **self._task.validation_metrics(truth, metrics.with_temperature(logits, 1.0, self._task.multi)),
            "learning_rate": self._state.learning_rate,
            "images_per_second": (trained.fed["samples"] - self._loop.first_sample(epoch)) / seconds,
            "seconds": time.monotonic() - started,
            "fed": trained.fed,
        }
        if self._worker.size > 1:
            record["all_reduce_share"] = reduced / seconds
        if self._history.add(record) and self._keeper.due():
            self._keeper.choose(record["epoch"], 1, truth, logits, self._validator.facts)
        self._save_checkpoint(epoch + 1)
        if self._worker.rank == 0:
            self._write_results(has_whole_epoch=True)
        self._progress.end_epoch(record)
        if epoch + 1 < self._config.epochs and self._clock.stops():
            return StopPoint(epoch + 1)
        return None

    def finish(self) -> dict:
        """Validate and save the model after the last epoch; returns the summary of the run. Collective."""
        epochs, best = len(self._history.epochs), self._history.best
        assert best is not None  # no run has 0 epochs
        network = average_tta_copies(self._state.averaged_network(), self._config.tta)
        self._reporter.new_graph("validate")
        truth, logits = self._validator.score(with_torch_layers(network), epochs)
        saved = self._keeper.choose(epochs, self._config.tta, truth, logits, self._validator.facts)
        if self._worker.rank == 0:
            self._reporter.checkpoint(epochs)
            self._writer.model(network)
            self._writer.history(finished=True)
        return summarise(
            self._history.epochs,
            best,
            saved,
            RunDirectory(self._config.run).url,
            workers=self._worker.size,
            backend=keras.backend.backend(),
            positive_label=None if self._keeper.positive is None else self._labels[self._keeper.positive],
        )

    def _save_checkpoint(
        self, epoch: int, samples: int = 0, loss: float = 0.0, audit: SampleAudit | None = None
    ) -> None:
        """Write a checkpoint. Collective.

        Args:
            epoch: Finished epochs.
            samples: Samples fed of the next one.
            loss: The sum of their losses over all workers.
            audit: This worker's audit of them; None after a whole epoch.
        """
        arrays = self._state.arrays(combined=audit is None)
        if audit is not None:
            arrays["fed"] = audit.combined(self._worker).entries
        for name, array in arrays.items():
            require_finite(array, name, epoch, self._config)
        if self._worker.rank != 0:
            return
        self._reporter.checkpoint(epoch)
        self._writer.checkpoint({"epoch": epoch, "samples": samples, "steps": self._state.steps, "loss": loss}, arrays)
        self._progress.checkpoint(epoch, samples)

    def _write_results(self, has_whole_epoch: bool) -> None:
        """Write history.json and, if the last epoch's model is to be saved, that model.

        ``has_whole_epoch``: whether the weights are those at the end of an epoch.
        """
        record = self._keeper.record
        if has_whole_epoch and record is not None and record["epoch"] == len(self._history.epochs):
            self._writer.model(average_tta_copies(self._state.averaged_network(), 1))
        self._writer.history(finished=False)
