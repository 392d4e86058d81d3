from __future__ import annotations

import pytest

from cxrflow.base.config import TrainConfig, to_dict
from cxrflow.preflight.smoke_process import SmokeProcess

pytestmark = pytest.mark.spark  # the table, and a process with Keras


@pytest.fixture
def config(table, tmp_path) -> dict:
    return to_dict(TrainConfig(table=str(table), run=str(tmp_path / "run"), launcher="torch", workers=2, model="plain"))


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"model": "vgg"}, r"--model: expected one of"),
        ({"device": "gpu"}, r"--device gpu: expected a GPU .*"),
    ],
)
def test_failure_ends_with_the_last_lines(config, change, error):
    with SmokeProcess({**config, **change}, "torch", 1, gpus=[]) as step, pytest.raises(RuntimeError, match=error):
        step.result()


def test_step_that_hangs_is_ended(config):
    timeout = pytest.raises(TimeoutError, match=r"not finished within 0\.01 s")
    with SmokeProcess(config, "torch", 1, seconds=0.01) as step, timeout:
        step.result()
    assert step._process.poll() is not None
