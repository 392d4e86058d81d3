"""Contestant "pillow": two processes with Pillow and pyarrow, without Spark. The reference for ingest."""

from __future__ import annotations

import multiprocessing
import random
from pathlib import Path

import pyarrow.parquet as pq

from contestant import PROCESSES, list_images, serve
from recipe import ROWS_A_FILE, WRITING, read_sample, to_table


def ingest(pool, folder: str, out: str) -> None:
    """Each process takes every second file in random order, which balances labels and sizes."""
    Path(out).mkdir(parents=True)
    files = list_images(folder)
    random.Random(0).shuffle(files)
    pool.starmap(ingest_files, [(files[rank::PROCESSES], rank, out) for rank in range(PROCESSES)], chunksize=1)


def ingest_files(files: list[str], rank: int, out: str) -> None:
    """One process: read, hash, decode and write, one Parquet file at a time."""
    for start in range(0, len(files), ROWS_A_FILE):
        samples = [read_sample(path) for path in files[start : start + ROWS_A_FILE]]
        pq.write_table(to_table(samples), Path(out) / f"{rank}-{start:08d}.parquet", **WRITING)


def main() -> None:
    with multiprocessing.get_context("fork").Pool(PROCESSES) as pool:
        serve(lambda folder, out: ingest(pool, folder, out))


if __name__ == "__main__":
    main()
