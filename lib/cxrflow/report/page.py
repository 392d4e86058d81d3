"""The report: PNG files beside the run, and one HTML page that holds them all and needs no network."""

from __future__ import annotations

import io
import logging

import numpy as np
import pandas as pd
from jinja2 import Environment, PackageLoader

from cxrflow.base import storage
from cxrflow.base.config import SPLITS, ReportConfig
from cxrflow.base.errors import UserError
from cxrflow.base.manifest import PICTURES, RunDirectory
from cxrflow.base.schema import score_column, truth_column
from cxrflow.base.shard_files import count_labels
from cxrflow.images import Recipe
from cxrflow.metrics.evaluation_text import rate, span, warnings
from cxrflow.metrics.shift import IMAGE_FACTS, SOURCE_FACTS
from cxrflow.report import draw, gallery
from cxrflow.report.gradcam import Heatmaps, look

log = logging.getLogger(__name__)


def write_report(config: ReportConfig) -> dict:
    """Draw the run's curves, and all that is known of it where it was evaluated.

    With ``config.predictions`` there are examples of that table as well as of the last evaluation. Returns the places of the
    page and of the pictures. Raises UserError where the run or the predictions are missing, or an
    older cxrflow judged it.
    """
    run = RunDirectory(config.run)
    settings, history = run.read(run.config, "train"), run.read(run.history, "train")
    evaluated = storage.exists(run.metrics) and storage.exists(run.scores)
    metrics = run.read(run.metrics, "evaluate") if evaluated else None
    if metrics and "leakage" not in metrics:
        raise UserError(
            f"--run: expected figures of this cxrflow, but {run.metrics!r} is an older one's; run jobs/evaluate.py again"
        )
    labels, recipe = settings["labels"], Recipe(**settings["recipe"])
    multi = settings["task"] == "multi"
    positive = None if multi else labels.index(settings["positive_label"])
    decision = gallery.Decision(labels, positive, history["kept"]["threshold"])
    pictures, rows, summary = draw.of_training(history), [], None
    if metrics:
        scored = pd.read_parquet(io.BytesIO(storage.read_bytes(run.scores)))
        truth = _truth(scored, labels, multi)
        judged = gallery.Decision(labels, decision.positive, _threshold(metrics))
        pictures |= draw.of_evaluation(metrics, scored, truth, judged)
        rows = gallery.from_scores(scored, truth, judged, metrics["table"], recipe, config.examples)
    if config.predictions:
        predictions = _read_predictions(config.predictions, labels)
        summary = _summary(predictions, settings["task"])
        rows += [
            (f"Predictions: {title[0].lower()}{title[1:]}", examples)
            for title, examples in gallery.from_predictions(predictions, decision, recipe, config.examples)
        ]
    seen = _look(run, settings, multi, rows)
    for name in PICTURES:
        if name in pictures:
            storage.write_bytes(run.picture(name), pictures[name].png)
        else:  # one of an evaluation that the page no longer speaks of
            storage.remove(run.picture(name))
    page = _template().render(
        run=run.url,
        settings=settings,
        history=history,
        metrics=metrics,
        summary=summary,
        pictures=pictures,
        seen=seen,
        gallery=draw.of_gallery(rows, seen.heat if seen else None),
        warnings=warnings(metrics) if metrics else [],
        facts={**IMAGE_FACTS, **SOURCE_FACTS},
        splits=SPLITS,
    )
    storage.write_bytes(run.report, page.encode())
    return {"report": run.report, "pictures": [run.picture(name) for name in pictures], "evaluated": evaluated}


def _truth(scored: pd.DataFrame, labels: list[str], multi: bool) -> np.ndarray:
    """int (n,), places in the labels; for multi float (n, K), 1, 0 or NaN."""
    if multi:
        return scored[[truth_column(label) for label in labels]].to_numpy()
    return scored["label"].map({label: place for place, label in enumerate(labels)}).to_numpy()


def _threshold(metrics: dict):
    """Of the scores as they were judged."""
    return list(metrics["thresholds"].values()) if "thresholds" in metrics else metrics.get("threshold")


def _look(run: RunDirectory, settings: dict, multi: bool, rows: list[gallery.Row]) -> Heatmaps | None:
    """What the model sees in the examples; None, and a word of warning, where it does not load here."""
    examples = [example for _, part in rows for example in part]
    if not examples or not storage.exists(run.model):
        return None
    seen = look(
        run.model,
        settings["backend"],
        multi,
        np.stack([example.pixels for example in examples]),
        np.array([example.place for example in examples]),
    )
    if isinstance(seen, str):
        log.warning("the report has no Grad-CAM: %s", seen)
        return None
    return seen


def _read_predictions(url: str, labels: list[str]) -> pd.DataFrame:
    if not storage.files(url, ".parquet"):
        raise UserError(
            f"--predictions: expected a table that predict.py wrote, found no Parquet file in {url!r}; "
            "run jobs/predict.py first or name another folder"
        )
    predictions = gallery.read_predictions(url)
    missing = {score_column(label) for label in labels} - set(predictions.columns)
    if missing:
        raise UserError(
            f"--predictions: expected scores of {', '.join(labels)}, which the run knows; {url!r} lacks "
            f"{', '.join(sorted(missing))}; predict with this run first"
        )
    return predictions


def _summary(predictions: pd.DataFrame, task: str) -> dict[str, dict[str, int]]:
    """Files by what is called in them, of which there may be several findings, and by why they were not scored."""
    called = predictions["predicted_label"].dropna().value_counts().to_dict()
    return {
        "predicted": count_labels(called, task)["labels"],
        "unreadable": predictions["reason"].dropna().value_counts().to_dict(),
    }


def _template():
    environment = Environment(
        loader=PackageLoader("cxrflow.report", "."), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["rate"] = rate
    environment.filters["percent"] = lambda value: "none" if value is None else f"{value:.1%}"
    environment.filters["interval"] = lambda pair: span(pair) if pair else ""
    environment.filters["count"] = lambda value: f"{value:,}"
    return environment.get_template("page.html")
