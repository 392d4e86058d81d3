"""One image, as every contestant but cxrflow makes it: the recipe of cxrflow's Pillow decoder, without its checks."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path

import pyarrow as pa
from PIL import Image

HEIGHT = WIDTH = 224
ROWS_A_FILE = 128
# As cxrflow writes: pixels hardly compress and hardly repeat.
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

# The columns of cxrflow's samples table that say something without a split of patients.
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
    """One row of SCHEMA from a file's bytes: a JPEG is decoded straight to luma at the smallest scale that suffices,
    then resized over the whole area that an output pixel covers."""
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
    """One row of SCHEMA from a file."""
    return make_sample(path, Path(path).read_bytes())


def to_table(samples: list[dict]) -> pa.Table:
    return pa.Table.from_pylist(samples, schema=SCHEMA)
