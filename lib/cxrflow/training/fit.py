"""Training on one worker of any number: the same function under every launcher. Imports Keras."""

from __future__ import annotations

import dataclasses
import itertools
import time
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager, nullcontext

import keras
import numpy as np

from cxrflow import __version__, metrics
from cxrflow.base.config import TrainConfig, to_dict
from cxrflow.base.errors import JobError
from cxrflow.base.host_facts import versions
from cxrflow.base.manifest import RUN_VERSION, RunDirectory, read_manifest, write_json
from cxrflow.distributed.worker import Worker
from cxrflow.metrics.shift import image_facts
from cxrflow.training.augment import augment, find_policy
from cxrflow.training.batch_norm import combine_statistics, set_statistics
from cxrflow.training.best_model import ModelKeeper
from cxrflow.training.build_network import load_initial_weights, saved_network, trained_network
from cxrflow.training.checkpoint import (
    GO_ON,
    SAVE,
    STOP,
    VERSION,
    Checkpoint,
    Clock,
    check_resumable,
    goes_on,
    read_checkpoint,
    share_state,
    table_digest,
    write_checkpoint,
)
from cxrflow.training.feed import Batch, Feed
from cxrflow.training.feed_budget import feed_size
from cxrflow.training.keras_patches import refresh_derived_state, with_torch_layers
from cxrflow.training.model_state import capture, restore
from cxrflow.training.objectives import TASKS
from cxrflow.training.optimizer import build_optimizer
from cxrflow.training.predictor import show_views
from cxrflow.training.progress import Progress
from cxrflow.training.run_summary import summarise
from cxrflow.training.sample_audit import SampleAudit
from cxrflow.training.shard_source import find_fetch
from cxrflow.training.shuffle_quality import batch_variance, rank_correlation
from cxrflow.training.weight_average import WeightAverage


def fit(config: TrainConfig, worker: Worker, job: str = "") -> dict:
    """Train ``config.model`` on the train split, and keep the average of its last weights with a temperature and a threshold
    that are fitted to the val split.

    Rank 0 writes config.json, history.json and a checkpoint to the run directory after each epoch, and
    checkpoints in between; what an older run left there is replaced with the first, unless training goes on with it
    (``checkpoint.goes_on``). Until the end, model.keras is that of the epoch with the best validation AUC, to within a minute,
    so that a run that dies leaves a model. Every worker returns the summary: the epoch that was kept, its validation metrics over
    all workers' samples, images per second, number of workers; or, where it was told to stop, ``stopped`` (True), ``epochs``
    (finished) and ``samples`` (fed of the next), which a checkpoint holds. ``job`` is written to config.json: whose run it is.

    Raises JobError where the loss is not a number, a shard cannot be read, the samples fed in an epoch are not those of the
    manifest, or the run directory cannot be written.
    """
    # Weights begin the same on every worker and backend; what stays apart is which units dropout leaves out.
    keras.utils.set_random_seed(config.seed + worker.rank)
    trainer = _Trainer(config, worker, job)
    for epoch in range(trainer.first_epoch, config.epochs):
        if not trainer.run_epoch(epoch):
            return trainer.stopped()
    return trainer.finish()


