"""Which images a reader should see: hits, misses and those that the model is least sure of."""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from cxrflow.base import storage
from cxrflow.base.errors import UserError
from cxrflow.base.schema import score_column
from cxrflow.base.shard_files import read_shard
from cxrflow.images import DecodeError, Recipe, decode_image
from cxrflow.metrics import Threshold, find_outcomes
from cxrflow.metrics.evaluation_text import rate
from cxrflow.metrics.outcomes import confidence


@dataclass(frozen=True)
class Decision:
    """How a run outcomes a label: by thresholds, or with more than two labels by the highest score."""

    labels: list[str]
    positive: int | None
    threshold: Threshold


@dataclass(frozen=True)
class Example:
    """An image and what is said of it."""

    pixels: np.ndarray
    """uint8 (H, W), 0 is black."""
    place: int
    """The label that its score, and where the model sees it, is about."""
    words: list[str]


Row = tuple[str, list[Example]]


def read_predictions(url: str) -> pd.DataFrame:
    """The predictions table, as predict.py wrote it: a few hundred bytes a file."""
    return pd.concat(
        [pq.read_table(io.BytesIO(storage.read_bytes(file))).to_pandas() for file in storage.files(url, ".parquet")],
        ignore_index=True,
    )


def from_scores(
    scored: pd.DataFrame, truth: np.ndarray, decision: Decision, table: str, recipe: Recipe, count: int
) -> list[Row]:
    """Rows of evaluated samples, whose truth is known; pixels come from the table's shards.

    Raises UserError where the table is no longer the one that was scored.
    """
    scores = scored[[score_column(label) for label in decision.labels]].to_numpy()
    outcomes = find_outcomes(truth, scores, decision.positive, decision.threshold)
    present = (
        truth[outcomes.rows] == outcomes.label_indices
        if truth.ndim == 1
        else truth[outcomes.rows, outcomes.label_indices] == 1
    )
    if truth.ndim == 1 and len(decision.labels) > 2:
        rows = [
            ("Right, and sure", outcomes.most_confident(outcomes.correct, count)),
            ("Wrong, and sure", outcomes.most_confident(~outcomes.correct, count)),
        ]
    else:
        finding = decision.labels[decision.positive] if truth.ndim == 1 else "the finding"
        rows = [
            (f"Hits: {finding}, and called so", outcomes.most_confident(outcomes.correct & present, count)),
            (f"Misses: {finding}, but not called", outcomes.most_confident(~outcomes.correct & present, count)),
            (f"False alarms: not {finding}, but called", outcomes.most_confident(~outcomes.correct & ~present, count)),
            (f"Not {finding}, and not called", outcomes.most_confident(outcomes.correct & ~present, count)),
        ]
    rows.append(("The model is least sure of these", outcomes.least_confident(count)))

    def example(call: int) -> Example:
        row, place = scored.iloc[outcomes.rows[call]], int(outcomes.label_indices[call])
        return Example(
            _stored(table, row, recipe),
            place,
            [
                f"truth {row.label}",
                f"called {row.predicted_label}",
                _score(row, decision.labels[place]),
                _name(row.path),
            ],
        )

    return [(title, [example(call) for call in found]) for title, found in rows if len(found)]


def from_predictions(predictions: pd.DataFrame, decision: Decision, recipe: Recipe, count: int) -> list[Row]:
    """Rows of files that were scored without a known truth; pixels come from the files."""
    scored = predictions[predictions["reason"].isna()].reset_index(drop=True)
    columns = [score_column(label) for label in decision.labels]
    scores = scored[columns].to_numpy()
    words = [set(text.split("|")) for text in scored["predicted_label"]]
    called = np.array([[label in said for label in decision.labels] for said in words], bool).reshape(scores.shape)
    sure = confidence(scores, decision.positive, _threshold(scores, called, decision))
    rows = [
        (f"Surest {label}", place, scored[called[:, place]].nlargest(count, columns[place]))
        for place, label in enumerate(decision.labels)
    ]
    least = np.argsort(sure.min(axis=1), kind="stable")[:count]
    rows.append(("The model is least sure of these", None, scored.iloc[least]))

    def example(row: pd.Series, place: int | None) -> Example:
        two = len(decision.labels) == 2 and not isinstance(decision.threshold, list)
        about = decision.positive if two else int(sure[row.name].argmin()) if place is None else place
        pixels, note = _from_file(row.path, recipe)
        return Example(
            pixels,
            about,
            [f"called {row.predicted_label}", _score(row, decision.labels[about]), _name(row.path), *note],
        )

    return [(title, [example(row, place) for _, row in part.iterrows()]) for title, place, part in rows if len(part)]


def _threshold(scores: np.ndarray, called: np.ndarray, decision: Decision) -> Threshold:
    """The one that the outcomes, bool (n, K), tell of: it moves where scores were re-weighted for another prevalence."""

    def told(place: int, threshold: float | None) -> float | None:
        positive, own = called[:, place], scores[:, place]
        if threshold is None or positive.all() or not positive.any():
            return threshold
        return float((own[positive].min() + own[~positive].max()) / 2)

    if isinstance(decision.threshold, list):
        return [told(place, threshold) for place, threshold in enumerate(decision.threshold)]
    return None if decision.threshold is None else told(decision.positive, decision.threshold)


def _score(row: pd.Series, label: str) -> str:
    return f"score of {label} {rate(row[score_column(label)])}"


def _name(path: str) -> str:
    return path.rsplit("/", 1)[1]


def _stored(table: str, row: pd.Series, recipe: Recipe) -> np.ndarray:
    place = storage.join(table, row.shard)
    if not storage.exists(place):
        raise UserError(
            f"--run: expected the table that was evaluated, but {place!r} is gone; run jobs/evaluate.py again"
        )
    shard = read_shard(place, ["pixels"])
    return np.frombuffer(shard["pixels"][row.row].as_py(), np.uint8).reshape(recipe.height, recipe.width)


def _from_file(path: str, recipe: Recipe) -> tuple[np.ndarray, list[str]]:
    """The file's image; a gray square, and a word that says so, where the file cannot be read from here."""
    try:
        return decode_image(storage.read_bytes(path), recipe).pixels, []
    except (OSError, UserError, DecodeError):  # UserError: there is no package for the file system
        return np.full((recipe.height, recipe.width), 128, np.uint8), ["file not readable here"]
