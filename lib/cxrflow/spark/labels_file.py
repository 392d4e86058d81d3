"""Read the labels file, CSV or Parquet, through Spark, which can read every file system of the cluster."""

from __future__ import annotations

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from cxrflow.base import storage
from cxrflow.base.config import IngestConfig, parse_findings
from cxrflow.base.errors import UserError
from cxrflow.base.findings import is_normal
from cxrflow.catalog.findings_reader import KEYS


def read_labels(spark: SparkSession, config: IngestConfig) -> DataFrame:
    """The columns that ingest needs, as text; their names are stripped. Raises UserError if a column is missing."""
    assert config.labels is not None
    url = storage.for_spark(config.labels)
    table = spark.read.parquet(url) if url.endswith(".parquet") else spark.read.csv(url, header=True)
    found = {name.strip(): name for name in table.columns}
    labels = _label_columns(config, list(found))
    if not labels or not {"path", *labels} <= found.keys():
        expected = (
            "label, and optionally patient_id and split"
            if config.findings is None
            else f"{', '.join(parse_findings(config.findings) or ['one for each finding'])}, or label"
        )
        raise UserError(
            f"--labels: expected the columns path and {expected}; got {', '.join(found)} in "
            f"{config.labels!r}; rename them"
        )
    keys = [name for name in KEYS if name in found]
    # The backticks keep Spark from reading a dot in a finding's name as access to a struct's field.
    return table.select(*(F.col(f"`{found[name]}`").cast("string").alias(name) for name in [*keys, *labels]))


def _label_columns(config: IngestConfig, columns: list[str]) -> list[str]:
    """Which of a labels file's columns hold the label, or the findings."""
    if config.findings is None or "label" in columns:
        return ["label"]
    requested = parse_findings(config.findings)
    if requested is None:
        return [name for name in columns if name not in KEYS]
    return list(dict.fromkeys([*requested, *(name for name in columns if is_normal(name))]))
