"""Compare the feed from a slow S3 store with and without a cache on the local disk.

The store is moto's server in a process of its own on the loopback address. It waits before each answer, and each
connection has a limit of bytes per second. The table is synthetic: shards of 128 images with 224 x 224 random pixels.
The benchmark times two epochs of shuffled batches of 32 and does not train on them. It reads the table from

- the store without a cache,
- the store with a cache that has room for the table and is empty before the first epoch,
- the store with a cache for half of the table,
- the local disk, as the upper bound.

It also compares two ways to read a shard: in one request, and as a file that pyarrow opens through fsspec. Rounds are
interleaved, each has new caches, and medians count. Example:

    python tests/benchmarks/slow_store.py --latency 0.05 --bandwidth 40e6

Prints the result tables to standard error and one line of JSON to standard output.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import pyarrow.parquet as pq

from feed_tables import make_many_shards
from feeding import BATCH_ROWS, HEIGHT
from ingest import say, stop, take_two_cores
from program import ROOT

sys.path.insert(0, str(ROOT / "tests"))
from cxrflow.base import storage
from cxrflow.base.config import TrainConfig
from cxrflow.base.manifest import read_manifest
from cxrflow.training.feed import Feed
from cxrflow.training.feed_budget import feed_size
from cxrflow.training.shard_source import fetch_whole, find_fetch
from cxrflow.training.shard_store import COLUMNS
from s3_server import COUNT, KEY, SECRET

REMOTE = "s3://slow/table"
TIMED_SHARDS = 12
"""Shards that are read one by one."""


def parse_flags() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--latency", type=float, default=0.05, metavar="S", help="seconds before each answer (default 0.05)"
    )
    parser.add_argument(
        "--bandwidth", type=float, default=40e6, metavar="B", help="bytes per second of a connection (default 40e6)"
    )
    parser.add_argument("--shards", type=int, default=40, metavar="N", help="shards of 128 images (default 40)")
    parser.add_argument("--rounds", type=int, default=3, help="rounds; medians count (default 3)")
    flags = parser.parse_args()
    if min(flags.shards, flags.rounds) < 1 or flags.latency < 0 or flags.bandwidth <= 0:
        stop("expected --shards, --rounds of 1 or more, --latency of 0 or more and --bandwidth above 0")
    return flags


@contextmanager
def slow_store(flags: argparse.Namespace):
    """Run the store within the block and set this process' environment for it. Yields the store's URL."""
    command = [
        sys.executable,
        str(ROOT / "tests" / "s3_server.py"),
        "--latency",
        str(flags.latency),
        "--bandwidth",
        str(flags.bandwidth),
    ]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        url = server.stdout.readline().strip()
        os.environ.update(
            AWS_ENDPOINT_URL_S3=url, AWS_ACCESS_KEY_ID=KEY, AWS_SECRET_ACCESS_KEY=SECRET, AWS_DEFAULT_REGION="us-east-1"
        )
        yield url
        server.stdin.close()


def upload(table: str) -> None:
    storage.filesystem(REMOTE)[0].mkdir("slow")
    for path in [*storage.files(table, ".parquet"), storage.join(table, "manifest.json")]:
        storage.upload(path, storage.join(REMOTE, path.removeprefix(table + "/")))


def measure(task, server: str) -> dict[str, float]:
    """Seconds of ``task()``, the requests that it made, and its result as ``images``."""
    before, started = requests(server), time.perf_counter()
    images = task()
    return {"seconds": time.perf_counter() - started, "requests": requests(server) - before, "images": images}


def requests(server: str) -> int:
    with urllib.request.urlopen(server + COUNT) as answer:
        return int(answer.read())


def two_epochs(table: str, server: str, cache: str | None = None, cache_size: int = 2**34) -> list[dict]:
    manifest = read_manifest(table)
    config = TrainConfig(table=table, run="", batch_size=BATCH_ROWS, cache=cache, cache_size=f"{cache_size // 1024}k")
    feed = Feed(
        table,
        manifest,
        "train",
        rank=0,
        workers=1,
        batch_size=BATCH_ROWS,
        size=feed_size(config, manifest),
        fetch=find_fetch(config, manifest),
    )
    return [
        measure(lambda epoch=epoch: sum(len(batch.sample_ids) for batch in feed.epoch(epoch)), server)
        for epoch in range(2)
    ]


def run_round(local: str, server: str, scratch: Path) -> dict[str, list[dict]]:
    size = sum(storage.sizes(local, ".parquet").values())
    with tempfile.TemporaryDirectory(dir=scratch) as whole, tempfile.TemporaryDirectory(dir=scratch) as half:
        return {
            "S3, no cache": two_epochs(REMOTE, server),
            "S3, cache": two_epochs(REMOTE, server, whole),
            "S3, cache of half the table": two_epochs(REMOTE, server, half, size // 2),
            "local disk": two_epochs(local, server),
        }


def read_as_file(url: str) -> None:
    with storage.open_file(url) as file, pq.ParquetFile(file) as shard:
        shard.read_row_group(0, columns=COLUMNS, use_threads=False)


def read_in_one_request(url: str) -> None:
    with pq.ParquetFile(fetch_whole(url)) as shard:
        shard.read_row_group(0, columns=COLUMNS, use_threads=False)


def read_one_by_one(read, server: str) -> dict[str, float]:
    urls = storage.files(REMOTE, ".parquet")[:TIMED_SHARDS]
    return measure(lambda: [read(url) for url in urls] and len(urls), server)


def epochs_table(rounds: list[dict]) -> list[str]:
    lines = ["| | epoch 1, images/s | requests | epoch 2, images/s | requests |", "| --- | ---: | ---: | ---: | ---: |"]
    for name in rounds[0]:
        cells = []
        for epoch in range(2):
            results = [one_round[name][epoch] for one_round in rounds]
            cells += [
                f"{statistics.median(result['images'] / result['seconds'] for result in results):,.0f}",
                f"{statistics.median(result['requests'] for result in results):.0f}",
            ]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return lines


def reads_table(reads: dict[str, dict]) -> list[str]:
    return [
        "",
        "| one shard after the other | requests a shard | ms a shard |",
        "| --- | ---: | ---: |",
        *(
            f"| {name} | {read['requests'] / read['images']:.1f} | {1000 * read['seconds'] / read['images']:.0f} |"
            for name, read in reads.items()
        ),
    ]


def main() -> None:
    flags = parse_flags()
    take_two_cores()
    (ROOT / "build").mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="slow-store-", dir=ROOT / "build") as scratch, slow_store(flags) as server:
        local = str(Path(scratch) / "table")
        make_many_shards(Path(local), flags.shards, flags.shards, 128, HEIGHT)
        upload(local)
        say(
            f"{flags.shards} shards of 128 images, {flags.latency * 1000:.0f} ms before an answer, "
            f"{flags.bandwidth / 1e6:.0f} MB/s a connection, {flags.rounds} rounds\n"
        )
        reads = {
            "opened as a file": read_one_by_one(read_as_file, server),
            "in one request": read_one_by_one(read_in_one_request, server),
        }
        rounds = [run_round(local, server, Path(scratch)) for _ in range(flags.rounds)]
    say("\n".join(epochs_table(rounds) + reads_table(reads)))
    print(
        json.dumps(
            {
                "latency": flags.latency,
                "bandwidth": flags.bandwidth,
                "shards": flags.shards,
                "rounds": rounds,
                "reads": reads,
            }
        )
    )


if __name__ == "__main__":
    main()
