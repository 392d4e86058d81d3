"""Contestant "decoders": two processes that decode DICOM with the fastest library for each transfer syntax, no Spark.

The libraries are pydicom with GDCM, pylibjpeg (with openjpeg, rle and libjpeg), imagecodecs and dicomsdl. Before it is
timed, the program tries each on a few files of every folder and takes the fastest whose values agree with the others'.
"""

from __future__ import annotations

import hashlib
import io
import multiprocessing
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pydicom
from PIL import Image
from pydicom.encaps import generate_frames
from pydicom.pixels import get_decoder

from contestant import PROCESSES, list_images, serve
from recipe import HEIGHT, ROWS_A_FILE, WIDTH, WRITING, to_table

TRIED_FILES = 4


def by_pydicom(plugin: str) -> Callable[[bytes], np.ndarray]:
    def decode(data: bytes) -> np.ndarray:
        made = pydicom.dcmread(io.BytesIO(data))
        decoder = get_decoder(made.file_meta.TransferSyntaxUID)
        return decoder.as_array(made, decoding_plugin=plugin, raw=True)[0]

    return decode


def by_numpy(data: bytes) -> np.ndarray:
    made = pydicom.dcmread(io.BytesIO(data))
    if made.file_meta.TransferSyntaxUID.is_compressed:
        raise ValueError("compressed")
    return np.frombuffer(made.PixelData, "<u2").reshape(made.Rows, made.Columns)


def by_imagecodecs(data: bytes) -> np.ndarray:
    import imagecodecs

    made = pydicom.dcmread(io.BytesIO(data))
    codecs = {
        pydicom.uid.JPEGLosslessSV1: imagecodecs.jpeg8_decode,  # libjpeg-turbo 3, faster than its ljpeg_decode
        pydicom.uid.JPEGLSLossless: imagecodecs.jpegls_decode,
        pydicom.uid.JPEG2000Lossless: imagecodecs.jpeg2k_decode,
        pydicom.uid.RLELossless: lambda frame: np.frombuffer(imagecodecs.dicomrle_decode(frame, "<u2"), "<u2"),
    }
    frame = next(generate_frames(made.PixelData, number_of_frames=1))
    return codecs[made.file_meta.TransferSyntaxUID](frame).reshape(made.Rows, made.Columns)


def by_dicomsdl(data: bytes) -> np.ndarray:
    import dicomsdl

    return dicomsdl.open_memory(data).pixelData(0, storedvalue=True)


LIBRARIES: dict[str, Callable[[bytes], np.ndarray]] = {
    "numpy": by_numpy,
    "gdcm": by_pydicom("gdcm"),
    "pylibjpeg": by_pydicom("pylibjpeg"),
    "pyjpegls": by_pydicom("pyjpegls"),
    "imagecodecs": by_imagecodecs,
    "dicomsdl": by_dicomsdl,
}


def choose_library(files: list[str]) -> str:
    """The fastest library whose values agree with those of most libraries."""
    contents = [Path(path).read_bytes() for path in files[:TRIED_FILES]]
    seconds: dict[str, float] = {}
    digests: dict[str, str] = {}
    for name, decode in LIBRARIES.items():
        try:
            decode(contents[0])
            # Not wall time: GDCM uses several threads, and both processes already use all cores.
            started = time.process_time()
            values = [decode(data) for data in contents]
            seconds[name] = (time.process_time() - started) / len(contents)
        except Exception:  # not every library reads every syntax
            continue
        digests[name] = hashlib.sha256(b"".join(np.ascontiguousarray(v, "<u2").tobytes() for v in values)).hexdigest()
    right = Counter(digests.values()).most_common(1)[0][0]
    agreeing = {name: spent for name, spent in seconds.items() if digests[name] == right}
    figures = ", ".join(f"{name} {seconds[name] * 1000:.1f} ms" for name in sorted(seconds, key=seconds.__getitem__))
    print(f"{Path(files[0]).parent.parent.name}: {figures}", file=sys.stderr, flush=True)
    return min(agreeing, key=agreeing.__getitem__)


def make_sample(path: str, data: bytes, decode: Callable[[bytes], np.ndarray]) -> dict:
    """One row: 12 bits to 8 as the window 2048 / 4096 shows them, then resized as cxrflow does."""
    values = decode(data)
    gray = _LOOK_UP[values]
    resized = Image.fromarray(gray).resize((WIDTH, HEIGHT), Image.Resampling.BILINEAR, reducing_gap=2.0)
    return {
        "path": path,
        "size": len(data),
        "sha256": hashlib.sha256(data).hexdigest(),
        "label": Path(path).parent.name,
        "source_height": values.shape[0],
        "source_width": values.shape[1],
        "source_format": "DICOM",
        "pixels": resized.tobytes(),
    }


_LOOK_UP = np.rint(np.clip((np.arange(2**16) - 2047.5) / 4095 + 0.5, 0, 1) * 255).astype(np.uint8)


def ingest_files(files: list[str], library: str, rank: int, out: str) -> None:
    decode = LIBRARIES[library]
    for start in range(0, len(files), ROWS_A_FILE):
        samples = [make_sample(path, Path(path).read_bytes(), decode) for path in files[start : start + ROWS_A_FILE]]
        pq.write_table(to_table(samples), Path(out) / f"{rank}-{start:08d}.parquet", **WRITING)


def ingest(pool, folder: str, out: str, chosen: dict[str, str]) -> None:
    """Each process takes every second file."""
    Path(out).mkdir(parents=True)
    files = list_images(folder)
    if folder not in chosen:
        chosen[folder] = choose_library(files)
    tasks = [(files[rank::PROCESSES], chosen[folder], rank, out) for rank in range(PROCESSES)]
    pool.starmap(ingest_files, tasks, chunksize=1)


def main() -> None:
    chosen: dict[str, str] = {}
    with multiprocessing.get_context("fork").Pool(PROCESSES) as pool:
        serve(lambda folder, out: ingest(pool, folder, out, chosen))


if __name__ == "__main__":
    main()
