"""The truth of scored samples as numbers, from the text of the table's column label."""

from __future__ import annotations

import numpy as np


def truth_of(texts: np.ndarray, labels: list[str], multi: bool) -> np.ndarray:
    """int (n,): places in ``labels`` of text (n,). For multi float (n, K), 1 present, 0 absent, NaN unknown, of texts that name
    the findings that are present and, with a question mark in front, those of which nothing is known: ``Effusion|?Edema``."""
    if not multi:
        places = {label: place for place, label in enumerate(labels)}
        return np.array([places[text] for text in texts], int)
    truth = np.zeros((len(texts), len(labels)))
    for row, text in zip(truth, texts, strict=True):
        named = {name.strip() for name in text.split("|")}
        row[[label in named for label in labels]] = 1
        row[[f"?{label}" in named for label in labels]] = np.nan
    return truth
