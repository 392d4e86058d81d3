"""The driver's side of training: check everything that can be checked, then hand over to a launcher."""

from __future__ import annotations

import dataclasses
import functools
import logging
from collections.abc import Callable

from cxrflow.base import lease, storage
from cxrflow.base.config import TrainConfig
from cxrflow.base.errors import JobError, UserError
from cxrflow.base.manifest import Manifest, RunDirectory, read_manifest
from cxrflow.catalog.delta_log import check_unchanged
from cxrflow.launch import find_launcher
from cxrflow.preflight.check import failure, preflight
from cxrflow.preflight.verdict import failed
from cxrflow.training.augment import find_policy
from cxrflow.training.checkpoint import check_resumable, goes_on, has_checkpoint, read_checkpoint
from cxrflow.training.feed_budget import feed_size
from cxrflow.training.models import check_model
from cxrflow.training.run_summary import summarise
from cxrflow.watch.recorder import Recorder, check_watch

log = logging.getLogger(__name__)


def check_train(config: TrainConfig) -> None:
    """Raise UserError for what shows to be wrong before Spark or a worker is started."""
    try:
        _check(config)
    except UserError as error:
        if not config.preflight_only:
            raise
        raise failure(config, [failed("input", str(error))]) from None


def _check(config: TrainConfig) -> None:
    find_launcher(config.launcher)
    check_model(config.model)
    find_policy(config.augment)
    check_watch(config)
    if config.launcher == "local" and config.workers != 1:
        raise UserError(
            f"--workers: expected 1 with the local launcher, got {config.workers}; "
            "use --launcher horovod or torch for more"
        )
    manifest = read_manifest(config.table)
    check_unchanged(config.table, manifest)
    _check_splits(manifest, config)
    run = RunDirectory(config.run)
    if goes_on(run, config):
        state = read_checkpoint(run, arrays=False).state
        check_resumable(state, _absolute(config), manifest)
        feed_size(config, manifest, state["feed"])
        return
    if config.init_weights and (not storage.exists(config.init_weights) or storage.is_folder(config.init_weights)):
        raise UserError(f"--init-weights: expected a file, found none at {config.init_weights!r}")
    feed_size(config, manifest)
    # A run that died before its first checkpoint has left nothing that is worth keeping.
    if (
        storage.exists(run.config)
        and config.if_exists != "overwrite"
        and (storage.exists(run.model) or has_checkpoint(run))
    ):
        raise UserError(
            f"--run: expected a new folder, but {config.run!r} holds another run; name another folder, "
            f"{'resume it with --if-exists resume, ' if has_checkpoint(run) else ''}or replace it with --if-exists overwrite"
        )


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
            f"--table: expected at least two labels to tell apart, but {config.table!r} has only "
            f"{', '.join(manifest.labels)}; ingest images of another label as well"
        )
    for split in ("train", "val"):
        missing = [label for label in manifest.labels if not counts[split].get(label)]
        if missing:
            raise UserError(
                f"--table: expected images of every label in train and in val, but {split} of "
                f"{config.table!r} has none of {', '.join(missing)}; ingest more patients with that label, "
                "or with another --split or --seed"
            )
    if config.threshold.startswith("sensitivity=") and len(manifest.labels) > 2:
        raise UserError(
            "--threshold: expected balanced or youden for a table of more than two labels, where the highest score "
            f"decides; got {config.threshold}"
        )
    if config.positive_label is not None and config.positive_label not in manifest.labels:
        raise UserError(
            f"--positive-label: expected one of {', '.join(manifest.labels)}; got {config.positive_label!r}"
        )


def _check_findings(manifest: Manifest, config: TrainConfig) -> None:
    """What is not known of a finding in val costs its threshold; in train, nothing could be learnt of it."""
    if config.positive_label is not None:
        raise UserError(
            f"--positive-label: expected none for a table of several findings, each of which is judged by itself; "
            f"got {config.positive_label!r}"
        )
    present, absent = manifest.counts(), manifest.absent()
    told = {
        split: [name for name in manifest.labels if present[split][name] and absent[split][name]]
        for split in ("train", "val")
    }
    if missing := [name for name in manifest.labels if name not in told["train"]]:
        raise UserError(
            f"--table: expected every finding both present and absent in train, but train of {config.table!r} has not "
            f"both of {', '.join(missing)}; ingest more patients, or again with --findings {','.join(told['train']) or 'NAMES'}"
        )
    if not told["val"]:
        raise UserError(
            f"--table: expected a finding that is both present and absent in val, but val of {config.table!r} has none; "
            "ingest more patients, or again with another --split or --seed"
        )


