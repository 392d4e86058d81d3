"""The options of ingest."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from cxrflow.base.config.option_checks import Options, require, require_groups
from cxrflow.base.config.option_parsers import parse_bytes, parse_findings, split_fractions
from cxrflow.base.config.selection import parse_selection


@dataclass(frozen=True, kw_only=True)
class InputOptions(Options):
    """The image files, their labels and their patients."""

    images: str
    """Folder of image files, read with all its subfolders: a path or URL that Spark can read."""
    labels: str | None = None
    """CSV or Parquet file with the columns path and label, and optionally patient_id and split; or the labels file of a
    published collection. If not given, the label is the name of the folder that holds the file."""
    label_format: Literal["auto", "generic", "nih", "chexpert", "mimic", "rsna", "vindr", "padchest", "kermany"] = (
        "auto"
    )
    """Layout of the labels file; auto recognises it by its columns. kermany takes the splits from folders called train,
    val and test; auto does so as well if all files are in them."""
    readers: str = "majority"
    """How the labels of several radiologists are combined (VinDr): majority, any, or the name of one reader."""
    label_rule: str | None = None
    """Regular expression searched in the path below --images; its groups make up the label: (bacteria|virus|NORMAL)."""
    findings: str | None = None
    """Several findings per image: all, or names separated by commas. The labels file has one column per finding (1
    present, 0 absent, -1 or empty unknown), or its column label lists the present ones separated by |."""
    merge_labels: bool = False
    """Merge labels that differ only in case or blanks (Opacity, opacity). Without this flag they are an error."""
    patients: str = "auto"
    """How to find the patient of a file: dicom (the DICOM header), kermany (names such as person1_virus_2 and
    IM-0001-0001), file (each file is a patient), a regular expression on the path whose groups make up the patient, or
    auto (dicom for DICOM files; for others kermany if the name fits, otherwise file)."""
    patient_key: str | None = None
    """File with the secret key of the hash that replaces the Patient IDs of DICOM headers. If not given: the key in the
    environment variable CXRFLOW_PATIENT_KEY, otherwise a random key of the table."""
    select: str | None = None
    """Conditions on the columns of DICOM headers, such as "modality in CR,DX and view_position in PA,AP". Files that do
    not meet them are left out before decoding, and counted. none stands for a missing value."""
    max_bad: float | None = None
    """Largest accepted share of quarantined files, such as 0.05. With more, the job fails and does not change the
    table."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            self.max_bad is None or 0 <= self.max_bad <= 1,
            f"--max-bad: expected a share from 0 to 1, got {self.max_bad}",
        )
        if self.patients not in ("auto", "dicom", "kermany", "file"):
            require_groups("patients", "auto, dicom, kermany, file or a regular expression", self.patients)
        if self.select is not None:
            parse_selection(self.select)
        require(
            self.label_format != "kermany" or self.labels is None,
            "--label-format kermany: expected no --labels, because the folders give the labels; leave one out",
        )
        if self.label_rule is not None:
            require(
                self.labels is None,
                "--label-rule: expected no --labels, because that file already gives the labels; leave one out",
            )
            require_groups("label_rule", "a regular expression", self.label_rule)
        if self.findings is not None:
            require(
                self.labels is not None,
                "--findings: expected --labels, a file with the findings of each image, got none",
            )
            parse_findings(self.findings)

    @property
    def task(self) -> str:
        """single (one label per image) or multi (several findings per image)."""
        return "single" if self.findings is None else "multi"


@dataclass(frozen=True, kw_only=True)
class DecodingOptions(Options):
    """How files become pixels."""

    height: int = 224
    """Height of the stored images, in pixels."""
    width: int = 224
    """Width of the stored images, in pixels."""
    resize: Literal["stretch", "pad"] = "stretch"
    """stretch fills height and width; pad keeps the aspect ratio and adds black borders."""
    decoder: str = "turbo"
    """turbo (libjpeg-turbo for JPEG, Pillow for the rest), pillow, a decoder from the entry points cxrflow.decoders, or
    your own as module:function."""
    max_pixels: int = 100_000_000
    """Largest image that is decoded, in pixels. A larger one is quarantined as too_large."""
    worker_memory: str = "1g"
    """Memory for files and images in one Python worker of an executor, such as 512m or 2g. An image that needs more is
    quarantined as too_large."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_positive("height", "width", "max_pixels")
        memory = parse_bytes("--worker-memory", self.worker_memory)
        require(memory >= 256 * 2**20, f"--worker-memory: expected at least 256m, got {self.worker_memory!r}")


@dataclass(frozen=True, kw_only=True)
class SplitOptions(Options):
    """Which patients go to which split."""

    split: str = "0.8,0.1,0.1"
    """Fractions of patients in train, val and test, within each label; or the name of one split for all images."""
    seed: int = 0
    """Seed of the assignment of patients to splits."""

    def __post_init__(self) -> None:
        super().__post_init__()
        split_fractions(self.split)


@dataclass(frozen=True, kw_only=True)
class RetentionOptions(Options):
    """How long a table keeps the files of older generations, for jobs that began with them."""

    keep_generations: int = 1
    """Number of newest generations to keep, including the current one. Generations that a job reads are also kept."""
    grace_hours: float = 24.0
    """Hours for which a replaced generation is kept, regardless of --keep-generations."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_positive("keep_generations")
        self.require_at_least(0, "grace_hours")


@dataclass(frozen=True, kw_only=True)
class VacuumConfig(RetentionOptions):
    """Remove the files of a table's older generations that no job needs any more."""

    table: str
    """Table that ingest wrote."""


@dataclass(frozen=True, kw_only=True)
class TableOptions(Options):
    """The table that ingest writes."""

    table: str
    """Folder to write the table to: a path or URL that the training workers can read as well."""
    if_exists: Literal["extend", "overwrite", "fail"] = "extend"
    """If the table exists: extend adds new files and replaces changed ones, overwrite builds it again, fail stops."""
    shard_rows: int | None = None
    """Images per Parquet file, the unit of shuffling and sharding. If not given: 128, or fewer for a small
    table or large images."""
    delta: bool = False
    """Make the table's samples a Delta table as well (needs the package deltalake)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_positive("shard_rows")


@dataclass(frozen=True, kw_only=True)
class IngestConfig(InputOptions, TableOptions, RetentionOptions, DecodingOptions, SplitOptions):
    """Decode a folder of X-ray files on the Spark executors and write them as a training table."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.shard_rows:
            shard = self.shard_rows * self.height * self.width
            require(
                shard <= parse_bytes("--worker-memory", self.worker_memory) // 8,
                f"--shard-rows: expected shards of at most an eighth of --worker-memory {self.worker_memory}, got "
                f"{self.shard_rows} images of {self.height}x{self.width}, which are {shard / 2**20:.0f} MB; "
                "use fewer rows or more memory",
            )
