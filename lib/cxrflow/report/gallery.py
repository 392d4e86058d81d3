"""Which images a reader should see: the best, the worst and the uncertain, with their scores."""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from cxrflow import storage
from cxrflow.errors import UserError
from cxrflow.images import Recipe, Unreadable, decode_image
from cxrflow.schema import score_column, truth_column
from cxrflow.shards import read_shard



@dataclass(frozen=True)
class Decision:
    """How a run calls a label: by the positive label's threshold, with more than two labels by the highest score, or each of
    several findings by its own threshold."""

    labels: list[str]
    positive: str | None
    threshold: float | list[float | None] | None

    def margins(self, scored: pd.DataFrame) -> np.ndarray:
        """float (n, K): how far the score of each of several findings is above its threshold."""
        return scored[[score_column(label) for label in self.labels]].to_numpy() - [
            0.5 if value is None else value for value in self.threshold]


Row = tuple[str, list[tuple[np.ndarray, str]]]


def read_predictions(url: str) -> pd.DataFrame:
    """The predictions table, as predict.py wrote it: a few hundred bytes a file."""
    return pd.concat([pq.read_table(io.BytesIO(storage.read_bytes(file))).to_pandas()
                      for file in storage.files(url, ".parquet")], ignore_index=True)


def from_scores(scored: pd.DataFrame, decision: Decision, table: str, recipe: Recipe, count: int) -> list[Row]:
    """Rows of evaluated samples, whose truth is known; pixels come from the table's shards.

    Raises UserError where the table is no longer the one that was scored.
    """
    right, own = _judged(scored, decision)
    rows = [("Surest and right", _first(scored[right], own, count, highest=True)),
            ("Surest and wrong", _first(scored[~right], own, count, highest=False)),
            ("Least certain", scored.loc[_certainty(scored, decision).nsmallest(count).index])]

    def caption(row) -> str:
        return f"truth {row.label}\n" + _scores(row)

    def pixels(row) -> np.ndarray:
        place = storage.join(table, row.shard)
        if not storage.exists(place):
            raise UserError(f"--run: expected the table that was evaluated, but {place!r} is gone; "
                            "run jobs/evaluate.py again")
        shard = read_shard(place, ["pixels"])
        return np.frombuffer(shard["pixels"][row.row].as_py(), np.uint8).reshape(recipe.height, recipe.width)

    return [(title, [(pixels(row), caption(row)) for _, row in part.iterrows()]) for title, part in rows if len(part)]


def from_predictions(predictions: pd.DataFrame, decision: Decision, recipe: Recipe, count: int) -> list[Row]:
    """Rows of files that were scored without a known truth; pixels come from the files."""
    scored, labels = predictions[predictions["reason"].isna()], decision.labels
    several = isinstance(decision.threshold, list)
    called = scored["predicted_label"].map(lambda text: text.split("|") if several else [text])
    rows = [(f"Surest {label}", scored[[label in names for names in called]].nlargest(count, score_column(label)))
            for label in labels]
    rows.append(("Least certain", scored.loc[_certainty(scored, decision).nsmallest(count).index]))
    found = []
    for title, part in rows:
        images = [_from_file(row, recipe) for _, row in part.iterrows()]
        found.append((title, images))
    return [row for row in found if row[1]]


def _judged(scored: pd.DataFrame, decision: Decision) -> tuple[np.ndarray, np.ndarray]:
    """(whether the call is right, the score of what is true), bool and float (n,); of several findings over those that are
    known: whether all are called right, and the mean."""
    if not isinstance(decision.threshold, list):
        truth = scored["label"].to_numpy()
        own = np.array([scored[score_column(label)].iloc[place] for place, label in enumerate(truth)])
        return truth == scored["predicted_label"].to_numpy(), own
    truth = scored[[truth_column(label) for label in decision.labels]].to_numpy()
    scores = scored[[score_column(label) for label in decision.labels]].to_numpy()
    right = ((decision.margins(scored) >= 0) == truth) | np.isnan(truth)
    return right.all(axis=1), np.nanmean(np.where(truth == 1, scores, np.where(truth == 0, 1 - scores, np.nan)), axis=1)


def _first(part: pd.DataFrame, own: np.ndarray, count: int, highest: bool) -> pd.DataFrame:
    """The rows whose score of their true label is highest, or lowest."""
    order = np.argsort(-own[part.index] if highest else own[part.index], kind="stable")
    return part.iloc[order[:count]]


def _certainty(scored: pd.DataFrame, decision: Decision) -> pd.Series:
    """How far a score is from the other decision: from the threshold, or with more than two labels the distance between
    the two highest scores."""
    if isinstance(decision.threshold, list):
        return pd.Series(np.abs(decision.margins(scored)).min(axis=1), index=scored.index)
    if decision.threshold is not None:
        return (scored[score_column(decision.positive)] - decision.threshold).abs()
    ordered = np.sort(scored[[score_column(label) for label in decision.labels]].to_numpy(), axis=1)
    return pd.Series(ordered[:, -1] - ordered[:, -2], index=scored.index)


def _scores(row: pd.Series) -> str:
    score = row.get(score_column(row.predicted_label))
    return f"called {row.predicted_label}" + ("" if score is None else f" ({score:.3f})")


def _from_file(row: pd.Series, recipe: Recipe) -> tuple[np.ndarray, str]:
    """The file's image and caption; a gray square that says so where the file cannot be read from here."""
    caption = f"{row.path.rsplit('/', 1)[1][:24]}\n" + _scores(row)
    try:
        return decode_image(storage.read_bytes(row.path), recipe).pixels, caption
    except (OSError, UserError, Unreadable):  # UserError: there is no package for the file system
        return np.full((recipe.height, recipe.width), 128, np.uint8), f"{caption}\nfile not readable here"
