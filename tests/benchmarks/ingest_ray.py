"""Contestants "ray" and "ray-defaults": Ray Data with two CPUs.

"ray" is the fastest of several ways: tasks read their own files, with a few blocks per CPU. "ray-defaults" is the
documented way, read_binary_files and map_batches, with Ray's default number of blocks.
"""

from __future__ import annotations

import argparse
import logging
import os
import random

os.environ["RAY_USAGE_STATS_ENABLED"] = "0"

import pyarrow as pa
import ray
import ray.data

from contestant import PROCESSES, list_images, serve
from recipe import ROWS_A_FILE, WRITING, make_sample, read_sample, to_table

BLOCKS_PER_CPU = 2


def ingest(folder: str, out: str) -> None:
    """Distribute paths; the files' bytes do not pass through the object store."""
    files = list_images(folder)
    random.Random(0).shuffle(files)
    paths = ray.data.from_items([{"path": path} for path in files], override_num_blocks=BLOCKS_PER_CPU * PROCESSES)
    samples = paths.map_batches(read_samples, batch_format="pyarrow", batch_size=ROWS_A_FILE)
    samples.write_parquet(out, max_rows_per_file=ROWS_A_FILE, **WRITING)


def read_samples(batch: pa.Table) -> pa.Table:
    return to_table([read_sample(path) for path in batch["path"].to_pylist()])


def ingest_with_defaults(folder: str, out: str) -> None:
    """Ray reads the files and decides how to distribute them."""
    files = ray.data.read_binary_files(folder, include_paths=True)
    samples = files.map_batches(make_samples, batch_format="pyarrow", batch_size=ROWS_A_FILE)
    samples.write_parquet(out, max_rows_per_file=ROWS_A_FILE, **WRITING)


def make_samples(batch: pa.Table) -> pa.Table:
    pairs = zip(batch["path"].to_pylist(), batch["bytes"].to_pylist(), strict=True)
    return to_table([make_sample(path, data) for path, data in pairs])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--defaults", action="store_true", help='be "ray-defaults"')
    chosen = ingest_with_defaults if parser.parse_args().defaults else ingest
    ray.init(num_cpus=PROCESSES, include_dashboard=False, logging_level=logging.WARNING, log_to_driver=False)
    ray.data.DataContext.get_current().enable_progress_bars = False
    serve(chosen)
    ray.shutdown()


if __name__ == "__main__":
    main()
