"""How long training waits for its first batch from a table of many shards.

The table is synthetic: 2,000 shards of 64 images with 224 x 224 random pixels, as ingest writes them. Most of them are
hard links to a few, so files come from the page cache. Each round is a process of its own, with training's defaults for
memory and shuffling. The result is the time from reading the manifest to the first batch. The time to import the
library, and that of the whole process, are shown beside it. Example:

    python tests/benchmarks/feed_first_batch.py --rounds 5

Prints the result table to standard error and one line of JSON to standard output. Exit status: 0; 1 if the goal is
missed; 2 if a process failed.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from feed import finish
from feed_tables import make_many_shards
from feeding import BATCH_ROWS, HEIGHT
from ingest import say, stop, take_two_cores
from program import ROOT

GOAL_SECONDS = 2.0
DISTINCT = 32
"""Shards that are written. The others are links."""
ROWS = {"feed": "to the first batch", "imports": "imports", "process": "whole process"}


def parse_flags() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shards", type=int, default=2000, metavar="N", help="shards of the table (default 2000)")
    parser.add_argument("--rows", type=int, default=64, metavar="N", help="images of a shard (default 64)")
    parser.add_argument("--rounds", type=int, default=5, help="processes; the median counts (default 5)")
    parser.add_argument("--one", help=argparse.SUPPRESS)  # run one round on this table
    flags = parser.parse_args()
    if min(flags.shards, flags.rows, flags.rounds) < 1:
        stop("--shards, --rows, --rounds: expected 1 or more")
    return flags


def take_first_batch(table: str) -> dict[str, float]:
    """Seconds in this process: ``imports``, and ``feed`` from the manifest to the first batch."""
    started = time.perf_counter()
    from cxrflow.base.config import TrainConfig
    from cxrflow.base.manifest import read_manifest
    from cxrflow.training.feed import Feed
    from cxrflow.training.feed_budget import feed_size
    from cxrflow.training.shard_reader import find_reader

    find_reader()  # imports the reader's library
    loaded = time.perf_counter()
    manifest = read_manifest(table)
    size = feed_size(TrainConfig(table=table, run="", batch_size=BATCH_ROWS), manifest)
    batches = Feed(table, manifest, "train", rank=0, workers=1, batch_size=BATCH_ROWS, size=size).epoch(0)
    first = next(batches)
    seconds = time.perf_counter() - loaded
    batches.close()
    if first.pixels.shape != (BATCH_ROWS, HEIGHT, HEIGHT, 1):
        raise ValueError(f"expected {(BATCH_ROWS, HEIGHT, HEIGHT, 1)}, got {first.pixels.shape}")
    return {"imports": loaded - started, "feed": seconds}


def run_round(table: Path) -> dict[str, float]:
    started = time.perf_counter()
    done = subprocess.run([sys.executable, __file__, "--one", str(table)], stdout=subprocess.PIPE, check=True)
    return {**json.loads(done.stdout.splitlines()[-1]), "process": time.perf_counter() - started}


def as_table(rounds: list[dict], shards: int) -> str:
    lines = [
        f"\nSeconds of a new process over a table of {shards:,} shards\n",
        "| | median | min | max |",
        "| --- | ---: | ---: | ---: |",
    ]
    for name, title in ROWS.items():
        seconds = [one_round[name] for one_round in rounds]
        lines.append(f"| {title} | {statistics.median(seconds):.2f} | {min(seconds):.2f} | {max(seconds):.2f} |")
    return "\n".join(lines)


def main() -> None:
    flags = parse_flags()
    if flags.one:
        print(json.dumps(take_first_batch(flags.one)))
        return
    take_two_cores()
    (ROOT / "build").mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="first-batch-", dir=ROOT / "build") as scratch:
        say(f"making a table of {flags.shards:,} shards")
        make_many_shards(Path(scratch), flags.shards, min(DISTINCT, flags.shards), flags.rows, HEIGHT)
        try:
            rounds = [run_round(Path(scratch)) for _ in range(flags.rounds)]
        except subprocess.CalledProcessError as error:
            stop(str(error))
    say(as_table(rounds, flags.shards))
    reached = statistics.median(one_round["feed"] for one_round in rounds)
    finish(
        {"shards": flags.shards, "rows": flags.rows, "rounds": rounds},
        [
            {
                "goal": "seconds to the first batch",
                "limit": f"< {GOAL_SECONDS:g}",
                "reached": reached,
                "met": reached < GOAL_SECONDS,
                "counts": True,
            }
        ],
    )


if __name__ == "__main__":
    main()
