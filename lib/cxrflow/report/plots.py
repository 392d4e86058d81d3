"""One matplotlib figure per function, each readable on a phone.

The colours are those of Okabe and Ito (2008), which colour-blind readers can tell apart.
"""

from __future__ import annotations

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from cxrflow.metrics.curves import GRID, Curve

BLUE, ORANGE, GREEN, GRAY = "#0072B2", "#D55E00", "#009E73", "#666666"
PALETTE = [BLUE, ORANGE, GREEN, "#CC79A7", "#E69F00", "#56B4E9", "#000000"]
STYLES = ["-", "--", "-.", ":"]
SIZE = (4.6, 3.9)


def _axes(**labels) -> tuple[Figure, Axes]:
    figure, axes = plt.subplots(figsize=SIZE, layout="constrained")
    axes.set(**labels)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def loss(epochs: list[dict], saved_epoch: int) -> Figure:
    """Training and validation loss over the epochs."""
    figure, axes = _axes(xlabel="epoch", ylabel="loss (nats)")
    _over_epochs(axes, epochs, saved_epoch, [("loss", "training", GRAY, "-"), ("val_loss", "validation", ORANGE, "--")])
    axes.set_ylim(0, None)
    return figure


def validation(epochs: list[dict], saved_epoch: int) -> Figure:
    """Validation AUC and accuracy over the epochs."""
    figure, axes = _axes(xlabel="epoch", ylabel="validation")
    _over_epochs(axes, epochs, saved_epoch, [("val_auc", "AUC", BLUE, "-"), ("val_accuracy", "accuracy", GREEN, "--")])
    return figure


def _over_epochs(axes: Axes, epochs: list[dict], saved_epoch: int, lines: list[tuple[str, str, str, str]]) -> None:
    for key, label, color, style in lines:
        values = [np.nan if epoch.get(key) is None else epoch[key] for epoch in epochs]
        if np.isfinite(values).any():
            axes.plot([epoch["epoch"] for epoch in epochs], values, style, color=color, marker=".", label=label)
    axes.axvline(saved_epoch, color=GRAY, linestyle=":", linewidth=1, label="saved model")
    axes.xaxis.set_major_locator(MaxNLocator("auto", integer=True))
    axes.legend()


def roc(by_label: dict[str, Curve], point: tuple[float, float] | None) -> Figure:
    """ROC curves by label, with the band of a single one. ``point``: (sensitivity, specificity) at the threshold."""
    figure, axes = _axes(
        xlabel="1 - specificity", ylabel="sensitivity", aspect="equal", xlim=(-0.01, 1.01), ylim=(-0.01, 1.01)
    )
    axes.plot([0, 1], [0, 1], color=GRAY, linestyle=":", linewidth=1, label="chance")
    _lines(axes, by_label, "steps-post")
    if point:
        _mark(axes, 1 - point[1], point[0])
    axes.legend(loc="lower right", fontsize=8 if len(by_label) > 6 else 9)
    return figure


def precision_recall(by_label: dict[str, Curve], point: tuple[float, float] | None, prevalence: float | None) -> Figure:
    """Precision-recall curves by label.

    ``point``: (sensitivity, positive predictive value) at the threshold; ``prevalence``: the precision by chance.
    """
    figure, axes = _axes(
        xlabel="sensitivity (recall)", ylabel="precision", aspect="equal", xlim=(-0.01, 1.01), ylim=(-0.01, 1.01)
    )
    if prevalence is not None:
        axes.axhline(prevalence, color=GRAY, linestyle=":", linewidth=1, label="chance")
    _lines(axes, by_label, "steps-pre")
    if point:
        _mark(axes, *point)
    axes.legend(loc="lower left", fontsize=8 if len(by_label) > 6 else 9)
    return figure


def _mark(axes: Axes, x: float, y: float) -> None:
    axes.plot(x, y, "o", markersize=9, markeredgecolor="white", color=ORANGE, label="at the threshold")


