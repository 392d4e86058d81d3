import logging

from catalog_samples import empty_manifest, filled, sample
from cxrflow.catalog.audit import audit
from cxrflow.catalog.table_summary import log_summary
from cxrflow.images import DOUBTS


def logged(caplog, rows: list[dict]) -> list[str]:
    """The lines that ingest logs about a table of these rows, which has no shards."""
    with filled(rows) as catalog:
        found = audit(catalog)
    manifest = empty_manifest("A", found)
    with caplog.at_level(logging.INFO):
        log_summary(manifest, {"train": 1.0, "val": 0.0, "test": 0.0})
    return [record.getMessage() for record in caplog.records]


def test_doubts_are_a_warning_with_ten_paths_and_advice(caplog):
    notes = [f"nearly empty: {number} of 256 gray levels" for number in range(12)] + ["clipped: 51 % of the pixels"]
    lines = logged(
        caplog, [sample(f"/x/{row:02}", "p", "train", str(row), note=note) for row, note in enumerate(notes)]
    )
    paths = ", ".join(f"/x/{row:02}" for row in range(10))
    nearly_empty, clipped = (line for line in lines if "may be wrong" in line)
    assert nearly_empty == (
        f"12 images may be wrong (nearly_empty): {DOUBTS['nearly_empty'].meaning}. Look at them: {paths} and more. "
        f"{DOUBTS['nearly_empty'].advice}"
    )
    assert clipped.startswith("1 images may be wrong (clipped): ") and "Look at them: /x/12. " in clipped


def test_a_table_without_doubts_has_no_such_warning(caplog):
    lines = logged(caplog, [sample("/x/1", "p", "train", "1", note="first of 2 pages")])
    assert not any("may be wrong" in line for line in lines) and any("first of 2 pages 1" in line for line in lines)


def test_of_many_texts_of_notes_the_most_frequent_are_shown(caplog):
    rows = [sample(f"/x/{row:02}", "p", "train", str(row), note=f"note {min(row, 20)}") for row in range(40)]
    (line,) = (line for line in logged(caplog, rows) if line.startswith("source files"))
    assert "; note 20 20, " in line and line.count("note ") == 8 and line.endswith(", ...")
