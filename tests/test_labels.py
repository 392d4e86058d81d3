import hashlib

import pytest

from cxrflow.labels import folder_label, patient_hash, patient_of, sample_id, split_of


@pytest.mark.parametrize(("name", "patient"), [
    ("person12_bacteria_46.jpeg", "person12_bacteria"),
    ("person12_bacteria_47.jpeg", "person12_bacteria"),
    ("person12_virus_46.jpeg", "person12_virus"),  # another person: the subtypes number patients separately
    ("IM-0115-0001.jpeg", "IM-0115"),
    ("NORMAL2-IM-0115-0001.jpeg", "NORMAL2-IM-0115"),
    ("NORMAL2-IM-0383-0001-0002.jpeg", "NORMAL2-IM-0383"),
])
def test_kermany_names_tell_the_patient(name, patient):
    assert patient_of(f"/x/PNEUMONIA/{name}", "kermany") == patient
    assert patient_of(f"/x/PNEUMONIA/{name}", "auto") == patient


def test_a_name_that_fits_no_rule_is_a_patient_of_its_own():
    assert patient_of("/a/scan.png") != patient_of("/b/scan.png")
    assert patient_of("/a/person1_virus_1.jpeg", "file") == "/a/person1_virus_1.jpeg"


def test_a_regular_expression_joins_its_groups():
    assert patient_of("/x/site3-p77-lateral.dcm", r"(site\d+)-(p\d+)") == "site3-p77"


def test_folder_label():
    assert folder_label("s3://bucket/train/NO FINDING/a.png") == "NO FINDING"


def test_patient_hash_is_the_documented_one():
    digest = hashlib.sha256(b"7:IM-0115").digest()
    assert patient_hash("IM-0115", 7) == int.from_bytes(digest[:6], "big") / 2**48
    assert patient_hash("IM-0115", 7) != patient_hash("IM-0115", 8)


def test_split_of_includes_the_lower_end():
    assert [split_of(place, [0.5, 0.75]) for place in (0, 0.49, 0.5, 0.74, 0.75, 0.99)] == [
        "train", "train", "val", "val", "test", "test"]


def test_sample_id_fits_a_signed_64_bit_integer():
    assert all(-2**63 <= sample_id(str(number)) < 2**63 for number in range(100))
