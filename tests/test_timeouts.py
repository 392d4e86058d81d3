"""The timeouts check their own order."""

from dataclasses import asdict

import pytest

from cxrflow.distributed.timeouts import Timeouts


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"driver_silence_seconds": 18.0}, "driver_silence_seconds: expected less than agent_silence_seconds - 3"),
        ({"agent_silence_seconds": 15.0}, "driver_silence_seconds: expected less than agent_silence_seconds - 3"),
        ({"driver_heartbeat_seconds": 12.0}, "driver_silence_seconds: expected less than agent_silence_seconds - 13"),
        (
            {"driver_heartbeat_seconds": 12.0, "agent_silence_seconds": 40.0},
            "driver_heartbeat_seconds: expected less than driver_silence_seconds = 12, got 12",
        ),
        ({"start_seconds": 18.0}, "agent_silence_seconds: expected less than start_seconds = 18, got 18"),
        ({"last_lines_seconds": 5.0}, "last_lines_seconds: expected less than reports_seconds = 5, got 5"),
        ({"launcher_end_seconds": 5.0}, "reports_seconds: expected less than launcher_end_seconds = 5, got 5"),
        ({"slots_seconds": 0}, "slots_seconds: expected a number of seconds above 0, got 0"),
        ({"stop_seconds": float("nan")}, "stop_seconds: expected a number of seconds above 0, got nan"),
    ],
)
def test_timeouts_that_contradict_each_other(changes, message):
    with pytest.raises(ValueError, match=message):
        Timeouts(**changes)


def test_they_travel_as_plain_data():
    timeouts = Timeouts(agent_silence_seconds=30.0)
    assert Timeouts(**asdict(timeouts)) == timeouts
