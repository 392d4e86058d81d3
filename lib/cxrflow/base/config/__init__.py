"""The options of each job: one frozen, keyword-only dataclass per job, checked when it is constructed.

The same fields are the command line's flags, a Databricks job's parameters and a notebook's arguments. A job's class
inherits from groups of options, so its attributes are flat: ``config.learning_rate``. This package imports the standard
library only.
"""

from cxrflow.base.config.demo_config import DemoConfig
from cxrflow.base.config.ingest_config import IngestConfig, VacuumConfig
from cxrflow.base.config.option_checks import Options, to_dict
from cxrflow.base.config.option_parsers import (
    SPLITS,
    THRESHOLD_RULES,
    parse_bytes,
    parse_findings,
    parse_prevalence,
    parse_threshold,
    split_fractions,
)
from cxrflow.base.config.result_configs import EvaluateConfig, PredictConfig, ReportConfig
from cxrflow.base.config.selection import NONE, Condition, parse_selection
from cxrflow.base.config.train_config import TrainConfig

__all__ = [
    "NONE",
    "SPLITS",
    "THRESHOLD_RULES",
    "Condition",
    "DemoConfig",
    "EvaluateConfig",
    "IngestConfig",
    "Options",
    "PredictConfig",
    "ReportConfig",
    "TrainConfig",
    "VacuumConfig",
    "parse_bytes",
    "parse_findings",
    "parse_prevalence",
    "parse_selection",
    "parse_threshold",
    "split_fractions",
    "to_dict",
]
