"""The variables of a model and its optimizer as NumPy arrays, the same on either backend. Imports Keras."""

from __future__ import annotations

import os

import keras
import numpy as np

from cxrflow.base.errors import UserError
from cxrflow.distributed.worker import Worker
from cxrflow.training.weight_average import WeightAverage


def capture(model, average: WeightAverage, worker: Worker) -> dict[str, np.ndarray]:
    """Weights and their average, the optimizer's variables, and every worker's random states (dropout); collective. Weights
    are this worker's own."""
    arrays = {
        f"{kind}/{number:04d}": keras.ops.convert_to_numpy(variable)
        for kind, variables in _groups(model, average).items()
        for number, variable in enumerate(variables)
    }
    for name, state in _random_states(model).items():
        arrays[name] = worker.all_gather(state[None])  # (workers, ...)
    return arrays


def restore(model, average: WeightAverage, arrays: dict[str, np.ndarray], worker: Worker) -> None:
    """Give all workers what rank 0's ``arrays`` hold; collective. The others' are ignored.

    Raises UserError, on rank 0, where they are not of this model.
    """
    for kind, variables in _groups(model, average).items():
        mine = [keras.ops.convert_to_numpy(variable) for variable in variables]
        if worker.rank == 0:
            mine = [_like(arrays.get(f"{kind}/{number:04d}"), variable) for number, variable in enumerate(variables)]
        for variable, value in zip(variables, worker.broadcast(mine), strict=True):
            variable.assign(value)
    for name, mine in _random_states(model).items():
        stored = arrays.get(name, mine[None][:0])
        count = int(worker.broadcast([np.array([len(stored)])])[0][0])
        if not count:  # the run began on another backend, which keeps other states
            continue
        if worker.rank != 0:
            stored = np.zeros((count, *mine.shape), mine.dtype)
        states = worker.broadcast([stored])[0]
        if worker.rank < count:  # more workers than before: the new ones have states of their own
            _set_random_state(model, name, states[worker.rank])


def _groups(model, average: WeightAverage) -> dict[str, list]:
    model.optimizer.build(model.trainable_variables)  # does nothing the second time
    return {"model": model.weights, "average": average.variables, "optimizer": model.optimizer.variables}


def _random_states(model) -> dict[str, np.ndarray]:
    """What dropout draws from next: Keras' own seeds, int64 (number, 2), and with torch its global state, and its GPU's, uint8."""
    states = {}
    if seeds := _seeds(model):
        states["seeds"] = np.stack([keras.ops.convert_to_numpy(seed).astype(np.int64) for seed in seeds])
    if keras.backend.backend() == "torch":  # Keras' dropout draws from it there, whatever its own seeds
        import torch

        states["torch"] = torch.get_rng_state().numpy()
        if os.environ.get("KERAS_TORCH_DEVICE") == "cuda":  # as launch.device says, the same on all workers
            states["torch_gpu"] = torch.cuda.get_rng_state().numpy()
    return states


def _set_random_state(model, name: str, state: np.ndarray) -> None:
    if name != "seeds":
        import torch

        {"torch": torch.set_rng_state, "torch_gpu": torch.cuda.set_rng_state}[name](torch.tensor(state))
        return
    for seed, value in zip(_seeds(model), state, strict=True):
        seed.assign(value.astype(keras.ops.convert_to_numpy(seed).dtype))


def _seeds(model) -> list:
    weights = {id(variable) for variable in model.weights}
    return [variable for variable in model.variables if id(variable) not in weights]


def _like(value: np.ndarray | None, variable) -> np.ndarray:
    if value is None or value.shape != tuple(variable.shape):
        found = "nothing" if value is None else f"the shape {value.shape}"
        raise UserError(
            f"--run: expected {variable.path} of the shape {tuple(variable.shape)} in the checkpoint, "
            f"found {found}; was the network changed since? Train anew with --if-exists overwrite"
        )
    return value
