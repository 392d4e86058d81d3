"""An evaluation as text for the terminal, and its warnings."""

from __future__ import annotations

import math

from cxrflow.base.image_groups import MIN_PATIENTS
from cxrflow.metrics.subgroups import listed_subgroups

MAX_UNNAMED = 0.05
"""Share of images without a patient from which the user is warned."""
MAX_LOG_ODDS_RATIO = 0.5
"""Between the prevalence that scores were adjusted to and that of the images: a factor of 1.6 in the odds."""


def as_text(result: dict) -> str:
    """The content of metrics.json as lines: figures with 95 % intervals, the confusion matrix, subgroups."""
    lines = [
        f"{result['n']:,} images of {result['patients']:,} patients, split {result['split']} of {result['table']}",
        "95 % intervals in parentheses",
    ]
    if "accuracy" in result:
        lines.append(_figure("accuracy", result, "accuracy"))
    if "threshold" in result:
        by_chance = result["calibration"]["ece_of_calibrated"]
        lines += [
            _figure(name, result, key)
            for name, key in (
                ("AUC", "auc"),
                ("average precision", "average_precision"),
                ("sensitivity", "sensitivity"),
                ("specificity", "specificity"),
            )
        ]
        lines += [
            _figure("calibration error", result["calibration"], "ece") + f", {by_chance:.3f} expected by chance",
            f"{'threshold':<17} {result['threshold']:.3f}  for the score of {result['positive_label']}",
        ]
    else:
        lines.append(
            _figure("mean AUC", result, "auc")
            + f"  over {result['macro']['auc_labels']} of {len(result['labels'])} labels"
        )
        lines += [_figure(f"AUC {label}", figures, "auc") for label, figures in result["per_label"].items()]
    return "\n".join(lines + _confusion(result) + _subgroups(result) + _taken(result["shift"]))


def rate(value: float | None) -> str:
    """A share with three digits, or more where it would look like 1 but is less; ``none`` for None."""
    if value is None:
        return "none"
    return next(
        (text for text in (f"{value:.{digits}f}" for digits in (3, 4, 5)) if value >= 1 or float(text) < 1),
        f"{value:.3f}",
    )


def span(interval: list[float]) -> str:
    """An interval [low, high] as text."""
    return f"{rate(interval[0])} to {rate(interval[1])}"


def _figure(name: str, figures: dict, key: str) -> str:
    value, interval = figures[key], figures[f"{key}_interval"]
    return f"{name:<17} {rate(value):<5}  ({span(interval) if interval else 'no interval: too few patients or errors'})"


def _confusion(result: dict) -> list[str]:
    if "confusion" not in result:
        return []
    labels = result["labels"]
    width = max(map(len, labels)) + 2
    first = max(len("label \\ predicted"), *map(len, labels))
    rows = [
        label.ljust(first) + "".join(str(count).rjust(width) for count in row)
        for label, row in zip(labels, result["confusion"], strict=True)
    ]
    return ["label \\ predicted".ljust(first) + "".join(label.rjust(width) for label in labels), *rows]


def _subgroups(result: dict) -> list[str]:
    lines = []
    for grouping in listed_subgroups(result):
        groups = grouping["groups"]
        key = "accuracy" if all("accuracy" in group for group in groups.values()) else "auc"
        lines.append(f"{key.replace('auc', 'AUC')} by {grouping['by']}")
        lines += [
            _figure(name, group, key)
            + f"  {group['n']:,} images"
            + _of_all(group)
            + ("  lowest" if name == grouping["worst"] else "")
            for name, group in groups.items()
        ]
        if grouping["unshown"]:
            lines.append(f"not shown: {grouping['unshown']:,} images of fewer than {MIN_PATIENTS} patients")
    return lines


def _taken(shift: dict | None) -> list[str]:
    """How many images were taken how, in training and here."""
    if not shift or not shift.get("taken"):
        return []
    return [
        f"{name}, training and here: "
        + ", ".join(
            f"{group} {found['trained'][group]:.0%} {share_text(found['here'][group])}" for group in found["here"]
        )
        + f"; distance {found['distance']:.2f}, large from {found['limit']:.2f}"
        for name, found in shift["taken"]["groupings"].items()
    ]


def share_text(share: float | None) -> str:
    """A share of images in per cent; None is that of too few patients to show."""
    return f"below {MIN_PATIENTS} patients" if share is None else f"{share:.0%}"


