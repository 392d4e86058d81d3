"""The driver's side of training: check the input, run the preflight, then start the workers with a launcher."""

from __future__ import annotations

import dataclasses
import functools
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from cxrflow.base import lease, storage
from cxrflow.base.config import TrainConfig
from cxrflow.base.errors import JobError, UserError
from cxrflow.base.generations import reading
from cxrflow.base.keras_import import import_keras
from cxrflow.base.manifest import Manifest, RunDirectory, read_generation, read_manifest
from cxrflow.catalog.delta_log import check_unchanged
from cxrflow.launch import find_launcher
from cxrflow.preflight.check import failure, preflight
from cxrflow.preflight.storage_probe import remove_old_probe_files
from cxrflow.preflight.verdict import failed
from cxrflow.training.augment import find_policy
from cxrflow.training.checkpoint import check_resumable, find_manifest, has_checkpoint, read_checkpoint, will_resume
from cxrflow.training.feed_budget import feed_size
from cxrflow.training.models import check_model
from cxrflow.training.positive_label import describe_positive, positive_label
from cxrflow.training.run_summary import summarise
from cxrflow.watch.recorder import Recorder, check_watch

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

    from cxrflow.distributed.worker import Worker

log = logging.getLogger(__name__)


def check_train(config: TrainConfig) -> Manifest:
    """Raise UserError for bad input that can be found before Spark or a worker is started.

    Returns the manifest of the table's generation to train on.
    """
    try:
        return _check(config)
    except UserError as error:
        if not config.preflight_only:
            raise
        raise failure(config, [failed("input", str(error))]) from None


def _check(config: TrainConfig) -> Manifest:
    find_launcher(config.launcher)
    check_model(config.model)
    find_policy(config.augment)
    check_watch(config)
    if config.launcher == "local" and config.workers != 1:
        raise UserError(
            f"--workers: expected 1 with the local launcher, got {config.workers}; "
            "use --launcher horovod or torch for more"
        )
    manifest = find_manifest(config)
    if manifest.generation == read_generation(config.table):
        check_unchanged(config.table, manifest)
    _check_splits(manifest, config)
    run = RunDirectory(config.run)
    if will_resume(run, config):
        state = read_checkpoint(run, arrays=False).state
        check_resumable(state, _absolute(config), manifest)
        feed_size(config, manifest, state["feed"])
        return manifest
    if config.init_weights and (not storage.exists(config.init_weights) or storage.is_folder(config.init_weights)):
        raise UserError(f"--init-weights: expected a file, found none at {config.init_weights!r}")
    feed_size(config, manifest)
    # A run that died before its first checkpoint left nothing worth keeping, so it may be replaced.
    if (
        storage.exists(run.config)
        and config.if_exists != "overwrite"
        and (storage.exists(run.model) or has_checkpoint(run))
    ):
        raise UserError(
            f"--run: expected a new folder, but {config.run!r} holds another run; choose another folder, "
            f"{'resume it with --if-exists resume, ' if has_checkpoint(run) else ''}or replace it with "
            "--if-exists overwrite"
        )
    return manifest


def _check_splits(manifest: Manifest, config: TrainConfig) -> None:
    for split in ("train", "val"):
        if not manifest.of_split(split):
            raise UserError(
                f"--table: expected images in the splits train and val, but {split} of {config.table!r} is "
                "empty; ingest again with another --split"
            )
    {"single": _check_labels, "multi": _check_findings}[manifest.task](manifest, config)


def _check_labels(manifest: Manifest, config: TrainConfig) -> None:
    counts = manifest.counts()
    if len(manifest.labels) < 2:
        raise UserError(
            f"--table: expected at least two labels, but {config.table!r} has only "
            f"{', '.join(manifest.labels)}; ingest images of another label as well"
        )
    for split in ("train", "val"):
        missing = [label for label in manifest.labels if not counts[split].get(label)]
        if missing:
            raise UserError(
                f"--table: expected images of every label in train and in val, but {split} of "
                f"{config.table!r} has none of {', '.join(missing)}; ingest more patients with that label, "
                "or ingest again with another --split or --seed"
            )
    if config.threshold.startswith("sensitivity=") and len(manifest.labels) > 2:
        raise UserError(
            "--threshold: expected balanced or youden for a table of more than two labels, "
            f"got {config.threshold}; leave it out, because the highest score decides"
        )
    positive_label(config, manifest)


def _check_findings(manifest: Manifest, config: TrainConfig) -> None:
    """Raise UserError unless each finding is present in some images of train and absent in others.

    In val, one such finding is enough, because a threshold needs both.
    """
    if config.positive_label is not None:
        raise UserError(
            f"--positive-label: expected none for a table with several findings per image, "
            f"got {config.positive_label!r}; leave it out, because each finding is evaluated on its own"
        )
    present, absent = manifest.counts(), manifest.absent()
    usable = {
        split: [name for name in manifest.labels if present[split][name] and absent[split][name]]
        for split in ("train", "val")
    }
    if missing := [name for name in manifest.labels if name not in usable["train"]]:
        raise UserError(
            f"--table: expected every finding both present and absent in train, but in train of {config.table!r} this "
            f"is not so for {', '.join(missing)}; ingest more patients, or ingest again with --findings "
            f"{','.join(usable['train']) or 'NAMES'}"
        )
    if not usable["val"]:
        raise UserError(
            f"--table: expected a finding that is both present and absent in val, but val of {config.table!r} has "
            "none; ingest more patients, or ingest again with another --split or --seed"
        )


