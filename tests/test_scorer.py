"""Loading a model file runs no code from it."""

import subprocess
import sys

import pytest

pytestmark = pytest.mark.spark

SAVE = """
import sys, keras
inputs = keras.Input((4, 4, 1))
layer = keras.layers.Lambda(lambda x: (__import__("os").makedirs(MARK, exist_ok=True), x)[1])
keras.Model(inputs, layer(inputs)).save(sys.argv[1])
"""
LOAD = """
import sys
from cxrflow.spark.scorer import _load
_load(open(sys.argv[1], "rb").read(), "tensorflow")
"""


def test_a_model_file_with_code_is_refused_and_the_code_does_not_run(tmp_path):
    model, trace = tmp_path / "model.keras", tmp_path / "ran"
    subprocess.run(
        [sys.executable, "-c", SAVE.replace("MARK", repr(str(trace))), model], check=True, capture_output=True
    )
    assert trace.exists()  # the code does run when Keras builds the model
    trace.rmdir()
    done = subprocess.run([sys.executable, "-c", LOAD, model], capture_output=True, text=True)
    assert done.returncode != 0 and "safe_mode" in done.stderr
    assert not trace.exists()
