"""Facts to check before trusting a table: duplicates, conflicting labels, similar images across splits, image sizes."""

from __future__ import annotations

import duckdb
import pyarrow as pa

from cxrflow.base.config import NONE
from cxrflow.base.image_groups import GROUPED, MIN_PATIENTS, OTHER, group_of, named_groups
from cxrflow.catalog.database import query_rows
from cxrflow.images import DOUBTS
from cxrflow.images.decode_result import SEPARATOR
from cxrflow.images.image_hash import HASH_BITS, NEAR_BITS

EXAMPLES = 10
TAKEN = ("modality", "view_position", "patient_sex", "manufacturer", "body_part")
_WORD_DIGITS = 16  # hexadecimal digits, 64 bits
_MAX_BAND_SIZE = 5000
_QUANTILES = 51


def audit(catalog: duckdb.DuckDBPyConnection) -> dict:
    """Facts about the whole table, as plain data.

    - duplicates: contents that several files share, and the number of these files
    - conflicting_labels: contents with more than one label
    - near_duplicates: pairs of similar images with different content, see images.image_hash; pairs across splits matter
    - files_without_patient: files whose path gives no patient, so that each counts as its own patient
    - shapes: by label, without the test split, the distribution of source sizes and aspect ratios, see metrics.shift
    - taken: how the images were taken, as counts by value of each of TAKEN that is known for an image; "none" counts
      the images without a value
    - groups: by name of each of GROUPED that is known for an image, the numbers of images and patients by split and
      group, and of images by label and group without the test split, see metrics.taken_shift. Groups of fewer than
      MIN_PATIENTS patients are together OTHER; numbers of fewer patients in a split are None
    - burned_in: images whose header says that text is burned into the pixels
    - doubts: by kind of images.DOUBTS, the files whose pixels may be wrong, and the paths of EXAMPLES of them
    - patients by split; sizes (minimum, median, maximum side in pixels); files by bits, format and note

    Raises RuntimeError if a content or a patient is in two splits, which ``reconcile`` rules out.
    """
    leaks = {
        column: len(
            query_rows(catalog, f"SELECT {column} FROM samples GROUP BY {column} HAVING count(DISTINCT split) > 1")
        )
        for column in ("sha256", "patient_id")
    }
    if any(leaks.values()):
        raise RuntimeError(
            f"{leaks['sha256']} contents and {leaks['patient_id']} patients are in more than one split; nothing "
            "was committed. This is a bug in cxrflow: please report it"
        )
    return {
        "duplicates": _shared_contents(catalog, "count(*) > 1"),
        "conflicting_labels": _shared_contents(catalog, "count(DISTINCT label) > 1"),
        "near_duplicates": _near_duplicates(catalog),
        "files_without_patient": query_rows(catalog, "SELECT count(*) AS files FROM samples WHERE patient_id = path")[
            0
        ]["files"],
        "taken": _taken(catalog),
        "groups": _groups(catalog),
        "burned_in": query_rows(catalog, "SELECT count(*) AS files FROM samples WHERE burned_in_annotation")[0][
            "files"
        ],
        "patients": _counts(catalog, "split", "count(DISTINCT patient_id)"),
        "sizes": {side: _sizes(catalog, f"source_{side}") for side in ("height", "width")},
        "shapes": _shapes(catalog),
        "bits": _counts(catalog, "source_bits"),
        "formats": _counts(catalog, "source_format"),
        "notes": {note: files for note, files in _counts(catalog, "note").items() if note},
        "doubts": _doubts(catalog),
    }


def _shared_contents(catalog: duckdb.DuckDBPyConnection, condition: str) -> dict:
    """Contents that meet the condition, their files, and examples: the paths of EXAMPLES contents."""
    rows = f"(SELECT sha256, count(*) AS files FROM samples GROUP BY sha256 HAVING {condition})"
    total = query_rows(catalog, f"SELECT count(*) AS contents, coalesce(sum(files), 0)::BIGINT AS files FROM {rows}")[0]
    examples = query_rows(
        catalog,
        f"""
        SELECT sha256, list(path ORDER BY path)[:{EXAMPLES}] AS paths FROM samples
        WHERE sha256 IN (SELECT sha256 FROM {rows} ORDER BY sha256 LIMIT {EXAMPLES}) GROUP BY sha256 ORDER BY sha256""",
    )
    return {**total, "examples": [row["paths"] for row in examples]}


