"""The variables of a model and its optimizer as NumPy arrays, the same on either backend. Imports Keras."""

from __future__ import annotations

import keras
import numpy as np

from cxrflow.errors import UserError
from cxrflow.launch.worker import Worker


def capture(model, worker: Worker) -> dict[str, np.ndarray]:
    """Weights, the optimizer's variables, and every worker's random states (dropout); collective. Weights are this
    worker's own."""
    arrays = {f"{kind}/{number:04d}": keras.ops.convert_to_numpy(variable)
              for kind, variables in _groups(model).items() for number, variable in enumerate(variables)}
    seeds = [keras.ops.convert_to_numpy(seed).astype(np.int64) for seed in _seeds(model)]
    if seeds:
        arrays["seeds"] = worker.gather(np.stack(seeds)[None])  # int64 (workers, number of states, 2)
    return arrays


def restore(model, arrays: dict[str, np.ndarray], worker: Worker) -> None:
    """Give all workers what rank 0's ``arrays`` hold; collective. The others' are ignored.

    Raises UserError, on rank 0, where they are not of this model.
    """
    for kind, variables in _groups(model).items():
        mine = [keras.ops.convert_to_numpy(variable) for variable in variables]
        if worker.rank == 0:
            mine = [_like(arrays.get(f"{kind}/{number:04d}"), variable) for number, variable in enumerate(variables)]
        for variable, value in zip(variables, worker.broadcast(mine), strict=True):
            variable.assign(value)
    states = _seeds(model)
    if not states:
        return
    count = int(worker.broadcast([np.array([len(arrays["seeds"]) if worker.rank == 0 else 0])])[0][0])
    shape = (count, len(states), 2)
    seeds = worker.broadcast([arrays["seeds"] if worker.rank == 0 else np.zeros(shape, np.int64)])[0]
    if worker.rank < count:  # more workers than before: the new ones have seeds of their own
        for state, value in zip(states, seeds[worker.rank], strict=True):
            state.assign(value.astype(keras.ops.convert_to_numpy(state).dtype))


def _groups(model) -> dict[str, list]:
    model.optimizer.build(model.trainable_variables)  # does nothing the second time
    return {"model": model.weights, "optimizer": model.optimizer.variables}


def _seeds(model) -> list:
    weights = {id(variable) for variable in model.weights}
    return [variable for variable in model.variables if id(variable) not in weights]


def _like(value: np.ndarray | None, variable) -> np.ndarray:
    if value is None or value.shape != tuple(variable.shape):
        found = "nothing" if value is None else f"the shape {value.shape}"
        raise UserError(f"--resume: expected {variable.path} of the shape {tuple(variable.shape)} in the checkpoint, "
                        f"found {found}; was the network changed since? Train anew with --overwrite")
    return value
