"""Labels that differ only in case or blanks. As separate labels, Spark could not distinguish their score columns."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping

from cxrflow.base.errors import UserError


def spelling_key(label: str) -> str:
    """The same text for labels that differ only in case or blanks."""
    return "".join(label.split()).casefold()


def find_variants(labels: Iterable[str]) -> list[list[str]]:
    """Groups of different labels with the same ``spelling_key``, sorted."""
    groups: dict[str, set[str]] = defaultdict(set)
    for label in labels:
        groups[spelling_key(label)].add(label)
    return sorted(sorted(group) for group in groups.values() if len(group) > 1)


def refuse_variants(labels: Iterable[str]) -> None:
    """Raise UserError if two of the labels differ only in case or blanks."""
    if variants := find_variants(labels):
        groups = "; ".join(" and ".join(map(repr, group)) for group in variants)
        raise UserError(
            f"--merge-labels: expected labels that differ in more than case and blanks, got {groups}; correct them, "
            "or add --merge-labels to merge each group into one label"
        )


def merged_spellings(table: Mapping[str, int], files: Mapping[str, int]) -> dict[str, str]:
    """The spelling that replaces each other one: the most frequent one in the table, or else in the files.

    ``table`` and ``files`` have the number of rows of each label.
    """
    merged: dict[str, str] = {}
    for group in find_variants([*table, *files]):
        chosen = max(group, key=lambda label: (table.get(label, 0), files.get(label, 0)))
        merged |= {label: chosen for label in group if label != chosen}
    return merged
