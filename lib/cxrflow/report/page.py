"""The report: PNG files beside the run, and one HTML page that holds them all and needs no network."""

from __future__ import annotations

import base64
import io

import matplotlib.pyplot as plt
import pandas as pd
from jinja2 import Environment, PackageLoader
from matplotlib.figure import Figure

from cxrflow import storage
from cxrflow.config import ReportConfig
from cxrflow.errors import UserError
from cxrflow.images import Recipe
from cxrflow.manifest import RunDirectory
from cxrflow.report import gallery, plots
from cxrflow.schema import score_column, truth_column


def write_report(config: ReportConfig) -> dict:
    """Draw the run's curves, and its ROC, confusion matrix and examples where it was evaluated.

    With ``config.predictions`` the examples are files of that table; otherwise samples of the last evaluation.
    Returns the places of the page and of the pictures. Raises UserError where the run or the predictions are missing.
    """
    run = RunDirectory(config.run)
    settings, history = run.read(run.config, "train"), run.read(run.history, "train")
    evaluated = storage.exists(run.metrics) and storage.exists(run.scores)
    metrics = run.read(run.metrics, "evaluate") if evaluated else None
    figures = {"curves": plots.curves(history["epochs"], history["kept"]["epoch"])}
    decision = gallery.Decision(settings["labels"], settings["positive_label"], history["kept"]["threshold"])
    recipe = Recipe(**settings["recipe"])
    rows: list[gallery.Row] = []
    summary = None
    if metrics:
        scored = pd.read_parquet(io.BytesIO(storage.read_bytes(run.scores)))
        labels = metrics["labels"]
        truth = (scored[[truth_column(label) for label in labels]] if settings.get("task") == "multi" else
                 scored["label"].map({label: place for place, label in enumerate(labels)})).to_numpy()
        figures["roc"] = plots.roc(truth, scored[[score_column(label) for label in labels]].to_numpy(), metrics)
        if "confusion" in metrics:
            figures["confusion"] = plots.confusion(metrics)
        rows = gallery.from_scores(scored, decision, metrics["table"],
                                   recipe, config.examples)
    if config.predictions:
        predictions = _read_predictions(config.predictions, settings["labels"])
        summary = _summary(predictions)
        rows += [(f"Predictions: {title[0].lower()}{title[1:]}", images) for title, images in gallery.from_predictions(
            predictions, decision, recipe, config.examples)]
    if rows:
        figures["examples"] = plots.examples(rows)
    pictures = {name: _png(figure) for name, figure in figures.items()}
    for name, png in pictures.items():
        storage.write_bytes(run.picture(name), png)
    page = _template().render(
        run=run.url, settings=settings, history=history, metrics=metrics, summary=summary,
        pictures={name: base64.b64encode(png).decode() for name, png in pictures.items()})
    storage.write_bytes(run.report, page.encode())
    return {"report": run.report, "pictures": [run.picture(name) for name in pictures], "evaluated": evaluated}


def _read_predictions(url: str, labels: list[str]) -> pd.DataFrame:
    if not storage.files(url, ".parquet"):
        raise UserError(f"--predictions: expected a table that predict.py wrote, found no Parquet file in {url!r}; "
                        "run jobs/predict.py first or name another folder")
    predictions = gallery.read_predictions(url)
    missing = {score_column(label) for label in labels} - set(predictions.columns)
    if missing:
        raise UserError(f"--predictions: expected scores of {', '.join(labels)}, which the run knows; {url!r} lacks "
                        f"{', '.join(sorted(missing))}; predict with this run first")
    return predictions


def _summary(predictions: pd.DataFrame) -> dict[str, dict[str, int]]:
    return {"called": predictions["predicted_label"].dropna().value_counts().to_dict(),
            "unreadable": predictions["reason"].dropna().value_counts().to_dict()}


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    plt.close(figure)
    return buffer.getvalue()


def _template():
    environment = Environment(loader=PackageLoader("cxrflow.report", "."), autoescape=True)
    environment.filters["rate"] = lambda value: "none" if value is None else f"{value:.3f}"
    environment.filters["interval"] = lambda pair: "" if not pair else f"{pair[0]:.3f} to {pair[1]:.3f}"
    return environment.get_template("page.html")