def _lines(axes: Axes, by_label: dict[str, Curve], steps: str) -> None:
    for index, (label, curve) in enumerate(by_label.items()):
        color = PALETTE[index % len(PALETTE)]
        if len(by_label) == 1 and curve.low is not None and curve.high is not None:
            axes.fill_between(GRID, curve.low, curve.high, color=color, alpha=0.2, linewidth=0, label="95 % interval")
        style = STYLES[index // len(PALETTE) % len(STYLES)]
        axes.plot(curve.x, curve.y, style, color=color, label=label, drawstyle=steps)


def confusion(matrix: list[list[int]], labels: list[str]) -> Figure:
    """The confusion matrix: counts, with each row shaded by its shares."""
    counts = np.array(matrix)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    figure, axes = plt.subplots(figsize=SIZE, layout="constrained")
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for row, column in np.ndindex(counts.shape):
        axes.text(
            column,
            row,
            f"{counts[row, column]:,}\n{shares[row, column]:.1%}",
            ha="center",
            va="center",
            fontsize=12 if len(labels) < 4 else 8,
            color="white" if shares[row, column] > 0.5 else "black",
        )
    axes.set(xticks=range(len(labels)), yticks=range(len(labels)), xlabel="predicted", ylabel="label")
    axes.set_xticklabels(labels, rotation=0 if len(labels) < 4 else 30)
    axes.set_yticklabels(labels, rotation=90 if len(labels) < 4 else 0, va="center")
    return figure


def reliability(bins: list[dict], score_name: str, share_name: str) -> Figure:
    """The reliability diagram: the share of positive images over the mean score of each bin, with its interval."""
    figure, axes = _axes(xlabel=score_name, ylabel=share_name, aspect="equal", xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    axes.plot([0, 1], [0, 1], color=GRAY, linestyle=":", linewidth=1)
    scores, shares, counts = ([one[key] for one in bins] for key in ("score", "share", "n"))
    low, high = np.array([one["interval"] for one in bins]).T
    axes.vlines(scores, low, high, color=BLUE, linewidth=1.5)
    sizes = [18 + 120 * count / max(counts) for count in counts]
    axes.scatter(scores, shares, s=sizes, color=BLUE, zorder=3, edgecolor="white")
    return figure


def histogram(scores: dict[str, np.ndarray], threshold: float | None, score_name: str) -> Figure:
    """The number of images of each label by score, and the threshold. Logarithmic above 10 if a bar exceeds 20."""
    figure, axes = _axes(xlabel=score_name, ylabel="images")
    edges = np.linspace(0, 1, 41)
    for (label, values), color, hatch in zip(scores.items(), (BLUE, ORANGE), ("", "///"), strict=False):
        axes.hist(values, edges.tolist(), color=color, alpha=0.55, edgecolor=color, hatch=hatch, label=f"label {label}")
    if threshold is not None:
        axes.axvline(threshold, color="black", linestyle="--", label=f"threshold {threshold:.3f}")
    if axes.get_ylim()[1] > 20:
        axes.set_yscale("symlog", linthresh=10)
    else:
        axes.yaxis.set_major_locator(MaxNLocator("auto", integer=True))
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axes.set_ylim(0, None)
    axes.legend(loc="upper center", fontsize=8)
    return figure


def forest(groups: dict[str, dict], key: str, overall: list[float | None]) -> Figure:
    """The figure ``key`` of each subgroup with its interval, and ``overall``, of all images, as dotted lines."""
    figure, axes = plt.subplots(figsize=(SIZE[0], 1.2 + 0.42 * len(groups)), layout="constrained")
    for row, (group, of_all) in enumerate(zip(groups.values(), overall, strict=True)):
        if group[key] is not None:
            if group[f"{key}_interval"]:
                axes.hlines(row, *group[f"{key}_interval"], color=BLUE, linewidth=2)
            axes.plot(group[key], row, "o", color=BLUE)
        if of_all is not None:
            axes.vlines(of_all, row - 0.5, row + 0.5, color=GRAY, linestyle=":")
    axes.set(
        yticks=range(len(groups)),
        yticklabels=list(groups),
        xlabel=key.replace("auc", "AUC"),
        ylim=(len(groups) - 0.5, -0.5),
    )
    axes.grid(alpha=0.3, axis="x")
    axes.spines[["top", "right"]].set_visible(False)
    return figure
