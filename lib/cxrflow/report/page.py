"""The report: PNG files beside the run, and one HTML page that contains them all and needs no network."""

from __future__ import annotations

import io
import logging

import numpy as np
import pandas as pd
from jinja2 import Environment, PackageLoader, Template

from cxrflow.base import storage
from cxrflow.base.config import SPLITS, ReportConfig
from cxrflow.base.errors import UserError
from cxrflow.base.evaluations import find_evaluation
from cxrflow.base.image_groups import MIN_PATIENTS, group_order
from cxrflow.base.manifest import PICTURES, RunDirectory
from cxrflow.base.predictions import NAME as PREDICTIONS
from cxrflow.base.predictions import has_predictions, read_predictions
from cxrflow.base.schema import score_column, truth_column
from cxrflow.base.shard_files import count_labels
from cxrflow.images import DOUBTS, Recipe, find_doubts
from cxrflow.metrics import Threshold
from cxrflow.metrics.evaluation_text import rate, share_text, span, warnings
from cxrflow.metrics.shift import IMAGE_FACTS, SOURCE_FACTS
from cxrflow.metrics.subgroups import listed_subgroups
from cxrflow.report import draw, gallery
from cxrflow.report.gradcam import Heatmaps, compute_heatmaps

log = logging.getLogger(__name__)

SHOWN_NOTES = SHOWN_PATHS = 10


def write_report(config: ReportConfig) -> dict:
    """Write the page and the pictures of a run, with the evaluation ``config.evaluation`` or the newest one.

    With ``config.predictions`` the page also shows examples from that table. Returns ``report`` (URL of the page),
    ``pictures`` (their URLs) and ``evaluation`` (its name, or None). Raises UserError if the run, the evaluation or the
    predictions are missing, or an older cxrflow wrote metrics.json.
    """
    run = RunDirectory(config.run)
    settings, history = run.read(run.config, "train"), run.read(run.history, "train")
    evaluation, metrics = find_evaluation(run.url, config.evaluation) or (None, None)
    if evaluation and metrics and "leakage" not in metrics:
        raise UserError(
            f"--run: expected figures of this version of cxrflow, got those of an older one in {evaluation.metrics!r}; "
            "evaluate the run again"
        )
    labels, recipe = settings["labels"], Recipe(**settings["recipe"])
    multi = settings["task"] == "multi"
    positive = None if multi else labels.index(settings["positive_label"])
    decision = gallery.Decision(labels, positive, history["saved"]["threshold"])
    pictures, rows, summary = draw.of_training(history), [], None
    if evaluation and metrics:
        log.info("the report shows the evaluation %s", evaluation.name)
        scored = pd.read_parquet(io.BytesIO(storage.read_bytes(evaluation.scores)))
        truth = _truth(scored, labels, multi)
        evaluated = gallery.Decision(labels, decision.positive, _threshold(metrics))
        pictures |= draw.of_evaluation(metrics, scored, truth, evaluated)
        rows = gallery.from_scores(scored, truth, evaluated, metrics["table"], recipe, config.examples)
    if config.predictions:
        predictions = _read_predictions(config.predictions, labels)
        summary = _summary(predictions, settings["task"])
        rows += [
            (f"Predictions: {title[0].lower()}{title[1:]}", examples)
            for title, examples in gallery.from_predictions(predictions, decision, recipe, config.examples)
        ]
    heatmaps = _heatmaps(run, settings, multi, rows)
    storage.remove_temporary_files(run.url)  # left by a report that was killed
    for name in PICTURES:
        if name in pictures:
            storage.write_bytes(run.picture(name), pictures[name].png)
        else:  # left by an earlier evaluation, which the page no longer shows
            storage.remove(run.picture(name))
    page = _template().render(
        run=run.url,
        settings=settings,
        history=history,
        metrics=metrics,
        summary=summary,
        pictures=pictures,
        heatmaps=heatmaps,
        gallery=draw.of_gallery(rows, heatmaps.heat if heatmaps else None),
        warnings=warnings(metrics) if metrics else [],
        facts={**IMAGE_FACTS, **SOURCE_FACTS},
        splits=SPLITS,
        doubts=DOUBTS,
        subgroups=listed_subgroups(metrics) if metrics else [],
        min_patients=MIN_PATIENTS,
    )
    storage.write_bytes(run.report, page.encode())
    return {
        "report": run.report,
        "pictures": [run.picture(name) for name in pictures],
        "evaluation": evaluation.name if evaluation else None,
    }


