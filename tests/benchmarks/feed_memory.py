"""Plot the resident memory of one worker's feed over 50 epochs.

    python tests/benchmarks/feed_memory.py --table /data/table --feed-memory 256m --epochs 50

Feeds all batches of the train split but does not train on them, because a backend's memory would hide that of the feed.
Reads /proc/self/status ten times an epoch. Prints a line of JSON.
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
    """Resident bytes of this process."""
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmRSS"))


def measure(table: str, memory: str, epochs: int, batch_size: int = 32) -> dict:
    """Resident bytes before the feed was made, (epoch, bytes) ten times an epoch, speed, and order of the samples."""
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


def draw(result: dict, memory: int, picture: str) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    epochs, resident_bytes = np.array(result["curve"]).T
    figure, axes = plt.subplots(figsize=(7, 3.2), layout="constrained")
    axes.plot(epochs, (resident_bytes - result["before"]) / 2**20, linewidth=1, label="resident memory of the feed")
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
    flags = parser.parse_args()
    result = measure(flags.table, flags.feed_memory, flags.epochs)
    draw(result, parse_bytes("--feed-memory", flags.feed_memory), flags.picture)
    added = np.array([memory for epoch, memory in result["curve"] if epoch >= 1]) - result["before"]
    half = len(added) // 2
    print(
        json.dumps(
            {
                "feed_memory": flags.feed_memory,
                "epochs": flags.epochs,
                "streams": result["streams"],
                "shuffle_rows": result["shuffle_rows"],
                "images_per_second": round(result["images_per_second"]),
                "peak_mib": round(max(added) / 2**20, 1),
                "first_half_mean_mib": round(added[:half].mean() / 2**20, 1),
                "second_half_mean_mib": round(added[half:].mean() / 2**20, 1),
            }
        )
    )


if __name__ == "__main__":
    main()
