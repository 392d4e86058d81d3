"""The catalog of an ingest: which files there are, what the table has of them, where each belongs, what came of it.

A row a file and no pixels, so a million files are a few hundred megabytes. One task on an executor works on it at a
time, in a DuckDB database that stays within its memory by using the disk; in between it lies beside what the
ingest has staged. That way neither the driver's memory nor its time grows with the files. No Spark here.

Reading order: ``database`` (open, close), ``place`` (before decoding), ``settle`` and ``audit`` (after it).
"""
