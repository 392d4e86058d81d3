"""Each published collection is ingested with one command, from a small stand-in with its own folders and columns."""

import gzip
import json

import numpy as np
import pyarrow.dataset as ds
import pytest
from PIL import Image

from cxrflow.base.config import IngestConfig
from cxrflow.base.errors import UserError
from cxrflow.pipeline.ingest_job import ingest
from label_files import CHEXPERT, MIMIC, NIH_2020, PADCHEST, VINDR_COLUMNS, padchest
from no_spark import session


def write(folder, *names):
    """Small images, each different."""
    for number, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        values = np.random.default_rng(number).integers(0, 255, (8, 8), np.uint8)
        Image.fromarray(values).save(path, "PNG" if path.suffix == "" else None)


def write_gzip(path, text):
    path.write_bytes(gzip.compress(text.encode()))


@pytest.fixture
def run(monkeypatch, tmp_path):
    """Ingest ``collection`` below tmp_path: (result, samples by path below the collection, manifest)."""
    spark = session(monkeypatch)

    def ingest_collection(**flags):
        root, table = tmp_path / "collection", tmp_path / "table"
        result = ingest(spark, IngestConfig(images=str(root), table=str(table), height=8, width=8, **flags))
        columns = ["path", "label", "patient_id", "split", "patient_sex", "patient_age", "view_position"]
        rows = ds.dataset(table / "samples", partitioning="hive").to_table(columns).to_pylist()
        samples = {row["path"].removeprefix(f"{root}/"): row for row in rows}
        return result, samples, json.loads((table / "manifest.json").read_text())

    return ingest_collection


@pytest.fixture
def root(tmp_path):
    folder = tmp_path / "collection"
    folder.mkdir()
    return folder


def column(samples, name):
    return {path: row[name] for path, row in samples.items()}


def test_nih_with_images_in_several_folders(run, root):
    write(root, "images_001/images/00000001_000.png", "images_002/images/00000002_000.png")
    rows = "00000001_000.png,Hernia|Mass,0,1,58,M,PA,1,1,0.1,0.1\n00000002_000.png,No Finding,0,2,8,F,AP,1,1,0.1,0.1\n"
    (root / "Data_Entry_2017_v2020.csv").write_text(NIH_2020 + rows + "00000003_000.png,Mass,0,3,9,F,AP,1,1,0.1,0.1\n")
    (root / "train_val_list.txt").write_text("00000001_000.png\n")
    (root / "test_list.txt").write_text("00000002_000.png\n00000003_000.png\n")
    result, samples, manifest = run(labels=str(root / "Data_Entry_2017_v2020.csv"))
    assert column(samples, "label") == {
        "images_001/images/00000001_000.png": "Hernia|Mass",
        "images_002/images/00000002_000.png": "No Finding",
    }
    assert samples["images_001/images/00000001_000.png"]["split"] in ("train", "val")
    assert samples["images_002/images/00000002_000.png"]["split"] == "test"
    assert set(column(samples, "patient_id").values()) == {"1", "2"}
    first = samples["images_001/images/00000001_000.png"]
    assert (first["patient_sex"], first["patient_age"], first["view_position"]) == ("M", 58.0, "PA")
    assert (manifest["task"], manifest["labels"]) == ("multi", ["Hernia", "Mass"])
    assert result["labels"] == {"layout": "NIH ChestX-ray14", "rows": 3, "rows_without_file": 1, "files_without_row": 3}


def test_chexpert_whose_paths_begin_with_the_archives_folder(run, root):
    names = ["train/patient00001/study1/view1_frontal.jpg", "train/patient00002/study1/view1_frontal.jpg"]
    write(root, *names)
    cells = [",,1.0,,,,,,,,,,,", "1.0,,,,,,,,,,,,,"]
    (root.parent / "train.csv").write_text(
        CHEXPERT
        + "".join(
            f"CheXpert-v1.0-small/{name},Male,6,Frontal,AP,{row}\n" for name, row in zip(names, cells, strict=True)
        )
    )
    _, samples, manifest = run(labels=str(root.parent / "train.csv"), findings="Cardiomegaly,Edema")
    assert column(samples, "label") == {names[0]: "Cardiomegaly|?Edema", names[1]: "No Finding"}
    assert column(samples, "patient_id") == {names[0]: "patient00001", names[1]: "patient00002"}
    assert {(row["patient_sex"], row["patient_age"], row["view_position"]) for row in samples.values()} == {
        ("M", 6, "AP")
    }
    assert manifest["labels"] == ["Cardiomegaly", "Edema"]


