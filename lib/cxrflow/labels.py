"""What a file's path tells: its patient and its identifier. Standard library only."""

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
    key = "-".join(group for group in match.groups() if group) if match else ""
    return key or path


def sample_id(path: str) -> int:
    """A signed 64-bit identifier of a sample: the first eight bytes of the SHA-256 of its path."""
    return int.from_bytes(hashlib.sha256(path.encode()).digest()[:8], "big", signed=True)