def train(spark, config: TrainConfig) -> dict:
    """Train on ``config.workers`` workers, after a preflight; returns what ``training.fit.fit`` returns on rank 0, or
    what the preflight found where nothing else was asked for.

    The same call again goes on with a run that stopped, and does nothing with one that is finished. ``spark`` is the
    running session, whose task slots the workers take; the local launcher needs none (None). Raises UserError for bad
    input, and where a check of the preflight failed; JobError and Stopped as ``supervise`` does.
    """
    if spark is not None:
        from cxrflow.spark.credentials import share_credentials

        share_credentials(spark)
    check_train(config)
    # Workers run in other folders, and on other machines, than the one that a relative path starts from.
    config = _absolute(config)
    if config.preflight_only:
        return preflight(spark, config)
    if (finished := _finished(config)) is not None:
        log.info(
            "%s is finished: all %d epochs are done. Nothing to do; --if-exists overwrite trains anew",
            config.run,
            config.epochs,
        )
        return finished
    preflight(spark, config)
    with lease.hold(config.run, "--run") as held:
        _check(config)  # another run may have ended meanwhile
        with Recorder(config, goes_on(RunDirectory(config.run), config)) as recorder:
            return _launch(spark, config, held, recorder.record)


def _absolute(config: TrainConfig) -> TrainConfig:
    return dataclasses.replace(
        config,
        table=storage.absolute(config.table),
        run=storage.absolute(config.run),
        init_weights=config.init_weights and storage.absolute(config.init_weights),
    )


def _launch(spark, config: TrainConfig, held: lease.Lease, record: Callable[[dict], None]) -> dict:
    function = functools.partial(_fit, job=held.token)
    if config.launcher == "local":
        from cxrflow.launch.local import launch

        return launch(function, config, record, held.check)
    from cxrflow.launch.supervisor import supervise

    return supervise(spark, config, function, functools.partial(_again, held=held), record, held.require)


def _again(config: TrainConfig, slots: int, held: lease.Lease) -> TrainConfig:
    """What to train with after the loss of a worker: on with what this job has written, if it came so far, with at most so
    many workers as there are ``slots``. Raises JobError where another job has taken the run directory over, as it may after
    this one was stopped for minutes, and where no number of workers can hold what the checkpoint's order of samples asks for."""
    held.check()
    run, kept = RunDirectory(config.run), None  # a worker may be lost before the first checkpoint
    if storage.exists(run.config) and run.read(run.config, "train").get("job") == held.token:
        config = dataclasses.replace(config, if_exists="resume")
        kept = read_checkpoint(run, arrays=False).state["feed"] if goes_on(run, config) else None
    return _with_room(config, slots, kept)


def _with_room(config: TrainConfig, slots: int, kept: dict | None) -> TrainConfig:
    """With the most workers, at most ``slots``, whose memory holds the feed: the fewer they are, the more each one mixes."""
    manifest = read_manifest(config.table)
    for workers in range(slots, config.min_workers - 1, -1):
        attempt = dataclasses.replace(config, workers=workers)
        try:
            feed_size(attempt, manifest, kept)
            return attempt
        except UserError as error:
            log.warning("not with %d workers: %s", workers, error)
            why = error
    raise JobError(
        f"of {slots} task slots that are left, no number of workers from --min-workers {config.min_workers} on can go on: {why}"
    )


def _finished(config: TrainConfig) -> dict | None:
    """The summary of a run that has all its epochs and files; None of any other."""
    run = RunDirectory(config.run)
    if not goes_on(run, config) or not storage.exists(run.model) or not storage.exists(run.history):
        return None
    history, made = run.read(run.history, "train"), run.read(run.config, "train")
    if not history["finished"] or len(history["epochs"]) < config.epochs:
        return None
    return summarise(
        history["epochs"], history["best"], history["kept"], run.url, workers=made["workers"], backend=made["backend"]
    )


def _fit(config: TrainConfig, worker, job: str) -> dict:
    # Keras is loaded on the worker alone, after the launcher has chosen its backend.
    from cxrflow.training.fit import fit

    return fit(config, worker, job)
