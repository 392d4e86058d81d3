"""Contestant "webdataset": tar files through WebDataset and WebLoader.

Shards come in random order through a shuffle buffer. If the loader has processes, each has a buffer of its own.
"""

from __future__ import annotations

import argparse
import warnings
from pathlib import Path

import numpy as np
import webdataset as wds

from feeding import BATCH_ROWS, Batches, Epoch, feeds, join, read_shard, serve, shards

warnings.filterwarnings("ignore", message="The given NumPy array is not writable")


def convert(table: str, out: str) -> None:
    """Write a tar file for each Parquet file."""
    for number, path in enumerate(shards(table)):
        with wds.TarWriter(str(Path(out, f"{number:05d}.tar"))) as file:
            for row, (image, label) in enumerate(zip(*read_shard(path), strict=True)):
                file.write({"__key__": f"{number:05d}-{row:05d}", "pixels": image.tobytes(), "cls": int(label)})


def collate(rows: list[tuple[bytes, bytes]]) -> tuple[np.ndarray, np.ndarray]:
    images, labels = zip(*rows, strict=True)
    return join(images), np.array([int(label) for label in labels])


def opener(workers: int):
    def open_feed(data: str, shuffle_rows: int) -> Epoch:
        urls = sorted(map(str, Path(data).glob("*.tar")))
        buffer = shuffle_rows // max(1, workers)
        rows = wds.WebDataset(urls, shardshuffle=len(urls)).shuffle(buffer, initial=buffer)
        batches = rows.to_tuple("pixels", "cls").batched(BATCH_ROWS, collation_fn=collate)
        loader = wds.WebLoader(batches, batch_size=None, num_workers=workers, persistent_workers=workers > 0)

        def epoch(number: int) -> Batches:
            for pixels, labels in loader:  # tensors, since the loader's processes pass those through shared memory
                yield pixels.numpy(), labels.numpy()

        return epoch

    return open_feed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--workers", type=int, default=0, help="processes of the loader (default 0, the fastest on two cores)"
    )
    serve(feeds(opener(parser.parse_args().workers)), convert)


if __name__ == "__main__":
    main()
