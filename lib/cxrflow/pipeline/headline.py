"""The JSON line at a job's end: the headline figures and the paths of the files that hold the rest."""

from __future__ import annotations

import json
from typing import Any

from cxrflow.base import storage
from cxrflow.base.evaluations import Evaluation
from cxrflow.base.manifest import RunDirectory

LIMIT = 2000
"""Most characters of the line."""

INGEST = (
    *(
        "table",
        "files",
        "left_out",
        "skipped",
        "missing",
        "added",
        "replaced",
        "samples",
        "quarantined",
        "shards",
        "seconds",
    ),
    *("patients", "reasons", "doubts", "counts"),
)
EVALUATE = (
    *(
        "evaluation",
        "table",
        "split",
        "n",
        "patients",
        "seconds",
        "auc",
        "auc_interval",
        "accuracy",
        "accuracy_interval",
    ),
    *("sensitivity", "sensitivity_interval", "specificity", "specificity_interval", "positive_label", "threshold"),
    *("leakage", "macro"),
)


def ingest_headline(result: dict[str, Any]) -> dict[str, Any]:
    """The headline of what ``ingest`` returns; the manifest has the rest."""
    return _headline(result, INGEST, manifest=storage.join(result["table"], "manifest.json"))


def train_headline(result: dict[str, Any]) -> dict[str, Any]:
    """The headline of what ``train`` returns: a trained run, or the verdict of the preflight alone."""
    if "run" not in result:
        return fit_text(result)
    run = RunDirectory(result["run"])
    return _headline(result, tuple(result), model=run.model, history=run.history)


def evaluate_headline(result: dict[str, Any], run: str) -> dict[str, Any]:
    """The headline of what ``evaluate`` returns; its metrics.json has the rest."""
    evaluation = Evaluation(run, result["evaluation"])
    return _headline(result, EVALUATE, metrics=evaluation.metrics, scores=evaluation.scores)


def predict_headline(result: dict[str, Any]) -> dict[str, Any]:
    """The headline of what ``predict`` returns."""
    return _headline(result, tuple(result))


def report_headline(result: dict[str, Any]) -> dict[str, Any]:
    """The headline of what ``write_report`` returns."""
    return _headline(result, ("report", "evaluation", "pictures"))


def _headline(result: dict[str, Any], names: tuple[str, ...], **files: str) -> dict[str, Any]:
    """The named values and the files. Lists and dicts are left out, the last first, if the line is too long."""
    line = {name: result[name] for name in names if name in result} | files
    for name in reversed([name for name in line if isinstance(line[name], (list, dict))]):
        if len(json.dumps(line)) <= LIMIT:
            break
        del line[name]
    return fit_text(line)


def fit_text(line: dict[str, Any]) -> dict[str, Any]:
    """The same values, with texts cut so that the line is short enough, but not below 20 characters each."""
    for length in range(LIMIT, 19, -20):
        shortened = _cut(line, length)
        if len(json.dumps(shortened)) <= LIMIT:
            return shortened
    return shortened


def _cut(value: Any, length: int) -> Any:
    if isinstance(value, dict):
        return {name: _cut(entry, length) for name, entry in value.items()}
    if isinstance(value, list):
        return [_cut(entry, length) for entry in value]
    return value[: length - 3] + "..." if isinstance(value, str) and len(value) > length else value
