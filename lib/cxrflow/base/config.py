"""What each job can be told: one frozen dataclass a job. The same fields are the command line's flags,
a Databricks job's parameters and a notebook's arguments. Imports the standard library only."""

from __future__ import annotations

import dataclasses
import math
import re
from dataclasses import dataclass

from cxrflow.base.errors import UserError

SPLITS = ("train", "val", "test")
THRESHOLD_RULES = ("balanced", "youden")

# user:password@ in front of a host or bucket. A password may hold slashes; a host, but no bucket, may have a port.
_SECRET = re.compile(r"(?:(?:s3a?|gs|gcs)://[^/@]*:|[a-z0-9+.-]+://(?![^/@]*:\d+(?:/|$))[^/@]*:).*@", re.IGNORECASE)


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise UserError(message)


def _positive(config, *names: str) -> None:
    for name in names:
        value = getattr(config, name)
        flag = "--" + name.replace("_", "-")
        _require(value is None or value > 0, f"{flag}: expected a number above 0, got {value}")


def _finite(config) -> None:
    for name, value in vars(config).items():
        _require(
            not isinstance(value, float) or math.isfinite(value),
            f"--{name.replace('_', '-')}: expected a finite number, got {value}",
        )


def _one_of(config, name: str, *choices: str | int) -> None:
    value = getattr(config, name)
    _require(
        value in choices, f"--{name.replace('_', '-')}: expected one of {', '.join(map(str, choices))}; got {value!r}"
    )


def _places(config, *names: str) -> None:
    """Raise UserError, which does not repeat it, for a URL with a password: configurations are saved and shown."""
    for name in names:
        match = _SECRET.match(getattr(config, name) or "")
        _require(
            not match,
            f"--{name.replace('_', '-')}: expected a URL without credentials, got one with a password or key before the @; "
            "leave them out, and give them in the environment or in Spark's configuration",
        )


def split_fractions(split: str) -> dict[str, float]:
    """The share of patients of each split.

    ``"0.8,0.1,0.1"`` gives train, val and test those shares; ``"test"`` gives one split everything.
    Raises UserError where the shares are not three numbers of at least 0 that add up to 1.
    """
    if split in SPLITS:
        return {name: float(name == split) for name in SPLITS}
    expected = f"--split: expected three shares that add up to 1, such as 0.8,0.1,0.1, or one of {', '.join(SPLITS)}"
    try:
        shares = [float(part) for part in split.split(",")]
    except ValueError:
        raise UserError(f"{expected}; got {split!r}") from None
    _require(len(shares) == 3 and all(0 <= share <= 1 for share in shares), f"{expected}; got {split!r}")
    _require(abs(sum(shares) - 1) < 1e-6, f"{expected}; got {split!r}, which adds up to {sum(shares):g}")
    return dict(zip(SPLITS, shares, strict=True))


def parse_bytes(flag: str, size: str) -> int:
    """Bytes of a size such as 512m or 2g. Raises UserError for anything else."""
    match = re.fullmatch(r"(\d+)([kmg])b?", size.strip().lower())
    _require(bool(match), f"{flag}: expected a size such as 512m or 2g, got {size!r}")
    return int(match[1]) * {"k": 2**10, "m": 2**20, "g": 2**30}[match[2]]


def parse_findings(findings: str) -> list[str] | None:
    """The names in --findings; None for all. Raises UserError for names that cannot be told apart."""
    if findings == "all":
        return None
    names = [name.strip() for name in findings.split(",")]
    good = all(name and "|" not in name and not name.startswith("?") for name in names) and len(set(names)) == len(
        names
    )
    _require(
        good,
        f"--findings: expected all, or different names without | and without ? in front, such as "
        f"Effusion,Edema; got {findings!r}",
    )
    return names


def _rule(flag: str, expected: str, rule: str) -> None:
    try:
        groups = re.compile(rule).groups
    except re.error as error:
        raise UserError(f"{flag}: expected {expected}, got {rule!r} ({error})") from None
    _require(groups > 0, f"{flag}: expected {expected} with a (group), got {rule!r}")


