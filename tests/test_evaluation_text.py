import pytest

from cxrflow.metrics.evaluation_text import rate, share_text, warnings


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


def of_shift(**groupings: dict) -> dict:
    """An evaluation of which nothing but these groupings of ``metrics.taken_shift`` is remarkable."""
    taken = {"measure": "total variation distance", "groupings": groupings, "large": []}
    return {
        "split": "test",
        "leakage": {"table": "own"},
        "images_without_patient": 0,
        "n": 9,
        "shift": {"large": [], "taken": taken},
        "prevalence": {"used": None, "here": {}},
    }


def test_new_groups_are_named_although_the_distance_is_small():
    usual = {"distance": 0.05, "limit": 0.311, "new": [], "trained": {"F": 1.0}, "here": {"F": 1.0}}
    result = of_shift(
        sex=usual, manufacturer={**usual, "new": ["AGFA", "FUJI"]}, view_position={**usual, "new": ["LL"]}
    )
    (line,) = warnings(result)
    assert "fewer than 5 patients in these groups, or none: manufacturer AGFA, FUJI; view_position LL." in line
    assert warnings(of_shift(sex=usual)) == []


def test_the_groups_that_differ_most_are_named():
    trained, here = {"A": 0.6, "B": 0.2, "C": 0.1, "D": 0.1}, {"A": 0.1, "B": 0.2, "C": 0.6, "D": None}
    result = of_shift(view={"distance": 0.5, "limit": 0.4, "new": [], "trained": trained, "here": here})
    result["shift"]["taken"]["large"] = ["view"]
    (line,) = warnings(result)
    assert "(view): A 60% there, 10% here, C 10% there, 60% here, B 20% there, 20% here. The total variation" in line


def test_a_share_of_few_patients_is_not_a_number():
    assert (share_text(0.123), share_text(None)) == ("12%", "below 5 patients")