def _counts(catalog: duckdb.DuckDBPyConnection, column: str, aggregate: str = "count(*)") -> dict[str, int]:
    """The aggregate by value of the column, for its 100 most frequent values."""
    rows = query_rows(
        catalog,
        f"""
        SELECT {column} AS value, {aggregate} AS amount FROM samples
        GROUP BY value ORDER BY amount DESC, value LIMIT 100""",
    )
    return {str(row["value"]): row["amount"] for row in rows}


def _taken(catalog: duckdb.DuckDBPyConnection) -> dict[str, dict[str, int]]:
    counts = {name: _counts(catalog, f"coalesce({name}, '{NONE}')") for name in TAKEN}
    return {name: files for name, files in counts.items() if set(files) != {NONE} and files}


def _groups(catalog: duckdb.DuckDBPyConnection) -> dict[str, dict]:
    found = {}
    for name, column in GROUPED.items():
        values = [row["value"] for row in query_rows(catalog, f"SELECT DISTINCT {column} AS value FROM samples")]
        if values in ([], [None]):
            continue
        names = pa.table({"value": values, "name": [group_of(name, value) for value in values]})
        catalog.register("group_names", names)
        catalog.execute(f"""
            CREATE OR REPLACE TEMP TABLE grouped_samples AS SELECT label, split, patient_id, name
            FROM samples JOIN group_names ON samples.{column} IS NOT DISTINCT FROM group_names.value""")
        catalog.unregister("group_names")
        patients = query_rows(
            catalog, "SELECT name, count(DISTINCT patient_id) AS patients FROM grouped_samples GROUP BY name"
        )
        named = named_groups({row["name"]: row["patients"] for row in patients})
        catalog.execute(
            "UPDATE grouped_samples SET name = ? WHERE NOT list_contains(?::VARCHAR[], name)", [OTHER, sorted(named)]
        )
        found[name] = {"splits": _by_split(catalog), "labels": _by_label(catalog)}
    return found


def _by_split(catalog: duckdb.DuckDBPyConnection) -> dict[str, dict[str, dict[str, int] | None]]:
    rows = query_rows(
        catalog,
        """
        SELECT split, name, count(*) AS images, count(DISTINCT patient_id) AS patients FROM grouped_samples
        GROUP BY split, name ORDER BY split, name""",
    )
    found: dict[str, dict[str, dict[str, int] | None]] = {}
    for row in rows:
        shown = {"images": row["images"], "patients": row["patients"]}
        found.setdefault(row["split"], {})[row["name"]] = shown if row["patients"] >= MIN_PATIENTS else None
    return found


def _by_label(catalog: duckdb.DuckDBPyConnection) -> dict[str, dict[str, int]]:
    """Images by group, for all labels ("all") and for the most frequent ones."""
    rows = query_rows(
        catalog,
        """
        SELECT coalesce(label, 'all') AS label, name, count(*) AS images FROM grouped_samples
        WHERE split != 'test' AND (label IS NULL OR label IN (
            SELECT label FROM grouped_samples WHERE split != 'test' GROUP BY label ORDER BY count(*) DESC LIMIT 100))
        GROUP BY GROUPING SETS ((grouped_samples.label, name), (name)) ORDER BY label, name""",
    )
    found: dict[str, dict[str, int]] = {}
    for row in rows:
        found.setdefault(row["label"], {})[row["name"]] = row["images"]
    return found


def _doubts(catalog: duckdb.DuckDBPyConnection) -> dict[str, dict]:
    """``files`` and ``examples`` (paths) by kind of doubt, the most frequent kind first; only kinds that occur."""
    found = {}
    for name, doubt in DOUBTS.items():
        row = query_rows(
            catalog,
            f"""
            SELECT count(*) AS files, list(path ORDER BY path)[:{EXAMPLES}] AS examples FROM samples
            WHERE starts_with(note, $beginning) OR contains(note, $separator || $beginning)""",
            {"beginning": doubt.beginning, "separator": SEPARATOR},
        )[0]
        if row["files"]:
            found[name] = row
    return dict(sorted(found.items(), key=lambda pair: -pair[1]["files"]))


