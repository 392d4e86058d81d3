"""The columns of the samples, quarantine and predictions tables: names, types and meaning. pyarrow only."""

from __future__ import annotations

import pyarrow as pa

from cxrflow.base.image_columns import IMAGE_COLUMNS

# Columns about the source file, in all three tables.
SOURCE = [
    pa.field("path", pa.string(), nullable=False),  # the file's URL, not percent-encoded
    pa.field("size", pa.int64(), nullable=False),  # bytes
    pa.field("modified", pa.timestamp("us", tz="UTC")),  # null if Spark does not report it
    pa.field("sha256", pa.string()),  # of the file's bytes; null if they could not be read
]

_KINDS = {"text": pa.string(), "number": pa.float32(), "date": pa.string(), "flag": pa.bool_()}

HEADER = [pa.field(name, _KINDS[kind]) for name, kind in IMAGE_COLUMNS.items()]
"""How the image was taken, from its DICOM header; null if the header or the file's format does not say."""

# The split (train, val or test) is not a column of the files. It is in the folder's name, split=..., where Spark,
# pandas and pyarrow find it. A column of the same name inside the file would collide with it.
SAMPLES = pa.schema(
    [
        pa.field("sample_id", pa.int64(), nullable=False),  # first eight bytes of the SHA-256 of path
        *SOURCE,
        pa.field("label", pa.string(), nullable=False),  # of a multi-label table: see cxrflow.base.findings
        pa.field("patient_id", pa.string(), nullable=False),
        pa.field("height", pa.int32(), nullable=False),
        pa.field("width", pa.int32(), nullable=False),
        pa.field("source_height", pa.int32(), nullable=False),
        pa.field("source_width", pa.int32(), nullable=False),
        pa.field("source_format", pa.string(), nullable=False),
        pa.field("source_bits", pa.int32(), nullable=False),  # bits per value in the file
        pa.field("note", pa.string(), nullable=False),  # what decoding dropped or rotated; usually empty
        pa.field("phash", pa.string(), nullable=False),  # see images.image_hash.perceptual_hash
        *HEADER,
        pa.field("pixels", pa.binary(), nullable=False),  # uint8, row-major, height x width, 0 is black
    ]
)

QUARANTINE = pa.schema(
    [
        *SOURCE,
        pa.field("reason", pa.string(), nullable=False),  # one of images.REASONS
        pa.field("detail", pa.string(), nullable=False),  # the decoder's message
    ]
)


def predictions(labels: list[str]) -> pa.Schema:
    """The predictions table: a score for each label, or the reason why the file could not be read.

    For a multi-label model, predicted_label joins the predicted findings with | (``cxrflow.base.findings``).
    """
    return pa.schema(
        [
            *SOURCE,
            *(pa.field(score_column(label), pa.float32()) for label in labels),
            pa.field("predicted_label", pa.string()),
            pa.field("note", pa.string()),  # as in the samples; null if the file could not be read
            pa.field("reason", pa.string()),
            pa.field("detail", pa.string()),
        ]
    )


def score_column(label: str) -> str:
    """Name of the column with a label's score, between 0 and 1."""
    return f"score_{label}"


def truth_column(finding: str) -> str:
    """Name of the column with a finding's true state: 1 for present, 0 for absent, NaN for unknown."""
    return f"truth_{finding}"


def spark_ddl(schema: pa.Schema) -> str:
    """The schema as a Spark SQL string, for mapInArrow."""
    names = {
        pa.string(): "string",
        pa.bool_(): "boolean",
        pa.int64(): "bigint",
        pa.int32(): "int",
        pa.float32(): "float",
        pa.binary(): "binary",
        pa.timestamp("us", tz="UTC"): "timestamp",
    }
    return ", ".join(f"{quoted(field.name)} {names[field.type]}" for field in schema)


def quoted(name: str) -> str:
    """A column's name as an identifier of Spark SQL."""
    return "`" + name.replace("`", "``") + "`"
