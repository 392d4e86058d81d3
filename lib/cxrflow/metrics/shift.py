"""Whether images look like those that a model was trained on: facts of each image, and how far their distributions lie apart.

The measure is the two-sample Kolmogorov-Smirnov statistic D: the largest difference between the shares of images below any
value. 0: the same distribution; 1: no overlap. A shift is large where D is at least LARGE, which is D between two normal
distributions 0.8 standard deviations apart, a large effect by Cohen (1988), and more than chance gives for the number of
patients. A test's p-value would not do: with many images it is tiny for shifts that do not matter.

Normal and ill lungs differ in all of this. So each label has a distribution of its own, and images are compared with a mixture
of those in which the labels have the shares that they have here: another prevalence is no shift. With several findings an image there
are too many combinations for that: images are compared with all others, whatever is in them, and scores are not.
"""

from __future__ import annotations

import numpy as np
from scipy.stats import norm

from cxrflow.base.schema import score_column

LARGE = float(2 * norm.cdf(0.4) - 1)  # 0.311
CHANCE = 0.001
KEPT = 101

IMAGE_FACTS = {
    "mean": "mean gray value, 0 to 255",
    "sd": "standard deviation of the gray values",
    "sharpness": "sharpness: mean difference of a pixel from its four neighbours' mean, as a share of that deviation",
    "border": "border: mean gray value of the outermost sixteenth on each side less that of the whole",
}
SOURCE_FACTS = {
    "size": "size of the file's image: root of height times width, pixels",
    "aspect": "width / height of the file's image",
}


def image_facts(pixels: np.ndarray) -> np.ndarray:
    """float32 (n, 4), in the order of IMAGE_FACTS, of uint8 (n, H, W), 0 is black. A third of a millisecond an image of
    224 x 224."""
    found = np.empty((len(pixels), len(IMAGE_FACTS)), np.float32)
    for place, image in enumerate(pixels):
        image = image.astype(np.float32)
        mean, sd = image.mean(), image.std()
        inner = image[1:-1, 1:-1]
        around = (image[:-2, 1:-1] + image[2:, 1:-1] + image[1:-1, :-2] + image[1:-1, 2:]) / 4
        rows, columns = (max(1, side // 16) for side in image.shape)
        centre = image[rows:-rows, columns:-columns]
        frame = (image.sum() - centre.sum()) / (image.size - centre.size)
        found[place] = mean, sd, np.abs(inner - around).mean() / max(sd, 1e-3), frame - mean
    return found


def source_facts(heights: np.ndarray, widths: np.ndarray) -> np.ndarray:
    """float32 (n, 2), in the order of SOURCE_FACTS, of the files' sides in pixels."""
    return np.stack([np.sqrt(heights * widths), widths / heights], axis=1, dtype=np.float32)


def score_facts(scores: np.ndarray, labels: list[str], positive: int | None) -> dict[str, np.ndarray]:
    """Scores, float (n, K), as facts by the name of their column: of two labels the positive one's, otherwise all."""
    shown = [positive] if len(labels) == 2 else range(len(labels))
    return {score_column(labels[place]): scores[:, place] for place in shown}


def describe(facts: dict[str, np.ndarray], groups: np.ndarray) -> dict:
    """A reference to compare with: of each group its ``n``, and ``facts`` by name in at most KEPT numbers, from the smallest,
    which tell D to within half a percent. ``facts``: float (n,) by name; ``groups``: text (n,), the labels."""
    return {
        name: {
            "n": int((groups == name).sum()),
            "facts": {fact: _keep(values[groups == name]) for fact, values in facts.items()},
        }
        for name in np.unique(groups).tolist()
    }


def _keep(values: np.ndarray) -> list[float]:
    values = np.sort(values)
    if len(values) > KEPT:
        values = np.quantile(values, (np.arange(KEPT) + 0.5) / KEPT, method="inverted_cdf")
    return [round(float(value), 5) for value in values]


def compare(reference: dict, facts: dict[str, np.ndarray], groups: np.ndarray, patients: int) -> dict:
    """How far the facts, float (n,) by name, of images of ``groups``, text (n,), lie from a run's ``reference``: ``patients`` (how
    many) and ``groups`` (see ``describe``).

    Gives ``measure``, ``limit`` (the D from which a shift is large), ``few`` (whether that is more than LARGE, for there are so few
    patients that a large shift may not show), ``facts`` (by name the ``distance`` D and the medians ``trained`` and ``here``), and
    ``large``: the names of those that are, the largest first.
    """
    shares = _shares(reference["groups"], groups)
    limit = _limit(_effective(reference, shares), patients)
    found = {}
    for name, here in facts.items():
        parts = [(share, reference["groups"][group]["facts"].get(name, [])) for group, share in shares.items()]
        if not all(kept for _, kept in parts):
            continue  # the run's table did not tell
        trained = np.concatenate([kept for _, kept in parts])
        weights = np.concatenate([np.full(len(kept), share / len(kept)) for share, kept in parts])
        here = np.round(here.astype(float), 5)
        found[name] = {
            "distance": distance(trained, weights, here),
            "trained": _median(trained, weights),
            "here": float(np.median(here)),
        }
    ordered = sorted(found, key=lambda name: -found[name]["distance"])
    large = [name for name in ordered if found[name]["distance"] >= limit]
    return {
        "measure": "two-sample Kolmogorov-Smirnov statistic",
        "limit": limit,
        "few": limit > LARGE,
        "facts": found,
        "large": large,
    }


def _limit(one: float, two: float) -> float:
    """The D from which a shift is large: of so many patients, chance alone gives more once in a thousand at most."""
    return min(1.0, max(LARGE, float(np.sqrt(-np.log(CHANCE / 2) / 2 * (1 / one + 1 / two)))))


def _effective(reference: dict, shares: dict[str, float]) -> float:
    """As many patients, drawn with these ``shares`` of the groups, would tell as much as those of the reference do (Kish 1965):
    a label that is common here and was rare there leaves few. Counted in images, and scaled to patients."""
    counts = {name: group["n"] for name, group in reference["groups"].items()}
    images = 1 / sum(share**2 / counts[name] for name, share in shares.items())
    return images * reference["patients"] / sum(counts.values())


def _shares(known: dict, groups: np.ndarray) -> dict[str, float]:
    """How much each group of the reference counts: as much as here, or, where one here is unknown, as much as in training."""
    names, counts = np.unique(groups, return_counts=True)
    if not set(names.tolist()) <= set(known):
        names, counts = np.array(list(known)), np.array([group["n"] for group in known.values()])
    return dict(zip(names.tolist(), (counts / counts.sum()).tolist(), strict=True))


def distance(one: np.ndarray, weights: np.ndarray, two: np.ndarray) -> float:
    """D between the values ``one``, whose weights add up to 1, and the values ``two``, which count the same."""
    values = np.concatenate([one, two])
    order = np.argsort(values, kind="stable")
    apart = np.cumsum(np.concatenate([weights, np.full(len(two), -1 / len(two))])[order])
    return round(float(np.abs(apart[np.append(np.diff(values[order]) > 0, True)]).max()), 6)


def _median(values: np.ndarray, weights: np.ndarray) -> float:
    order = np.argsort(values)
    return float(values[order][np.searchsorted(np.cumsum(weights[order]), 0.5)])
