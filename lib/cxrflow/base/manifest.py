"""The small files by which jobs find each other: a table's manifest and a run's records."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from dataclasses import dataclass, field

from cxrflow.base import storage
from cxrflow.base.errors import UserError

TABLE_VERSION = 3
RUN_VERSION = 2
PICTURES = ("loss", "validation", "roc", "precision_recall", "confusion", "reliability", "scores", "subgroups")


@dataclass(frozen=True, kw_only=True)
class Shard:
    """One Parquet file of samples, with exactly one row group."""

    path: str
    """Place below the table's folder."""
    split: str
    rows: int
    labels: dict[str, int]
    """Rows of each label; of several findings, those where it is present."""
    checksum: str
    """Of the rows' sample_id, see ``shards.checksum``: tells a shard by what is in it."""
    unknown: dict[str, int] = field(default_factory=dict)
    """Of several findings, the rows where it is not known."""


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """``TABLE/manifest.json``: what a table holds. It names every shard with its row count, so that no worker
    has to list a folder or open footers; a Parquet file that it does not name is not part of the table."""

    version: int = TABLE_VERSION
    generation: int
    """How often the table was changed: 1 after the first ingest."""
    height: int
    width: int
    labels: list[str]
    """In the order of the model's outputs; of the task multi, the findings."""
    shard_rows: int
    """Rows of every shard but the last of each split."""
    shards: list[Shard]
    quarantined: dict[str, int]
    """Files of each reason."""
    quarantine: list[str]
    """The Parquet files that list them, as places below the table's folder."""
    config: dict
    """The configuration of the last ingest."""
    columns: dict[str, str]
    """Name and type of each column of the samples."""
    split_thresholds: dict[str, list[float]] = field(default_factory=dict)
    """Per label, or of several findings for all patients together, where train ends and where val ends on the patients'
    hash from 0 to 1."""
    audit: dict = field(default_factory=dict)
    """What ``catalog.audit`` found."""
    table_id: str = ""
    """Random, and another one when the table is made anew: where a table was removed and another ingested to its place,
    caches tell them apart by it."""
    task: str = "single"
    """single: an image has one label. multi: several findings, each present, absent or not known (``cxrflow.base.findings``)."""

    def recipe(self) -> dict:
        """The fields of ``images.Recipe``: how files became the table's pixels."""
        return {name: self.config[name] for name in ("height", "width", "decoder", "resize", "max_pixels")}

    def of_split(self, split: str) -> list[Shard]:
        """The shards of a split, or of all of them for ``"all"``."""
        return [shard for shard in self.shards if split in ("all", shard.split)]

    def rows(self, split: str = "all") -> int:
        """Samples of a split, or of the whole table."""
        return sum(shard.rows for shard in self.of_split(split))

    def counts(self) -> dict[str, dict[str, int]]:
        """Rows by split and label; of several findings, those where it is present."""
        return self._counts(lambda shard: shard.labels)

    def unknown(self) -> dict[str, dict[str, int]]:
        """Rows by split and finding, where it is not known; 0 for each label where an image has one."""
        return self._counts(lambda shard: shard.unknown)

    def absent(self) -> dict[str, dict[str, int]]:
        """Rows by split and label, where it is not."""
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
        """The share of each label among a split's rows; of several findings, among those where it is known."""
        present, absent = self.counts()[split], self.absent()[split]
        return {label: rows / (rows + absent[label]) for label, rows in present.items()}

    def facts(self) -> dict:
        """What a run keeps of the table that it was trained on, for its report."""
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
    """Whether the folder holds a table, of any version."""
    return storage.exists(storage.join(table, "manifest.json"))


def read_generation(table: str) -> int:
    """How often the table was changed, whatever its version; 0 where it does not say."""
    try:
        return json.loads(storage.read_bytes(storage.join(table, "manifest.json"))).get("generation", 0)
    except (json.JSONDecodeError, AttributeError):
        return 0


def read_manifest(table: str) -> Manifest:
    """The table's manifest. Raises UserError where the folder is no table, or one of another version."""
    url = storage.join(table, "manifest.json")
    if not has_manifest(table):
        raise UserError(
            f"--table: expected a table that ingest.py wrote, found no manifest.json in {table!r}; "
            "run jobs/ingest.py first or name another folder"
        )
    try:
        content = json.loads(storage.read_bytes(url))
        version = content.get("version")
        if version != TABLE_VERSION:
            raise UserError(f"{url}: expected a table of version {TABLE_VERSION}, got {version}; ingest it again")
        return Manifest(**{**content, "shards": [Shard(**shard) for shard in content["shards"]]})
    except (json.JSONDecodeError, TypeError, KeyError, AttributeError) as error:
        raise UserError(
            f"{url}: expected the manifest that ingest.py writes, got something else ({error}); ingest the images again"
        ) from None


def write_manifest(table: str, manifest: Manifest) -> None:
    write_json(storage.join(table, "manifest.json"), dataclasses.asdict(manifest))


def write_json(url: str, content: dict) -> None:
    """Write plain data as JSON that a person can read."""
    storage.write_bytes(url, json.dumps(content, indent=2, allow_nan=False).encode() + b"\n")


class RunDirectory:
    """The files of a training run, by name. Nothing is read or made before it is asked for."""

    def __init__(self, url: str):
        self.url = storage.absolute(url)
        self.config = storage.join(url, "config.json")
        self.history = storage.join(url, "history.json")
        self.model = storage.join(url, "model.keras")
        self.metrics = storage.join(url, "metrics.json")
        self.scores = storage.join(url, "scores.parquet")
        self.reference = storage.join(url, "reference.json")
        self.report = storage.join(url, "report.html")
        self.checkpoints = storage.join(url, "checkpoints")
        self.events = storage.join(url, "events.jsonl")
        self.tensorboard = storage.join(url, "tensorboard")
        self.mlflow = storage.join(url, "mlflow.json")

    def picture(self, name: str) -> str:
        return storage.join(self.url, f"{name}.png")

    def read(self, url: str, made_by: str) -> dict:
        """One of the JSON files. Raises UserError where it is missing, with the job that makes it, or of another version."""
        if not storage.exists(url):
            raise UserError(
                f"--run: expected a run directory with {url.rsplit('/', 1)[1]}, found none in "
                f"{self.url!r}; run jobs/{made_by}.py first or name another folder"
            )
        content = json.loads(storage.read_bytes(url))
        if url == self.config and content.get("version") != RUN_VERSION:
            raise UserError(
                f"--run: expected a run of version {RUN_VERSION} in {self.url!r}, got {content.get('version')}; train again"
            )
        return content

    def has_run(self) -> bool:
        """Whether a run wrote here; one that died before its first checkpoint has not."""
        return storage.exists(self.config) or storage.exists(self.checkpoints)

    def clear(self) -> None:
        """Remove what jobs wrote here, and nothing else that the folder may hold; nothing where it holds no run. What
        watching wrote is the driver's to remove (``watch.recorder``)."""
        if not self.has_run():
            return
        # Checkpoints first: of a run whose removal was cut off nothing is left that another could go on with.
        for url in [self.checkpoints, self.history, self.model, self.reference]:
            storage.remove(url)
        self.clear_evaluation()
        storage.remove(self.config)

    def clear_evaluation(self) -> None:
        """Remove what was found of a model that is no longer the run's: figures, scores and the report."""
        for url in [self.metrics, self.scores, self.report, *map(self.picture, PICTURES)]:
            storage.remove(url)
