"""The variables of a model and its optimizer as NumPy arrays, the same on every backend. Imports Keras."""

from __future__ import annotations

import os

import keras
import numpy as np

from cxrflow.base.errors import UserError
from cxrflow.distributed.worker import Worker
from cxrflow.training.weight_average import WeightAverage


def capture(model, average: WeightAverage, worker: Worker) -> dict[str, np.ndarray]:
    """Copy weights, their average, the optimizer's variables and every worker's random states (dropout). Collective.

    Returns ``model/0000``, ``average/0000``, ``optimizer/0000`` and so on, of this worker, and the random states as
    ``seeds``, ``torch`` and ``torch_gpu``, (workers, ...).
    """
    arrays = {
        f"{kind}/{index:04d}": keras.ops.convert_to_numpy(variable)
        for kind, variables in _groups(model, average).items()
        for index, variable in enumerate(variables)
    }
    for name, state in _random_states(model).items():
        arrays[name] = worker.all_gather(state[None], name)
    return arrays


def restore(model, average: WeightAverage, arrays: dict[str, np.ndarray], worker: Worker) -> None:
    """Set all workers' variables to rank 0's ``arrays``; those of other workers are ignored. Collective.

    The arrays may come from another backend, whose variables have other dtypes: TensorFlow counts steps in int64, torch
    in int32. Raises UserError on rank 0 if the arrays do not fit the model.
    """
    for kind, variables in _groups(model, average).items():
        names = [f"{kind}/{index:04d}" for index in range(len(variables))]
        values = [keras.ops.convert_to_numpy(variable) for variable in variables]
        if worker.rank == 0:
            values = [
                _checked(arrays.get(name), variable, own)
                for name, variable, own in zip(names, variables, values, strict=True)
            ]
        for variable, value in zip(variables, worker.broadcast(values, names), strict=True):
            variable.assign(value)
    for name, own in _random_states(model).items():
        stored = arrays.get(name, own[None][:0])
        if (stored.shape[1:], stored.dtype) != (own.shape, own.dtype):
            stored = own[None][:0]
        count = int(worker.broadcast([np.array([len(stored)])], [f"number of {name}"])[0][0])
        if not count:  # the run started on another backend or machine, which has other states
            continue
        if worker.rank != 0:
            stored = np.zeros((count, *own.shape), own.dtype)
        states = worker.broadcast([stored], [name])[0]
        if worker.rank < count:  # with more workers than before, the new ones keep their own states
            _set_random_state(model, name, states[worker.rank])


def _groups(model, average: WeightAverage) -> dict[str, list]:
    model.optimizer.build(model.trainable_variables)  # does nothing the second time
    return {"model": model.weights, "average": average.variables, "optimizer": model.optimizer.variables}


def _random_states(model) -> dict[str, np.ndarray]:
    """What dropout draws from next.

    ``seeds``: Keras' own, int64 (number, 2). ``torch`` and ``torch_gpu``: torch's global states, uint8.
    """
    states = {}
    if seeds := _seeds(model):
        states["seeds"] = np.stack([keras.ops.convert_to_numpy(seed).astype(np.int64) for seed in seeds])
    if keras.backend.backend() == "torch":  # there Keras' dropout draws from torch's state, whatever its own seeds
        import torch

        states["torch"] = torch.get_rng_state().numpy()
        if os.environ.get("KERAS_TORCH_DEVICE") == "cuda":  # set by distributed.device, the same on all workers
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


def _checked(value: np.ndarray | None, variable, own: np.ndarray) -> np.ndarray:
    """The stored value of a variable, in the dtype of its ``own`` value here. Raises UserError if it does not fit."""
    if value is None or value.shape != tuple(variable.shape):
        found = "no such array" if value is None else f"shape {value.shape}"
        raise UserError(
            f"--run: expected {variable.path} of shape {tuple(variable.shape)} in the checkpoint, got {found}; if the "
            "network has changed since, train again with --if-exists overwrite"
        )
    cast = value.astype(own.dtype)
    if own.dtype.kind in "iu" and not np.array_equal(cast, value):
        raise UserError(
            f"--run: expected {variable.path} in the checkpoint to fit in {own.dtype}, got {value}; train again with "
            "--if-exists overwrite"
        )
    return cast
