"""The summary that ingest logs at its end: the table's counts, and warnings about its content."""

from __future__ import annotations

import logging

from cxrflow.base.config import SPLITS
from cxrflow.base.manifest import Manifest
from cxrflow.catalog.headers import HeaderCounts, suggest_selection
from cxrflow.catalog.select_files import Selected, counts_text
from cxrflow.images import DOUBTS

log = logging.getLogger(__name__)

SHOWN_NOTES = 8


def log_headers(counts: HeaderCounts, by_header: bool, patients: str) -> None:
    """Log what is known of the new files from their headers. ``patients`` is ``--patients``."""
    if counts.dicom:
        origin = "; patients come from their headers" if by_header else ""
        log.info("headers: %s DICOM files%s", f"{counts.dicom:,}", origin)
    if counts.dicom and patients == "auto" and not by_header:
        log.warning(
            "The patients of this table's DICOM files come from file names, because an older version of cxrflow made "
            "it. The new files follow the same rule. To use the headers' patients, ingest with --if-exists overwrite."
        )
    if counts.without_patient:
        log.warning(
            "%s DICOM files have no usable Patient ID, so each counts as its own patient.",
            f"{counts.without_patient:,}",
        )
    if counts.without_header:
        log.warning("%s files have no readable DICOM header.", f"{counts.without_header:,}")
    for name, files in counts.disagreements.items():
        log.warning(
            "The %s in the labels file differs from the one in the DICOM header for %s files. The table has the "
            "header's value.",
            name,
            f"{files:,}",
        )


def log_selection(selected: Selected, taken: dict[str, dict[str, int]], select: str | None) -> None:
    """Log what ``--select`` left out; without it, warn about files that it should leave out.

    ``taken`` as in HeaderCounts.
    """
    if select is not None:
        log.info("selection: %s files left out", f"{selected.left_out:,}")
        for row in selected.reasons:
            log.info("selection: not %s: %s files with %s", row["condition"], f"{row['files']:,}", row["value"])
        for column, counts in selected.values.items():
            log.info("selection: values of %s in all new files: %s", column, counts_text(counts))
        return
    unusual, suggestion = suggest_selection(taken)
    if unusual:
        log.warning(
            'Not all new files are frontal chest X-rays: %s. To leave the others out, add --select "%s".',
            "; ".join(f"{column} {counts_text(counts)}" for column, counts in unusual.items()),
            suggestion,
        )


def log_summary(manifest: Manifest, fractions: dict[str, float]) -> None:
    """Log the table's counts, then its warnings. ``fractions`` are the requested fractions of the splits."""
    for line in _counts(manifest):
        log.info("%s", line)
    for line in _warnings(manifest, fractions):
        log.warning("%s", line)


def _counts(manifest: Manifest) -> list[str]:
    counts, audit = manifest.counts(), manifest.audit
    # A multi-label table has too many findings for columns; they get lines of their own.
    shown = manifest.labels if manifest.task == "single" else []
    width = max(10, *(len(label) + 2 for label in [*shown, "patients"]))
    lines = [f"{'split':<6}{'patients':>10}{'images':>10}" + "".join(f"{label:>{width}}" for label in shown)]
    for split in SPLITS:
        rows = counts.get(split, {})
        lines.append(
            f"{split:<6}{audit['patients'].get(split, 0):>10,}{manifest.rows(split):>10,}"
            + "".join(f"{rows.get(label, 0):>{width},}" for label in shown)
        )
    lines += [] if manifest.task == "single" else _finding_counts(manifest)
    heights, widths = (
        f"{low:,} to {high:,} px (median {median:,})"
        for low, median, high in (audit["sizes"]["height"], audit["sizes"]["width"])
    )
    formats = ", ".join(f"{name} {files:,}" for name, files in audit["formats"].items())
    bits = ", ".join(f"{bits} bit {files:,}" for bits, files in audit["bits"].items())
    notes = ", ".join(f"{note} {files:,}" for note, files in list(audit["notes"].items())[:SHOWN_NOTES])
    notes += ", ..." if len(audit["notes"]) > SHOWN_NOTES else ""
    lines += [f"source files: height {heights}, width {widths}; " + "; ".join(filter(None, [formats, bits, notes]))]
    for name, files in audit["taken"].items():
        lines += [f"{name}: " + ", ".join(f"{value} {count:,}" for value, count in list(files.items())[:10])]
    lines += [f"{len(manifest.shards):,} shards of up to {manifest.shard_rows} images"]
    return lines


