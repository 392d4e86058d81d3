"""The JSON line at a job's end."""

import json

import numpy as np
import pytest

from catalog_samples import empty_manifest
from cxrflow import metrics
from cxrflow.catalog.assign import Assignment
from cxrflow.catalog.headers import HeaderCounts
from cxrflow.catalog.select_files import Selected
from cxrflow.pipeline.headline import (
    EVALUATE,
    INGEST,
    LIMIT,
    evaluate_headline,
    fit_text,
    ingest_headline,
    predict_headline,
    train_headline,
)
from cxrflow.pipeline.ingest_job import result_of
from cxrflow.spark.catalog_tasks import DecodePlan

FINDINGS = [f"A finding with a long name, number {number}" for number in range(20)]
LONG = {split: dict.fromkeys(FINDINGS, 123456) for split in ("train", "val", "test")}


def test_the_line_has_the_figures_and_the_paths_of_the_rest():
    result = {"table": "/t", "files": 9, "samples": 8, "counts": {"train": {"a": 1}}, "audit": {"copies": 1}}
    line = {"table": "/t", "files": 9, "samples": 8, "counts": {"train": {"a": 1}}, "manifest": "/t/manifest.json"}
    assert ingest_headline(result) == line


@pytest.mark.parametrize(
    ("line", "figure"),
    [
        (ingest_headline({"table": "/t", "samples": 8, "counts": LONG}), "samples"),
        (train_headline({"run": "/r", "val_auc": 0.9, "threshold": [0.123456789012345] * 200}), "val_auc"),
        (evaluate_headline({"evaluation": "table-test-1", "auc": 0.9, "per_label": LONG, "macro": LONG}, "/r"), "auc"),
        (predict_headline({"scored": 9, "predicted": LONG["val"], "prevalence": LONG["val"]}), "scored"),
    ],
)
def test_a_long_result_loses_its_lists_and_keeps_its_figures(line, figure):
    assert len(json.dumps(line)) <= LIMIT and figure in line


def test_a_long_text_is_cut():
    checks = [{"check": f"check {number}", "state": "FAILED", "found": "word " * 400} for number in range(8)]
    line = fit_text({"preflight": "failed", "checks": checks})
    assert len(json.dumps(line)) <= LIMIT
    assert [row["state"] for row in line["checks"]] == ["FAILED"] * 8 and line["checks"][0]["found"].endswith("...")


def test_the_names_are_those_of_an_ingests_result():
    """A name that the result lacks would be left out without an error."""
    manifest = empty_manifest("a", {"patients": {}})
    assigned = Assignment(
        files=1, bytes=1, skipped=0, to_decode=0, bytes_to_decode=0, missing=0, thresholds={}, merged={}
    )
    plan = DecodePlan(assigned, HeaderCounts(), Selected(), shard_rows=1, tasks=[], catalog="")
    assert set(INGEST) <= {*result_of(manifest, plan, None), "table", "seconds"}


def test_the_names_are_those_of_an_evaluations_figures():
    truth, scores = np.array([0, 1] * 10), np.full((20, 3), 1 / 3)
    patients = np.arange(20)
    two = metrics.evaluate_scores(truth, scores[:, :2], patients, ["a", "b"], 1, 0.5, bootstrap=10)
    three = metrics.evaluate_scores(truth, scores, patients, ["a", "b", "c"], 2, None, bootstrap=10)
    assert set(EVALUATE) <= {*two, *three, "table", "split", "seconds", "leakage", "evaluation"}
