"""Feeds a table of 600 images of 256 KB eight times, in a process of its own:

    python tests/feed_process.py TABLE [READER]

Writes the table first. Prints four numbers of bytes: resident memory before the first epoch, its peak in the first two
epochs, its peak in the others, and the feed's memory budget.
"""

import sys
from pathlib import Path

import pyarrow as pa

from cxrflow.training.feed import Feed
from cxrflow.training.feed_budget import choose_size
from synthetic_table import make_table


def resident_bytes() -> int:
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmRSS"))


def main() -> None:
    # By default Arrow's allocators keep freed memory for a while, and resident memory would count it.
    pa.set_memory_pool(pa.jemalloc_memory_pool())
    pa.jemalloc_set_decay_ms(0)
    table, reader = sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else None
    budget, shard_rows = 100 * 2**20, [10] * 60
    manifest = make_table(table, {"train": shard_rows}, height=512, width=512)
    size = choose_size(shard_rows, 512 * 512, batch_size=8, workers=1, memory=budget, shuffle_rows=8192)
    feed = Feed(table, manifest, "train", rank=0, workers=1, batch_size=8, size=size, reader=reader)
    before = resident_bytes()
    peaks = [max(resident_bytes() for _ in feed.epoch(epoch)) for epoch in range(8)]
    print(before, max(peaks[:2]), max(peaks[2:]), budget)


if __name__ == "__main__":
    main()
