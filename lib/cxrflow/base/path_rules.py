"""What a file's path tells: its label, its patient and its identifier. Standard library only."""

from __future__ import annotations

import hashlib
import re
from posixpath import basename

# The images of Kermany, Zhang and Goldbaum (2018). Bacteria and virus number their patients separately, so
# person12_bacteria and person12_virus are two people; IM and NORMAL2-IM are two series with numbers of their own.
_KERMANY = re.compile(r"^(person\d+_(?:bacteria|virus))_\d+|^((?:NORMAL2-)?IM-\d+)-\d+")


def patient_of(path: str, rule: str = "auto", root: str = "") -> str:
    """The patient's key by a named rule (see IngestConfig.patients): kermany looks at the file's name, a regular
    expression is searched in the path below ``root``.

    A file that the rule does not fit counts as a patient of its own, under its whole path: two such files
    are never taken for the same person by accident of their names.
    """
    if rule == "file":
        return path
    if rule in ("auto", "kermany"):
        match = _KERMANY.search(basename(path))
    else:
        match = re.search(rule, path.removeprefix(root + "/"))
    return _joined(match) or path


def label_of(path: str, rule: str | None, root: str) -> str | None:
    """The name of the folder that holds the file, or what a regular expression finds in the path below ``root``; None
    where it finds nothing."""
    if rule is None:
        return path.rsplit("/", 2)[-2]
    return _joined(re.search(rule, path.removeprefix(root + "/"))) or None


def _joined(match: re.Match | None) -> str:
    return "-".join(group for group in match.groups() if group) if match else ""


def sample_id(path: str) -> int:
    """A signed 64-bit identifier of a sample: the first eight bytes of the SHA-256 of its path."""
    return int.from_bytes(hashlib.sha256(path.encode()).digest()[:8], "big", signed=True)
