"""The catalog alone: rows in, decisions out. No Spark, no files but its own."""

from __future__ import annotations

import hashlib
from collections import Counter

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from catalog_samples import NOW, filled, sample
from cxrflow.base.config import IngestConfig
from cxrflow.base.errors import UserError
from cxrflow.catalog.assign import assign_files, task_starts, write_tasks
from cxrflow.catalog.audit import audit
from cxrflow.catalog.database import insert, new_catalog, open_catalog, query_rows
from cxrflow.catalog.labels import LabelFiles, add_labels
from cxrflow.catalog.reconcile import reconcile

MEMORY = 64 << 20


def splits(catalog):
    return {row["path"]: row["split"] for row in query_rows(catalog, "SELECT path, split FROM samples")}


def test_patients_who_share_a_content_go_where_the_first_goes():
    # a and b share x, b and c share y: all three go with a; d stays.
    with filled(
        [
            sample("1", "a", "train", "x"),
            sample("2", "b", "val", "x"),
            sample("3", "b", "val", "y"),
            sample("4", "c", "test", "y"),
            sample("5", "c", "test", "z"),
            sample("6", "d", "test", "w"),
        ]
    ) as catalog:
        result = reconcile(catalog, None)
        assert splits(catalog) == {"1": "train", "2": "train", "3": "train", "4": "train", "5": "train", "6": "test"}
    assert sorted(result.changes) == [
        ("test/4", 0, "train"),
        ("test/5", 0, "train"),
        ("val/2", 0, "train"),
        ("val/3", 0, "train"),
    ]
    assert result.added == 6 and result.reasons == {}


def test_a_patient_of_the_table_draws_the_new_one_to_it():
    with filled([sample("1", "a", "train", "x"), sample("2", "z", "test", "x", is_new=False)]) as catalog:
        result = reconcile(catalog, None)
        assert splits(catalog) == {"1": "test", "2": "test"}
    assert result.changes == [("train/1", 0, "test")] and result.added == 1


def test_where_both_are_fixed_the_new_copy_goes_to_quarantine():
    with filled(
        [
            sample("1", "a", "train", "x", split_fixed=True),
            sample("2", "z", "test", "x", is_new=False),
            sample("3", "a", "train", "y", split_fixed=True),
        ]
    ) as catalog:
        result = reconcile(catalog, None)
        assert splits(catalog) == {"2": "test", "3": "train"}
        (row,) = query_rows(catalog, "FROM quarantine")
    assert (row["path"], row["sha256"], row["reason"]) == ("1", "x", "in_another_split")
    assert result.changes == [("train/1", 0, None)] and result.reasons == {"in_another_split": 1} and result.added == 1


@pytest.mark.spark
@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 7), st.integers(0, 5), st.booleans()), min_size=1, max_size=14),
    st.lists(st.sampled_from(["train", "val", "test"]), min_size=8, max_size=8),
    st.lists(st.booleans(), min_size=8, max_size=8),
)
def test_no_content_and_no_patient_is_ever_in_two_splits(rows, of_patient, fixed):
    samples = []
    owners: dict[int, str] = {}
    for number, (patient, content, is_new) in enumerate(rows):
        split = of_patient[patient]
        if not is_new and owners.setdefault(content, split) != split:
            continue  # the table itself never has a content in two splits
        samples.append(
            sample(str(number), f"p{patient}", split, f"c{content}", is_new=is_new, split_fixed=fixed[patient])
        )
    of_table = {row["patient_id"] for row in samples if not row["is_new"]}
    for row in samples:
        row["split_fixed"] = row["split_fixed"] or row["patient_id"] in of_table
    if not samples:
        return
    with filled(samples) as catalog:
        try:
            reconcile(catalog, None)
        except UserError as error:
            assert "got only unusable files" in str(error)
            return
        audit(catalog)  # raises where anything is torn
        left = splits(catalog)
        assert len(left) + query_rows(catalog, "SELECT count(*) AS rows FROM quarantine")[0]["rows"] == len(samples)
        assert all(left[row["path"]] == row["split"] for row in samples if not row["is_new"])
        assert all(left[row["path"]] == row["split"] for row in samples if row["split_fixed"] and row["path"] in left)


def bad(path, reason):
    return {"path": path, "size": 1, "modified": NOW, "sha256": "b", "reason": reason, "detail": ""}


def test_too_many_bad_files_are_refused_with_a_table_of_reasons():
    rows = [sample("1", "a", "train", "x"), sample("2", "b", "val", "y"), sample("3", "c", "val", "z")]
    refused = [bad("4", "truncated"), bad("5", "empty")]
    with filled(rows, refused) as catalog:
        assert reconcile(catalog, 0.4).reasons == {"empty": 1, "truncated": 1}
    with (
        filled(rows, refused) as catalog,
        pytest.raises(
            UserError,
            match=r"expected at most 39.0% unusable files, got 2 of 5 \(40.0%\).*\n  empty +1 .*\n  truncated +1 ",
        ),
    ):
        reconcile(catalog, 0.39)


