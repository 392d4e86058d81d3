"""Which images a reader should see: the best, the worst and the uncertain, with their scores."""

from __future__ import annotations

import io

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from cxrflow import storage
from cxrflow.images import DECODERS, Unreadable
from cxrflow.schema import score_column
from cxrflow.shards import read_shard

Row = tuple[str, list[tuple[np.ndarray, str]]]


def read_predictions(url: str) -> pd.DataFrame:
    """The predictions table, as predict.py wrote it: a few hundred bytes a file."""
    return pd.concat([pq.read_table(io.BytesIO(storage.read_bytes(file))).to_pandas()
                      for file in storage.files(url, ".parquet")], ignore_index=True)


def from_scores(scored: pd.DataFrame, labels: list[str], samples: str, height: int, width: int, count: int) -> list[Row]:
    """Rows of evaluated samples, whose truth is known; pixels come from the table's shards."""
    truth = scored["label"].to_numpy()
    own = np.array([scored[score_column(label)].iloc[place] for place, label in enumerate(truth)])
    rows = [("Surest and right", _first(scored[truth == scored["predicted_label"]], own, count, highest=True)),
            ("Surest and wrong", _first(scored[truth != scored["predicted_label"]], own, count, highest=False)),
            ("Least certain", scored.loc[_certainty(scored, labels).nsmallest(count).index])]

    def caption(row) -> str:
        return f"truth {row.label}\n" + _scores(row, labels)

    def pixels(row) -> np.ndarray:
        shard = read_shard(storage.join(samples, row.shard), ["pixels"])
        return np.frombuffer(shard["pixels"][row.row].as_py(), np.uint8).reshape(height, width)

    return [(title, [(pixels(row), caption(row)) for _, row in part.iterrows()]) for title, part in rows if len(part)]


def from_predictions(predictions: pd.DataFrame, labels: list[str], height: int, width: int, count: int) -> list[Row]:
    """Rows of files that were scored without a known truth; pixels come from the files."""
    scored = predictions[predictions["reason"].isna()]
    rows = [(f"Surest {label}", scored.loc[scored[score_column(label)].nlargest(count).index]) for label in labels]
    rows.append(("Least certain", scored.loc[_certainty(scored, labels).nsmallest(count).index]))
    found = []
    for title, part in rows:
        images = [(_decode(row.path, height, width), f"{row.path.rsplit('/', 1)[1][:24]}\n" + _scores(row, labels))
                  for _, row in part.iterrows()]
        found.append((title, images))
    return [row for row in found if row[1]]


def _first(part: pd.DataFrame, own: np.ndarray, count: int, highest: bool) -> pd.DataFrame:
    """The rows whose score of their true label is highest, or lowest."""
    order = np.argsort(-own[part.index] if highest else own[part.index], kind="stable")
    return part.iloc[order[:count]]


def _certainty(scored: pd.DataFrame, labels: list[str]) -> pd.Series:
    """The distance between the two highest scores: 0 where the model cannot decide."""
    ordered = np.sort(scored[[score_column(label) for label in labels]].to_numpy(), axis=1)
    return pd.Series(ordered[:, -1] - ordered[:, -2], index=scored.index)


def _scores(row: pd.Series, labels: list[str]) -> str:
    best = max(labels, key=lambda label: row[score_column(label)])
    return f"{best} {row[score_column(best)]:.3f}"


def _decode(path: str, height: int, width: int) -> np.ndarray:
    """The file's image, or a gray square where the file has gone since it was scored."""
    try:
        return DECODERS["pillow"](storage.read_bytes(path), height, width).pixels
    except (OSError, Unreadable):
        return np.full((height, width), 128, np.uint8)
