"""The pictures of the report: figures of the run, and example images with their Grad-CAM heat maps."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from PIL import Image

from cxrflow.base.schema import score_column
from cxrflow.metrics.curves import curves
from cxrflow.metrics.evaluation_text import rate, span
from cxrflow.metrics.subgroups import listed_subgroups
from cxrflow.report import plots
from cxrflow.report.gallery import Decision, Example, Row

MIN_SIDE = 224
"""Pixels. Browsers blur smaller pictures when they enlarge them."""


@dataclass(frozen=True)
class Picture:
    """A figure as PNG, with its caption and a text alternative."""

    png: bytes
    alt: str
    caption: str

    @property
    def source(self) -> str:
        """The PNG as a data URL."""
        return _data_url("png", self.png)


def of_training(history: dict) -> dict[str, Picture]:
    """Loss and validation figures over the epochs, by name. ``history``: the content of history.json."""
    epochs, saved = history["epochs"], history["saved"]
    first, last = epochs[0]["val_loss"], epochs[-1]["val_loss"]
    return {
        "loss": _picture(
            plots.loss(epochs, saved["epoch"]),
            "Loss on training and validation images",
            f"from {first:.3f} to {last:.3f} on validation images over {len(epochs)} epochs",
        ),
        "validation": _picture(
            plots.validation(epochs, saved["epoch"]),
            "AUC, and accuracy of the label with the highest score, on validation images",
            f"AUC {rate(saved['val_auc'])} of the saved model, epoch {saved['epoch']}",
        ),
    }


def of_evaluation(metrics: dict, scored: pd.DataFrame, truth: np.ndarray, decision: Decision) -> dict[str, Picture]:
    """Pictures of an evaluation, by name.

    ``metrics``: the content of metrics.json; ``scored``: that of scores.parquet, n rows; ``truth``: int (n,), or float
    (n, K) for multi-label runs.
    """
    pictures = _of_ranking(metrics, scored, truth, decision)
    if "confusion" in metrics:
        matrix, labels = metrics["confusion"], decision.labels
        correct = [
            f"{label}: {row[index]} of {sum(row)} correct"
            for index, (label, row) in enumerate(zip(labels, matrix, strict=True))
        ]
        pictures["confusion"] = _picture(
            plots.confusion(matrix, labels), "Confusion matrix; percentages are of each row", "; ".join(correct)
        )
    return pictures | _of_scores(metrics, scored, truth, decision) | _of_subgroups(metrics)


def _of_ranking(metrics: dict, scored: pd.DataFrame, truth: np.ndarray, decision: Decision) -> dict[str, Picture]:
    """ROC and precision-recall curves of the positive label, or of each label against the rest."""
    binary, roc, precision = "threshold" in metrics, {}, {}
    for index in [decision.positive_index] if binary else range(len(decision.labels)):
        label = decision.labels[index]
        known = np.ones(len(truth), bool) if truth.ndim == 1 else ~np.isnan(truth[:, index])
        positive = (truth == index if truth.ndim == 1 else truth[:, index] == 1)[known]
        if positive.any() and not positive.all():
            roc[label], precision[label] = curves(
                positive, scored[score_column(label)].to_numpy()[known], scored["patient_id"].to_numpy()[known]
            )
    if not roc:
        return {}
    has_precision = binary and metrics["ppv"] is not None
    average = metrics["average_precision"] if binary else metrics["macro"]["average_precision"]
    return {
        "roc": _picture(
            plots.roc(roc, (metrics["sensitivity"], metrics["specificity"]) if binary else None),
            "ROC curve: sensitivity and false positive rate at every threshold",
            f"AUC {rate(metrics['auc'])}{_with_interval(metrics['auc_interval'])}",
        ),
        "precision_recall": _picture(
            plots.precision_recall(
                precision,
                (metrics["sensitivity"], metrics["ppv"]) if has_precision else None,
                metrics["positives"] / metrics["n"] if binary else None,
            ),
            "Precision-recall curve; precision depends on the prevalence in these images",
            f"average precision {rate(average)}",
        ),
    }


def _of_scores(metrics: dict, scored: pd.DataFrame, truth: np.ndarray, decision: Decision) -> dict[str, Picture]:
    """Reliability diagram and histogram, of the positive label's scores or of the predicted labels' scores."""
    pictures = {}
    if "calibration" in metrics:
        calibration, binary = metrics["calibration"], "threshold" in metrics
        label = metrics["positive_label"] if binary else "the predicted label"
        pictures["reliability"] = _picture(
            plots.reliability(
                calibration["bins"], f"mean score of {label}", f"share of {label}" if binary else "share correct"
            ),
            "Reliability diagram: calibrated scores lie on the dotted line. Larger points have more images; bars are "
            "95 % intervals (Wilson)",
            f"expected calibration error {calibration['ece']:.3f}{_with_interval(calibration['ece_interval'])}",
        )
    if "threshold" in metrics:
        own = scored[score_column(metrics["positive_label"])].to_numpy()
        ordered = [1 - decision.positive_index, decision.positive_index]
        pictures["scores"] = _picture(
            plots.histogram(
                {decision.labels[index]: own[truth == index] for index in ordered},
                metrics["threshold"],
                f"score of {metrics['positive_label']}",
            ),
            "Scores by label; a scale that exceeds 20 images is logarithmic above 10",
            f"threshold {metrics['threshold']:.3f}",
        )
    return pictures


def _of_subgroups(metrics: dict) -> dict[str, Picture]:
    groupings = listed_subgroups(metrics)
    groups = {
        name if len(groupings) == 1 else f"{grouping['by']}: {name}": group
        for grouping in groupings
        for name, group in grouping["groups"].items()
    }
    if not groups:
        return {}
    key = "accuracy" if "accuracy" in metrics else "auc"
    name = "Accuracy" if key == "accuracy" else "AUC"
    overall = [group.get("auc_of_all", metrics[key]) for group in groups.values()]
    same = "" if key == "accuracy" else " over the same findings"
    return {
        "subgroups": _picture(
            plots.forest(groups, key, overall),
            f"{name} of each subgroup with its 95 % interval; the dotted line is all images{same}",
            "; ".join(f"{name} {rate(group[key])}" for name, group in groups.items()),
        )
    }


def of_example(example: Example, heat: np.ndarray | None) -> dict:
    """What the page shows of an example: ``image`` and ``overlay`` (with the heat map) as data URLs, and ``caption``.

    ``heat``: float (h, w), 0 to 1; without it, or where it is 0 everywhere, ``overlay`` is None.
    """
    gray = Image.fromarray(example.pixels)
    scale = max(1, -(-MIN_SIDE // min(gray.size)))
    gray = gray.resize((gray.width * scale, gray.height * scale), Image.Resampling.BICUBIC)
    overlay = None
    if heat is not None and heat.any():
        enlarged = Image.fromarray(heat.astype(np.float32)).resize(gray.size, Image.Resampling.BICUBIC)
        values = np.asarray(enlarged).clip(0, 1)
        color = matplotlib.colormaps["inferno"](values)[..., :3] * 255
        share = 0.6 * values[..., None]
        overlay = _jpeg(Image.fromarray((np.asarray(gray)[..., None] * (1 - share) + color * share).astype(np.uint8)))
    return {"image": _jpeg(gray), "overlay": overlay, "caption": example.caption}


def of_gallery(rows: list[Row], heat: np.ndarray | None) -> list[tuple[str, list[dict]]]:
    """Each row's title and its examples. ``heat``: float (m, h, w), in the order of all examples, or None."""
    maps = iter(heat) if heat is not None else None
    return [
        (title, [of_example(example, next(maps) if maps is not None else None) for example in examples])
        for title, examples in rows
    ]


def _picture(figure: Figure, caption: str, detail: str) -> Picture:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=160)
    plt.close(figure)
    return Picture(buffer.getvalue(), f"{caption}: {detail}", caption)


def _jpeg(image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=85)
    return _data_url("jpeg", buffer.getvalue())


def _data_url(kind: str, content: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def _with_interval(interval: list[float] | None) -> str:
    return f", 95 % interval {span(interval)}" if interval else ""
