"""The JSON line at a job's end."""

import json

import pytest

from cxrflow.pipeline.headline import (
    LIMIT,
    evaluate_headline,
    fit_text,
    ingest_headline,
    predict_headline,
    train_headline,
)

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
