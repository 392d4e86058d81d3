"""A model file is data: to load one runs nothing of it."""

import subprocess
import sys

SAVE = """
import sys, keras
inputs = keras.Input((4, 4, 1))
keras.Model(inputs, keras.layers.Lambda(lambda x: (__import__("os").makedirs(MARK, exist_ok=True), x)[1])(inputs)).save(sys.argv[1])
"""
LOAD = """
import sys
from cxrflow.spark.scorer import _load
_load(open(sys.argv[1], "rb").read(), "tensorflow")
"""


def test_a_model_file_with_code_in_it_is_refused_and_not_run(tmp_path):
    model, mark = tmp_path / "model.keras", tmp_path / "ran"
    subprocess.run(
        [sys.executable, "-c", SAVE.replace("MARK", repr(str(mark))), model], check=True, capture_output=True
    )
    assert mark.exists()  # it is code that does something where it runs
    mark.rmdir()
    done = subprocess.run([sys.executable, "-c", LOAD, model], capture_output=True, text=True)
    assert done.returncode != 0 and "safe_mode" in done.stderr
    assert not mark.exists()
