"""The figures of an evaluation for a person at a terminal."""

from __future__ import annotations

import math

UNNAMED = 0.05
OTHER_ODDS = 0.5  # a factor of 1.6


def as_text(result: dict) -> str:
    """What ``spark.evaluate.evaluate`` found: figures with their 95 % intervals, the confusion matrix, subgroups."""
    lines = [f"{result['n']:,} images of {result['patients']:,} patients: split {result['split']} of {result['table']}"]
    if "accuracy" in result:
        lines.append(_figure("accuracy", result, "accuracy"))
    if "threshold" in result:
        by_chance = result["calibration"]["ece_of_calibrated"]
        lines += [
            _figure(name, result, key)
            for name, key in (
                ("AUC", "auc"),
                ("avg precision", "average_precision"),
                ("sensitivity", "sensitivity"),
                ("specificity", "specificity"),
            )
        ]
        lines += [
            _figure("calibration", result["calibration"], "ece") + f"; {by_chance:.3f} by chance",
            f"{'threshold':<14} {result['threshold']:.3f}  on the score of {result['positive_label']}",
        ]
    else:
        lines.append(
            _figure("mean AUC", result, "auc")
            + f"  over {result['macro']['auc_labels']} of {len(result['labels'])} labels"
        )
        lines += [_figure(f"AUC {label}", figures, "auc") for label, figures in result["per_label"].items()]
    return "\n".join(lines + _confusion(result) + _subgroups(result.get("subgroups")))


def rate(value: float | None) -> str:
    """A share with three digits, and more where it would look like 1 but is less."""
    if value is None:
        return "none"
    return next(
        (shown for shown in (f"{value:.{digits}f}" for digits in (3, 4, 5)) if value >= 1 or float(shown) < 1),
        f"{value:.3f}",
    )


def span(interval: list[float]) -> str:
    return f"{rate(interval[0])} to {rate(interval[1])}"


def _figure(name: str, figures: dict, key: str) -> str:
    value, interval = figures[key], figures[f"{key}_interval"]
    within = f"95 % interval {span(interval)}" if interval else "no interval: too few patients or errors"
    return f"{name:<14} {rate(value):<5}  ({within})"


def _confusion(result: dict) -> list[str]:
    if "confusion" not in result:
        return []
    labels = result["labels"]
    width = max(map(len, labels)) + 2
    rows = [
        label.ljust(16) + "".join(str(count).rjust(width) for count in row)
        for label, row in zip(labels, result["confusion"], strict=True)
    ]
    return ["truth \\ called".ljust(16) + "".join(label.rjust(width) for label in labels), *rows]


def _subgroups(subgroups: dict | None) -> list[str]:
    if not subgroups:
        return []
    key = "accuracy" if all("accuracy" in group for group in subgroups["groups"].values()) else "auc"
    lines = [
        _figure(name, group, key)
        + f"  {group['n']:,} images"
        + _of_all(group)
        + ("  worst" if name == subgroups["worst"] else "")
        for name, group in subgroups["groups"].items()
    ]
    return [f"{key} by subgroup", *lines]


def _of_all(group: dict) -> str:
    """Beside the mean AUC of a group over some findings, that of all images over the same."""
    return (
        f"  over {group['auc_labels']} findings, of all images {rate(group['auc_of_all'])}"
        if group.get("auc_labels")
        else ""
    )


def warnings(result: dict) -> list[str]:
    """What a person should know before the figures are believed."""
    return [*_leakage(result), *_unnamed(result), *_shift(result["shift"]), *_reweighted(result["prevalence"])]


def _leakage(result: dict) -> list[str]:
    leakage = result["leakage"]
    if leakage["table"] == "own":
        return (
            []
            if result["split"] == "test"
            else [
                f"Of the run's own table the split {result['split']} was judged: training saw images of it, or chose the threshold on them, "
                "so the figures flatter the model."
            ]
        )
    if leakage["table"] == "remade":
        return [
            "The run's table was made anew since it was trained, and its patients may have been dealt otherwise: training may "
            "have seen these images, and then the figures flatter the model. Train on the table as it is."
        ]
    if leakage["table"] == "unknown":
        return [
            "The table that the run was trained on is not there to compare with, so nobody can tell whether training saw these images."
        ]
    if not leakage["patients"]:
        return []
    return [
        f"Training or its validation has {leakage['images']:,} of these {result['n']:,} images, and images of {leakage['patients']:,} of these "
        f"{result['patients']:,} patients, by their keys: the figures flatter the model. Two hospitals may use the same keys for "
        "different people; the same file content is the same image."
    ]


def _unnamed(result: dict) -> list[str]:
    if result["unnamed"] <= UNNAMED * result["n"]:
        return []
    return [
        f"{result['unnamed']:,} of {result['n']:,} images tell no patient, and each counts as one: if patients have several, intervals are "
        "too narrow, and images of one patient may have been in training. Ingest with the rule that tells patients (--patients)."
    ]


def _shift(shift: dict | None) -> list[str]:
    if not shift or not shift["large"]:
        return []
    facts = ", ".join(
        f"{name} ({shift['facts'][name]['trained']:.4g} there, {shift['facts'][name]['here']:.4g} here, "
        f"D {shift['facts'][name]['distance']:.2f})"
        for name in shift["large"]
    )
    return [
        f"These images are not like those that the model was validated on: {facts}. D is the {shift['measure']}, and large "
        f"from {shift['limit']:.2f} on: the figures hold for these images only, and the threshold may not fit them."
    ]


def _reweighted(prevalence: dict) -> list[str]:
    used, here = prevalence["used"], prevalence["here"]
    if not used or not any(_apart(used[label], here[label]) for label in used):
        return []
    return [
        "The scores were re-weighted for another prevalence than that of these images, so calibration, measured on "
        "them, means little; sensitivity, specificity and AUC are not touched by it."
    ]


def _apart(used: float, here: float | None) -> bool:
    """Whether the odds of a score that is right there are wrong here."""
    if here is None:
        return False
    if not 0 < here < 1:
        return True
    return abs(math.log(used / (1 - used) * (1 - here) / here)) > OTHER_ODDS
