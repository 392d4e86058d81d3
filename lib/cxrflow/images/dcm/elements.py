"""Tolerant access to the elements of a data set.

pydicom converts values by its own rules and raises on values that break them. Here each value is parsed from the raw
bytes, so one broken optional element is left out with a note and does not make the file unreadable.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydicom import Dataset

NUMBER = re.compile(r"[-+]?(\d+[.,]?\d*|[.,]\d+)([eE][-+]?\d+)?")
BINARY = {"US": "H", "SS": "h", "UL": "I", "SL": "i", "FL": "f", "FD": "d", "UV": "Q", "SV": "q", "AT": "H"}
WORDS = {"OB": "B", "OW": "H", "OF": "f", "OD": "d", "US or SS": "H", "US or OW": "H", "US or SS or OW": "H"}


class Elements:
    """Reads values of one data set and collects notes on what it left out."""

    def __init__(self, dataset: Dataset, notes: list[str] | None = None):
        self.dataset = dataset
        self.notes: list[str] = [] if notes is None else notes

    def note(self, message: str) -> None:
        """Add a note once."""
        if message not in self.notes:
            self.notes.append(message)

    def of_item(self, item: Dataset) -> Elements:
        """Access an item of a sequence. Its notes are collected here."""
        return Elements(item, self.notes)

    def has(self, keyword: str) -> bool:
        """Whether the element exists with a value that is not empty."""
        return bool(self.raw_bytes(keyword)) if self._find(keyword) is not None else False

    def text(self, keyword: str) -> str:
        """Return the value as text without padding, or "" if it is absent, empty or unreadable."""
        return self.texts(keyword)[0] if self.texts(keyword) else ""

    def texts(self, keyword: str) -> list[str]:
        """Return the values that are separated by backslashes, without padding."""
        element = self._find(keyword)
        value = None if element is None else element.value
        if value is None:
            return []
        if isinstance(value, bytes):
            value = value.decode("latin-1")
        values = value.split("\\") if isinstance(value, str) else _as_list(value)
        texts = [str(part).strip(" \0\t\r\n") for part in values]
        return texts if any(texts) else []

    def numbers(self, keyword: str) -> list[float]:
        """Return the numbers of an element; [] if it is absent, empty or, with a note, unreadable."""
        element = self._find(keyword)
        value = None if element is None else element.value
        if element is None or value is None or value in (b"", ""):
            return []
        if isinstance(value, bytes):
            code = BINARY.get(_vr(element)) or WORDS.get(_vr(element))
            if code:
                return self._unpack(keyword, value, code, getattr(element, "is_little_endian", True))
            value = value.decode("latin-1")
        if isinstance(value, str):
            return self._parse(keyword, value.split("\\"))
        return self._parse(keyword, [str(part) for part in _as_list(value)])

    def integer(self, keyword: str) -> int | None:
        """Return the first number, rounded; None if there is none."""
        numbers = self.numbers(keyword)
        return round(numbers[0]) if numbers and abs(numbers[0]) < 2**63 else None

    def number(self, keyword: str) -> float | None:
        """Return the first number; None if there is none."""
        numbers = self.numbers(keyword)
        return numbers[0] if numbers else None

    def items(self, keyword: str) -> list[Elements]:
        """Return the items of a sequence; [] if it is absent, empty or, with a note, unreadable."""
        if self._find(keyword) is None:
            return []
        try:
            value = self.dataset[keyword].value
            return [self.of_item(item) for item in value or () if hasattr(item, "get_item")]
        except Exception:  # pydicom raises many types on damaged sequences
            self.note(f"{keyword} left out: unreadable")
            return []

    def raw_bytes(self, keyword: str) -> bytes:
        """Return a value as little-endian bytes: numbers of 16 bits where pydicom has converted it already."""
        element = self._find(keyword)
        if element is None or element.value is None:
            return b""
        if not isinstance(element.value, bytes):
            try:
                return b"".join(struct.pack("<H", int(part) & 0xFFFF) for part in _as_list(element.value))
            except (TypeError, ValueError):
                return str(element.value).encode("latin-1", "replace")
        return element.value

    def is_little_endian(self, keyword: str) -> bool:
        """Whether the raw bytes of an element are in little-endian order."""
        element = self._find(keyword)
        return bool(getattr(element, "is_little_endian", True)) or not isinstance(
            getattr(element, "value", None), bytes
        )

    def _find(self, keyword: str):
        from pydicom.datadict import tag_for_keyword

        tag = tag_for_keyword(keyword)
        return self.dataset.get_item(tag) if tag is not None and tag in self.dataset else None

    def _unpack(self, keyword: str, value: bytes, code: str, little: bool) -> list[float]:
        count = len(value) // struct.calcsize("=" + code)
        if count == 0:
            self.note(f"{keyword} left out: {len(value)} bytes are too few for a number")
            return []
        return [float(number) for number in struct.unpack_from(f"{'<' if little else '>'}{count}{code}", value)]

    def _parse(self, keyword: str, texts: list[str]) -> list[float]:
        numbers = []
        for text in (part.strip(" \0\t\r\n") for part in texts):
            if not text:
                continue
            if not NUMBER.fullmatch(text):
                self.note(f"{keyword} left out: {text[:20]!a} is not a number")
                return []
            if "," in text:
                self.note(f"{keyword}: decimal comma read as a decimal point")
            numbers.append(float(text.replace(",", ".")))
        return numbers


def _as_list(value: object) -> list:
    return list(value) if isinstance(value, Iterable) and not isinstance(value, (str, bytes)) else [value]


def _vr(element) -> str:
    """The value representation in the file, else the dictionary's."""
    from pydicom.datadict import dictionary_VR

    vr = element.VR
    if vr in (None, "UN"):
        try:
            vr = dictionary_VR(element.tag)
        except KeyError:
            vr = "UN"
    return str(vr)
