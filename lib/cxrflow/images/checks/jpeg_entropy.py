"""Check the entropy-coded data of a sequential Huffman JPEG without decoding pixels.

The strict decoder refuses some sampling factors, and Pillow decodes them but ignores damage. This check reads every
code in Python, which takes about one second per million codes. It is meant for these rare files.
"""

from __future__ import annotations

import re
import struct

from cxrflow.images.checks.jpeg import MARKER, Header, segments
from cxrflow.images.decode_result import DecodeError

RESTART = re.compile(rb"\xff[\xd0-\xd7]")
Table = list[tuple[int, int]]
"""For each possible 16 bits: (length of the code they begin with, its symbol); length 0 if there is none."""


def check_sequential_scan(data: bytes, header: Header) -> None:
    """Raise DecodeError unless the scan decodes to exactly the blocks that the image has.

    Args:
        data: a baseline or extended file whose components are in one scan.
        header: its header.
    """
    tables: dict[int, Table] = {}
    sampling: dict[int, tuple[int, int]] = {}
    interval = 0
    for marker, start, end in segments(data):
        if marker == 0xC4:
            tables |= _read_tables(data[start:end])
        elif marker == 0xDD:
            interval = int.from_bytes(data[start : start + 2], "big")
        elif marker in (0xC0, 0xC1):
            for index in range(data[start + 5]):
                name, factors = data[start + 6 + 3 * index], data[start + 7 + 3 * index]
                sampling[name] = factors >> 4, factors & 15
        elif marker == 0xDA:
            _check_scan(data, start, end, header, tables, sampling, interval)
            return


def _read_tables(content: bytes) -> dict[int, Table]:
    tables, position = {}, 0
    while position + 17 <= len(content):
        name, counts = content[position], content[position + 1 : position + 17]
        symbols = content[position + 17 : position + 17 + sum(counts)]
        position += 17 + sum(counts)
        table, index = [], 0
        for length, count in enumerate(counts, 1):
            for symbol in symbols[index : index + count]:
                table += [(length, symbol)] * (1 << (16 - length))
            index += count
        if len(table) > 2**16:
            raise DecodeError("corrupt", "a JPEG Huffman table with too many codes")
        tables[name] = table + [(0, 0)] * (2**16 - len(table))
    return tables


def _check_scan(
    data: bytes,
    start: int,
    end: int,
    header: Header,
    tables: dict[int, Table],
    sampling: dict[int, tuple[int, int]],
    interval: int,
) -> None:
    blocks = []  # (component, DC table, AC table) of each block of a minimum coded unit
    for index in range(data[start]):
        name, selectors = data[start + 1 + 2 * index], data[start + 2 + 2 * index]
        if name not in sampling or selectors >> 4 not in tables or 16 | (selectors & 15) not in tables:
            raise DecodeError("corrupt", "a JPEG scan without its tables")
        horizontal, vertical = sampling[name]
        blocks += [(tables[selectors >> 4], tables[16 | (selectors & 15)])] * (horizontal * vertical)
    wide, high = (8 * max(factors[axis] for factors in sampling.values()) for axis in (0, 1))
    units = -(-header.width // wide) * -(-header.height // high)
    marker = MARKER.search(data, end)
    stop = marker.start() if marker else len(data)
    intervals = RESTART.split(data[end:stop])
    for index, coded in enumerate(intervals):
        count = min(interval, units) if interval else units
        if count <= 0 or (index == len(intervals) - 1 and units > count):
            raise DecodeError("corrupt", "the JPEG scan has too few or too many restart intervals")
        _check_interval(coded.replace(b"\xff\x00", b"\xff"), blocks, count)
        units -= count


def _check_interval(coded: bytes, blocks: list[tuple[Table, Table]], units: int) -> None:
    """Read ``units`` minimum coded units; the bits must end with them, but for the padding of the last byte."""
    bits, position = 8 * len(coded), 0
    coded += bytes(512)  # a block that runs past the end is still read
    read = struct.Struct(">I").unpack_from
    for _ in range(units):
        for dc, ac in blocks:
            length, symbol = dc[(read(coded, position >> 3)[0] >> (16 - (position & 7))) & 0xFFFF]
            if length == 0 or symbol > 15:
                raise DecodeError("corrupt", "the JPEG scan has an invalid code")
            position += length + symbol
            coefficient = 1
            while coefficient < 64:
                length, symbol = ac[(read(coded, position >> 3)[0] >> (16 - (position & 7))) & 0xFFFF]
                if length == 0:
                    raise DecodeError("corrupt", "the JPEG scan has an invalid code")
                position += length + (symbol & 15)
                if symbol == 0:
                    break
                coefficient += 16 if symbol == 0xF0 else (symbol >> 4) + 1
            if coefficient > 64:
                raise DecodeError("corrupt", "a JPEG block with more than 64 coefficients")
            if position > bits:
                raise DecodeError("truncated", "the JPEG scan ends early")
    if bits - position >= 8:
        raise DecodeError("corrupt", "the JPEG scan has more data than the image has blocks")
