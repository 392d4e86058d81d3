"""The epochs of a run, and which of them is the best."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class History:
    """What history.json and every checkpoint hold about the epochs."""

    epochs: list[dict]
    """One record per finished epoch: ``epoch`` (from 1), ``loss``, the validation metrics, speed and samples fed."""
    best: dict | None
    """The record with the highest validation AUC; of equal ones, the one with the lowest validation loss."""

    def add(self, record: dict) -> bool:
        """Append the record of an epoch; returns whether it is the best so far."""
        self.epochs.append(record)
        is_best = self.best is None or _quality(record) > _quality(self.best)
        if is_best:
            self.best = record
        return is_best

    def to_dict(self) -> dict:
        """Plain data for JSON."""
        return {"epochs": self.epochs, "best": self.best}


def _quality(record: dict) -> tuple[float, float]:
    return record["val_auc"], -record["val_loss"]
