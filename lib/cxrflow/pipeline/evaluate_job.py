"""Score a split of a table on the executors and judge the scores on the driver, which sees numbers only."""

from __future__ import annotations

import io
import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pyarrow as pa
from pyspark.sql import SparkSession

from cxrflow import metrics
from cxrflow.base import storage
from cxrflow.base.config import EvaluateConfig
from cxrflow.base.errors import UserError
from cxrflow.base.manifest import Manifest, RunDirectory, read_manifest, write_json
from cxrflow.base.schema import score_column, truth_column
from cxrflow.base.shard_files import read_shard
from cxrflow.catalog.delta_log import check_unchanged
from cxrflow.catalog.grouping import check_subgroups, find_groups
from cxrflow.metrics.evaluation import calibration_errors
from cxrflow.metrics.evaluation_text import as_text, warnings
from cxrflow.metrics.prevalence import Prior
from cxrflow.metrics.shift import IMAGE_FACTS, SOURCE_FACTS, compare, image_facts, score_facts, source_facts
from cxrflow.spark.credentials import share_credentials
from cxrflow.spark.insecure_packages import warn_about_insecure_packages
from cxrflow.spark.leakage import find_leakage
from cxrflow.spark.scorer import Run, Scorer, find_prior, read_run
from cxrflow.spark.session import settings, task_slots

log = logging.getLogger(__name__)

MISTAKES = 20
TOLD = {"single": "with one label an image", "multi": "with several findings an image (--findings)"}


def check_evaluate(config: EvaluateConfig) -> tuple[Run, Manifest]:
    """Read the run and the manifest; raises UserError where they are missing or do not fit each other."""
    run, manifest = read_run(config.run), read_manifest(config.table)
    check_unchanged(config.table, manifest)
    if (run.recipe.height, run.recipe.width) != (manifest.height, manifest.width):
        raise UserError(
            f"--table: expected images of {run.recipe.height}x{run.recipe.width}, which the model of {config.run!r} takes, "
            f"got {manifest.height}x{manifest.width}; ingest with --height {run.recipe.height} --width {run.recipe.width}"
        )
    resize = manifest.recipe()["resize"]
    if run.recipe.resize != resize:  # black borders, and their lack, tell the film's shape
        raise UserError(
            f"--table: expected images ingested with --resize {run.recipe.resize}, as those that {config.run!r} was trained "
            f"on, got --resize {resize}; ingest with --resize {run.recipe.resize}"
        )
    if manifest.task != run.task:
        raise UserError(
            f"--table: expected a table {TOLD[run.task]}, as the run was trained on, but {config.table!r} is one "
            f"{TOLD[manifest.task]}; ingest the images again"
        )
    unknown = sorted(set(manifest.labels) - set(run.labels))
    if unknown:
        raise UserError(
            f"--table: expected the labels that the model knows ({', '.join(run.labels)}), "
            f"got {', '.join(unknown)}; train on a table that has them"
        )
    if not manifest.of_split(config.split):
        raise UserError(f"--split: expected a split with images, but {config.split} of {config.table!r} is empty")
    if config.subgroups:
        check_subgroups(config.subgroups, manifest)
    if config.prevalence:
        find_prior(config.prevalence, run)
    return run, manifest


def evaluate(spark: SparkSession, config: EvaluateConfig) -> dict:
    """Score every sample of ``config.split``; writes metrics.json and scores.parquet to the run directory.

    Returns what ``judge_scored`` returns, with ``split``, ``table``, ``leakage`` (see ``find_leakage``) and ``seconds``. Raises UserError for
    bad input.
    """
    started = time.monotonic()
    share_credentials(spark)
    run, manifest = check_evaluate(config)
    warn_about_insecure_packages(spark)
    columns = [config.subgroups] if config.subgroups in manifest.columns else []
    leakage = find_leakage(spark, RunDirectory(config.run), config.table, manifest, config.split)
    scored = score_table(spark, config.table, manifest, config.split, run, columns)
    result = {
        "split": config.split,
        "table": storage.absolute(config.table),
        "leakage": leakage,
        **judge_scored(config, run, manifest, scored),
    }
    result["seconds"] = round(time.monotonic() - started, 2)
    _write(RunDirectory(config.run), scored, result)
    return result


