"""Contestant "datasets": Hugging Face datasets, imagefolder into map with two processes into Parquet files."""

from __future__ import annotations

import math
import os
from pathlib import Path

# Before the import: it looks for the network otherwise.
os.environ.update(HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1", HF_HUB_DISABLE_TELEMETRY="1")

import datasets
from contestant import PROCESSES, serve
from recipe import PARQUET, ROWS_A_FILE, SCHEMA, read_sample

# Content-defined chunks help a hub to store versions; here they would only cost.
WRITING = {**PARQUET, "use_content_defined_chunking": False, "write_page_index": False}


def ingest(folder: str, out: str) -> None:
    """Every round has a cache folder of its own, so that nothing of an earlier one is used again."""
    cache = Path(out) / "cache"
    cache.mkdir(parents=True)
    files = datasets.load_dataset("imagefolder", data_dir=folder, split="train", cache_dir=str(cache))
    # Paths instead of Pillow images: the recipe wants the file's bytes, for the hash and for draft mode.
    files = files.cast_column("image", datasets.Image(decode=False))
    samples = files.map(
        read_samples, batched=True, batch_size=ROWS_A_FILE, writer_batch_size=ROWS_A_FILE, num_proc=PROCESSES,
        remove_columns=files.column_names, features=datasets.Features.from_arrow_schema(SCHEMA),
        cache_file_name=str(cache / "samples.arrow"))
    count = math.ceil(len(samples) / ROWS_A_FILE)
    for index in range(count):
        shard = samples.shard(count, index, contiguous=True)
        shard.to_parquet(Path(out) / f"{index:08d}.parquet", batch_size=ROWS_A_FILE, **WRITING)


def read_samples(batch: dict) -> dict:
    samples = [read_sample(image["path"]) for image in batch["image"]]
    return {name: [sample[name] for sample in samples] for name in SCHEMA.names}


def main() -> None:
    datasets.disable_caching()
    datasets.disable_progress_bars()
    serve(ingest)


if __name__ == "__main__":
    main()
