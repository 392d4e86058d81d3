"""Contestants "datasets" and "datasets-imagefolder": Hugging Face datasets, map with two processes.

"datasets" is the faster way: map gets plain paths. "datasets-imagefolder" is the documented way for a folder of images;
with many small files it spends most of its time on finding them.
"""

from __future__ import annotations

import argparse
import os
import random
from pathlib import Path

# These must be set before the import, or it connects to the network.
os.environ.update(HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1", HF_HUB_DISABLE_TELEMETRY="1")

import datasets
import pyarrow.parquet as pq

from contestant import PROCESSES, list_images, serve
from recipe import ROWS_A_FILE, SCHEMA, WRITING, read_sample


def list_paths(folder: str, cache: Path) -> datasets.Dataset:
    """One row per file, with the column path, shuffled: map gives each process a contiguous part of the rows."""
    files = list_images(folder)
    random.Random(0).shuffle(files)
    return datasets.Dataset.from_dict({"path": files})


def load_imagefolder(folder: str, cache: Path) -> datasets.Dataset:
    """One row per file, with the column path, as the builder imagefolder finds them."""
    files = datasets.load_dataset("imagefolder", data_dir=folder, split="train", cache_dir=str(cache))
    # Paths instead of Pillow images: the recipe needs the file's bytes for the hash and for draft mode.
    return (
        files.cast_column("image", datasets.Image(decode=False))
        .shuffle(seed=0)
        .flatten()
        .rename_column("image.path", "path")
    )


def ingest(find, folder: str, out: str) -> None:
    """Each round has its own cache folder, so it reuses nothing of an earlier one."""
    cache = Path(out) / "cache"
    cache.mkdir(parents=True)
    files = find(folder, cache)
    samples = files.map(
        read_samples,
        batched=True,
        batch_size=ROWS_A_FILE,
        writer_batch_size=ROWS_A_FILE,
        num_proc=PROCESSES,
        remove_columns=files.column_names,
        features=datasets.Features.from_arrow_schema(SCHEMA),
        cache_file_name=str(cache / "samples.arrow"),
    )
    # Not to_parquet, which always compresses with snappy.
    for index, table in enumerate(samples.with_format("arrow").iter(batch_size=ROWS_A_FILE)):
        pq.write_table(table, Path(out) / f"{index:08d}.parquet", **WRITING)


def read_samples(batch: dict) -> dict:
    samples = [read_sample(path) for path in batch["path"]]
    return {name: [sample[name] for sample in samples] for name in SCHEMA.names}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--imagefolder", action="store_true", help='be "datasets-imagefolder"')
    find = load_imagefolder if parser.parse_args().imagefolder else list_paths
    datasets.disable_caching()
    datasets.disable_progress_bars()
    serve(lambda folder, out: ingest(find, folder, out))


if __name__ == "__main__":
    main()
