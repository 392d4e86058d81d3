"""Contestant "ray": Ray Data with two CPUs over Parquet files of tensors, as its documentation shows for training.

Files come in random order, through a local shuffle buffer.
"""

from __future__ import annotations

import logging
import os

os.environ["RAY_USAGE_STATS_ENABLED"] = "0"

import ray
import ray.data

from contestant import PROCESSES
from feeding import BATCH_ROWS, Batches, Epoch, feeds, read_shard, serve, shards


def convert(table: str, out: str) -> None:
    """Write each of the table's Parquet files with the pixels as Ray's tensors."""
    for path in shards(table):
        pixels, labels = read_shard(path)
        blocks = (
            ray.data.from_numpy(pixels)
            .rename_columns({"data": "pixels"})
            .zip(ray.data.from_numpy(labels).rename_columns({"data": "label"}))
        )
        blocks.write_parquet(out, compression="NONE")


def open_feed(data: str, shuffle_rows: int) -> Epoch:
    def epoch(number: int) -> Batches:
        rows = ray.data.read_parquet(data, shuffle=ray.data.FileShuffleConfig(seed=number))
        for batch in rows.iter_batches(
            batch_size=BATCH_ROWS,
            batch_format="numpy",
            prefetch_batches=2,
            local_shuffle_buffer_size=shuffle_rows,
            local_shuffle_seed=number,
        ):
            yield batch["pixels"], batch["label"]

    return epoch


def main() -> None:
    ray.init(num_cpus=PROCESSES, include_dashboard=False, logging_level=logging.WARNING, log_to_driver=False)
    ray.data.DataContext.get_current().enable_progress_bars = False
    serve(feeds(open_feed), convert)
    ray.shutdown()


if __name__ == "__main__":
    main()
