"""The options of the demo."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from cxrflow.base.config.option_checks import Options, require


@dataclass(frozen=True, kw_only=True)
class DemoConfig(Options):
    """Run every job in turn on synthetic phantoms or on a folder of X-rays."""

    folder: str = "cxrflow-demo"
    """Folder for everything that the demo writes."""
    images: str | None = None
    """Folder of real images with one subfolder per label. If not given, synthetic phantoms are drawn."""
    positive_label: str | None = None
    """The label of --images that sensitivity refers to; see train."""
    launcher: Literal["local", "horovod", "torch"] = "local"
    """How training workers are started."""
    workers: int = 1
    """Number of training workers."""
    epochs: int = 45
    """Passes over the training split."""
    size: int = 128
    """Height and width of the stored images, in pixels."""
    master: str | None = None
    """Spark master. If not given: local mode with one task slot per core."""
    driver_memory: str = "1g"
    """Heap of the Spark driver."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_positive("workers", "epochs", "size")
        require(
            self.launcher != "local" or self.workers == 1,
            f"--workers: expected 1 with the local launcher, got {self.workers}; use --launcher horovod or torch",
        )
