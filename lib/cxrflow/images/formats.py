"""Detect a file's format from its content, not from its name."""

from __future__ import annotations

from cxrflow.images.dcm.file_parser import is_dicom
from cxrflow.images.decode_result import DecodeError

FORMATS = ("JPEG", "PNG", "TIFF", "BMP", "GIF", "WEBP", "DICOM", "JPEG2000", "JPEGXL")

JPEG_XL = (b"\0\0\0\x0cJXL \r\n\x87\n", b"\xff\x0a")
"""How a JPEG XL file begins: in a container, or as a bare codestream."""

SIGNATURES = {
    b"\xff\xd8\xff": "JPEG",
    b"\x89PNG\r\n\x1a\n": "PNG",
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
    b"II+\0": "TIFF",
    b"MM\0+": "TIFF",
    b"BM": "BMP",
    b"GIF87a": "GIF",
    b"GIF89a": "GIF",
    b"\0\0\0\x0cjP  ": "JPEG2000",
    b"\xff\x4f\xff\x51": "JPEG2000",
    **dict.fromkeys(JPEG_XL, "JPEGXL"),
}

UNSUPPORTED_SIGNATURES = {
    b"8BPS": "Photoshop",
    b"P5": "PGM",
    b"P6": "PPM",
    b"%PDF": "PDF",
    b"\0\0\x01\0": "ICO",
    b"\x93NUMPY": "NumPy",
}
"""Formats that are detected only to name them in the error."""


def sniff(data: bytes) -> str:
    """Return one of FORMATS, or "" for unknown content.

    DICOM is tested first, because its 128-byte preamble may contain anything. Slide scanners put a TIFF header there.
    """
    if data[128:132] == b"DICM":
        return "DICOM"
    for beginning, name in SIGNATURES.items():
        if data.startswith(beginning):
            return name
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WEBP"
    return "DICOM" if is_dicom(data) else ""


def unknown_format_error(data: bytes) -> DecodeError:
    """Return the error for content whose format ``sniff`` does not recognise."""
    advice = f"expected one of {', '.join(FORMATS)}, or a custom decoder"
    for beginning, name in UNSUPPORTED_SIGNATURES.items():
        if data.startswith(beginning):
            return DecodeError("unsupported", f"{name}; {advice}")
    if data[4:8] == b"ftyp" and data[8:12] in (b"avif", b"heic", b"heix", b"mif1"):
        return DecodeError("unsupported", f"{data[8:12].decode().upper()}; {advice}")
    return DecodeError("not_an_image", f"begins with {bytes(data[:8])!r}; {advice}")


def check_size(height: int, width: int, max_pixels: int) -> None:
    """Raise DecodeError if a declared size is empty or exceeds ``max_pixels``."""
    if height < 1 or width < 1:
        raise DecodeError("corrupt", f"declares {width} x {height} pixels")
    if height * width > max_pixels:
        raise DecodeError("too_large", f"{width} x {height} pixels; the limit is {max_pixels:,} (--max-pixels)")