class _Trainer:
    def __init__(self, config: TrainConfig, worker: Worker, job: str):
        self._config, self._worker, self._job = config, worker, job
        self._manifest = read_manifest(config.table)
        self._run = RunDirectory(config.run)
        self._task = TASKS[self._manifest.task]
        self._policy = find_policy(config.augment)
        found = self._read_checkpoint()
        self._start = share_state(found.state, worker)
        self.first_epoch = self._start["epoch"]
        self._size = feed_size(config, self._manifest, self._start.get("feed"))
        self._fetch = find_fetch(config, self._manifest)
        self._train, self._val = self._feed("train", shuffle=True), self._feed("val", shuffle=False)
        self._steps = self._train.plan().steps
        self._model = trained_network(config, self._manifest, worker)
        self._model.compile(
            optimizer=build_optimizer(config, worker, self._steps, self._step_offset()),
            loss=self._task.loss(self._manifest),
            jit_compile=False,
        )  # Horovod's operations cannot be compiled by XLA
        # TensorFlow would trace the step twice if it made variables.
        self._model.optimizer.build(self._model.trainable_variables)
        self._average = WeightAverage(self._model, config.ema_epochs, self._steps)
        self._restore(found.arrays)
        self._epochs: list[dict] = self._start["epochs"]
        self._best: dict | None = self._start["best"]
        self._kept = ModelKeeper(config, self._manifest, self._run, self._start["kept"])
        self._clock = Clock(config.checkpoint_seconds, worker, self._steps)
        self._val_facts: np.ndarray | None = None
        self._claimed = False
        self._stopped_at: dict = {}
        self._begun: set[str] = set()
        if self._epochs and worker.rank == 0:  # the run may have died between its checkpoint and the files after it
            self._write_results(whole=self._start["samples"] == 0)
        self._progress = Progress(config, worker, self._train.plan(), self._val.plan())
        if self.first_epoch < config.epochs:
            self._progress.start(self.first_epoch, self._start["samples"], keras.backend.backend())

    def _read_checkpoint(self) -> Checkpoint:
        """The run's last one, or the beginning; only rank 0 reads."""
        begin = Checkpoint(
            {"epoch": 0, "samples": 0, "steps": 0, "loss": 0.0, "epochs": [], "best": None, "kept": None}, {}
        )
        if self._worker.rank != 0 or not goes_on(self._run, self._config):
            return begin
        found = read_checkpoint(self._run)
        check_resumable(found.state, self._config, self._manifest)
        return found

    def _step_offset(self) -> float:
        """Steps that the learning rate is further than the optimizer's own count; see ``build_optimizer``."""
        start = self._start
        global_batch = self._worker.size * self._config.batch_size
        return start["epoch"] * self._steps + start["samples"] / global_batch - start["steps"]

    def _restore(self, arrays: dict[str, np.ndarray]) -> None:
        """Rank 0's weights and, of a run that goes on, all else that training needs, on every worker."""
        self._fed_before = arrays.get("fed")
        if "version" in self._start:
            restore(self._model, self._average, arrays, self._worker)
        else:
            if self._config.init_weights and self._worker.rank == 0:
                load_initial_weights(self._model, self._config, self._manifest)
            self._model.set_weights(self._worker.broadcast(self._model.get_weights()))
        refresh_derived_state(self._model)
        self._average.begin(self._start["steps"])

    def _checkpoint(self, epoch: int, samples: int, loss: float, fed: SampleAudit | None) -> None:
        """Write a checkpoint after ``epoch`` whole epochs and ``samples`` of the next, whose losses add up to
        ``loss`` over all workers. Collective."""
        with self._combined() if fed is not None else nullcontext():  # after an epoch they are
            arrays = capture(self._model, self._average, self._worker)
        if fed is not None:
            arrays["fed"] = fed.combined(self._worker).entries
        for name, array in arrays.items():
            self._require_finite(array, name, epoch)
        if self._worker.rank != 0:
            return
        self._worker.report_progress("checkpoint", epoch=epoch)
        with self._writing():
            self._claim()
        steps = int(keras.ops.convert_to_numpy(self._model.optimizer.iterations))
        checkpoint = Checkpoint(
            {
                "version": VERSION,
                "epoch": epoch,
                "samples": samples,
                "steps": steps,
                "loss": loss,
                "epochs": self._epochs,
                "best": self._best,
                "kept": self._kept.record,
                "config": to_dict(self._config),
                "table": table_digest(self._manifest),
                "feed": {"streams": self._size.streams, "shuffle_rows": self._size.shuffle_rows},
            },
            arrays,
        )
        with self._writing():
            write_checkpoint(self._run, checkpoint)
        self._progress.checkpoint(epoch, samples)

    @contextmanager
    def _combined(self) -> Iterator[None]:
        """Within the block, the statistics of batch normalisation are those of all workers' images; collective. Not
        afterwards: when checkpoints are due, a clock decides, and that is not to show in what comes after."""
        own, *averaged = self._combine()
        yield
        for statistics in averaged:
            with self._average.applied():
                set_statistics(self._model, statistics)
        set_statistics(self._model, own)

    def _combine(self) -> list[list[tuple[np.ndarray, np.ndarray]]]:
        """Combine the statistics of the model and, where there is one, of its average; returns what this worker had. Collective."""
        own = [combine_statistics(self._model, self._worker)]
        if self._average.variables:
            with self._average.applied():
                own.append(combine_statistics(self._model, self._worker))
        return own

    def _claim(self) -> None:
        """Before anything else is written: remove an older run, and say what this one is."""
        if not self._claimed:
            if "version" not in self._start:  # it does not go on with what is there
                self._run.clear()
            self._write_config()
        self._claimed = True

    def _feed(self, split: str, shuffle: bool) -> Feed:
        config = self._config
        return Feed(
            config.table,
            self._manifest,
            split,
            rank=self._worker.rank,
            workers=self._worker.size,
            batch_size=config.batch_size,
            seed=config.seed,
            shuffle=shuffle,
            size=self._size,
            fetch=self._fetch,
            on_wait=lambda shard: self._worker.report_progress("feed", **self._place, shard=shard),
        )

    def _write_config(self) -> None:
        """What a later job needs to know of this run, and what a person needs to repeat it."""
        positive = self._kept.positive
        write_json(
            self._run.config,
            {
                "version": RUN_VERSION,
                "cxrflow": __version__,
                "keras": keras.__version__,
                "backend": keras.backend.backend(),
                "workers": self._worker.size,
                "task": self._manifest.task,
                "labels": self._manifest.labels,
                "recipe": self._manifest.recipe(),
                "positive_label": None if positive is None else self._manifest.labels[positive],
                "prevalence": self._manifest.prevalence("train"),
                "data": self._manifest.facts(),
                "versions": versions(self._config.launcher, keras.backend.backend()),
                "job": self._job,
                "train": to_dict(self._config),
                "ingest": self._manifest.config,
                "feed": self._feed_facts(),
            },
        )

    def _feed_facts(self) -> dict:
        """How the train split is fed, and how well that mixes it; see ``quality``."""
        plan = self._train.plan()
        variance = batch_variance(plan)
        return {
            **dataclasses.asdict(self._size),
            "rank_correlation": rank_correlation(plan),
            "batch_variance": variance if np.isfinite(variance) else None,
        }

    def run_epoch(self, epoch: int) -> bool:
        """Whether the epoch came to its end; False where training was told to stop."""
        started, exchanged = time.monotonic(), self._worker.all_reduce_seconds()
        first = self._start["samples"] if epoch == self.first_epoch else 0
        trained = self._train_epoch(epoch, first)
        if trained is None:
            return False
        loss, fed = trained
        seconds, exchanged = time.monotonic() - started, self._worker.all_reduce_seconds() - exchanged
        self._combine()
        with self._average.applied():
            truth, logits = self._score_val(self._model)
        record = {
            "epoch": epoch + 1,
            "loss": loss,
            **self._task.validation_metrics(truth, metrics.with_temperature(logits, 1.0, self._task.multi)),
            "learning_rate": self._learning_rate(),
            "images_per_second": (self._train.plan().samples - first) / seconds,
            "seconds": time.monotonic() - started,
            "fed": fed,
        }
        if self._worker.size > 1:
            record["all_reduce_share"] = exchanged / seconds
        self._epochs.append(record)
        if self._best is None or _rank_of(record) > _rank_of(self._best):
            self._best = record
            if self._kept.due():
                self._kept.fit(record["epoch"], 1, truth, logits, self._val_facts)
        self._checkpoint(epoch + 1, 0, 0.0, None)
        if self._worker.rank == 0:
            self._write_results(whole=True)
        self._progress.end_epoch(record)
        if epoch + 1 < self._config.epochs and self._clock.stops():
            self._stopped_at = {"epochs": epoch + 1, "samples": 0}
            return False
        return True

    def _train_epoch(self, epoch: int, first: int) -> tuple[float, dict] | None:
        """One pass over the train split, or what is left of it after the ``first`` samples of its order; returns the
        mean loss of the split's samples over all workers, and the record of the samples fed; None after a stop."""
        plan = self._train.plan(epoch, first)
        resumed = first > 0
        # What was counted before the run was resumed is rank 0's; the others begin anew.
        fed = SampleAudit(self._train.shards, self._fed_before if resumed and self._worker.rank == 0 else None)
        self._progress.begin_epoch(epoch, plan)
        before, total = self._start["loss"] if resumed else 0.0, 0.0
        with closing(self._train.epoch(epoch, first)) as batches:
            for step, batch in enumerate(self._watched(batches, "train", epoch)):
                self._progress.mark("feed")
                self._model.reset_metrics()  # Keras reports a running mean; the step's own loss is wanted
                pixels = augment(self._policy, batch.pixels, batch.sample_ids, seed=self._config.seed, epoch=epoch)
                self._progress.mark("augment")
                logs = self._model.train_on_batch(pixels, batch.targets, batch.weights, return_dict=True)
                self._progress.mark("step")
                self._average.update()
                fed.add(batch.shards, batch.sample_ids)
                loss = float(logs["loss"])
                self._require_finite(loss, f"the loss of step {step + 1} of the next", epoch)
                total += loss * plan.step_samples(step)
                self._progress.step(step, loss, self._learning_rate)
                word = self._clock.due(step)
                # Before the last step, which may be short, one does: what fills that up comes from the step before.
                if step + (2 if word == SAVE else 1) < plan.steps and word != GO_ON:
                    self._checkpoint(epoch, plan.fed_before(step + 1), before + self._mean(total), fed)
                    if word == STOP:
                        self._stopped_at = {"epochs": epoch, "samples": plan.fed_before(step + 1)}
                        return None
                self._progress.mark("other")
        return (before + self._mean(total)) / plan.samples, fed.combined(self._worker).check()

    def _watched(self, batches: Iterable[Batch], phase: str, epoch: int) -> Iterator[Batch]:
        """The same batches, while it is said what this worker does: wait for one, or work on it."""
        batches = iter(batches)
        for step in itertools.count(1):
            self._place = {"epoch": epoch + 1, "step": step}
            self._worker.report_progress("feed", **self._place)
            batch = next(batches, None)
            if batch is None:
                return
            self._worker.report_progress(phase if phase in self._begun else f"first {phase}", **self._place)
            yield batch
            self._begun.add(phase)

    def _mean(self, total: float) -> float:
        """The workers' mean of ``total``; collective."""
        return float(self._worker.all_reduce_mean([np.float64([total])])[0][0])

    def _require_finite(self, value: float | np.ndarray, name: str, epoch: int) -> None:
        if not np.isfinite(value).all():
            raise JobError(
                f"after {epoch} epochs, {name} is not a number: lower --learning-rate (it is "
                f"{self._config.learning_rate:g}). What {self._run.url} holds is kept"
            )

    def _score_val(self, model) -> tuple[np.ndarray, np.ndarray]:
        """(truth, logits float32 (n, K)) of all workers' samples of the val split; see ``task``. Collective."""
        truth, logits, facts = [], [], []
        if not model.compiled:
            model.compile(jit_compile=False)  # as the one that is trained
        for batch in self._watched(self._val.epoch(), "validate", len(self._epochs)):
            true = len(batch.sample_ids)
            if self._val_facts is None:  # they are the same in every epoch
                facts.append(image_facts(batch.pixels[:true, ..., 0]))
            truth.append(self._task.truth(batch.targets[:true]))
            logits.append(np.asarray(model.predict_on_batch(batch.pixels))[:true])
        if self._val_facts is None:
            self._val_facts = self._worker.all_gather(np.concatenate(facts))
        found = self._worker.all_gather(np.concatenate(logits))
        self._require_finite(found, "the logit of a validation image", len(self._epochs))
        return self._worker.all_gather(np.concatenate(truth)), found

    def _learning_rate(self) -> float:
        return float(keras.ops.convert_to_numpy(self._model.optimizer.learning_rate))

    def _write_results(self, whole: bool) -> None:
        """The epochs' records and, where the weights are those of a ``whole`` epoch and that is to be kept, the model: a run
        that dies has one."""
        with self._writing():
            if whole and self._kept.record["epoch"] == len(self._epochs):
                self._kept.save(show_views(self._averaged(), 1))
            self._write_history(finished=False)

    def _write_history(self, finished: bool) -> None:
        write_json(
            self._run.history,
            {"epochs": self._epochs, "best": self._best, "kept": self._kept.record, "finished": finished},
        )

    def _averaged(self) -> keras.Model:
        """The network with the average of the weights, in float32. Not the one that is trained, which knows an optimizer: so
        the file loads on either backend without our classes."""
        network = saved_network(self._config, self._manifest)
        with self._average.applied():
            network.set_weights(self._model.get_weights())
        refresh_derived_state(network)
        return network

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise JobError(
                f"cannot write the run directory {self._run.url}: {error}. The checkpoints that it holds are whole; "
                "make room for more, and the same command goes on from the last"
            ) from error

    def stopped(self) -> dict:
        """What is said of a run that was told to stop."""
        return {"stopped": True, **self._stopped_at}

    def finish(self) -> dict:
        """Keep what the last epoch has made, and return the summary of the run; collective."""
        seen = show_views(self._averaged(), self._config.tta)
        self._begun.discard("validate")  # another graph, which is compiled at its first batch
        self._kept.fit(len(self._epochs), self._config.tta, *self._score_val(with_torch_layers(seen)), self._val_facts)
        if self._worker.rank == 0:
            self._worker.report_progress("checkpoint", epoch=len(self._epochs))
            with self._writing():
                self._kept.save(seen)
                self._write_history(finished=True)
        return summarise(
            self._epochs,
            self._best,
            self._kept.record,
            self._run.url,
            workers=self._worker.size,
            backend=keras.backend.backend(),
        )


def _rank_of(record: dict) -> tuple[float, float]:
    """Better epochs have the higher validation AUC; of equal ones, the lower loss."""
    return record["val_auc"], -record["val_loss"]
