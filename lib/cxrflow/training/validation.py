"""Score the val split on all workers together. Imports Keras."""

from __future__ import annotations

import keras
import numpy as np

from cxrflow.base.config import TrainConfig
from cxrflow.distributed.worker import Worker
from cxrflow.metrics.shift import image_facts
from cxrflow.training.feed import Feed
from cxrflow.training.finite_check import require_finite
from cxrflow.training.objectives import Task
from cxrflow.training.progress_reporter import ProgressReporter


class Validator:
    """Runs a model over the val split. The images are read and described once, since they stay the same."""

    def __init__(self, config: TrainConfig, worker: Worker, feed: Feed, task: Task, reporter: ProgressReporter):
        self._config, self._worker, self._feed, self._task, self._reporter = config, worker, feed, task, reporter
        self._facts: np.ndarray | None = None

    @property
    def facts(self) -> np.ndarray:
        """float (n, 4), see ``metrics.shift.image_facts``. There are none before the first ``score``."""
        assert self._facts is not None
        return self._facts

    def score(self, model: keras.Model, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """Score all workers' samples of the val split. Collective.

        Args:
            model: Stored pixels (B, H, W, 1) to logits float32 (B, K); compiled here if it is not.
            epoch: How many epochs are finished, for reports and errors.

        Returns:
            (truth, logits): truth as ``objectives`` defines it, logits float32 (n, K), in order of rank.

        Raises:
            JobError: If a logit is not finite.
        """
        truth, logits, facts = [], [], []
        if not model.compiled:
            model.compile(jit_compile=False)  # like the trained one
        for batch in self._reporter.batches(self._feed.epoch(), "validate", epoch):
            true = len(batch.sample_ids)  # the rows after them only fill up the batch
            if self._facts is None:
                facts.append(image_facts(batch.pixels[:true, ..., 0]))
            truth.append(self._task.truth(batch.targets[:true]))
            logits.append(np.asarray(model.predict_on_batch(batch.pixels))[:true])
        if self._facts is None:
            self._facts = self._worker.all_gather(np.concatenate(facts))
        found = self._worker.all_gather(np.concatenate(logits))
        require_finite(found, "a logit of a validation image", epoch, self._config)
        return self._worker.all_gather(np.concatenate(truth)), found
