"""The summary of a training at its end."""

from __future__ import annotations

import numpy as np


def summarise(
    epochs: list[dict], best: dict, saved: dict, run: str, *, workers: int, backend: str, positive_label: str | None
) -> dict:
    """Return the result of the job from the records in history.json.

    It has the epoch with the best validation AUC, the validation metrics of the saved model, images per second (median
    over epochs), seconds, what trained it, and the positive label.
    """
    return {
        "best_epoch": best["epoch"],
        "saved_epoch": saved["epoch"],
        **{key: saved[key] for key in ("val_loss", "val_auc", "val_accuracy", "threshold", "temperature")},
        "epochs": len(epochs),
        "images_per_second": float(np.median([epoch["images_per_second"] for epoch in epochs])),
        "seconds": sum(epoch["seconds"] for epoch in epochs),
        "workers": workers,
        "backend": backend,
        "positive_label": positive_label,
        "run": run,
    }
