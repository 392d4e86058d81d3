"""Resident memory of one worker that trains over 50 epochs, as a picture.

    python tests/benchmarks/feed_memory.py --table /data/table --feed-memory 256m --epochs 50

Feeds every batch of every epoch of the train split to a function that only looks at it, since what a backend itself
takes would hide what the feed does, and reads /proc/self/status at every tenth of an epoch. Prints a line of JSON.
"""

import argparse
import json
import time

import numpy as np

from cxrflow.base.config import TrainConfig
from cxrflow.base.manifest import read_manifest
from cxrflow.training.feed import Feed
from cxrflow.training.feed_budget import feed_size


def resident() -> int:
    """Bytes of memory of this process."""
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmRSS"))


def measure(table: str, memory: str, epochs: int, batch_size: int = 32) -> dict:
    """Resident bytes before the feed was made, and (epoch, bytes) at every tenth of each epoch."""
    manifest = read_manifest(table)
    config = TrainConfig(table=table, run="", feed_memory=memory, batch_size=batch_size)
    size = feed_size(config, manifest)
    before, curve = resident(), []
    feed = Feed(table, manifest, "train", rank=0, workers=1, batch_size=batch_size, size=size)
    started = time.monotonic()
    for epoch in range(epochs):
        steps = feed.plan(epoch).steps
        for step, batch in enumerate(feed.epoch(epoch)):
            batch.pixels[0, 0, 0, 0] += 1
            if step % max(1, steps // 10) == 0:
                curve.append((epoch + step / steps, resident()))
    rate = epochs * feed.plan().samples / (time.monotonic() - started)
    return {
        "before": before,
        "curve": curve,
        "images_per_second": rate,
        "streams": size.streams,
        "shuffle_rows": size.shuffle_rows,
    }


def draw(measured: dict, memory: int, picture: str) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    epochs, taken = np.array(measured["curve"]).T
    figure, axes = plt.subplots(figsize=(7, 3.2), layout="constrained")
    axes.plot(epochs, (taken - measured["before"]) / 2**20, linewidth=1, label="resident memory of the feed")
    axes.axhline(memory / 2**20, color="tab:red", linestyle="--", linewidth=1, label="--feed-memory")
    axes.set(xlabel="epoch", ylabel="MiB", ylim=(0, memory / 2**20 * 1.15))
    axes.legend(loc="lower right", frameon=False)
    figure.savefig(picture, dpi=110)


def main() -> None:
    from cxrflow.base.config import parse_bytes

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", required=True)
    parser.add_argument("--feed-memory", default="256m")
    parser.add_argument("--epochs", type=int, default=50)
    parser.add_argument("--picture", default="docs/benchmarks/feed-memory.png")
    asked = parser.parse_args()
    measured = measure(asked.table, asked.feed_memory, asked.epochs)
    draw(measured, parse_bytes("--feed-memory", asked.feed_memory), asked.picture)
    taken = np.array([memory for epoch, memory in measured["curve"] if epoch >= 1]) - measured["before"]
    half = len(taken) // 2
    print(
        json.dumps(
            {
                "feed_memory": asked.feed_memory,
                "epochs": asked.epochs,
                "streams": measured["streams"],
                "shuffle_rows": measured["shuffle_rows"],
                "images_per_second": round(measured["images_per_second"]),
                "peak_mib": round(max(taken) / 2**20, 1),
                "first_half_mean_mib": round(taken[:half].mean() / 2**20, 1),
                "second_half_mean_mib": round(taken[half:].mean() / 2**20, 1),
            }
        )
    )


if __name__ == "__main__":
    main()
