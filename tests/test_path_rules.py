import pytest

from cxrflow.base.path_rules import label_of, patient_of, sample_id


@pytest.mark.parametrize(
    ("name", "patient"),
    [
        ("person12_bacteria_46.jpeg", "person12_bacteria"),
        ("person12_bacteria_47.jpeg", "person12_bacteria"),
        ("person12_virus_46.jpeg", "person12_virus"),  # another person: the subtypes number patients separately
        ("IM-0115-0001.jpeg", "IM-0115"),
        ("NORMAL2-IM-0115-0001.jpeg", "NORMAL2-IM-0115"),
        ("NORMAL2-IM-0383-0001-0002.jpeg", "NORMAL2-IM-0383"),
    ],
)
def test_the_patient_of_kermany_names(name, patient):
    assert patient_of(f"/x/PNEUMONIA/{name}", "kermany") == patient
    assert patient_of(f"/x/PNEUMONIA/{name}", "auto") == patient


def test_a_name_that_fits_no_rule_is_a_patient_of_its_own():
    assert patient_of("/a/scan.png") != patient_of("/b/scan.png")
    assert patient_of("/a/person1_virus_1.jpeg", "file") == "/a/person1_virus_1.jpeg"


def test_a_regular_expression_joins_its_groups():
    assert patient_of("/x/site3-p77-lateral.dcm", r"(site\d+)-(p\d+)") == "site3-p77"


def test_a_regular_expression_sees_the_folders_below_the_root_and_not_those_above():
    path = "/data/patient1/cxr/patient00042/study1/view1.jpg"
    assert patient_of(path, r"(patient\d+)/", "/data/patient1/cxr") == "patient00042"


@pytest.mark.parametrize(
    ("path", "label"),
    [("/x/NORMAL/IM-1.jpeg", "NORMAL"), ("/x/PNEUMONIA/p1_virus_2.jpeg", "virus"), ("/x/other.jpeg", None)],
)
def test_a_rule_finds_the_label_below_the_root(path, label):
    assert label_of("/bacteria" + path, "(bacteria|virus|NORMAL)", "/bacteria/x") == label
    assert label_of(path, None, "/") == path.split("/")[-2]


def test_sample_id_fits_a_signed_64_bit_integer():
    assert all(-(2**63) <= sample_id(str(number)) < 2**63 for number in range(100))
