"""The labels file, as Spark reads it: wherever it lies, CSV or Parquet."""

from __future__ import annotations

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from cxrflow.base import storage
from cxrflow.base.config import IngestConfig, parse_findings
from cxrflow.base.errors import UserError
from cxrflow.base.findings import is_normal
from cxrflow.catalog.findings_reader import KEYS


def read_labels(spark: SparkSession, config: IngestConfig) -> DataFrame:
    """The labels file as text columns; blanks around their names do not count. Raises UserError where a column is missing."""
    url = storage.for_spark(config.labels)
    table = spark.read.parquet(url) if url.endswith(".parquet") else spark.read.csv(url, header=True)
    found = {name.strip(): name for name in table.columns}
    wanted = _label_columns(config, list(found))
    if not wanted or not {"path", *wanted} <= found.keys():
        expected = (
            "label, and optionally patient_id and split"
            if config.findings is None
            else (f"{', '.join(parse_findings(config.findings) or ['one a finding'])}, or label")
        )
        raise UserError(f"--labels: expected the columns path and {expected}; {config.labels!r} has {', '.join(found)}")
    known = [name for name in KEYS if name in found]
    # A finding's name may hold dots, which Spark would take for a path into a structure.
    return table.select(*(F.col(f"`{found[name]}`").cast("string").alias(name) for name in [*known, *wanted]))


def _label_columns(config: IngestConfig, columns: list[str]) -> list[str]:
    """The columns of a labels file with these columns that tell the label, or the findings."""
    if config.findings is None or "label" in columns:
        return ["label"]
    normal = [name for name in columns if is_normal(name)]
    named = parse_findings(config.findings)
    return [name for name in columns if name not in KEYS] if named is None else list(dict.fromkeys([*named, *normal]))
