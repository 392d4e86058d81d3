"""AdamW whose gradients are averaged over the workers, and its learning rate. Imports Keras."""

from __future__ import annotations

import keras

from cxrflow.base.config import TrainConfig
from cxrflow.distributed.worker import Worker

UNDECAYED = ["bias", "gamma", "beta"]
"""Weights that are few and set a level, which to pull towards 0 has no use (He et al. 2019)."""


def build_optimizer(
    config: TrainConfig, worker: Worker, steps_per_epoch: int, ahead: float = 0.0
) -> keras.optimizers.Optimizer:
    """AdamW (Loshchilov and Hutter 2019) with warm-up and then cosine decay to zero.

    The peak is the learning rate of one worker times the growth that ``lr_scaling`` names: the square root of the
    number of workers (Malladi et al. 2022, for Adam), the number itself (Goyal et al. 2017, for SGD), or 1.

    ``ahead``: how many steps of this number of workers the run is further than its optimizer has counted. It is not 0
    where a run goes on with another number of workers: the rate follows the samples, and the moments their own count.

    With mixed_float16 the loss is scaled, as Keras does it (Micikevicius et al. 2018): a step whose gradients overflow is left
    out, and the scale halved.
    """
    growth = {"sqrt": worker.size**0.5, "linear": worker.size, "none": 1}[config.lr_scaling]
    peak = config.learning_rate * growth
    total = config.epochs * steps_per_epoch
    warmup = min(round(config.warmup_epochs * steps_per_epoch), total - 1)
    schedule = keras.optimizers.schedules.CosineDecay(
        peak / 100 if warmup else peak,
        max(1, total - warmup),
        warmup_target=peak if warmup else None,
        warmup_steps=warmup,
    )
    rate = _Ahead(schedule, ahead)
    scaled = config.precision == "mixed_float16"
    # With torch, Keras makes another class of its AdamW, which updates all variables at once, but not of a subclass: that would
    # update one after the other, which takes a tenth of a step longer.
    adamw = type(keras.optimizers.AdamW())
    optimizer = (adamw if scaled else _averaging(adamw, worker))(learning_rate=rate, weight_decay=config.weight_decay)
    optimizer.exclude_from_weight_decay(var_names=UNDECAYED)
    # Averaged before it is seen whether they are finite: so all workers leave out the same steps, and none an exchange.
    return _averaging(keras.optimizers.LossScaleOptimizer, worker)(optimizer) if scaled else optimizer


class _Ahead(keras.optimizers.schedules.LearningRateSchedule):
    """Another schedule, some steps further on."""

    def __init__(self, schedule, steps: float):
        self._schedule, self._steps = schedule, steps

    def __call__(self, step):
        return self._schedule(keras.ops.cast(step, "float32") + self._steps)


def _averaging(kind: type[keras.optimizers.Optimizer], worker: Worker) -> type[keras.optimizers.Optimizer]:
    # Horovod's own wrapper is for Keras 2. In Keras 3 every way to train ends in the optimizer's apply.
    class Averaging(kind):
        def apply(self, grads, trainable_variables=None):
            return super().apply(worker.all_reduce_mean_gradients(list(grads)), trainable_variables)

    return Averaging