def judge_scored(config: EvaluateConfig, run: Run, manifest: Manifest, scored: pd.DataFrame) -> dict:
    """What ``metrics.evaluate_scores`` says of the rows of ``score_table``, with ``prevalence`` (of the labels in training, here, as estimated
    from the scores alone, and what the scores were re-weighted for), ``shift`` (against the run's validation images),
    ``temperature``, ``subgroups``, ``unnamed`` (images that tell no patient) and ``mistakes`` (the surest).

    In ``scored``, scores become those that were judged, and predicted labels and subgroups are added.
    """
    truth = run.truth(scored["label"], manifest.labels)
    patients = scored["patient_id"].to_numpy()
    names = [score_column(label) for label in run.labels]
    facts = {name: scored.pop(name).to_numpy() for name in (*IMAGE_FACTS, *SOURCE_FACTS)}
    raw = scored[names].to_numpy().astype(np.float64)
    prior, prevalence = _prevalence(config, run, truth, raw)
    scores, threshold = (prior(raw), prior.threshold(run.threshold, run.positive)) if prior else (raw, run.threshold)
    scored[names] = scores.astype(np.float32)
    scored["predicted_label"] = run.named(metrics.predicted(scores, run.positive, threshold))
    if run.multi:
        scored[[truth_column(label) for label in run.labels]] = truth
    how = (run.labels, run.positive, threshold, config.bootstrap, config.seed)
    result = {
        **metrics.evaluate_scores(truth, scores, patients, *how, prior and prior.clinic),
        "prevalence": prevalence,
        "shift": _shift(config, run, facts, scored, raw),
        "temperature": _temperature(run, truth, raw, prior),
        "unnamed": int((scored["path"] == scored["patient_id"]).sum()),
        "subgroups": None,
    }
    if config.subgroups:
        scored["subgroup"] = groups = find_groups(config.subgroups, scored, manifest)
        result["subgroups"] = {
            "by": config.subgroups,
            **metrics.evaluate_subgroups(truth, scores, patients, groups, *how),
        }
    return {**result, "mistakes": _mistakes(scored, truth, scores, run, threshold)}


def _write(directory: RunDirectory, scored: pd.DataFrame, result: dict) -> None:
    buffer = io.BytesIO()
    scored.to_parquet(buffer, index=False)
    storage.write_bytes(directory.scores, buffer.getvalue())
    write_json(directory.metrics, result)
    log.info("\n%s", as_text(result))
    for line in warnings(result):
        log.warning("%s", line)


def _prevalence(config: EvaluateConfig, run: Run, truth: np.ndarray, scores: np.ndarray) -> tuple[Prior | None, dict]:
    """What the scores are re-weighted by, if they are, and the shares of the labels: those of training, those here, and those
    that would be estimated from the scores alone, whether they are used or not."""
    known = np.ones((len(truth), 1)) if truth.ndim == 1 else ~np.isnan(truth)
    present = truth[:, None] == range(len(run.labels)) if truth.ndim == 1 else truth == 1
    with np.errstate(invalid="ignore"):  # of a finding that is known of no image
        here = present.sum(axis=0) / known.sum(axis=0)
    prior = find_prior(config.prevalence, run) if config.prevalence else None
    estimate = Prior(run.prevalence, (), run.multi).estimated(scores)

    def named(shares) -> dict:
        return {
            label: float(share) if np.isfinite(share) else None for label, share in zip(run.labels, shares, strict=True)
        }

    return prior, {
        "training": named(run.prevalence),
        "here": named(here),
        "estimated": named(estimate.clinic),
        "used": named(prior.clinic) if prior else None,
    }