def _of_all(group: dict) -> str:
    """The mean AUC of all images over the same findings as the group's."""
    return (
        f"  over {group['auc_labels']} findings, all images {rate(group['auc_of_all'])}"
        if group.get("auc_labels")
        else ""
    )


def warnings(result: dict) -> list[str]:
    """What a person should know before trusting the figures of metrics.json."""
    return [
        *_leakage(result),
        *_unnamed(result),
        *_shift(result["shift"]),
        *_taken_otherwise(result["shift"]),
        *_reweighted(result["prevalence"]),
    ]


def _leakage(result: dict) -> list[str]:
    leakage = result["leakage"]
    match leakage["table"]:
        case "own" if result["split"] != "test":
            text = (
                f"The figures are too good: the split {result['split']} of the run's own table was evaluated, and "
                "training used images of it or chose the threshold on them."
            )
        case "remade":
            text = (
                "The figures may be too good: the run's table was ingested again after training, and patients may be "
                "in other splits now, so training may have used these images. Train on the new table."
            )
        case "unknown":
            text = (
                "The table that the run was trained on is not available. So it is unknown whether training used these "
                "images."
            )
        case "other" if leakage["patients"]:
            text = (
                f"The figures are too good: training or its validation used {leakage['images']:,} of these "
                f"{result['n']:,} images, and images of {leakage['patients']:,} of these {result['patients']:,} "
                "patients. Patients are compared by identifier, and two hospitals may use the same one for different "
                "people. Images are compared by file content."
            )
        case _:
            return []
    return [text]


def _unnamed(result: dict) -> list[str]:
    if result["images_without_patient"] <= MAX_UNNAMED * result["n"]:
        return []
    return [
        f"{result['images_without_patient']:,} of {result['n']:,} images name no patient, and each counts as a patient "
        "of its own. If patients have several images, the intervals are too narrow, and training may have used images "
        "of the same patients. Ingest with a rule that finds the patient (--patients)."
    ]


def _shift(shift: dict | None) -> list[str]:
    if not shift or not shift["large"]:
        return []
    facts = ", ".join(
        f"{name} (median {shift['facts'][name]['trained']:.4g} there, {shift['facts'][name]['here']:.4g} here, "
        f"D {shift['facts'][name]['distance']:.2f})"
        for name in shift["large"]
    )
    return [
        f"These images differ from the run's validation images: {facts}. D is the {shift['measure']}; from "
        f"{shift['limit']:.2f} it is large. The figures apply to these images only, and the threshold may not fit them."
    ]


def _taken_otherwise(shift: dict | None) -> list[str]:
    if not shift or not shift.get("taken"):
        return []
    taken, lines = shift["taken"], []
    for name in taken["large"]:
        found = taken["groupings"][name]
        shown = [group for group, share in found["here"].items() if share is not None]
        most = sorted(shown, key=lambda group: -abs(found["here"][group] - found["trained"][group]))[:3]
        shares = ", ".join(
            f"{group} {found['trained'][group]:.0%} there, {found['here'][group]:.0%} here" for group in most
        )
        lines.append(
            f"These images were taken otherwise than the training images ({name}): {shares}. The {taken['measure']} is "
            f"{found['distance']:.2f}; from {found['limit']:.2f} it is large. Look at the subgroups."
        )
    new = {name: found["new"] for name, found in taken["groupings"].items() if found["new"]}
    if new:
        groups = "; ".join(f"{name} {', '.join(groups)}" for name, groups in new.items())
        lines.append(
            f"Training had fewer than {MIN_PATIENTS} patients in these groups, or none: {groups}. The figures "
            "of these subgroups say more than those of all images."
        )
    return lines


def _reweighted(prevalence: dict) -> list[str]:
    used, here = prevalence["used"], prevalence["here"]
    if not used or not any(_differ(used[label], here[label]) for label in used):
        return []
    return [
        "The scores were adjusted to another prevalence than that of these images, so the calibration on these images "
        "means little. Sensitivity, specificity and AUC are not affected."
    ]


def _differ(used: float, here: float | None) -> bool:
    """Whether the odds of the two prevalences differ by more than MAX_LOG_ODDS_RATIO."""
    if here is None:
        return False
    if not 0 < here < 1:
        return True
    return abs(math.log(used / (1 - used) * (1 - here) / here)) > MAX_LOG_ODDS_RATIO
