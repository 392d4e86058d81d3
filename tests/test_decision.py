import numpy as np
import pytest

from cxrflow import metrics


@pytest.mark.parametrize(
    ("labels", "positive"),
    [(["NORMAL", "PNEUMONIA"], 1), (["ABNORMAL", "NORMAL"], 0), (["No Finding", "Effusion"], 1), (["A", "B"], 1)],
)
def test_positive_label_is_the_last_that_is_not_normal(labels, positive):
    assert metrics.positive_index(labels) == positive


def test_predicted_labels_by_threshold():
    scores = np.array([[0.6, 0.4], [0.4, 0.6]])
    assert metrics.predicted(scores, 1, 0.7).tolist() == [0, 0] and metrics.predicted(scores, 0, 0.3).tolist() == [0, 0]
    assert metrics.predicted(scores, 1, None).tolist() == [0, 1]
    assert metrics.predicted(scores, 1, [0.4, None]).tolist() == [[True, False], [True, True]]
