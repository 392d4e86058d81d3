"""Contestants "datasets" and "datasets-iterable": Hugging Face datasets over Arrow files that are mapped into memory.

"datasets" shuffles an index of all rows, which is exact; "datasets-iterable" is the way that its documentation calls
faster: to_iterable_dataset, with shards in random order and a shuffle buffer.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterable

# Before the import: it looks for the network otherwise.
os.environ.update(HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1", HF_HUB_DISABLE_TELEMETRY="1")

import datasets
import pyarrow as pa

from feeding import BATCH_ROWS, Batches, Epoch, as_pixels, feeds, samples, serve, shards

FEATURES = datasets.Features({"pixels": datasets.Value("binary"), "label": datasets.Value("int32")})


def convert(table: str, out: str) -> None:
    def rows():
        for image, label in samples(table):
            yield {"pixels": image, "label": label}

    found = datasets.Dataset.from_generator(rows, features=FEATURES, cache_dir=f"{out}/cache")
    found.save_to_disk(f"{out}/data", num_shards=len(shards(table)))


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
    mixed = (
        rows.to_iterable_dataset(num_shards=len(rows.cache_files))
        .with_format("arrow")
        .shuffle(seed=0, buffer_size=shuffle_rows)
    )

    def epoch(number: int) -> Batches:
        mixed.set_epoch(number)
        return to_numpy(mixed.iter(batch_size=BATCH_ROWS))

    return epoch


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--iterable", action="store_true", help='be "datasets-iterable"')
    datasets.disable_progress_bars()
    serve(feeds(open_iterable if parser.parse_args().iterable else open_indexed), convert)


if __name__ == "__main__":
    main()
