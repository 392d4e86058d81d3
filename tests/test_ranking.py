import numpy as np

from cxrflow.metrics.one_vs_rest import LEVELS
from cxrflow.metrics.ranking import Ranking


def test_threshold_above_all_scores_reaches_any_specificity():
    ranking = Ranking(np.array([True, False]), np.array([0.2, 0.9]))
    assert ranking.figures(np.ones((1, 2)), LEVELS).tolist() == [[0, 0.5, 0, 0, 0, 0]]