def _shift(
    config: EvaluateConfig, run: Run, facts: dict[str, np.ndarray], scored: pd.DataFrame, scores: np.ndarray
) -> dict | None:
    """How far the images lie from the run's validation images; None of a run that kept no reference."""
    directory = RunDirectory(config.run)
    if not storage.exists(directory.reference):
        return None
    groups = np.full(len(scored), "all") if run.multi else scored["label"].to_numpy().astype(str)
    if not run.multi:  # with several findings an image, a score's distribution follows how common each is
        facts = facts | score_facts(scores, run.labels, run.positive)
    return compare(directory.read(directory.reference, "train"), facts, groups, scored["patient_id"].nunique())


def _temperature(run: Run, truth: np.ndarray, scores: np.ndarray, prior: Prior | None) -> dict:
    """The run's temperature and the calibration errors that scores would have without it, re-weighted as those that were judged."""
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
    wrong = [
        (outcomes.rows[call], outcomes.label_indices[call])
        for call in outcomes.most_confident(~outcomes.correct, MISTAKES)
    ]
    return [
        {
            "path": scored["path"][row],
            "label": scored["label"][row],
            "score_of": run.labels[place],
            "score": float(scores[row, place]),
        }
        for row, place in wrong
    ]


def score_table(
    spark: SparkSession, table: str, manifest: Manifest, split: str, run: Run, columns: list[str]
) -> pd.DataFrame:
    """One row a sample, in order of path: path, label, patient_id, more ``columns`` of the table as text, split, the score of
    each label, the facts of ``metrics.shift``, and where its pixels are (shard, row). About 400 bytes a sample on the driver,
    and no pixels."""
    shards = [(shard.path, shard.split) for shard in manifest.of_split(split)]
    text = list(dict.fromkeys(["path", "label", "patient_id", *columns]))
    task = _ScoreShards(storage.absolute(table), manifest.height, manifest.width, run.labels, text, Scorer(spark, run))
    numbers = [*map(score_column, run.labels), *IMAGE_FACTS, *SOURCE_FACTS]
    schema = ", ".join(
        [
            *(f"`{name}` string" for name in (*text, "split")),
            *(f"`{name}` float" for name in numbers),
            "shard string",
            "row int",
        ]
    )
    with settings(spark, {"spark.sql.execution.arrow.pyspark.enabled": True}):
        work = spark.createDataFrame(shards, "shard string, split string").repartition(
            min(len(shards), 4 * task_slots(spark))
        )
        return work.mapInArrow(task, schema).toPandas().sort_values("path", ignore_index=True)


@dataclass(frozen=True)
class _ScoreShards:
    """Scores the shards of one Spark partition; each shard is read where it is scored."""

    table: str
    height: int
    width: int
    labels: list[str]
    text: list[str]
    scorer: Scorer

    def __call__(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            for row in batch.to_pylist():
                yield from self._score(**row).to_batches()

    def _score(self, shard: str, split: str) -> pa.Table:
        sides = ["source_height", "source_width"]
        table = read_shard(storage.join(self.table, shard), [*dict.fromkeys([*self.text, *sides]), "pixels"])
        pixels = np.frombuffer(b"".join(table["pixels"].to_pylist()), np.uint8).reshape(-1, self.height, self.width)
        heights, widths = (table[side].to_numpy() for side in sides)
        columns = {name: table[name].cast(pa.string()) for name in self.text} | {
            "split": pa.array([split] * len(table))
        }
        columns |= dict(zip(map(score_column, self.labels), self.scorer(pixels).T, strict=True))
        columns |= dict(zip(IMAGE_FACTS, image_facts(pixels).T, strict=True))
        columns |= dict(zip(SOURCE_FACTS, source_facts(heights, widths).T, strict=True))
        return pa.table(
            {**columns, "shard": pa.array([shard] * len(table)), "row": pa.array(range(len(table)), pa.int32())}
        )
