"""How good scores are, each figure with its 95 % interval, and what is fitted to validation data: thresholds and the
temperature. NumPy, SciPy and scikit-learn; no Spark, no Keras.

Letters: n samples, K labels, b resamples. Truth of one label an image is int (n,), places of labels; of several findings an
image ("multi") float (n, K), 1 or 0, NaN where unknown. Scores are float (n, K): a softmax or, for multi, a sigmoid each.
"""

from cxrflow.metrics.calibration import ece, fit_temperature, reliability, tempered, with_temperature
from cxrflow.metrics.decision import Threshold, positive_index, predicted
from cxrflow.metrics.evaluation import evaluate_scores
from cxrflow.metrics.intervals import wilson
from cxrflow.metrics.outcomes import find_outcomes
from cxrflow.metrics.prevalence import Prior, estimate_prevalence, find_shares
from cxrflow.metrics.ranking import auc
from cxrflow.metrics.subgroups import evaluate_subgroups
from cxrflow.metrics.thresholds import CRITERIA, fit_threshold, youden_threshold

__all__ = [
    "CRITERIA",
    "Prior",
    "Threshold",
    "auc",
    "ece",
    "estimate_prevalence",
    "find_outcomes",
    "find_shares",
    "fit_temperature",
    "fit_threshold",
    "evaluate_scores",
    "evaluate_subgroups",
    "positive_index",
    "predicted",
    "reliability",
    "tempered",
    "wilson",
    "with_temperature",
    "youden_threshold",
]
