"""The catalog of an ingest: the listed files, the table's rows, and the split and outcome of each file.

The catalog has one row per file and no pixels, so a million files take a few hundred megabytes. It is a DuckDB database
that spills to disk. One task on an executor works on it at a time; between tasks it is stored with the staged files.
Neither the driver's memory nor its time therefore grows with the number of files. Nothing here imports Spark.

Reading order: ``database`` (open, close), ``assign`` (before decoding), ``reconcile`` and ``audit`` (after decoding),
``commit``.
"""
