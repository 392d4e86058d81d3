"""Convert what a labels file says about an image to the label text of a multi-label table."""

from __future__ import annotations

from cxrflow.base.config import parse_findings
from cxrflow.base.errors import UserError
from cxrflow.base.findings import from_cells, from_text, is_normal, to_text
from cxrflow.catalog.label_formats import ImageLabels
from cxrflow.catalog.label_formats.cells import is_list, parse_list
from cxrflow.catalog.label_spelling import refuse_variants, spelling_key


class FindingsReader:
    """Converts labels to label texts (``base.findings``) and collects the names of the findings."""

    def __init__(self, requested: str, existing: list[str], merge: bool = False):
        """``requested`` is the value of --findings; ``existing`` are the findings of the table to extend, if any.

        ``merge``: treat names that differ only in case or blanks as one finding, under the first of these names.
        """
        names = parse_findings(requested)
        self._requested = None if names is None else [name for name in names if not is_normal(name)]
        self._existing, self._merge = existing, merge
        self._spellings = {spelling_key(name): name for name in [*existing, *(self._requested or [])]}
        self._in_labels: set[str] = set()
        self._columns: list[str] = []

    def to_text(self, labels: ImageLabels) -> str | None:
        """The label text; None if no finding is known. Raises UserError for a value that cannot be read."""
        return self._from_label(labels.label) if labels.cells is None else self._from_columns(labels.cells)

    def _from_label(self, label: str | None) -> str | None:
        if label is None or not label.strip():
            return None
        present, unknown = from_text("|".join(parse_list(label)) if is_list(label) else label)
        if self._merge:
            present, unknown = (
                {self._spellings.setdefault(spelling_key(name), name) for name in names} for names in (present, unknown)
            )
        self._in_labels |= present | unknown
        selected = present | unknown if self._requested is None else set(self._requested)
        return to_text(present & selected, unknown & selected)

    def _from_columns(self, cells: dict[str, str]) -> str | None:
        if not self._columns:
            self._columns = self._selected_columns(list(cells))
        # A finding of the table without a column in this file is unknown.
        return from_cells({name: cells.get(name) for name in dict.fromkeys([*self._existing, *self._columns])})

    def _selected_columns(self, columns: list[str]) -> list[str]:
        if invalid := [name for name in columns if "|" in name or name.startswith("?")]:
            raise UserError(
                "expected names of findings without | and without a leading ?, got "
                f"{', '.join(invalid)}; rename these columns"
            )
        if self._requested is None:
            return columns
        if absent := [name for name in self._requested if name not in columns]:
            raise UserError(f"expected the columns {', '.join(absent)} of --findings, got {', '.join(columns)}")
        return [*self._requested, *(name for name in columns if is_normal(name))]

    def findings(self) -> list[str]:
        """The table's findings in the order of the model's outputs: as requested, as in the columns, or by name.

        Raises UserError if there is none, if a requested one never occurs, or if the table does not have one of them.
        """
        columns = [name for name in self._columns if not is_normal(name)]
        found = columns or sorted(self._in_labels)
        findings = self._existing or self._requested or found
        missing = set() if self._existing or columns else set(findings) - self._in_labels
        if missing:
            raise UserError(
                f"--findings: expected names from the labels file, which has {', '.join(found) or 'none'}; got "
                f"{', '.join(sorted(missing))}"
            )
        refuse_variants({*findings, *found})
        if self._requested is None and (more := set(found) - set(findings)):
            raise UserError(
                f"--labels: expected the findings of the table ({', '.join(findings)}), also got "
                f"{', '.join(sorted(more))}, which are unknown for its images; ingest with --if-exists overwrite"
            )
        if not findings:
            raise UserError(
                "--labels: expected at least one finding, found none; check that the file has more than No Finding"
            )
        return list(findings)
