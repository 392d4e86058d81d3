"""Break down the time of cxrflow's ingest: each step alone in one process, and the rest of the whole ingest.

Each step runs on all files of a folder before the next one starts, with the previous step's output as input. Then the
whole ingest is timed on two cores, warm, as in ingest.py. Twice its wall time is the available processor time. The
rest, which the steps do not explain, is Spark, listing, assigning, reconciling, the pipes of the decoding child
processes, and idle cores. Prints a Markdown table in milliseconds per image. Example:

    python tests/benchmarks/breakdown.py --rounds 3
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa

from contestant import PROCESSES, list_images
from cxrflow.base import storage
from cxrflow.base.schema import SAMPLES
from cxrflow.base.shard_files import write_shard
from cxrflow.images import DECODERS
from cxrflow.images.image_hash import perceptual_hash
from cxrflow.images.resize import RESIZES
from ingest import DATA, FOLDERS, check_data, make_warm_up, say, take_two_cores
from ingest_cxrflow import ingest_config, open_local_session
from program import ROOT
from recipe import HEIGHT, ROWS_A_FILE, WIDTH

STEPS = ("read", "hash (SHA-256)", "decode", "resize", "perceptual hash", "write Parquet")


def time_steps(folder: Path, decoder: str, scratch: Path) -> dict[str, float]:
    """Seconds of each step for all files of the folder in one process. Holds all files in memory."""
    paths = list_images(str(folder))
    decode, resize = DECODERS[decoder], RESIZES["stretch"]
    spent: dict[str, float] = {}

    def step(name: str, function: Callable, items: list) -> list:
        started = time.perf_counter()
        results = [function(item) for item in items]
        spent[name] = time.perf_counter() - started
        return results

    contents = step("read", storage.read_bytes, paths)
    step("hash (SHA-256)", lambda data: hashlib.sha256(data).hexdigest(), contents)
    gray = step("decode", lambda data: decode(data, (HEIGHT, WIDTH)).pixels, contents)
    images = step("resize", lambda pixels: resize(pixels, HEIGHT, WIDTH), gray)
    starts = range(0, len(images), ROWS_A_FILE)
    blocks = [np.stack(images[start : start + ROWS_A_FILE]) for start in starts]
    hashes = step("perceptual hash", perceptual_hash, blocks)
    tables = [
        make_table(paths[start : start + ROWS_A_FILE], block, found)
        for start, block, found in zip(starts, blocks, hashes, strict=True)
    ]
    step("write Parquet", lambda table: write_shard(str(scratch / "steps"), "train", table), tables)
    shutil.rmtree(scratch / "steps")
    return spent


def make_table(paths: list[str], pixels: np.ndarray, hashes: list[str]) -> pa.Table:
    """Samples as ingest writes them, with real paths, pixels and perceptual hashes; other columns are constant."""
    filler = {pa.string(): "text", pa.int64(): 0, pa.int32(): 0}
    columns = {field.name: [filler.get(field.type)] * len(paths) for field in SAMPLES}
    columns |= {
        "path": paths,
        "phash": hashes,
        "pixels": [image.tobytes() for image in pixels],
        "sha256": [hashlib.sha256(path.encode()).hexdigest() for path in paths],
    }
    return pa.Table.from_pydict(columns, schema=SAMPLES)


def time_ingest(spark, folder: Path, decoder: str, scratch: Path) -> float:
    """Seconds of the whole ingest on two cores."""
    from cxrflow.pipeline.ingest_job import ingest

    table = scratch / "table"
    os.sync()
    started = time.perf_counter()
    ingest(spark, ingest_config(str(folder), str(table), decoder))
    seconds = time.perf_counter() - started
    shutil.rmtree(table)
    return seconds


def measure(data: Path, rounds: int, scratch: Path) -> dict[tuple[str, str], dict[str, float]]:
    """Milliseconds per image of each row of the table, by folder and decoder: medians of the rounds."""
    cases = [(folder, decoder) for folder in FOLDERS for decoder in sorted(DECODERS)]
    steps = {}
    for folder, decoder in cases:
        say(f"steps of {folder} with {decoder}")
        steps[folder, decoder] = [time_steps(data / folder, decoder, scratch) for _ in range(rounds)]
    warm_up = make_warm_up(data, scratch)
    spark = open_local_session()
    columns = {}
    for folder, decoder in cases:
        say(f"ingest of {folder} with {decoder}")
        time_ingest(spark, warm_up, decoder, scratch)
        whole = [time_ingest(spark, data / folder, decoder, scratch) for _ in range(rounds)]
        columns[folder, decoder] = to_column(steps[folder, decoder], whole, len(list_images(str(data / folder))))
    spark.stop()
    return columns


def to_column(steps: list[dict[str, float]], whole: list[float], images: int) -> dict[str, float]:
    """Medians of the rounds in milliseconds per image, with the sum of the steps and the rest."""
    column = {name: 1000 * statistics.median(spent[name] for spent in steps) / images for name in STEPS}
    column["sum of the steps"] = sum(column.values())
    available = 1000 * PROCESSES * statistics.median(whole) / images
    column["Spark and other"] = available - column["sum of the steps"]
    column[f"ingest: wall time x {PROCESSES} cores"] = available
    return column


def as_table(columns: dict[tuple[str, str], dict[str, float]]) -> str:
    heads = [f"{folder}, {decoder}" for folder, decoder in columns]
    lines = ["| milliseconds per image | " + " | ".join(heads) + " |", "| --- |" + " ---: |" * len(heads)]
    lines += [
        f"| {name} | " + " | ".join(f"{column[name]:.3f}" for column in columns.values()) + " |"
        for name in next(iter(columns.values()))
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="repetitions, whose median counts (5)")
    parser.add_argument(
        "--data",
        type=Path,
        default=DATA,
        help=f"folder with {' and '.join(FOLDERS)} (CXRFLOW_BENCHMARK_DATA, or {DATA})",
    )
    flags = parser.parse_args()
    check_data(flags.data, flags.rounds)
    take_two_cores()
    (ROOT / "build").mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="breakdown-", dir=ROOT / "build") as scratch:
        columns = measure(flags.data, flags.rounds, Path(scratch))
    print(as_table(columns))


if __name__ == "__main__":
    main()