def _truth(scored: pd.DataFrame, labels: list[str], multi: bool) -> np.ndarray:
    """int (n,), index of the label; for multi-label runs float (n, K), 1, 0 or NaN."""
    if multi:
        return scored[[truth_column(label) for label in labels]].to_numpy()
    return scored["label"].map({label: index for index, label in enumerate(labels)}).to_numpy()


def _threshold(metrics: dict) -> Threshold:
    """The threshold of the evaluation, which ``--prevalence`` may have moved."""
    return list(metrics["thresholds"].values()) if "thresholds" in metrics else metrics.get("threshold")


def _heatmaps(run: RunDirectory, settings: dict, multi: bool, rows: list[gallery.Row]) -> Heatmaps | None:
    """Grad-CAM of the examples; None, with a warning, if the model cannot be loaded here."""
    examples = [example for _, part in rows for example in part]
    if not examples or not storage.exists(run.model):
        return None
    found = compute_heatmaps(
        run.model,
        settings["backend"],
        multi,
        np.stack([example.pixels for example in examples]),
        np.array([example.label_index for example in examples]),
    )
    if isinstance(found, str):
        log.warning("the report has no Grad-CAM: %s", found)
        return None
    return found


def _read_predictions(url: str, labels: list[str]) -> pd.DataFrame:
    if not has_predictions(url):  # also while a first run is still scoring
        raise UserError(
            f"--predictions: expected a folder that the predict job wrote, found no {PREDICTIONS} in {url!r}; "
            "run cxrflow predict first or choose another folder"
        )
    predictions = read_predictions(url).to_pandas()
    missing = {score_column(label) for label in labels} - set(predictions.columns)
    if missing:
        raise UserError(
            f"--predictions: expected scores of the run's labels ({', '.join(labels)}), {url!r} lacks the columns "
            f"{', '.join(sorted(missing))}; predict with this run first"
        )
    return predictions


def _summary(predictions: pd.DataFrame, task: str) -> dict[str, dict]:
    """Numbers of files: ``predicted`` by label (a file may have several findings), ``unreadable`` by reason, ``notes``
    by the text of the most frequent other notes, and ``doubts`` by kind with ``files`` and ``examples`` (paths)."""
    predicted = predictions["predicted_label"].dropna().value_counts().to_dict()
    found = {
        "predicted": count_labels(predicted, task)["labels"],
        "unreadable": predictions["reason"].dropna().value_counts().to_dict(),
        "notes": {},
        "doubts": {},
    }
    if "note" not in predictions:  # an older cxrflow wrote them
        return found
    noted = predictions[predictions["note"].fillna("") != ""]
    kinds = noted["note"].map(find_doubts)
    found["notes"] = noted["note"][kinds.str.len() == 0].value_counts().head(SHOWN_NOTES).to_dict()
    by_kind = noted.assign(kind=kinds).explode("kind").dropna(subset="kind").groupby("kind")["path"]
    for kind, paths in sorted(by_kind, key=lambda pair: -len(pair[1])):
        found["doubts"][kind] = {"files": len(paths), "examples": sorted(paths)[:SHOWN_PATHS]}
    return found


def _template() -> Template:
    environment = Environment(
        loader=PackageLoader("cxrflow.report", "."), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["rate"] = rate
    environment.filters["percent"] = lambda value: "none" if value is None else f"{value:.1%}"
    environment.filters["taken_share"] = share_text
    environment.filters["group_order"] = lambda names: sorted(names, key=group_order)
    environment.filters["interval"] = lambda pair: span(pair) if pair else ""
    environment.filters["number"] = lambda value: f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    environment.filters["count"] = lambda value: f"{value:,}"
    return environment.get_template("page.html")