def parse_threshold(rule: str) -> tuple[str, float | None]:
    """The criterion and the sensitivity of ``--threshold``: ``("sensitivity", 0.95)`` for ``"sensitivity=0.95"``, otherwise
    the name and None. Raises UserError for an unknown rule or a sensitivity outside (0, 1]."""
    if rule in THRESHOLD_RULES:
        return rule, None
    name, _, share = rule.partition("=")
    try:
        sensitivity = float(share) if name == "sensitivity" else math.nan
    except ValueError:
        sensitivity = math.nan
    _require(
        0 < sensitivity <= 1,
        f"--threshold: expected one of {', '.join(THRESHOLD_RULES)}, or sensitivity=SHARE with a share above 0 and at most 1; "
        f"got {rule!r}",
    )
    return name, sensitivity


def parse_prevalence(prevalence: str) -> dict[str, float] | float:
    """The shares of ``--prevalence``: of the positive label for ``"0.1"``, of each label for ``"a=0.2,b=0.8"``. Raises
    UserError for anything else."""
    expected = (
        "--prevalence: expected the positive label's share such as 0.1, or label=share,label=share,... with "
        f"shares above 0 and below 1; got {prevalence!r}"
    )
    try:
        parts = [part.rpartition("=") for part in prevalence.split(",")]
        shares = {label.strip(): float(share) for label, _, share in parts}
    except ValueError:
        raise UserError(expected) from None
    _require(all(0 < share < 1 for share in shares.values()) and len(shares) == len(parts), expected)
    _require("" not in shares or len(shares) == 1, expected)
    return shares.get("", shares)


