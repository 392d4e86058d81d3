"""How long training waits for its first batch where the table has many shards.

The table is synthetic: 2,000 shards of 64 images with 224 x 224 random pixels, as ingest writes them, most of them hard links
to a few, so files come from the page cache. Each round is a process of its own, with the memory and the shuffling that
training has if nothing is asked for. Counted is from reading the manifest to the first batch; what Python takes to load the
library, and the whole process, is shown beside it. For example:

    python tests/benchmarks/feed_first_batch.py --rounds 5

The table goes to standard error; standard output ends with one line of JSON. Exit status: 0, 1 where the goal is missed, 2
where a process failed.
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
"""Shards that are written; the others are links."""
FIELDS = {"feed": "to the first batch", "imports": "imports", "process": "whole process"}


def parse_flags() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shards", type=int, default=2000, metavar="N", help="shards of the table (2000)")
    parser.add_argument("--rows", type=int, default=64, metavar="N", help="images of a shard (64)")
    parser.add_argument("--rounds", type=int, default=5, help="processes; medians count (5)")
    parser.add_argument("--one", help=argparse.SUPPRESS)  # the process of a round, over this table
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
    for name, words in FIELDS.items():
        found = [one[name] for one in rounds]
        lines.append(f"| {words} | {statistics.median(found):.2f} | {min(found):.2f} | {max(found):.2f} |")
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
    reached = statistics.median(one["feed"] for one in rounds)
    finish(
        {"shards": flags.shards, "rows": flags.rows, "rounds": rounds},
        [
            {
                "goal": "seconds to the first batch",
                "wanted": f"< {GOAL_SECONDS:g}",
                "reached": reached,
                "met": reached < GOAL_SECONDS,
                "counts": True,
            }
        ],
    )


if __name__ == "__main__":
    main()
