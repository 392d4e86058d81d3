"""Published labels files, as published: small stand-ins with each collection's own columns, invented rows."""

import gzip
from collections import Counter

import pytest

from cxrflow.base.errors import UserError
from cxrflow.catalog.label_formats import NAMES, LabelSource, all_companions, find_format, load_format
from cxrflow.catalog.labels_csv import LabelsFile
from label_files import CHEXPERT, MIMIC, NIH_2017, NIH_2020, PADCHEST, VINDR_BOXES, VINDR_COLUMNS, padchest


@pytest.fixture
def read(tmp_path):
    """Write files, read the first one: (name of the format, rows by key, counts)."""

    def run(files: dict[str, str | bytes], readers="majority"):
        for name, text in files.items():
            data = text.encode() if isinstance(text, str) else text
            (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
        main = LabelsFile(str(tmp_path / next(iter(files))))
        layout, counts = find_format(main), Counter()
        source = LabelSource(main, {name: str(tmp_path / name) for name in files}, readers=readers)
        rows = list(layout.read(source, counts))
        assert len({row.key for row in rows}) == len(rows)
        return layout.name, {row.key: row for row in rows}, counts

    return run


@pytest.mark.parametrize(("header", "end"), [(NIH_2017, ","), (NIH_2020, "")], ids=["2017", "v2020"])
def test_nih_with_its_official_lists(read, header, end):
    rows = (
        f"00000001_000.png,Cardiomegaly|Emphysema,0,1,058Y,M,PA,2682,2749,0.143,0.143{end}\n"
        f"00000002_000.png,No Finding,0,2,81,F,AP,2500,2048,0.171,0.171{end}\n"
    )
    name, found, counts = read(
        {
            "Data_Entry.csv": header + rows,
            "train_val_list.txt": "00000001_000.png\n",
            "test_list.txt": "00000002_000.png\n",
        }
    )
    first, second = found["00000001_000.png"], found["00000002_000.png"]
    assert name == "nih"
    assert (first.label, first.patient_id, first.split) == ("Cardiomegaly|Emphysema", "1", "train_val")
    assert (first.sex, first.age, first.view_position) == ("M", 58, "PA")
    assert (second.label, second.split, second.sex) == ("No Finding", "test", "F")
    assert counts["images in test_list.txt"] == 1


def test_nih_without_lists_gives_no_split(read):
    _, found, _ = read({"Data_Entry.csv": NIH_2020 + "00000001_000.png,Hernia,0,1,58,M,PA,1,1,0.1,0.1\n"})
    assert found["00000001_000.png"].split is None


def test_chexpert_takes_the_patient_from_the_path(read):
    path = "CheXpert-v1.0-small/train/patient00001/study1/view1_frontal.jpg"
    lateral = "CheXpert-v1.0-small/train/patient00001/study1/view2_lateral.jpg"
    cells = "1.0,,,,,,,,,0.0,,,,1.0"
    name, found, _ = read(
        {"train.csv": CHEXPERT + f"{path},Female,68,Frontal,AP,{cells}\n{lateral},Female,68,Lateral,,{cells}\n"}
    )
    assert name == "chexpert"
    assert found[path].patient_id == "patient00001"
    assert found[path].cells["No Finding"] == "1.0"
    assert set(found[path].cells) == set(CHEXPERT.strip().split(",")[5:])
    assert (found[path].view_position, found[lateral].view_position) == ("AP", "LL")


def test_chexpert_refuses_a_path_without_a_patient(read):
    with pytest.raises(UserError, match="line 2 .*folder of a patient"):
        read({"train.csv": CHEXPERT + "a.jpg,Male,3,Frontal,PA" + "," * 14 + "\n"})


@pytest.mark.parametrize("labeler", ["chexpert", "negbio"])
def test_mimic_gives_each_image_the_labels_of_its_study(read, labeler):
    files = {
        f"mimic-cxr-2.0.0-{labeler}.csv.gz": MIMIC
        + "10000032,50414267,,,,,,,,,1.0,,,,,\n10000033,5,,1.0,,,,,,,,,,-1.0,,\n",
        "mimic-cxr-2.0.0-metadata.csv.gz": "dicom_id,subject_id,study_id,ViewPosition,Rows\n"
        "aaa,10000032,50414267,PA,3056\nbbb,10000032,50414267,LATERAL,3056\nccc,10000033,5,AP,2\nddd,9,9,AP,1\n",
        "mimic-cxr-2.0.0-split.csv.gz": "dicom_id,study_id,subject_id,split\naaa,50414267,10000032,train\n"
        "bbb,50414267,10000032,train\nccc,5,10000033,validate\nddd,9,9,test\n",
    }
    name, found, counts = read(files)
    assert name == "mimic"
    assert {key: row.split for key, row in found.items()} == {"aaa": "train", "bbb": "train", "ccc": "val"}
    assert found["aaa"].cells == found["bbb"].cells
    assert found["ccc"].cells["Pneumonia"] == "-1.0"
    assert found["aaa"].patient_id == "10000032"
    assert counts["images of a study without labels"] == 1


def test_mimic_says_that_the_metadata_are_missing(read):
    with pytest.raises(UserError, match=r"expected the file \*-metadata\.csv\.gz in the folder of"):
        read({"mimic-cxr-2.0.0-chexpert.csv.gz": MIMIC})


def test_rsna_has_a_row_a_box(read):
    name, found, counts = read(
        {"stage_2_train_labels.csv": "patientId,x,y,width,height,Target\naa,1,2,3,4,1\naa,5,6,7,8,1\nbb,,,,,0\n"}
    )
    assert name == "rsna"
    assert {key: row.label for key, row in found.items()} == {"aa": "Lung Opacity", "bb": "No Lung Opacity"}
    assert (counts["rows"], counts["images"]) == (3, 2)


def test_rsna_detailed_classes(read):
    _, found, _ = read(
        {"stage_2_detailed_class_info.csv": "patientId,class\naa,No Lung Opacity / Not Normal\nbb,Normal\nbb,Normal\n"}
    )
    assert {key: row.label for key, row in found.items()} == {"aa": "No Lung Opacity / Not Normal", "bb": "Normal"}


def test_rsna_refuses_rows_that_contradict_each_other(read):
    with pytest.raises(UserError, match="line 3 .*expected 'Lung Opacity' for 'aa', as in line 2"):
        read({"labels.csv": "patientId,x,y,width,height,Target\naa,1,2,3,4,1\naa,,,,,0\n"})


@pytest.mark.parametrize(
    "text",
    [VINDR_BOXES, VINDR_COLUMNS, VINDR_COLUMNS.replace("image_id,rad_id", "image_ID,rad_ID")],
    ids=["boxes", "columns", "PCXR"],
)
@pytest.mark.parametrize(
    ("readers", "expected"),
    [
        ("majority", {"a": set(), "b": {"Cardiomegaly"}}),
        ("any", {"a": {"Cardiomegaly"}, "b": {"Cardiomegaly", "Pleural effusion"}}),
        ("R3", {"a": {"Cardiomegaly"}, "b": set()}),
        ("R4", {}),
    ],
)
def test_vindr_combines_readers_by_a_stated_rule(read, text, readers, expected):
    name, found, counts = read({"train.csv": text}, readers)
    assert name == "vindr"
    assert {key: {name for name, cell in row.cells.items() if cell == "1"} for key, row in found.items()} == expected
    assert all(set(row.cells) == {"Cardiomegaly", "Pleural effusion"} for row in found.values())
    if readers == "majority":
        assert counts["images whose readers disagree"] == 2
    if readers == "R4":
        assert counts["images that R4 did not read"] == 2


def test_vindr_test_sets_are_a_consensus(read):
    _, found, _ = read({"image_labels_test.csv": "image_id,Cardiomegaly,No finding\na,1,0\nb,0,1\n"}, "R7")
    assert {key: row.cells["Cardiomegaly"] for key, row in found.items()} == {"a": "1", "b": "0"}


def test_padchest_lists_are_parsed(read):
    rows = (
        padchest("a.png", "['normal']")
        + padchest("b.png", "\"['cardiomegaly', ' pleural effusion', 'cardiomegaly']\"", 'a ""quoted"" report, in 2001')
        + padchest("c.png", "['exclude']", projection="L")
        + padchest("d.png", "\"['unchanged', 'normal']\"")
        + padchest("e.png", "\"['normal', 'pneumonia']\"")
        + padchest("f.png", "['unchanged']")
        + padchest("g.png", "")
    )
    name, found, counts = read({"PADCHEST.csv": PADCHEST + rows})
    assert name == "padchest"
    assert {key: row.label for key, row in found.items()} == {
        "a.png": "No Finding",
        "b.png": "cardiomegaly|pleural effusion",
        "c.png": None,
        "d.png": "No Finding",
        "e.png": "pneumonia",
        "f.png": None,
        "g.png": None,
    }
    assert (found["a.png"].patient_id, found["a.png"].sex, found["a.png"].age) == ("p1", "F", 63)
    assert found["c.png"].view_position == "LL"
    assert counts["images marked exclude or suboptimal study"] == 1


def test_padchest_refuses_what_is_no_list(read):
    with pytest.raises(UserError, match=r"line 2 .*expected a list of names"):
        read({"PADCHEST.csv": PADCHEST + padchest("a.png", "['normal'")})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("path,label\na.png,NORMAL\n", "generic"),
        ("path,Edema,patient_id\na.png,1,p\n", "generic"),
        ("patientId,path,Target\na,b,1\n", "generic"),
    ],
)
def test_other_files_have_the_generic_layout(read, text, expected):
    assert read({"labels.csv": text})[0] == expected


