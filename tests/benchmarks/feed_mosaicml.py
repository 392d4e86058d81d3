"""Contestant "mosaicml-streaming": MDS files through StreamingDataset, with its default shuffle, and its loader."""

from __future__ import annotations

import argparse
import sys
import types
import warnings

import torch

from feeding import BATCH_ROWS, Batches, Epoch, feeds, join, samples, serve


def stand_in(name: str, **content) -> None:
    """Register an empty module in place of one that the package imports but does not use here.

    PyPI has torchvision only as a build for CUDA, and transformers is large.
    """
    sys.modules[name] = types.ModuleType(name)
    sys.modules[name].__dict__.update(content)


warnings.filterwarnings("ignore", message="The given (NumPy array|buffer) is not writable")


class _Unused:
    pass


for _name in (
    "torchvision",
    "torchvision.transforms",
    "transformers",
    "transformers.models",
    "transformers.models.auto",
):
    stand_in(_name)
stand_in("torchvision.datasets", VisionDataset=_Unused)
stand_in("torchvision.transforms.functional", to_tensor=None)
stand_in("transformers.feature_extraction_utils", BatchFeature=_Unused)
stand_in("transformers.tokenization_utils_base", BatchEncoding=_Unused)
stand_in("transformers.models.auto.tokenization_auto", AutoTokenizer=_Unused)

import streaming
from streaming.base.util import clean_stale_shared_memory


def convert(table: str, out: str) -> None:
    with streaming.MDSWriter(out=out, columns={"pixels": "bytes", "label": "int"}) as writer:
        for image, label in samples(table):
            writer.write({"pixels": image, "label": label})


def collate(rows: list[dict]) -> tuple[torch.Tensor, torch.Tensor]:
    """Tensors, since the loader's processes pass those through shared memory."""
    pixels = join([row["pixels"] for row in rows])
    return torch.from_numpy(pixels), torch.tensor([row["label"] for row in rows])


def opener(workers: int):
    def open_feed(data: str, shuffle_rows: int) -> Epoch:
        clean_stale_shared_memory()  # left by the previous run
        dataset = streaming.StreamingDataset(local=data, shuffle=True, batch_size=BATCH_ROWS)
        loader = streaming.StreamingDataLoader(
            dataset, batch_size=BATCH_ROWS, num_workers=workers, collate_fn=collate, persistent_workers=workers > 0
        )

        def epoch(number: int) -> Batches:
            for pixels, labels in loader:
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
