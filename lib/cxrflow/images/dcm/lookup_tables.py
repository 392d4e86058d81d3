"""Lookup tables of DICOM (PS3.3 C.11.1.1.1 and C.11.2.1.1): descriptor, data, and the range of the entries."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cxrflow.images.bit_depth import DEPTHS
from cxrflow.images.dcm.elements import Elements


@dataclass(frozen=True)
class LookupTable:
    """Maps input values to ``entries``, beginning with the input ``first``."""

    first: int
    entries: np.ndarray
    """uint8 or uint16, one axis."""
    bits: int
    """Bits of the entries' range: 0 to 2**bits - 1."""

    @property
    def white(self) -> int:
        """The largest value of the entries' range."""
        return 2**self.bits - 1

    def apply(self, values: np.ndarray) -> np.ndarray:
        """Look up values. Inputs below the first entry take the first entry, inputs above the last take the last."""
        index = np.clip(np.rint(values) - self.first, 0, len(self.entries) - 1)
        return self.entries[index.astype(np.int64)]


def read_table(elements: Elements, name: str, inputs: tuple[float, float], prefix: str = "LUT") -> LookupTable | None:
    """Read a table from an item of a sequence (or, with a prefix, a palette). Returns None, with a note, if broken.

    Args:
        elements: the item.
        name: what notes call the table.
        inputs: the smallest and the largest possible input. If it may be negative, the first mapped value is signed,
            whatever value representation the file states (PS3.3 C.11.2.1.1).
        prefix: keyword prefix of the descriptor and data elements.
    """
    descriptor = [round(number) & 0xFFFF for number in elements.numbers(f"{prefix}Descriptor")]
    if not descriptor and not elements.has(f"{prefix}Data"):
        elements.note(f"{name} left out: it is empty")
        return None
    if len(descriptor) < 3:
        elements.note(f"{name} left out: its descriptor is incomplete")
        return None
    count, bits = descriptor[0] or 2**16, descriptor[2]
    entries = _entries(elements, f"{prefix}Data", count)
    if len(entries) < count:
        elements.note(f"{name} left out: {len(entries)} of {count} entries")
        return None
    entries = entries[:count]
    used = int(entries.max()).bit_length()
    true_bits = next((depth for depth in DEPTHS if depth >= used), 16)
    if not 1 <= bits <= 16 or used > bits or (used <= bits - 2 and true_bits < bits):
        if used:
            elements.note(f"{name} declares {bits} bits per entry; its entries use {true_bits}")
        bits = true_bits
    return LookupTable(_first_input(descriptor[1], count, inputs), entries, bits)


def _entries(elements: Elements, keyword: str, count: int) -> np.ndarray:
    """Read the entries: two bytes each, or one byte each if there are too few bytes for two."""
    data = elements.raw_bytes(keyword)
    order = "<" if elements.is_little_endian(keyword) else ">"
    if len(data) >= 2 * count or len(data) not in (count, count + 1):
        return np.frombuffer(data[: len(data) // 2 * 2], order + "u2").astype(np.uint16)
    if order == ">" and len(data) % 2 == 0:  # bytes are swapped in pairs, because they were written as 16-bit words
        return np.frombuffer(data, ">u2").astype("<u2").view(np.uint8)
    return np.frombuffer(data, np.uint8)


def _first_input(word: int, count: int, inputs: tuple[float, float]) -> int:
    signed = word - 2**16 if word >= 2**15 else word

    def overlaps(first: int) -> bool:
        return first <= inputs[1] and first + count > inputs[0]

    return signed if inputs[0] < 0 and (overlaps(signed) or not overlaps(word)) else word
