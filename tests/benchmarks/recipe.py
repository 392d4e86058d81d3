"""Decode and resize one image as cxrflow's Pillow decoder does, without its checks. All other contestants use this."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path

import pyarrow as pa
from PIL import Image

HEIGHT = WIDTH = 224
ROWS_A_FILE = 128
# The same settings as cxrflow: pixels hardly compress and hardly repeat.
WRITING = {
    "compression": {
        "path": "ZSTD",
        "size": "ZSTD",
        "sha256": "ZSTD",
        "label": "ZSTD",
        "source_height": "ZSTD",
        "source_width": "ZSTD",
        "source_format": "ZSTD",
        "pixels": "NONE",
    },
    "use_dictionary": ["label", "source_format"],
    "write_statistics": ["path", "size", "sha256", "label", "source_height", "source_width", "source_format"],
}

# The columns of cxrflow's samples table, without those that need a split by patient.
SCHEMA = pa.schema(
    [
        pa.field("path", pa.string()),
        pa.field("size", pa.int64()),
        pa.field("sha256", pa.string()),
        pa.field("label", pa.string()),
        pa.field("source_height", pa.int32()),
        pa.field("source_width", pa.int32()),
        pa.field("source_format", pa.string()),
        pa.field("pixels", pa.binary()),
    ]
)


def make_sample(path: str, data: bytes) -> dict:
    """Make one row of SCHEMA from a file's bytes.

    A JPEG is decoded to luma at the smallest sufficient scale, then resized by averaging the area of each output pixel.
    """
    with Image.open(io.BytesIO(data)) as image:
        source_width, source_height = image.size
        source_format = image.format
        image.draft("L", (WIDTH, HEIGHT))
        resized = image.convert("L").resize((WIDTH, HEIGHT), Image.Resampling.BILINEAR, reducing_gap=2.0)
    return {
        "path": path,
        "size": len(data),
        "sha256": hashlib.sha256(data).hexdigest(),
        "label": Path(path).parent.name,
        "source_height": source_height,
        "source_width": source_width,
        "source_format": source_format,
        "pixels": resized.tobytes(),
    }


def read_sample(path: str) -> dict:
    """Make one row of SCHEMA from a file."""
    return make_sample(path, Path(path).read_bytes())


def to_table(samples: list[dict]) -> pa.Table:
    return pa.Table.from_pylist(samples, schema=SCHEMA)
