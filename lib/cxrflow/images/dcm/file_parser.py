"""Parse a DICOM file into a data set, also if its header is missing or contradicts its content.

A file normally begins with a preamble of 128 bytes, "DICM" and the file meta information, which names the transfer
syntax (PS3.10 7.1). Each of these may be missing. The encoding of the data set is then detected: the encoding whose
rules the first elements follow. If no encoding fits, the file is refused.
"""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from cxrflow.images.decode_result import DecodeError

if TYPE_CHECKING:
    from pydicom import Dataset
    from pydicom.tag import BaseTag

IMPLICIT, EXPLICIT, BIG_ENDIAN = "implicit little endian", "explicit little endian", "explicit big endian"
DEFLATED = "1.2.840.10008.1.2.1.99"
ENCODINGS = {"1.2.840.10008.1.2": IMPLICIT, "1.2.840.113619.5.2": IMPLICIT, "1.2.840.10008.1.2.2": BIG_ENDIAN}
"""Transfer syntaxes whose data set is not explicit little endian."""
LONG_VRS = {b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"}
SHORT_VRS = {*b"AE AS AT CS DA DS DT FL FD IS LO LT PN SH SL SS ST TM UI UL US".split()}
FIRST_GROUPS = (b"\x02\0", b"\x08\0", b"\0\x02", b"\0\x08")
"""Groups with which a file without "DICM" may begin, in either byte order."""
ENOUGH = 8
"""Elements that are examined to detect an encoding."""
MAX_INFLATED = 2**31


@dataclass
class DicomFile:
    """A parsed file."""

    dataset: Dataset
    syntax: str
    """Transfer Syntax UID, or "" if the file does not state it."""
    encoding: str
    """IMPLICIT, EXPLICIT or BIG_ENDIAN, as detected."""
    ends_early: bool
    """Whether the file ends inside an element."""
    notes: list[str] = field(default_factory=list)

    @property
    def little_endian(self) -> bool:
        """Whether numbers are stored in little-endian order."""
        return self.encoding != BIG_ENDIAN


class ShortReadDetector(io.BytesIO):
    """Records reads beyond the end of the file, which pydicom ignores."""

    short = False

    def read(self, size: int | None = -1, /) -> bytes:
        """Read, and record if fewer bytes remain than requested."""
        content = super().read(size)
        self.short = self.short or (size is not None and 0 < len(content) < size)
        return content


def is_dicom(data: bytes) -> bool:
    """Whether the content is DICOM, with or without preamble and file meta information."""
    return _find_start(data) is not None


def _find_start(data: bytes) -> int | None:
    """Return where the first element is: after "DICM", or wherever a preamble or "DICM" is missing."""
    if data[128:132] == b"DICM":
        return 132
    if data[:4] == b"DICM":
        return 4
    for start in (0, 128, 132):
        if data[start : start + 2] in FIRST_GROUPS and detect_encoding(data, start):
            return start
    return None


def parse_file(data: bytes) -> DicomFile:
    """Parse all elements of a file.

    Raises:
        DecodeError: the file ends in its header, or its elements follow no encoding.
    """
    start = _find_start(data) or 0
    meta, position = _read_meta(data, start)
    complete = start == 132 and data[128:132] == b"DICM" and meta
    notes = [] if complete else ["no DICOM file header" if not meta else "no DICOM preamble"]
    syntax = _uid(meta, 0x00020010)
    if not syntax and meta:
        notes.append("no transfer syntax")
    if len(data) - position < 8:
        raise DecodeError("truncated", "the file ends after its DICOM header")
    if syntax == DEFLATED or detect_encoding(data, position) is None:
        data, position = _inflate(data[position:], notes, syntax), 0
    encoding = _choose_encoding(data, position, syntax, notes)
    dataset, ends_early = _read_dataset(data, position, encoding)
    return DicomFile(dataset, syntax, encoding, ends_early, notes)


def parse_header(data: bytes, is_whole: bool, keywords: Sequence[str]) -> Dataset | None:
    """Parse these elements of a file, which must not be inside others, and none behind the last of them.

    ``data`` is the file's beginning, or the whole file if ``is_whole``. Returns None if more of the file is needed.
    Raises DecodeError for a whole file that cannot be parsed so far.
    """
    from pydicom.tag import Tag

    try:
        meta, position = _read_meta(data, _find_start(data) or 0)
        syntax, content, notes = _uid(meta, 0x00020010), data[position:], list[str]()
        if syntax == DEFLATED or detect_encoding(content, 0) is None:
            if not is_whole:
                return None
            content = _inflate(content, notes, syntax)
        encoding = _choose_encoding(content, 0, syntax, notes)
        dataset, is_complete = _read_elements(content, encoding, [Tag(keyword) for keyword in keywords])
    except DecodeError:
        if is_whole:
            raise
        return None
    return dataset if is_complete or is_whole else None


def detect_encoding(data: bytes, position: int) -> str | None:
    """Return the encoding that the first elements at ``position`` follow; None if none or several fit."""
    scores = {encoding: _count_elements(data, position, encoding) for encoding in (EXPLICIT, IMPLICIT, BIG_ENDIAN)}
    best = max(scores, key=lambda encoding: scores[encoding])
    fits = [encoding for encoding, score in scores.items() if score == scores[best]]
    return best if scores[best] >= 3 and len(fits) == 1 else None


def _choose_encoding(data: bytes, position: int, syntax: str, notes: list[str]) -> str:
    counts = {encoding: _count_elements(data, position, encoding) for encoding in (EXPLICIT, IMPLICIT, BIG_ENDIAN)}
    detected = detect_encoding(data, position)
    if not syntax:
        best = detected or max(counts, key=lambda encoding: counts[encoding])
        if counts[best] == 0:
            raise DecodeError("corrupt", "no DICOM encoding fits the data set, and the file does not state one")
        return best
    declared = ENCODINGS.get(syntax, EXPLICIT)
    if detected is None or counts[declared] >= 3:
        return declared
    if detected != declared:
        notes.append(f"stored as {detected}, although the file header states {declared}")
    return detected


def _count_elements(data: bytes, position: int, encoding: str) -> int:
    """Count leading elements that follow an encoding: ascending tags and lengths inside the file. ENOUGH at most."""
    order = ">" if encoding == BIG_ENDIAN else "<"
    last, count = (0, -1), 0
    while count < ENOUGH and position + 8 <= len(data):
        tag = struct.unpack_from(order + "HH", data, position)
        if last[0] == 2 < tag[0] and count >= 3:
            return count  # the data set may follow in another encoding than the file meta information
        if tag <= last or tag[0] < 2 or (count == 0 and tag[0] > 0x0028):
            return 0 if count < 3 else count
        size, length = _element_size(data, position, encoding, order)
        if size == 0:
            return 0
        if length == 0xFFFFFFFF:  # a sequence or compressed pixels of undefined length
            return count + 1 if data[position + size : position + size + 4] == _item_tag(order) else 0
        if position + size + length > len(data):
            return count if tag >= (0x0028, 0x0010) else 0  # cut, or the wrong encoding
        last, count, position = tag, count + 1, position + size + length
    return count


def _item_tag(order: str) -> bytes:
    return struct.pack(order + "HH", 0xFFFE, 0xE000)


def _element_size(data: bytes, position: int, encoding: str, order: str) -> tuple[int, int]:
    """Return the size of an element's header and the length of its value; (0, 0) if the header is not valid."""
    if encoding == IMPLICIT:
        return 8, struct.unpack_from("<I", data, position + 4)[0]
    vr = data[position + 4 : position + 6]
    if vr in LONG_VRS:
        if position + 12 > len(data):
            return 0, 0
        return 12, struct.unpack_from(order + "I", data, position + 8)[0]
    return (8, struct.unpack_from(order + "H", data, position + 6)[0]) if vr in SHORT_VRS else (0, 0)


def _read_meta(data: bytes, start: int) -> tuple[Dataset | None, int]:
    """Read the file meta information (group 0002). Returns it, or None, and where the data set begins."""
    from pydicom.filereader import read_dataset

    if data[start : start + 2] != b"\x02\0":
        return None, start
    file = io.BytesIO(data)
    file.seek(start)
    implicit = data[start + 4 : start + 6] not in LONG_VRS | SHORT_VRS
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            meta = read_dataset(file, implicit, True, stop_when=lambda tag, vr, length: tag.group != 2)
    except Exception as error:
        raise DecodeError("corrupt", "the DICOM file header is damaged") from error
    return meta, file.tell()


def _read_dataset(data: bytes, position: int, encoding: str) -> tuple[Dataset, bool]:
    from pydicom.filereader import read_dataset

    file = ShortReadDetector(data)
    file.seek(position)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about what is missing at the end, which we detect
            dataset = read_dataset(file, encoding == IMPLICIT, encoding != BIG_ENDIAN)
    except Exception as error:
        if file.short:
            raise DecodeError("truncated", "the file ends before its image does") from error
        raise DecodeError("corrupt", "the DICOM data set is damaged and cannot be read to its end") from error
    return dataset, file.short


def _read_elements(content: bytes, encoding: str, tags: list[BaseTag | int]) -> tuple[Dataset, bool]:
    """Read the elements with these tags. Returns them, and whether an element behind the last tag was reached."""
    from pydicom.filereader import read_dataset

    reached = False

    def is_behind(tag: BaseTag, _vr: str | None, _length: int) -> bool:
        nonlocal reached
        reached = tag > max(tags)
        return reached

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            dataset = read_dataset(
                io.BytesIO(content), encoding == IMPLICIT, encoding != BIG_ENDIAN, None, is_behind, specific_tags=tags
            )
    except Exception as error:
        raise DecodeError("corrupt", "the DICOM header is damaged") from error
    return dataset, reached


def _inflate(content: bytes, notes: list[str], syntax: str) -> bytes:
    """Inflate a deflated data set. Content that is not deflated is returned as it is, unless the syntax states it."""
    declared = syntax == DEFLATED
    for window in (-zlib.MAX_WBITS, zlib.MAX_WBITS):
        stream = zlib.decompressobj(window)
        try:
            inflated = stream.decompress(content, MAX_INFLATED)
        except zlib.error:
            continue
        if detect_encoding(inflated, 0) is None:
            continue
        if stream.unconsumed_tail:
            raise DecodeError("too_large", "the deflated data set is larger than 2 GB")
        if not stream.eof:
            raise DecodeError("truncated", "the deflated data set ends early")
        if window > 0:
            notes.append("deflated with a zlib header")
        if not declared:
            notes.append("the data set is deflated, although the file header does not say so")
        return inflated
    if not declared:
        return content
    if detect_encoding(content, 0):
        notes.append("the data set is not deflated, although the file header says so")
        return content
    raise DecodeError("truncated" if _starts_deflated(content) else "corrupt", "the deflated data set is damaged")


def _starts_deflated(content: bytes) -> bool:
    try:
        return not zlib.decompressobj(-zlib.MAX_WBITS).decompress(content, 1 << 16) or len(content) < 64
    except zlib.error:
        return False


def _uid(meta: Dataset | None, tag: int) -> str:
    element = meta.get_item(tag) if meta is not None and tag in meta else None
    value = element.value if element is not None else None
    text = value.decode("latin-1") if isinstance(value, bytes) else str(value or "")
    return text.strip(" \0")