@dataclass(frozen=True, kw_only=True)
class IngestConfig:
    """Decode a folder of X-ray files on the Spark executors and write them as a training table."""

    images: str
    """Folder of image files, read with all its subfolders: a path or a URL that Spark can read."""
    table: str
    """Folder to write the table to: a path or a URL that the training workers can read as well."""
    height: int = 224
    """Height of the stored images, in pixels."""
    width: int = 224
    """Width of the stored images, in pixels."""
    resize: str = "stretch"
    """stretch: the whole image fills height and width, whatever its shape. pad: its shape is kept, with black borders."""
    decoder: str = "turbo"
    """What decodes files: turbo (libjpeg-turbo for JPEG, Pillow for the rest), pillow, a decoder that another package
    brings (entry point in the group cxrflow.decoders), or your own as module:function."""
    max_pixels: int = 100_000_000
    """Largest image that is decoded, in pixels; a larger one is quarantined as too_large."""
    split: str = "0.8,0.1,0.1"
    """Shares of train, val and test, dealt by patient within each label; or the one split that takes all."""
    labels: str | None = None
    """CSV or Parquet file with the columns path and label, and optionally patient_id and split.
    A path in it is a full URL, or relative to the images folder. Without it the label is the name of the
    folder that holds the file."""
    label_rule: str | None = None
    """A regular expression instead, which is searched in the path below the images folder and whose groups make up the
    label, such as (bacteria|virus|NORMAL)."""
    findings: str | None = None
    """Several findings an image instead of one label: all, or their names with commas between. The labels file has either
    a column a finding, with 1 (present), 0 (absent), and -1 or nothing (not known, and nothing is learnt from it); or in
    its column label the names of those that are present with | between, or one such as No Finding."""
    patients: str = "auto"
    """How a path tells its patient: kermany (names such as person1_virus_2 and IM-0001-0001), file (every file is a
    patient of its own), a regular expression that is searched in the path below the images folder and whose groups
    make up the patient's key, or auto: kermany where the name fits, otherwise file."""
    shard_rows: int | None = None
    """Images in one Parquet file, the unit of shuffling and sharding. If not given: 128, or less where there would be
    fewer than 48 files or where a file would take more than an eighth of worker_memory."""
    worker_memory: str = "1g"
    """Memory that a Python worker on an executor may take, such as 512m or 2g: a bound on the bytes of files and images
    held at a time. An image that needs more is quarantined as too_large."""
    max_bad: float | None = None
    """Largest share of quarantined files, such as 0.05; the job fails, and leaves the table as it was, above it."""
    delta: bool = False
    """Make the table's samples a Delta table as well (needs the package deltalake)."""
    seed: int = 0
    """Seed of the deal of patients to splits."""
    if_exists: str = "extend"
    """If the table exists: extend adds new files and replaces changed ones, overwrite builds the table again, fail stops with
    an error."""

    @property
    def task(self) -> str:
        """The manifest's: single, one label an image, or multi, several findings."""
        return "single" if self.findings is None else "multi"

    def __post_init__(self):
        _places(self, "images", "table", "labels")
        _positive(self, "height", "width", "shard_rows", "max_pixels")
        _require(self.resize in ("stretch", "pad"), f"--resize: expected stretch or pad, got {self.resize!r}")
        _require(
            self.max_bad is None or 0 <= self.max_bad <= 1,
            f"--max-bad: expected a share from 0 to 1, got {self.max_bad}",
        )
        _one_of(self, "if_exists", "extend", "overwrite", "fail")
        memory = parse_bytes("--worker-memory", self.worker_memory)
        _require(memory >= 256 * 2**20, f"--worker-memory: expected at least 256m, got {self.worker_memory!r}")
        if self.shard_rows:
            shard = self.shard_rows * self.height * self.width
            _require(
                shard <= memory // 8,
                f"--shard-rows: {self.shard_rows} images of {self.height}x{self.width} are "
                f"{shard / 2**20:.0f} MB, more than an eighth of --worker-memory {self.worker_memory}; expected "
                "fewer rows or more memory",
            )
        split_fractions(self.split)
        if self.patients not in ("auto", "kermany", "file"):
            _rule("--patients", "auto, kermany, file or a regular expression", self.patients)
        if self.label_rule is not None:
            _require(
                self.labels is None, "--label-rule: expected no --labels, which tell the labels already; leave one out"
            )
            _rule("--label-rule", "a regular expression", self.label_rule)
        if self.findings is not None:
            _require(
                self.labels is not None, "--findings: expected --labels, a file that tells them of each image, got none"
            )
            parse_findings(self.findings)


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Train a classifier on a table, on one or many workers, streaming the images from Parquet."""

    table: str
    """Table that ingest.py wrote: a path or URL that every worker can read."""
    run: str
    """New folder for the model, its history and configuration: a path or URL that worker 0 can write."""
    launcher: str = "local"
    """How workers are started: local (one, in this process), horovod (TensorFlow), horovodrunner (the same on
    Databricks) or torch (TorchDistributor)."""
    workers: int = 1
    """Number of training workers; each takes one Spark task slot."""
    epochs: int = 100
    """Passes over the training split. The default suits some thousand images; 100,000 need a tenth of it."""
    batch_size: int = 32
    """Images a worker takes at each step; the global batch is workers times this."""
    device: str = "auto"
    """What workers compute on: auto (a GPU each where their framework finds any, otherwise the CPU), cpu or gpu."""
    model: str = "residual"
    """Network architecture: residual, resnetd (larger), plain, notebook, applications/NAME of keras.applications, or
    your own as module:function; an unknown name lists the known ones."""
    init_weights: str | None = None
    """File of weights to begin with instead of random ones: Keras' .weights.h5, .keras (also another run's) or .h5, a path
    or URL that every worker can read. All of the network but its last layer must be in it."""
    augment: str = "standard"
    """How training images are changed: none, light (pose), standard (pose and exposure), strong (more, and patches
    erased), or your own as module:function. Validation images never are."""
    learning_rate: float = 1.4e-3
    """Peak learning rate of one worker; see lr_scaling for more workers."""
    lr_scaling: str = "sqrt"
    """Growth of the learning rate with the number of workers: sqrt (suits Adam), linear (suits SGD) or none."""
    warmup_epochs: float = 1.0
    """Epochs over which the learning rate rises to its peak."""
    weight_decay: float = 0.02
    """Decoupled weight decay of AdamW; biases and the scales of normalisation have none. 0 makes it Adam."""
    ema_epochs: float = 1.5
    """Epochs over which weights are averaged (exponentially: a step's share falls to 1/e over so many); the average is
    validated and kept. 0 keeps the weights of the last step."""
    tta: int = 5
    """Copies of an image for test-time augmentation, over which the saved model averages its logits: 5 (the image, a smaller
    and a larger one, and two of other shapes) or 1, which scores five times as fast."""
    precision: str = "float32"
    """What the layers compute in: float32, mixed_bfloat16 or mixed_float16 (Keras' dtype policies, made for GPUs with
    tensor cores). Weights, checkpoints, output and the saved model are float32."""
    batch_norm: str = "local"
    """What batch normalisation takes mean and variance of in training: local (a worker's batch) or global (that of all
    workers, for two more exchanges a layer at each step)."""
    positive_label: str | None = None
    """With two labels, the one that sensitivity is about; if not given, the one that is not called normal."""
    threshold: str = "balanced"
    """Rule for the decision threshold, which is fitted to the validation data: balanced (where a logistic regression with
    balanced classes gives 0.5), youden (greatest sensitivity + specificity), or sensitivity=0.95 (the highest threshold
    with at least that sensitivity). With more than two labels the highest score decides."""
    feed_memory: str = "1g"
    """Memory that a worker's feed may take, such as 512m or 2g: for the rows that are being mixed, those read ahead,
    and batches."""
    shuffle_rows: int = 8192
    """Images, over all workers, that are mixed with each other at a time; fewer where feed_memory does not hold them."""
    cache: str | None = None
    """Folder on each machine's own disk where its workers keep shards of a remote table, for later epochs and runs."""
    cache_size: str = "10g"
    """What the shards in the cache may take together, such as 500m or 50g."""
    seed: int = 0
    """Seed of the weights, of the order of the samples and of augmentation."""
    checkpoint_seconds: float = 300
    """Seconds between checkpoints inside an epoch; one is written at each epoch's end as well."""
    max_restarts: int = 3
    """How often training starts again from the last checkpoint, by itself, after a worker was lost."""
    min_workers: int = 1
    """Fewest workers that it starts again with, where the task slots of a lost one do not come back."""
    hang_seconds: float = 180
    """A worker that does not move for so long (a step, a read, a checkpoint) is held for lost."""
    if_exists: str = "resume"
    """If the run directory holds a run: resume continues from its last checkpoint, also with another number of workers, and
    does nothing if the run is finished; overwrite replaces it; fail stops with an error."""
    tensorboard: bool = True
    """Write RUN/tensorboard, which tensorboard --logdir RUN/tensorboard shows; nothing where the driver has no package
    tensorboard (TensorFlow brings it)."""
    mlflow: str | None = None
    """MLflow experiment to record the run in, made if there is none; on Databricks a full path such as
    /Users/me@example.com/xrays. Where MLflow is, its own settings say (MLFLOW_TRACKING_URI). Needs mlflow-skinny."""
    preflight_only: bool = False
    """Check versions, task slots, network, table, run directory, memory and one step of the model on the workers, as every
    training does first, and stop there: exit status 0 if all is well, otherwise 2."""

    def __post_init__(self):
        _places(self, "table", "run", "init_weights")
        _finite(self)
        _positive(
            self,
            "workers",
            "epochs",
            "batch_size",
            "learning_rate",
            "shuffle_rows",
        )
        parse_bytes("--feed-memory", self.feed_memory)
        parse_bytes("--cache-size", self.cache_size)
        _require(
            self.cache is None or self.cache.startswith("/"),
            f"--cache: expected the full path of a folder on each worker's own disk, got {self.cache!r}",
        )
        _require(
            self.checkpoint_seconds >= 0, f"--checkpoint-seconds: expected 0 or more, got {self.checkpoint_seconds:g}"
        )
        _require(self.max_restarts >= 0, f"--max-restarts: expected 0 or more, got {self.max_restarts}")
        _require(
            1 <= self.min_workers <= self.workers,
            f"--min-workers: expected a number from 1 to --workers ({self.workers}), got {self.min_workers}",
        )
        _require(self.hang_seconds >= 10, f"--hang-seconds: expected 10 or more, got {self.hang_seconds:g}")
        _one_of(self, "if_exists", "resume", "overwrite", "fail")
        _require(
            self.mlflow is None or bool(self.mlflow.strip()), "--mlflow: expected the name of an experiment, got none"
        )
        _require(0 <= self.seed < 2**31, f"--seed: expected a number from 0 to {2**31 - 1}, got {self.seed}")
        _require(self.weight_decay >= 0, f"--weight-decay: expected 0 or more, got {self.weight_decay:g}")
        _require(self.warmup_epochs >= 0, f"--warmup-epochs: expected 0 or more, got {self.warmup_epochs}")
        _require(self.ema_epochs >= 0, f"--ema-epochs: expected 0 or more, got {self.ema_epochs}")
        _one_of(self, "tta", 1, 5)
        _one_of(self, "device", "auto", "cpu", "gpu")
        _one_of(self, "lr_scaling", "sqrt", "linear", "none")
        _one_of(self, "precision", "float32", "mixed_bfloat16", "mixed_float16")
        _one_of(self, "batch_norm", "local", "global")
        parse_threshold(self.threshold)


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """Score a split of a table with a trained model and judge it, with a confidence interval beside each rate."""

    run: str
    """Run directory that train.py wrote."""
    table: str
    """Table with the images to score."""
    split: str = "test"
    """Split to score: train, val, test or all."""
    subgroups: str | None = None
    """Judge parts of the images as well: a column of the table, such as source_format, or a regular expression that is
    searched in the path below the images folder and whose groups make up the part's name, such as '(bacteria|virus)'."""
    prevalence: str | None = None
    """Re-weight the scores for a clinic of another prevalence than the training data's: the positive label's share, such as
    0.1, or of more labels label=share,label=share,... If not given, scores are not re-weighted."""
    bootstrap: int = 1000
    """Resamples of the patients for the intervals of all figures that are no simple rates."""
    seed: int = 0
    """Seed of the resampling."""

    def __post_init__(self):
        _places(self, "run", "table")
        _positive(self, "bootstrap")
        if self.subgroups is not None and not self.subgroups.isidentifier():
            _rule("--subgroups", "a column of the table or a regular expression", self.subgroups)
        if self.prevalence is not None:
            parse_prevalence(self.prevalence)
        _require(
            self.split in (*SPLITS, "all"), f"--split: expected one of {', '.join(SPLITS)}, all; got {self.split!r}"
        )


@dataclass(frozen=True, kw_only=True)
class PredictConfig:
    """Score raw image files with a trained model, as a Spark batch job."""

    run: str
    """Run directory that train.py wrote."""
    images: str
    """Folder of image files, read with all its subfolders."""
    predictions: str
    """Folder to write the Parquet table of scores to."""
    worker_memory: str = "1g"
    """Memory that decoding may take in a Python worker on an executor, besides the model; see ingest."""
    prevalence: str | None = None
    """Re-weight the scores for a clinic of another prevalence than the training data's; see evaluate. The same labels are
    predicted where the run has a threshold, which moves with the scores."""
    if_exists: str = "fail"
    """If the predictions exist: overwrite replaces them, fail stops with an error."""

    def __post_init__(self):
        _places(self, "run", "images", "predictions")
        _one_of(self, "if_exists", "overwrite", "fail")
        parse_bytes("--worker-memory", self.worker_memory)
        if self.prevalence is not None:
            parse_prevalence(self.prevalence)


@dataclass(frozen=True, kw_only=True)
class ReportConfig:
    """Draw a run as PNG files and one self-contained HTML page."""

    run: str
    """Run directory that train.py and evaluate.py wrote."""
    predictions: str | None = None
    """Predictions to show examples from; if not given, the scored samples of the last evaluation."""
    examples: int = 6
    """Images in each row of examples."""

    def __post_init__(self):
        _places(self, "run", "predictions")
        _positive(self, "examples")


@dataclass(frozen=True, kw_only=True)
class DemoConfig:
    """Run every job in turn, each through spark-submit, on synthetic phantoms or on a folder of X-rays."""

    folder: str = "build/demo"
    """Folder for everything that the demo makes."""
    images: str | None = None
    """Folder of real images with one subfolder a label; if not given, synthetic phantoms are drawn."""
    launcher: str = "horovod"
    """How training workers are started: horovod, torch or local."""
    workers: int = 2
    """Number of training workers."""
    epochs: int = 45
    """Passes over the training split."""
    size: int = 128
    """Height and width that images are decoded to."""
    master: str | None = None
    """Spark master; local mode with one task slot a core if not given."""
    driver_memory: str = "1g"
    """Heap of the Spark driver."""

    def __post_init__(self):
        _places(self, "folder", "images")
        _positive(self, "workers", "epochs", "size")
        _require(
            self.launcher != "local" or self.workers == 1,
            f"--workers: expected 1 with the local launcher, got {self.workers}",
        )


def to_dict(config) -> dict:
    """The configuration as plain data, for JSON."""
    return dataclasses.asdict(config)
