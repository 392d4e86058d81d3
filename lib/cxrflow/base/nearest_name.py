"""The known name that a misspelled one most likely means."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def nearest_name(name: str, known: Iterable[str]) -> str | None:
    """The known name that is most like this one; None if none is alike. Hyphens at the start do not count."""
    by_word = {other.lstrip("-"): other for other in known}
    found = difflib.get_close_matches(name.lstrip("-"), by_word, n=1, cutoff=0.7)
    return by_word[found[0]] if found else None
