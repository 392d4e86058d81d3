"""Train one step of the chosen model on two images of the table, before workers start. Imports Keras.

``python -m cxrflow.training.smoke_step`` reads one line of JSON (``config``: fields of TrainConfig, ``threads``) from
standard input and prints one with the result. It ends as soon as standard input is closed.
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

from cxrflow.base.config import TrainConfig
from cxrflow.base.freed_memory import keep_freed_memory
from cxrflow.base.keras_import import import_keras
from cxrflow.distributed.device import pin

BATCH = 2
"""Images in the step: the fewest with which batch normalisation can train."""
COPIES = 2
"""How many times memory may hold the outputs of all layers: for the backward pass, and while it computes."""


def run_step(config: TrainConfig) -> dict:
    """Train one step without compiling it, which takes a fraction of the time. Writes nothing.

    Returns:
        ``loss`` (nats), ``backend``, ``batch`` (images), ``weight_bytes``, ``image_bytes`` (size of all layers' outputs
        for one image), and ``peak_bytes`` of this process, which holds the framework, the model and the first shard.

    Raises:
        Exception: Whatever training would raise; ValueError if the loss or a weight is not finite.
    """
    import keras
    import numpy as np

    from cxrflow.base.keras_settings import set_own_settings
    from cxrflow.base.manifest import read_manifest
    from cxrflow.distributed.worker import Worker
    from cxrflow.training.augment import augment, find_policy
    from cxrflow.training.build_network import load_initial_weights, trained_network
    from cxrflow.training.feed import Feed
    from cxrflow.training.layer_walk import walk_layers
    from cxrflow.training.objectives import TASKS
    from cxrflow.training.optimizer import build_optimizer

    set_own_settings()
    keras.utils.set_random_seed(config.seed)
    manifest = read_manifest(config.table, config.generation)
    task = TASKS[manifest.task]
    model = trained_network(config, manifest, Worker())
    load_initial_weights(model, config, manifest)
    model.compile(optimizer=build_optimizer(config, Worker(), 1), loss=task.loss(manifest), run_eagerly=True)
    # One shard only, because a feed reads ahead.
    small = dataclasses.replace(manifest, shards=manifest.of_split("train")[:1])
    feed = Feed(config.table, small, "train", rank=0, workers=1, batch_size=BATCH, shuffle=False)
    with closing(feed.epoch()) as batches:
        batch = next(batches)
    pixels = augment(find_policy(config.augment), batch.pixels, batch.sample_ids, seed=config.seed, epoch=0)
    loss = float(model.train_on_batch(pixels, batch.targets, batch.weights, return_dict=True)["loss"])
    if not all(np.isfinite(loss) and np.isfinite(weights).all() for weights in model.get_weights()):
        raise ValueError(
            f"--learning-rate: expected finite weights after one step, got a loss of {loss} and weights that are not "
            f"finite; lower --learning-rate (it is {config.learning_rate:g})"
        )
    return {
        "loss": loss,
        "backend": keras.backend.backend(),
        "batch": BATCH,
        "weight_bytes": 4 * model.count_params(),
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "image_bytes": COPIES
        * sum(
            (2 if "16" in layer.compute_dtype else 4) * math.prod(tensor.shape[1:])
            for layer in walk_layers(model)
            for tensor in keras.tree.flatten(layer.output)
        ),
    }


def load_framework(launcher: str, threads: int, device: str) -> int:
    """Load what the launcher's workers load, in the same order.

    Returns the number of GPUs that a worker sees, 0 if it uses none. Raises whatever prevents loading: a Horovod that
    was built for another TensorFlow fails only here.
    """
    import_keras()
    if launcher in ("horovod", "horovodrunner"):
        import horovod.tensorflow as hvd

        hvd.init()
        hvd.shutdown()
    if launcher == "torch":
        import torch.distributed as dist

        if not dist.is_gloo_available():
            raise ImportError(
                "--launcher torch: expected a torch with gloo, through which workers communicate, got none"
            )
    if os.environ["KERAS_BACKEND"] == "torch":
        import torch

        torch.set_num_threads(threads)
    elif os.environ["KERAS_BACKEND"] == "tensorflow":
        import tensorflow as tf

        tf.config.threading.set_intra_op_parallelism_threads(threads)
        tf.config.threading.set_inter_op_parallelism_threads(1)
    return pin(os.environ["KERAS_BACKEND"], device, 0)


def _end_with_parent() -> None:
    """End this process as soon as its parent closes standard input or is gone."""
    sys.stdin.read()
    os._exit(1)


def main() -> None:
    """Read the request, train the step, print the result."""
    started = time.monotonic()
    request = json.loads(sys.stdin.readline())
    config = TrainConfig(**request["config"])
    threading.Thread(target=_end_with_parent, daemon=True).start()
    gpus = load_framework(config.launcher, request["threads"], config.device)
    from cxrflow.training.keras_patches import hide_tensorflow

    hide_tensorflow()
    keep_freed_memory()
    print(json.dumps({**run_step(config), "gpus": gpus, "own_seconds": time.monotonic() - started}), flush=True)
    # Skip the frameworks' own clean-up: it takes time, or aborts the process.
    sys.stderr.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
