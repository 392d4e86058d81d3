"""The JSON files that connect the jobs: a table's manifest and the records of a training run."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from dataclasses import dataclass, field

from cxrflow.base import storage
from cxrflow.base.errors import UserError
from cxrflow.base.generations import older_generations, older_manifest

TABLE_VERSION = 3
RUN_VERSION = 3
PICTURES = ("loss", "validation", "roc", "precision_recall", "confusion", "reliability", "scores", "subgroups")


@dataclass(frozen=True, kw_only=True)
class Shard:
    """One Parquet file of samples, with exactly one row group."""

    path: str
    """Relative to the table's folder."""
    split: str
    rows: int
    labels: dict[str, int]
    """Rows by label; of a multi-label table, rows where the finding is present."""
    checksum: str
    """Identifies the shard by its samples, see ``shard_files.checksum``."""
    unknown: dict[str, int] = field(default_factory=dict)
    """Rows by finding where it is unknown; empty for a single-label table."""


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """``TABLE/manifest.json``: the content of a table.

    It names every shard with its row count, so that no worker lists folders or opens footers. A Parquet file that the
    manifest does not name is not part of the table.
    """

    version: int = TABLE_VERSION
    generation: int
    """Number of commits: 1 after the first ingest."""
    height: int
    width: int
    labels: list[str]
    """Labels or findings, in the order of the model's outputs."""
    shard_rows: int
    """Rows per shard; the last shard of each split may have fewer."""
    shards: list[Shard]
    quarantined: dict[str, int]
    """Files in quarantine by reason."""
    quarantine: list[str]
    """The Parquet files that list them, relative to the table's folder."""
    config: dict
    """The configuration of the last ingest."""
    columns: dict[str, str]
    """Name and type of each column of the samples."""
    split_thresholds: dict[str, list[float]] = field(default_factory=dict)
    """By label, (end of train, end of val) on the patients' hash between 0 and 1. Multi-label tables have one entry."""
    audit: dict = field(default_factory=dict)
    """The result of ``catalog.audit``."""
    table_id: str = ""
    """A random id of this table. It changes when the table is overwritten, so caches see that it is another table."""
    patient_key: str = ""
    """Fingerprint of the key of the patients' ids that come from DICOM headers; empty if there is no such id."""
    task: str = "single"
    """single: one label per image. multi: several findings, each present, absent or unknown (``base.findings``)."""

    def recipe(self) -> dict:
        """The fields of ``images.Recipe`` that turned the files into the table's pixels."""
        return {name: self.config[name] for name in ("height", "width", "decoder", "resize", "max_pixels")}

    def of_split(self, split: str) -> list[Shard]:
        """The shards of a split, or all shards for ``"all"``."""
        return [shard for shard in self.shards if split in ("all", shard.split)]

    def rows(self, split: str = "all") -> int:
        """Number of samples of a split, or of the whole table for ``"all"``."""
        return sum(shard.rows for shard in self.of_split(split))

    def counts(self) -> dict[str, dict[str, int]]:
        """Rows by split and label; of a multi-label table, rows where the finding is present."""
        return self._counts(lambda shard: shard.labels)

    def unknown(self) -> dict[str, dict[str, int]]:
        """Rows by split and finding where it is unknown; all 0 for a single-label table."""
        return self._counts(lambda shard: shard.unknown)

    def absent(self) -> dict[str, dict[str, int]]:
        """Rows by split and label where the label is known to be absent."""
        present, unknown = self.counts(), self.unknown()
        return {
            split: {label: self.rows(split) - present[split][label] - unknown[split][label] for label in self.labels}
            for split in present
        }

    def _counts(self, of: Callable[[Shard], dict[str, int]]) -> dict[str, dict[str, int]]:
        counts: dict[str, dict[str, int]] = {}
        for shard in self.shards:
            of_split = counts.setdefault(shard.split, dict.fromkeys(self.labels, 0))
            for label, rows in of(shard).items():
                of_split[label] += rows
        return counts

    def prevalence(self, split: str) -> dict[str, float]:
        """Share of each label among a split's rows; of a finding, among the rows where it is known."""
        present, absent = self.counts()[split], self.absent()[split]
        return {label: rows / (rows + absent[label]) for label, rows in present.items()}

    def facts(self) -> dict:
        """The facts about the table that a training run records, for its report and for the leakage check."""
        counts = self.counts()
        return {
            "table_id": self.table_id,
            "rows": {split: self.rows(split) for split in counts},
            "counts": counts,
            "unknown": self.unknown(),
            "quarantined": self.quarantined,
            "audit": self.audit,
        }


def has_manifest(table: str) -> bool:
    """Whether the folder is a table, of any version."""
    return storage.exists(storage.join(table, "manifest.json"))


def check_table_url(table: str) -> None:
    """Raise UserError for a path that the readers of a table would cut off."""
    if set("#?") & set(table):
        raise UserError(
            "--table: expected a path without # and ?, because Petastorm would read them as parts of a URL; got "
            f"{table!r}; rename the folder"
        )


