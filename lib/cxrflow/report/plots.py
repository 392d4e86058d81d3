"""One matplotlib figure a function. Colours are Okabe and Ito's (2008), which colour-blind readers can tell apart."""

from __future__ import annotations

import itertools

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt  # noqa: E402  (the backend must be chosen first)
import numpy as np  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402
from sklearn.metrics import roc_curve  # noqa: E402

BLUE, ORANGE, GREEN, GRAY = "#0072B2", "#D55E00", "#009E73", "#666666"
PALETTE = [BLUE, ORANGE, GREEN, "#CC79A7", "#E69F00", "#56B4E9", "#F0E442", "#000000"]


def curves(epochs: list[dict], best_epoch: int) -> Figure:
    """Loss, and validation AUC and accuracy, over the epochs."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.6), layout="constrained")
    number = [epoch["epoch"] for epoch in epochs]
    left.plot(number, [epoch["loss"] for epoch in epochs], color=GRAY, marker=".", label="training")
    left.plot(number, [epoch["val_loss"] for epoch in epochs], color=ORANGE, marker=".", label="validation")
    left.set(title="Loss (cross-entropy)", xlabel="epoch", ylim=(0, None))
    right.plot(number, [_number(epoch["val_auc"]) for epoch in epochs], color=BLUE, marker=".", label="AUC")
    right.plot(number, [epoch["val_accuracy"] for epoch in epochs], color=GREEN, marker=".", label="accuracy")
    right.set(title="Validation", xlabel="epoch", ylim=(None, 1.005))
    for axes in (left, right):
        axes.axvline(best_epoch, color=GRAY, linestyle=":", label="kept epoch")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(alpha=0.3)
        axes.legend()
    return figure


def roc(truth: np.ndarray, scores: np.ndarray, metrics: dict) -> Figure:
    """ROC curves: of the positive label, or with more than two labels of each against the rest, or of each finding.

    ``truth``: int (n,), or of several findings float (n, K); ``scores``: float (n, K).
    """
    labels = metrics["labels"]
    shown = [labels.index(metrics["positive_label"])] if "positive_label" in metrics else range(len(labels))
    figure, axes = plt.subplots(figsize=(4.8, 4.6), layout="constrained")
    for color, place in zip(itertools.cycle(PALETTE), shown, strict=False):
        known = np.ones(len(truth), bool) if truth.ndim == 1 else ~np.isnan(truth[:, place])
        positive = truth == place if truth.ndim == 1 else truth[known, place] == 1
        if positive.any() and not positive.all():
            false_rate, true_rate, _ = roc_curve(positive, scores[known, place])
            axes.plot(false_rate, true_rate, color=color, label=labels[place])
    axes.plot([0, 1], [0, 1], color=GRAY, linestyle=":", label="chance")
    if metrics.get("specificity") is not None and metrics.get("sensitivity") is not None:
        axes.plot(1 - metrics["specificity"], metrics["sensitivity"], "o", color=ORANGE,
                  label=f"threshold {metrics['threshold']:.3f}")
    interval = metrics["auc_interval"]
    title = "" if metrics["auc"] is None else f"AUC {metrics['auc']:.3f}"
    title += f" (95 % interval {interval[0]:.3f} to {interval[1]:.3f})" if interval else ""
    axes.set(title=title, xlabel="1 - specificity", ylabel="sensitivity", aspect="equal")
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")
    return figure


def confusion(metrics: dict) -> Figure:
    """The confusion matrix: counts, shaded by the share of the true label."""
    matrix, labels = np.array(metrics["confusion"]), metrics["labels"]
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    size = 2.6 + 0.9 * len(labels)
    figure, axes = plt.subplots(figsize=(size, size), layout="constrained")
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for row in range(len(labels)):
        for column in range(len(labels)):
            axes.text(column, row, f"{matrix[row, column]:,}\n{shares[row, column]:.1%}", ha="center", va="center",
                      color="white" if shares[row, column] > 0.5 else "black")
    axes.set(xticks=range(len(labels)), yticks=range(len(labels)), xlabel="called", ylabel="truth",
             title="Confusion matrix")
    axes.set_xticklabels(labels, rotation=20)
    axes.set_yticklabels(labels, rotation=90, va="center")
    return figure


def examples(rows: list[tuple[str, list[tuple[np.ndarray, str]]]]) -> Figure:
    """Rows of images: (title of the row, [(uint8 (H, W), caption)])."""
    columns = max(len(images) for _, images in rows)
    figure = plt.figure(figsize=(1.9 * columns, 2.5 * len(rows)), layout="constrained")
    for strip, (title, images) in zip(np.atleast_1d(figure.subfigures(len(rows), 1)), rows, strict=True):
        strip.suptitle(title, fontsize=10, fontweight="bold")
        for axes, (pixels, caption) in zip(np.atleast_1d(strip.subplots(1, columns)), images, strict=False):
            axes.imshow(pixels, cmap="gray", vmin=0, vmax=255)
            axes.set_title(caption, fontsize=8)
        for axes in strip.axes:
            axes.axis("off")
    return figure


def _number(value: float | None) -> float:
    return np.nan if value is None else value
