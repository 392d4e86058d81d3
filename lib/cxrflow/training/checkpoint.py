"""Checkpoints: everything a training needs to resume, as NumPy arrays and plain data, whatever the backend.

A checkpoint is a file ``RUN/checkpoints/EPOCH-SAMPLES.npz``. EPOCH is the number of finished epochs, and SAMPLES is the
number of samples fed in the next one, so the newest checkpoint has the last name. The file contains the arrays and an
entry ``state`` (JSON). Nothing is pickled.
"""

from __future__ import annotations

import enum
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
from cxrflow.base.generations import older_generations
from cxrflow.base.manifest import Manifest, RunDirectory, read_manifest
from cxrflow.distributed.worker import Worker

VERSION = 3
KEEP = 2
"""Number of newest checkpoints that stay, besides that of the best epoch."""
MAX_CLOCK_STEPS = 20
"""Largest number of steps between two checks of rank 0's clock. Each check is a broadcast to all workers."""

CHANGEABLE = {
    "table",
    "generation",
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
"""Fields of TrainConfig that may change when a run resumes. All others decide what the run computes."""


@dataclass(frozen=True)
class Checkpoint:
    """The state of a training, or of one that has not started."""

    state: dict
    """Plain data: ``version``, ``epoch`` (finished), ``samples`` (fed of the next), ``steps`` (of the optimizer),
    ``loss`` (sum over those samples), ``epochs`` and ``best`` (``History``), ``saved`` (``ModelKeeper.record``),
    ``config``, ``table`` (digest), ``feed`` (streams and shuffle_rows)."""
    arrays: dict[str, np.ndarray]
    """``model_state.capture``, and inside an epoch ``fed``: ``SampleAudit.entries`` of all workers."""

    @property
    def is_resumed(self) -> bool:
        """Whether this was read from a file. Otherwise training starts from the beginning."""
        return "version" in self.state


def find_start(run: RunDirectory, config: TrainConfig, manifest: Manifest, worker: Worker) -> Checkpoint:
    """Return the newest checkpoint if the run resumes, or the beginning. Collective.

    Only rank 0 reads and has arrays; all workers have the state. Raises UserError as ``check_resumable`` does.
    """
    state = {"epoch": 0, "samples": 0, "steps": 0, "loss": 0.0, "epochs": [], "best": None, "saved": None}
    start = Checkpoint(state, {})
    if worker.rank == 0 and will_resume(run, config):
        start = read_checkpoint(run)
        check_resumable(start.state, config, manifest)
    return Checkpoint(_broadcast_json(start.state, worker), start.arrays)


def write_checkpoint(run: RunDirectory, checkpoint: Checkpoint) -> None:
    """Write a complete checkpoint or none, then remove older ones.

    The ``KEEP`` newest and that of the best epoch stay. Checkpoints with a later name are removed as well: they were
    not readable, or training would have resumed from them.

    Raises:
        OSError: If it cannot be written. The older ones are then still there.
    """
    state = checkpoint.state
    data = io.BytesIO()
    np.savez(data, state=np.frombuffer(json.dumps(state, allow_nan=False).encode(), np.uint8), **checkpoint.arrays)
    name = _name(state["epoch"], state["samples"])
    storage.write_bytes(storage.join(run.checkpoints, name), data.getvalue())
    best = _name(state["best"]["epoch"], 0) if state["best"] else None
    urls = {url.rsplit("/", 1)[1]: url for url in storage.files(run.checkpoints, ".npz")}
    readable = sorted(other for other in urls if other <= name)
    for other in urls.keys() - {best, *readable[-KEEP:]}:
        storage.remove(urls[other])


def _name(epoch: int, samples: int) -> str:
    return f"{epoch:05d}-{samples:012d}.npz"


def read_checkpoint(run: RunDirectory, arrays: bool = True) -> Checkpoint:
    """Read the newest checkpoint that is complete.

    Args:
        run: The run directory.
        arrays: Whether to read the arrays, or only the state.

    Raises:
        UserError: If there is none, or if it has another version.
    """
    for url in reversed(storage.files(run.checkpoints, ".npz")):
        try:
            # The state is one entry of a zip file, so without the arrays only some blocks are read.
            with (
                io.BytesIO(storage.read_bytes(url)) if arrays else storage.open_file(url) as file,
                np.load(file, allow_pickle=False) as content,
            ):
                state = json.loads(content["state"].tobytes())
                found = {name: content[name] for name in content.files if name != "state"} if arrays else {}
        except (ValueError, KeyError, EOFError, zipfile.BadZipFile):
            continue  # cut off, on a store without atomic writes; the one before it is complete
        if state.get("version") != VERSION:
            raise UserError(
                f"--run: expected a checkpoint of version {VERSION}, got version {state.get('version')} in {url!r}; "
                "train again with --if-exists overwrite"
            )
        return Checkpoint(state, found)
    raise UserError(
        f"--run: expected a readable checkpoint in {run.checkpoints!r}, got none; train again with --if-exists "
        "overwrite"
    )


def has_checkpoint(run: RunDirectory) -> bool:
    """Whether the run directory has any checkpoint, readable or not."""
    return bool(storage.files(run.checkpoints, ".npz"))


def will_resume(run: RunDirectory, config: TrainConfig) -> bool:
    """Whether training would resume the run in the directory instead of starting a new one."""
    return config.if_exists == "resume" and has_checkpoint(run)


def table_digest(manifest: Manifest) -> str:
    """Hash what training reads of a table: its id, how its pixels were made, and the shards of train and val with their
    labels."""
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


def find_manifest(config: TrainConfig) -> Manifest:
    """The manifest of the generation to train on: of ``--generation``, of the one that the run to resume began with, or
    of the newest one."""
    manifest = read_manifest(config.table, config.generation)
    run = RunDirectory(config.run)
    if config.generation is not None or not will_resume(run, config):
        return manifest
    digest = read_checkpoint(run, arrays=False).state["table"]
    for generation in [manifest.generation, *older_generations(config.table)]:
        candidate = read_manifest(config.table, generation)
        if table_digest(candidate) == digest:
            return candidate
    return manifest


def check_resumable(state: dict, config: TrainConfig, manifest: Manifest) -> None:
    """Raise UserError if the table or the configuration differs from what the run started with."""
    if state["table"] != table_digest(manifest):
        raise UserError(
            f"--table: expected the table that the run was trained on, got {config.table!r}, which holds other images "
            "now; use that table, start another --run from this one's weights with --init-weights "
            f"{RunDirectory(config.run).model}, or replace the run with --if-exists overwrite"
        )
    now = to_dict(config)
    for name in sorted(now.keys() - CHANGEABLE):
        if (before := state["config"].get(name)) != now[name]:
            flag = "--" + name.replace("_", "-")
            raise UserError(
                f"{flag}: expected {before}, with which the run started, got {now[name]}; use {flag} {before}, another "
                "--run, or --if-exists overwrite"
            )


def _broadcast_json(data: dict, worker: Worker) -> dict:
    """Return rank 0's data on every worker; that of the others is ignored. Collective."""
    encoded = np.frombuffer(json.dumps(data).encode(), np.uint8)
    length = int(worker.broadcast([np.array([len(encoded)])])[0][0])
    if worker.rank != 0:
        encoded = np.zeros(length, np.uint8)
    return json.loads(worker.broadcast([encoded])[0].tobytes())


class Due(enum.IntEnum):
    """What all workers do after a step."""

    NOTHING = 0
    CHECKPOINT = 1
    STOP = 2
    """Write a checkpoint and stop."""


class CheckpointClock:
    """Announces to all workers, at the same step, that a checkpoint or the end is due. Rank 0's clock decides."""

    def __init__(self, seconds: float, worker: Worker, steps: int):
        """Start the clock.

        Args:
            seconds: Time between two checkpoints.
            worker: This worker.
            steps: Steps of an epoch.
        """
        self._seconds, self._worker = seconds, worker
        self._interval = min(MAX_CLOCK_STEPS, max(1, steps // MAX_CLOCK_STEPS))
        self._last = time.monotonic()

    def due(self, step: int) -> Due:
        """What is due after this step of the epoch, from 0. Collective."""
        if (step + 1) % self._interval:
            return Due.NOTHING
        due = self._agree(Due.CHECKPOINT if time.monotonic() - self._last >= self._seconds else Due.NOTHING)
        if due == Due.CHECKPOINT:
            self._last = time.monotonic()
        return due

    def stops(self) -> bool:
        """Whether training stops now, where a checkpoint has just been written. Collective."""
        return self._agree(Due.NOTHING) == Due.STOP

    def _agree(self, due: Due) -> Due:
        due = Due.STOP if self._worker.stop_requested() else due
        return Due(int(self._worker.broadcast([np.array([int(due)])])[0][0]))
