"""What a person sees of a table at the end of an ingest: a table of its splits, and what looks wrong with it."""

from __future__ import annotations

import logging

from cxrflow.base.config import SPLITS
from cxrflow.base.manifest import Manifest

log = logging.getLogger(__name__)


def describe(manifest: Manifest, shares: dict[str, float]) -> None:
    """Log the table's counts and its audit; ``shares`` are the shares of each split that were asked for."""
    for line in _counts(manifest):
        log.info("%s", line)
    for line in _findings(manifest, shares):
        log.warning("%s", line)


def _counts(manifest: Manifest) -> list[str]:
    counts, audit = manifest.counts(), manifest.audit
    shown = manifest.labels if manifest.task == "single" else []  # findings are many, and get lines of their own
    width = max(len(label) for label in [*shown, "patients"]) + 2
    lines = [f"{'split':<6}{'patients':>10}{'images':>10}" + "".join(f"{label:>{max(width, 10)}}" for label in shown)]
    for split in SPLITS:
        rows, images = counts.get(split, {}), sum(shard.rows for shard in manifest.of_split(split))
        lines.append(
            f"{split:<6}{audit['patients'].get(split, 0):>10,}{images:>10,}"
            + "".join(f"{rows.get(label, 0):>{max(width, 10)},}" for label in shown)
        )
    lines += [] if manifest.task == "single" else _finding_counts(manifest)
    height, width = (
        f"{low:,} to {high:,} px (median {median:,})"
        for low, median, high in (audit["sizes"]["height"], audit["sizes"]["width"])
    )
    formats = ", ".join(f"{name} {files:,}" for name, files in audit["formats"].items())
    bits = ", ".join(f"{bits} bit {files:,}" for bits, files in audit["bits"].items())
    notes = ", ".join(f"{note} {files:,}" for note, files in audit["notes"].items())
    lines += [f"sources: height {height}, width {width}; {formats}; {bits}" + (f"; {notes}" if notes else "")]
    lines += [f"{len(manifest.shards):,} shards of {manifest.shard_rows} images"]
    return lines


def _finding_counts(manifest: Manifest) -> list[str]:
    width = max(map(len, [*manifest.labels, "finding"])) + 2
    kinds = {"present": manifest.counts(), "absent": manifest.absent(), "unknown": manifest.unknown()}
    lines = ["finding".ljust(width) + "".join(f"{f'{split} {kind}':>15}" for split in SPLITS for kind in kinds)]
    return lines + [
        label.ljust(width)
        + "".join(f"{counts.get(split, {}).get(label, 0):>15,}" for split in SPLITS for counts in kinds.values())
        for label in manifest.labels
    ]


def _findings(manifest: Manifest, shares: dict[str, float]) -> list[str]:
    audit, found = manifest.audit, []
    counts = manifest.counts()
    found += [
        f"The split {split} is empty: too few patients for a label. Are the labels right? A label is the name of the "
        "folder that directly holds the file, or comes from --labels or --label-rule."
        for split in SPLITS
        if split not in counts and shares[split] > 0
    ]
    joined = [label for label in manifest.labels if "|" in label]
    if joined and manifest.task == "single":
        found.append(
            f"{len(joined):,} labels name several things, such as {joined[0]}: to learn and judge each of them by itself, "
            "ingest with --findings all."
        )
    if manifest.quarantined:
        reasons = ", ".join(f"{reason} {files:,}" for reason, files in manifest.quarantined.items())
        found.append(
            f"{sum(manifest.quarantined.values()):,} files could not be used ({reasons}): see quarantine in the table."
        )
    copies, conflicts, near = audit["duplicates"], audit["conflicting_labels"], audit["near_duplicates"]
    if copies["contents"]:
        found.append(
            f"{copies['files']:,} files are copies of each other ({copies['contents']:,} contents), such as "
            f"{' and '.join(copies['examples'][0][:2])}; each content is in one split only."
        )
    if conflicts["contents"]:
        found.append(
            f"{conflicts['contents']:,} contents have more than one label, such as "
            f"{' and '.join(conflicts['examples'][0][:2])}: mend the labels."
        )
    if near["pairs"]:
        found.append(
            f"{near['pairs']:,} pairs of images look alike but are not the same file, {near['across_splits']:,} of "
            f"them in different splits, such as {' and '.join(near['examples'][0])}: look at them before you "
            "trust a test figure."
        )
    if audit["unnamed_files"]:
        found.append(
            f"{audit['unnamed_files']:,} of {manifest.rows():,} files tell no patient, so each counts as a patient of its own. If "
            "patients have several images, name the rule with --patients: otherwise test figures flatter the model."
        )
    return found
