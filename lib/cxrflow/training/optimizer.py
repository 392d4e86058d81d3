"""AdamW whose gradients are averaged over the workers, with its learning rate schedule. Imports Keras."""

from __future__ import annotations

import keras

from cxrflow.base.config import TrainConfig
from cxrflow.distributed.worker import Worker
from cxrflow.training.keras_patches import adamw_class, averaging_optimizer

UNDECAYED = ["bias", "gamma", "beta"]
"""Names of weights without weight decay: they are few, and pulling an offset or scale towards 0 does not help
(He et al. 2019, Bag of tricks)."""


def build_optimizer(
    config: TrainConfig, worker: Worker, steps_per_epoch: int, step_offset: float = 0.0
) -> keras.optimizers.Optimizer:
    """Build AdamW (Loshchilov and Hutter 2019) with linear warm-up and then cosine decay to zero.

    The peak learning rate is the one of a single worker times a factor that ``--lr-scaling`` chooses: the square root
    of the number of workers (Malladi et al. 2022, for Adam), the number itself (Goyal et al. 2017, for SGD), or 1.

    With mixed_float16 Keras scales the loss (Micikevicius et al. 2018). A step whose gradients overflow is skipped, and
    the scale is halved.

    Args:
        config: The training configuration.
        worker: Averages the gradients of all workers.
        steps_per_epoch: Steps of a whole epoch with the current number of workers.
        step_offset: Steps to add to the optimizer's own count in the schedule. It is not 0 after a run resumed with
            another number of workers: the schedule follows the samples, while the optimizer's moments need its count.
    """
    factor = {"sqrt": worker.size**0.5, "linear": worker.size, "none": 1}[config.lr_scaling]
    peak = config.learning_rate * factor
    total = config.epochs * steps_per_epoch
    warmup = min(round(config.warmup_epochs * steps_per_epoch), total - 1)
    schedule = keras.optimizers.schedules.CosineDecay(
        peak / 100 if warmup else peak,
        max(1, total - warmup),
        warmup_target=peak if warmup else None,
        warmup_steps=warmup,
    )
    rate = _ShiftedSchedule(schedule, step_offset)
    scaled = config.precision == "mixed_float16"
    average = worker.all_reduce_mean_gradients
    adamw = adamw_class() if scaled else averaging_optimizer(adamw_class(), average)
    optimizer = adamw(learning_rate=rate, weight_decay=config.weight_decay)
    optimizer.exclude_from_weight_decay(var_names=UNDECAYED)
    # Average before the test for overflow: then all workers skip the same steps and none misses an all-reduce.
    return averaging_optimizer(keras.optimizers.LossScaleOptimizer, average)(optimizer) if scaled else optimizer


class _ShiftedSchedule(keras.optimizers.schedules.LearningRateSchedule):
    """Another schedule, some steps later."""

    def __init__(self, schedule, steps: float):
        self._schedule, self._steps = schedule, steps

    def __call__(self, step):
        return self._schedule(keras.ops.cast(step, "float32") + self._steps)