def train(spark: SparkSession | None, config: TrainConfig) -> dict[str, Any]:
    """Run the preflight, then train on ``config.workers`` workers.

    Returns rank 0's result of ``training.fit.fit``, or the preflight's result with ``config.preflight_only``. By
    default, the same call again resumes a run that stopped, and returns the summary of a run that is finished.

    Args:
        spark: The running session. Workers take its task slots. None for the local launcher.
        config: What to train.

    Raises:
        UserError: Bad input, or a check of the preflight failed.
        JobError, Stopped: See ``launch.supervisor.supervise``.
    """
    if spark is not None:
        from cxrflow.spark.credentials import share_credentials

        share_credentials(spark)
    manifest = check_train(config)
    labels, positive = manifest.labels, positive_label(config, manifest)
    if positive is not None and len(labels) == 2:
        log.info("%s", describe_positive(labels, positive))
    # A relative path starts from the driver's folder; workers run in other folders and on other machines. All of them
    # read the same generation of the table, also if an ingest changes it meanwhile.
    config = dataclasses.replace(_absolute(config), generation=manifest.generation)
    with reading(config.table, manifest.generation):
        return _train(spark, config)


def _train(spark: SparkSession | None, config: TrainConfig) -> dict[str, Any]:
    if config.preflight_only:
        return preflight(spark, config)
    if (finished := _finished(config)) is not None:
        log.info(
            "%s is finished: all %d epochs are done. There is nothing to do; use --if-exists overwrite to train again",
            config.run,
            config.epochs,
        )
        return finished
    preflight(spark, config)
    with lease.hold(config.run, "--run") as held:
        _check(config)  # another job may have written the folder before we held the lease
        _remove_leftovers(RunDirectory(config.run))
        with Recorder(config, will_resume(RunDirectory(config.run), config)) as recorder:
            return _launch(spark, config, held, recorder.record)


def _remove_leftovers(run: RunDirectory) -> None:
    """Remove the files that killed jobs left, except those that training resumes from."""
    for folder in (run.url, run.checkpoints):
        storage.remove_temporary_files(folder)
    remove_old_probe_files(run.url)


def _absolute(config: TrainConfig) -> TrainConfig:
    return dataclasses.replace(
        config,
        table=storage.absolute(config.table),
        run=storage.absolute(config.run),
        init_weights=config.init_weights and storage.absolute(config.init_weights),
    )


def _launch(
    spark: SparkSession | None, config: TrainConfig, held: lease.Lease, record: Callable[[dict], None]
) -> dict[str, Any]:
    function = functools.partial(_fit, job=held.token)
    if config.launcher == "local":
        from cxrflow.launch.local import launch

        return launch(function, config, record, held.check)
    from cxrflow.launch.supervisor import supervise

    return supervise(spark, config, function, functools.partial(_restart_config, held=held), record, held.require)


def _restart_config(config: TrainConfig, slots: int, held: lease.Lease) -> TrainConfig:
    """The configuration of a restart after the loss of a worker, with at most ``slots`` workers.

    It resumes from this job's own checkpoint if there is one. Raises JobError if another job has taken the run
    directory over, which can happen after this process was suspended for minutes, or if no number of workers fits the
    feed.
    """
    held.check()
    run, order = RunDirectory(config.run), None  # a worker may be lost before the first checkpoint
    if storage.exists(run.config) and run.read(run.config, "train").get("job") == held.token:
        config = dataclasses.replace(config, if_exists="resume")
        order = read_checkpoint(run, arrays=False).state["feed"] if will_resume(run, config) else None
    return _with_most_workers(config, slots, order)


def _with_most_workers(config: TrainConfig, slots: int, order: dict | None) -> TrainConfig:
    """The configuration with the most workers, at most ``slots``, whose memory holds the shuffle window.

    ``order``: the streams and shuffle_rows of the run that is resumed. Fewer workers need more memory each.
    """
    manifest = read_manifest(config.table, config.generation)
    for workers in range(slots, config.min_workers - 1, -1):
        attempt = dataclasses.replace(config, workers=workers)
        try:
            feed_size(attempt, manifest, order)
            return attempt
        except UserError as error:
            log.warning("cannot restart with %d workers: %s", workers, error)
            reason = error
    raise JobError(
        f"--min-workers: expected a number of workers from {config.min_workers} to the {slots} remaining task slots "
        f"that can resume the run, found none: {reason}"
    )


def _finished(config: TrainConfig) -> dict[str, Any] | None:
    """The summary of a run that is finished, that is, has all its epochs and files; otherwise None."""
    run = RunDirectory(config.run)
    if not will_resume(run, config) or not storage.exists(run.model) or not storage.exists(run.history):
        return None
    history, facts = run.read(run.history, "train"), run.read(run.config, "train")
    if not history["finished"] or len(history["epochs"]) < config.epochs:
        return None
    return summarise(
        history["epochs"],
        history["best"],
        history["saved"],
        run.url,
        workers=facts["workers"],
        backend=facts["backend"],
        positive_label=facts["positive_label"],
    )


def _fit(config: TrainConfig, worker: Worker, job: str) -> dict[str, Any]:
    # Only the worker loads Keras, after the launcher has set the backend.
    import_keras()
    from cxrflow.training.fit import fit

    return fit(config, worker, job)
