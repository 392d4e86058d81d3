"""Read a file's DICOM header without its pixels: no more bytes than needed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from cxrflow.images.dcm.file_parser import is_dicom, parse_header
from cxrflow.images.dcm.header_columns import KEYWORDS, HeaderColumns, header_columns
from cxrflow.images.decode_result import DecodeError

FIRST_BYTES = 2**16
"""Bytes read at first. Most headers are shorter; private elements and tables make some longer."""
GROWTH = 16
"""How many times as many bytes are read if these were too few."""


@dataclass(frozen=True, kw_only=True)
class HeaderScan:
    """What a file's header says."""

    is_dicom: bool
    columns: HeaderColumns | None = None
    """None if the file is not DICOM, or its header cannot be read."""


def scan_header(read: Callable[[int], bytes]) -> HeaderScan:
    """Scan a file. ``read(n)`` returns its first ``n`` bytes, or the whole file if it is shorter.

    A damaged header is no error here: decoding decides about the file. Raises ImportError without pydicom, and what
    ``read`` raises.
    """
    size = FIRST_BYTES
    while True:
        data = read(size)
        is_whole = len(data) < size
        if not is_dicom(data) and (is_whole or data[:2] not in (b"\x02\0", b"\x08\0")):
            return HeaderScan(is_dicom=False)
        try:
            dataset = parse_header(data, is_whole, KEYWORDS)
        except DecodeError:
            return HeaderScan(is_dicom=True)
        if dataset is not None:
            return HeaderScan(is_dicom=True, columns=header_columns(dataset))
        size *= GROWTH
