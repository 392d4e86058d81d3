"""Evaluate: score a split of a table on the executors, then compute the metrics on the driver from the scores alone."""

from __future__ import annotations

import io
import logging
import time
from collections.abc import Iterable

import numpy as np
import pandas as pd
from pyspark.sql import SparkSession

from cxrflow import metrics
from cxrflow.base import storage
from cxrflow.base.config import EvaluateConfig
from cxrflow.base.errors import UserError
from cxrflow.base.evaluations import write_evaluation
from cxrflow.base.generations import reading
from cxrflow.base.manifest import Manifest, RunDirectory, read_manifest
from cxrflow.base.schema import score_column, truth_column
from cxrflow.catalog.delta_log import check_unchanged
from cxrflow.catalog.grouping import check_subgroups, columns_for, find_groups, pool_small, taken_groups
from cxrflow.metrics.evaluation import calibration_errors
from cxrflow.metrics.evaluation_text import as_text, warnings
from cxrflow.metrics.prevalence import Prior
from cxrflow.metrics.shift import IMAGE_FACTS, SOURCE_FACTS, compare, score_facts
from cxrflow.metrics.taken_shift import compare_taken
from cxrflow.spark.credentials import share_credentials
from cxrflow.spark.insecure_packages import warn_about_insecure_packages
from cxrflow.spark.leakage import find_leakage
from cxrflow.spark.score_task import score_table
from cxrflow.spark.scorer import Run, find_prior, read_run
from cxrflow.training.positive_label import describe_positive

log = logging.getLogger(__name__)

MISTAKES = 20
TASKS = {"single": "with one label per image", "multi": "with several findings per image (--findings)"}


def check_evaluate(config: EvaluateConfig) -> tuple[Run, Manifest]:
    """Read the run and the manifest. Raises UserError if one is missing or they do not match."""
    run, manifest = read_run(config.run), read_manifest(config.table)
    check_unchanged(config.table, manifest)
    if (run.recipe.height, run.recipe.width) != (manifest.height, manifest.width):
        raise UserError(
            f"--table: expected images of {run.recipe.height}x{run.recipe.width}, the input size of the model in "
            f"{config.run!r}, got {manifest.height}x{manifest.width}; "
            f"ingest with --height {run.recipe.height} --width {run.recipe.width}"
        )
    resize = manifest.recipe()["resize"]
    if run.recipe.resize != resize:  # black borders reveal the image's original shape to the model
        raise UserError(
            f"--table: expected images ingested with --resize {run.recipe.resize}, like the training images of "
            f"{config.run!r}, got --resize {resize}; ingest with --resize {run.recipe.resize}"
        )
    if manifest.task != run.task:
        raise UserError(
            f"--table: expected a table {TASKS[run.task]}, like the run's training table, but {config.table!r} is one "
            f"{TASKS[manifest.task]}; ingest the images again"
        )
    unknown = sorted(set(manifest.labels) - set(run.labels))
    if unknown:
        raise UserError(
            f"--table: expected the model's labels ({', '.join(run.labels)}), got {', '.join(unknown)}; "
            "train on a table that has them"
        )
    if not manifest.of_split(config.split):
        raise UserError(
            f"--split: expected a split with images, but {config.split} of {config.table!r} is empty; choose another"
        )
    if config.subgroups:
        check_subgroups(config.subgroups, manifest)
    if config.prevalence:
        find_prior(config.prevalence, run)
    return run, manifest


def evaluate(spark: SparkSession, config: EvaluateConfig) -> dict:
    """Evaluate the run's model on ``config.split``; writes a new evaluation to the run directory.

    Returns the content of its metrics.json: evaluation (its name), finished (time), split, table, leakage (see
    ``find_leakage``), the result of ``evaluate_scored`` and seconds. Raises UserError for bad input.
    """
    started = time.monotonic()
    share_credentials(spark)
    run, manifest = check_evaluate(config)
    if run.positive is not None and len(run.labels) == 2:
        log.info("%s", describe_positive(run.labels, run.positive))
    warn_about_insecure_packages(spark)
    columns = columns_for(config.subgroups, manifest)
    with reading(config.table, manifest.generation):
        leakage = find_leakage(spark, RunDirectory(config.run), config.table, manifest, config.split)
        scored = score_table(spark, config.table, manifest, config.split, run, columns)
    result = {
        "split": config.split,
        "table": storage.absolute(config.table),
        "leakage": leakage,
        **evaluate_scored(config, run, manifest, scored),
    }
    result["seconds"] = round(time.monotonic() - started, 2)
    return write_results(RunDirectory(config.run), scored, result)


