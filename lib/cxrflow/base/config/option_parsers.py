"""Options that are text with a format of their own, and what they mean."""

from __future__ import annotations

import math
import re

from cxrflow.base.config.option_checks import require
from cxrflow.base.errors import UserError

SPLITS = ("train", "val", "test")
THRESHOLD_RULES = ("balanced", "youden")


def split_fractions(split: str) -> dict[str, float]:
    """The fraction of patients in each split.

    ``"0.8,0.1,0.1"`` gives the fractions of train, val and test; ``"test"`` puts everything into one split.
    Raises UserError unless there are three numbers of at least 0 that add up to 1.
    """
    if split in SPLITS:
        return {name: float(name == split) for name in SPLITS}
    expected = f"--split: expected three fractions that add up to 1, such as 0.8,0.1,0.1, or one of {', '.join(SPLITS)}"
    try:
        fractions = [float(part) for part in split.split(",")]
    except ValueError:
        raise UserError(f"{expected}; got {split!r}") from None
    require(len(fractions) == 3 and all(0 <= value <= 1 for value in fractions), f"{expected}; got {split!r}")
    require(abs(sum(fractions) - 1) < 1e-6, f"{expected}; got {split!r}, which adds up to {sum(fractions):g}")
    return dict(zip(SPLITS, fractions, strict=True))


def parse_bytes(flag: str, size: str) -> int:
    """Bytes of a size such as 512m or 2g. Raises UserError for anything else."""
    match = re.fullmatch(r"(\d+)([kmg])b?", size.strip().lower())
    if not match:
        raise UserError(f"{flag}: expected a size such as 512m or 2g, got {size!r}")
    return int(match[1]) * {"k": 2**10, "m": 2**20, "g": 2**30}[match[2]]


def parse_findings(findings: str) -> list[str] | None:
    """The names in ``--findings``; None for all. Raises UserError for empty, repeated or reserved names."""
    if findings == "all":
        return None
    names = [name.strip() for name in findings.split(",")]
    valid = all(name and "|" not in name and not name.startswith("?") for name in names)
    require(
        valid and len(set(names)) == len(names),
        "--findings: expected all, or different names that hold no | and do not start with ?, such as "
        f"Effusion,Edema; got {findings!r}",
    )
    return names


def parse_threshold(rule: str) -> tuple[str, float | None]:
    """The criterion and the sensitivity of ``--threshold``.

    ``"sensitivity=0.95"`` gives ``("sensitivity", 0.95)``; every other rule gives its name and None. Raises UserError
    for an unknown rule or a sensitivity outside (0, 1].
    """
    if rule in THRESHOLD_RULES:
        return rule, None
    name, _, share = rule.partition("=")
    try:
        sensitivity = float(share) if name == "sensitivity" else math.nan
    except ValueError:
        sensitivity = math.nan
    require(
        0 < sensitivity <= 1,
        f"--threshold: expected one of {', '.join(THRESHOLD_RULES)}, or sensitivity=VALUE with a value above 0 and at "
        f"most 1; got {rule!r}",
    )
    return name, sensitivity


def parse_prevalence(prevalence: str) -> dict[str, float] | float:
    """The shares in ``--prevalence``: a number for ``"0.1"``, a dict for ``"a=0.2,b=0.8"``.

    Raises UserError for anything else and for shares outside (0, 1).
    """
    expected = (
        "--prevalence: expected the positive label's share such as 0.1, or label=share,label=share,... with "
        f"shares above 0 and below 1; got {prevalence!r}"
    )
    try:
        entries = [entry.rpartition("=") for entry in prevalence.split(",")]
        shares = {label.strip(): float(share) for label, _, share in entries}
    except ValueError:
        raise UserError(expected) from None
    require(all(0 < share < 1 for share in shares.values()) and len(shares) == len(entries), expected)
    require("" not in shares or len(shares) == 1, expected)
    return shares.get("", shares)
