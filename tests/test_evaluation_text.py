import pytest

from cxrflow.metrics.evaluation_text import rate


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (1.0, "1.000"),
        (0.9996, "0.9996"),
        (0.99951, "0.9995"),
        (0.9999961, "1.000"),
        (0.99, "0.990"),
        (0.0, "0.000"),
        (None, "none"),
    ],
)
def test_rate_below_1_is_not_shown_as_1(value, shown):
    assert rate(value) == shown
