"""Contestants of train_speed.py: train the residual model on one of Keras' backends, in this process.

Each line ``run TABLE STEPS SOURCE`` on standard input is answered with the images and seconds of so many steps; 0 means
a whole epoch. SOURCE is ``feed`` (batches from the table) or ``memory`` (one batch again and again). The time includes
opening the feed.
"""

from __future__ import annotations

import argparse
import itertools
import os
import shlex
import sys
import time
from collections.abc import Iterator
from contextlib import closing

from contestant import PROCESSES, answer, take_standard_output

BATCH_ROWS = 32


def set_threads(backend: str) -> None:
    if backend == "tensorflow":
        import tensorflow as tf

        tf.config.threading.set_intra_op_parallelism_threads(PROCESSES)
        tf.config.threading.set_inter_op_parallelism_threads(PROCESSES)
    else:
        import torch

        torch.set_num_threads(PROCESSES)


class Training:
    """A model, a feed over a table, and a batch in memory."""

    def __init__(self, table: str):
        import keras

        from cxrflow.base.config import TrainConfig
        from cxrflow.base.manifest import read_manifest
        from cxrflow.training.feed import Feed
        from cxrflow.training.feed_budget import feed_size
        from cxrflow.training.models import build_model

        manifest = read_manifest(table)
        config = TrainConfig(table=table, run="", batch_size=BATCH_ROWS)
        self._feed = Feed(
            table, manifest, "train", rank=0, workers=1, batch_size=BATCH_ROWS, size=feed_size(config, manifest)
        )
        size = (manifest.height, manifest.width)
        self._model = build_model("residual", len(manifest.labels), size)
        self._model.compile(optimizer=keras.optimizers.AdamW(1e-4), loss="categorical_crossentropy", jit_compile=False)
        self._epoch = 0
        with closing(self._feed.epoch()) as batches:
            self._batch = next(batches)

    def run(self, steps: int, source: str) -> dict:
        steps = steps or self._feed.plan().steps
        started = time.perf_counter()
        with closing(self._batches(source)) as batches:
            for batch in itertools.islice(batches, steps):
                self._model.reset_metrics()
                logs = self._model.train_on_batch(batch.pixels, batch.targets, batch.weights, return_dict=True)
                float(logs["loss"])  # as training does at every step; waits for the end of the step
        return {"images": steps * BATCH_ROWS, "seconds": time.perf_counter() - started}

    def _batches(self, source: str) -> Iterator:
        if source == "memory":
            return (self._batch for _ in itertools.count())
        return self._epochs()

    def _epochs(self) -> Iterator:
        while True:
            self._epoch += 1
            with closing(self._feed.epoch(self._epoch)) as batches:
                yield from batches


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backend", choices=("tensorflow", "torch"), required=True)
    backend = parser.parse_args().backend
    os.environ["KERAS_BACKEND"] = backend
    answers = take_standard_output()
    set_threads(backend)
    answer(answers, {"ready": True})
    trainings: dict[str, Training] = {}
    for line in sys.stdin:
        _, table, steps, source = shlex.split(line)
        if table not in trainings:
            trainings[table] = Training(table)
        answer(answers, trainings[table].run(int(steps), source))


if __name__ == "__main__":
    main()
