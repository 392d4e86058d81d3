"""A task on an executor that reads the DICOM headers of files, before their patients and splits are assigned."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import pyarrow as pa
import pyarrow.parquet as pq

from cxrflow.base import storage
from cxrflow.base.patient_key import PatientKey
from cxrflow.catalog.headers import SCANNED
from cxrflow.images.dcm.header_scan import HeaderScan, scan_header
from cxrflow.spark.decode_task import FILES_PER_CHILD, content_rows
from cxrflow.spark.isolation import Crash, map_isolated

SCAN_RESULT = pa.schema([pa.field("headers", pa.string())])
"""The one row that a task returns: the URL of its Parquet file of SCANNED."""


@dataclass(frozen=True)
class HeaderTask:
    """Scans the files of one task; called with the Arrow batches that list them."""

    staging: str
    memory: int
    """Bytes that a Python worker may take."""
    key: PatientKey | None
    """Of the patients' ids; None if patients do not come from headers."""

    def __call__(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """Scan the files of the batches (SCAN_FILES); yields one row of SCAN_RESULT."""
        url = storage.join(self.staging, f"headers/{uuid.uuid4().hex}.parquet")
        with storage.open_file(url, "wb") as file, pq.ParquetWriter(file, SCANNED) as headers:
            for batch in batches:
                for start in range(0, batch.num_rows, FILES_PER_CHILD):
                    headers.write_table(self._scan(content_rows(batch.slice(start, FILES_PER_CHILD))))
        yield pa.RecordBatch.from_pydict({"headers": [url]}, schema=SCAN_RESULT)

    def _scan(self, rows: list[dict]) -> pa.Table:
        scans = map_isolated(partial(_scan_file, self.key), rows, self.memory // 2)
        return pa.Table.from_pylist(
            [_scanned(row["path"], scan) for row, scan in zip(rows, scans, strict=True)], schema=SCANNED
        )


def _scanned(path: str, scan: HeaderScan | Crash) -> dict:
    """The row of SCANNED."""
    if isinstance(scan, Crash):
        return {"path": path, "is_dicom": None}
    return {"path": path, "is_dicom": scan.is_dicom, "patient_id": scan.patient_id, **(scan.columns or {})}


def _scan_file(key: PatientKey | None, row: dict) -> HeaderScan:
    """Scan one file, in a child process. No error of one file ends the job: decoding decides about it."""
    try:
        if "content" not in row:
            return scan_header(partial(storage.read_start, row["path"]), key)
        return scan_header(partial(_start_of, row["content"]), key)
    except OSError:
        return HeaderScan(is_dicom=False)
    except Exception:  # its text might quote the header
        return HeaderScan(is_dicom=None)


def _start_of(content: pa.BinaryScalar, size: int) -> bytes:
    """The first bytes of a file's content from Spark, which is null if the file is too large."""
    return memoryview(content.as_buffer())[:size].tobytes() if content.is_valid else b""
