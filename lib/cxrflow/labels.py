"""From a file's path to its patient, and from a patient to its split. Standard library only."""

from __future__ import annotations

import hashlib
import re
from pathlib import PurePosixPath

# The images of Kermany, Zhang and Goldbaum (2018). Bacteria and virus number their patients separately, so
# person12_bacteria and person12_virus are two people; IM and NORMAL2-IM are two series with numbers of their own.
_KERMANY = re.compile(r"^(person\d+_(?:bacteria|virus))_\d+|^((?:NORMAL2-)?IM-\d+)-\d+")


def folder_label(path: str) -> str:
    """The name of the folder that holds the file."""
    return PurePosixPath(path).parent.name


def patient_of(path: str, rule: str = "auto") -> str:
    """The patient's key by a named rule (see IngestConfig.patients).

    A file that the rule does not fit counts as a patient of its own, under its whole path: two such files
    are never taken for the same person by accident of their names.
    """
    if rule == "file":
        return path
    pattern = _KERMANY if rule in ("auto", "kermany") else re.compile(rule)
    match = pattern.search(PurePosixPath(path).name)
    key = "-".join(group for group in match.groups() if group) if match else ""
    return key or path


def patient_hash(patient: str, seed: int) -> float:
    """Where a patient lies between 0 (included) and 1 (excluded): a pure function of the key and the seed."""
    digest = hashlib.sha256(f"{seed}:{patient}".encode()).digest()
    return int.from_bytes(digest[:6], "big") / 2**48


def split_of(place: float, thresholds: list[float]) -> str:
    """The split of a patient at ``place``: train below the first threshold, val below the second, else test."""
    train_end, val_end = thresholds
    return "train" if place < train_end else "val" if place < val_end else "test"


def sample_id(path: str) -> int:
    """A signed 64-bit identifier of a sample: the first eight bytes of the SHA-256 of its path."""
    return int.from_bytes(hashlib.sha256(path.encode()).digest()[:8], "big", signed=True)