def read_generation(table: str) -> int:
    """The generation of a table of any version; 0 if its manifest does not say."""
    try:
        return json.loads(storage.read_bytes(storage.join(table, "manifest.json"))).get("generation", 0)
    except (json.JSONDecodeError, AttributeError):
        return 0


def read_manifest(table: str, generation: int | None = None) -> Manifest:
    """The manifest of the table's newest generation, or of the given one.

    Raises UserError if the folder is not a table, is one of another version, or no longer has that generation.
    """
    check_table_url(table)
    url = storage.join(table, "manifest.json")
    if not has_manifest(table):
        raise UserError(
            f"--table: expected a table, found no manifest.json in {table!r}; run ingest first or choose another folder"
        )
    manifest = _read_manifest(url)
    if generation in (None, manifest.generation):
        return manifest
    assert generation is not None
    if not storage.exists(older := older_manifest(table, generation)):
        found = [*(number for number in older_generations(table) if number < manifest.generation)]
        raise UserError(
            f"--generation: expected one of the generations that {table!r} still has "
            f"({', '.join(map(str, [manifest.generation, *found]))}), got {generation}; leave it out for the newest"
        )
    return _read_manifest(older)


def _read_manifest(url: str) -> Manifest:
    try:
        content = json.loads(storage.read_bytes(url))
        version = content.get("version")
        if version != TABLE_VERSION:
            raise UserError(
                f"{url}: expected a table of version {TABLE_VERSION}, got {version}; ingest the images again"
            )
        return Manifest(**{**content, "shards": [Shard(**shard) for shard in content["shards"]]})
    except (json.JSONDecodeError, TypeError, KeyError, AttributeError) as error:
        raise UserError(
            f"{url}: expected a manifest that ingest wrote, got something else ({error}); ingest the images again"
        ) from None


def write_manifest(table: str, manifest: Manifest) -> None:
    """Replace ``TABLE/manifest.json`` atomically."""
    write_json(storage.join(table, "manifest.json"), dataclasses.asdict(manifest))


def write_json(url: str, content: dict) -> None:
    """Write plain data as indented JSON, atomically. Raises ValueError for NaN or infinity."""
    storage.write_bytes(url, json.dumps(content, indent=2, allow_nan=False).encode() + b"\n")


class RunDirectory:
    """The URLs of a training run's files. The constructor neither reads nor creates anything."""

    def __init__(self, url: str):
        self.url = storage.absolute(url)
        self.config = storage.join(url, "config.json")
        self.history = storage.join(url, "history.json")
        self.model = storage.join(url, "model.keras")
        self.evaluations = storage.join(url, "evaluations")
        self.reference = storage.join(url, "reference.json")
        self.report = storage.join(url, "report.html")
        self.checkpoints = storage.join(url, "checkpoints")
        self.events = storage.join(url, "events.jsonl")
        self.tensorboard = storage.join(url, "tensorboard")
        self.mlflow = storage.join(url, "mlflow.json")

    def picture(self, name: str) -> str:
        """The URL of a picture, one of PICTURES."""
        return storage.join(self.url, f"{name}.png")

    def read(self, url: str, made_by: str) -> dict:
        """Read one of the JSON files. ``made_by`` is the job that writes it.

        Raises UserError if the file is missing, or if the run is of another version.
        """
        if not storage.exists(url):
            raise UserError(
                f"--run: expected a run directory with {url.rsplit('/', 1)[1]}, found none in "
                f"{self.url!r}; run {made_by} first or choose another folder"
            )
        content = json.loads(storage.read_bytes(url))
        if url == self.config and content.get("version") != RUN_VERSION:
            raise UserError(
                f"--run: expected a run of version {RUN_VERSION} in {self.url!r}, got {content.get('version')}; "
                "train again"
            )
        return content

    def has_run(self) -> bool:
        """Whether the folder holds a run, that is, a configuration or a checkpoint."""
        return storage.exists(self.config) or storage.exists(self.checkpoints)

    def clear(self) -> None:
        """Remove the files that jobs wrote, and no others. Does nothing if the folder holds no run.

        ``watch.recorder`` removes the event files itself, on the driver.
        """
        if not self.has_run():
            return
        # Checkpoints first: if the removal is interrupted, no later run can resume from a partly removed one.
        for url in [self.checkpoints, self.history, self.model, self.reference]:
            storage.remove(url)
        self.clear_evaluations()
        storage.remove(self.config)

    def clear_evaluations(self) -> None:
        """Remove the evaluations and the report of an older model of this run."""
        for name in storage.entries(self.evaluations):  # a folder without metrics.json is no evaluation
            storage.remove(storage.join(self.evaluations, name, "metrics.json"))
        for url in [self.evaluations, self.report, *map(self.picture, PICTURES)]:
            storage.remove(url)