@pytest.mark.parametrize(("listed", "message"), [(["1", "2", "3"], "1 of the listed files are neither"), (["1"], None)])
def test_a_file_that_left_no_row_is_an_error(tmp_path, listed, message):
    with new_catalog(str(tmp_path), MEMORY) as catalog:
        insert(catalog, "files", pa.Table.from_pylist([{"path": path} for path in listed]))
        insert(catalog, "samples", pa.Table.from_pylist([sample("1", "a", "train", "x"), sample("2", "b", "val", "y")]))
        if message:
            with pytest.raises(RuntimeError, match=message):
                reconcile(catalog, None)
        else:
            reconcile(catalog, None)


def test_audit_counts_copies_conflicts_and_look_alikes():
    near = "f" * 60 + "fffe"
    rows = [
        sample("1", "a", "train", "x"),
        sample("2", "a", "train", "x", label="B"),
        sample("3", "b", "val", "y", phash="f" * 64),
        sample("4", "c", "test", "z", phash=near),
        sample("5", "d", "test", "w", phash="0f" * 32),
    ]
    with filled(rows) as catalog:
        found = audit(catalog)
    assert found["duplicates"] == {"contents": 1, "files": 2, "examples": [["1", "2"]]}
    assert found["conflicting_labels"] == {"contents": 1, "files": 2, "examples": [["1", "2"]]}
    assert found["near_duplicates"] == {
        "pairs": 1,
        "across_splits": 1,
        "across_patients": 1,
        "examples": [["3", "4"]],
    } or found["near_duplicates"]["examples"] == [["4", "3"]]
    assert found["patients"] == {"test": 2, "train": 1, "val": 1}
    assert found["sizes"] == {"height": [10, 10, 10], "width": [20, 20, 20]}
    assert (found["bits"], found["formats"], found["notes"], found["files_without_patient"]) == (
        {"8": 5},
        {"PNG": 5},
        {},
        0,
    )


def test_audit_counts_doubts_by_kind_however_many_texts_there_are():
    rows = [
        sample(f"{number:03}", "a", "train", str(number), note=f"nearly empty: {number} of 256 gray levels")
        for number in range(150)
    ]
    rows += [
        sample("clipped", "a", "train", "x", note="first of 2 windows; clipped: 51 % of the pixels are black"),
        sample("both", "a", "train", "y", note="clipped: 60 % of the pixels are white; bits above the 12 bits stored"),
        sample("quoted", "a", "train", "z", note="'clipped: 51 %' is not a number"),
    ]
    with filled(rows) as catalog:
        found = audit(catalog)["doubts"]
    assert found == {
        "nearly_empty": {"files": 150, "examples": [f"{number:03}" for number in range(10)]},
        "clipped": {"files": 2, "examples": ["both", "clipped"]},
        "extra_bits": {"files": 1, "examples": ["both"]},
    }
    assert next(iter(found)) == "nearly_empty"


def test_audit_counts_how_images_were_taken_without_naming_few_patients():
    makers = ["Siemens ", "SIEMENS", "siemens"]
    rows = []
    for number in range(120):
        patient, split = number // 2, ("train", "val", "test")[number // 2 % 3]
        taken = {
            "manufacturer": makers[patient % 3] if patient < 50 else "GE" if patient < 55 else f"rare {patient}",
            "patient_age": 0.08 if patient < 30 else None,
            "burned_in_annotation": patient < 4,
        }
        rows.append(sample(str(number), f"p{patient}", split, str(number), label="AB"[number % 2]) | taken)
    with filled(rows) as catalog:
        found = audit(catalog)["groups"]
    assert found.keys() == {"manufacturer", "age", "burned_in_annotation"}  # nothing is known of the others
    assert found["manufacturer"]["splits"]["train"] == {
        "GE": None,  # two patients there
        "SIEMENS": {"images": 34, "patients": 17},
        "other": None,
    }
    assert found["manufacturer"]["labels"] == {
        "A": {"GE": 3, "SIEMENS": 34, "other": 3},
        "B": {"GE": 3, "SIEMENS": 34, "other": 3},
        "all": {"GE": 6, "SIEMENS": 68, "other": 6},
    }
    assert found["age"]["splits"]["val"] == {
        "0-1": {"images": 20, "patients": 10},
        "not stated": {"images": 20, "patients": 10},
    }
    assert found["burned_in_annotation"]["splits"]["test"] == {
        "not burned in": {"images": 38, "patients": 19},
        "other": None,
    }


def test_the_catalog_comes_back_as_it_was_left(tmp_path):
    with new_catalog(str(tmp_path), MEMORY) as catalog:
        insert(catalog, "files", pa.Table.from_pylist([{"path": "größe 肺", "size": 5, "modified": NOW}]))
    with open_catalog(str(tmp_path), MEMORY) as catalog:
        (row,) = query_rows(catalog, "SELECT path, size, modified, label FROM files")
    assert row == {"path": "größe 肺", "size": 5, "modified": NOW, "label": None}


