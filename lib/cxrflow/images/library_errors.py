"""Convert the exceptions of image libraries to DecodeErrors in plain words.

The libraries' own texts are not passed on: they name types and functions of the library, not what is wrong with a file.
"""

from __future__ import annotations

from cxrflow.images.decode_result import DecodeError

TRUNCATED = ("truncated", "larger than file", "end of file", "end of jpeg file", "offset too large")
UNSUPPORTED = ("unsupported", "unknown", "not supported", "not implemented", "subsampling")
JPEG_DAMAGE = {
    "premature end of data segment": "the JPEG data end early, so a part of the image is missing",
    "extraneous bytes": "there are more JPEG data than the image needs",
    "huffman code": "the JPEG data contain an invalid code",
    "huffman table": "the JPEG data need a table that is missing or damaged",
    "quantization table": "the JPEG data need a table that is missing or damaged",
}
"""libjpeg-turbo's words, and what they mean."""


def to_decode_error(error: Exception, kind: str) -> DecodeError:
    """Convert an exception of Pillow or of one of its plug-ins about a file of format ``kind``."""
    words = f"{type(error).__name__}: {error}".lower()
    if any(sign in words for sign in TRUNCATED):
        return DecodeError("truncated", f"the {kind} file ends before its image does")
    if any(sign in words for sign in UNSUPPORTED) or isinstance(error, NotImplementedError):
        return DecodeError("unsupported", f"a rare variant of {kind}, which cannot be read; save the image as PNG")
    return DecodeError("corrupt", f"the {kind} data are damaged")


def to_jpeg_error(error: Exception, has_end: bool) -> DecodeError:
    """Convert an error of libjpeg-turbo. A cut file, which has no end marker, causes several different messages."""
    words = str(error).lower()
    if not has_end or any(sign in words for sign in TRUNCATED):
        return DecodeError("truncated", "the JPEG data end before the image does")
    if "subsampling" in words or "not implemented" in words:
        return DecodeError("unsupported", "a rare variant of JPEG, which cannot be read; save the image as PNG")
    return DecodeError(
        "corrupt", next((text for sign, text in JPEG_DAMAGE.items() if sign in words), "the JPEG data are damaged")
    )
