"""Contestants "datasets" and "datasets-iterable": Hugging Face datasets over memory-mapped Arrow files.

"datasets" shuffles an index of all rows, which is an exact shuffle. "datasets-iterable" uses to_iterable_dataset, which
its documentation recommends for speed, with shards in random order and a shuffle buffer.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterable

# Set before the import; otherwise the package tries to reach the network.
os.environ.update(HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1", HF_HUB_DISABLE_TELEMETRY="1")

import datasets
import pyarrow as pa

from feeding import BATCH_ROWS, Batches, Epoch, as_pixels, feeds, samples, serve, shards

FEATURES = datasets.Features({"pixels": datasets.Value("binary"), "label": datasets.Value("int32")})


def convert(table: str, out: str) -> None:
    def rows():
        for image, label in samples(table):
            yield {"pixels": image, "label": label}

    dataset = datasets.Dataset.from_generator(rows, features=FEATURES, cache_dir=f"{out}/cache")
    dataset.save_to_disk(f"{out}/data", num_shards=len(shards(table)))


def to_numpy(tables: Iterable[pa.Table]) -> Batches:
    for table in tables:
        yield as_pixels(table["pixels"]), table["label"].to_numpy()


def open_indexed(data: str, shuffle_rows: int) -> Epoch:
    rows = datasets.load_from_disk(f"{data}/data").with_format("arrow")

    def epoch(number: int) -> Batches:
        return to_numpy(rows.shuffle(seed=number, keep_in_memory=True).iter(batch_size=BATCH_ROWS))

    return epoch


def open_iterable(data: str, shuffle_rows: int) -> Epoch:
    rows = datasets.load_from_disk(f"{data}/data")
    shuffled = (
        rows.to_iterable_dataset(num_shards=len(rows.cache_files))
        .with_format("arrow")
        .shuffle(seed=0, buffer_size=shuffle_rows)
    )

    def epoch(number: int) -> Batches:
        shuffled.set_epoch(number)
        return to_numpy(shuffled.iter(batch_size=BATCH_ROWS))

    return epoch


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--iterable", action="store_true", help='run as "datasets-iterable"')
    datasets.disable_progress_bars()
    serve(feeds(open_iterable if parser.parse_args().iterable else open_indexed), convert)


if __name__ == "__main__":
    main()
