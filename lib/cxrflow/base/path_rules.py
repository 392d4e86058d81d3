"""Rules that derive a label, a patient and a sample id from a file's path. Standard library only."""

from __future__ import annotations

import hashlib
import re
from posixpath import basename

# File names of Kermany, Zhang and Goldbaum (2018), doi:10.17632/rscbjbr9sj. Bacterial and viral cases number their
# patients separately, so person12_bacteria and person12_virus are two people. IM and NORMAL2-IM are separate too.
_KERMANY = re.compile(r"^(person\d+_(?:bacteria|virus))_\d+|^((?:NORMAL2-)?IM-\d+)-\d+")


def patient_of(path: str, rule: str = "auto", root: str = "") -> str:
    """The patient id by a named rule (see IngestConfig.patients).

    The rule kermany looks at the file's name. A regular expression is searched in the path below ``root``. If the rule
    does not match, the file counts as its own patient, with its whole path as id, so that two such files never become
    one patient by chance.
    """
    if rule in ("file", "dicom"):  # catalog.headers adds the patients of DICOM headers
        return path
    if rule in ("auto", "kermany"):
        match = _KERMANY.search(basename(path))
    else:
        match = re.search(rule, path.removeprefix(root + "/"))
    return _joined(match) or path


def label_of(path: str, rule: str | None, root: str) -> str | None:
    """The name of the file's folder, or what the regular expression finds in the path below ``root``.

    None if the expression does not match.
    """
    if rule is None:
        return path.rsplit("/", 2)[-2]
    return _joined(re.search(rule, path.removeprefix(root + "/"))) or None


def _joined(match: re.Match | None) -> str:
    return "-".join(group for group in match.groups() if group) if match else ""


def sample_id(path: str) -> int:
    """A signed 64-bit sample id: the first eight bytes of the SHA-256 of the path."""
    return int.from_bytes(hashlib.sha256(path.encode()).digest()[:8], "big", signed=True)
