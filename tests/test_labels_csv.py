"""Labels files are read as RFC 4180 writes them, in the encodings that spreadsheets write, or refused with the line."""

import codecs
import csv
import gzip
import io

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cxrflow.base.errors import UserError
from cxrflow.catalog.labels_csv import LabelsFile, read_lines

RECORDS = [
    ["path", "report", "label"],
    ["a.png", '"old" film,PNEUMONIA,in 2001', "NORMAL"],
    ["b.png", "two\nlines; and a tab\t", "NORMAL"],
    ["c é.png", 'read as "clear",NORMAL,then opacity', "PNEUMONIA"],
]


def written(tmp_path, data: bytes, name="labels.csv") -> LabelsFile:
    (tmp_path / name).write_bytes(data)
    return LabelsFile(str(tmp_path / name))


def as_csv(records, delimiter=",", end="\r\n", quoting=csv.QUOTE_MINIMAL) -> str:
    out = io.StringIO()
    csv.writer(out, delimiter=delimiter, lineterminator=end, quoting=quoting).writerows(records)
    return out.getvalue()


def cells(file: LabelsFile) -> list[list[str]]:
    return [list(file.columns), *([row.cells[name] for name in file.columns] for row in file.rows())]


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("end", ["\r\n", "\n", "\r"])
def test_quotes_delimiters_and_line_breaks_inside_fields(tmp_path, delimiter, end):
    file = written(tmp_path, as_csv(RECORDS, delimiter, end, csv.QUOTE_ALL).encode())
    assert cells(file) == [[cell.strip() for cell in record] for record in RECORDS]


@pytest.mark.parametrize(
    "encode",
    [
        lambda text: text.encode(),
        lambda text: codecs.BOM_UTF8 + text.encode(),
        lambda text: text.encode("utf-16"),
        lambda text: codecs.BOM_UTF16_BE + text.encode("utf-16-be"),
        lambda text: text.encode("utf-16-le"),
        lambda text: text.encode("utf-16-be"),
        lambda text: gzip.compress(text.encode()),
        lambda text: gzip.compress(text.encode("utf-16")),
    ],
    ids=["utf-8", "utf-8 BOM", "utf-16", "utf-16 BE BOM", "utf-16 LE", "utf-16 BE", "gzip", "gzip utf-16"],
)
def test_encodings_and_compression(tmp_path, encode):
    file = written(tmp_path, encode(as_csv(RECORDS)))
    assert cells(file) == [[cell.strip() for cell in record] for record in RECORDS]


@settings(max_examples=60, deadline=None)
@given(
    records=st.lists(
        st.lists(st.text(st.characters(exclude_categories=("Cs", "Cc")), max_size=8), min_size=3, max_size=3),
        max_size=5,
    ),
    delimiter=st.sampled_from([",", ";", "\t"]),
    encoding=st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]),
)
def test_what_pythons_csv_writes_is_read_back(tmp_path_factory, records, delimiter, encoding):
    header = ["one", "two", "three"]
    file = written(tmp_path_factory.mktemp("csv"), as_csv([header, *records], delimiter).encode(encoding))
    # The csv module writes a record of empty fields as delimiters alone, which is no blank line.
    assert cells(file) == [header, *([cell.strip() for cell in record] for record in records)]


def test_a_field_may_cross_the_chunks_in_which_the_file_is_read(tmp_path):
    report = "x" * (2**20 - 10) + '"quoted" é\nend'
    file = written(tmp_path, as_csv([["path", "label"], ["a.png", report], ["b.png", "NORMAL"]]).encode())
    assert [row.cells["label"] for row in file.rows()] == [report, "NORMAL"]
    assert [row.line for row in file.rows()] == [2, 4]


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"path,label\na.png,NORMAL\nb\xff.png,NORMAL\n", "line 3 of .*expected UTF-8 text, got the byte 0xff"),
        (b'path,label\n"two\nlines.png",x\nb,\xe9\n', "line 4 of .*expected UTF-8 text, got the byte 0xe9"),
        (b"path,label\na.png,NORMAL\nb.png\n", "line 3 of .*expected 2 fields, as in the header, got 1"),
        (b"path,label\na.png,NORMAL,extra\n", "line 2 of .*expected 2 fields, as in the header, got 3"),
        (b'path,label\n"a".png,NORMAL\n', "line 2 of .*RFC 4180"),
        (b'path,label\na.png,"NORMAL\n', "line 2 of .*RFC 4180"),
        (b"path,label,label\n", "each column name once"),
        (b"", "expected a header line"),
        (b"PK\x03\x04....", "expected text or gzip, got the ZIP archive"),
    ],
)
def test_what_cannot_be_read_is_an_error_with_its_line(tmp_path, data, expected):
    with pytest.raises(UserError, match=expected):
        list(written(tmp_path, data).rows())


def test_a_bad_byte_far_into_the_file_is_found_on_its_line(tmp_path):
    rows = b"".join(b"image-%07d.png,NORMAL\r\n" % number for number in range(100_000))
    data = b"path,label\r\n" + rows + b"\xc3\x28.png,NORMAL\r\n"
    with pytest.raises(UserError, match="line 100002 of"):
        list(written(tmp_path, data).rows())


def test_parquet_columns_become_text(tmp_path):
    table = pa.table({"path": ["a.png", "b.png"], "Edema": [1.0, None], "patient_id": [7, 8]})
    pq.write_table(table, tmp_path / "labels.parquet")
    file = LabelsFile(str(tmp_path / "labels.parquet"))
    assert [row.cells for row in file.rows()] == [
        {"path": "a.png", "Edema": "1", "patient_id": "7"},
        {"path": "b.png", "Edema": "", "patient_id": "8"},
    ]


def test_lists_of_names(tmp_path):
    (tmp_path / "test_list.txt").write_bytes(b"\xef\xbb\xbfa.png\r\n\r\nb.png\r\n")
    assert read_lines(str(tmp_path / "test_list.txt")) == ["a.png", "b.png"]
