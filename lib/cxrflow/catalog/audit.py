"""What a person should know of a table before a figure is trusted: copies, leaks, balance, sizes."""

from __future__ import annotations

import duckdb

from cxrflow.catalog.database import values
from cxrflow.images.image_hash import HASH_BITS, NEAR_BITS

EXAMPLES = 10
_PART = 16  # hexadecimal digits, 64 bits
_CROWD = 5000
_QUANTILES = 51


def audit(catalog: duckdb.DuckDBPyConnection) -> dict:
    """Figures of the whole table, as plain data.

    - duplicates: contents under several names, and files that have them
    - conflicting_labels: contents with several labels
    - near_duplicates: pairs of different content that look alike, see images.similar; those across splits matter
    - unnamed_files: how many files tell no patient, and so count as one of their own
    - shapes: of each label, but for the test split, the distribution of source sizes and aspect, see metrics.shift
    - patients of each split; sizes (smallest, median and largest side, in pixels); bits, formats, notes: files of each

    Raises RuntimeError where a content or a patient is in two splits, which an ingest never leaves.
    """
    torn = {
        column: len(values(catalog, f"SELECT {column} FROM samples GROUP BY {column} HAVING count(DISTINCT split) > 1"))
        for column in ("sha256", "patient_id")
    }
    if any(torn.values()):
        raise RuntimeError(
            f"{torn['sha256']} contents and {torn['patient_id']} patients are in more than one split; nothing "
            "was committed. An ingest should never leave this: please report it"
        )
    return {
        "duplicates": _contents(catalog, "count(*) > 1"),
        "conflicting_labels": _contents(catalog, "count(DISTINCT label) > 1"),
        "near_duplicates": _near_duplicates(catalog),
        "unnamed_files": values(catalog, "SELECT count(*) AS files FROM samples WHERE patient_id = path")[0]["files"],
        "patients": _counts(catalog, "split", "count(DISTINCT patient_id)"),
        "sizes": {side: _sizes(catalog, f"source_{side}") for side in ("height", "width")},
        "shapes": _shapes(catalog),
        "bits": _counts(catalog, "source_bits"),
        "formats": _counts(catalog, "source_format"),
        "notes": {note: files for note, files in _counts(catalog, "note").items() if note},
    }


def _contents(catalog: duckdb.DuckDBPyConnection, which: str) -> dict:
    rows = f"(SELECT sha256, count(*) AS files FROM samples GROUP BY sha256 HAVING {which})"
    total = values(catalog, f"SELECT count(*) AS contents, coalesce(sum(files), 0)::BIGINT AS files FROM {rows}")[0]
    examples = values(
        catalog,
        f"""
        SELECT sha256, list(path ORDER BY path)[:{EXAMPLES}] AS paths FROM samples
        WHERE sha256 IN (SELECT sha256 FROM {rows} ORDER BY sha256 LIMIT {EXAMPLES}) GROUP BY sha256 ORDER BY sha256""",
    )
    return {**total, "examples": [row["paths"] for row in examples]}


def _counts(catalog: duckdb.DuckDBPyConnection, column: str, what: str = "count(*)") -> dict[str, int]:
    """Files, or what is asked for, of each value; the commonest of them where there are many."""
    rows = values(
        catalog,
        f"SELECT {column} AS value, {what} AS found FROM samples GROUP BY value ORDER BY found DESC, value LIMIT 100",
    )
    return {str(row["value"]): row["found"] for row in rows}


def _sizes(catalog: duckdb.DuckDBPyConnection, column: str) -> list[int]:
    row = values(
        catalog, f"SELECT min({column}) AS low, median({column}) AS middle, max({column}) AS high FROM samples"
    )[0]
    return [round(value) for value in row.values()]


def _shapes(catalog: duckdb.DuckDBPyConnection) -> dict[str, dict[str, list[float]]]:
    """By label, and of all of them, the quantiles of each of ``metrics.shift.SOURCE_FACTS``, from the smallest; of the commonest
    labels where there are many."""
    parts = [(place + 0.5) / _QUANTILES for place in range(_QUANTILES)]
    rows = values(
        catalog,
        f"""
        SELECT coalesce(label, 'all') AS label, quantile_disc(sqrt(source_height * source_width), {parts}) AS size,
            quantile_disc(source_width / source_height, {parts}) AS aspect
        FROM samples WHERE split != 'test' GROUP BY GROUPING SETS ((samples.label), ())
        HAVING count(*) > 0 ORDER BY count(*) DESC LIMIT 100""",
    )
    return {
        row["label"]: {name: [round(value, 5) for value in row[name]] for name in ("size", "aspect")} for row in rows
    }


def _near_duplicates(catalog: duckdb.DuckDBPyConnection) -> dict:
    """Pairs whose hashes differ in at most NEAR_BITS bits, looked for among images that agree in a band of the hash.

    With 16 bands of 16 bits all pairs of up to 15 bits are found, and nearly all of the rest. The work grows with the
    square of the images, so beyond 200,000 there are 8 bands of 32 bits: then all of up to 7 bits, and most of the rest.
    A band that more than 5,000 images share tells nothing, and is left out.
    """
    digits = HASH_BITS // 4
    images = values(catalog, "SELECT count(DISTINCT sha256) AS images FROM samples")[0]["images"]
    band = 4 if images <= 200_000 else 8
    parts = ", ".join(
        f"('0x' || substr(phash, {start + 1}, {_PART}))::UBIGINT AS part{start}" for start in range(0, digits, _PART)
    )
    different = " + ".join(
        f"bit_count(xor(one.part{start}, two.part{start}))::INTEGER" for start in range(0, digits, _PART)
    )
    catalog.execute(f"""
        CREATE TEMP TABLE bands AS SELECT start, substr(phash, start, {band}) AS band, * FROM (
            SELECT phash, sha256, min(path) AS path, min(split) AS split, min(patient_id) AS patient_id, {parts}
            FROM samples WHERE phash != repeat('0', {digits}) GROUP BY phash, sha256), range(1, {digits}, {band}) AS starts(start)""")
    catalog.execute(f"""
        CREATE TEMP TABLE pairs AS SELECT DISTINCT one.path AS one, two.path AS two, {different} AS bits,
            one.split != two.split AS across_splits, one.patient_id != two.patient_id AS across_patients
        FROM bands AS one JOIN bands AS two USING (start, band)
        SEMI JOIN (SELECT start, band FROM bands GROUP BY start, band HAVING count(*) <= {_CROWD}) AS usable USING (start, band)
        WHERE one.sha256 < two.sha256 AND bits <= {NEAR_BITS}""")
    total = values(
        catalog,
        """SELECT count(*) AS pairs, count(*) FILTER (across_splits) AS across_splits,
                                      count(*) FILTER (across_patients) AS across_patients FROM pairs""",
    )[0]
    examples = values(
        catalog,
        f"""SELECT one, two FROM pairs ORDER BY across_splits DESC, across_patients DESC, bits, one, two
                                   LIMIT {EXAMPLES}""",
    )
    return {**total, "examples": [[row["one"], row["two"]] for row in examples]}
