"""Checkpoints: all that a training needs to go on, as NumPy arrays and plain data, whatever the backend.

``RUN/checkpoints/EPOCH-SAMPLES.npz`` is named after how many epochs were finished and how many samples of the next
were fed, so the last name is the newest. It holds an entry ``state`` (JSON) beside the arrays, and nothing pickled.
"""

from __future__ import annotations

import hashlib
import io
import json
import time
import zipfile
from dataclasses import dataclass

import numpy as np

from cxrflow.base import storage
from cxrflow.base.config import TrainConfig, to_dict
from cxrflow.base.errors import UserError
from cxrflow.base.manifest import Manifest, RunDirectory
from cxrflow.distributed.worker import Worker

VERSION = 2
KEEP = 2
"""Newest checkpoints that stay, besides that of the best epoch."""
LOOK_STEPS = 20
"""Steps between two looks at rank 0's clock, at most: a look is an exchange among the workers."""

# What may differ between a run and its continuation; whatever else TrainConfig has decides what the run computes.
FREE = {
    "table",
    "run",
    "launcher",
    "workers",
    "batch_size",
    "device",
    "feed_memory",
    "cache",
    "cache_size",
    "checkpoint_seconds",
    "max_restarts",
    "min_workers",
    "hang_seconds",
    "tensorboard",
    "mlflow",
    "if_exists",
    "preflight_only",
}


@dataclass(frozen=True)
class Checkpoint:
    state: dict
    """Plain data: ``version``, ``epoch`` (finished), ``samples`` (fed of the next), ``config``, ``table`` (digest),
    ``feed`` (streams and shuffle_rows), and what ``fit`` adds."""
    arrays: dict[str, np.ndarray]


def write_checkpoint(run: RunDirectory, checkpoint: Checkpoint) -> None:
    """Write a checkpoint whole or not at all, and remove all but the ``KEEP`` newest and that of the best epoch; also later ones,
    which could not be read, or training would have gone on from there.

    Raises OSError where it cannot be written; the older ones are there then.
    """
    state = checkpoint.state
    data = io.BytesIO()
    np.savez(data, state=np.frombuffer(json.dumps(state, allow_nan=False).encode(), np.uint8), **checkpoint.arrays)
    now = storage.join(run.checkpoints, _name(state["epoch"], state["samples"]))
    storage.write_bytes(now, data.getvalue())
    best = _name(state["best"]["epoch"], 0) if state["best"] else None
    names = {url.rsplit("/", 1)[1]: url for url in storage.files(run.checkpoints, ".npz")}
    readable = sorted(name for name in names if name <= now.rsplit("/", 1)[1])
    for name in names.keys() - {best, *readable[-KEEP:]}:
        storage.remove(names[name])


def _name(epoch: int, samples: int) -> str:
    return f"{epoch:05d}-{samples:012d}.npz"


def read_checkpoint(run: RunDirectory, arrays: bool = True) -> Checkpoint:
    """The newest checkpoint that can be read; without ``arrays``, only its state is. Raises UserError where there is
    none, or one of another version."""
    for url in reversed(storage.files(run.checkpoints, ".npz")):
        try:
            # Of the state alone, which lies among the arrays, only some blocks are read.
            with (
                io.BytesIO(storage.read_bytes(url)) if arrays else storage.open_file(url) as file,
                np.load(file, allow_pickle=False) as content,
            ):
                state = json.loads(content["state"].tobytes())
                found = {name: content[name] for name in content.files if name != "state"} if arrays else {}
        except (ValueError, KeyError, EOFError, zipfile.BadZipFile):
            continue  # half written, on a store that cannot write at once: the one before it is whole
        if state.get("version") != VERSION:
            raise UserError(
                f"{url}: expected a checkpoint of version {VERSION}, got {state.get('version')}; "
                "train again, with --if-exists overwrite"
            )
        return Checkpoint(state, found)
    raise UserError(
        f"--run: expected a checkpoint that can be read in {run.checkpoints!r}, found none; train anew with --if-exists overwrite"
    )


def has_checkpoint(run: RunDirectory) -> bool:
    return bool(storage.files(run.checkpoints, ".npz"))


def goes_on(run: RunDirectory, config: TrainConfig) -> bool:
    """Whether training would go on with what the run directory holds, instead of beginning."""
    return config.if_exists == "resume" and has_checkpoint(run)


def table_digest(manifest: Manifest) -> str:
    """A hash of what training reads of a table: which table it is, how its pixels were made, and its shards of train and
    val with their labels."""
    shards = [
        (
            shard.path,
            shard.rows,
            shard.checksum,
            shard.labels | {f"?{name}": rows for name, rows in shard.unknown.items()},
        )
        for split in ("train", "val")
        for shard in manifest.of_split(split)
    ]
    content = [manifest.table_id, manifest.labels, manifest.recipe(), shards]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def check_resumable(state: dict, config: TrainConfig, manifest: Manifest) -> None:
    """Raise UserError where a run would not go on as what it was."""
    if state["table"] != table_digest(manifest):
        raise UserError(
            f"--table: expected the table that the run was trained on, but {config.table!r} holds other "
            "images now; name that table or another --run, or train anew with --if-exists overwrite"
        )
    now = to_dict(config)
    for name in sorted(now.keys() - FREE):
        if (was := state["config"].get(name)) != now[name]:
            flag = "--" + name.replace("_", "-")
            raise UserError(
                f"{flag}: expected {was}, with which the run began, got {now[name]}; go on with "
                f"{flag} {was}, name another --run, or train anew with --if-exists overwrite"
            )


def share_state(state: dict | None, worker: Worker) -> dict:
    """Rank 0's state on every worker; collective. The others' is ignored."""
    data = np.frombuffer(json.dumps(state).encode(), np.uint8)
    length = int(worker.broadcast([np.array([len(data)])])[0][0])
    mine = data if worker.rank == 0 else np.zeros(length, np.uint8)
    return json.loads(worker.broadcast([mine])[0].tobytes())


GO_ON, SAVE, STOP = range(3)


class Clock:
    """Tells all workers at the same step that it is time for a checkpoint, or for the end: rank 0's watch decides."""

    def __init__(self, seconds: float, worker: Worker, steps: int):
        """``steps``: of an epoch."""
        self._seconds, self._worker = seconds, worker
        self._every = min(LOOK_STEPS, max(1, steps // LOOK_STEPS))
        self._last = time.monotonic()

    def due(self, step: int) -> int:
        """What to do after this step: GO_ON, SAVE a checkpoint, or save one and STOP; collective."""
        if (step + 1) % self._every:
            return GO_ON
        word = self._agreed(SAVE if time.monotonic() - self._last >= self._seconds else GO_ON)
        if word == SAVE:
            self._last = time.monotonic()
        return word

    def stops(self) -> bool:
        """Whether it is time for the end, at a moment that has its checkpoint already; collective."""
        return self._agreed(GO_ON) == STOP

    def _agreed(self, word: int) -> int:
        word = STOP if self._worker.stop_requested() else word
        return int(self._worker.broadcast([np.array([word])])[0][0])
