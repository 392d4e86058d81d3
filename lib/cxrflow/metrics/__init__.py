"""Metrics of scores with 95 % intervals, and what is fitted to validation data: thresholds and the temperature.

NumPy, SciPy and scikit-learn only; no Spark, no Keras.

Letters in shapes: n samples, K labels, b bootstrap resamples. ``truth`` is int (n,), indices of labels; for multi-label
samples ("multi") float (n, K), 1 or 0, NaN where unknown. Scores are float (n, K): a softmax, or for multi a sigmoid
each.
"""

from cxrflow.metrics.calibration import ece, fit_temperature, reliability, tempered, with_temperature
from cxrflow.metrics.decision import Threshold, predicted
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
    "evaluate_scores",
    "evaluate_subgroups",
    "find_outcomes",
    "find_shares",
    "fit_temperature",
    "fit_threshold",
    "predicted",
    "reliability",
    "tempered",
    "wilson",
    "with_temperature",
    "youden_threshold",
]
