"""Labels that differ in case or blanks only, and labels with unusual characters."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import pandas as pd
import pytest

from cxrflow.base.config import EvaluateConfig, IngestConfig, PredictConfig, ReportConfig
from cxrflow.base.errors import UserError
from cxrflow.base.manifest import read_manifest
from cxrflow.base.schema import score_column
from cxrflow.catalog.findings_reader import FindingsReader
from cxrflow.catalog.label_formats import ImageLabels
from cxrflow.catalog.label_spelling import find_variants, merged_spellings, refuse_variants
from cxrflow.pipeline.evaluate_job import evaluate
from cxrflow.pipeline.ingest_job import ingest
from cxrflow.pipeline.predict_job import predict
from cxrflow.report.page import write_report


def test_variants_differ_in_case_or_blanks_only():
    assert find_variants(["Opacity", "opacity", "Edema", "Lung Opacity", " lung  opacity"]) == [
        [" lung  opacity", "Lung Opacity"],
        ["Opacity", "opacity"],
    ]
    refuse_variants(["Opacity", "Opacities", "Lung-Opacity", "Lung Opacity"])
    with pytest.raises(UserError, match="--merge-labels: expected .* got 'Opacity' and 'opacity'; correct them"):
        refuse_variants(["opacity", "Opacity"])


def test_the_tables_spelling_wins_and_then_the_most_frequent():
    assert merged_spellings({}, {"Opacity": 2, "opacity": 5, "NORMAL": 1}) == {"Opacity": "opacity"}
    assert merged_spellings({"Opacity": 1}, {"opacity": 5}) == {"opacity": "Opacity"}


def test_findings_are_merged_on_request_only():
    rows = [ImageLabels(key=name, line=1, label=name) for name in ("Edema|Mass", "edema", "MASS")]
    reader = FindingsReader("all", [])
    for row in rows:
        reader.to_text(row)
    with pytest.raises(UserError, match="'Edema' and 'edema'"):
        reader.findings()
    reader = FindingsReader("all", [], merge=True)
    assert [reader.to_text(row) for row in rows] == ["Edema|Mass", "Edema", "Mass"]
    assert reader.findings() == ["Edema", "Mass"]


def images_with(phantoms, folder, labels):
    """Copies of the phantoms; their files are dealt to folders with the names of ``labels``, by normal and opacity."""
    for name, own in zip(("SYNTHETIC_NORMAL", "SYNTHETIC_OPACITY"), labels, strict=True):
        for index, file in enumerate(sorted((phantoms / name).glob("phantom*"))):
            target = folder / own[index % len(own)] / file.name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, target)
    return folder


def config_of(images, table, **changes):
    size = {"height": 32, "width": 32, "shard_rows": 6, "split": "0.5,0.25,0.25"}
    return IngestConfig(images=str(images), table=str(table), **size, **changes)


@pytest.mark.spark
def test_ingest_refuses_variants_and_merges_them_on_request(spark, phantoms, tmp_path):
    images = images_with(phantoms, tmp_path / "images", [["NORMAL"], ["Opacity", "opacity"]])
    with pytest.raises(UserError, match="--merge-labels: .*'Opacity' and 'opacity'"):
        ingest(spark, config_of(images, tmp_path / "table"))
    assert not (tmp_path / "table").exists()
    ingest(spark, config_of(images, tmp_path / "table", merge_labels=True))
    assert read_manifest(str(tmp_path / "table")).labels == ["NORMAL", "Opacity"]
    again = ingest(spark, config_of(images, tmp_path / "table", merge_labels=True))
    assert (again["added"], again["replaced"]) == (0, 0)


@pytest.mark.spark
def test_unusual_characters_in_labels_pass_through_every_job(spark, phantoms, tmp_path):
    labels = ['No `find.ing` it\'s "clear"', "Opa`c.ity, 'mild' \"left\""]
    images = images_with(phantoms, tmp_path / "images", [[label] for label in labels])
    table, run, predictions = (str(tmp_path / name) for name in ("table", "run", "predictions"))
    ingest(spark, config_of(images, table))
    assert read_manifest(table).labels == labels
    code = "import sys; from cxrflow.pipeline.cli import run_job; run_job('train', sys.argv[1:])"  # Keras in a process
    flags = ["--table", table, "--run", run, "--model", "plain", "--epochs", "1", "--tta", "1", "--batch-size", "8"]
    done = subprocess.run([sys.executable, "-c", code, *flags], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["positive_label"] == labels[1]
    assert f"positive label: {labels[1]} " in done.stderr.splitlines()[0]
    result = evaluate(spark, EvaluateConfig(run=run, table=table, bootstrap=10))
    assert result["positive_label"] == labels[1]
    predict(spark, PredictConfig(run=run, images=str(images), predictions=predictions))
    columns = [score_column(label) for label in labels]
    found = spark.read.parquet(predictions).toPandas()
    assert found[columns].sum(axis=1).between(0.99, 1.01).all() and set(found["predicted_label"]) <= set(labels)
    assert set(columns) <= set(pd.read_parquet(predictions).columns)
    page = write_report(ReportConfig(run=run, predictions=predictions, examples=1))
    assert page["evaluation"]
