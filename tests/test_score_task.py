"""Scoring of files and shards, with a made-up model."""

import types

import numpy as np
import pyarrow as pa
from PIL import Image

from cxrflow.base.config import parse_bytes
from cxrflow.base.manifest import Shard
from cxrflow.base.schema import SAMPLES
from cxrflow.base.shard_files import write_shard
from cxrflow.catalog.grouping import columns_for, taken_groups
from cxrflow.images import DOUBTS, Recipe
from cxrflow.pipeline.predict_job import COUNTED, _count_predictions, _warnings
from cxrflow.spark.score_task import ScoreFiles, ScoreShards
from cxrflow.spark.scorer import Run
from image_samples import FAINT, encode, picture

RUN = Run(
    task="single",
    labels=["NORMAL", "PNEUMONIA"],
    positive=1,
    threshold=0.5,
    temperature=1.0,
    prevalence=(0.5, 0.5),
    recipe=Recipe(24, 32),
    backend="none",
    model="none",
)


def brightness(pixels: np.ndarray) -> np.ndarray:
    score = pixels.mean(axis=(1, 2)) / 255
    return np.stack([1 - score, score], axis=1).astype(np.float32)


def test_every_scored_file_has_its_note_and_doubts_are_counted(tmp_path):
    pages = [picture(seed=seed) for seed in range(2)]
    files = {
        "plain.png": encode(picture()),
        "faint.png": encode(Image.fromarray(FAINT)),
        "pages.tiff": encode(pages[0], "TIFF", save_all=True, append_images=pages[1:]),
        "broken.png": encode(picture())[:200],
    }
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    listing = pa.RecordBatch.from_pylist(
        [{"path": str(tmp_path / name), "size": len(files[name]), "modified": None} for name in files]
    )
    task = ScoreFiles(RUN, None, brightness, parse_bytes("--worker-memory", "1g"))
    table = pa.Table.from_batches(task(iter([listing])))
    plain, faint, pages_note, broken = table["note"].to_pylist()
    assert (plain, pages_note, broken) == ("", "first of 2 pages", None)
    assert faint.startswith(DOUBTS["nearly_empty"].beginning) and "; clipped: 99 %" in faint
    assert [reason is None for reason in table["reason"].to_pylist()] == [True, True, True, False]

    keys = zip(*(key(table) for key in COUNTED.values()), strict=True)
    counts = _count_predictions([dict(zip(COUNTED, key, strict=True)) | {"rows": 1} for key in keys], RUN)
    assert (counts["scored"], counts["unreadable"], counts["noted"]) == (3, 1, 2)
    assert counts["doubts"] == {"nearly_empty": 1, "clipped": 1}
    line, other = _warnings(counts["doubts"], "/p")
    assert (
        "(clipped)" in other
        and line.startswith("1 images may be wrong (nearly_empty), and so may their scores: ")
        and "/p" in line
    )


def test_a_file_with_two_doubts_counts_for_both():
    kinds = COUNTED["kinds"](pa.table({"note": ["bits above the 9 bits; clipped: 60 %", "x", "", None]}))
    assert kinds == ["clipped; extra_bits", "noted", None, None]
    rows = [{"predicted_label": "NORMAL", "reason": None, "kinds": kind, "rows": 5} for kind in kinds]
    counts = _count_predictions(rows, RUN)
    assert counts["doubts"] == {"clipped": 5, "extra_bits": 5} and counts["noted"] == 10


def test_scored_shards_tell_how_images_were_taken(tmp_path):
    """The columns arrive as text, also those of a shard that an older version wrote without them."""
    size = {"height": 4, "width": 4, "source_height": 20, "source_width": 20}
    row = {"sample_id": 1, "path": "/x/1", "label": "NORMAL", "patient_id": "1", "pixels": bytes(range(16)), **size}
    taken = [
        {"patient_sex": "F", "patient_age": 0.08, "manufacturer": "Siemens ", "burned_in_annotation": True},
        {"patient_sex": None, "patient_age": 80.0, "manufacturer": None, "burned_in_annotation": False},
        dict.fromkeys(("patient_sex", "patient_age", "manufacturer", "burned_in_annotation")),
    ]
    shards = [[row | values for values in taken], [row]]
    names = [write_shard(str(tmp_path), "test", pa.Table.from_pylist(rows)) for rows in shards]
    columns = columns_for(None, types.SimpleNamespace(columns=SAMPLES.names))
    text = ["path", "label", "patient_id", *columns]
    parts = [
        [Shard(path=name, split="test", rows=len(rows), labels={}, checksum="")]
        for name, rows in zip(names, shards, strict=True)
    ]
    task = ScoreShards(str(tmp_path), 4, 4, parts, RUN.labels, text, brightness)
    batch = pa.RecordBatch.from_pylist([{"id": number} for number in range(2)])
    groups = taken_groups(pa.Table.from_batches(task(iter([batch]))).to_pandas())
    unknown = ["not stated"] * 4
    assert {name: found.tolist() for name, found in groups.items()} == {
        "patient_sex": ["F", *unknown[1:]],
        "age": ["0-1", "80+", *unknown[2:]],
        "view_position": unknown,
        "manufacturer": ["SIEMENS", *unknown[1:]],
        "modality": unknown,
        "burned_in_annotation": ["burned in", "not burned in", *unknown[2:]],
    }
