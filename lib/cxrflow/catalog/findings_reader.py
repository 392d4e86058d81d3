"""What a labels file tells of the findings of its images, line by line."""

from __future__ import annotations

import pyarrow as pa

from cxrflow.base.config import parse_findings
from cxrflow.base.errors import UserError
from cxrflow.base.findings import from_cells, from_text, is_normal, to_text

KEYS = ("path", "patient_id", "split")
"""Columns of a labels file that are no finding, and neither is label."""


class FindingsReader:
    """Turns the lines of a labels file into texts (``cxrflow.base.findings``), and knows which findings there are."""

    def __init__(self, asked: str, kept: list[str]):
        """``asked``: --findings. ``kept``: the findings of the table that is added to, if there is one."""
        names = parse_findings(asked)
        self._asked = None if names is None else [name for name in names if not is_normal(name)]
        self._kept = kept
        self._seen: set[str] = set()
        self._columns: list[str] = []

    def as_labels(self, rows: pa.Table) -> pa.Table:
        """The rows with one text in the column label; null where nothing is known. Raises UserError, with the line's path, for
        what cannot be understood."""
        self._columns = [name for name in rows.column_names if name not in (*KEYS, "label")]
        texts = []
        for line in rows.to_pylist():
            try:
                texts.append(self._of_label(line["label"]) if "label" in line else self._of_columns(line))
            except UserError as error:
                raise UserError(f"--labels: {error}, for {line['path']!r}") from None
        keys = rows.select([name for name in KEYS if name in rows.column_names])
        return keys.append_column("label", pa.array(texts, pa.string()))

    def _of_label(self, label: str | None) -> str | None:
        if not (label or "").strip():
            return None
        present, unknown = from_text(label)
        self._seen |= present | unknown
        wanted = present | unknown if self._asked is None else set(self._asked)
        return to_text(present & wanted, unknown & wanted)

    def _of_columns(self, line: dict[str, str | None]) -> str | None:
        """A finding of the table that the file has no column for is not known."""
        return from_cells({name: line.get(name) for name in dict.fromkeys([*self._kept, *self._columns])})

    def findings(self) -> list[str]:
        """In the order of the model's outputs: as asked for, as the columns are, or by name. Raises UserError where there is
        none, where a name that was asked for never came, or one that the table does not know."""
        columns = [name for name in self._columns if not is_normal(name)]
        found = columns or sorted(self._seen)
        findings = self._kept or self._asked or found
        if strange := [name for name in columns if "|" in name or name.startswith("?")]:
            raise UserError(
                f"--labels: expected names of findings without | and without ? in front, got {', '.join(strange)}"
            )
        missing = set() if self._kept or columns else set(findings) - self._seen
        if missing:
            raise UserError(
                f"--findings: expected names that the labels file has, which are {', '.join(found) or 'none'}; got "
                f"{', '.join(sorted(missing))}"
            )
        if self._asked is None and (more := set(found) - set(findings)):
            raise UserError(
                f"--labels: expected findings that the table has ({', '.join(findings)}), got "
                f"{', '.join(sorted(more))}, of which its images say nothing; make it anew with --if-exists overwrite"
            )
        if not findings:
            raise UserError(
                "--labels: expected a finding that an image has, found none; does the file say more than No Finding?"
            )
        return list(findings)