def test_unknown_columns_are_an_error_that_lists_the_layouts(read):
    with pytest.raises(
        UserError, match=r"expected the columns of a known layout, got file, diagnosis.*NIH ChestX-ray14"
    ):
        read({"labels.csv": "file,diagnosis\na.png,NORMAL\n"})


def test_a_named_layout_must_fit(tmp_path):
    (tmp_path / "labels.csv").write_text("path,label\n")
    file = LabelsFile(str(tmp_path / "labels.csv"))
    with pytest.raises(UserError, match="--label-format nih: expected the columns Image Index and Finding Labels"):
        find_format(file, "nih")
    with pytest.raises(UserError, match="expected one of auto, kermany, nih"):
        find_format(file, "chexray")


def test_every_layout_is_named_after_its_module():
    assert [load_format(name).name for name in NAMES] == list(NAMES)


def test_the_published_nih_file_is_read_whole(request):
    from conftest import shared_images

    file = LabelsFile(str(shared_images("nih_sample") / "Data_Entry_2017_v2020.csv.gz"))
    counts: Counter = Counter()
    layout = find_format(file)
    rows = list(layout.read(LabelSource(file), counts))
    assert layout.name == "nih"
    assert len(rows) == counts["rows"] == 112_120
    assert len({row.patient_id for row in rows}) == 30_805
    assert sum(row.label == "No Finding" for row in rows) == 60_361


def test_the_files_that_formats_read_beside_the_labels_file_are_listed_once():
    """Where only Spark can list a folder, files with these endings are copied, and no others."""
    endings = all_companions()
    assert len(endings) == len(set(endings))
    assert {"train_val_list.txt", "test_list.txt", "metadata.csv.gz", "split.csv.gz"} <= set(endings)
