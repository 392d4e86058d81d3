"""Break down the time that cxrflow's ingest spends on a DICOM file: processor time of each step, in one process.

    python tests/benchmarks/dicom_steps.py --files 20

Uses the files that dicom.py makes, and makes them if they are missing. Prints a Markdown table in milliseconds per
file. Processor time hardly depends on what else the machine does.
"""

from __future__ import annotations

import argparse
import hashlib
import statistics
import time
from collections.abc import Callable

from contestant import list_images
from cxrflow.base import storage
from cxrflow.base.freed_memory import keep_freed_memory
from cxrflow.images.dcm import grayscale
from cxrflow.images.dcm.elements import Elements
from cxrflow.images.dcm.file_parser import parse_file
from cxrflow.images.dcm.pixel_data import read_pixels
from cxrflow.images.image_hash import perceptual_hash
from cxrflow.images.recipe import MAX_PIXELS
from cxrflow.images.resize import stretch
from cxrflow.spark.isolation import KEPT_MEMORY
from dicom_files import SYNTAXES, make_files
from program import ROOT
from recipe import HEIGHT, WIDTH

STEPS = ("read", "hash (SHA-256)", "parse", "decode, with checks", "gray levels, with notes", "resize", "phash")


def time_steps(path: str) -> dict[str, float]:
    """Milliseconds of each step for one file."""
    spent: dict[str, float] = {}

    def step(name: str, function: Callable, *arguments):
        started = time.process_time()
        result = function(*arguments)
        spent[name] = (time.process_time() - started) * 1000
        return result

    data = step("read", storage.read_bytes, path)
    step("hash (SHA-256)", lambda: hashlib.sha256(data).hexdigest())
    file = step("parse", parse_file, data)
    elements = Elements(file.dataset, file.notes)
    stored, _ = step("decode, with checks", read_pixels, file, elements, MAX_PIXELS)
    gray = step("gray levels, with notes", grayscale.render, stored, elements)
    resized = step("resize", stretch, gray, HEIGHT, WIDTH)
    step("phash", perceptual_hash, resized[None])
    return spent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=20, help="files of each syntax (20)")
    flags = parser.parse_args()
    folder = ROOT / "build" / "dicom"
    make_files(folder, flags.files, flags.files)
    keep_freed_memory(KEPT_MEMORY)  # as a decoding process does
    columns = []
    for syntax in SYNTAXES:
        paths = list_images(str(folder / syntax))[: flags.files]
        time_steps(paths[0])  # imports the packages
        files = [time_steps(path) for path in paths]
        columns.append({name: statistics.median(spent[name] for spent in files) for name in STEPS})
    print(f"| | {' | '.join(SYNTAXES)} |\n| --- |{' ---: |' * len(SYNTAXES)}")
    for name in STEPS:
        print(f"| {name} | {' | '.join(f'{column[name]:.1f}' for column in columns)} |")
    print(f"| sum | {' | '.join(f'{sum(column.values()):.1f}' for column in columns)} |")


if __name__ == "__main__":
    main()
