import numpy as np

from cxrflow import metrics


def test_predicted_labels_by_threshold():
    scores = np.array([[0.6, 0.4], [0.4, 0.6]])
    assert metrics.predicted(scores, 1, 0.7).tolist() == [0, 0] and metrics.predicted(scores, 0, 0.3).tolist() == [0, 0]
    assert metrics.predicted(scores, 1, None).tolist() == [0, 1]
    assert metrics.predicted(scores, 1, [0.4, None]).tolist() == [[True, False], [True, True]]