def test_mimic_with_its_metadata_and_splits(run, root):
    names = ["files/p10/p10000032/s50414267/aaa.jpg", "files/p10/p10000033/s5/ccc.jpg"]
    write(root, *names)
    labels = MIMIC + "10000032,50414267,,,,,,,,,1.0,,,,,\n10000033,5,,1.0,,,,,,,,,,-1.0,,\n"
    write_gzip(root.parent / "mimic-cxr-2.0.0-chexpert.csv.gz", labels)
    write_gzip(
        root.parent / "mimic-cxr-2.0.0-metadata.csv.gz",
        "dicom_id,subject_id,study_id,ViewPosition\naaa,10000032,50414267,PA\nccc,10000033,5,AP\n",
    )
    write_gzip(
        root.parent / "mimic-cxr-2.0.0-split.csv.gz",
        "dicom_id,study_id,subject_id,split\naaa,50414267,10000032,train\nccc,5,10000033,validate\n",
    )
    _, samples, _ = run(labels=str(root.parent / "mimic-cxr-2.0.0-chexpert.csv.gz"), findings="Cardiomegaly,Pneumonia")
    assert column(samples, "label") == {names[0]: "No Finding", names[1]: "Cardiomegaly|?Pneumonia"}
    assert column(samples, "split") == {names[0]: "train", names[1]: "val"}


def test_rsna_whose_identifiers_have_no_extension(run, root):
    write(root, "stage_2_train_images/aa", "stage_2_train_images/bb.png")
    (root.parent / "stage_2_train_labels.csv").write_text(
        "patientId,x,y,width,height,Target\naa,1,2,3,4,1\naa,5,6,7,8,1\nbb,,,,,0\n"
    )
    _, samples, manifest = run(labels=str(root.parent / "stage_2_train_labels.csv"))
    assert sorted(column(samples, "label").values()) == ["Lung Opacity", "No Lung Opacity"]
    assert manifest["task"] == "single"


@pytest.mark.parametrize(("readers", "expected"), [("majority", "No Finding"), ("any", "Cardiomegaly")])
def test_vindr_with_a_rule_for_its_readers(run, root, readers, expected):
    write(root, "train/a.png", "train/b.png")
    (root.parent / "image_labels_train.csv").write_text(VINDR_COLUMNS)
    result, samples, _ = run(labels=str(root.parent / "image_labels_train.csv"), readers=readers)
    assert samples["train/a.png"]["label"] == expected
    assert result["labels"]["layout"] == "VinDr-CXR or VinDr-PCXR"


def test_padchest_lists(run, root):
    write(root, "0/a.png", "0/b.png", "0/c.png")
    report = 'said ""clear"", then opacity'
    rows = padchest("a.png", "['normal']") + padchest("b.png", "\"['cardiomegaly', 'pleural effusion']\"", report)
    (root.parent / "PADCHEST.csv").write_text(PADCHEST + rows + padchest("c.png", "['exclude']"))
    result, samples, manifest = run(labels=str(root.parent / "PADCHEST.csv"))
    assert column(samples, "label") == {"0/a.png": "No Finding", "0/b.png": "cardiomegaly|pleural effusion"}
    assert manifest["labels"] == ["cardiomegaly", "pleural effusion"]
    assert result["reasons"] == {"unlabelled": 1}


def test_kermany_folders_keep_their_own_splits(run, root):
    names = [
        f"chest_xray/{split}/{label}/IM-000{number}-0001.png"
        for number, (split, label) in enumerate(
            [("train", "NORMAL"), ("train", "PNEUMONIA"), ("test", "NORMAL"), ("val", "PNEUMONIA")]
        )
    ]
    write(root, *names)
    _, samples, _ = run()
    assert column(samples, "split") == {name: name.split("/")[1] for name in names}
    assert column(samples, "label") == {name: name.split("/")[2] for name in names}


def test_own_fractions_go_before_kermanys_folders(run, root):
    names = [f"{split}/NORMAL/IM-000{number}-0001.png" for number, split in enumerate(["train", "test"])]
    write(root, *names)
    _, samples, _ = run(split="test")
    assert set(column(samples, "split").values()) == {"test"}


def test_kermanys_folders_that_are_asked_for_must_be_there(run, root):
    write(root, "train/NORMAL/a.png", "extra/b.png")
    with pytest.raises(
        UserError, match=r"--label-format kermany: expected all files in folders .*got 1 others, such as"
    ):
        run(label_format="kermany")


def test_reports_with_doubled_quotes_move_no_column(run, root):
    write(root, "a.png", "b.png")
    (root.parent / "labels.csv").write_text(
        'path,report,label,patient_id\na.png,"""old"" film,PNEUMONIA,in 2001",NORMAL,p1\n'
        'b.png,"two\nlines, read as ""clear"",NORMAL",PNEUMONIA,p2\n'
    )
    _, samples, _ = run(labels=str(root.parent / "labels.csv"))
    assert column(samples, "label") == {"a.png": "NORMAL", "b.png": "PNEUMONIA"}
    assert column(samples, "patient_id") == {"a.png": "p1", "b.png": "p2"}


def test_a_list_as_text_is_no_name_of_a_finding(run, root):
    write(root, "a.png", "b.png")
    (root.parent / "labels.csv").write_text("path,label\na.png,\"['cardiomegaly', 'edema']\"\nb.png,['normal']\n")
    _, samples, manifest = run(labels=str(root.parent / "labels.csv"), findings="all")
    assert manifest["labels"] == ["cardiomegaly", "edema"]
    assert samples["b.png"]["label"] == "No Finding"
