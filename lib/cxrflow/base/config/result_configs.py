"""The options of the jobs that use a trained run: evaluate, predict and report."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from cxrflow.base.config.option_checks import Options, require_groups
from cxrflow.base.config.option_parsers import parse_bytes, parse_prevalence


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig(Options):
    """Score a split of a table with a trained model and measure how good the scores are."""

    run: str
    """Run directory that train wrote."""
    table: str
    """Table with the images to score."""
    split: Literal["train", "val", "test", "all"] = "test"
    """Split to score."""
    subgroups: str | None = None
    """Also evaluate these subgroups. The value is age, a column of the table, such as source_format, or a regular
    expression, such as (bacteria|virus). It is searched in the path below the images folder, and its groups make up the
    name."""
    prevalence: str | None = None
    """Re-weight the scores for a site whose prevalence differs from the training data: the share of the positive label,
    such as 0.1, or label=share,label=share,..."""
    bootstrap: int = 1000
    """Resamples of the patients, for the intervals of AUC, calibration and other figures that are not proportions."""
    seed: int = 0
    """Seed of the resampling."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_positive("bootstrap")
        if self.subgroups is not None and not self.subgroups.isidentifier():
            require_groups("subgroups", "a column of the table or a regular expression", self.subgroups)
        if self.prevalence is not None:
            parse_prevalence(self.prevalence)


@dataclass(frozen=True, kw_only=True)
class PredictConfig(Options):
    """Score image files with a trained model, as a Spark batch job."""

    run: str
    """Run directory that train wrote."""
    images: str
    """Folder of image files, read with all its subfolders."""
    predictions: str
    """Folder to write the Parquet table of scores to."""
    if_exists: Literal["overwrite", "fail"] = "fail"
    """If the predictions exist: overwrite replaces them, fail stops."""
    worker_memory: str = "1g"
    """Memory for decoding in one Python worker of an executor, in addition to the model; see ingest."""
    prevalence: str | None = None
    """Re-weight the scores for a site with another prevalence; see evaluate. With two labels, the threshold is
    converted in the same way, so the predicted labels stay the same."""

    def __post_init__(self) -> None:
        super().__post_init__()
        parse_bytes("--worker-memory", self.worker_memory)
        if self.prevalence is not None:
            parse_prevalence(self.prevalence)


@dataclass(frozen=True, kw_only=True)
class ReportConfig(Options):
    """Draw a run as PNG files and one self-contained HTML page."""

    run: str
    """Run directory that train and evaluate wrote."""
    evaluation: str | None = None
    """Name of the evaluation to show, a folder in RUN/evaluations. If not given: the newest."""
    predictions: str | None = None
    """Predictions to show examples from. If not given, examples come from the evaluation."""
    examples: int = 6
    """Images in each row of examples."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_positive("examples")
