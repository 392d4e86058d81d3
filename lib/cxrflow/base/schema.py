"""The columns of the tables: names, types and meaning. pyarrow only."""

from __future__ import annotations

import pyarrow as pa

# What is known of a source file, in samples and in quarantine alike.
SOURCE = [
    pa.field("path", pa.string(), nullable=False),  # the file's URL as a person would write it
    pa.field("size", pa.int64(), nullable=False),  # bytes
    pa.field("modified", pa.timestamp("us", tz="UTC")),  # null where Spark does not tell it
    pa.field("sha256", pa.string()),  # of the file's bytes; null where they could not be read
]

# The column split (train, val or test) is in the name of a shard's folder, split=..., where Spark, pandas, pyarrow
# and others find it; inside the file as well, it would collide with itself.
SAMPLES = pa.schema(
    [
        pa.field("sample_id", pa.int64(), nullable=False),  # first eight bytes of the SHA-256 of path
        *SOURCE,
        pa.field(
            "label", pa.string(), nullable=False
        ),  # of several findings all in one text, see cxrflow.base.findings
        pa.field("patient_id", pa.string(), nullable=False),
        pa.field("height", pa.int32(), nullable=False),
        pa.field("width", pa.int32(), nullable=False),
        pa.field("source_height", pa.int32(), nullable=False),
        pa.field("source_width", pa.int32(), nullable=False),
        pa.field("source_format", pa.string(), nullable=False),
        pa.field("source_bits", pa.int32(), nullable=False),  # bits stored for a value of the file
        pa.field("note", pa.string(), nullable=False),  # what of the file was left out or turned about; mostly empty
        pa.field("phash", pa.string(), nullable=False),  # see images.similar.perceptual_hash
        pa.field("pixels", pa.binary(), nullable=False),  # uint8, row-major, height x width, 0 is black
    ]
)

QUARANTINE = pa.schema(
    [
        *SOURCE,
        pa.field("reason", pa.string(), nullable=False),  # one of images.REASONS
        pa.field("detail", pa.string(), nullable=False),  # the decoder's words
    ]
)


def predictions(labels: list[str]) -> pa.Schema:
    """The predictions table: one score a label, or a reason where the file could not be read. Of several findings
    predicted_label names those that are called, with | between (``cxrflow.base.findings``)."""
    return pa.schema(
        [
            *SOURCE,
            *(pa.field(score_column(label), pa.float32()) for label in labels),
            pa.field("predicted_label", pa.string()),
            pa.field("reason", pa.string()),
            pa.field("detail", pa.string()),
        ]
    )


def score_column(label: str) -> str:
    """Name of the column that holds a label's score, between 0 and 1."""
    return f"score_{label}"


def truth_column(finding: str) -> str:
    """Name of the column that holds, of several findings, whether one is there: 1, 0 or NaN where that is not known."""
    return f"truth_{finding}"


def spark_ddl(schema: pa.Schema) -> str:
    """The schema in the words of Spark SQL, for mapInArrow."""
    names = {
        pa.string(): "string",
        pa.bool_(): "boolean",
        pa.int64(): "bigint",
        pa.int32(): "int",
        pa.float32(): "float",
        pa.binary(): "binary",
        pa.timestamp("us", tz="UTC"): "timestamp",
    }
    return ", ".join(f"`{field.name}` {names[field.type]}" for field in schema)
