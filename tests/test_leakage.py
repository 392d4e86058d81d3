import json
import shutil

import pytest

from cxrflow.base.config import IngestConfig
from cxrflow.base.manifest import RUN_VERSION, RunDirectory, read_manifest, write_json
from cxrflow.base.shard_files import read_shard
from cxrflow.images.phantoms import PATIENT_RULE, make_phantoms
from cxrflow.metrics.evaluation_text import warnings
from cxrflow.pipeline.ingest_job import ingest
from cxrflow.spark.leakage import find_leakage

NO_SHIFT = {"shift": None, "prevalence": {"used": None, "here": {}}, "images_without_patient": 0, "n": 9, "patients": 5}


@pytest.fixture(scope="module")
def run(table, tmp_path_factory) -> RunDirectory:
    """What a run that was trained on the table keeps of it."""
    found = RunDirectory(str(tmp_path_factory.mktemp("leakage") / "run"))
    write_config(found, table)
    return found


def write_config(run: RunDirectory, table, **data) -> None:
    write_json(
        run.config,
        {"version": RUN_VERSION, "train": {"table": str(table)}, "data": {**read_manifest(str(table)).facts(), **data}},
    )


def leakage(spark, run, table, split="test") -> dict:
    return find_leakage(spark, run, str(table), read_manifest(str(table)), split)


def warning_text(found: dict, split: str = "test") -> str:
    return " ".join(warnings({**NO_SHIFT, "leakage": found, "split": split}))


def test_there_is_no_warning_for_the_runs_own_test_split(spark, run, table):
    found = leakage(spark, run, table)
    assert found == {"table": "own"} and warning_text(found) == "" and "too good" in warning_text(found, "val")


def test_images_and_patients_of_training_are_found_in_another_table(spark, run, table, phantoms, tmp_path):
    shard = read_manifest(str(table)).of_split("val")[0]
    first = read_shard(f"{table}/{shard.path}", ["path", "patient_id"]).to_pylist()[0]
    path, patient = first["path"], first["patient_id"]
    images = tmp_path / "site" / "NORMAL"
    make_phantoms(str(tmp_path / "other"), patients=6, images_per_patient=1, seed=9)
    images.mkdir(parents=True)
    for number, other in enumerate((tmp_path / "other").rglob("phantom*.jpeg")):
        shutil.copy(other, images / f"phantom9{number:03d}_0.jpeg")
    shutil.copy(path, images / "phantom8000_0.jpeg")  # its content under another patient's name
    shutil.copy(next(images.glob("phantom9*")), images / f"{patient}_7.jpeg")  # another image of one of its patients
    (images / f"{patient}_7.jpeg").write_bytes((images / f"{patient}_7.jpeg").read_bytes() + b"\n")
    ingest(
        spark,
        IngestConfig(
            images=str(tmp_path / "site"),
            table=str(tmp_path / "table"),
            height=48,
            width=40,
            split="test",
            patients=PATIENT_RULE,
        ),
    )
    found = leakage(spark, run, tmp_path / "table")
    assert found == {"table": "other", "images": 1, "patients": 2}
    assert "used 1 of these 9 images, and images of 2 of these 5 patients" in warning_text(found)
    assert warning_text({"table": "other", "images": 0, "patients": 0}) == ""


def test_a_table_that_replaced_the_runs_own_may_have_other_splits(spark, run, table, tmp_path):
    other = RunDirectory(str(tmp_path / "run"))
    write_config(other, table, table_id="another")
    assert leakage(spark, other, table) == {"table": "remade"} and "ingested again after training" in warning_text(
        {"table": "remade"}
    )
    gone = {"train": {"table": str(tmp_path / "nowhere")}, "data": {"table_id": "another"}}
    write_json(other.config, {"version": RUN_VERSION, **gone})
    assert leakage(spark, other, table) == {"table": "unknown"} and "it is unknown" in warning_text(
        {"table": "unknown"}
    )


def test_a_table_that_cannot_be_read_does_not_stop_the_judgement(spark, run, table, tmp_path, caplog):
    shutil.copytree(table, tmp_path / "table")
    write_json(
        f"{tmp_path}/table/manifest.json",
        {**json.loads((tmp_path / "table" / "manifest.json").read_text()), "table_id": "another"},
    )
    other = RunDirectory(str(tmp_path / "run"))
    write_config(other, tmp_path / "table")
    shutil.rmtree(tmp_path / "table" / "samples")
    assert leakage(spark, other, table) == {"table": "unknown"} and "cannot compare with" in caplog.text


def test_images_without_a_patient_cause_a_warning():
    result = {**NO_SHIFT, "leakage": {"table": "own"}, "split": "test", "n": 100}
    assert (
        warnings({**result, "images_without_patient": 5}) == []
        and "6 of 100 images name no patient" in warnings({**result, "images_without_patient": 6})[0]
    )


@pytest.mark.parametrize(
    ("used", "here", "warned"),
    [(0.01, 0.1, True), (0.55, 0.5, False), (0.7, 0.55, True), (0.1, 0.0, True), (0.1, None, False)],
)
def test_another_prevalence_is_one_of_other_odds(used, here, warned):
    result = {
        **NO_SHIFT,
        "leakage": {"table": "own"},
        "split": "test",
        "prevalence": {"used": {"a": used}, "here": {"a": here}},
    }
    assert bool(warnings(result)) == warned
