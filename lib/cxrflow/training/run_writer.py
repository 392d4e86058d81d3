"""The files that rank 0 writes to the run directory during training. Imports Keras."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager

import keras
import numpy as np

from cxrflow import __version__
from cxrflow.base.config import TrainConfig, to_dict
from cxrflow.base.errors import JobError
from cxrflow.base.host_facts import versions
from cxrflow.base.manifest import RUN_VERSION, Manifest, RunDirectory, write_json
from cxrflow.training.best_model import ModelKeeper
from cxrflow.training.checkpoint import VERSION, Checkpoint, table_digest, write_checkpoint
from cxrflow.training.epoch_plan import EpochPlan
from cxrflow.training.feed_budget import FeedSize
from cxrflow.training.history import History
from cxrflow.training.shuffle_quality import batch_variance, rank_correlation


class RunWriter:
    """Writes config.json, history.json, checkpoints and model.keras. Only rank 0 calls its methods.

    Every method raises JobError if the run directory cannot be written.
    """

    def __init__(
        self,
        config: TrainConfig,
        manifest: Manifest,
        history: History,
        keeper: ModelKeeper,
        *,
        job: str,
        workers: int,
        resumed: bool,
        size: FeedSize,
        plan: EpochPlan,
    ):
        """Store what the files are written from.

        Args:
            config: The training configuration.
            manifest: The table's.
            history: The epochs' records; read at every write.
            keeper: The model to save; read at every write.
            job: The token of the job that writes, for config.json.
            workers: Number of workers.
            resumed: Whether training continues the run in the directory. Otherwise the first write removes it.
            size: How the train split is fed.
            plan: Plan of a whole epoch of the train split.
        """
        self._config, self._manifest, self._history, self._keeper = config, manifest, history, keeper
        self._job, self._workers, self._resumed, self._size, self._plan = job, workers, resumed, size, plan
        self._run = RunDirectory(config.run)
        self._is_prepared = False

    def checkpoint(self, state: dict, arrays: dict[str, np.ndarray]) -> None:
        """Write a checkpoint; with the first one, replace an older run and write config.json.

        ``state``: ``epoch``, ``samples``, ``steps`` and ``loss``; see ``checkpoint.Checkpoint``.
        """
        content = {
            "version": VERSION,
            **state,
            **self._history.to_dict(),
            "saved": self._keeper.record,
            "config": to_dict(self._config),
            "table": table_digest(self._manifest),
            "feed": {"streams": self._size.streams, "shuffle_rows": self._size.shuffle_rows},
        }
        with self._explained():
            if not self._is_prepared:
                self._prepare()
            write_checkpoint(self._run, Checkpoint(content, arrays))

    def history(self, finished: bool) -> None:
        """Write history.json."""
        with self._explained():
            write_json(
                self._run.history,
                {**self._history.to_dict(), "saved": self._keeper.record, "finished": finished},
            )

    def model(self, network: keras.Model) -> None:
        """Write model.keras and reference.json; ``network`` as in ``ModelKeeper.save``."""
        with self._explained():
            self._keeper.save(network)

    def _prepare(self) -> None:
        """Before the first write: remove an older run, and write what this one is."""
        if not self._resumed:
            self._run.clear()
        self._write_config()
        self._is_prepared = True

    def _write_config(self) -> None:
        """Write what later jobs need to know about this run, and what a person needs to repeat it."""
        manifest, positive = self._manifest, self._keeper.positive
        write_json(
            self._run.config,
            {
                "version": RUN_VERSION,
                "cxrflow": __version__,
                "keras": keras.__version__,
                "backend": keras.backend.backend(),
                "workers": self._workers,
                "task": manifest.task,
                "labels": manifest.labels,
                "recipe": manifest.recipe(),
                "positive_label": None if positive is None else manifest.labels[positive],
                "prevalence": manifest.prevalence("train"),
                "data": manifest.facts(),
                "versions": versions(self._config.launcher, keras.backend.backend()),
                "job": self._job,
                "train": to_dict(self._config),
                "ingest": manifest.config,
                "feed": self._describe_feed(),
            },
        )

    def _describe_feed(self) -> dict:
        """How the train split is fed, and how well that shuffles it; see ``shuffle_quality``."""
        variance = batch_variance(self._plan)
        return {
            **dataclasses.asdict(self._size),
            "rank_correlation": rank_correlation(self._plan),
            "batch_variance": variance if np.isfinite(variance) else None,
        }

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise JobError(
                f"--run: expected to write to {self._run.url}, got {error}. The checkpoints in it are complete; make "
                "room for more, and the same command resumes from the last one"
            ) from error
