"""Selects the example images of the report: correct, wrong and uncertain predictions."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from cxrflow.base import storage
from cxrflow.base.errors import UserError
from cxrflow.base.schema import score_column
from cxrflow.base.shard_files import read_shard
from cxrflow.images import DecodeError, Recipe, decode_image, find_doubts
from cxrflow.metrics import Threshold, find_outcomes
from cxrflow.metrics.evaluation_text import rate
from cxrflow.metrics.outcomes import confidence

UNCERTAIN = "Least certain predictions"


@dataclass(frozen=True)
class Decision:
    """How a run predicts a label: by thresholds, or with more than two labels by the highest score."""

    labels: list[str]
    positive: int | None
    threshold: Threshold

    @property
    def positive_index(self) -> int:
        """``positive`` of a decision that has one: between two labels."""
        assert self.positive is not None
        return self.positive


@dataclass(frozen=True)
class Example:
    """An image with its caption."""

    pixels: np.ndarray
    """uint8 (H, W), 0 is black."""
    label_index: int
    """The label that the score in the caption and the Grad-CAM heat map are about."""
    caption: list[str]


Row = tuple[str, list[Example]]
"""Title and examples."""


def from_scores(
    scored: pd.DataFrame, truth: np.ndarray, decision: Decision, table: str, recipe: Recipe, count: int
) -> list[Row]:
    """Rows of at most ``count`` evaluated samples each, with pixels from the table's shards.

    Raises UserError if the table no longer has the shards that were scored.
    """
    scores = scored[[score_column(label) for label in decision.labels]].to_numpy()
    found = find_outcomes(truth, scores, decision.positive, decision.threshold)
    present = (
        truth[found.rows] == found.label_indices if truth.ndim == 1 else truth[found.rows, found.label_indices] == 1
    )
    if truth.ndim == 1 and len(decision.labels) > 2:
        rows = [
            ("Most confident correct predictions", found.most_confident(found.correct, count)),
            ("Most confident wrong predictions", found.most_confident(~found.correct, count)),
        ]
    else:
        finding = f": {decision.labels[decision.positive_index]}" if truth.ndim == 1 else ""
        rows = [
            (f"True positives{finding}", found.most_confident(found.correct & present, count)),
            (f"False negatives{finding}", found.most_confident(~found.correct & present, count)),
            (f"False positives{finding}", found.most_confident(~found.correct & ~present, count)),
            (f"True negatives{finding}", found.most_confident(found.correct & ~present, count)),
        ]
    rows.append((UNCERTAIN, found.least_confident(count)))

    def example(outcome: int) -> Example:
        row, index = scored.iloc[found.rows[outcome]], int(found.label_indices[outcome])
        return Example(
            _read_pixels(table, row, recipe),
            index,
            [
                f"label {row.label}",
                f"predicted {row.predicted_label}",
                _score(row, decision.labels[index]),
                _name(row.path),
            ],
        )

    return [(title, [example(outcome) for outcome in selected]) for title, selected in rows if len(selected)]


def from_predictions(predictions: pd.DataFrame, decision: Decision, recipe: Recipe, count: int) -> list[Row]:
    """Rows of at most ``count`` files each that were scored without a label, with pixels from the files."""
    scored = predictions[predictions["reason"].isna()].reset_index(drop=True)
    columns = [score_column(label) for label in decision.labels]
    scores = scored[columns].to_numpy()
    names = [set(text.split("|")) for text in scored["predicted_label"]]
    predicted = np.array([[label in row for label in decision.labels] for row in names], bool).reshape(scores.shape)
    certainty = confidence(scores, decision.positive, _threshold(scores, predicted, decision))
    rows: list[tuple[str, int | None, pd.DataFrame]] = [
        (f"Highest scores of {label}", index, scored[predicted[:, index]].nlargest(count, columns[index]))
        for index, label in enumerate(decision.labels)
    ]
    least = np.argsort(certainty.min(axis=1), kind="stable")[:count]
    rows.append((UNCERTAIN, None, scored.iloc[least]))

    def example(row: pd.Series, index: int | None) -> Example:
        binary = len(decision.labels) == 2 and not isinstance(decision.threshold, list)
        about = int(certainty[row.name].argmin()) if index is None else index
        if binary:
            about = decision.positive_index
        pixels, note = _decode_file(row.path, recipe)
        return Example(
            pixels,
            about,
            [
                f"predicted {row.predicted_label}",
                _score(row, decision.labels[about]),
                _name(row.path),
                *_doubts(row),
                *note,
            ],
        )

    return [(title, [example(row, index) for _, row in part.iterrows()]) for title, index, part in rows if len(part)]


def _threshold(scores: np.ndarray, predicted: np.ndarray, decision: Decision) -> Threshold:
    """The threshold that the predictions, bool (n, K), imply. ``--prevalence`` moves it together with the scores."""

    def implied(index: int, threshold: float | None) -> float | None:
        positive, own = predicted[:, index], scores[:, index]
        if threshold is None or positive.all() or not positive.any():
            return threshold
        return float((own[positive].min() + own[~positive].max()) / 2)

    if isinstance(decision.threshold, list):
        return [implied(index, threshold) for index, threshold in enumerate(decision.threshold)]
    return None if decision.threshold is None else implied(decision.positive_index, decision.threshold)


def _score(row: pd.Series, label: str) -> str:
    return f"score of {label} {rate(row[score_column(label)])}"


def _doubts(row: pd.Series) -> list[str]:
    note = row.get("note")  # predictions of an older cxrflow have none
    kinds = find_doubts(note) if isinstance(note, str) else []
    return [f"may be wrong: {', '.join(kinds)}"] if kinds else []


def _name(path: str) -> str:
    return path.rsplit("/", 1)[1]


def _read_pixels(table: str, row: pd.Series, recipe: Recipe) -> np.ndarray:
    url = storage.join(table, row.shard)
    try:
        shard = read_shard(url, ["pixels"])
    except FileNotFoundError:
        raise UserError(
            f"--run: expected the shard {url!r} of the evaluated table, found none; evaluate the run again"
        ) from None
    return np.frombuffer(shard["pixels"][row.row].as_py(), np.uint8).reshape(recipe.height, recipe.width)


def _decode_file(path: str, recipe: Recipe) -> tuple[np.ndarray, list[str]]:
    """The image of a file and no note, or a gray square and a note if the file cannot be read here."""
    try:
        return decode_image(storage.read_bytes(path), recipe).pixels, []
    except (OSError, UserError, DecodeError):  # UserError: there is no package for the file system
        return np.full((recipe.height, recipe.width), 128, np.uint8), ["file not readable here"]
