"""The options of train."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from cxrflow.base.config.option_checks import Options, require
from cxrflow.base.config.option_parsers import parse_bytes, parse_threshold


@dataclass(frozen=True, kw_only=True)
class DataOptions(Options):
    """The table, and how workers read, shuffle and augment it."""

    table: str
    """Table that ingest wrote: a path or URL that every worker can read."""
    generation: int | None = None
    """Generation of the table to train on. If not given: the newest, or for a resumed run the one it began with."""
    augment: str = "standard"
    """Augmentation of training images: none, light (pose), standard (pose, aspect ratio, exposure and fine detail),
    strong (more pose, and erased patches), or your own as module:name."""
    shuffle_rows: int = 8192
    """Images in the shuffle window, over all workers; fewer if they do not fit in --feed-memory."""
    feed_memory: str = "1g"
    """Memory of each worker's feed, such as 512m or 2g: shuffle window, shards read ahead, and batches."""
    cache: str | None = None
    """Folder on each machine's own disk in which its workers keep shards of a remote table."""
    cache_size: str = "10g"
    """Largest size of the cache, such as 500m or 50g."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_positive("shuffle_rows")
        parse_bytes("--feed-memory", self.feed_memory)
        parse_bytes("--cache-size", self.cache_size)
        require(
            self.cache is None or self.cache.startswith("/"),
            f"--cache: expected the full path of a folder on each worker's own disk, got {self.cache!r}",
        )


@dataclass(frozen=True, kw_only=True)
class ModelOptions(Options):
    """The network, its precision, and how its scores become predictions."""

    model: str = "residual"
    """residual, resnetd (larger), plain, notebook, applications/NAME of keras.applications, or your own as
    module:function."""
    init_weights: str | None = None
    """File with initial weights (.weights.h5, .keras or .h5) that every worker can read. It must contain the weights of
    all layers except the last one."""
    precision: Literal["float32", "mixed_bfloat16", "mixed_float16"] = "float32"
    """Keras' dtype policy of the layers. Weights, checkpoints and the saved model stay float32."""
    batch_norm: Literal["local", "global"] = "local"
    """Batch normalisation in training: over each worker's own batch (local), or over the batches of all workers
    (global), with two more all-reduces per layer and step."""
    tta: Literal[1, 5] = 5
    """Copies of each image for test-time augmentation in the saved model. 1 makes scoring five times as fast."""
    threshold: str = "balanced"
    """Rule for the decision threshold, fitted to validation data: balanced (class-balanced logistic regression), youden
    (highest sensitivity + specificity) or sensitivity=0.95 (highest threshold that reaches it)."""
    positive_label: str | None = None
    """With two labels, the one that sensitivity refers to. If not given, the one whose name is not negative (such as
    NORMAL, Non-COVID, no_disease or No Findings). Required if the names do not show which label is positive."""

    def __post_init__(self) -> None:
        super().__post_init__()
        parse_threshold(self.threshold)


@dataclass(frozen=True, kw_only=True)
class OptimisationOptions(Options):
    """AdamW, its learning rate, and the number of epochs."""

    epochs: int = 100
    """Passes over the training split. The default suits a few thousand images; for 100,000, use a tenth of it."""
    batch_size: int = 32
    """Images per worker and step. The global batch is --workers times this."""
    learning_rate: float = 1.4e-3
    """Peak learning rate of one worker. It follows a cosine to 0 at the last step."""
    lr_scaling: Literal["sqrt", "linear", "none"] = "sqrt"
    """How the learning rate grows with the number of workers: sqrt suits Adam, linear suits SGD."""
    warmup_epochs: float = 1.0
    """Epochs in which the learning rate rises to its peak."""
    weight_decay: float = 0.02
    """Decoupled weight decay of AdamW, except for biases and normalisation scales. With 0, AdamW is plain Adam."""
    ema_epochs: float = 1.5
    """Time constant, in epochs, of the exponential moving average (EMA) of the weights, which is validated and saved. 0
    saves the weights of the last step."""
    seed: int = 0
    """Seed of the initial weights, of the order of samples and of augmentation."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_positive("epochs", "batch_size", "learning_rate")
        self.require_at_least(0, "warmup_epochs", "weight_decay", "ema_epochs")
        require(0 <= self.seed < 2**31, f"--seed: expected a number from 0 to {2**31 - 1}, got {self.seed}")


@dataclass(frozen=True, kw_only=True)
class DistributionOptions(Options):
    """Where workers run, and what happens if one is lost."""

    launcher: Literal["local", "horovod", "horovodrunner", "torch"] = "local"
    """local (one worker in this process), horovod (TensorFlow), horovodrunner (the same on Databricks) or torch
    (TorchDistributor)."""
    workers: int = 1
    """Number of training workers. Each takes one Spark task slot."""
    device: Literal["auto", "cpu", "gpu"] = "auto"
    """auto gives each worker a GPU if its framework finds any."""
    max_restarts: int = 3
    """How often training restarts from the last checkpoint after a worker was lost."""
    min_workers: int = 1
    """Fewest workers to restart with if the task slots of a lost worker do not come back."""
    hang_seconds: float = 180
    """A worker that makes no progress for this long is treated as lost."""
    preflight_only: bool = False
    """Check versions, task slots, network, table, memory and one step of the model on the workers, then stop. Exit
    status 0 if all checks pass, otherwise 2."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_positive("workers")
        self.require_at_least(0, "max_restarts")
        self.require_at_least(10, "hang_seconds")
        require(
            1 <= self.min_workers <= self.workers,
            f"--min-workers: expected a number from 1 to --workers ({self.workers}), got {self.min_workers}",
        )


@dataclass(frozen=True, kw_only=True)
class OutputOptions(Options):
    """The run directory, checkpoints and experiment tracking."""

    run: str
    """New folder for the model, its history and its configuration: a path or URL that worker 0 can write."""
    if_exists: Literal["resume", "overwrite", "fail"] = "resume"
    """If the folder holds a run: resume continues from its last checkpoint, also with another number of workers, and
    does nothing if the run is finished; overwrite replaces it; fail stops."""
    checkpoint_seconds: float = 300
    """Seconds between checkpoints inside an epoch. One is also written after each epoch."""
    tensorboard: bool = True
    """Write RUN/tensorboard if the package tensorboard is installed on the driver."""
    mlflow: str | None = None
    """MLflow experiment to record the run in (needs mlflow-skinny); on Databricks /Users/me@example.com/xrays."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_at_least(0, "checkpoint_seconds")
        require(
            self.mlflow is None or bool(self.mlflow.strip()), "--mlflow: expected the name of an experiment, got none"
        )


@dataclass(frozen=True, kw_only=True)
class TrainConfig(DataOptions, ModelOptions, OptimisationOptions, DistributionOptions, OutputOptions):
    """Train a classifier on a table, on one worker or many, streaming the images from Parquet."""