def _finding_counts(manifest: Manifest) -> list[str]:
    width = max(map(len, [*manifest.labels, "finding"])) + 2
    states = {"present": manifest.counts(), "absent": manifest.absent(), "unknown": manifest.unknown()}
    lines = ["finding".ljust(width) + "".join(f"{f'{split} {state}':>15}" for split in SPLITS for state in states)]
    return lines + [
        label.ljust(width)
        + "".join(f"{counts.get(split, {}).get(label, 0):>15,}" for split in SPLITS for counts in states.values())
        for label in manifest.labels
    ]


def _warnings(manifest: Manifest, fractions: dict[str, float]) -> list[str]:
    audit, counts = manifest.audit, manifest.counts()
    warnings = [
        f"The {split} split is empty, because a label has too few patients. Check the labels: a label is the name of "
        "the file's folder, or comes from --labels or --label-rule."
        for split in SPLITS
        if split not in counts and fractions[split] > 0
    ]
    joined = [label for label in manifest.labels if "|" in label]
    if joined and manifest.task == "single":
        warnings.append(
            f"{len(joined):,} labels combine several findings, such as {joined[0]}. To train and evaluate each finding "
            "separately, ingest with --findings all."
        )
    if manifest.quarantined:
        reasons = ", ".join(f"{reason} {files:,}" for reason, files in manifest.quarantined.items())
        warnings.append(
            f"{sum(manifest.quarantined.values()):,} files could not be used ({reasons}). "
            "The folder quarantine of the table lists them."
        )
    duplicates, conflicts, near = audit["duplicates"], audit["conflicting_labels"], audit["near_duplicates"]
    if duplicates["contents"]:
        warnings.append(
            f"{duplicates['files']:,} files are copies of {duplicates['contents']:,} images, such as "
            f"{' and '.join(duplicates['examples'][0][:2])}. All copies of an image are in the same split."
        )
    if conflicts["contents"]:
        warnings.append(
            f"{conflicts['contents']:,} images have more than one label, such as "
            f"{' and '.join(conflicts['examples'][0][:2])}. Correct the labels."
        )
    if near["pairs"]:
        warnings.append(
            f"{near['pairs']:,} pairs of images look alike but are different files, and {near['across_splits']:,} of "
            f"these pairs are in different splits, such as {' and '.join(near['examples'][0])}. Look at them before "
            "you trust a test result."
        )
    if audit["burned_in"]:
        warnings.append(
            f"By their headers, {audit['burned_in']:,} images have text burned into their pixels. It may name the "
            "patient, and a model may learn from it. To leave them out, add --select 'burned_in_annotation not in yes'."
        )
    warnings += [
        f"{found['files']:,} images may be wrong ({name}): {DOUBTS[name].meaning}. Look at them: "
        f"{', '.join(found['examples'])}{' and more' if found['files'] > len(found['examples']) else ''}. "
        f"{DOUBTS[name].advice}"
        for name, found in audit["doubts"].items()
    ]
    if audit["files_without_patient"]:
        warnings.append(
            f"{audit['files_without_patient']:,} of {manifest.rows():,} files have no patient in their name, header or "
            "labels file, so each counts as its own patient. If patients have several images, give the naming rule "
            "with --patients. Otherwise test results are too optimistic."
        )
    return warnings
