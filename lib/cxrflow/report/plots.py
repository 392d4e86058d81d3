"""One matplotlib figure a function, each of a size that can be read on a phone. Colours are Okabe and Ito's (2008), which
colour-blind readers can tell apart."""

from __future__ import annotations

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cxrflow.metrics.curves import Curve

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


def loss(epochs: list[dict], best_epoch: int) -> Figure:
    """The loss over the epochs."""
    figure, axes = _axes(xlabel="epoch", ylabel="loss (nats)")
    _over_epochs(axes, epochs, best_epoch, [("loss", "training", GRAY, "-"), ("val_loss", "validation", ORANGE, "--")])
    axes.set_ylim(0, None)
    return figure


def validation(epochs: list[dict], best_epoch: int) -> Figure:
    """Validation AUC and accuracy over the epochs."""
    figure, axes = _axes(xlabel="epoch", ylabel="validation")
    _over_epochs(axes, epochs, best_epoch, [("val_auc", "AUC", BLUE, "-"), ("val_accuracy", "accuracy", GREEN, "--")])
    return figure


def _over_epochs(axes: Axes, epochs: list[dict], best_epoch: int, lines: list[tuple[str, str, str, str]]) -> None:
    for key, label, color, style in lines:
        values = [np.nan if epoch.get(key) is None else epoch[key] for epoch in epochs]
        if np.isfinite(values).any():
            axes.plot([epoch["epoch"] for epoch in epochs], values, style, color=color, marker=".", label=label)
    axes.axvline(best_epoch, color=GRAY, linestyle=":", linewidth=1, label="kept")
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.legend()


def roc(found: dict[str, Curve], at: tuple[float, float] | None) -> Figure:
    """ROC curves by label, the band of a single one, and the point (sensitivity, specificity) of the threshold."""
    figure, axes = _axes(
        xlabel="1 - specificity", ylabel="sensitivity", aspect="equal", xlim=(-0.01, 1.01), ylim=(-0.01, 1.01)
    )
    axes.plot([0, 1], [0, 1], color=GRAY, linestyle=":", linewidth=1, label="chance")
    _lines(axes, found, "steps-post")
    if at:
        axes.plot(1 - at[1], at[0], "o", markersize=9, markeredgecolor="white", color=ORANGE, label="at the threshold")
    axes.legend(loc="lower right", fontsize=8 if len(found) > 6 else 9)
    return figure


def precision_recall(found: dict[str, Curve], at: tuple[float, float] | None, share: float | None) -> Figure:
    """Precision-recall curves by label; ``at``: (sensitivity, positive predictive value); ``share`` of positive images, which is
    the precision of chance."""
    figure, axes = _axes(
        xlabel="sensitivity (recall)", ylabel="precision", aspect="equal", xlim=(-0.01, 1.01), ylim=(-0.01, 1.01)
    )
    if share is not None:
        axes.axhline(share, color=GRAY, linestyle=":", linewidth=1, label="chance")
    _lines(axes, found, "steps-pre")
    if at:
        axes.plot(*at, "o", markersize=9, markeredgecolor="white", color=ORANGE, label="at the threshold")
    axes.legend(loc="lower left", fontsize=8 if len(found) > 6 else 9)
    return figure


def _lines(axes: Axes, found: dict[str, Curve], steps: str) -> None:
    grid = np.linspace(0, 1, 101)
    for place, (label, curve) in enumerate(found.items()):
        color = PALETTE[place % len(PALETTE)]
        if len(found) == 1 and curve.low is not None:
            axes.fill_between(grid, curve.low, curve.high, color=color, alpha=0.2, linewidth=0, label="95 % interval")
        axes.plot(
            curve.x, curve.y, STYLES[place // len(PALETTE) % len(STYLES)], color=color, label=label, drawstyle=steps
        )


def confusion(matrix: list[list[int]], labels: list[str]) -> Figure:
    """The confusion matrix: counts, shaded by the share of the true label."""
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
    axes.set(xticks=range(len(labels)), yticks=range(len(labels)), xlabel="called", ylabel="truth")
    axes.set_xticklabels(labels, rotation=0 if len(labels) < 4 else 30)
    axes.set_yticklabels(labels, rotation=90 if len(labels) < 4 else 0, va="center")
    return figure


def reliability(bins: list[dict], name: str, share: str) -> Figure:
    """The reliability diagram: in each bin the share of images of which it is true, with its interval, over the mean score."""
    figure, axes = _axes(xlabel=name, ylabel=share, aspect="equal", xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    axes.plot([0, 1], [0, 1], color=GRAY, linestyle=":", linewidth=1)
    scores, shares = ([found[key] for found in bins] for key in ("score", "share"))
    most = max(found["n"] for found in bins)
    ends = np.array([found["interval"] for found in bins]).T
    axes.vlines(scores, *ends, color=BLUE, linewidth=1.5)
    axes.scatter(
        scores, shares, s=[18 + 120 * found["n"] / most for found in bins], color=BLUE, zorder=3, edgecolor="white"
    )
    return figure


def histogram(scores: dict[str, np.ndarray], threshold: float | None, name: str) -> Figure:
    """How many images of each true label have which score, and the threshold."""
    figure, axes = _axes(xlabel=name, ylabel="images")
    edges = np.linspace(0, 1, 41)
    for (label, values), color, hatch in zip(scores.items(), (BLUE, ORANGE), ("", "///"), strict=False):
        axes.hist(values, edges, color=color, alpha=0.55, edgecolor=color, hatch=hatch, label=f"truth: {label}")
    if threshold is not None:
        axes.axvline(threshold, color="black", linestyle="--", label=f"threshold {threshold:.3f}")
    axes.set_yscale("symlog", linthresh=10)
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axes.set_ylim(0, None)
    axes.legend(loc="upper center", fontsize=8)
    return figure


def forest(groups: dict[str, dict], figure_name: str, wholes: list[float | None]) -> Figure:
    """A figure of each subgroup with its interval, and beside each that of all images as a line."""
    figure, axes = plt.subplots(figsize=(SIZE[0], 1.2 + 0.42 * len(groups)), layout="constrained")
    for place, (group, whole) in enumerate(zip(groups.values(), wholes, strict=True)):
        if group[figure_name] is not None:
            if group[f"{figure_name}_interval"]:
                axes.hlines(place, *group[f"{figure_name}_interval"], color=BLUE, linewidth=2)
            axes.plot(group[figure_name], place, "o", color=BLUE)
        if whole is not None:
            axes.vlines(whole, place - 0.5, place + 0.5, color=GRAY, linestyle=":")
    axes.set(
        yticks=range(len(groups)),
        yticklabels=list(groups),
        xlabel=figure_name.replace("auc", "AUC"),
        ylim=(len(groups) - 0.5, -0.5),
    )
    axes.grid(alpha=0.3, axis="x")
    axes.spines[["top", "right"]].set_visible(False)
    return figure
