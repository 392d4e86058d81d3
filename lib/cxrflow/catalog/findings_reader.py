"""Convert the rows of a labels file to label texts of a multi-label table."""

from __future__ import annotations

import pyarrow as pa

from cxrflow.base.config import parse_findings
from cxrflow.base.errors import UserError
from cxrflow.base.findings import from_cells, from_text, is_normal, to_text

KEYS = ("path", "patient_id", "split")
"""Columns of a labels file that are neither a finding nor the label."""


class FindingsReader:
    """Converts rows of a labels file to label texts (``base.findings``) and collects the names of the findings."""

    def __init__(self, requested: str, existing: list[str]):
        """``requested`` is the value of --findings; ``existing`` are the findings of the table to extend, if any."""
        names = parse_findings(requested)
        self._requested = None if names is None else [name for name in names if not is_normal(name)]
        self._existing = existing
        self._in_labels: set[str] = set()
        self._columns: list[str] = []

    def to_labels(self, rows: pa.Table) -> pa.Table:
        """The rows with the key columns and one label text each; null if no finding is known.

        Raises UserError, with the row's path, for a value that cannot be read.
        """
        self._columns = [name for name in rows.column_names if name not in (*KEYS, "label")]
        texts = []
        for row in rows.to_pylist():
            try:
                texts.append(self._from_label(row["label"]) if "label" in row else self._from_columns(row))
            except UserError as error:
                raise UserError(f"--labels: {error}, for {row['path']!r}") from None
        keys = rows.select([name for name in KEYS if name in rows.column_names])
        return keys.append_column("label", pa.array(texts, pa.string()))

    def _from_label(self, label: str | None) -> str | None:
        if label is None or not label.strip():
            return None
        present, unknown = from_text(label)
        self._in_labels |= present | unknown
        selected = present | unknown if self._requested is None else set(self._requested)
        return to_text(present & selected, unknown & selected)

    def _from_columns(self, row: dict[str, str | None]) -> str | None:
        # A finding of the table without a column in this file is unknown.
        return from_cells({name: row.get(name) for name in dict.fromkeys([*self._existing, *self._columns])})

    def findings(self) -> list[str]:
        """The table's findings in the order of the model's outputs: as requested, as in the columns, or by name.

        Raises UserError if there is none, if a requested one never occurs, or if the table does not have one of them.
        """
        columns = [name for name in self._columns if not is_normal(name)]
        found = columns or sorted(self._in_labels)
        findings = self._existing or self._requested or found
        if invalid := [name for name in columns if "|" in name or name.startswith("?")]:
            raise UserError(
                "--labels: expected names of findings without | and without a leading ?, got "
                f"{', '.join(invalid)}; rename these columns"
            )
        missing = set() if self._existing or columns else set(findings) - self._in_labels
        if missing:
            raise UserError(
                f"--findings: expected names from the labels file, which has {', '.join(found) or 'none'}; got "
                f"{', '.join(sorted(missing))}"
            )
        if self._requested is None and (more := set(found) - set(findings)):
            raise UserError(
                f"--labels: expected the findings of the table ({', '.join(findings)}), got also "
                f"{', '.join(sorted(more))}, which are unknown for its images; ingest with --if-exists overwrite"
            )
        if not findings:
            raise UserError(
                "--labels: expected at least one finding, found none; check that the file has more than No Finding"
            )
        return list(findings)
