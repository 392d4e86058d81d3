"""Prove that a lossless JPEG was decoded completely, by counting the bits of its scan.

Decoders fill up what is missing and ignore what is left. But the decoded values determine how many bits their codes
have (ITU-T T.81, H.1.2.2). If that is the length of the scan, the decoder read each code, and nothing else. Damage
that a strict decoder reports, such as a cut scan, always changes the count. The count takes a quarter of the time of a
second, strict decoder.
"""

from __future__ import annotations

import functools

import numpy as np

from cxrflow.images.checks import jpeg
from cxrflow.images.lookup import look_up

HUFFMAN_TABLES, START_OF_SCAN, RESTART_INTERVAL = 0xC4, 0xDA, 0xDD
BLOCK = 2**18
"""Values that are counted at a time, so that they stay in the processor's cache."""


def fits_scan(data: bytes, values: np.ndarray) -> bool:
    """Whether the codes of ``values``, unsigned (H, W), fill exactly the scan of the lossless JPEG ``data``.

    Only files of the usual kind can be counted: one component, one scan, predictor 1, no point transform and no restart
    intervals. The answer is False for all others, so it does not mean damage.
    """
    header = jpeg.read_header(data)
    tables: dict[int, np.ndarray] = {}
    for marker, start, end in jpeg.segments(data):
        if marker == HUFFMAN_TABLES:
            tables |= _read_lengths(data[start:end])
        elif marker == RESTART_INTERVAL and any(data[start:end]):
            return False
        elif marker == START_OF_SCAN:
            break
    else:
        return False
    scan = data[start:end]
    # one component with its table, predictor 1, and no point transform
    if len(scan) != 6 or scan[0] != 1 or scan[3] != 1 or scan[5] != 0 or scan[2] >> 4 not in tables:
        return False
    codes = np.frombuffer(data, np.uint8, data.rfind(jpeg.END) - end, end)
    escapes = np.flatnonzero(codes == 0xFF)
    if len(escapes) and (escapes[-1] + 1 == len(codes) or codes[escapes + 1].any()):  # another marker
        return False
    available = 8 * (len(codes) - len(escapes))
    return available - 8 < _count_bits(values, tables[scan[2] >> 4], header.bits) <= available


def _read_lengths(content: bytes) -> dict[int, np.ndarray]:
    """The bits of a difference, code and value, for each difference modulo 2**16; by the table's number."""
    tables, position = {}, 0
    while position + 17 <= len(content):
        name, counts = content[position], content[position + 1 : position + 17]
        symbols = content[position + 17 : position + 17 + sum(counts)]
        position += 17 + sum(counts)
        lengths = np.full(17, 255, np.uint8)  # a category without a code never fits
        for symbol, length in zip(symbols, np.repeat(np.arange(1, 17), list(counts)), strict=False):
            if symbol <= 16:
                lengths[symbol] = length + (symbol if symbol < 16 else 0)
        tables[name] = lengths[_categories()]
    return tables


@functools.cache
def _categories() -> np.ndarray:
    """The number of bits of each difference modulo 2**16, without its sign."""
    differences = np.arange(2**16, dtype=np.uint16).view(np.int16).astype(np.int64)
    return np.array([abs(difference).bit_length() for difference in differences.tolist()])


def _count_bits(values: np.ndarray, lengths: np.ndarray, precision: int) -> int:
    """The bits of all codes: differences to the left neighbour, in the first column to the one above (H.1.2.1)."""
    first = values[:, :1].astype(np.uint16)
    above = np.concatenate([np.full((1, 1), 1 << (precision - 1), np.uint16), first[:-1]])
    bits = int(lengths[first - above].sum())
    rows = max(1, BLOCK // values.shape[1])
    for top in range(0, len(values), rows):
        block = values[top : top + rows].astype(np.uint16, copy=False)
        bits += int(look_up(lengths, block[:, 1:] - block[:, :-1]).sum(dtype=np.uint32))
    return bits
