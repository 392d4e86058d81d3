"""Settings of cxrflow in Spark's configuration, and the table of them in the docs."""

import dataclasses
import re
from pathlib import Path

import pytest

from cxrflow.base.errors import UserError
from cxrflow.distributed.timeouts import Timeouts
from cxrflow.spark.own_settings import PREFIX, read_timeouts
from cxrflow.spark.session import settings

PAGE = Path(__file__).resolve().parents[1] / "docs" / "cluster.md"


@pytest.mark.spark
def test_timeouts_are_read_from_sparks_configuration(spark):
    assert read_timeouts(spark) == Timeouts()
    with settings(spark, {"spark.cxrflow.slots_seconds": 7, "spark.cxrflow.agent_silence_seconds": "25.5"}):
        assert read_timeouts(spark) == Timeouts(slots_seconds=7.0, agent_silence_seconds=25.5)


@pytest.mark.spark
@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"slots_seconds": "soon"}, r"slots_seconds: expected a number of seconds, got 'soon'"),
        ({"agent_silence_seconds": 10}, r"driver_silence_seconds: expected less than agent_silence_seconds"),
        (
            {"slot_seconds": 5},
            r"slot_seconds: expected one of agent_heartbeat_seconds, .*, slots_seconds after spark\.cxrflow\.; "
            r"use spark\.cxrflow\.slots_seconds$",
        ),
        ({"colour": "red"}, r"colour: expected one of .* after spark\.cxrflow\.; leave it out$"),
    ],
)
def test_wrong_settings_are_refused(spark, wrong, message):
    with (
        settings(spark, {f"{PREFIX}{name}": value for name, value in wrong.items()}),
        pytest.raises(UserError, match=rf"^--conf spark\.cxrflow\.{message}"),
    ):
        read_timeouts(spark)


def test_the_docs_have_a_row_for_each_setting_with_its_default():
    rows = dict(re.findall(r"^\| `spark\.cxrflow\.(\w+)` \| ([\d.]+) \|", PAGE.read_text(), re.MULTILINE))
    assert {name: float(value) for name, value in rows.items()} == dataclasses.asdict(Timeouts())
