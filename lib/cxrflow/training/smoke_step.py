"""One forward and backward step of the asked model on a few images of the table. Imports Keras.

``python -m cxrflow.training.smoke_step`` reads one line of JSON (``config``: fields of the TrainConfig, ``threads``) from
standard input and writes one with the result.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import resource
import sys
import threading
import time
from contextlib import closing

from cxrflow.distributed.device import pin

BATCH = 2
"""Images: the fewest that batch normalisation takes."""
KEPT = 2
"""Times that the values of all layers are held at most: for the way back, and while it computes."""


def run_step(config) -> dict:
    """Train one step, not compiled, which takes a fraction of the time; nothing is written.

    Returns ``loss`` (nats), ``backend``, ``peak_bytes`` of this process, which holds the
    framework, the model and the table's first batch, ``batch`` and ``image_bytes``, the size of all layers' values of
    one image. Raises whatever training would.
    """
    import keras
    import numpy as np

    from cxrflow.base.manifest import read_manifest
    from cxrflow.distributed.worker import Worker
    from cxrflow.training.augment import augment, find_policy
    from cxrflow.training.build_network import load_initial_weights, trained_network
    from cxrflow.training.feed import Feed
    from cxrflow.training.layer_walk import walk_layers
    from cxrflow.training.objectives import TASKS
    from cxrflow.training.optimizer import build_optimizer

    manifest = read_manifest(config.table)
    task = TASKS[manifest.task]
    model = trained_network(config, manifest, Worker())
    if config.init_weights:
        load_initial_weights(model, config, manifest)
    model.compile(optimizer=build_optimizer(config, Worker(), 1), loss=task.loss(manifest), run_eagerly=True)
    # Of a single shard, since a feed reads ahead.
    small = dataclasses.replace(manifest, shards=manifest.of_split("train")[:1])
    feed = Feed(config.table, small, "train", rank=0, workers=1, batch_size=BATCH, shuffle=False)
    with closing(feed.epoch()) as batches:
        batch = next(batches)
    pixels = augment(find_policy(config.augment), batch.pixels, batch.sample_ids, seed=config.seed, epoch=0)
    loss = float(model.train_on_batch(pixels, batch.targets, batch.weights, return_dict=True)["loss"])
    if not all(np.isfinite(loss) and np.isfinite(weights).all() for weights in model.get_weights()):
        raise ValueError(
            f"the loss of the step is {loss}, and after it some weights are not finite: is "
            f"--learning-rate {config.learning_rate:g} too high?"
        )
    return {
        "loss": loss,
        "backend": keras.backend.backend(),
        "batch": BATCH,
        "weight_bytes": 4 * model.count_params(),
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "image_bytes": KEPT
        * sum(
            (2 if "16" in layer.compute_dtype else 4) * math.prod(tensor.shape[1:])
            for layer in walk_layers(model)
            for tensor in keras.tree.flatten(layer.output)
        ),
    }


def load_framework(launcher: str, threads: int, device: str) -> int:
    """Load what the launcher's workers load, in their order; returns the GPUs that a worker sees, 0 where it uses none. Raises
    where it cannot be: a Horovod that was built for another TensorFlow only shows here."""
    if launcher in ("horovod", "horovodrunner"):
        import horovod.tensorflow as hvd

        hvd.init()
        hvd.shutdown()
    if launcher == "torch":
        import torch.distributed as dist

        if not dist.is_gloo_available():
            raise ImportError("this torch comes without gloo, by which its workers exchange on CPUs")
    if os.environ["KERAS_BACKEND"] == "torch":
        import torch

        torch.set_num_threads(threads)
    elif os.environ["KERAS_BACKEND"] == "tensorflow":
        import tensorflow as tf

        tf.config.threading.set_intra_op_parallelism_threads(threads)
        tf.config.threading.set_inter_op_parallelism_threads(1)
    return pin(os.environ["KERAS_BACKEND"], device, 0)


def _end_with_starter() -> None:
    """End this process as soon as the one that started it is gone, which closes standard input."""
    sys.stdin.read()
    os._exit(1)


def main() -> None:
    from cxrflow.base.config import TrainConfig

    started = time.monotonic()
    asked = json.loads(sys.stdin.readline())
    config = TrainConfig(**asked["config"])
    threading.Thread(target=_end_with_starter, daemon=True).start()
    gpus = load_framework(config.launcher, asked["threads"], config.device)
    from cxrflow.training.keras_patches import prepare_torch_process

    prepare_torch_process()
    print(json.dumps({**run_step(config), "gpus": gpus, "own_seconds": time.monotonic() - started}), flush=True)
    # Neither framework's threads have anything left to do, and taking them down takes time, or aborts the process.
    sys.stderr.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