def evaluate_scored(config: EvaluateConfig, run: Run, manifest: Manifest, scored: pd.DataFrame) -> dict:
    """Compute the metrics of the rows of ``score_table``.

    Returns ``metrics.evaluate_scores`` and prevalence, shift (from the run's validation images), temperature,
    images_without_patient, subgroups and mistakes (the most confident wrong predictions). Changes ``scored``: it
    re-weights the scores for --prevalence, removes the facts of ``metrics.shift``, and adds predicted labels and the
    subgroups of --subgroups.
    """
    truth = run.truth(scored["label"], manifest.labels)
    patients = scored["patient_id"].to_numpy()
    names = [score_column(label) for label in run.labels]
    facts = {name: scored.pop(name).to_numpy() for name in (*IMAGE_FACTS, *SOURCE_FACTS)}
    raw = scored[names].to_numpy().astype(np.float64)
    prior, prevalence = _prevalence(config, run, truth, raw)
    scores, threshold = (prior(raw), prior.threshold(run.threshold, run.positive)) if prior else (raw, run.threshold)
    scored[names] = scores.astype(np.float32)
    scored["predicted_label"] = run.to_labels(metrics.predicted(scores, run.positive, threshold))
    if run.multi:
        scored[[truth_column(label) for label in run.labels]] = truth
    options = (run.labels, run.positive, threshold, config.bootstrap, config.seed)
    taken = taken_groups(scored)
    shown = _subgroups(config, manifest, scored, taken)
    result = {
        **metrics.evaluate_scores(truth, scores, patients, *options, prior.clinic if prior else None),
        "prevalence": prevalence,
        "shift": _shift(config, run, facts, taken, scored, raw),
        "temperature": _temperature(run, truth, raw, prior),
        "images_without_patient": int((scored["path"] == scored["patient_id"]).sum()),
        "subgroups": [
            {
                "by": by,
                "unshown": int((groups == None).sum()),  # noqa: E711 of an array
                **metrics.evaluate_subgroups(truth, scores, patients, groups, *options),
            }
            for by, groups in shown.items()
        ],
    }
    return {**result, "mistakes": _mistakes(scored, truth, scores, run, threshold)}


def _subgroups(
    config: EvaluateConfig, manifest: Manifest, scored: pd.DataFrame, taken: dict[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """The groups to evaluate, text or None (n,), by grouping: that of --subgroups, and those with at least two groups.

    Adds the column ``subgroup`` for --subgroups.
    """
    patients, found = scored["patient_id"].to_numpy(), dict(taken)
    if config.subgroups:
        scored["subgroup"] = of_flag = find_groups(config.subgroups, scored, manifest)
        found = {config.subgroups: of_flag, **found}
    shown = {by: pool_small(groups, patients, by) for by, groups in found.items()}
    return {
        by: groups
        for by, groups in shown.items()
        if by == config.subgroups or len({name for name in groups if name is not None}) > 1
    }


def write_results(directory: RunDirectory, scored: pd.DataFrame, result: dict) -> dict:
    """Write the evaluation, and log the metrics and warnings; returns the content of metrics.json."""
    buffer = io.BytesIO()
    scored.to_parquet(buffer, index=False)
    result = write_evaluation(directory.url, result, buffer.getvalue())
    log.info("evaluation %s\n%s", result["evaluation"], as_text(result))
    for line in warnings(result):
        log.warning("%s", line)
    return result


def _prevalence(config: EvaluateConfig, run: Run, truth: np.ndarray, scores: np.ndarray) -> tuple[Prior | None, dict]:
    """The prior of --prevalence, if given, and the share of each label: in training, here, and used for re-weighting.

    ``estimated`` is the share that would be estimated from the scores alone; it is for comparison only.
    """
    known = np.ones((len(truth), 1)) if truth.ndim == 1 else ~np.isnan(truth)
    present = truth[:, None] == range(len(run.labels)) if truth.ndim == 1 else truth == 1
    with np.errstate(invalid="ignore"):  # a finding may be unknown for all images
        here = present.sum(axis=0) / known.sum(axis=0)
    prior = find_prior(config.prevalence, run) if config.prevalence else None
    estimate = metrics.estimate_prevalence(scores, run.prevalence, run.multi)

    def by_label(shares: Iterable[float]) -> dict[str, float | None]:
        pairs = zip(run.labels, shares, strict=True)
        return {label: float(share) if np.isfinite(share) else None for label, share in pairs}

    return prior, {
        "training": by_label(run.prevalence),
        "here": by_label(here),
        "estimated": by_label(estimate),
        "used": by_label(prior.clinic) if prior else None,
    }


def _shift(
    config: EvaluateConfig,
    run: Run,
    facts: dict[str, np.ndarray],
    taken: dict[str, np.ndarray],
    scored: pd.DataFrame,
    scores: np.ndarray,
) -> dict | None:
    """How much the images differ from the run's validation images, and (``taken``) how they were taken from how the
    training images were. None if the run has no reference profile."""
    directory = RunDirectory(config.run)
    if not storage.exists(directory.reference):
        return None
    groups = np.full(len(scored), "all") if run.multi else scored["label"].to_numpy().astype(str)
    if not run.multi:  # with several findings per image, the distribution of a score depends on the prevalence
        facts = facts | score_facts(scores, run.labels, run.positive)
    reference = directory.read(directory.reference, "train")
    found = compare(reference, facts, groups, scored["patient_id"].nunique())
    known = reference.get("taken")  # a run of an older version has none
    found["taken"] = compare_taken(known, taken, groups, scored["patient_id"].to_numpy()) if known else None
    return found


def _temperature(run: Run, truth: np.ndarray, scores: np.ndarray, prior: Prior | None) -> dict:
    """The run's temperature, and the calibration errors of the scores without it, re-weighted like the others."""
    before = metrics.tempered(scores, 1 / run.temperature, run.multi)
    return {
        "temperature": run.temperature,
        "ece_before": calibration_errors(truth, prior(before) if prior else before, run.labels, run.positive),
    }


def _mistakes(
    scored: pd.DataFrame, truth: np.ndarray, scores: np.ndarray, run: Run, threshold: metrics.Threshold
) -> list[dict]:
    """The most confident wrong predictions: path, label, and the score of the predicted label."""
    outcomes = metrics.find_outcomes(truth, scores, run.positive, threshold)
    most_confident = outcomes.most_confident(~outcomes.correct, MISTAKES)
    wrong = zip(outcomes.rows[most_confident], outcomes.label_indices[most_confident], strict=True)
    return [
        {
            "path": scored["path"][row],
            "label": scored["label"][row],
            "score_of": run.labels[index],
            "score": float(scores[row, index]),
        }
        for row, index in wrong
    ]
