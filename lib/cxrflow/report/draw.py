"""Everything on the page that is a picture: figures of the run, and example images with what the model sees in them."""

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
from cxrflow.report import plots
from cxrflow.report.gallery import Decision, Example, Row

SMALLEST = 224  # a browser blurs a smaller picture that it enlarges


@dataclass(frozen=True)
class Picture:
    """A figure, with the words that stand for it where it is not seen."""

    png: bytes
    alt: str
    caption: str

    @property
    def source(self) -> str:
        return _source("png", self.png)


def of_training(history: dict) -> dict[str, Picture]:
    epochs, kept = history["epochs"], history["kept"]
    first, last = epochs[0]["val_loss"], epochs[-1]["val_loss"]
    return {
        "loss": _picture(
            plots.loss(epochs, kept["epoch"]),
            "Loss on training and validation images",
            f"from {first:.3f} to {last:.3f} on validation images over {len(epochs)} epochs",
        ),
        "validation": _picture(
            plots.validation(epochs, kept["epoch"]),
            "AUC and accuracy on validation images, at the highest score",
            f"AUC {rate(kept['val_auc'])} of what was kept after epoch {kept['epoch']}",
        ),
    }


def of_evaluation(metrics: dict, scored: pd.DataFrame, truth: np.ndarray, decision: Decision) -> dict[str, Picture]:
    """``truth``: int (n,), or float (n, K) for multi."""
    pictures = _of_ranking(metrics, scored, truth, decision)
    if "confusion" in metrics:
        matrix, labels = metrics["confusion"], decision.labels
        right = [
            f"{label}: {row[place]} of {sum(row)} right"
            for place, (label, row) in enumerate(zip(labels, matrix, strict=True))
        ]
        pictures["confusion"] = _picture(
            plots.confusion(matrix, labels), "What was called, by the truth; shares are of each row", "; ".join(right)
        )
    return pictures | _of_scores(metrics, scored, truth, decision) | _of_subgroups(metrics)


def _of_ranking(metrics: dict, scored: pd.DataFrame, truth: np.ndarray, decision: Decision) -> dict[str, Picture]:
    """ROC and precision-recall curves: of the positive label, or of each against the rest."""
    two, roc, precision = "threshold" in metrics, {}, {}
    for place in [decision.positive] if two else range(len(decision.labels)):
        label = decision.labels[place]
        known = np.ones(len(truth), bool) if truth.ndim == 1 else ~np.isnan(truth[:, place])
        positive = (truth == place if truth.ndim == 1 else truth[:, place] == 1)[known]
        if positive.any() and not positive.all():
            roc[label], precision[label] = curves(
                positive, scored[score_column(label)].to_numpy()[known], scored["patient_id"].to_numpy()[known]
            )
    if not roc:
        return {}
    called = two and metrics["ppv"] is not None
    average = metrics["average_precision"] if two else metrics["macro"]["average_precision"]
    return {
        "roc": _picture(
            plots.roc(roc, (metrics["sensitivity"], metrics["specificity"]) if two else None),
            "ROC: sensitivity against false alarms at every threshold",
            f"AUC {rate(metrics['auc'])}{_within(metrics['auc_interval'])}",
        ),
        "precision_recall": _picture(
            plots.precision_recall(
                precision,
                (metrics["sensitivity"], metrics["ppv"]) if called else None,
                metrics["positives"] / metrics["n"] if two else None,
            ),
            "Precision against sensitivity at every threshold; it depends on how common the finding is here",
            f"average precision {rate(average)}",
        ),
    }


def _of_scores(metrics: dict, scored: pd.DataFrame, truth: np.ndarray, decision: Decision) -> dict[str, Picture]:
    """Reliability and the histogram of scores: of the positive label, or of the scores that labels were called with."""
    pictures = {}
    if "calibration" in metrics:
        calibration, two = metrics["calibration"], "threshold" in metrics
        name = f"mean score of {metrics['positive_label']}" if two else "mean score of the called label"
        pictures["reliability"] = _picture(
            plots.reliability(
                calibration["bins"], name, f"share of {metrics['positive_label']}" if two else "share of right calls"
            ),
            "Reliability: on the dotted line a score means what it says. A point is a bin, the larger the more images it has; lines are "
            "95 % intervals (Wilson)",
            f"expected calibration error {calibration['ece']:.3f}{_within(calibration['ece_interval'])}",
        )
    if "threshold" in metrics:
        own = scored[score_column(metrics["positive_label"])].to_numpy()
        ordered = [1 - decision.positive, decision.positive]
        pictures["scores"] = _picture(
            plots.histogram(
                {decision.labels[place]: own[truth == place] for place in ordered},
                metrics["threshold"],
                f"score of {metrics['positive_label']}",
            ),
            "Scores by the truth; the scale is logarithmic above 10 images",
            f"threshold {metrics['threshold']:.3f}",
        )
    return pictures


def _of_subgroups(metrics: dict) -> dict[str, Picture]:
    if not metrics["subgroups"]:
        return {}
    groups = metrics["subgroups"]["groups"]
    figure = "accuracy" if "accuracy" in metrics else "auc"
    name = "Accuracy" if figure == "accuracy" else "AUC"
    wholes = [group.get("auc_of_all", metrics[figure]) for group in groups.values()]
    over = "" if figure == "accuracy" else " over the same findings"
    return {
        "subgroups": _picture(
            plots.forest(groups, figure, wholes),
            f"{name} of each subgroup with its 95 % interval; the dotted line is that of all images{over}",
            "; ".join(f"{name} {rate(group[figure])}" for name, group in groups.items()),
        )
    }


def of_example(example: Example, heat: np.ndarray | None) -> dict:
    """What the page shows of an example: its image, the same with the heat over it, and the words."""
    gray = Image.fromarray(example.pixels)
    scale = max(1, -(-SMALLEST // min(gray.size)))
    gray = gray.resize((gray.width * scale, gray.height * scale), Image.Resampling.BICUBIC)
    overlay = None
    if heat is not None and heat.any():
        warm = np.asarray(Image.fromarray(heat.astype(np.float32)).resize(gray.size, Image.Resampling.BICUBIC)).clip(
            0, 1
        )
        color = matplotlib.colormaps["inferno"](warm)[..., :3] * 255
        share = 0.6 * warm[..., None]
        overlay = _jpeg(Image.fromarray((np.asarray(gray)[..., None] * (1 - share) + color * share).astype(np.uint8)))
    return {"image": _jpeg(gray), "overlay": overlay, "words": example.words}


def of_gallery(rows: list[Row], heat: np.ndarray | None) -> list[tuple[str, list[dict]]]:
    """``heat``: float (m, h, w) of all examples in turn, or None."""
    maps = iter(heat) if heat is not None else None
    return [
        (title, [of_example(example, next(maps) if maps is not None else None) for example in examples])
        for title, examples in rows
    ]


def _picture(figure: Figure, caption: str, alt: str) -> Picture:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=160)
    plt.close(figure)
    return Picture(buffer.getvalue(), f"{caption}: {alt}", caption)


def _jpeg(image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=85)
    return _source("jpeg", buffer.getvalue())


def _source(kind: str, content: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def _within(interval: list[float] | None) -> str:
    return f", 95 % interval {span(interval)}" if interval else ""