def _sizes(catalog: duckdb.DuckDBPyConnection, column: str) -> list[int]:
    """[minimum, median, maximum]."""
    row = query_rows(
        catalog, f"SELECT min({column}) AS low, median({column}) AS middle, max({column}) AS high FROM samples"
    )[0]
    return [round(value) for value in row.values()]


def _shapes(catalog: duckdb.DuckDBPyConnection) -> dict[str, dict[str, list[float]]]:
    """Ascending quantiles of each of ``metrics.shift.SOURCE_FACTS``, for all labels and for the most frequent ones."""
    quantiles = [(index + 0.5) / _QUANTILES for index in range(_QUANTILES)]
    rows = query_rows(
        catalog,
        f"""
        SELECT coalesce(label, 'all') AS label, quantile_disc(sqrt(source_height * source_width), {quantiles}) AS size,
            quantile_disc(source_width / source_height, {quantiles}) AS aspect
        FROM samples WHERE split != 'test' GROUP BY GROUPING SETS ((samples.label), ())
        HAVING count(*) > 0 ORDER BY count(*) DESC LIMIT 100""",
    )
    return {
        row["label"]: {name: [round(value, 5) for value in row[name]] for name in ("size", "aspect")} for row in rows
    }


def _near_duplicates(catalog: duckdb.DuckDBPyConnection) -> dict:
    """Pairs of images whose hashes differ in at most NEAR_BITS bits, by locality-sensitive hashing.

    Only images with an equal band of the hash are compared. 16 bands of 16 bits find all pairs that differ in up to 15
    bits, and nearly all others. The cost grows with the square of the images, so more than 200,000 images use 8 bands
    of 32 bits: these find all pairs that differ in up to 7 bits, and most others. A band that more than 5,000 images
    share does not discriminate, and is skipped.
    """
    digits = HASH_BITS // 4
    images = query_rows(catalog, "SELECT count(DISTINCT sha256) AS images FROM samples")[0]["images"]
    band = 4 if images <= 200_000 else 8
    starts = range(0, digits, _WORD_DIGITS)
    words = ", ".join(
        f"('0x' || substr(phash, {start + 1}, {_WORD_DIGITS}))::UBIGINT AS word{start}" for start in starts
    )
    distance = " + ".join(f"bit_count(xor(one.word{start}, two.word{start}))::INTEGER" for start in starts)
    catalog.execute(f"""
        CREATE TEMP TABLE bands AS SELECT start, substr(phash, start, {band}) AS band, * FROM (
            SELECT phash, sha256, min(path) AS path, min(split) AS split, min(patient_id) AS patient_id, {words}
            FROM samples WHERE phash != repeat('0', {digits}) GROUP BY phash, sha256),
            range(1, {digits}, {band}) AS starts(start)""")
    catalog.execute(f"""
        CREATE TEMP TABLE pairs AS SELECT DISTINCT one.path AS one, two.path AS two, {distance} AS bits,
            one.split != two.split AS across_splits, one.patient_id != two.patient_id AS across_patients
        FROM bands AS one JOIN bands AS two USING (start, band)
        SEMI JOIN (SELECT start, band FROM bands GROUP BY start, band HAVING count(*) <= {_MAX_BAND_SIZE}) AS usable
            USING (start, band)
        WHERE one.sha256 < two.sha256 AND bits <= {NEAR_BITS}""")
    total = query_rows(
        catalog,
        """
        SELECT count(*) AS pairs, count(*) FILTER (across_splits) AS across_splits,
            count(*) FILTER (across_patients) AS across_patients FROM pairs""",
    )[0]
    examples = query_rows(
        catalog,
        f"""
        SELECT one, two FROM pairs ORDER BY across_splits DESC, across_patients DESC, bits, one, two
        LIMIT {EXAMPLES}""",
    )
    return {**total, "examples": [[row["one"], row["two"]] for row in examples]}
