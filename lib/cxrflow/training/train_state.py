"""What changes while training: the network, its optimizer and the average of its weights. Imports Keras."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import keras
import numpy as np

from cxrflow.base.config import TrainConfig
from cxrflow.base.manifest import Manifest
from cxrflow.distributed.worker import Worker
from cxrflow.training.batch_norm import Statistics, combine_statistics, set_statistics
from cxrflow.training.build_network import load_initial_weights, saved_network, trained_network
from cxrflow.training.checkpoint import Checkpoint
from cxrflow.training.keras_patches import refresh_derived_state
from cxrflow.training.model_state import capture, restore
from cxrflow.training.objectives import TASKS
from cxrflow.training.optimizer import build_optimizer
from cxrflow.training.weight_average import WeightAverage


class TrainState:
    """The network in training, compiled with its optimizer, and the exponential moving average (EMA) of its weights."""

    def __init__(self, config: TrainConfig, manifest: Manifest, worker: Worker, steps: int, start: Checkpoint):
        """Build everything and bring it to where training starts. Collective.

        Args:
            config: The training configuration.
            manifest: The table's.
            worker: This worker.
            steps: Steps of a whole epoch.
            start: Where training starts; the arrays are rank 0's, those of the others are ignored.
        """
        self._config, self._manifest, self._worker = config, manifest, worker
        state = start.state
        # How far the learning rate schedule is ahead of the optimizer's own count of steps; see build_optimizer.
        step_offset = state["epoch"] * steps + state["samples"] / (worker.size * config.batch_size) - state["steps"]
        self.model = trained_network(config, manifest, worker)
        self.model.compile(
            optimizer=build_optimizer(config, worker, steps, step_offset),
            loss=TASKS[manifest.task].loss(manifest),
            jit_compile=False,  # XLA cannot compile Horovod's operations
        )
        # If TensorFlow made the optimizer's variables in the first step, it would trace that step twice.
        self.model.optimizer.build(self.model.trainable_variables)
        self.average = WeightAverage(self.model, config.ema_epochs, steps)
        self._restore(start)

    def _restore(self, start: Checkpoint) -> None:
        """Give every worker rank 0's weights and, after a resume, all other state."""
        if start.is_resumed:
            restore(self.model, self.average, start.arrays, self._worker)
        else:
            if self._worker.rank == 0:
                load_initial_weights(self.model, self._config, self._manifest)
            self.model.set_weights(
                self._worker.broadcast(self.model.get_weights(), [weight.path for weight in self.model.weights])
            )
        refresh_derived_state(self.model)
        self.average.begin(start.state["steps"])

    @property
    def steps(self) -> int:
        """Steps that the optimizer has counted."""
        return int(keras.ops.convert_to_numpy(self.model.optimizer.iterations))

    @property
    def learning_rate(self) -> float:
        """The learning rate of the next step."""
        return float(keras.ops.convert_to_numpy(self.model.optimizer.learning_rate))

    def arrays(self, combined: bool) -> dict[str, np.ndarray]:
        """Return all variables as NumPy arrays for a checkpoint. Collective.

        ``combined``: whether ``combine_statistics`` ran after the last step. If not, the arrays have the combined
        statistics of batch normalisation, and the model keeps its own.
        """
        with nullcontext() if combined else self._combined():
            return capture(self.model, self.average, self._worker)

    def combine_statistics(self) -> list[Statistics]:
        """Set the statistics of batch normalisation, of the model and of its average, to those of all workers' images.

        Returns what this worker had before. Collective.
        """
        own = [combine_statistics(self.model, self._worker)]
        if self.average.variables:
            with self.average.applied():
                own.append(combine_statistics(self.model, self._worker))
        return own

    @contextmanager
    def _combined(self) -> Iterator[None]:
        """Combine the statistics of batch normalisation for the length of the block only. Collective.

        A clock decides when a checkpoint is due. It must not change what training computes afterwards.
        """
        own, *averaged = self.combine_statistics()
        yield
        for statistics in averaged:
            with self.average.applied():
                set_statistics(self.model, statistics)
        set_statistics(self.model, own)

    def averaged_network(self) -> keras.Model:
        """Build the network that is saved, with the averaged weights, in float32.

        The optimizer and layers of the trained model need this package. The saved model is a separate one, so its file
        loads on every backend without our classes.
        """
        network = saved_network(self._config, self._manifest)
        with self.average.applied():
            network.set_weights(self.model.get_weights())
        refresh_derived_state(network)
        return network