def test_work_is_shared_out_in_runs_that_fill_a_shard(tmp_path):
    rows = [
        {"path": f"{split}/{number}", "size": 1000 + number, "split": split, "label": "A", "patient_id": "p"}
        for split, count in (("train", 600), ("val", 200), ("test", 203))
        for number in range(count)
    ]
    rows += [{"path": "unlabelled", "size": 5, "split": None, "label": None, "patient_id": "p"}]
    with new_catalog(str(tmp_path), MEMORY) as catalog:
        insert(catalog, "to_decode", pa.Table.from_pylist(rows))
        urls = write_tasks(catalog, str(tmp_path), 4, 20)
    tasks = [pq.read_table(url).to_pylist() for url in urls]
    assert sorted(row["path"] for task in tasks for row in task) == sorted(row["path"] for row in rows)
    for task in tasks:
        counts = Counter(row["split"] for row in task)
        short = [split for split, count in counts.items() if count % 20]
        assert len(task) > 150 and set(short) <= {"test", None}  # 3 of test and the unlabelled one are left over


def test_few_files_are_shared_out_all_the_same(tmp_path):
    with new_catalog(str(tmp_path), MEMORY) as catalog:
        insert(
            catalog,
            "to_decode",
            pa.Table.from_pylist([{"path": str(number), "size": 1, "split": "train"} for number in range(40)]),
        )
        urls = write_tasks(catalog, str(tmp_path), 2, 128)
    assert sorted(pq.read_metadata(url).num_rows for url in urls) == [20, 20]


def test_a_task_begins_where_a_shard_does_if_that_is_near():
    assert task_starts([30, 55, 100], 2) == [0, 55]  # 5 of 50 more
    assert task_starts([40, 60, 100], 2) == [0, 50]  # 10 of 50 would be too many
    assert task_starts([100], 4) == [0, 25, 50, 75]
    assert task_starts([1, 2, 3, 4], 2) == [0, 2]
    assert task_starts([10, 1000], 1) == [0]


def test_the_deal_is_the_documented_hash_and_few_patients_leave_plain_shares(tmp_path):
    config = IngestConfig(images="/x", table="/t", split="0.6,0.2,0.2", seed=5)
    files = [
        {
            "path": f"/x/{label}/{number}.png",
            "size": 1,
            "hidden": False,
            "label": label,
            "patient_id": f"{label}{number}",
        }
        for label, patients in (("A", 200), ("B", 20))
        for number in range(patients)
    ]
    with new_catalog(str(tmp_path), MEMORY) as catalog:
        insert(catalog, "files", pa.Table.from_pylist(files))
        thresholds = assign_files(catalog, config, {}).thresholds
        work = query_rows(catalog, "FROM to_decode")
    assert Counter((row["label"], row["split"]) for row in work) == {
        ("A", "train"): 120,
        ("A", "val"): 40,
        ("A", "test"): 40,
        ("B", "train"): 12,
        ("B", "val"): 4,
        ("B", "test"): 4,
    }
    train_end, val_end = thresholds["A"]
    for row in (row for row in work if row["label"] == "A"):
        lies = int(hashlib.sha256(f"5:{row['patient_id']}".encode()).hexdigest()[:12], 16) / 2**48
        assert row["split"] == ("train" if lies < train_end else "val" if lies < val_end else "test")
    assert thresholds["B"] == [0.6, 0.8]  # where the quantiles of 20 lie says little of those to come


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (
            "0.png,A,p,\n0.png,B,p,\n",
            "expected one row per path, got 2 different ones for '/x/0.png', in the lines 2 to 3",
        ),
        ("0.png,A,p,holdout\n", r"line 2 of .* \('0.png'\): expected the split to be one of train, val, test"),
        ("0.png,A,p,train\n1.png,A,p,test\n", "expected each patient in one split"),
        ("other.png,A,p,\n", "no row of .* names a labelled file below '/x'; its rows name files such as other.png"),
        ("0.png,\"['A', 'B']\",p,\n", "expected one label, got the list .*add --findings all"),
    ],
)
def test_a_labels_file_that_contradicts_itself_is_refused(tmp_path, rows, message):
    (tmp_path / "labels.csv").write_text("path,label,patient_id,split\n" + rows)
    config = IngestConfig(images="/x", table="/t", labels=str(tmp_path / "labels.csv"))
    with filled([]) as catalog:
        files = [{"path": f"/x/{number}.png", "size": 1, "hidden": False, "patient_id": "q"} for number in (0, 1)]
        insert(catalog, "files", pa.Table.from_pylist(files))
        with pytest.raises(UserError, match=message):
            add_labels(catalog, config, LabelFiles(config.labels, {}), None)
            assign_files(catalog, config, {})
